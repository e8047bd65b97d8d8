"""interrupt: an exception is raised inside what runs, where it waits, and nowhere else."""

import asyncio
import contextlib
import ctypes
import functools
import os
import queue
import signal
import sys
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
import uvloop

from rqueue.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from rqueue.worker import interrupt as module
from rqueue.worker.interrupt import Driven, FunctionRun

PATIENCE_S = 10.0


@pytest.fixture(params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a test's coroutine on each kind of loop; nothing may be left running, nor reported to the loop."""

    def go(main):
        reported = []

        async def checked():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
            async with asyncio.timeout(PATIENCE_S):
                value = await main()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "something was left running"
            return value

        with asyncio.Runner(loop_factory=request.param) as runner:
            value = runner.run(checked())
        assert reported == []
        return value

    return go


class Job:
    """A coroutine that is driven in a task of its own, and the points that it has reached."""

    def __init__(self, function):
        self.waits = asyncio.Event()
        self.never = asyncio.Event()
        self.seen = []
        self.is_ending = False
        self.task = asyncio.create_task(self._run(function))

    async def _run(self, function):
        self.driven = Driven(function(self), lambda: self.is_ending)
        return await self.driven

    async def wait(self, name="wait"):
        """Wait for ever; what ends it is written down."""
        self.waits.set()
        try:
            await self.never.wait()
        except BaseException as exc:
            self.seen.append((name, type(exc).__name__))
            raise

    async def soften(self):
        """Reach its limit, when it waits and nothing else is to be done."""
        await self.waits.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        self.driven.soften()


def softened(run, function):
    """What a job that reaches its soft limit where it waits gives or raises, and what it has seen."""

    async def main():
        job = Job(function)
        await job.soften()
        (ended,) = await asyncio.gather(job.task, return_exceptions=True)
        return ended, job.seen

    return run(main)


SOFT = "SoftTimeLimitExceeded"


def is_soft(error):
    return type(error) is SoftTimeLimitExceeded


# Where a coroutine waits


def test_it_is_raised_where_the_coroutine_waits(run):
    async def work(job):
        await job.wait()

    ended, seen = softened(run, work)
    assert is_soft(ended)
    assert str(ended) == "the job has run for longer than its soft_time_limit"
    assert seen == [("wait", SOFT)]


def test_a_task_may_catch_it_and_go_on(run):
    """Once: what follows waits as ever."""

    async def work(job):
        try:
            await job.wait()
        except SoftTimeLimitExceeded:
            for _ in range(5):
                await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0.001))
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return "cleaned up"

    assert softened(run, work) == ("cleaned up", [("wait", SOFT)])


def test_what_ends_by_itself_is_not_interrupted(run):
    async def main():
        async def work(job):
            await asyncio.sleep(0)
            return 7

        job = Job(work)
        assert await job.task == 7
        job.driven.soften()
        await asyncio.sleep(0)
        assert not job.task.cancelled()

    run(main)


def test_values_and_exceptions_pass_as_ever(run):
    async def main():
        async def work(job):
            assert await asyncio.sleep(0, 3) == 3
            with pytest.raises(ValueError, match="inner"):
                await failing()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_exception, KeyError("later"))
            with pytest.raises(KeyError):
                await future
            raise LookupError("end")

        async def failing():
            await asyncio.sleep(0)
            raise ValueError("inner")

        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        with pytest.raises(LookupError, match="end"):
            await Job(work).task

    run(main)


