"""limits: a job whose time is up, or that is cancelled while it runs, is settled, whether it ends or not."""

import asyncio
import queue
import threading
import time
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest

from rqueue import JobFailed, JobRevoked, State
from rqueue.client.options import TaskOptions
from rqueue.config import WorkerConfig
from rqueue.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from rqueue.wire.message import Call
from rqueue.worker import limits as module
from rqueue.worker.inflight import Phase
from rqueue.worker.interrupt import FunctionRun
from rqueue.worker.limits import Alarm, TimeLimits, limits_of
from rqueue.worker.parent import Nobody
from rqueue.worker.worker import Worker

POOLS = {"async": {"concurrency": 2}, "threads": {"concurrency": 2}, "solo": {"concurrency": 1, "pool": "solo"}}


@pytest.fixture
def url(redis_url):
    """The store makes no difference here."""
    return redis_url


# Which limits


@pytest.mark.parametrize(
    ("call", "task", "worker", "override", "expected"),
    [
        ({}, {}, {}, None, None),
        ({}, {}, {"time_limit_s": 5}, None, TimeLimits(None, 5)),
        ({}, {"time_limit": 4}, {"time_limit_s": 5, "soft_time_limit_s": 2}, None, TimeLimits(2, 4)),
        ({}, {"soft_time_limit": timedelta(seconds=3)}, {"time_limit_s": 5}, None, TimeLimits(3, 5)),
        ({"time_limit": 1.5}, {"time_limit": 4, "soft_time_limit": 3}, {}, None, TimeLimits(3, 1.5)),
        ({"soft_time_limit": 1}, {"time_limit": 4, "soft_time_limit": 3}, {}, None, TimeLimits(1, 4)),
        ({"time_limit": 1}, {"time_limit": 4}, {"time_limit_s": 5}, (2, 3), TimeLimits(2, 3)),
        ({"time_limit": 1}, {}, {}, (None, 3), TimeLimits(None, 3)),
        ({"time_limit": 1}, {}, {"soft_time_limit_s": 0.5}, (None, None), None),
        ({"time_limit": 1e300, "soft_time_limit": 2**64 - 1}, {}, {}, None, TimeLimits(1e8, 1e8)),
    ],
)
def test_the_calls_limit_goes_before_the_tasks_and_that_before_the_workers(call, task, worker, override, expected):
    overrides = {} if override is None else {"t": override, "other": (9, 10)}
    assert limits_of(Call("t", **call), TaskOptions(**task), WorkerConfig(**worker), overrides) == expected


async def test_a_calls_limits_travel_in_its_message(app, call):
    @app.task(name="t", time_limit=9)
    async def t():
        pass

    async with app:
        await t.options(time_limit=timedelta(seconds=2), soft_time_limit=1).enqueue()
        await t.enqueue()
        plain, limited = await call(b"LRANGE", app.keys.queue("default").main, 0, -1)
    assert b'"time_limit":2.0,"soft_time_limit":1.0}' in limited
    assert b"time_limit" not in plain, "the task's own is the worker's to know"


# Jobs that run for too long. A limit is some milliseconds, and the job waits for ever: nothing is measured.


def waits_in(kind, seen, end=None, began=None):
    """A task's function that waits until it is interrupted, and writes down by what."""

    async def coroutine():
        try:
            if began is not None:
                began.set()
            await asyncio.Event().wait()
        except BaseException as exc:
            seen.append(type(exc).__name__)
            if end is not None:
                return end
            raise

    def function():
        try:
            if began is not None:
                began.set()
            while True:
                time.sleep(0.001)
        except BaseException as exc:
            seen.append(type(exc).__name__)
            if end is not None:
                return end
            raise

    return {"coroutine": coroutine, "function": function, "function that gives a coroutine": partial(coroutine)}[kind]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["coroutine", "function", "function that gives a coroutine"])
