"""The ways to interrupt what runs: an exception is raised inside a task, and nowhere else.

It alone keeps that an interruption reaches neither the next job in a thread, nor the worker's own code, nor the tasks
that a library has left to its cancellation.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import functools
import gc
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from rqueue.errors import SoftTimeLimitExceeded

ErrorClass = type[BaseException]


# Coroutines


class Driven:
    """Awaits for a task with a soft limit, and can raise SoftTimeLimitExceeded where it waits.

    The asyncio task is cancelled, so that whatever it waits for is cancelled as ever; when the CancelledError arrives
    here, it is taken back and the other exception is thrown into the coroutine in its place.

    Args:
        awaitable: what the task's function gave; awaited by the asyncio task that makes this object.
        is_ending: whether the job is cancelled for good: then it is not interrupted any more.
    """

    def __init__(self, awaitable: Awaitable[Any], is_ending: Callable[[], bool]) -> None:
        self._coroutine = _awaiting(awaitable)
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._loop = asyncio.get_running_loop()
        self._is_ending = is_ending
        self._cancels = 0  # of the asyncio task, when we asked
        self._is_due = self._is_asked = self._is_cancelling = self._is_over = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        error: BaseException | None = None
        try:
            while True:
                waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
                if self._is_due and not self._is_asked:
                    self._loop.call_soon(self._ask)  # when the asyncio task knows what it waits for
                try:
                    yield waits_for
                except BaseException as exc:  # noqa: BLE001 - it goes into the coroutine
                    error = self._answer(exc)
                else:
                    error = self._answer(None)
        except StopIteration as end:
            return end.value
        finally:
            self._is_over = True
            del error  # its traceback holds this frame

    def soften(self) -> None:
        """Raise SoftTimeLimitExceeded inside the coroutine, as soon as it waits for what has not come."""
        self._is_due = True
        self._ask()

    def _ask(self) -> None:
        if self._is_over or not self._is_due or self._is_asked or self._is_ending():
            return
        frames = list(_frames(self._coroutine))
        if _goes_on(self._task) or _must_go_on(frames):
            return  # asked again where it waits next
        innermost = frames[-1]
        if _waits_for_group(innermost):
            self._is_due = not _fail_group(innermost.f_locals["self"])
            return
        self._is_asked, self._cancels = True, self._task.cancelling()
        if innermost.f_code is _WAIT_FOR and isinstance(inner := innermost.f_locals["fut"], asyncio.Future):
            inner.cancel()  # it would be left running by anything but a cancellation; when it has ended, we are woken
        else:
            self._is_cancelling = True
            self._task.cancel()

    def _answer(self, arrived: BaseException | None) -> BaseException | None:
        """What goes into the coroutine in place of what has arrived."""
        if not self._is_asked or isinstance(arrived, GeneratorExit):
            return arrived
        self._is_asked = False
        cancels = self._task.uncancel() if self._is_cancelling else self._task.cancelling()
        self._is_cancelling = False
        if cancels > self._cancels or self._is_ending():
            return arrived  # a real cancellation as well, a shutdown's or a timeout's: ours is asked for again later
        self._is_due = False
        innermost = list(_frames(self._coroutine))[-1]
        if innermost.f_code.co_name == "acquire":
            self._loop.call_soon(_leave_lock, innermost.f_locals.get("self"))
        error = SoftTimeLimitExceeded()
        if not isinstance(arrived, asyncio.CancelledError):
            error.__context__ = arrived
        return error


# Before Python 3.12 it waits for a task of its own, which it ends only at a CancelledError.
_WAIT_FOR: Final = asyncio.wait_for.__code__ if sys.version_info < (3, 12) else None
_GENERATORS: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
_WRAPPERS: Final = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow")


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _frames(coroutine: Coroutine[Any, Any, Any]) -> Iterator[FrameType]:
    """The frames of a suspended coroutine and of all that it awaits, the outermost first."""
    each: Any = coroutine
    while each is not None:
        kind = "cr" if hasattr(each, "cr_frame") else "gi" if hasattr(each, "gi_frame") else "ag"
        yield getattr(each, f"{kind}_frame")
        inner = getattr(each, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
        if type(inner).__name__ in _WRAPPERS:  # they do not say what they wrap
            inner = next((found for found in gc.get_referents(inner) if isinstance(found, _GENERATORS)), None)
        each = inner if isinstance(inner, _GENERATORS) else None


def _goes_on(task: asyncio.Task[Any]) -> bool:
    """Whether what the task waits for has come, be it a cancellation, and it only has not been told."""
    waiter = getattr(task, "_fut_waiter", None)
    return bool(getattr(task, "_must_cancel", False) if waiter is None else waiter.done())


def _waits_for_group(frame: FrameType) -> bool:
    """Whether it is a task group that waits for its children: an exception from outside would leave them running."""
    group = frame.f_locals.get("self")
    return frame.f_code.co_name == "__aexit__" and isinstance(group, asyncio.TaskGroup | TaskGroup)


def _fail_group(group: asyncio.TaskGroup | TaskGroup) -> bool:
    """Let one more child raise, so that the group ends the others and itself; false when it is ending already."""
    if isinstance(group, TaskGroup):
        group.start_soon(_raise_soft, name="rqueue soft time limit")
        return True
    child = _raise_soft()
    try:
        group.create_task(child, name="rqueue soft time limit")
    except RuntimeError:
        child.close()
        return False
    return True


async def _raise_soft() -> None:
    raise SoftTimeLimitExceeded


def _must_go_on(frames: list[FrameType]) -> bool:
    """Whether it is where only a CancelledError, or nothing at all, is expected: it will be elsewhere in a moment."""
    names = [frame.f_code.co_name for frame in frames[-4:]]
    if "cancel_shielded_checkpoint" in names:  # anyio gives the others a turn
        return True
    conditions = (asyncio.Condition, anyio.Condition)  # take their lock again, whatever comes
    return names[-1] == "acquire" and any(
        frame.f_code.co_name == "wait" and isinstance(frame.f_locals.get("self"), conditions) for frame in frames[-4:]
    )


def _leave_lock(lock: Any) -> None:
    """Do what a lock does only when a waiter is cancelled: no other waiter may wait for ever because of ours."""
    if isinstance(lock, asyncio.Lock):
        if not lock.locked():
            lock._wake_up_first()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
    elif isinstance(lock, anyio.Lock | anyio.Semaphore):
        waiters: Any = getattr(lock, "_waiters", [])
        for waiter in [each for each in waiters if (each[1] if isinstance(each, tuple) else each).cancelled()]:
            waiters.remove(waiter)


# Plain functions

_NEW, _ARMED, _OVER = range(3)


class FunctionRun:
    """One call of a plain function, in any thread, which other threads may interrupt.

    In the main thread by a signal, whose handler raises: it also ends a call that waits in the operating system. In
    others by an exception that the interpreter raises at the next bytecode.

    Args:
        function: the function; it runs in a copy of the present context.
        args, kwargs: its arguments.
    """

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        # A cache keeps the value before another bytecode runs: what interrupts just after the function takes nothing.
        self._once = functools.cache(call)
        self._lock = threading.Lock()
        self._state = _NEW
        self._thread = 0
        self._is_main = False
        self._wanted: ErrorClass | None = None

    def interrupt(self, error: ErrorClass) -> bool:
        """Raise an exception inside the function, or before it begins; false when it has ended.

        Args:
            error: its class, which is called without arguments.
        """
        with self._lock:
            if self._state == _OVER:
                return False
            self._wanted = error
            if self._state == _ARMED:
                self._send(error)
            return True

    def __call__(self) -> tuple[Any, BaseException | None]:
        """Run the function; its value, or whatever it raised, as data."""
        error: BaseException | None = None
        try:
            self._arm()
            self._once()
        except BaseException as exc:  # noqa: BLE001 - it is the task's
            error = exc
        # Between the function's end and this line no bytecode looks for interruptions but the call's own, inside the
        # try. After it nobody sends one, but for a thread that had looked already.
        self._state = _OVER
        self._disarm()
        try:
            return (self._once(), None) if self._once.cache_info().currsize else (None, error)
        finally:
            del error  # its traceback holds this frame

    @property
    def is_wanted(self) -> bool:
        """An exception is on its way, and has not been raised."""
        return self._state == _ARMED and self._wanted is not None

    def take(self) -> ErrorClass | None:
        """What the signal's handler is to raise now, once."""
        if self._state != _ARMED:
            return None
        wanted, self._wanted = self._wanted, None
        return wanted

    def _arm(self) -> None:
        self._is_main = _HAS_SIGNAL and threading.current_thread() is threading.main_thread()
        if self._is_main:
            _MAIN.enter(self)
        with self._lock:
            if self._wanted is not None:
                raise self._wanted
            self._thread = threading.get_ident()
            self._state = _ARMED

    def _send(self, error: ErrorClass) -> None:
        if self._is_main:
            _MAIN.interrupt(self, self._thread)
        else:
            _raise_in_thread(self._thread, error)

    def _disarm(self) -> None:
        if self._is_main:
            _MAIN.leave()
            return
        # At most two are still on their way: one that waits, and one of a thread that had looked. Each may come in
        # the midst of taking back what waits, so the third try is not hit.
        try:
            self._take_back()
        except BaseException:  # noqa: BLE001 - an interruption, too late
            try:
                self._take_back()
            except BaseException:  # noqa: BLE001 - as above
                self._take_back()

    def _take_back(self) -> None:
        with self._lock:
            _raise_in_thread(threading.get_ident(), None)