def test_any_awaitable_is_driven(run):
    """A future that a plain function has given back."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        job = Job(lambda job: future)
        await asyncio.sleep(0)
        job.driven.soften()
        with pytest.raises(SoftTimeLimitExceeded):
            await job.task
        assert future.cancelled()

    run(main)


@pytest.mark.parametrize("inside", ["asyncio.timeout", "fail_after", "move_on_after", "CancelScope", "shielded scope"])
def test_inside_scopes_and_timeouts(run, inside):
    """It is not taken for theirs, and leaves nothing behind for the next one."""
    made = {
        "asyncio.timeout": lambda: asyncio.timeout(60),
        "fail_after": lambda: as_async(anyio.fail_after(60)),
        "move_on_after": lambda: as_async(anyio.move_on_after(60)),
        "CancelScope": lambda: as_async(anyio.CancelScope()),
        "shielded scope": lambda: as_async(anyio.CancelScope(shield=True)),
    }[inside]

    @asynccontextmanager
    async def as_async(manager):
        with manager as inner:
            yield inner

    async def work(job):
        try:
            async with made():
                await job.wait()
        except SoftTimeLimitExceeded:
            job.seen.append("caught")
        async with made():
            await asyncio.sleep(0.001)
        with anyio.move_on_after(0) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught
        return "went on"

    assert softened(run, work) == ("went on", [("wait", SOFT), "caught"])


def test_what_is_gathered_is_cancelled(run):
    async def work(job):
        await asyncio.gather(job.wait("a"), job.wait("b"))

    ended, seen = softened(run, work)
    assert is_soft(ended)
    assert seen == [("a", "CancelledError"), ("b", "CancelledError")]


def test_what_is_shielded_goes_on(run):
    async def work(job):
        inner = asyncio.create_task(shielded(job))
        try:
            await asyncio.shield(inner)
        except SoftTimeLimitExceeded:
            job.never.set()
            return await inner

    async def shielded(job):
        await job.wait()
        return "unharmed"

    assert softened(run, work) == ("unharmed", [])


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_child_that_ends_otherwise_at_its_cancellation_hides_nothing(run, end):
    async def work(job):
        await asyncio.create_task(child(job))

    async def child(job):
        try:
            await job.wait()
        except asyncio.CancelledError:
            if end == "raises":
                raise ValueError("at the cancellation") from None

    ended, _ = softened(run, work)
    assert is_soft(ended)
    assert isinstance(ended.__context__, ValueError) == (end == "raises")


def test_wait_for_leaves_nothing_running(run):
    """Before Python 3.12 it ends its inner task only at a CancelledError."""

    async def work(job):
        try:
            await asyncio.wait_for(job.wait(), 60)
        finally:
            job.seen.append("left")

    ended, seen = softened(run, work)
    assert is_soft(ended)
    assert seen == [("wait", "CancelledError" if sys.version_info < (3, 12) else SOFT), "left"]


def test_inside_an_async_generator(run):
    async def work(job):
        async for _ in numbers(job):
            pass

    async def numbers(job):
        yield 1
        await job.wait()

    ended, seen = softened(run, work)
    assert is_soft(ended)
    assert seen == [("wait", SOFT)]


def test_while_it_gives_others_a_turn(run):
    """It waits for no future: it is never idle, and is interrupted all the same."""

    async def work(job):
        job.waits.set()
        while True:
            await asyncio.sleep(0)

    ended, _ = softened(run, work)
    assert is_soft(ended)


# Task groups


@asynccontextmanager
async def hidden(group):
    """A group inside somebody's context manager, where only an async generator waits."""
    async with group() as inner:
        yield inner


GROUPS = {
    "asyncio": asyncio.TaskGroup,
    "anyio": anyio.create_task_group,
    "asyncio, in a context manager": functools.partial(hidden, asyncio.TaskGroup),
    "anyio, in a context manager": functools.partial(hidden, anyio.create_task_group),
}