async def test_the_soft_limit_is_raised_inside_the_task(app, pool, kind):
    """The task may end well; what it does not catch is its failure. The next job is left alone."""
    seen = []

    caught = app.task(name="caught", soft_time_limit=0.02)(waits_in(kind, seen, "partly done"))
    fails = app.task(name="fails", soft_time_limit=0.02)(waits_in(kind, seen))

    @app.task(name="good")
    def good():
        return "unharmed"

    async with app, app.worker(**POOLS[pool]):
        assert await (await caught.enqueue()).result(5) == "partly done"
        job = await fails.enqueue()
        with pytest.raises(JobFailed) as failed:
            await job.result(5)
        assert failed.value.error_type == "SoftTimeLimitExceeded"
        assert "test_limits.py" in failed.value.traceback
        assert await (await good.enqueue()).result(5) == "unharmed"
    assert seen == ["SoftTimeLimitExceeded"] * 2


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["coroutine", "function", "function that gives a coroutine"])
@pytest.mark.parametrize("end", [None, "value"])
async def test_the_hard_limit_ends_the_run(app, log, pool, kind, end):
    """FAILURE with TimeLimitExceeded, whatever the task returns or raises, and where it was."""
    seen = []

    long = app.task(name="long", time_limit=0.02)(waits_in(kind, seen, end))
    async with app, app.worker(**POOLS[pool]) as worker:
        job = await long.enqueue()
        with pytest.raises(JobFailed, match=r"longer than its time_limit of 0\.02 s") as failed:
            await job.result(5)
        assert failed.value.error_type == "TimeLimitExceeded"
        assert (end is None) == ("test_limits.py" in failed.value.traceback)
        info = await job.info()
        assert (info.state, info.is_dead) == (State.FAILURE, True)
        assert not worker.must_be_replaced
    assert seen == ["TimeLimitExceeded" if kind == "function" else "CancelledError"]
    assert (await log.heard("time limit"))["id"] == job.id  # in solo a thread says it, in its own time
    assert len(log.of("time limit")) == 1


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_the_hard_limit_comes_after_a_soft_one_that_was_not_enough(app, kind):
    seen = []

    async def coroutine():
        await waits_in("coroutine", seen, "swallowed")()
        await waits_in("coroutine", seen)()

    def function():
        waits_in("function", seen, "swallowed")()
        waits_in("function", seen)()

    long = app.task(name="long", soft_time_limit=0.02, time_limit=0.05)(coroutine if kind == "coroutine" else function)
    async with app, app.worker():
        with pytest.raises(JobFailed, match="time_limit of"):
            await (await long.enqueue()).result(5)
    assert seen == ["SoftTimeLimitExceeded", "CancelledError" if kind == "coroutine" else "TimeLimitExceeded"]


async def test_a_soft_limit_beyond_the_hard_one_never_comes(app):
    seen = []

    long = app.task(name="long", soft_time_limit=0.5)(waits_in("coroutine", seen))
    async with app, app.worker(time_limit_s=0.02):
        with pytest.raises(JobFailed, match=r"time_limit of 0\.02"):
            await (await long.enqueue()).result(5)
        assert await asyncio.sleep(0, "still here") == "still here"
    assert seen == ["CancelledError"]


@pytest.mark.parametrize("limit", ["soft", "hard"])
async def test_a_job_whose_time_is_up_may_be_retried(app, limit):
    runs = []
    options = {"soft": {"soft_time_limit": 0.02}, "hard": {"time_limit": 0.02}}[limit]

    @app.task(
        name="long", autoretry_for=(SoftTimeLimitExceeded, TimeLimitExceeded), default_retry_delay=0.01, **options
    )
    async def long():
        runs.append(1)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return len(runs)

    async with app, app.worker():
        assert await (await long.enqueue()).result(5) == 2


async def test_an_override_goes_before_everything(app, gate):
    @app.task(name="t", time_limit=100)
    async def t():
        await gate()

    async with app, app.worker() as worker:
        worker._executor.overrides["t"] = (None, 0.02)
        with pytest.raises(JobFailed, match=r"time_limit of 0\.02"):
            await (await t.options(time_limit=50).enqueue()).result(5)
        worker._executor.overrides["t"] = (None, None)
        job = await t.options(time_limit=0.001).enqueue()
        await gate.reached(2)
        await asyncio.sleep(0.01)
        gate.open()
        assert await job.result(5) is None


async def test_a_job_that_ends_in_time_is_left_alone(app):
    @app.task(name="t", soft_time_limit=0.05, time_limit=0.1)
    async def t():
        return "in time"

    async with app, app.worker(concurrency=1):
        assert await (await t.enqueue()).result(5) == "in time"

        @app.task(name="later")
        async def later():
            await asyncio.sleep(0.15)
            return "also"

        assert await (await later.enqueue()).result(5) == "also"


def job_that_runs(run):
    return SimpleNamespace(
        run=run,
        verdict=None,
        is_interrupted=False,
        phase=Phase.RUNNING,
        task=None,
        id="j",
        seen={},
        level=0,
        worker="w",
    )


async def test_a_function_that_ended_in_time_is_not_judged_by_what_the_loop_hears_late():
    """The loop was busy: it learns of the end and of the limit in the same moment."""
    run = FunctionRun(len, ("ab",), {})
    assert run() == (2, None)
    job = job_that_runs(run)
    module._end(job, 1.0, pytest.fail, asyncio.get_running_loop())
    assert job.verdict is None


@pytest.mark.parametrize("why", ["verdict", "is_interrupted"])
def test_the_soft_limit_does_not_interrupt_the_cleaning_up(why):
    run = FunctionRun(len, ("ab",), {})
    job = job_that_runs(run)
    setattr(job, why, True)
    module._soften(job)
    assert run() == (2, None)


