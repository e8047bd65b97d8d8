"""Invariant 9, time is Redis's, for leases and due times: a machine whose clock is an hour off does no harm.

Seen to fail with `RedisClock.observe` doing nothing, and with `Broker.overdue` asking the local clock.
"""

from datetime import UTC, datetime, timedelta

import pytest

from rqueue import JobExpired, RQueue
from rqueue.policy.clock import RedisClock, local_ms

HOUR_MS = 3_600_000


@pytest.fixture(params=[-HOUR_MS, HOUR_MS], ids=["an hour late", "an hour early"])
def wrong_clock(request, monkeypatch):
    """Every clock that is made from here on is wrong."""
    monkeypatch.setattr(RedisClock.__init__, "__defaults__", (lambda: local_ms() + request.param,))


async def test_delays_and_expiry_hold(wrong_clock, url):
    app = RQueue(url)

    @app.task(name="t")
    async def t():
        return 1

    async with app, app.worker() as worker:
        assert await (await t.options(countdown=0.05).enqueue()).result(5) == 1
        assert await (await t.options(expires=600).enqueue()).result(5) == 1
        with pytest.raises(JobExpired):
            await (await t.options(expires=datetime.now(UTC) - timedelta(minutes=1)).enqueue()).result(5)
        later = await t.options(countdown=600).enqueue()
        await worker.drain()
        info = await later.info()
        assert info.state == "PENDING"


async def test_expiry_holds_for_a_producer_that_opens_at_its_first_use(wrong_clock, url):
    """A web process enqueues, and never said `async with app`."""
    producer, consumer = RQueue(url), RQueue(url)
    for app in (producer, consumer):

        @app.task(name="t")
        async def t():
            return 1

    job = await producer.tasks.find("t").options(expires=600).enqueue()
    async with consumer, consumer.worker():
        assert await consumer.job(job.id, "default").result(5) == 1
    await producer.close()


async def test_nobody_is_condemned_and_the_dead_are(wrong_clock, url, broker, ghost, message, until):
    """A wrong clock takes no living worker for dead, and finds the dead ones."""
    app = RQueue(url)

    @app.task(name="t")
    async def t():
        return 1

    async with app, app.worker(lease=30) as one, app.worker(lease=30) as two:
        for _ in range(3):
            assert await one._reaper.tick() == 0
            assert await two._reaper.tick() == 0
        dead = await ghost(broker)
        await broker._link.call(b"LPUSH", dead.keys.processing(dead.id), message("j"))
        seconds, _ = await broker._link.call(b"TIME")
        await broker._link.call(b"ZADD", dead.keys.workers, int(seconds) * 1000 - 2000, dead.id)
        assert [await one._reaper.tick() for _ in range(2)] == [0, 1]
        await one.drain()
        assert (await app.job("j", "default").info()).state == "SUCCESS"


async def test_recorded_times_are_rediss(wrong_clock, url, broker):
    app = RQueue(url)

    @app.task(name="t")
    async def t():
        return 1

    async with app, app.worker():
        job = await t.enqueue()
        await job.result(5)
        info = await job.info()
        for moment in (info.enqueued, info.started, info.finished):
            assert abs(moment.timestamp() * 1000 - broker.clock.now_ms() % 10**15) < HOUR_MS * 1.5
            assert abs(moment.timestamp() * 1000 - local_ms()) < 10_000