def start(group, function, *args):
    if isinstance(group, asyncio.TaskGroup):
        group.create_task(function(*args))
    else:
        group.start_soon(function, *args)


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("where", ["body", "end"])
def test_a_task_group_ends_its_children_and_raises_a_group(run, kind, where):
    """Thrown into the group's end it would leave the children running."""

    async def work(job):
        async with GROUPS[kind]() as group:
            start(group, job.wait, "child")
            start(group, job.wait, "child")
            if where == "body":
                await job.wait("body")

    ended, seen = softened(run, work)
    assert isinstance(ended, ExceptionGroup)
    assert [is_soft(each) for each in ended.exceptions] == [True]
    children = [("child", "CancelledError")] * 2
    assert sorted(seen) == sorted([("body", SOFT), *children] if where == "body" else children)


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
def test_the_innermost_group_is_the_one(run, kind):
    async def work(job):
        try:
            async with GROUPS[kind]() as outer:
                start(outer, job.wait, "outer")
                try:
                    async with GROUPS[kind]() as inner:
                        start(inner, job.wait, "inner")
                except* SoftTimeLimitExceeded:
                    job.seen.append("inner ended")
                    job.never.set()
        finally:
            job.seen.append("outer ended")

    ended, seen = softened(run, work)
    assert ended is None
    assert seen == [("inner", "CancelledError"), "inner ended", "outer ended"]


def test_a_group_that_is_ending_is_left_to_it_and_what_follows_is_interrupted(run):
    async def main():
        cleaning, may_end = asyncio.Event(), asyncio.Event()

        async def work(job):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(stubborn())
                    group.create_task(failing())
            except* ValueError:
                job.seen.append("failed by itself")
            await job.wait()

        async def stubborn():
            try:
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                await may_end.wait()

        async def failing():
            raise ValueError

        job = Job(work)
        await cleaning.wait()
        job.driven.soften()
        may_end.set()
        with pytest.raises(SoftTimeLimitExceeded):
            await job.task
        assert job.seen == ["failed by itself", ("wait", SOFT)]

    run(main)


# Together with real cancellations


def test_a_shutdown_goes_before_it(run):
    async def main():
        async def work(job):
            await job.wait()

        job = Job(work)
        await job.waits.wait()
        job.driven.soften()
        job.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job.task
        assert job.seen == [("wait", "CancelledError")]

    run(main)


def test_nothing_interrupts_the_cleaning_up_of_a_shutdown(run):
    async def main():
        cleaning, may_end = asyncio.Event(), asyncio.Event()

        async def work(job):
            try:
                await job.wait()
            finally:
                cleaning.set()
                await may_end.wait()
                job.seen.append("cleaned up")

        job = Job(work)
        await job.waits.wait()
        job.is_ending = True
        job.task.cancel()
        await cleaning.wait()
        job.driven.soften()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await job.task
        assert job.seen[-1] == "cleaned up"

    run(main)


@pytest.mark.parametrize("first", ["soft limit", "timeout"])
@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
def test_a_timeout_in_the_same_moment_is_a_timeout_and_the_limit_comes_after_it(run, kind, first):
    """Neither is lost: the one that is not met now is met at the next wait."""

    async def main():
        scopes = []

        async def work(job):
            try:
                if kind == "asyncio":
                    async with asyncio.timeout(None) as scope:
                        scopes.append(scope)
                        await job.wait("in")
                else:
                    with anyio.CancelScope() as scope:
                        scopes.append(scope)
                        await job.wait("in")
            except TimeoutError:
                pass
            job.seen.append("after")
            await job.wait("out")

        job = Job(work)
        await job.waits.wait()
        (scope,) = scopes

        def expire():
            if kind == "asyncio":
                scope._on_timeout()
            else:
                scope.cancel()

        if first == "timeout":
            expire()
            job.driven.soften()
        else:
            job.driven.soften()
            expire()
        (ended,) = await asyncio.gather(job.task, return_exceptions=True)
        assert is_soft(ended)
        if kind == "asyncio":
            assert job.seen == [("in", "CancelledError"), "after", ("out", SOFT)]

    run(main)


# Locks: what only a cancellation is expected to do is done


