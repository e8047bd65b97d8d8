"""Invariant 14, a lock never outlives its job: while a unique job is there the second call gets its handle, every end
frees the lock in its own step, and what is left of locks goes.

Seen to fail with admit.lua without its look at `jobs` (a dead worker's lock stays), with `Executor` starting before the
unlock, with `unlock` that does not ask whether the job has ended, and with a retry that forgets its id.
"""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from rqueue import BrokerUnavailable, JobFailed, JobRevoked, RQueue
from rqueue.testing import moving_clock


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def test_until_done(app, gate, until, call, keys):
    """Waiting, running: the handle of the first. Ended: a new job, and nothing is left of the lock."""

    @app.task(name="t", unique="until_done")
    async def t(number):
        await gate(number)
        return number

    async with app:
        first, again = await t.enqueue(1), await t.enqueue(1)
        assert (first.duplicate, again.duplicate, again.id) == (False, True, first.id)
        async with app.worker() as worker:
            await gate.reached()
            assert (await t.enqueue(1)).id == first.id
            gate.open()
            assert [await first.result(5), await again.result(5)] == [1, 1]
            assert not (await t.enqueue(1)).duplicate, "the result is there: the lock is free"
            await worker.drain()
            assert await call("EXISTS", keys.unique) == 0


async def test_until_done_over_retries_and_after_a_failure(app, gate, keys, call):
    """A retry keeps the lock, the failure frees it, and so does an end before any run."""

    @app.task(name="t", bind=True, unique="until_done", max_retries=1, default_retry_delay=60)
    async def t(self):
        self.retry()

    async with app, moving_clock(app) as clock, app.worker() as worker:
        first = await t.enqueue()
        await worker.drain()
        assert (await t.enqueue()).id == first.id, "it is scheduled to run again"
        await clock.move(61)
        with pytest.raises(JobFailed):
            await first.result(5)
        second = await t.options(expires=30, countdown=60).enqueue()
        assert not second.duplicate
        assert (await t.enqueue()).id == second.id
        await clock.move(61)
        await worker.drain(scheduled=True)
        assert (await second.info()).error.startswith("JobExpired")
        assert await call("EXISTS", keys.unique) == 0


async def test_until_start(app, gate, call, keys):
    """During the run a new job is enqueued; the first one's retry does not take the lock again, nor frees the new's."""
    seen = []

    @app.task(name="t", bind=True, unique="until_start", default_retry_delay=60)
    async def t(self):
        seen.append(await call("HVALS", keys.unique))
        await gate(self.request.id)
        if self.request.id == first.id and not self.request.retries:
            self.retry()

    async with app, moving_clock(app) as clock:
        first = await t.enqueue()
        assert (await t.enqueue()).id == first.id
        async with app.worker(concurrency=1) as worker:
            await gate.reached()
            second = await t.enqueue()
            assert not second.duplicate
            assert (await t.enqueue()).id == second.id
            gate.open()
            await worker.drain()
            third = await t.options(countdown=600).enqueue()
            assert not third.duplicate, "the first one waits for its retry, without the lock"
            await clock.move(61)
            await first.result(5)
            assert (await t.enqueue()).id == third.id
    assert seen == [[], [], [third.id.encode()]]


async def test_at_most_for_a_time(app, gate):
    @app.task(name="t", unique=timedelta(minutes=5))
    async def t():
        await gate()

    async with app, moving_clock(app) as clock:
        first = await t.enqueue()
        await clock.move(299)
        assert (await t.enqueue()).id == first.id
        await clock.move(2)
        second = await t.enqueue()
        assert not second.duplicate
        assert (await t.enqueue()).id == second.id
        gate.open()
        async with app.worker() as worker:
            await worker.drain()
            assert not (await t.enqueue()).duplicate, "done before its time"


