"""What Redis can do to workers and producers: forget scripts, cut connections, die and come back, be full.

The worker never exits and never stops fetching; every enqueue is answered; what was confirmed is done.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from rqueue.embedded import EmbeddedServer
from rqueue.errors import BrokerFull, BrokerUnavailable, EnqueueUnknown, ReplyLost

from .conftest import NewFleet
from .fleet import Fleet
from .proxy import Proxy

NewServer = Callable[..., EmbeddedServer]


class Load:
    """Producers that enqueue until they are told to stop, and what each call answered."""

    def __init__(self, fleet: Fleet, producers: int = 8, pause_s: float = 0.002) -> None:
        self._fleet, self._producers, self._pause_s = fleet, producers, pause_s
        self._is_over = False
        self.asked = 0
        self.confirmed: dict[str, int] = {}
        self.errors: Counter[str] = Counter()
        self.unknown: set[str] = set()

    async def _produce(self) -> None:
        double = self._fleet.task("double")
        while not self._is_over:
            number = self.asked
            self.asked += 1
            try:
                job = await double.enqueue(number)
            except EnqueueUnknown as error:
                self.unknown.update(error.ids)
            except (BrokerUnavailable, BrokerFull) as error:
                self.errors[type(error).__name__] += 1
            else:
                self.confirmed[job.id] = 2 * number
            await asyncio.sleep(self._pause_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._produce()) for _ in range(self._producers)]
        try:
            yield
        finally:
            self._is_over = True
            async with asyncio.timeout(30):  # no call may hang
                await asyncio.gather(*tasks)
        assert not self.errors[ReplyLost.__name__], "says neither yes nor no"
        assert len(self.confirmed) + len(self.unknown) + self.errors.total() == self.asked


async def check(fleet: Fleet, load: Load, *, twice: bool = False) -> None:
    """All confirmed jobs are done, with their results; the workers live, and one more job runs."""
    expected = load.confirmed | await fleet.enqueue(20, first=1_000_000)
    assert await fleet.results(expected, 40) == expected
    assert all(member.alive for member in fleet.members)
    await fleet.stop()
    starts = fleet.starts()
    assert set(starts) - set(expected) <= load.unknown
    if not twice:
        assert all(len(pids) == 1 for pids in starts.values()), "no worker died, no lease ran out: nothing runs twice"
    assert fleet.leaks() == {}
    assert fleet.dead() == {}


async def test_forgotten_scripts_are_loaded_again(fleet: Fleet) -> None:
    """Invariants 1, 4, 13: NOSCRIPT is answered before anything ran, and the source is sent in its place.

    Fails when a NOSCRIPT reaches the caller, or a verb is repeated after it ran.
    """
    await asyncio.gather(fleet.ready(uvloop=True), fleet.ready())
    load = Load(fleet)
    async with load.running():
        for _ in range(60):
            fleet.redis.script_flush()
            await asyncio.sleep(0.02)
    assert load.errors == {}
    assert load.unknown == set()
    assert len(load.confirmed) > 100
    await check(fleet, load)


async def test_connections_that_are_cut_every_50_ms(fleet: Fleet) -> None:
    """Invariants 1, 4, 11, 13: each enqueue is answered, each settle has its first answer, the audit finds the rest.

    Fails without the audit (jobs stay in a live worker's list), or when an ack is sent again without its number.
    """
    await asyncio.gather(fleet.ready(uvloop=True, loglevel="WARNING"), fleet.ready(loglevel="WARNING"))
    load = Load(fleet)
    cutter = redis.Redis.from_url(fleet.url)
    async with load.running():
        for _ in range(100):
            cutter.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)
    cutter.close()
    assert len(load.confirmed) > 100, load.errors
    fleet.redis.close()
    await check(fleet, load)


async def test_replies_that_are_cut_at_every_verb(fleet: Fleet) -> None:
    """Invariants 4, 11: the server has done it and the worker never hears: nothing is done twice, nothing stays behind.

    Fails when the worker forgets a batch of acks whose reply was lost, or does not audit after a reset.
    """
    async with Proxy(fleet.url) as proxy:
        rules = [
            proxy.on(name, act, nth)
            for name, act, nth in (
                ("claim", "cut", 2), ("ack", "cut", 1), ("start", "cut", 3), ("BRPOPLPUSH", "cut", 2),
                ("ack", "cut half", 3), ("claim", "cut half", 5), ("claim", "cut request", 7),
                ("ack", "cut request", 5), ("adopt", "cut", 1), ("renew", "cut", 2),
            )
        ]  # fmt: skip
        worker = await fleet.ready(url=proxy.url)
        expected: dict[str, int] = {}
        for number in range(200):
            if all(rule.reached.is_set() for rule in rules):
                break
            expected |= await fleet.enqueue(15, "double", 0.001, first=15 * number)
            fleet.redis.lpush(fleet.keys.main, f'{{"task":"double","args":[{number}],"id":"raw-{number}"}}')
            expected[f"raw-{number}"] = 2 * number
            await fleet.until(lambda: len(fleet.starts()) == len(expected))  # noqa: B023 - awaited here
        assert all(rule.reached.is_set() for rule in rules), [rule.name for rule in rules if not rule.reached.is_set()]
        assert await fleet.results(expected) == expected
        await fleet.until(lambda: not fleet.held(worker))
        assert worker.alive
        await fleet.stop()
    assert all(len(pids) == 1 for pids in fleet.starts().values())
    assert fleet.leaks() == {}


async def test_a_server_that_is_killed_and_comes_back_from_its_append_only_file(
    new_server: NewServer, new_fleet: NewFleet
) -> None:
    """Invariants 1, 4, 13: with appendfsync always, what was confirmed is done, and everybody finds the way back.

    Fails when a service of the worker ends with an error of the connection.
    """
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    fleet = new_fleet(server.url)
    # Longer than the server is away: the lease must not run out, so that nothing may run twice.
    await asyncio.gather(fleet.ready(lease=5), fleet.ready(lease=5, uvloop=True))
    load = Load(fleet)
    async with load.running():
        for _ in range(3):
            count = len(load.confirmed)
            await fleet.until(lambda: len(load.confirmed) > count + 100)  # noqa: B023 - awaited here
            server.kill()
            await asyncio.sleep(0.2)  # the server is away for so long
            await asyncio.to_thread(server.start)
        await fleet.until(lambda: len(load.confirmed) > count + 200)
    await check(fleet, load)


async def fill(fleet: Fleet, server_is_full: asyncio.Event) -> dict[str, int]:
    """Enqueue until Redis refuses; what it has confirmed by then."""
    task, expected, filler = fleet.task("double"), {}, "x" * 20_000
    try:
        async with asyncio.timeout(30):  # an answer, never silence
            for number in range(100_000):
                job = await task.enqueue(number)
                expected[job.id] = 2 * number
                if number > 1000:
                    with contextlib.suppress(redis.exceptions.OutOfMemoryError):
                        fleet.redis.append("filler", filler)
    except BrokerFull:
        server_is_full.set()
    with contextlib.suppress(redis.exceptions.OutOfMemoryError):
        while True:  # to the last kilobyte, so that no small write slips in
            fleet.redis.append("filler", "x" * 1000)
    with pytest.raises(BrokerFull):
        await task.enqueue(0)
    return expected


FULL = {"maxmemory": "10mb", "maxmemory-policy": "noeviction"}


async def drained(fleet: Fleet, expected: dict[str, int]) -> None:
    """The backlog is done and settled; when there is room again, jobs have their values again."""
    await fleet.until(lambda: len(fleet.starts()) == len(expected), 30)
    await fleet.until(lambda: not any(fleet.held(worker) for worker in fleet.members))
    assert all(len(pids) == 1 for pids in fleet.starts().values())
    assert all(worker.alive for worker in fleet.members)
    assert fleet.redis.scard(fleet.keys.jobs) == 0
    fleet.redis.delete("filler")
    more = await fleet.enqueue(50, first=1_000_000)
    assert await fleet.results(more) == more
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_full_redis_drains_and_enqueue_says_that_it_is_full(new_server: NewServer, new_fleet: NewFleet) -> None:
    """Invariant 12: at maxmemory enqueue answers BrokerFull, and workers drain the backlog and live.

    A value may be dropped, and is marked; each job runs once and is settled. Fails when the first write of `claim` may
    grow memory.
    """
    fleet = new_fleet(new_server(FULL).url)
    workers = [fleet.start(["before start"]), fleet.start(["before start"], uvloop=True)]
    await asyncio.gather(*(worker.at("ready") for worker in workers))
    # More than one of them can take, which may come first: both halt, and their hearts beat on.
    expected = await fleet.enqueue(30)
    await asyncio.gather(*(worker.at("before start") for worker in workers))
    is_full = asyncio.Event()
    expected |= await fill(fleet, is_full)
    assert is_full.is_set()
    await asyncio.sleep(1.5)  # beyond the lease: hearts must beat at a full Redis as well
    for worker in workers:
        worker.let_go()
    await drained(fleet, expected)


async def test_a_worker_that_starts_at_a_full_redis_drains_it(new_server: NewServer, new_fleet: NewFleet) -> None:
    """Invariant 12: when all workers are gone and the backlog has filled Redis, a new worker can join, and drains it.

    Fails when `register` or anything else at a worker's start begins with a write that may grow memory.
    """
    fleet = new_fleet(new_server(FULL).url)
    is_full = asyncio.Event()
    expected = await fill(fleet, is_full)
    assert is_full.is_set()
    await fleet.ready()
    await drained(fleet, expected)


async def test_a_full_redis_does_not_keep_an_idle_worker_from_its_next_job(
    new_server: NewServer, new_fleet: NewFleet
) -> None:
    """Invariant 12: a block that is refused at maxmemory is tried again with a pause; the next job after it runs.

    Fails when an OOM reply ends the fetcher, or when it spins.
    """
    fleet = new_fleet(new_server(FULL).url)
    worker = await fleet.ready()
    with contextlib.suppress(redis.exceptions.OutOfMemoryError):
        while True:
            fleet.redis.append("filler", "x" * 10_000)
    used_s, reads = worker.cpu_s(), int(fleet.redis.info("stats")["total_reads_processed"])
    await asyncio.sleep(2.5)
    reads = int(fleet.redis.info("stats")["total_reads_processed"]) - reads
    assert worker.cpu_s() - used_s < 0.2
    assert reads < 80  # heartbeats and looks of a lease of 1 s, and a few blocks; one that spins reads thousands
    await drained(fleet, {})


async def test_a_server_that_stalls_longer_than_the_lease_condemns_nobody(
    new_server: NewServer, new_fleet: NewFleet
) -> None:
    """Invariant 6: all leases have run out when it answers again; nobody is reaped, nothing runs twice.

    Fails when a reaper condemns on what its own clock says, without the lease being checked again in the move.
    """
    server = new_server()
    fleet = new_fleet(server.url)
    workers = [fleet.start(), fleet.start(uvloop=True), fleet.start()]
    await asyncio.gather(*(worker.at("ready") for worker in workers))
    expected = await fleet.enqueue(30, "double", 3.5)
    await fleet.until(lambda: len(fleet.starts()) == 30)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(2.2)  # the server stands still for so long
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert await fleet.results(expected) == expected
    assert all(len(pids) == 1 for pids in fleet.starts().values())
    assert not any("reaped" in worker.log() or "new id" in worker.log() for worker in workers)
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_flushed_redis_is_taken_into_use_again(fleet: Fleet) -> None:
    """Invariant 2: workers that are registered nowhere any more register anew; queues are known again.

    Fails when the worker goes on with an id that Redis does not know, or when nobody announces the queue again.
    """
    worker = await fleet.ready()
    before = await fleet.enqueue(10)
    assert await fleet.results(before) == before
    fleet.redis.flushall()
    await fleet.until(lambda: fleet.registered() == {worker.pid})
    expected = await fleet.enqueue(10, first=100)
    assert await fleet.results(expected) == expected
    await fleet.until(lambda: fleet.redis.smembers("rqueue:queues") == {b"default"}, 5)
    for job_id, value in expected.items():
        assert await fleet.app.job(job_id).result(5) == value  # by its id alone
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_worker_that_is_told_to_stop_while_redis_is_away_stops(
    new_server: NewServer, new_fleet: NewFleet
) -> None:
    """Shutdown: what cannot be said to Redis is left to the lease; the process ends all the same, and in time.

    Fails when the shutdown waits for Redis without an end.
    """
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    fleet = new_fleet(server.url)
    worker = await fleet.ready(shutdown_timeout=1)
    expected = await fleet.enqueue(10, "double", 0.5)
    await fleet.until(lambda: len(fleet.starts()) == 10)
    server.kill()
    await worker.stop(12)
    await asyncio.to_thread(server.start)
    await fleet.ready()
    assert await fleet.results(expected) == expected
    await fleet.stop()
    assert fleet.leaks() == {}