@pytest.mark.parametrize("when", ["held", "released in the same moment"])
@pytest.mark.parametrize("make", [asyncio.Lock, anyio.Lock, asyncio.Semaphore, lambda: anyio.Semaphore(1)])
def test_a_lock_that_a_job_waited_for_is_as_good_as_before(run, make, when):
    """Breaks when the others wait for ever: the lock has woken one that had gone."""

    async def main():
        lock, gone = make(), asyncio.Event()
        waiting = asyncio.Event()

        async def holder():
            async with lock:
                waiting.set()
                await gone.wait()

        async def work(job):
            job.waits.set()
            async with lock:
                pytest.fail("it must not get it")

        async def other():
            async with lock:
                return "got it"

        first = asyncio.create_task(holder())
        await waiting.wait()
        job = Job(work)
        await job.waits.wait()
        await asyncio.sleep(0)
        second = asyncio.create_task(other())
        await asyncio.sleep(0)
        if when != "held":
            gone.set()
            await asyncio.sleep(0)  # the holder is the next to run, and releases before the job has noticed
        job.driven.soften()
        with pytest.raises((SoftTimeLimitExceeded, pytest.fail.Exception)):
            await job.task
        gone.set()
        await first
        assert await second == "got it"
        async with lock:
            pass

    run(main)


def test_a_woken_waiter_of_a_lock_that_is_released_meanwhile_wakes_the_next(run):
    """The one moment in which asyncio.Lock counts on a CancelledError."""

    async def main():
        lock = asyncio.Lock()
        await lock.acquire()

        async def work(job):
            job.waits.set()
            await lock.acquire()

        async def other():
            async with lock:
                return "got it"

        job = Job(work)
        await job.waits.wait()
        second = asyncio.create_task(other())
        await asyncio.sleep(0)
        job.driven.soften()
        lock.release()  # wakes the first waiter, which is cancelled already
        with pytest.raises(SoftTimeLimitExceeded):
            await job.task
        assert await second == "got it"

    run(main)


@pytest.mark.parametrize("make", [asyncio.Condition, anyio.Condition])
def test_a_condition_has_its_lock_again_before_it_is_left(run, make):
    async def main():
        condition = make()

        async def work(job):
            async with condition:
                job.waits.set()
                await condition.wait()
            await job.wait("after")

        job = Job(work)
        await job.waits.wait()
        await asyncio.sleep(0)
        async with condition:
            condition.notify()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            job.driven.soften()  # it waits for the lock that is held here
            await asyncio.sleep(0)
            assert not job.task.done()
        with pytest.raises(SoftTimeLimitExceeded):
            await job.task

    run(main)


def test_an_anyio_lock_is_not_kept_by_a_job_that_was_interrupted_while_it_took_it(run):
    """Anyio gives the others a turn between taking a free lock and returning."""

    async def main():
        lock = anyio.Lock()

        async def work(job):
            job.waits.set()
            async with lock:
                await job.wait("inside")

        job = Job(work)
        await asyncio.sleep(0)
        job.driven.soften()
        with pytest.raises(SoftTimeLimitExceeded):
            await job.task
        assert job.seen == [("inside", SOFT)]
        assert not lock.locked()

    run(main)


# Plain functions


class Thread:
    """A thread that runs what it is given, one after the other, as a pool's does."""

    def __init__(self):
        self.calls, self.ended = queue.SimpleQueue(), queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        for call in iter(self.calls.get, None):
            self.ended.put(call())

    def start(self, function, *args):
        run = FunctionRun(function, args, {})
        self.calls.put(run)
        return run

    def result(self):
        return self.ended.get(timeout=PATIENCE_S)


@pytest.fixture
def thread():
    thread = Thread()
    yield thread
    thread.calls.put(None)
    thread.thread.join(PATIENCE_S)
    assert not thread.thread.is_alive()


class Spot:
    """A place in a function where it turns and turns until it is let go."""

    def __init__(self):
        self.reached, self.go = threading.Event(), False

    def __call__(self):
        self.reached.set()
        while not self.go:
            pass
        return "let go"


@pytest.fixture
def spot():
    spot = Spot()
    yield spot
    spot.go = True


