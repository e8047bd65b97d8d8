"""Every error that rqueue raises, as one tree; the signals that a task raises on purpose are its other branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")


class _Portable(Exception):
    """Can be pickled and copied, whatever arguments its class takes: a pool's parent must see it as it was."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class RQueueError(_Portable):
    """The root of every error that rqueue raises."""


class ConfigError(RQueueError, ValueError):
    """An option is wrong; the text names the option, its value and what is allowed."""


class MissingDependency(RQueueError, ImportError):
    """A feature needs a package that is not installed; the text is the command that installs it."""


class MessageTooLarge(RQueueError, ValueError):
    """A job's message is over ``max_message_bytes``; nothing was sent."""


class MalformedMessage(RQueueError, ValueError):
    """Bytes that were found in a list are not a message; the text says why."""


class NotAuthentic(MalformedMessage):
    """What was found in Redis is not signed or encrypted by any of the app's keys, for where it was found."""


# Storage


class BrokerError(RQueueError):
    """Redis refused a command, or could not be asked."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """Redis could not be reached, or is not ready; what was asked for did not happen."""


class ReplyLost(BrokerUnavailable):
    """The command was sent and the connection broke before the reply: it may have happened, or may still."""


class BrokerForbidden(BrokerError):
    """Redis does not let its user run the command, or touch the key (``NOPERM``); nothing was changed."""


class BrokerFull(BrokerError):
    """Redis is at ``maxmemory`` and refuses to store more; nothing was changed."""


class DurabilityRefused(BrokerError, ConfigError):
    """The server cannot confirm what ``durability`` asks for; the text says what it needs. Nothing was enqueued."""


class StoreError(RQueueError):
    """The result store refused, or could not be asked."""


class StoreUnavailable(StoreError, ConnectionError):
    """The result store could not be reached, or did not answer in time; what was to be written may be written again."""


class SchemaMismatch(StoreError):
    """The result store's tables are not those that this version knows; the text names the command to run."""


class EnqueueUnknown(BrokerError):
    """The reply to an enqueue was lost for good: the jobs with these ids may exist, or not.

    Attributes:
        ids: the ids of the jobs, so that ``app.job(id).info()`` can tell later.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        super().__init__(
            f"the reply to an enqueue of {len(self.ids)} job(s) was lost ({_few(ids)}): they may or may not exist; "
            "enqueue again under the same job_id to be sure"
        )


class NotDurable(EnqueueUnknown):
    """The jobs with these ids were stored, and are not known to be as safe as ``durability`` asks.

    Nothing is lost yet: they run like any others, and are lost if the server fails before they have reached a replica,
    or the disk. Under the same ``job_id`` the call may be repeated.

    Attributes:
        ids: the ids of the jobs.
    """

    def __init__(self, ids: Sequence[str], why: object) -> None:
        super().__init__(ids)
        self.args = (f"{len(self.ids)} job(s) were enqueued, but are not known to be safe ({_few(ids)}): {why}",)


# A job's end, as it reaches whoever waits for the result


class JobError(RQueueError):
    """A job did not give a result.

    Attributes:
        job_id: the job's id.
    """

    def __init__(self, job_id: str, text: str) -> None:
        self.job_id = job_id
        super().__init__(text)


class JobFailed(JobError):
    """The job ended in FAILURE.

    Attributes:
        error_type: the name of the exception's class in the worker.
        message: the exception's text, bounded.
        traceback: the traceback in the worker as text, or None.
    """

    def __init__(self, job_id: str, error_type: str, message: str, traceback: str | None = None) -> None:
        self.error_type, self.message, self.traceback = error_type, message, traceback
        super().__init__(job_id, f"job {job_id} failed: {error_type}: {message}")


class JobRevoked(JobError):
    """The job was revoked before it ended."""


class JobExpired(JobRevoked):
    """The job's ``expires`` had passed before it could start."""


class JobNotFound(JobError, LookupError):
    """Nobody knows this id: never enqueued, or its result has expired or was not kept."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"job {job_id} is not known: never enqueued, or its result is no longer kept")


class ScheduleNotFound(RQueueError, LookupError):
    """There is no periodic schedule of that name."""


class WaitTimeout(RQueueError, TimeoutError):
    """``result(timeout=…)`` waited that long and the job had not ended; it goes on, and can be asked again."""


class EnqueueManyFailed(BrokerError):
    """Of the calls given to ``enqueue_many`` one queue's were enqueued and another's were not.

    Attributes:
        jobs: for each call its handle, or None.
        errors: for each call its error, or None.
    """

    def __init__(self, jobs: Sequence[Any], errors: Sequence[BaseException | None]) -> None:
        self.jobs, self.errors = tuple(jobs), tuple(errors)
        first = next(error for error in errors if error is not None)
        failed = sum(error is not None for error in errors)
        super().__init__(f"{failed} of {len(errors)} calls were not enqueued, the first because: {first}")


class ResultNotKept(JobError):
    """The job succeeded, and Redis was too full to keep its value."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"job {job_id} succeeded, but Redis was full and its value was not kept")