async def test_debounce(app):
    """It runs once, so long after the last call, with its arguments; all have the handle of the same job."""
    runs = []

    @app.task(name="t", debounce=10, unique_key="{doc}")
    async def t(doc, text):
        runs.append((doc, text))
        return text

    async with app, moving_clock(app) as clock, app.worker() as worker:
        jobs = []
        for text in "abc":
            jobs.append(await t.enqueue("x", text))
            await clock.move(8)
            await worker.drain()
        assert runs == []
        await clock.move(3)
        assert [await job.result(5) for job in jobs] == ["c", "c", "c"]
        assert [job.duplicate for job in jobs] == [False, True, True]
        assert not (await t.enqueue("x", "d")).duplicate
        await clock.move(11)
        await worker.drain(scheduled=True)
    assert runs == [("x", "c"), ("x", "d")]


async def test_throttle(app):
    """The first of a period runs, and is what later calls get, also after its end."""
    runs = []

    @app.task(name="t", throttle=60)
    async def t(number=0):
        runs.append(number)

    async with app, moving_clock(app) as clock, app.worker() as worker:
        first = await t.enqueue()
        await first.result(5)
        await clock.move(59)
        assert [(await t.enqueue(each)).id == first.id for each in (0, 0, 1)] == [True, True, False]
        await clock.move(2)
        assert not (await t.enqueue()).duplicate
        await worker.drain()
    assert runs == [0, 1, 0]


async def test_a_lost_workers_lock_is_free(app, broker, parts, ghost, keys):
    """While its job goes back the lock holds; once it is a dead letter the lock is free, and its rest goes."""

    @app.task(name="t", unique="until_done")
    async def t(): ...

    reaper = parts().reaper
    async with app:
        first = await t.enqueue()
        for number in range(3):
            assert (await t.enqueue()).id == first.id
            dead = await ghost(broker, f"g{number}")
            assert len(await dead.claim()) == 1
            await dead.start(first.id)
            await dead.die()
            assert [await reaper.tick() for _ in range(2)][1] == 1
        second = await t.enqueue()
        assert not second.duplicate
        assert await broker.purge(keys) == 1
        reaper._looks = 11
        await reaper.tick()
        assert await broker._link.call(b"EXISTS", keys.unique) == 0


async def test_a_lock_of_a_purged_job_is_free(app, broker, keys):
    @app.task(name="t", unique="until_done")
    async def t(): ...

    async with app:
        await t.enqueue()
        await broker.purge(keys)
        assert not (await t.enqueue()).duplicate


async def test_the_end_of_a_chosen_id_leaves_the_next_jobs_lock(app, gate, call, keys, until):
    """The same id and lock again, before the first one's worker has told of its end: it frees nothing of it."""

    @app.task(name="t", unique="until_done")
    async def t():
        await gate()

    async with app, app.worker() as worker:
        await t.options(job_id="mine").enqueue()
        await gate.reached()
        # As if the first had ended, and the second had come, before the first one's unlock.
        worker._settler._unlock = kept = _Kept(worker._settler._unlock)
        gate.open()
        await app.job("mine", "default").result(5)
        second = await t.options(job_id="mine", countdown=60).enqueue()
        assert not second.duplicate
        kept.go_on.set()
        await worker.drain()
        assert await call("HVALS", keys.unique) == [b"mine"]
        assert (await t.enqueue()).id == "mine"


class _Kept:
    """A call that is kept on its way until the test lets it go on."""

    def __init__(self, call):
        self.call, self.go_on = call, asyncio.Event()

    async def __call__(self, *args):
        await self.go_on.wait()
        await self.call(*args)


async def test_without_redis_it_does_not_start_before_its_lock_is_given_up(app, broker, log, monkeypatch):
    """A call during the run would be taken for this one, which has begun: it goes back, uncharged, and runs later."""
    runs = []

    @app.task(name="t", bind=True, unique="until_start")
    async def t(self):
        runs.append(self.request.losses)

    async with app, app.worker() as worker:
        unlock, refused = worker._broker.unlock, []

        async def refuse_once(*args, **more):
            if not refused:
                refused.append(args)
                raise BrokerUnavailable("away")
            return await unlock(*args, **more)

        monkeypatch.setattr(worker._broker, "unlock", refuse_once)
        await (await t.enqueue()).result(5)
        assert runs == [0]
        assert len(log.of("job released")) == 1


