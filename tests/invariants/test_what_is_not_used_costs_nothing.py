"""What is not used costs nothing: a plain job's commands, also those inside scripts, its round trips and its bytes.

The numbers are what a job needs that asks for nothing. A feature that adds to them makes every job pay for it: it
belongs in a step of its own, for those who use it. Commands are counted by the server, bytes on their way to it.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from rqueue import RQueue
from rqueue.broker.broker import Broker, Done, Enqueued
from rqueue.broker.endpoint import Endpoint
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header

WORKER = "host:1:nonce"
RECORD = b'{"state":"SUCCESS","result":1,"task":"t"}'
IDS = [f"{number:032x}" for number in range(100)]
ENQUEUE = {"evalsha": 1, "hget": 1, "sadd": 1, "lpush": 1, "hset": 1, "expire": 1}

COMMANDS = {
    *ENQUEUE,
    # claim, block, start and ack
    *(
        "time",
        "zscore",
        "lrem",
        "zadd",
        "zrange",
        "exists",
        "rpoplpush",
        "lpop",
        "brpoplpush",
        "client|unblock",
        "srem",
    ),
    *("setrange", "hincrby", "set", "publish"),
    # the heartbeat, the reaper's look and the search for lists without an owner; what `drain` asks
    *("zrangebyscore", "scan", "lpos", "llen", "zcard", "hgetall", "lindex", "zmscore", "zrangebylex"),
}
"""What a worker with plain jobs asks for, as the server names it."""


class Meter:
    """What was spent since the last look: the server's count of each command, and the bytes that were sent to it."""

    def __init__(self, call: Callable[..., Awaitable[bytes]]) -> None:
        self._call = call
        self.bytes = 0

    async def start(self) -> None:
        await self._call(b"CONFIG", b"RESETSTAT")
        self.bytes = 0

    async def spent(self) -> tuple[dict[str, int], int]:
        sent = self.bytes
        stats = bytes(await self._call(b"INFO", b"commandstats")).decode()
        calls = Counter({name: int(n) for name, n in re.findall(r"^cmdstat_([^:]+):calls=(\d+)", stats, re.MULTILINE)})
        for own in ("config|resetstat", "info"):
            del calls[own]
        return dict(calls), sent