def _raise_in_thread(thread: int, error: ErrorClass | None) -> None:
    """Have the interpreter raise it in that thread at its next bytecode; None takes back what waits."""
    given = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


_HAS_SIGNAL: Final = hasattr(signal, "pthread_kill")
_FIRST_REMINDER_S: Final = 0.01
_LONGEST_REMINDER_S: Final = 1.0


class _MainThread:
    """The signal by which functions in the main thread are interrupted; its handler is set once in a process."""

    def __init__(self) -> None:
        self._run: FunctionRun | None = None
        self._earlier: Any = None
        self._is_set = self._is_sent = False

    def enter(self, run: FunctionRun) -> None:
        if not self._is_set:
            self._earlier, self._is_set = signal.signal(signal.SIGUSR1, self._handle), True
        self._run = run

    def leave(self) -> None:
        self._run = None

    def interrupt(self, run: FunctionRun, thread: int) -> None:
        self._send(thread)
        threading.Thread(target=self._remind, args=(run, thread), name="rqueue interrupt", daemon=True).start()

    def _remind(self, run: FunctionRun, thread: int) -> None:
        """Send it again until it is heard: one that came just before a system call began does not end the call."""
        pause_s = _FIRST_REMINDER_S
        while True:
            time.sleep(pause_s)
            if not run.is_wanted:
                return
            self._send(thread)
            pause_s = min(2 * pause_s, _LONGEST_REMINDER_S)

    def _send(self, thread: int) -> None:
        self._is_sent = True
        signal.pthread_kill(thread, signal.SIGUSR1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_sent, self._is_sent = self._is_sent, False
        if (run := self._run) is not None and (error := run.take()) is not None:
            raise error
        if not is_sent and callable(self._earlier):
            self._earlier(number, frame)


_MAIN: Final = _MainThread()
