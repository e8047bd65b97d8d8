"""perform: one run of one job, from its message to an outcome; nothing that a task raises gets past it."""

import asyncio
import contextlib
import functools
import gc
import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from rqueue import Depends, JobFailed, Reject, Retry, Snooze, current_request
from rqueue.testing import moving_clock
from rqueue.wire.record import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS
from rqueue.wire.state import State
from rqueue.worker.perform import failure_of

LEAK: ContextVar[str] = ContextVar("leak", default="clean")


class StrRaises(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


class StrExits(Exception):
    def __str__(self):
        raise SystemExit(3)


class StrIsNoString(Exception):
    def __str__(self):
        return 5


class ReprRaises(Exception):
    def __repr__(self):
        raise RuntimeError("no repr for you")


def recurse():
    return recurse()


async def recurse_async():
    return await recurse_async()


def in_a_circle():
    error, other = ValueError("a"), KeyError("b")
    error.__cause__, other.__cause__ = other, error
    return error


def raising(error):
    if callable(error) and not isinstance(error, type):
        error = error()
    raise error


RAISED = {
    "ValueError": (lambda: ValueError("bad"), "ValueError", "bad"),
    "SystemExit": (lambda: SystemExit(3), "SystemExit", "3"),
    "SystemExit without a code": (SystemExit, "SystemExit", ""),
    "KeyboardInterrupt": (KeyboardInterrupt, "KeyboardInterrupt", ""),
    "GeneratorExit": (GeneratorExit, "GeneratorExit", ""),
    "StopAsyncIteration": (lambda: StopAsyncIteration("end"), "StopAsyncIteration", "end"),
    "CancelledError": (lambda: asyncio.CancelledError("by me"), "CancelledError", "by me"),
    "TimeoutError": (lambda: TimeoutError("late"), "TimeoutError", "late"),
    "MemoryError": (MemoryError, "MemoryError", ""),
    "__str__ raises": (StrRaises, "StrRaises", "<str() of the exception raised RuntimeError>"),
    "__str__ exits": (StrExits, "StrExits", "<str() of the exception raised SystemExit>"),
    "__str__ is no string": (StrIsNoString, "StrIsNoString", "<str() of the exception raised TypeError>"),
    "__repr__ raises": (lambda: ReprRaises("x"), "ReprRaises", "x"),
    "surrogates": (lambda: ValueError("a\ud800b"), "ValueError", "a\\ud800b"),
    "a null byte": (lambda: ValueError("a\0b"), "ValueError", "a\0b"),
    "giant": (lambda: ValueError("x" * 5_000_000), "ValueError", "x" * MAX_ERROR_CHARS),
    "a group": (
        lambda: BaseExceptionGroup("many", [SystemExit(1), ValueError("v")]),
        "BaseExceptionGroup",
        "many (2 sub-exceptions)",
    ),
    "a cause in a circle": (in_a_circle, "ValueError", "a"),
}


@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_task_raises_is_its_failure(app, name):
    """FAILURE with type, bounded message and traceback; the next job runs on the same worker."""
    make, error_type, text = RAISED[name]

    @app.task(name="coroutine")
    async def coroutine():
        raising(make)

    @app.task(name="thread")
    def thread():
        raising(make)

    @app.task(name="good")
    async def good():
        return "still here"

    async with app, app.worker(concurrency=1) as worker:
        before = worker.id
        for bad in (coroutine, thread):
            job = await bad.enqueue()
            with pytest.raises(JobFailed) as caught:
                await job.result(5)
            assert (caught.value.error_type, caught.value.message) == (error_type, text)
            assert caught.value.traceback
            assert len(caught.value.traceback) <= MAX_TRACEBACK_CHARS
            info = await job.info()
            assert (info.state, info.is_dead, info.worker) == (State.FAILURE, True, before)
            assert await (await good.enqueue()).result(5) == "still here"
        assert worker.id == before


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_stop_iteration_is_a_failure(app, kind):
    async def coroutine():
        raise StopIteration("end")

    def thread():
        raise StopIteration("end")

    bad = app.task(name="bad")(coroutine if kind == "coroutine" else thread)
    async with app, app.worker(concurrency=1):
        with pytest.raises(JobFailed) as caught:
            await (await bad.enqueue()).result(5)
        assert caught.value.error_type == "RuntimeError"
        assert "StopIteration" in caught.value.message


@pytest.mark.parametrize("function", [recurse, recurse_async])
async def test_endless_recursion_is_a_failure(app, function):
    bad = app.task(name="bad")(function)
    async with app, app.worker(concurrency=1):
        for _ in range(2):
            with pytest.raises(JobFailed) as caught:
                await (await bad.enqueue()).result(5)
            assert caught.value.error_type == "RecursionError"
            assert caught.value.traceback


async def test_a_task_that_cancels_itself_fails_alone(app):
    """Not Interrupted: only a stopping worker gives a job back."""

    @app.task(name="selfish")
    async def selfish():
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    @app.task(name="good")
    async def good():
        return 1

    async with app, app.worker(concurrency=1):
        with pytest.raises(JobFailed, match="CancelledError"):
            await (await selfish.enqueue()).result(5)
        assert await (await good.enqueue()).result(5) == 1


async def test_a_task_that_cancels_itself_and_returns_has_succeeded(app):
    @app.task(name="selfish")
    async def selfish():
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    async with app, app.worker(concurrency=1):
        assert await (await selfish.enqueue()).result(5) == "done"
        assert await (await selfish.enqueue()).result(5) == "done"


async def test_a_class_of_exceptions_with_a_giant_name_is_bounded(app):
    giant = type("E" * 5_000_000, (Exception,), {})

    @app.task(name="bad")
    async def bad():
        raise giant("x")

    async with app, app.worker(concurrency=1):
        with pytest.raises(JobFailed) as caught:
            await (await bad.enqueue()).result(5)
        assert len(caught.value.error_type) <= MAX_ERROR_CHARS


def test_a_failures_text_is_bounded_from_its_end():
    """The end of a traceback says what happened."""
    try:
        recurse()
    except RecursionError as error:
        failure = failure_of(error)
    with contextlib.suppress(ValueError):
        raise ValueError("y" * 100_000)
    assert failure.traceback is not None
    assert failure.traceback.rstrip().endswith("maximum recursion depth exceeded")
    assert len(failure.traceback) <= MAX_TRACEBACK_CHARS


# What a task returns


@dataclass
class Point:
    x: int
    y: float


VALUES = {
    "none": (None, None),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "tag": ({"$bytes": "plain"}, {"$bytes": "plain"}),
    "datetime": (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
    "dataclass": (Point(1, 2.5), {"x": 1, "y": 2.5}),
    "large integer": (2**64 - 1, 2**64 - 1),
}


@pytest.mark.parametrize("name", VALUES)
async def test_values_come_back(app, name):
    value, expected = VALUES[name]

    @app.task(name="give")
    async def give():
        return value

    async with app, app.worker(concurrency=1):
        assert await (await give.enqueue()).result(5) == expected


def endless():
    value: list = []
    value.append(value)
    return value


def deep():
    value: list = []
    for _ in range(5000):
        value = [value]
    return value


NOT_JSON = {
    "a set": lambda: {1},
    "an object": object,
    "NaN": lambda: float("nan"),
    "an integer beyond 64 bits": lambda: 2**64,
    "a key that is no string": lambda: {1: 2},
    "a lone surrogate": lambda: "\ud800",
    "itself": endless,
    "deep": deep,
    "an exception": lambda: ValueError("returned, not raised"),
    "a function": lambda: recurse,
}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_a_value_that_is_not_json_is_a_result_error(app, name):
    """A typed failure of the job, never a hung waiter; the next job runs."""

    @app.task(name="give")
    async def give():
        return NOT_JSON[name]()

    @app.task(name="good")
    async def good():
        return 1

    async with app, app.worker(concurrency=1):
        with pytest.raises(JobFailed) as caught:
            await (await give.enqueue()).result(5)
        assert caught.value.error_type == "ResultError"
        assert await (await good.enqueue()).result(5) == 1


async def test_a_value_that_is_too_large_is_a_result_error(url, app):
    from rqueue import RQueue

    small = RQueue(url, max_message_bytes=1000)

    @small.task(name="give")
    async def give(size: int):
        return "x" * size

    async with small, small.worker(concurrency=1):
        assert await (await give.enqueue(998)).result(5) == "x" * 998
        with pytest.raises(JobFailed, match="max_message_bytes is 1,000") as caught:
            await (await give.enqueue(999)).result(5)
        assert caught.value.error_type == "ResultError"


async def test_an_async_generator_is_no_task(app):
    """It is called like a plain function, and what it gives back is no value."""

    @app.task(name="stream")
    async def stream():
        yield 1

    @app.task(name="good")
    async def good():
        return 1

    async with app, app.worker(concurrency=1):
        with pytest.raises(JobFailed) as caught:
            await (await stream.enqueue()).result(5)
        assert caught.value.error_type == "ResultError"
        assert "async_generator" in caught.value.message
        assert await (await good.enqueue()).result(5) == 1


async def test_a_coroutine_that_a_plain_function_returns_is_awaited_or_refused(app):
    """A decorator that is no coroutine function itself: either way there is an end, and nothing is left unawaited."""

    async def inner():
        return 1

    @app.task(name="wrapped")
    def wrapped():
        return inner()

    async with app, app.worker(concurrency=1):
        job = await wrapped.enqueue()
        try:
            assert await job.result(5) == 1
        except JobFailed as error:
            assert error.error_type == "ResultError"
    gc.collect()  # "was never awaited" would be an error here


# How a task is called


async def test_coroutines_run_on_the_loop_and_functions_in_threads(app):
    import threading

    @app.task(name="on_loop")
    async def on_loop():
        return threading.get_ident()

    @app.task(name="in_thread")
    def in_thread():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return threading.get_ident()

    async with app, app.worker():
        assert await (await on_loop.enqueue()).result(5) == threading.get_ident()
        assert await (await in_thread.enqueue()).result(5) != threading.get_ident()


async def test_arguments_arrive_as_they_were_given(app):
    @app.task(name="echo", bind=True)
    async def echo(self, a, /, b=2, *args, c, **more):
        return [self.request.task, a, b, list(args), c, more]

    @app.task(name="plain")
    def plain(*args, **kwargs):
        return [list(args), kwargs]

    async with app, app.worker():
        job = await echo.enqueue(1, 3, 4, c=b"x", **{"not an identifier": None})
        assert await job.result(5) == ["echo", 1, 3, [4], b"x", {"not an identifier": None}]
        assert await (await plain.enqueue(1, k={"n": [1.5]})).result(5) == [[1], {"k": {"n": [1.5]}}]


async def test_arguments_that_do_not_fit_are_a_failure(app, call):
    """A producer in another language may send anything."""

    @app.task(name="one")
    async def one(a):
        return a

    async with app:
        await call(b"LPUSH", app.keys.queue("default").main, b'{"task":"one","args":[1,2],"id":"bad"}')
        async with app.worker() as worker:
            await worker.drain()
        with pytest.raises(JobFailed) as caught:
            await app.job("bad", "default").result(5)
        assert caught.value.error_type == "TypeError"


async def test_partials_are_tasks(app):
    async def add(a, b):
        return a + b

    part = app.task(name="part")(functools.partial(add, 1))
    async with app, app.worker():
        assert await (await part.enqueue(2)).result(5) == 3


async def test_callable_objects_are_tasks(app):
    class Double:
        def __call__(self, a):
            return a * 2

    class DoubleLater:
        async def __call__(self, a):
            return a * 2

    plain = app.task(name="plain")(Double())
    later = app.task(name="later")(DoubleLater())
    async with app, app.worker():
        assert await (await plain.enqueue(2)).result(5) == 4
        assert await (await later.enqueue(2)).result(5) == 4


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_bound_task_knows_its_job(app, kind):
    def about(self):
        request = self.request
        return [
            request.id,
            request.task,
            list(request.args),
            dict(request.kwargs),
            request.queue,
            request.priority,
            request.retries,
            request.losses,
            request.worker,
            request.parent_id,
            request.root_id,
        ]

    async def coroutine(self, a, *, b):
        assert current_request() is self.request
        return about(self)

    def thread(self, a, *, b):
        assert current_request() is self.request
        return about(self)

    task = app.task(name="who", bind=True)(coroutine if kind == "coroutine" else thread)
    async with app, app.worker() as worker:
        job = await task.options(priority=7, job_id="me").enqueue(1, b=2)
        assert await job.result(5) == ["me", "who", [1], {"b": 2}, "default", 7, 0, 0, worker.id, None, "me"]
        assert current_request() is None


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_context_variables_do_not_leak_into_the_next_job(app, kind):
    async def coroutine():
        before = LEAK.get()
        LEAK.set("dirty")
        return [before, LEAK.get()]

    def thread():
        before = LEAK.get()
        LEAK.set("dirty")
        return [before, LEAK.get()]

    task = app.task(name="leak")(coroutine if kind == "coroutine" else thread)
    async with app, app.worker(concurrency=1):
        for _ in range(3):
            assert await (await task.enqueue()).result(5) == ["clean", "dirty"]
    assert LEAK.get() == "clean"
    assert current_request() is None


# Signals


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_retry_is_no_failure(app, kind):
    def work(self):
        if self.request.retries < 2:
            self.retry(countdown=0.01, exc=ValueError("not yet"))
        return self.request.retries

    async def coroutine(self):
        return work(self)

    task = app.task(name="flaky", bind=True, max_retries=2)(coroutine if kind == "coroutine" else work)
    async with app, app.worker() as worker:
        job = await task.enqueue()
        assert await job.result(5) == 2
        await worker.drain(scheduled=True)
        assert (await job.info()).attempts == 3


async def test_retry_is_not_caught_by_except_exception_that_raises_again(app):
    """``Retry`` is an exception: a task that swallows it has succeeded, as in Celery."""

    @app.task(name="swallow", bind=True)
    async def swallow(self):
        with contextlib.suppress(Exception):
            self.retry(countdown=0)
        return "swallowed"

    async with app, app.worker():
        assert await (await swallow.enqueue()).result(5) == "swallowed"


WRONG_RETRIES = {
    "text": lambda: Retry("soon"),  # type: ignore[arg-type]
    "NaN": lambda: Retry(float("nan")),
    "infinite": lambda: Retry(float("inf")),
    "a limit that is no number": lambda: Retry(0, max_retries="3"),
    "no exception": lambda: Retry(0, exc="text"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG_RETRIES)
async def test_a_wrong_retry_is_a_failure_and_the_slot_is_free(app, name):
    """``Retry`` may be raised by hand, with anything in it: the job ends or runs again, and the next job runs."""
    runs = []

    @app.task(name="wrong", max_retries=1)
    async def wrong():
        runs.append(1)
        if len(runs) > 1:
            raise ValueError("second run")
        raise WRONG_RETRIES[name]()

    @app.task(name="good")
    async def good():
        return 1

    async with app, app.worker(concurrency=1, shutdown_timeout=0):
        job = await wrong.enqueue()
        with pytest.raises(JobFailed):
            await job.result(1)
        assert await (await good.enqueue()).result(1) == 1


async def test_nothing_of_a_job_is_kept_alive(app):
    """A traceback would hold the frames, and the frames the arguments."""
    import weakref

    class Thing:
        pass

    refs = []

    @app.task(name="bad")
    async def bad():
        thing = Thing()
        refs.append(weakref.ref(thing))
        raise ValueError

    async with app, app.worker(concurrency=1) as worker:
        for _ in range(3):
            with pytest.raises(JobFailed):
                await (await bad.enqueue()).result(5)
        await worker.drain()
        gc.collect()
        assert [ref() for ref in refs[:-1]] == [None, None]
    assert sys.exc_info() == (None, None, None)


# Resources


async def client():
    yield "the client"


async def test_a_task_gets_its_resources_whatever_its_kind(app, broker, call):
    """By their names, beside what the message gives; the message has nothing of them."""

    @app.task(name="coroutine")
    async def coroutine(url, client=Depends(client), *, depth=1):
        return [url, client, depth]

    @app.task(name="thread")
    def thread(url, client=Depends(client), depth=1):
        return [url, client, depth]

    @app.task(name="bound", bind=True)
    async def bound(self, url, *, client=Depends(client), depth=1):
        return [self.request.args[0], client, depth]

    async with app:
        jobs = [await task.enqueue("x", depth=2) for task in (coroutine, thread, bound)]
        for raw in await call(b"LRANGE", broker.keys.queue("default").lists[0], 0, -1):
            assert b"client" not in raw
        async with app.worker():
            for job in jobs:
                assert await job.result(5) == ["x", "the client", 2]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_job_may_call_another_task_directly(app, kind):
    @app.task(name="inner")
    def inner(url, client=Depends(client)):
        return [url, client]

    @app.task(name="inner coroutine")
    async def inner_coroutine(url, client=Depends(client)):
        return [url, client]

    async def coroutine():
        return [inner("x"), await inner_coroutine("y")]

    def thread():
        return [inner("x"), inner("y")]

    outer = app.task(name="outer")(coroutine if kind == "coroutine" else thread)
    async with app, app.worker():
        assert await (await outer.enqueue()).result(5) == [["x", "the client"], ["y", "the client"]]


async def test_a_message_cannot_give_a_resource(app, broker, call):
    """Whoever can write to the queue would choose the client."""

    @app.task(name="t", max_retries=0)
    async def t(url, client=Depends(client), **more):
        return "ran"

    bodies = {"by-name": '"args":["x"],"kwargs":{"client":"mine"}', "by-place": '"args":["x","mine"]'}
    async with app, app.worker() as worker:
        for name, body in bodies.items():
            message = f'{{"task":"t","id":"{name}",{body}}}'
            await call(b"LPUSH", broker.keys.queue("default").lists[0], message.encode())
            await worker.drain()
            with pytest.raises(JobFailed, match=r"TypeError: .*'client'"):
                await app.job(name, "default").result(5)


async def test_a_task_that_is_registered_after_the_start_opens_its_resource_at_its_first_job(app):
    """Once, outside the job's context; a failure is the job's, and the next job tries again."""
    parents = []

    async def late():
        parents.append(current_request())
        if len(parents) == 1:
            raise OSError("refused")
        yield len(parents)

    async with app, app.worker():

        @app.task(name="t", max_retries=0)
        async def t(late=Depends(late)):
            return late

        with pytest.raises(JobFailed, match=r"StartupFailed: resource .*late failed: OSError: refused"):
            await (await t.enqueue()).result(5)
        jobs = await app.enqueue_many([t.s() for _ in range(5)])
        assert [await job.result(5) for job in jobs] == [2] * 5
    assert parents == [None, None]


# What a task raises on purpose


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_snoozed_job_runs_again_and_has_spent_no_retry(app, broker, log, leaked, kind):
    """Several in a row are fine, with no retry at all. Breaks when it counts, is told as an error, or as still
    running.
    """
    runs = []

    def step(self):
        runs.append(self.request.retries)
        if len(runs) < 4:
            raise Snooze(60)
        return "now"

    async def coroutine(self):
        return step(self)

    options = {"name": "t", "bind": True, "max_retries": 0, "track_started": True, "priority": 3}
    t = app.task(**options)(coroutine if kind == "coroutine" else step)
    async with app, moving_clock(app) as clock, app.worker() as worker:
        job = await t.enqueue()
        for count in (1, 2, 3):
            assert (await log.heard("job deferred", count))["snooze"] == 60
            info = await job.info()
            assert (info.state, info.error, info.attempts, info.history) == (State.PENDING, None, 1, ())
            assert len(runs) == count
            await clock.move(60)
        assert await job.result(5) == "now"
        assert runs == [0] * 4
        await worker._settler.drained()
        assert worker._settler.ended == {("t", "SUCCESS"): 1}
    assert [line for line in log.lines if line[0] > 20] == [], "nothing of it is worth a warning"
    assert set(await leaked(broker)) <= {"rqueue:clock"}


async def test_a_snoozed_retry_shows_its_error_while_it_waits(app, log):
    @app.task(name="t", bind=True, autoretry_for=(OSError,), default_retry_delay=0.001, max_retries=1)
    async def t(self):
        if self.request.retries:
            raise Snooze(600)
        raise OSError("away")

    async with app, app.worker():
        job = await t.enqueue()
        await log.heard("job deferred", snooze=600)
        info = await job.info()
        assert (info.state, info.error, info.attempts) == (State.RETRY, "OSError: away", 2)


async def test_a_rejected_job_is_a_dead_letter_with_that_reason(app, broker, letters):
    @app.task(name="t", autoretry_for=(Exception,), default_retry_delay=0)
    async def t():
        raise Reject("no such customer")

    async with app, app.worker():
        with pytest.raises(JobFailed, match="Reject: no such customer"):
            await (await t.enqueue()).result(5)
    ((letter),) = await letters(broker)
    assert (letter.reason, letter.retries, letter.failure.message) == ("rejected", 0, "no such customer")


async def test_a_job_that_goes_back_goes_behind_those_that_wait(app, log):
    ran = []

    @app.task(name="t", bind=True)
    async def t(self, name):
        ran.append((name, self.request.retries))
        if name == "a" and len(ran) == 1:
            raise Reject(requeue=True)

    async with app:
        for name in "abc":
            await t.enqueue(name)
        async with app.worker(concurrency=1) as worker:
            await worker.drain(scheduled=True)
    assert sorted(ran[:3]) == [("a", 0), ("b", 0), ("c", 0)]
    assert ran[-1] == ("a", 0)
    assert len(ran) == 4
    assert len(log.of("job deferred", snooze=0.0)) == 1


@pytest.mark.parametrize("how", ["throws", "retry"])
async def test_an_expected_failure_is_no_news(app, broker, letters, log, how):
    """Logged as information, without a dead letter; whoever waits is told as ever."""

    @app.task(name="t", bind=True, throws=(LookupError,), max_retries=0)
    async def t(self):
        if how == "retry":
            self.retry(exc=KeyError("gone"))
        raise KeyError("gone")

    async with app, app.worker():
        with pytest.raises(JobFailed, match="KeyError: 'gone'"):
            await (await t.enqueue()).result(5)
    assert await letters(broker) == []
    assert [level for level, text, _ in log.lines if text == "job failed"] == [logging.INFO]
    assert log.loud() == []
