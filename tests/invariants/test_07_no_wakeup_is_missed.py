"""Invariant 7, no wake-up is missed for longer than a block, and nothing polls faster.

Each way in which a job can appear outside a main list wakes an idle worker at once: here within two seconds, while a
block lasts 4. Seen to fail with each of enqueue.lua, promote.lua, retry.lua, release.lua, reap.lua and claim.lua
without its token. `Fetcher` blocking without a claim before it, and `_harvest` keeping what there is no slot for, fail
in tests/worker/test_fetcher.py; reap.lua's token in test_06.
"""

import asyncio
import time

import pytest

from rqueue import Queue, RQueue
from rqueue.broker.link import Link
from rqueue.config import WorkerConfig
from rqueue.wire.message import TOKEN
from rqueue.worker.fetcher import AUDIT_BEATS
from rqueue.worker.reaper import LOOKS_PER_SEARCH

SOON_S = 2.0


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.fixture
def asleep(broker, until):
    """Return when that many workers wait at the server, with nothing left for them to do first."""

    async def wait(*workers):
        def all_wait():
            return all(
                len(worker._fetcher._blocks) == len(worker._queues)
                and not any(task.done() for task in worker._fetcher._blocks.values())
                and not any(link._outbox for link in worker._broker._blocks.values())
                and not worker._fetcher._is_more
                for worker in workers
            )

        await until(all_wait)
        await broker._link.call(b"PING")

    return wait


@pytest.fixture
def t(app):
    @app.task(name="t")
    async def t():
        return "ran"

    return t


@pytest.mark.parametrize(
    "options", [{}, {"priority": 1}, {"priority": 10}, {"countdown": 0.05}, {"countdown": 0.05, "priority": 3}]
)
async def test_an_enqueue_wakes_an_idle_worker(app, t, asleep, options):
    async with app, app.worker() as worker:
        for _ in range(3):
            await asleep(worker)
            job = await t.options(**options).enqueue()
            assert await job.result(SOON_S) == "ran"


async def test_an_earlier_due_time_wakes_the_promoters(app, t, asleep):
    """An hour is known; what is due at once is not waited for so long. Later ones do not matter."""
    async with app, app.worker() as worker:
        far = await t.options(countdown=3600).enqueue()
        await asleep(worker)
        assert await (await t.options(countdown=0.02).enqueue()).result(SOON_S) == "ran"
        assert (await far.info()).state == "PENDING"


async def test_a_retry_of_a_full_worker_is_not_forgotten(app, asleep, gate):
    @app.task(name="flaky", bind=True)
    async def flaky(self):
        if not self.request.retries:
            self.retry(countdown=0.02)
        return "ran"

    async with app, app.worker(concurrency=1) as worker:
        await asleep(worker)
        assert await (await flaky.enqueue()).result(SOON_S) == "ran"
        assert await (await flaky.options(priority=2).enqueue()).result(SOON_S) == "ran"


async def test_what_a_stopping_worker_gives_back_wakes_another(app, t, asleep, gate, broker, keys):
    """From a priority's list, where nobody blocks."""

    @app.task(name="slow", bind=True)
    async def slow(self):
        if self.request.worker == first.id:
            await gate()
        return "ran"

    async with app:
        first = app.worker(concurrency=1, shutdown_timeout=0)
        async with first:
            job = await slow.options(priority=4).enqueue()
            await gate.reached()
            async with app.worker() as second:
                await asleep(second)
                first.stop()
                assert await job.result(SOON_S) == "ran"


async def test_what_a_claim_leaves_behind_wakes_the_next_worker(app, asleep, gate, broker, keys):
    """Many jobs in a priority's list leave one token: each claim that leaves something leaves a token too."""

    @app.task(name="slow")
    async def slow():
        await gate()

    async with app, app.worker(concurrency=1) as a, app.worker(concurrency=1) as b, app.worker(concurrency=1) as c:
        await asleep(a, b, c)
        await app.enqueue_many([slow.options(priority=6).s() for _ in range(3)])
        async with asyncio.timeout(SOON_S):
            await gate.reached(3)
        gate.open()


async def test_a_token_is_a_hint_and_is_never_counted(app, t, asleep, broker, keys):
    async with app:
        await t.options(priority=5).enqueue()
        assert await broker._link.call(b"LRANGE", keys.main, 0, -1) == [TOKEN]
        sizes = await broker.sizes(keys)
        assert (sizes.waiting[0], sizes.waiting[5]) == (0, 1)
        async with app.worker() as worker:
            await worker.drain()
            await asleep(worker)
            await broker._link.call(b"LPUSH", keys.main, TOKEN)
            await worker.drain()
            await asleep(worker)
            assert (await broker.sizes(keys)).running == 0