# What ends a job in a worker, beside the task's own exceptions


class ResultError(RQueueError):
    """The task's return value cannot be stored: it is not JSON, or too large."""


class MaxRetriesExceeded(RQueueError):
    """``self.retry()`` was called with no retry left, and without ``exc``."""


class WorkerLost(RQueueError):
    """The job's worker died so often while it ran that it is not tried again."""


class SoftTimeLimitExceeded(RQueueError):
    """Raised inside a task that ran for longer than its ``soft_time_limit``, so that it can clean up and end."""

    def __init__(self, text: str = "the job has run for longer than its soft_time_limit") -> None:
        super().__init__(text)


class TimeLimitExceeded(RQueueError):
    """The job ran for longer than its ``time_limit``, and was ended."""

    def __init__(self, text: str = "the job has run for longer than its time_limit") -> None:
        super().__init__(text)


class UnknownTask(RQueueError):
    """No worker that met the job knows its task."""


class StartupFailed(RQueueError):
    """The app's lifespan, a startup hook or a resource raised while it was opened; ``__cause__`` is that error."""


# Signals: raised by a task to steer, not to fail


class Signal(_Portable):
    """The root of what a task raises on purpose to steer its job."""


class Retry(Signal):
    """Run the job again later; ``self.retry()`` raises it.

    Args:
        defer: seconds, or a timedelta, until the next run; None takes the task's own delay.
        exc: the error that made the retry necessary, shown while the job waits; default the exception that is being
            handled. The job fails with ``exc`` when no retry is left.
        max_retries: overrides the task's limit for this retry; None is no limit, Ellipsis leaves it as it is.
        args: positional arguments of the next runs; None leaves them as they are.
        kwargs: named arguments of the next runs; None leaves them as they are.
        queue: the queue in which it runs from now on; None is the one that it is in.

    Raises:
        ConfigError: a value is of the wrong kind.
    """

    def __init__(
        self,
        defer: float | timedelta | None = None,
        *,
        exc: BaseException | None = None,
        max_retries: int | Any | None = ...,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
    ) -> None:
        if max_retries not in (None, ...) and (type(max_retries) is not int or max_retries < 0):
            raise ConfigError(f"max_retries {max_retries!r}: None for no limit, or a whole number from 0")
        if args is not None and not isinstance(args, list | tuple):
            raise ConfigError(f"args {args!r}: a list or a tuple of arguments")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise ConfigError(f"kwargs {kwargs!r}: arguments by name, for example {{'a': 1}}")
        self.defer = None if defer is None else _delay_s(defer, "defer")
        self.exc, self.max_retries = exc, max_retries
        self.new_args, self.new_kwargs, self.queue = args, kwargs, queue
        super().__init__(f"retry in {defer} s" if defer is not None else "retry")


class Snooze(Signal):
    """Not yet: run the job again later, as if this run had not been. It costs no retry, and is no error.

    Args:
        delay: seconds, or a timedelta, until the next run.

    Raises:
        ConfigError: it is neither, or below 0.
    """

    def __init__(self, delay: float | timedelta) -> None:
        self.delay_s = _delay_s(delay, "delay")
        super().__init__(f"snooze for {delay} s")


class Reject(Signal):
    """The task does not want this job: it fails without a retry, and is a dead letter with the reason ``rejected``.

    Args:
        reason: why, as a text or an exception; its text is the job's error.
        requeue: put the job back behind those that wait, instead: no error, and it costs no retry.

    Raises:
        ConfigError: requeue is not True or False.
    """

    def __init__(self, reason: object = "", *, requeue: bool = False) -> None:
        if not isinstance(requeue, bool):
            raise ConfigError(f"requeue {requeue!r}: True or False")
        self.reason, self.requeue = reason, requeue
        super().__init__(str(reason) or "the task rejected it")


def _delay_s(delay: object, name: str) -> float:
    given = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e10:
        raise ConfigError(f"{name} {delay!r}: seconds as a number, 0 or more, or a timedelta")
    return given
