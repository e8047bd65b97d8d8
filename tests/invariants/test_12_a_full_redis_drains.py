"""Invariant 12, a full Redis drains: at `maxmemory` with a backlog the worker goes on claiming, running and settling;
results lose their value and are counted; `enqueue` fails with a clear error before it has changed anything.

Seen to fail with ack.lua, claim.lua and renew.lua without their freeing first write (refused; the worker starves, or
its lease runs out), with ack.lua keeping the value, and with `Fetcher` blocking again at once after an OOM.
"""

import asyncio
from collections import Counter

import pytest

from rqueue import BrokerFull, ResultNotKept, RQueue
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.wire.keys import Keys


@pytest.fixture
async def full(new_server):
    """A server with a backlog that is at its maxmemory."""
    server = new_server({"maxmemory-policy": "noeviction"})
    broker = Broker(Endpoint(server.url), Keys())
    await broker.open()
    yield server.url, broker
    await broker.close()


async def fill(broker):
    """Let it be full from here on, whatever is freed: less than an empty server needs."""
    await broker._link.call(b"CONFIG", b"SET", b"maxmemory", 100_000)


async def test_a_backlog_drains_and_results_lose_their_values(full, log):
    url, broker = full
    app, runs = RQueue(url), Counter()
    wide = "x" * 300

    @app.task(name="t")
    async def t(number, text):
        runs[number] += 1
        return text

    @app.task(name="flaky", bind=True)
    async def flaky(self, number, text):
        runs[number] += 1
        if not self.request.retries:
            self.retry(countdown=0)

    @app.task(name="fail")
    async def fail(number, text):
        runs[number] += 1
        raise ValueError

    async with app:
        tasks = [t, t, t, flaky, fail]
        signatures = [
            tasks[number % 5].options(**({"priority": 4} if number % 2 else {})).s(number, wide)
            for number in range(600)
        ]
        jobs = await app.enqueue_many(signatures)
        async with app.worker(concurrency=10, lease=1.5) as worker:
            first = worker.id
            await fill(broker)
            with pytest.raises(BrokerFull):
                await t.enqueue(9999, wide)
            async with asyncio.timeout(20):
                while len(runs) < 600:
                    await asyncio.sleep(0)
                await worker.drain(scheduled=True)
            assert worker.id == first, "its lease was renewed"
            claims = worker._fetcher._turn
            assert claims < 1000, "it does not spin"
        assert runs == {number: 2 if number % 5 == 3 else 1 for number in range(600)}
        sizes = await broker.sizes(broker.keys.queue("default"))
        assert (sum(sizes.waiting), sizes.running, sizes.scheduled, sizes.dead) == (0, 0, 0, 120)
        assert sizes.counts == {"SUCCESS": 480, "FAILURE": 120}
        assert worker._settler.dropped > 0
        assert len(log.of("redis is full, result dropped")) == worker._settler.dropped
        states = Counter([(await job.info()).state for job in jobs])
        assert states == {"SUCCESS": 480, "FAILURE": 120}
        with pytest.raises(ResultNotKept):
            for job in jobs:
                if int(job.id, 16) % 1 == 0 and (await job.info()).state == "SUCCESS":
                    await job.result(1)


async def test_an_enqueue_at_a_full_redis_changes_nothing_and_works_again_later(full):
    url, broker = full
    app = RQueue(url)

    @app.task(name="t")
    async def t(text):
        return 1

    async with app:
        await t.enqueue("y")
        await fill(broker)
        keys = sorted(await broker._link.call(b"KEYS", b"*"))
        jobs = await broker._link.call(b"SCARD", broker.keys.queue("default").jobs)
        for options in ({}, {"priority": 3}, {"countdown": 60}, {"job_id": "mine"}):
            with pytest.raises(BrokerFull):
                await t.options(**options).enqueue("x" * 1000)
        results = await asyncio.gather(*(t.enqueue("x" * 1000) for _ in range(50)), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerFull}
        assert sorted(await broker._link.call(b"KEYS", b"*")) == keys
        assert await broker._link.call(b"SCARD", broker.keys.queue("default").jobs) == jobs
        await broker._link.call(b"CONFIG", b"SET", b"maxmemory", 0)
        async with app.worker():
            assert await (await t.enqueue("x")).result(5) == 1


async def test_a_worker_can_join_and_leave_a_full_redis(full, log):
    url, broker = full
    app = RQueue(url)

    @app.task(name="t")
    async def t(text):
        return 1

    async with app:
        jobs = await app.enqueue_many([t.s("x" * 1000) for _ in range(300)])
        await fill(broker)
        async with app.worker(concurrency=5, lease=1.5) as worker:
            async with asyncio.timeout(10):
                await worker.drain()
        sizes = await broker.sizes(broker.keys.queue("default"))
        assert (sum(sizes.waiting), sizes.running, sizes.workers) == (0, 0, 0)
        assert sizes.counts == {"SUCCESS": 300}
        assert len(jobs) == 300
    assert log.of("left jobs to the reapers") == []


async def test_the_heart_of_a_busy_worker_beats_at_a_full_redis(full, gate, until, log):
    """It claims nothing, since its only slot is taken for longer than its lease: the heart alone keeps that."""
    url, broker = full
    app, keys = RQueue(url), broker.keys.queue("default")

    @app.task(name="t")
    async def t():
        await gate()

    async def end_of_lease():
        return float(await broker._link.call(b"ZSCORE", keys.workers, worker.id))

    async with app, app.worker(concurrency=1, lease=0.6) as worker:
        first = worker.id
        job = await t.enqueue()
        await gate.reached()
        await fill(broker)
        began = await end_of_lease()

        async def renewed():
            return await end_of_lease() > began + 700

        await until(renewed)
        assert worker.id == first
        assert log.of("lease not renewed") == []
        gate.open()
        with pytest.raises(ResultNotKept):
            await job.result(5)


async def test_an_idle_worker_at_a_full_redis_does_not_spin(full):
    """BRPOPLPUSH is refused there: it claims by script, with a pause."""
    url, broker = full
    app = RQueue(url)
    async with app, app.worker() as worker:
        await worker.drain()
        await fill(broker)
        await worker._broker.unblock(broker.keys.queue("default"))
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.call_later(1.5, done.set)
        before = worker._fetcher._turn
        await done.wait()
        assert worker._fetcher._turn - before <= 15
