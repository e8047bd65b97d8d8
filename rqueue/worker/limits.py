"""How long a job may run, and what becomes of one that runs for longer, or is cancelled while it runs.

It alone keeps that a job whose time is up is settled, whether it ends or not.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

from rqueue.client.options import TaskOptions, optional_seconds
from rqueue.config import WorkerConfig
from rqueue.errors import JobRevoked, SoftTimeLimitExceeded, TimeLimitExceeded
from rqueue.log import event
from rqueue.policy.clock import elapsed_s
from rqueue.wire.message import Call
from rqueue.worker.inflight import ClaimedJob, Phase, describe
from rqueue.worker.interrupt import Driven, FunctionRun
from rqueue.worker.outcome import Failed, Revoked
from rqueue.worker.parent import Parent
from rqueue.worker.perform import failure_of

GRACE_S: Final = 1.0
"""How long a job whose time is up may take to end."""

_LONGEST_S: Final = 1e8  # three years: whatever a producer asks for, a timer can be set

Overrides = Mapping[str, tuple[float | None, float | None]]
"""Task name -> (soft limit, hard limit) in seconds."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long one run may take.

    Attributes:
        soft_s: after so many seconds SoftTimeLimitExceeded is raised inside the task; None never.
        hard_s: after so many seconds the run is ended; None never.
    """

    soft_s: float | None
    hard_s: float | None


def limits_of(call: Call, options: TaskOptions, config: WorkerConfig, overrides: Overrides) -> TimeLimits | None:
    """A run's limits: the override's, else each the call's, else the task's, else the worker's; None for none.

    Args:
        call: the call.
        options: its task's options.
        config: the worker's settings.
        overrides: set while the worker runs; both limits of an entry count, None is no limit.
    """
    if overrides and call.task in overrides:
        soft_s, hard_s = overrides[call.task]
    else:
        soft_s = call.soft_time_limit
        if soft_s is None:
            soft_s = optional_seconds(options.soft_time_limit, "soft_time_limit") or config.soft_time_limit_s
        hard_s = call.time_limit
        if hard_s is None:
            hard_s = optional_seconds(options.time_limit, "time_limit") or config.time_limit_s
    if soft_s is None and hard_s is None:
        return None
    return TimeLimits(*(None if each is None else min(each, _LONGEST_S) for each in (soft_s, hard_s)))


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """It is not to come."""


class Limiter:
    """Interrupts jobs whose time is up.

    Args:
        parent: told of jobs with a hard limit: it ends the process when this one can do nothing.
        alarm: sets timers where functions block the event loop; None: the event loop does.
    """

    def __init__(self, parent: Parent, alarm: Alarm | None = None) -> None:
        self._parent, self._alarm = parent, alarm

    @contextmanager
    def limiting(self, job: ClaimedJob, limits: TimeLimits, give_up: Callable[[], None]) -> Iterator[None]:
        """Keep a run to its limits, from now on until the block ends.

        Args:
            job: the job.
            limits: its limits.
            give_up: called in the loop when it has not ended by its own, a second after its time was up.
        """
        timers: list[Timer] = []
        if limits.soft_s is not None:
            timers.append(self._later(job, limits.soft_s, _soften, job))
        if limits.hard_s is not None:
            timers.append(self._later(job, limits.hard_s, _end, job, limits.hard_s, give_up, _loop()))
            job.deadline_s = elapsed_s() + limits.hard_s
            self._parent.began(job)
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
            if limits.hard_s is not None:
                self._parent.ended(job)

    def _later(self, job: ClaimedJob, delay_s: float, call: Callable[..., None], *args: Any) -> Timer:
        loop = _loop()
        if self._alarm is None:
            return loop.call_later(delay_s, call, *args)

        def ring() -> None:
            if isinstance(job.run, FunctionRun):
                call(*args)  # the loop cannot: it waits for this function
            else:
                loop.call_soon_threadsafe(call, *args)

        return self._alarm.call_later(delay_s, ring)


def cancel(job: ClaimedJob, give_up: Callable[[], None] | None = None) -> None:
    """End a running job: it is REVOKED, at once or whenever it ends.

    Args:
        job: the job.
        give_up: called in the loop when it has not ended by its own after a second; None lets it go on.
    """

    class Cancelled(JobRevoked):
        """The interpreter makes it, without arguments."""

        def __init__(self) -> None:
            super().__init__(job.id, f"job {job.id} was cancelled")

    is_again, job.verdict = isinstance(job.verdict, Revoked), Revoked()
    if is_again or _interrupt(job, Cancelled):
        _loop().call_later(GRACE_S, *((_say_that_it_goes_on, job) if give_up is None else (give_up,)))


def _soften(job: ClaimedJob) -> None:
    if job.verdict is not None or job.is_interrupted:
        return
    if isinstance(job.run, Driven):
        job.run.soften()
    elif not isinstance(job.run, FunctionRun) or not job.run.interrupt(SoftTimeLimitExceeded):
        return
    event(logging.WARNING, "soft time limit", **describe(job))


def _end(job: ClaimedJob, hard_s: float, give_up: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
    """In the loop's thread or the alarm's: the time is up."""
    if job.phase is not Phase.RUNNING or job.is_interrupted:
        return
    before = job.verdict
    if before is None:
        error = TimeLimitExceeded(f"the job has run for longer than its time_limit of {hard_s:g} s")
        job.verdict = Failed(error, failure_of(error))
    if not _interrupt(job, TimeLimitExceeded):
        job.verdict = before
        return
    event(logging.ERROR, "time limit", **describe(job))
    loop.call_soon_threadsafe(loop.call_later, GRACE_S, give_up)


def _interrupt(job: ClaimedJob, error: type[BaseException]) -> bool:
    """Raise it in a function, cancel a coroutine; false when the function has ended just now."""
    if isinstance(job.run, FunctionRun):
        return job.run.interrupt(error)
    # One that has not taken its first step would never take it, and nobody would settle it: it looks for its verdict.
    if job.task is not None and job.started_ms is not None:
        job.task.cancel()
    return True


def _say_that_it_goes_on(job: ClaimedJob) -> None:
    if job.phase is Phase.RUNNING:
        event(logging.WARNING, "cancelled job goes on", **describe(job))


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


# Timers beside the event loop


class Alarm:
    """Timers in a thread, for a worker whose event loop is blocked by the functions that it runs."""

    def __init__(self) -> None:
        self._bells: list[_Bell] = []
        self._number = count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Have it called in the alarm's thread."""
        bell = _Bell(elapsed_s() + delay_s, next(self._number), call, self)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rqueue alarm", daemon=True)
                self._thread.start()
            heapq.heappush(self._bells, bell)
            self._changed.notify()
        return bell

    def drop(self, bell: _Bell) -> None:
        """Take back a timer; there are at most two of the one job that runs."""
        with self._changed, suppress(ValueError):
            self._bells.remove(bell)
            heapq.heapify(self._bells)

    def close(self) -> None:
        """Ring no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (bell := self._next()) is not None:
            try:
                bell.ring()
            except Exception as exc:  # noqa: BLE001 - the others still ring
                event(logging.CRITICAL, "a time limit failed in the worker itself", error=repr(exc))

    def _next(self) -> _Bell | None:
        """Wait for the next one that is due."""
        with self._changed:
            while not self._is_closed:
                left_s = self._bells[0].due_s - elapsed_s() if self._bells else None
                if left_s is not None and left_s <= 0:
                    return heapq.heappop(self._bells)
                self._changed.wait(left_s)
        return None


@dataclass(frozen=True, slots=True, order=True)
class _Bell:
    due_s: float
    number: int
    ring: Callable[[], None]
    alarm: Alarm

    def cancel(self) -> None:
        self.alarm.drop(self)
