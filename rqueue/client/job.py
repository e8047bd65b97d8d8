"""A handle on a job: its result, its state, from any process that has the id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rqueue.client.context import CURRENT
from rqueue.client.portal import refuse_running_loop
from rqueue.errors import JobExpired, JobFailed, JobRevoked, ResultNotKept
from rqueue.wire.history import PastError, is_history, is_moment, past_errors
from rqueue.wire.record import decode_record
from rqueue.wire.state import State

if TYPE_CHECKING:
    from rqueue.client.client import Client
    from rqueue.client.events import Event
    from rqueue.client.revocation import Cancelled

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What is known of a job.

    Attributes:
        id: its id.
        queue: the queue that it is in.
        state: PENDING (waiting, scheduled or running), STARTED (only where it is tracked), RETRY, SUCCESS, FAILURE or
            REVOKED.
        task: the task's name, once a worker has written something of it.
        result: the value, in state SUCCESS.
        error: ``Type: text`` of the error, in FAILURE, RETRY and REVOKED.
        traceback: the worker's traceback as text, or None.
        attempts: runs so far, the one that ended it included; 0 when nothing is known.
        losses: workers that died while they ran it.
        enqueued, started, finished: times, or None.
        worker: the worker that wrote this.
        parent_id: the job that enqueued it, or None.
        root_id: the first job of that line, or None.
        is_dead: it is among the dead letters.
        history: the errors of its last 10 retries, the oldest first.
        progress: what the run last said of its progress, or None: ``done``, ``total``, ``data`` and ``state`` as far as
            they were given, and ``at``, when.
    """

    id: str
    queue: str
    state: State
    task: str | None = None
    result: Any = None
    error: str | None = None
    traceback: str | None = None
    attempts: int = 0
    losses: int = 0
    enqueued: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    worker: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    is_dead: bool = False
    history: tuple[PastError, ...] = ()
    progress: dict[str, Any] | None = None

    @classmethod
    def of(cls, job_id: str, queue: str, record: bytes | None, *, is_dead: bool = False) -> JobInfo:
        """What a stored record says; without one the job is PENDING, or FAILURE when it is dead.

        Any program may write one: of a field that has not the kind that is its own, nothing is known.

        Raises:
            MalformedMessage: it is not a record.
        """
        if record is None:
            return cls(job_id, queue, State.FAILURE if is_dead else State.PENDING, is_dead=is_dead)
        fields = decode_record(record)
        error, history = _error(fields), fields.get("history")
        texts = {name: _text(fields.get(name)) for name in ("task", "traceback", "worker", "parent_id", "root_id")}
        return cls(
            id=job_id,
            queue=queue,
            state=fields["state"],
            result=fields.get("result"),
            error=": ".join(error) if error else None,
            attempts=_count(fields.get("retries")) + 1,
            losses=_count(fields.get("losses")),
            enqueued=_moment(fields.get("enqueued")),
            started=_moment(fields.get("started")),
            finished=_moment(fields.get("finished")),
            is_dead=is_dead,
            history=past_errors(history) if is_history(history) else (),
            progress=_progress(fields.get("progress")),
            **texts,
        )