async def test_one_job_wakes_one_worker(app, t, asleep):
    async with app, app.worker() as a, app.worker() as b, app.worker() as c:
        await asleep(a, b, c)
        turns = [worker._fetcher._turn for worker in (a, b, c)]
        assert await (await t.enqueue()).result(SOON_S) == "ran"
        await asleep(a, b, c)
        woken = sum(worker._fetcher._turn > before for worker, before in zip((a, b, c), turns, strict=True))
        assert woken == 1


async def test_every_queue_is_waited_for(url, asleep):
    app = RQueue(url, queues=["a", "b", "c"])

    @app.task(name="t")
    async def t():
        return "ran"

    async with app, app.worker() as worker:
        for queue in "abcba":
            await asleep(worker)
            assert await (await t.options(queue=queue).enqueue()).result(SOON_S) == "ran"


async def test_what_arrives_beyond_the_free_slots_goes_back_at_once(url, asleep, gate, broker, until):
    """Three queues, one slot, a job in each at once: two go back uncharged, in the order of their queues' ranks."""
    app = RQueue(url, queues=[Queue("a", 2), Queue("b", 8), Queue("c", 5)])

    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=1, prefetch_multiplier=1) as worker:
        await asleep(worker)
        jobs = await app.enqueue_many([t.options(queue=queue).s() for queue in "abc"])
        await gate.reached()

        async def settled_down():
            sizes = [await broker.sizes(broker.keys.queue(queue)) for queue in "abc"]
            return sum(size.running for size in sizes) == 1 and [size.waiting[0] for size in sizes]

        waiting = await until(settled_down)
        assert sum(waiting) == 2
        assert (worker.held, worker.running) == (0, 1)
        gate.open()
        assert [await job.result(5) for job in jobs] == [None] * 3
        assert [(await job.info()).losses for job in jobs] == [0] * 3


async def test_a_prefetch_of_one_holds_nothing_also_after_short_jobs(url, asleep, gate, broker, until):
    """The measured pace allows some; a multiplier of 1 does not."""
    app = RQueue(url, queues=["a", "b", "c"])

    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=1, prefetch_multiplier=1, shutdown_timeout=1) as worker:
        await asleep(worker)
        worker._inflight.pace.allowance = lambda now_s: 3
        await app.enqueue_many([t.options(queue=queue).s() for queue in "abc"])
        await gate.reached()

        async def running():
            return sum([(await broker.sizes(broker.keys.queue(queue))).running for queue in "abc"])

        for _ in range(50):
            claimed = await running()
        assert (claimed, worker.held) == (1, 0)
        gate.open()
        await worker.drain()


# Nothing polls faster


async def reads(broker):
    """Top-level commands so far: how many the server was asked, without those inside scripts."""
    text = (await broker._link.call(b"INFO", b"commandstats")).decode()
    counts = {
        line.partition(":")[0].removeprefix("cmdstat_"): int(line.partition("calls=")[2].partition(",")[0])
        for line in text.splitlines()
        if line.startswith("cmdstat_")
    }
    asked = (
        "evalsha",
        "eval",
        "brpoplpush",
        "scan",
        "zrangebyscore",
        "client|unblock",
        "lrange",
        "smembers",
        "sadd",
        "ping",
    )
    return sum(counts.get(name, 0) for name in asked)


@pytest.mark.parametrize("queues", [1, 3])
async def test_an_idle_worker_asks_at_most_once_a_second_for_each_queue(redis_url, redis_broker, queues, until):
    """Measured over one block and a bit, with the defaults."""
    broker, app = redis_broker, RQueue(redis_url, queues=[f"q{number}" for number in range(queues)])
    async with app, app.worker() as worker:
        await worker.drain()
        await until(lambda: len(worker._fetcher._blocks) == queues and not worker._fetcher._is_more)
        await broker._link.call(b"PING")
        before, started, cpu = await reads(broker), time.monotonic(), time.process_time()
        fetch, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.call_later(4.5, fetch.set)
        await fetch.wait()
        asked, seconds = await reads(broker) - before, time.monotonic() - started
        assert asked <= seconds * queues, f"{asked} requests in {seconds:.1f} s for {queues} queues"
        assert time.process_time() - cpu < 0.05 * seconds, "under 1 % of a core, and this test's own server talk"


