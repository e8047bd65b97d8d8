"""The running job, as its own code sees it: ``self`` of a bound task, and what a nested enqueue inherits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NoReturn

from rqueue.client.options import Seconds, epoch_ms, seconds
from rqueue.errors import ConfigError, Retry
from rqueue.policy.clock import local_ms
from rqueue.wire.history import PastError
from rqueue.wire.keys import check_queue_name


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of the running job.

    Attributes:
        id: the job's id.
        task: the task's name.
        args, kwargs: what it was called with.
        queue: the queue it came from.
        priority: its priority, or None.
        retries: how often it was retried.
        losses: how many workers died while they ran it.
        worker: the worker that runs it.
        parent_id: the job that enqueued it, or None.
        root_id: the first job of that line: its own id when nobody enqueued it.
        history: the errors of its last 10 retries, the oldest first.
        headers: what the call was given beside its arguments, by name.
    """

    id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    priority: int | None
    retries: int
    losses: int
    worker: str
    parent_id: str | None
    root_id: str
    history: tuple[PastError, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)


CURRENT: Final[ContextVar[Request | partial[Request] | None]] = ContextVar("rqueue_request", default=None)
"""The job that runs in this context, if any; or how to find out, since most jobs never ask and it takes a while."""


def current_request() -> Request | None:
    """The job that runs in this context, or None."""
    request = CURRENT.get()
    if isinstance(request, partial):
        request = request()
        CURRENT.set(request)
    return request


class _Told:
    """What a coroutine awaits so that others have a turn; a function lets it fall."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Context:
    """``self`` of a task with ``bind=True``.

    Args:
        request: what is known of the running job.
        report: takes the job's progress, in any thread; default: nobody does.

    Attributes:
        request: the same.
    """

    def __init__(self, request: Request, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.request = request
        self._report = report

    def progress(self, done: float, total: float | None = None, **data: Any) -> Awaitable[None]:
        """Tell how far the job is: ``await self.progress(3, 10)`` in a coroutine, without ``await`` in a function.

        Whoever looks sees it as ``JobInfo.progress``, and ``job.events()`` brings it. It may be called as often as one
        likes, in any thread: while one is being written only the newest waits, and nothing waits for Redis.

        Args:
            done: how much is done.
            total: how much there is to do, or None.
            **data: whatever else is to be seen, as JSON.

        Raises:
            TypeError: a value is not JSON.
            MessageTooLarge: over ``max_message_bytes``.
        """
        for name, value in (("done", done), ("total", 0 if total is None else total)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"progress: {name} is a number, got {value!r}")
        return self._tell({"done": done, "total": total, "data": data or None})

    def update_state(self, state: str | None = None, meta: Any = None) -> Awaitable[None]:
        """Celery's: the progress is ``meta``; a state of one's own stands beside it, as ``JobInfo.progress["state"]``.

        The job's own state stays what it is, STARTED. Called and awaited as :meth:`progress`.

        Args:
            state: a name of one's own, for example ``"PROGRESS"``.
            meta: whatever is to be seen, as JSON.

        Raises:
            TypeError: the state is no text, or meta is not JSON.
            MessageTooLarge: over ``max_message_bytes``.
        """
        if not isinstance(state, str | None):
            raise TypeError(f"update_state: state is a name, got {state!r}")
        return self._tell({"state": state, "data": meta})

    def _tell(self, progress: dict[str, Any]) -> Awaitable[None]:
        progress = {name: value for name, value in progress.items() if value is not None}
        if self._report is not None:
            self._report(progress)
        return _Told()

    def retry(
        self,
        *,
        exc: BaseException | None = None,
        countdown: Seconds | None = None,
        eta: datetime | None = None,
        max_retries: int | None = ...,  # type: ignore[assignment]
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
    ) -> NoReturn:
        """Run the job again later; raises by itself, so what follows it does not run.

        Args:
            exc: the error that made it necessary; the job fails with it when no retry is left. Without it the job then
                fails with MaxRetriesExceeded, whose cause is the exception that is being handled.
            countdown: seconds until the next run; default the task's ``default_retry_delay``.
            eta: when to run again, a datetime with a time zone.
            max_retries: overrides the task's limit; None is no limit.
            args: positional arguments of the next runs; default: as they are.
            kwargs: named arguments of the next runs; default: as they are. What does not fit the task's signature, is
                not JSON or is too large fails the job with what ``enqueue`` would raise.
            queue: the queue in which it runs from now on. It waits where it is, and a worker of that queue then moves
                it.

        Raises:
            Retry: always.
            ConfigError: a value is of the wrong kind.
        """
        if countdown is not None and eta is not None:
            raise ConfigError("countdown and eta: give one of the two")
        defer = None if countdown is None else seconds(countdown, "countdown")
        if defer is not None and defer < 0:
            raise ConfigError(f"countdown {countdown!r}: seconds, 0 or more")
        if eta is not None:
            if eta.tzinfo is None:
                raise ConfigError(f"eta {eta!r}: a datetime needs a time zone, for example datetime.now(UTC)")
            defer = max(0.0, timedelta(milliseconds=epoch_ms(eta) - local_ms()).total_seconds())
        if queue is not None:
            check_queue_name(queue)
        # What is being handled, if anything, stays its context.
        raise Retry(defer, exc=exc, max_retries=max_retries, args=args, kwargs=kwargs, queue=queue) from exc