@pytest.fixture
async def metered(new_server) -> AsyncIterator[tuple[Meter, str]]:
    """A server of the test's own, and the address at which all that is sent to it is counted."""
    server = new_server()
    direct = Broker(Endpoint(server.url), Keys())
    await direct.open()
    meter = Meter(direct._link.call)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_counted: bool) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                meter.bytes += len(data) * is_counted
                target.write(data)
                await target.drain()
        target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        tasks.add(asyncio.create_task(pump(reader, to_writer, is_counted=True)))
        tasks.add(asyncio.create_task(pump(to_reader, writer, is_counted=False)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield meter, f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    listening.close()
    await asyncio.gather(*tasks)
    await direct.close()


@pytest.fixture
async def meter(metered: tuple[Meter, str]) -> Meter:
    return metered[0]


@pytest.fixture
async def broker(metered: tuple[Meter, str]) -> AsyncIterator[Broker]:
    broker = Broker(Endpoint(metered[1]), Keys())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


def message(job_id: str) -> bytes:
    return Header(id=job_id).encode() + b'{"task":"t","args":[1],"enqueued":1767225600000}'


async def enqueue(broker: Broker, keys, ids: list[str]) -> None:
    jobs = [Enqueued(job_id, False, 0, "", message(job_id)) for job_id in ids]
    assert await broker.enqueue(keys, "0" * 16, 0, 1, jobs) == [True] * len(ids)


async def claim(broker: Broker, keys, ids: list[str]) -> None:
    found = await broker.claim([keys], [5], WORKER, 15, 200, 8_000_000)
    assert found is not None
    assert [each.raw for each in found.messages] == [message(job_id) for job_id in ids]


async def ack(broker: Broker, keys, ids: list[str]) -> None:
    answer = await broker.ack(keys, WORKER, 0, 1, [Done(message(job_id), job_id, RECORD, "3600") for job_id in ids])
    assert answer == b"1" * len(ids)


@pytest.mark.parametrize(("count", "sent"), [(1, 328), (100, 13_892)])
async def test_enqueue(meter, broker, keys, count, sent):
    """One round trip for all of them."""
    await meter.start()
    await enqueue(broker, keys, IDS[:count])
    assert await meter.spent() == (ENQUEUE, sent)


@pytest.mark.parametrize(("count", "sent"), [(1, 328), (100, 13_892)])
async def test_an_apps_enqueue(meter, metered, count, sent):
    """What the client sends is that one step, and nothing beside it."""
    app = RQueue(metered[1])
    t = app.task(name="t")(lambda number: number)
    async with app:
        await t.enqueue(1)  # connects, and makes the queue known
        app.session().broker._announced["default"] = math.inf
        await meter.start()
        await app.enqueue_many([t.s(1) for _ in range(count)])
        spent = await meter.spent()
    assert spent == (ENQUEUE, sent)


@pytest.mark.parametrize("count", [1, 100])
async def test_claim(meter, broker, keys, count):
    """Commands alone: its keys are the worker's queues', and not the jobs'."""
    await broker.register(keys, WORKER, 15)
    await enqueue(broker, keys, IDS[:count])
    await meter.start()
    await claim(broker, keys, IDS[:count])
    calls, _ = await meter.spent()
    once = {"evalsha": 1, "time": 1, "zscore": 1, "lrem": 1, "zadd": 1, "zrange": 1, "exists": 1}
    assert calls == {**once, "rpoplpush": count + 1}


@pytest.mark.parametrize(("count", "sent"), [(1, 204), (100, 4_067)])
async def test_start(meter, broker, keys, count, sent):
    await broker.register(keys, WORKER, 15)
    await enqueue(broker, keys, IDS[:count])
    await claim(broker, keys, IDS[:count])
    await meter.start()
    assert await broker.start(keys, WORKER, IDS[:count])
    assert await meter.spent() == ({"evalsha": 1, "zscore": 1, "srem": 1, "sadd": 1}, sent)


@pytest.mark.parametrize(("count", "sent"), [(1, 587), (100, 26_132)])
async def test_ack(meter, broker, keys, count, sent):
    """One round trip for all of them; for each its message, its id and its record."""
    await broker.register(keys, WORKER, 15)
    await enqueue(broker, keys, IDS[:count])
    await claim(broker, keys, IDS[:count])
    await broker.start(keys, WORKER, IDS[:count])
    await meter.start()
    await ack(broker, keys, IDS[:count])
    once = {"evalsha": 1, "hget": 1, "zscore": 1, "setrange": 1, "hincrby": 1, "expire": 2, "hset": 1}
    each = {"lrem": count, "srem": 2, "set": count, "publish": count}
    assert await meter.spent() == ({**once, **each}, sent)


async def test_a_result_that_is_there(meter, metered):
    """One look after the subscription: whether it lives, is scheduled, has a record, is dead."""
    app = RQueue(metered[1])
    t = app.task(name="t")(_same)
    async with app, app.worker() as worker:
        jobs = await app.enqueue_many([t.s(1), t.s(2)])
        await worker.drain()
    async with app:
        assert await jobs[0].result(5) == 1
        await meter.start()
        assert await jobs[1].result(5) == 2
        calls, _ = await meter.spent()
    calls.pop("unsubscribe", None)  # it is sent behind what ends the wait, also that of an earlier one
    assert calls == dict.fromkeys(["subscribe", "sismember", "zscore", "get", "hexists"], 1)


async def _same(number: int) -> int:
    return number


async def test_a_worker_needs_no_other_command(meter, metered):
    """However its rhythm groups them: 100 plain jobs are claimed, marked and settled, and nothing else is done."""
    app = RQueue(metered[1])
    t = app.task(name="t")(_same)
    async with app, app.worker(queues=["default"]) as worker:
        await app.enqueue_many([t.s(0)])
        await worker.drain()
        await meter.start()
        await app.enqueue_many([t.s(number) for number in range(100)])
        await worker.drain()
        calls, _ = await meter.spent()
    assert set(calls) <= COMMANDS
    assert calls["publish"] == 100
