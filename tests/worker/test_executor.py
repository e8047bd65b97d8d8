"""executor: starts held jobs while there are slots; a job is marked as started before it starts."""

import asyncio

import orjson
import pytest

from rqueue import JobFailed, JobRevoked
from rqueue.errors import BrokerUnavailable
from rqueue.policy.clock import elapsed_s
from rqueue.worker.fetcher import register
from rqueue.worker.inflight import Phase
from rqueue.worker.outcome import Failed, Succeeded


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def test_a_job_is_marked_as_started_before_it_starts(app, broker, keys):
    """Asked by the job itself: when it runs, its loss would be charged."""

    @app.task(name="t", bind=True)
    async def t(self):
        return await broker._link.call(b"SISMEMBER", keys.started(self.request.worker), self.request.id)

    async with app, app.worker() as worker:
        for _ in range(5):
            assert await (await t.enqueue()).result(5) == 1
        await worker.drain()
        assert await broker._link.call(b"EXISTS", keys.started(worker.id)) == 0, "and the mark goes with the claim"


async def test_what_is_held_is_not_marked(app, broker, keys, gate):
    @app.task(name="t")
    async def t(number):
        await gate(number)

    async with app, app.worker(concurrency=1) as worker:
        worker._inflight.pace.allowance = lambda now_s: 3
        await app.enqueue_many([t.options(job_id=f"j{number}").s(number) for number in range(4)])
        await gate.reached()
        assert await broker._link.call(b"SCARD", keys.started(worker.id)) == 1
        gate.open()
        await worker.drain()


async def test_what_cannot_be_marked_does_not_start_and_is_tried_again(app, broker, monkeypatch):
    """If it killed us nobody would be charged: it waits until Redis can be told."""
    from rqueue.worker import executor as module

    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    runs = []

    @app.task(name="t")
    async def t():
        runs.append(len(calls))

    calls = []
    async with app, app.worker() as worker:
        written = worker._broker.written

        async def unlucky():
            calls.append(1)
            if len(calls) <= 3:
                raise BrokerUnavailable("away")
            await written()

        worker._broker.written = unlucky
        job = await t.enqueue()
        await job.result(5)
        assert runs == [4]
        assert (worker.running, worker.held) == (0, 0)


async def test_after_a_failed_mark_stopping_gives_each_job_back_once(app, broker, keys, monkeypatch, log, until):
    """Counted once, released once: the order of the list stays, and nothing is logged as lost."""
    from rqueue.worker import executor as module

    monkeypatch.setattr(module, "_PAUSE_S", 60)

    @app.task(name="t")
    async def t():
        pytest.fail("it must not start")

    async with app:
        async with app.worker() as worker:
            tries = []

            async def away():
                await asyncio.sleep(0)
                tries.append(1)
                raise BrokerUnavailable("away")

            worker._broker.written = away
            jobs = await app.enqueue_many([t.s() for _ in range(3)])
            await until(lambda: len(tries) >= 1 and worker.held == 3)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(tries) <= 10, "it waits before it tries again"
        waiting = [raw for raw in await broker._link.call(b"LRANGE", keys.main, 0, -1) if raw]
        assert len(waiting) == len(jobs)
    assert log.of("claim lost") == []


async def test_nothing_starts_while_it_stops(app, gate, broker, keys):
    @app.task(name="t")
    async def t(number):
        await gate(number)

    async with app:
        async with app.worker(concurrency=1) as worker:
            worker._inflight.pace.allowance = lambda now_s: 3
            await app.enqueue_many([t.s(number) for number in range(4)])
            await gate.reached()
            worker.stop()
            gate.open()
        assert len(gate.came) == 1
        assert (await broker.sizes(keys)).waiting[0] == 3


