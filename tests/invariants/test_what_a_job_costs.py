"""What a job costs Redis, in each workload, from end to end: commands, round trips, bytes. Nothing here takes the time.

Redis counts; the pins are the most that a job may cost. What each job needs by itself is compared as a whole, so that a
command more for each fails; what the jobs of a batch share, and how often Redis read a socket, depend a little on what
came together, and have some room. The table in `docs/operations.md` is made of the same pins:
`python tests/invariants/test_what_a_job_costs.py` writes it anew after a change of them.
"""

import asyncio
import math
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rqueue import RQueue
from rqueue.client.task import Task
from rqueue.worker.lease import Lease
from rqueue.worker.worker import Worker

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
MARKED = re.compile(r"(?<=<!-- costs -->\n).*?(?=<!-- /costs -->)", re.DOTALL)

NAME = "noop"
LONG_S = 600.0
"""A lease, and a wait at the server, that outlast each test: nothing is done because time has passed."""

ALONE = 20
DRAINED = 2_000
FEWER = 1_000
FEW = 500
TEN_KB = "x" * 10_240


@dataclass(frozen=True)
class Pin:
    """The most that a job may cost.

    Attributes:
        each: the commands that every job needs, also those inside scripts, and as often as it needs them.
        commands: all commands, with those that jobs share, but not the calls of scripts.
        scripts: calls of scripts.
        reads: how often Redis read a socket: there are not more round trips than that.
        sent, received: bytes to Redis and from it.
    """

    each: str
    commands: float
    scripts: float
    reads: float
    sent: float
    received: float


# The steps' commands; those of enqueue, claim, start and ack are shared by a batch, but for what each message needs.
ENQUEUE = "hget lpush sadd hset expire"
CLAIM, CLAIMED = "time zscore lrem zadd zrange exists", "rpoplpush"
START = "zscore srem sadd"
TRACK = "type lpos set publish"
ACK, ACKED = "hget zscore setrange srem srem hincrby expire hset expire", "lrem set publish"
RECORD = "zscore get setrange del srem srem set hincrby expire publish"
RETRY = "hget zscore time setrange lrem zrange srem sadd zadd hset set publish hset expire"
PROMOTED = "hget lpush zrem hdel"
LOOK = "sismember zscore get hexists"
TRIP = f"subscribe {ENQUEUE} brpoplpush {CLAIM} {CLAIMED} {START} {ACK} {ACKED} {LOOK} unsubscribe"
DRAIN = f"{CLAIMED} {ACKED}"

PINS = {
    "enqueue, one at a time": Pin(ENQUEUE, 5, 1, 1, 332, 7),
    "enqueue, 100 callers": Pin("", 0.05, 0.01, 0.02, 142, 1.1),
    "enqueue_many, 1,000 a call": Pin("", 0.005, 0.001, 0.02, 141, 1.1),
    "drain": Pin(DRAIN, 4.6, 0.08, 0.1, 440, 106),
    "drain, ignore_result": Pin(f"{CLAIMED} lrem del publish", 4.6, 0.08, 0.1, 425, 106),
    "drain, ten priorities": Pin(DRAIN, 4.9, 0.08, 0.1, 440, 106),
    "drain, threads": Pin(DRAIN, 4.7, 0.1, 0.1, 450, 106),
    "drain, 10 kB of arguments": Pin(DRAIN, 4.6, 0.08, 0.5, 10_690, 10_360),
    "drain, acks_late=False": Pin(f"{DRAIN} {RECORD}", 15, 1.1, 0.35, 1_010, 118),
    "drain, track_started": Pin(f"{CLAIMED} {TRACK} {ACK} {ACKED}", 17.5, 2.1, 0.6, 1_320, 118),
    "drain, each retried once": Pin(f"{CLAIMED} {RETRY} {PROMOTED} {DRAIN}", 27, 1.7, 0.9, 1_610, 226),
    "round trip": Pin(TRIP, 35, 4.2, 7.5, 2_530, 650),
}