def test_a_function_in_a_thread_is_interrupted(thread, spot):
    run = thread.start(spot)
    assert spot.reached.wait(PATIENCE_S)
    assert run.interrupt(SoftTimeLimitExceeded)
    value, error = thread.result()
    assert (value, type(error)) == (None, SoftTimeLimitExceeded)
    assert "soft_time_limit" in str(error)


def test_a_function_may_catch_it_go_on_and_be_interrupted_again(thread, spot):
    caught = threading.Event()

    def work():
        try:
            spot()
        except SoftTimeLimitExceeded:
            caught.set()
            spot()

    run = thread.start(work)
    assert spot.reached.wait(PATIENCE_S)
    assert run.interrupt(SoftTimeLimitExceeded)
    assert caught.wait(PATIENCE_S)
    assert run.interrupt(TimeLimitExceeded)
    assert type(thread.result()[1]) is TimeLimitExceeded


def test_a_function_that_has_not_begun_does_not(thread, spot):
    thread.start(spot)
    assert spot.reached.wait(PATIENCE_S)
    ran = []
    second = thread.start(ran.append, 1)
    assert second.interrupt(TimeLimitExceeded)
    spot.go = True
    assert thread.result() == ("let go", None)
    assert type(thread.result()[1]) is TimeLimitExceeded
    assert ran == []


def test_a_function_that_has_ended_is_not_interrupted(thread):
    run = thread.start(len, "abc")
    assert thread.result() == (3, None)
    assert not run.interrupt(TimeLimitExceeded)
    for _ in range(100):
        thread.start(len, "ab")
        assert thread.result() == (2, None)


def test_what_comes_between_the_functions_end_and_ours_takes_nothing(thread):
    """It waits when the function's last bytecode has run: the value is kept, and nothing of ours is hit."""
    send = ctypes.pythonapi.PyThreadState_SetAsyncExc
    # The function is C, and ends with the exception waiting: the next bytecode is ours.
    for kind in (SoftTimeLimitExceeded, TimeLimitExceeded):
        call = functools.partial(send, ctypes.c_ulong(thread.thread.ident), ctypes.py_object(kind))
        thread.start(call)
        assert thread.result() == (1, None)
        thread.start(len, "ab")
        assert thread.result() == (2, None)


def test_what_comes_too_late_is_taken_back(thread, monkeypatch):
    """Two are on their way when the function has ended: one waits, one is sent by a thread that had looked."""
    real, tries = FunctionRun._take_back, []

    def late(self):
        tries.append(1)
        if len(tries) <= 2:
            module._raise_in_thread(threading.get_ident(), TimeLimitExceeded)
        real(self)

    monkeypatch.setattr(FunctionRun, "_take_back", late)
    thread.start(len, "abc")
    assert thread.result() == (3, None)
    assert len(tries) == 3
    monkeypatch.undo()
    thread.start(len, "ab")
    assert thread.result() == (2, None)


def test_interruptions_at_any_moment_hit_the_function_or_nothing(thread):
    """A storm: short functions, each interrupted while it begins, runs or ends; the thread survives them all."""
    hits = 0
    for number in range(2000):
        run = thread.start(sum, range(number % 500))
        run.interrupt(TimeLimitExceeded)
        run.interrupt(SoftTimeLimitExceeded)
        value, error = thread.result()
        if error is None:
            assert value == sum(range(number % 500))
        else:
            hits += 1
            assert isinstance(error, TimeLimitExceeded | SoftTimeLimitExceeded)
    thread.start(len, "ab")
    assert thread.result() == (2, None)
    assert hits


@pytest.mark.parametrize("error", [ValueError("own"), SystemExit(3), StopIteration("end")])
def test_what_a_function_raises_is_data(thread, error):
    def work():
        raise error

    thread.start(work)
    assert thread.result() == (None, error)


# In the main thread