async def test_an_error_of_our_own_ends_the_job_and_frees_its_slot(app, log, monkeypatch):
    """Not the task's: no slot is lost, and no claim is renewed for ever; whatever the job had been seen to do."""

    @app.task(name="bad")
    async def bad(fail):
        if fail:
            raise ValueError("the task's own")
        return 1

    async with app, app.worker(concurrency=1, shutdown_timeout=0) as worker:
        real = type(worker._judge).decide

        def broken(self, job, outcome, *rest):
            if job.id.startswith("hit") and isinstance(outcome, Succeeded | Failed):
                raise ZeroDivisionError("the worker's own")
            return real(self, job, outcome, *rest)

        monkeypatch.setattr(type(worker._judge), "decide", broken)
        for number, fail in enumerate([False, True]):
            job = await bad.options(job_id=f"hit{number}").enqueue(fail)
            with pytest.raises(JobFailed):
                await job.result(2)
        assert await (await bad.enqueue(False)).result(2) == 1
        assert worker.running == 0
    assert log.loud()


async def test_threads_are_as_many_as_the_slots(app):
    import threading

    barrier = threading.Barrier(4, timeout=5)

    @app.task(name="t")
    def t():
        barrier.wait()
        return threading.current_thread().name

    async with app, app.worker(concurrency=4) as worker:
        jobs = await app.enqueue_many([t.s() for _ in range(8)])
        names = {await job.result(5) for job in jobs}
        assert len(names) == 4
        assert all(name.startswith("rqueue job") for name in names)
        assert worker.running == 0


async def test_a_job_that_was_given_back_while_it_ran_is_not_settled(app, gate, broker, keys, log):
    """It ends after its worker has let go of it: its end is nobody's affair."""
    ended = asyncio.Event()

    @app.task(name="t")
    async def t():
        while True:
            try:
                await gate()
                break
            except asyncio.CancelledError:
                pass  # it ignores its cancellation
        ended.set()

    from rqueue.worker import worker as module

    grace, module._CANCEL_GRACE_S = module._CANCEL_GRACE_S, 0.05
    try:
        async with app:
            async with app.worker(concurrency=1, shutdown_timeout=0):
                job = await t.enqueue()
                await gate.reached()
            assert (await broker.sizes(keys)).waiting[0] == 1
            gate.open()
            await ended.wait()
            assert (await job.info()).state == "PENDING"
    finally:
        module._CANCEL_GRACE_S = grace


async def test_the_phases_of_a_run(app, gate):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker() as worker:
        await t.enqueue()
        await gate.reached()
        (job,) = worker._inflight
        assert job.phase is Phase.RUNNING
        assert job.started_ms is not None
        gate.open()
        await worker.drain()
        assert job.phase is Phase.GONE
        assert len(worker._inflight) == 0


async def test_threads_follow_the_slots(app):
    """Also when the worker was resized before it ran; a smaller worker keeps its threads."""
    worker = app.worker(concurrency=1)
    worker.resize(3)
    async with app, worker:
        await worker._executor.tick()
        assert worker._executor._pool._max_workers == 3
        worker.resize(2)
        await worker._executor.tick()
        assert worker._executor._pool._max_workers == 3
        worker.resize(4)
        await worker._executor.tick()
        assert worker._executor._pool._max_workers == 4


@pytest.mark.parametrize("is_twice", [False, True])
async def test_a_cancel_that_meets_an_early_acknowledgement_under_way(app, call, is_twice):
    """Breaks when the job's end is lost with the wait for the acknowledgement: its slot and its id stay taken."""
    ran = []

    @app.task(acks_late=False)
    async def early():
        ran.append(1)

    async with app, app.worker() as worker:
        real = worker._settler._ask
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*args):
            asked.set()
            await go_on.wait()
            return await real(*args)

        worker._settler._ask = slow
        job = await early.enqueue()
        async with asyncio.timeout(5):
            await asked.wait()
        assert worker._executor.cancel(job.id)
        await asyncio.sleep(0)
        if is_twice:
            assert worker._executor.cancel(job.id, terminate=True)
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(JobRevoked):
            await job.result(5)
        await worker.drain()
        assert (ran, worker.running) == ([], 0)
        assert await call(b"EXISTS", app.keys.queue("default").jobs) == 0