async def test_timers_end_with_their_run(app):
    @app.task(name="t", soft_time_limit=50, time_limit=60)
    def t():
        return 1

    async with app, app.worker(pool="solo", concurrency=1) as worker:
        for _ in range(3):
            assert await (await t.enqueue()).result(5) == 1
        assert worker._executor._alarm._bells == []


async def test_who_watches_is_told_of_jobs_with_a_hard_limit(app):
    seen = []

    class Watching(Nobody):
        def began(self, job):
            seen.append(("began", job.id, job.deadline_s - job.started_s))

        def ended(self, job):
            seen.append(("ended", job.id))

    @app.task(name="t")
    async def t():
        return 1

    async with app, Worker(app, app.worker()._config, Watching()):
        await (await t.options(job_id="free", soft_time_limit=50).enqueue()).result(5)
        await (await t.options(job_id="limited", time_limit=50).enqueue()).result(5)
    (began, ended) = seen
    assert (began[:2], ended) == (("began", "limited"), ("ended", "limited"))
    assert 50 <= began[2] < 55


# Jobs that do not end


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.05)


class Stubborn:
    """A place where a job stays, whatever is raised in it, until the test lets it go."""

    def __init__(self):
        self.inside, self.go, self.out = threading.Event(), False, threading.Event()

    def function(self):
        while not self.go:
            try:
                self.inside.set()
                while not self.go:
                    time.sleep(0.001)
            except TimeLimitExceeded:
                pass
            except JobRevoked:
                pass
        self.out.set()

    async def coroutine(self):
        while not self.go:
            try:
                self.inside.set()
                while not self.go:
                    await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass
        self.out.set()


@pytest.fixture
def stubborn():
    place = Stubborn()
    yield place
    place.go = True


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_job_that_does_not_end_is_settled_and_keeps_its_slot(app, log, until, short_grace, stubborn, kind):
    """In somebody's program there is no process to replace. Its end is nobody's affair, and frees the slot."""
    stuck = app.task(name="stuck", time_limit=0.02)(getattr(stubborn, kind))

    @app.task(name="good")
    async def good():
        return 1

    async with app, app.worker(concurrency=2, prefetch_multiplier=1) as worker:
        job = await stuck.enqueue()
        with pytest.raises(JobFailed, match="time_limit"):
            await job.result(5)
        assert await log.heard("job does not end, it keeps its slot", id=job.id)
        assert await (await good.enqueue()).result(5) == 1
        assert not worker.must_be_replaced
        assert (worker.running, worker._inflight.stuck, worker._inflight.idle_slots) == (0, 1, 1)
        stubborn.go = True
        await until(lambda: worker._inflight.stuck == 0)
        assert worker._inflight.idle_slots == 2
        await worker.drain()
        assert (await job.info()).state is State.FAILURE
    assert log.of("claim lost") == []


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_process_in_which_a_job_does_not_end_is_replaced(app, log, short_grace, stubborn, gate, kind):
    """The job is settled, what else runs is given back uncharged, and the worker ends by itself."""
    stuck = app.task(name="stuck", time_limit=0.05)(getattr(stubborn, kind))

    @app.task(name="other", bind=True)
    async def other(self):
        await gate()
        return self.request.losses

    async with app:
        worker = app.worker(concurrency=2, prefetch_multiplier=1)
        worker.is_replaceable = True
        running = asyncio.create_task(worker.run())
        await worker._ready.wait()
        bystander = await other.enqueue()
        await gate.reached()
        job = await stuck.enqueue()
        with pytest.raises(JobFailed, match="time_limit"):
            await job.result(5)
        await asyncio.wait_for(running, 10)
        assert worker.must_be_replaced
        assert await log.heard("job does not end, the process must be replaced", id=job.id)
        assert await log.heard("job released", id=bystander.id)
        stubborn.go = True
        gate.open()
        async with app.worker():
            assert await bystander.result(5) == 0
        assert (await job.info()).attempts == 1


async def test_a_stuck_job_does_not_keep_a_suspect_from_running(app, short_grace, stubborn, message, call, until):
    stuck = app.task(name="stuck", time_limit=0.02)(stubborn.coroutine)

    @app.task(name="suspect")
    async def suspect():
        return "alone"

    async with app, app.worker(concurrency=2, prefetch_multiplier=1) as worker:
        with pytest.raises(JobFailed):
            await (await stuck.enqueue()).result(5)
        await until(lambda: worker._inflight.stuck == 1)
        await call(b"LPUSH", app.keys.queue("default").main, message("s", "suspect", losses=2))
        try:
            await asyncio.wait_for(worker.drain(), 5)
            assert await app.job("s", "default").result(5) == "alone"
        finally:
            stubborn.go = True
        await until(lambda: worker._inflight.stuck == 0)