@pytest.fixture
def other():
    """Call something in another thread, and end it with the test."""
    threads = []

    def start(function, *args):
        threads.append(threading.Thread(target=function, args=args))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(PATIENCE_S)


def test_a_blocking_call_in_the_main_thread_is_interrupted(other):
    """It waits in the operating system, where only a signal reaches it."""
    reading, writing = os.pipe()
    began = threading.Event()

    def read():
        began.set()
        return os.read(reading, 1)

    run = FunctionRun(read, (), {})

    def interrupt():
        assert began.wait(PATIENCE_S)
        assert run.interrupt(TimeLimitExceeded)

    other(interrupt)
    value, error = run()
    assert (value, type(error)) == (None, TimeLimitExceeded)
    os.close(reading)
    os.close(writing)


def test_a_signal_that_came_before_the_call_began_to_wait_is_sent_again(other, monkeypatch):
    reading, writing = os.pipe()
    began, sent, kill = threading.Event(), [], signal.pthread_kill

    def unlucky(thread, number):
        sent.append(number)
        if len(sent) > 1:
            kill(thread, number)

    def read():
        began.set()
        return os.read(reading, 1)

    monkeypatch.setattr(signal, "pthread_kill", unlucky)
    run = FunctionRun(read, (), {})

    def interrupt():
        assert began.wait(PATIENCE_S)
        assert run.interrupt(SoftTimeLimitExceeded)

    other(interrupt)
    assert type(run()[1]) is SoftTimeLimitExceeded
    assert len(sent) >= 2
    os.close(reading)
    os.close(writing)


def test_the_signal_does_nothing_where_no_job_runs_and_an_earlier_handler_has_it():
    FunctionRun(len, ("a",), {})()
    assert signal.getsignal(signal.SIGUSR1) == module._MAIN._handle
    came = []
    earlier, module._MAIN._earlier = module._MAIN._earlier, lambda number, frame: came.append(number)
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert came == [signal.SIGUSR1]
        run = FunctionRun(len, ("ab",), {})
        assert run() == (2, None)
        run._wanted = TimeLimitExceeded
        module._MAIN._send(threading.get_ident())  # its own, and too late
        assert came == [signal.SIGUSR1]
        assert FunctionRun(signal.raise_signal, (signal.SIGUSR1,), {})() == (None, None)
        assert came == [signal.SIGUSR1] * 2
    finally:
        module._MAIN._earlier = earlier


def test_interruptions_of_the_main_thread_hit_the_function_or_nothing(other):
    runs, done = queue.SimpleQueue(), []

    def interrupt():
        for run in iter(runs.get, None):
            run.interrupt(SoftTimeLimitExceeded)
            run.interrupt(TimeLimitExceeded)

    other(interrupt)
    try:
        for number in range(1000):
            run = FunctionRun(sum, (range(number % 300),), {})
            runs.put(run)
            value, error = run()
            done.append(error)
            assert value == (sum(range(number % 300)) if error is None else None)
    finally:
        runs.put(None)
    assert {type(each) for each in done} <= {type(None), SoftTimeLimitExceeded, TimeLimitExceeded}
    assert sys.exc_info() == (None, None, None)


def test_without_signals_the_main_thread_is_interrupted_as_any_other(monkeypatch, other, spot):
    """As on Windows."""
    monkeypatch.setattr(module, "_HAS_SIGNAL", False)
    run = FunctionRun(spot, (), {})

    def interrupt():
        assert spot.reached.wait(PATIENCE_S)
        run.interrupt(SoftTimeLimitExceeded)

    other(interrupt)
    assert type(run()[1]) is SoftTimeLimitExceeded


def test_nothing_of_a_run_is_kept():
    import gc
    import weakref

    class Thing:
        pass

    def work(thing):
        raise ValueError

    thing = Thing()
    ref = weakref.ref(thing)
    with contextlib.suppress(ValueError):
        raise FunctionRun(work, (thing,), {})()[1]
    del thing
    gc.collect()
    assert ref() is None
