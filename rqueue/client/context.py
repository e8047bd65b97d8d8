"""The running job, as its own code sees it: ``self`` of a bound task, and what a nested enqueue inherits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from rqueue.client.options import Seconds, epoch_ms, seconds
from rqueue.errors import ConfigError, Retry
from rqueue.policy.clock import local_ms


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


CURRENT: Final[ContextVar[Request | None]] = ContextVar("rqueue_request", default=None)
"""The job that runs in this context, if any."""


class Context:
    """``self`` of a task with ``bind=True``.

    Attributes:
        request: what is known of the running job.
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    def retry(
        self,
        *,
        exc: BaseException | None = None,
        countdown: Seconds | None = None,
        eta: datetime | None = None,
        max_retries: int | None = ...,  # type: ignore[assignment]
    ) -> NoReturn:
        """Run the job again later; raises by itself, so what follows it does not run.

        Args:
            exc: the error that made it necessary; the job fails with it when no retry is left.
            countdown: seconds until the next run; default the task's ``default_retry_delay``.
            eta: when to run again, a datetime with a time zone.
            max_retries: overrides the task's limit; None is no limit.

        Raises:
            Retry: always.
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
        raise Retry(defer, exc=exc, max_retries=max_retries) from exc