class Job(Generic[R_co]):
    """An enqueued job.

    Attributes:
        id: its id.
        queue: its queue, or None when only the id is known.
        duplicate: a job of this id was alive when it was enqueued, or one that counts as the same (``unique``,
            ``debounce``, ``throttle``): this is the handle of that one.
    """

    __slots__ = ("__weakref__", "_client", "_unsent_s", "duplicate", "id", "queue")

    def __init__(
        self,
        client: Client,
        job_id: str,
        queue: str | None = None,
        *,
        duplicate: bool = False,
        unsent_s: float = 0,
    ) -> None:
        self._client, self._unsent_s = client, unsent_s
        self.id = job_id
        self.queue = queue
        self.duplicate = duplicate

    def __repr__(self) -> str:
        return f"Job({self.id!r}, queue={self.queue!r})"

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait for the job's end and return its value; where Redis does not know the job, the app's store is asked.

        Args:
            timeout: seconds to wait; None waits as long as the job is known. One of :meth:`Task.enqueue_in` is given
                a minute to get known.

        Raises:
            JobFailed: it ended in FAILURE.
            JobExpired: it was not started in time.
            JobRevoked: it was revoked.
            JobNotFound: nobody knows it (any more).
            ResultNotKept: it succeeded, and Redis was too full to keep the value, and there is no store that has it.
            StoreUnavailable: Redis does not know it (any more), and the store could not be asked.
            WaitTimeout: the time was up; it is a TimeoutError.
        """
        return value_of(  # type: ignore[no-any-return]
            self.id, await self._client.wait(self.id, self.queue, timeout, self._unsent_s)
        )

    async def info(self) -> JobInfo:
        """What is known of the job now; where Redis does not know it, how it ended is asked of the app's store.

        Raises:
            JobNotFound: nobody knows it.
            StoreUnavailable: Redis does not know it (any more), and the store could not be asked.
        """
        return await self._client.info(self.id, self.queue)

    def events(self, timeout: float | None = None) -> AsyncIterator[Event]:
        """What is known of the job now, then each change to its end: ``async for event in job.events()``.

        STARTED appears for a task with ``track_started=True``, and for a job that tells its progress. Ends after the
        final event; a connection that breaks is made anew, and what is stored is looked at again.

        Args:
            timeout: seconds until the end must have come; None waits as long as the job is known.

        Raises (while it is read):
            JobNotFound: nobody knows it (any more).
            WaitTimeout: the time was up; it is a TimeoutError.
        """
        return self._client.job_events(self.id, self.queue, timeout)

    async def cancel(self, *, terminate: bool = False) -> Cancelled:
        """Cancel the job, wherever it is; it ends as REVOKED. What it did is in Redis: workers that start later know.

        Args:
            terminate: a running job that has not ended a second after it was interrupted is given up: its process is
                replaced, as after a hard time limit, and the other jobs in it run again, uncharged. Default: it goes
                on, and is REVOKED when it ends.

        Returns:
            ``removed``: it waited or was scheduled, and will not run. ``interrupted``: its worker has interrupted it,
            or will not start it. ``requested``: a worker has it and did not answer within a second; it will not run
            again. ``too_late``: it had ended.

        Raises:
            JobNotFound: nobody knows it.
            BrokerError: Redis refused, or could not be asked; it may be cancelled again.
        """
        return await self._client.cancel_job(self.id, self.queue, terminate=terminate)


class SyncJob(Generic[R_co]):
    """The handle for synchronous code: the same job, waited for in this thread.

    Attributes:
        id: the job's id.
        queue: its queue, or None.
        duplicate: see :class:`Job`.
    """

    def __init__(self, job: Job[R_co], call: Callable[[Callable[[], Awaitable[Any]]], Any]) -> None:
        self._job = job
        self._call = call
        self.id, self.queue, self.duplicate = job.id, job.queue, job.duplicate

    def __repr__(self) -> str:
        return f"SyncJob({self.id!r}, queue={self.queue!r})"

    def get(self, timeout: float | None = None) -> R_co:
        """Wait for the job's end and return its value; raises what :meth:`Job.result` raises.

        Raises:
            RuntimeError: an event loop runs here; or inside a task: a task that waits for another one in its slot can
                wait for ever.
        """
        refuse_running_loop("job.get()", "await job.result()")
        if CURRENT.get() is not None:
            raise RuntimeError(
                "job.get() inside a task blocks a slot that the awaited job may need; "
                "await job.result() in a coroutine task, or enqueue what comes next from the other job"
            )
        return self._call(lambda: self._job.result(timeout))  # type: ignore[no-any-return]

    def info(self) -> JobInfo:
        """What is known of the job now; raises JobNotFound when nobody knows it, RuntimeError in a running loop."""
        refuse_running_loop("job.info() and job.state", "await app.job(id).info()")
        info: JobInfo = self._call(self._job.info)
        return info

    def cancel(self, *, terminate: bool = False) -> Cancelled:
        """Cancel the job as :meth:`Job.cancel` does; raises RuntimeError in a running loop."""
        refuse_running_loop("job.cancel()", "await app.job(id).cancel()")
        cancelled: Cancelled = self._call(lambda: self._job.cancel(terminate=terminate))
        return cancelled

    @property
    def state(self) -> State:
        """The job's state now; raises JobNotFound when nobody knows it."""
        return self.info().state


def value_of(job_id: str, record: bytes) -> Any:
    """The value in a final record, or the error that it stands for."""
    fields = decode_record(record)
    if fields["state"] is State.SUCCESS:
        if fields.get("dropped"):
            raise ResultNotKept(job_id)
        return fields.get("result")
    kind, message = _error(fields) or ("Unknown", "Redis was too full to keep the error")
    if fields["state"] is State.REVOKED:
        if kind == "JobExpired":
            raise JobExpired(job_id, f"job {job_id} expired before it could start")
        raise JobRevoked(job_id, f"job {job_id} was revoked")
    raise JobFailed(job_id, kind, message, _text(fields.get("traceback")))


def _error(fields: dict[str, Any]) -> tuple[str, str] | None:
    """The type and the text of a record's error."""
    error = fields.get("error")
    kind, message = (error.get("type"), error.get("message")) if isinstance(error, dict) else (None, None)
    return (kind, message) if isinstance(kind, str) and isinstance(message, str) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _progress(found: Any) -> dict[str, Any] | None:
    """A record's progress with its time as a datetime; whatever else somebody has put there is none."""
    if not isinstance(found, dict):
        return None
    return {**found, "at": _moment(found.get("at"))}


def _moment(epoch_ms: Any) -> datetime | None:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC) if is_moment(epoch_ms) else None