class Meter:
    """What Redis has counted since :meth:`start`, without what it costs to ask; it answers inline commands as well."""

    _QUESTION = b"INFO commandstats stats clients\r\n"
    _OWN = ("info", "config|resetstat")

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._replies = self._socket.makefile("rb")
        self._reads = self._sent = self._received = 0

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def start(self) -> None:
        self._ask(b"PING\r\n")  # sockets that were closed before are read before this is answered, and not after
        self._reads = self._sent = 0
        self._received = self._ask(b"CONFIG RESETSTAT\r\n")[0]

    @property
    def blocked(self) -> int:
        """How many clients wait at the server."""
        return self._look()[1]["blocked_clients"]

    @property
    def channels(self) -> int:
        """How many channels somebody listens to."""
        return self._look()[1]["pubsub_channels"]

    def spent(self) -> tuple[Counter[str], int, int, int]:
        """Calls of each command, reads of sockets, bytes to Redis and from it."""
        received = self._received
        calls, found = self._look()
        return (
            calls,
            found["total_reads_processed"] - self._reads,
            found["total_net_input_bytes"] - self._sent,
            found["total_net_output_bytes"] - received,
        )

    def _look(self) -> tuple[Counter[str], dict[str, int]]:
        self._reads += 1
        self._sent += len(self._QUESTION)
        size, text = self._ask(self._QUESTION)
        self._received += size
        calls = {name: int(n) for name, n in re.findall(r"^cmdstat_([^:]+):calls=(\d+)", text, re.MULTILINE)}
        numbers = {name: int(n) for name, n in re.findall(r"^(\w+):(\d+)\r$", text, re.MULTILINE)}
        return Counter({name: n for name, n in calls.items() if name not in self._OWN}), numbers

    def _ask(self, line: bytes) -> tuple[int, str]:
        """A reply's size with its frame, and its text if it has one."""
        self._socket.sendall(line)
        head = self._replies.readline()
        body = self._replies.read(int(head[1:]) + 2) if head.startswith(b"$") else b""
        return len(head) + len(body), body.decode()


@pytest.fixture
def meter(redis_url: str) -> Iterator[Meter]:
    meter = Meter(redis_url)
    yield meter
    meter.close()


@pytest.fixture(autouse=True)
def _ids_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's id is in many keys, and a host's name and a process's id have any length."""
    renumber = Lease.renumber

    def renumbered(lease: Lease) -> None:
        renumber(lease)
        lease.worker = f"host:12345:{lease.worker.rpartition(':')[2]}"

    monkeypatch.setattr(Lease, "renumber", renumbered)


async def noop(_: object) -> int:
    return 1


def plain(_: object) -> int:
    return 1


async def once_more(self: Any, _: object) -> int:
    if not self.request.retries:
        self.retry(countdown=0)
    return 1


@asynccontextmanager
async def working(app: RQueue, meter: Meter, **settings: Any) -> AsyncIterator[Worker]:
    """A worker that has registered, shown its card, listens, and does no more by itself."""
    broker, keys = app.session().broker, app.keys.queue("default")
    async with app.worker(lease=LONG_S, block_s=LONG_S, **settings) as worker:
        while not (meter.channels and (found := await broker.workers(keys)) and found[0][2]):
            await asyncio.sleep(0.01)
        yield worker


async def settled(meter: Meter, worker: Worker, jobs: int) -> None:
    """Wait until so many have ended, and the worker waits at the server again."""
    while worker._settler.ended[NAME, "SUCCESS"] < jobs or len(worker._inflight) or not meter.blocked:
        await asyncio.sleep(0.01)


def check(workload: str, jobs: int, calls: Counter[str], *sums: int) -> None:
    """Compare what so many jobs have cost with the workload's pin; of what a few jobs share none is each one's."""
    pin, scripts = PINS[workload], calls.pop("evalsha")
    each = +Counter({name: math.floor(n / jobs + 0.1) for name, n in calls.items()})
    assert each == Counter(pin.each.split())
    found = [n / jobs for n in (calls.total(), scripts, *sums)]
    most = [pin.commands, pin.scripts, pin.reads, pin.sent, pin.received]
    assert all(n <= limit for n, limit in zip(found, most, strict=True)), f"{found} of at most {most}"


# Enqueue


@pytest.fixture
async def producing(redis_url: str, meter: Meter) -> AsyncIterator[tuple[RQueue, Task[[object], int]]]:
    """An app that is connected; its batches' numbers have two digits, and the queue stays announced."""
    app = RQueue(redis_url)
    task = app.task(name=NAME)(noop)
    async with app:
        for _ in range(10):
            await task.enqueue(1)
        app.session().broker._announced["default"] = math.inf
        meter.start()
        yield app, task


