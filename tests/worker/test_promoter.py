"""promoter: moves scheduled jobs to their lists when they are due; each goes once, whoever looks."""

import asyncio

import pytest

from rqueue.errors import BrokerUnavailable
from rqueue.wire.message import Message
from rqueue.worker.promoter import Promoter
from rqueue.worker.schedule import Schedule


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.fixture
def promoter(broker, keys):
    changed = asyncio.Event()
    schedule = Schedule(changed)
    promoter = Promoter(broker, [keys, broker.keys.queue("other")], schedule, changed)
    promoter.schedule = schedule
    return promoter


@pytest.fixture
def put_off(broker):
    async def put(job_id, raw, due_ms, queue="default"):
        keys = broker.keys.queue(queue)
        await broker._link.call(b"ZADD", keys.scheduled, broker.clock.now_ms() + due_ms, job_id)
        await broker._link.call(b"HSET", keys.messages, job_id, raw)

    return put


async def test_nothing_scheduled(promoter):
    assert await promoter.tick() == 0
    assert promoter.schedule.left_s() is None


async def test_what_is_due_goes_to_its_list_and_the_rest_stays(promoter, broker, keys, put_off, message, stored):
    await put_off("a", message("a"), -2000)
    await put_off("b", message("b", level=7), -1000)
    await put_off("later", message("later"), 60_000)
    await put_off("other", message("other"), 30_000, "other")
    assert await promoter.tick() == 2
    left = await stored(broker)
    assert left["rqueue:{default}"] == [message("a")]
    assert left["rqueue:{default}:p7"] == [message("b", level=7)]
    assert left["rqueue:{default}:scheduled"] == {b"later"}
    assert left["rqueue:{default}:scheduled:messages"] == {b"later": message("later")}
    assert 25 < promoter.schedule.left_s() <= 30, "the first of any queue"


async def test_a_hundred_at_once_and_the_rest_at_once_after(promoter, broker, keys, put_off, message):
    for number in range(150):
        await put_off(f"j{number:03}", message(f"j{number:03}"), -1000 + number)
    assert await promoter.tick() == 100
    assert promoter.schedule.left_s() == 0
    assert await promoter.tick() == 50
    ids = [Message.parse(raw).header.id for raw in reversed(await broker._link.call(b"LRANGE", keys.main, 0, -1))]
    assert ids == [f"j{number:03}" for number in range(150)], "in the order in which they were due"


async def test_two_promoters_at_once(promoter, broker, keys, put_off, message):
    changed = asyncio.Event()
    other = Promoter(broker, [keys], Schedule(changed), changed)
    for number in range(50):
        await put_off(f"j{number}", message(f"j{number}"), -1000)
    assert sum(await asyncio.gather(promoter.tick(), other.tick())) == 50
    assert await broker._link.call(b"LLEN", keys.main) == 50


async def test_it_runs_when_the_time_comes_and_goes_on_when_redis_is_away(
    promoter, broker, keys, put_off, message, log, monkeypatch
):
    from rqueue.worker import promoter as module

    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    real, calls = broker.promote, []

    async def unlucky(each):
        calls.append(each)
        if len(calls) == 1:
            raise BrokerUnavailable("away")
        return await real(each)

    broker.promote = unlucky
    await put_off("a", message("a"), 30)
    running = asyncio.create_task(promoter.run())
    promoter.schedule.note(30)
    async with asyncio.timeout(5):
        while await broker._link.call(b"LLEN", keys.main) == 0:
            pass
    running.cancel()
    assert len(log.of("promoting waits for redis")) == 1


async def test_nothing_is_asked_while_nothing_is_scheduled(promoter, broker):
    calls = []

    async def count(keys):
        calls.append(keys)
        return 0, None

    broker.promote = count
    running = asyncio.create_task(promoter.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert calls == []
    running.cancel()