@pytest.mark.parametrize("is_marked", [False, True], ids=["while it is marked", "when it is marked"])
async def test_a_cancel_that_comes_before_a_job_s_first_step(parts, broker, stored, message, is_marked):
    """It does not run, and gives its slot back. Breaks when an asyncio task is cancelled that has not begun: nothing
    of it runs then, not even what settles it.
    """
    worker, ran = parts(), []

    @worker.worker._client.task(name="t")
    async def t():
        ran.append(1)

    await register(broker, worker.queues, worker.lease)
    await broker._link.call(b"SADD", worker.keys.jobs, "a")
    await worker.push(message("a"))
    await worker.fetcher._claim(1)
    await worker.fetcher._end_blocks()
    executor, written = worker.worker._executor, broker.written

    async def cancel_meanwhile():
        await written()
        assert executor.cancel("a")

    if not is_marked:
        executor._broker.written = cancel_meanwhile
    (job,) = worker.inflight
    assert await executor.tick() == 1
    if is_marked:
        assert executor.cancel("a")
    await asyncio.wait([job.task])
    await worker.settler.drained()
    found = await stored(broker)
    assert orjson.loads(found["~rqueue:{default}:result:a"])["error"]["message"] == "it was cancelled"
    assert (ran, worker.inflight.running, len(worker.inflight), worker.inflight.life.started) == ([], 0, 0, 0)


async def test_a_held_job_is_cancelled_before_it_starts(parts, broker, stored, message):
    """Celery's revoke missed what its workers had prefetched. Breaks when only running jobs are looked at."""
    worker = parts()
    await register(broker, worker.queues, worker.lease)
    await broker._link.call(b"SADD", worker.keys.jobs, "a", "b")
    await worker.push(message("a"), message("b"))
    await worker.fetcher._claim(2)
    await worker.fetcher._end_blocks()
    executor = worker.worker._executor
    assert not executor.cancel("a", "elsewhere")
    assert executor.cancel("a", "default")
    assert not executor.cancel("a")
    assert worker.inflight.held == 1
    await worker.settler.drained()
    found = await stored(broker)
    assert found["rqueue:{default}:jobs"] == {b"b"}
    assert found["~rqueue:{default}:result:a"].startswith(b'{"state":"REVOKED"')
    assert worker.take().id == "b"


@pytest.mark.parametrize("is_lost", [False, True], ids=["the lease is old", "it goes on under a new id"])
async def test_a_worker_that_stood_still_starts_nothing_more_of_what_it_had_begun_to_start(
    parts, broker, message, is_lost
):
    """Frozen while it starts a batch, and thawed when others have done its jobs: each job looks at the lease itself.

    Breaks when only the batch is looked at: then all of it runs twice, long after.
    """
    worker, ran = parts(concurrency=10), []

    @worker.worker._client.task(name="t")
    async def t():
        ran.append(1)
        if is_lost:
            worker.lease.renumber()
            worker.lease.renewed(elapsed_s())
        else:
            worker.lease.starts_until_s -= worker.lease.lease_s  # as if it had stood still for so long

    await register(broker, worker.queues, worker.lease)
    await broker._link.call(b"SADD", worker.keys.jobs, "a", "b", "c")
    await worker.push(message("a"), message("b"), message("c"))
    await worker.fetcher._claim(3)
    await worker.fetcher._end_blocks()
    executor = worker.worker._executor
    assert await executor.tick() == 3
    await asyncio.wait([job.task for job in worker.inflight if job.task is not None])
    inflight = worker.inflight
    assert (ran, inflight.running, inflight.life.started) == ([1], 0, 1)
    assert inflight.held == (0 if is_lost else 2), "what is not its own any more is dropped"
    if not is_lost:
        worker.lease.renewed(elapsed_s())
        assert await executor.tick() == 2, "it was only late: what waited starts"
        await asyncio.wait([job.task for job in worker.inflight if job.task is not None])
        assert len(ran) == 2, "the second one has aged the lease again"