async def test_enqueue(meter, producing):
    _, task = producing
    for _ in range(ALONE):
        await task.enqueue(1)
    check("enqueue, one at a time", ALONE, *meter.spent())


async def test_enqueue_by_many_callers(meter, producing):
    _, task = producing

    async def caller() -> None:
        for _ in range(10):
            await task.enqueue(1)

    await asyncio.gather(*(caller() for _ in range(100)))
    check("enqueue, 100 callers", 1_000, *meter.spent())


async def test_enqueue_many(meter, producing):
    app, task = producing
    await app.enqueue_many([task.s(1) for _ in range(1_000)])
    check("enqueue_many, 1,000 a call", 1_000, *meter.spent())


# Work off


def by_priority(task: Task[Any, Any], jobs: int) -> list[Any]:
    return [task.options(priority=1 + number % 10).s(1) for number in range(jobs)]


@dataclass(frozen=True)
class Load:
    """What waits for a worker: how many jobs, of which function and options, and the worker's settings."""

    jobs: int
    function: Callable[..., Any] = noop
    options: dict[str, Any] = field(default_factory=dict)
    argument: object = 1
    pool: str = "async"
    calls: Callable[[Task[Any, Any], int], Sequence[Any]] | None = None


LOADS = {
    "drain": Load(DRAINED),
    "drain, ignore_result": Load(DRAINED, options={"ignore_result": True}),
    "drain, ten priorities": Load(DRAINED, calls=by_priority),
    "drain, threads": Load(FEWER, plain, pool="threads"),
    "drain, 10 kB of arguments": Load(FEW, argument=TEN_KB),
    "drain, track_started": Load(FEWER, options={"track_started": True}),
    "drain, acks_late=False": Load(FEWER, options={"acks_late": False}),
    "drain, each retried once": Load(FEW, once_more, {"bind": True}),
}


@pytest.mark.parametrize("workload", LOADS)
async def test_work_off(redis_url, meter, workload):
    """All wait when the worker begins: the queue is paused until it does nothing else any more."""
    load, app = LOADS[workload], RQueue(redis_url)
    task = app.task(name=NAME, **load.options)(load.function)
    async with app:
        calls = load.calls(task, load.jobs) if load.calls else [task.s(load.argument) for _ in range(load.jobs)]
        await app.enqueue_many(calls)
        await app.pause("default")
        async with working(app, meter, concurrency=100, pool=load.pool) as worker:
            meter.start()
            await app.resume("default")
            await settled(meter, worker, load.jobs)
            check(workload, load.jobs, *meter.spent())


# From a call to its result


async def test_a_round_trip(redis_url, meter):
    """One look at what is stored after each subscription; none where the announcement came before it."""
    app = RQueue(redis_url)
    task = app.task(name=NAME)(noop)
    async with app, working(app, meter) as worker:

        async def trips(jobs: int) -> None:
            for _ in range(jobs):
                await (await task.enqueue(1)).result(timeout=60)
            await settled(meter, worker, jobs)
            while meter.channels > 1:  # control's; a result's is left behind what ends the wait
                await asyncio.sleep(0.01)

        await trips(10)
        app.session().broker._announced["default"] = math.inf
        meter.start()
        await trips(ALONE)
        calls, *sums = meter.spent()
    calls.update(dict.fromkeys(LOOK.split(), ALONE - calls["sismember"]))
    check("round trip", ALONE, calls, *sums)


# The table


def table() -> str:
    """The pins, as the page shows them."""
    head = ["workload", "commands", "scripts", "reads", "bytes to Redis", "bytes from Redis"]
    rows = [head, ["---", *["--:"] * 5]]
    for workload, pin in PINS.items():
        numbers = (pin.commands, pin.scripts, pin.reads, pin.sent, pin.received)
        rows.append([workload, *(f"{number:,}" for number in numbers)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_page_shows_the_pins():
    assert MARKED.findall(PAGE.read_text(encoding="utf-8")) == [table()]


if __name__ == "__main__":
    PAGE.write_text(MARKED.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