async def test_a_function_that_waits_for_a_thread_at_its_limit_does_not_run(app, until, short_grace, stubborn):
    """It is interrupted before it begins."""
    ran = []

    @app.task(name="hog")
    def hog():
        stubborn.function()

    @app.task(name="late", time_limit=0.05)
    def late():
        ran.append(1)

    async with app, app.worker(concurrency=1) as worker:
        hogging = await hog.enqueue()
        await asyncio.to_thread(stubborn.inside.wait, 5)
        worker._inflight.slots = worker._executor._thread_count = 2  # a slot without a thread of its own
        worker._inflight.signals.fetch.set()
        worker._inflight.signals.execute.set()
        job = await late.enqueue()
        with pytest.raises(JobFailed, match="time_limit"):
            await job.result(5)
        stubborn.go = True
        await hogging.result(5)
        await until(lambda: worker._inflight.stuck == 0)
    assert ran == []


# Cancelling


@pytest.mark.parametrize("pool", ["async", "threads"])
@pytest.mark.parametrize("kind", ["coroutine", "function"])
@pytest.mark.parametrize("end", [None, "value"])
async def test_a_running_job_is_cancelled(app, pool, kind, end):
    seen = []

    long = app.task(name="long", autoretry_for=(BaseException,))(waits_in(kind, seen, end, began := threading.Event()))
    async with app, app.worker(**POOLS[pool]) as worker:
        job = await long.enqueue()
        await asyncio.to_thread(began.wait, 5)
        assert not worker._executor.cancel("another")
        assert worker._executor.cancel(job.id)
        with pytest.raises(JobRevoked) as revoked:
            await job.result(5)
        assert revoked.value.job_id == job.id
        info = await job.info()
        assert (info.state, info.is_dead) == (State.REVOKED, False)
        await worker.drain()
        assert not worker._executor.cancel(job.id)
    assert seen == ["CancelledError" if kind == "coroutine" else "Cancelled"]


async def test_what_cannot_be_cancelled_goes_on_and_is_revoked_at_its_end(app, log, short_grace, stubborn):
    long = app.task(name="long")(stubborn.function)
    async with app, app.worker(concurrency=1) as worker:
        job = await long.enqueue()
        await asyncio.to_thread(stubborn.inside.wait, 5)
        assert worker._executor.cancel(job.id)
        assert await log.heard("cancelled job goes on", id=job.id)
        assert worker.running == 1
        stubborn.go = True
        with pytest.raises(JobRevoked):
            await job.result(5)


async def test_a_cancelled_job_that_does_not_end_still_has_its_time_limit(app, log, short_grace, stubborn):
    long = app.task(name="long", time_limit=0.3)(stubborn.function)
    async with app, app.worker(concurrency=1) as worker:
        job = await long.enqueue()
        await asyncio.to_thread(stubborn.inside.wait, 5)
        assert worker._executor.cancel(job.id)
        with pytest.raises(JobRevoked):
            await job.result(5)
        assert await log.heard("job does not end, it keeps its slot", id=job.id)
        stubborn.go = True


async def test_what_cannot_be_cancelled_is_given_up_when_it_is_to_be_terminated(app, log, short_grace, stubborn):
    """Its process is replaced, as after a hard limit. Breaks when the job is waited for."""
    long = app.task(name="long")(stubborn.function)
    async with app, app.worker(concurrency=1) as worker:
        job = await long.enqueue()
        await asyncio.to_thread(stubborn.inside.wait, 5)
        assert worker._executor.cancel(job.id)
        assert worker._executor.cancel(job.id, terminate=True)  # it did not end, and now it must
        with pytest.raises(JobRevoked):
            await job.result(5)
        assert await log.heard("job does not end, it keeps its slot", id=job.id)
        stubborn.go = True


# The alarm


def test_the_alarm_rings_in_order_and_not_for_what_was_taken_back():
    alarm, rung = Alarm(), queue.SimpleQueue()
    try:
        alarm.call_later(0.05, lambda: rung.put("second"))
        alarm.call_later(0.01, lambda: rung.put("first"))
        alarm.call_later(0.03, lambda: rung.put("never")).cancel()
        assert [rung.get(timeout=5) for _ in range(2)] == ["first", "second"]
        alarm.call_later(0.0, lambda: 1 / 0)
        alarm.call_later(0.001, lambda: rung.put("still"))
        assert rung.get(timeout=5) == "still"
        late = alarm.call_later(60, lambda: rung.put("never"))
        late.cancel()
        late.cancel()
        assert alarm._bells == []
    finally:
        alarm.close()
    alarm._thread.join(5)
    assert not alarm._thread.is_alive()
    assert rung.empty()