async def test_where_redis_refuses_to_give_up_a_lock_its_job_waits(app, call, keys, log, until):
    """Breaks when it goes back to the front of its list: it is claimed at once, refused again, and so on."""

    @app.task(name="t", unique="until_start")
    async def t(): ...

    async with app:
        await t.enqueue()
        await call("DEL", keys.unique)
        await call("SET", keys.unique, "no hash")
        async with app.worker():
            await log.heard("unlocking waits for redis")
            await until(lambda: call("EXISTS", keys.scheduled))
            assert len(log.of("unlocking waits for redis")) == 1


async def test_a_running_job_that_is_cancelled_leaves_no_lock(app, gate, call, keys):
    @app.task(name="t", unique="until_done")
    async def t():
        await gate()

    async with app, app.worker() as worker:
        job = await t.enqueue()
        await gate.reached()
        assert worker._executor.cancel(job.id)
        await worker.drain()
        assert await call("EXISTS", keys.unique) == 0


async def test_a_job_that_is_cancelled_while_its_lock_is_given_up_ends(app, gate, monkeypatch):
    """It is REVOKED, and its slot is free. Breaks when what is cancelled before it runs is forgotten."""

    @app.task(name="t", unique="until_start")
    async def t(): ...

    async with app, app.worker(concurrency=1) as worker:
        monkeypatch.setattr(worker._broker, "unlock", lambda *_, **__: gate())
        job = await t.enqueue()
        await gate.reached()
        assert worker._executor.cancel(job.id)
        with pytest.raises(JobRevoked):
            await job.result(5)
        gate.open()  # its worker takes what is left of the lock away
        await worker.drain()
        assert worker.running == 0


async def test_of_a_thousand_calls_each_key_runs_once(app, gate):
    runs: Counter = Counter()

    @app.task(name="t", unique="until_done")
    async def t(number):
        runs[number] += 1

    @app.task(name="plain")
    async def plain(number):
        runs["plain"] += 1

    async with app:
        jobs = await asyncio.gather(*((t if n % 5 else plain).enqueue(n % 10) for n in range(1000)))
        assert sum(not job.duplicate for job in jobs) == 200 + 8
        many = await app.enqueue_many([t.s(1), t.s(77), t.s(77), plain.s(1)])
        assert [job.duplicate for job in many] == [True, False, True, False]
        async with app.worker() as worker:
            await worker.drain()
    assert runs == {"plain": 201, **dict.fromkeys([*(n for n in range(10) if n % 5), 77], 1)}


async def test_processes_and_queues(url, app):
    """Two apps on one store share locks; two queues do not."""
    other = RQueue(url)
    tasks = [each.task(name="t", unique="until_done")(_nothing) for each in (app, other)]
    async with app, other:
        first, second = [await task.enqueue() for task in tasks]
        assert second.id == first.id
        assert not (await tasks[1].options(queue="elsewhere").enqueue()).duplicate


async def _nothing(): ...


@pytest.mark.parametrize("options", [{"unique": "until_done"}, {"debounce": 0.01}, {"throttle": 60}])
async def test_a_lost_reply_is_answered_as_at_first(redis_url, redis_broker, proxy, options):
    runs: Counter = Counter()
    app, other = RQueue(await proxy.start()), RQueue(redis_url)

    async def run(number):
        runs[number] += 1
        return number

    t = app.task(name="t", **options)(run)
    other.task(name="t")(run)
    async with app, other:
        proxy.lose("admit")
        jobs = await app.enqueue_many([t.s(1), t.s(1), t.s(2)])
        assert proxy.lost
        assert [job.duplicate for job in jobs] == [False, True, False]
        async with other.worker() as worker:
            assert [await job.result(5) for job in jobs] == [1, 1, 2]
            await worker.drain(scheduled=True)
    assert runs == {1: 1, 2: 1}