async def test_an_idle_worker_in_memory_asks_at_most_once_a_second(monkeypatch, until):
    """The same on fakeredis, where a blocking pop that did not block would make the worker spin."""
    app, asked, call = RQueue("memory://"), [], Link.call
    async with app, app.worker() as worker:
        await worker.drain()
        await until(lambda: len(worker._fetcher._blocks) == 1 and not worker._fetcher._is_more)
        monkeypatch.setattr(Link, "call", lambda link, *command: asked.append(command[0]) or call(link, *command))
        started, cpu, fetch = time.monotonic(), time.process_time(), asyncio.Event()
        asyncio.get_running_loop().call_later(4.5, fetch.set)
        await fetch.wait()
        assert len(asked) <= time.monotonic() - started, asked
        assert time.process_time() - cpu < 0.05 * (time.monotonic() - started), "with the server in it"
        monkeypatch.undo()


@pytest.mark.parametrize("queues", [1, 3])
async def test_the_budget_of_an_idle_worker_with_the_defaults(redis_url, redis_broker, queues, until, faint):
    """What each of its activities asks, times how often it does it: at most one request a second for each queue."""
    broker, app, config = (
        redis_broker,
        RQueue(redis_url, queues=[f"q{number}" for number in range(queues)]),
        WorkerConfig(),
    )
    async with app, app.worker(block_s=4) as worker:
        await worker.drain()
        await faint(worker)

        async def quiet():
            await until(
                lambda: (
                    len(worker._fetcher._blocks) == queues
                    and not worker._fetcher._is_more
                    and not any(link._outbox for link in worker._broker._blocks.values())
                )
            )
            await broker._link.call(b"PING")

        async def cost(step):
            await quiet()
            before = await reads(broker)
            await step()
            await quiet()
            return await reads(broker) - before - 1  # the PING

        async def end_blocks():
            worker._fetcher._audited_s += 1000
            for keys in worker._queues:
                await worker._broker.unblock(keys)

        async def audit():
            worker._fetcher._audited_s = -1e9
            worker._fetcher.poke()
            await until(lambda: worker._fetcher._audited_s > 0)

        block = await cost(end_blocks) - queues  # without the UNBLOCKs
        worker._reaper._looks = LOOKS_PER_SEARCH  # the next look searches as well
        reap = await cost(worker._reaper.tick)
        look = await cost(audit)
        beat = 1
        search = 1 / LOOKS_PER_SEARCH  # the SCAN is in one look of several
        looks = (reap - 1 + search + beat) / config.heartbeat_s
        a_second = block / config.longest_block_s + looks + look / (AUDIT_BEATS * config.heartbeat_s)
        assert a_second <= queues, f"block {block}, reap {reap}, audit {look}: {a_second:.2f} a second"


@pytest.mark.parametrize("why", ["main list is no list", "block connection is refused"])
async def test_a_block_that_fails_at_once_does_not_make_the_worker_spin(new_server, why, until, log):
    """Somebody's string has the queue's name; the server takes no more connections. The worker goes on, with a
    pause.
    """
    server = new_server()
    app = RQueue(server.url, queues=["a", "b"])

    @app.task(name="t")
    async def t():
        return "ran"

    async with app, app.worker(shutdown_timeout=0) as worker:
        await worker.drain()
        await until(lambda: len(worker._fetcher._blocks) == 2)
        call = app.session().broker._link.call
        if why == "main list is no list":
            await call(b"SET", app.keys.queue("a").main, b"somebody's")
            await worker._broker.unblock(app.keys.queue("a"))
        else:
            await (await t.options(queue="b").enqueue()).result(5)
            await until(lambda: len(worker._fetcher._blocks) == 2)
            clients = (await call(b"INFO", b"clients")).decode()
            count = int(clients.partition("connected_clients:")[2].split()[0])
            await call(b"CONFIG", b"SET", b"maxclients", count - 1)
            link = worker._broker._blocks["a"]
            assert link.client_id is not None
            await call(b"CLIENT", b"KILL", b"ID", link.client_id)
        worker._fetcher.poke()
        before = worker._fetcher._turn
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.call_later(1.0, done.set)
        await done.wait()
        claims = worker._fetcher._turn - before
        assert claims <= 25, f"{claims} claims in a second"
        if why == "main list is no list":
            assert await (await t.options(queue="b").enqueue()).result(5) == "ran"


async def test_a_thousand_enqueues_at_once_share_few_round_trips(redis_app, redis_broker):
    @redis_app.task(name="t")
    async def t(number):
        return number

    async def server_reads():
        stats = (await redis_broker._link.call(b"INFO", b"stats")).decode()
        return int(stats.partition("total_reads_processed:")[2].split()[0])

    async with redis_app:
        await t.enqueue(0)
        before = await server_reads()
        for number in range(200):
            await t.enqueue(number)
        alone = (await server_reads() - before - 1) * 5
        before = await server_reads()
        await asyncio.gather(*(t.enqueue(number) for number in range(1000)))
        together = await server_reads() - before - 1
        assert alone >= 1000
        assert together * 10 <= alone, f"{together} reads instead of {alone}"
        assert together <= 20
