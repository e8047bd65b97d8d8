"""From an outcome to what is to be done: the task's options decide, without I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rqueue.client.options import TaskOptions, seconds
from rqueue.config import Limits, WorkerConfig
from rqueue.errors import MaxRetriesExceeded, UnknownTask
from rqueue.policy.retry import backoff_s, may_retry
from rqueue.wire.message import Call
from rqueue.wire.record import Failure, Letter, Record
from rqueue.wire.state import State
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import (
    Ack,
    Bury,
    Defer,
    Expired,
    Failed,
    Interrupted,
    Outcome,
    Release,
    Revoked,
    Settlement,
    Succeeded,
    Unknown,
    Unreadable,
    WantsRetry,
)

_NO_TASK = TaskOptions()
RETRY_RECORD_TTL_S = 86_400


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides what becomes of a job.

    Args:
        limits: bounds on what is stored.
        config: the worker's settings.
        now_ms: Redis's time.
    """

    limits: Limits
    config: WorkerConfig
    now_ms: Callable[[], int]

    def decide(
        self, job: ClaimedJob, outcome: Outcome, call: Call | None = None, options: TaskOptions = _NO_TASK
    ) -> Settlement:
        """What is to be done about a job that ended so."""
        match outcome:
            case Succeeded(result):
                return self._succeeded(job, result, call, options)
            case WantsRetry():
                return self._asked_to_retry(job, outcome, call, options)
            case Failed():
                return self._raised(job, outcome, call, options)
            case Expired():
                failure = Failure("JobExpired", "it could not be started in time")
                return Ack(self._record(State.REVOKED, job, call, failure=failure), self.ttl(options))
            case Revoked():
                failure = Failure("JobRevoked", "it was cancelled while it ran")
                return Ack(self._record(State.REVOKED, job, call, failure=failure), self.ttl(options))
            case Unknown(task):
                return self._unknown(job, task)
            case Unreadable(reason, text):
                return self.failed(job, Failure("MalformedMessage", text), reason)
            case Interrupted() if job.is_settled_early:
                text = "the worker stopped while it ran, and a job with acks_late=False runs at most once"
                return self.failed(job, Failure("Interrupted", text), "failed", call, options)
            case Interrupted():
                return Release()

    def failed(
        self,
        job: ClaimedJob,
        failure: Failure,
        reason: str,
        call: Call | None = None,
        options: TaskOptions = _NO_TASK,
    ) -> Settlement:
        """A job that is not tried again: FAILURE, and a dead letter unless the task wants none."""
        record, ttl = self._record(State.FAILURE, job, call, failure=failure), self.ttl(options)
        if not options.dead_letter:
            return Ack(record, ttl)
        header = job.message.header
        letter = Letter(
            id=job.id,
            reason=reason,
            raw=job.message.raw,
            task=call.task if call else None,
            failure=failure,
            died=self.now_ms(),
            retries=header.retries,
            losses=header.losses,
        )
        return Bury(record, ttl, letter.encode())

    def started(self, job: ClaimedJob, call: Call) -> bytes:
        """The record of a job that runs."""
        return self._record(State.STARTED, job, call)

    def ttl(self, options: TaskOptions) -> str:
        """How long the record is kept, as the scripts take it."""
        ttl_s = options.ttl_s(self.limits.result_ttl_s)
        return "" if ttl_s is None else str(math.ceil(ttl_s))

    def _succeeded(self, job: ClaimedJob, result: bytes, call: Call | None, options: TaskOptions) -> Settlement:
        if options.ignore_result:
            return Ack(self._record(State.SUCCESS, job, call), "0")
        return Ack(self._record(State.SUCCESS, job, call, result=result), self.ttl(options))

    def _asked_to_retry(
        self, job: ClaimedJob, outcome: WantsRetry, call: Call | None, options: TaskOptions
    ) -> Settlement:
        signal, retries = outcome.signal, job.message.header.retries
        limit = self._limit(call, options) if signal.max_retries is ... else signal.max_retries
        if may_retry(retries, limit):
            delay_s = seconds(options.default_retry_delay) if signal.defer is None else signal.defer
            return self._retried(job, outcome.failure, delay_s, call)
        failure = outcome.failure or Failure(MaxRetriesExceeded.__name__, f"no retry left after {retries}")
        return self.failed(job, failure, "failed", call, options)

    def _raised(self, job: ClaimedJob, outcome: Failed, call: Call | None, options: TaskOptions) -> Settlement:
        if isinstance(outcome.error, options.autoretry_for) and may_retry(
            job.message.header.retries, self._limit(call, options)
        ):
            return self._retried(job, outcome.failure, self._automatic_delay_s(job, options), call)
        return self.failed(job, outcome.failure, "failed", call, options)

    def _retried(self, job: ClaimedJob, failure: Failure | None, delay_s: float, call: Call | None) -> Defer:
        message = job.message.changed(retries=job.message.header.retries + 1, id=job.id)
        return Defer(message, delay_s, self._record(State.RETRY, job, call, failure=failure))

    def _unknown(self, job: ClaimedJob, task: str) -> Settlement:
        """Put off for minutes, since during a deployment another worker may know the task; then a dead letter."""
        now, since = self.now_ms(), job.message.header.since
        if not since or now - since < self.config.unknown_task_s * 1000:
            return Defer(job.message.changed(since=since or now, id=job.id), self.config.unknown_retry_s)
        text = f"no worker knew the task {task!r} for {(now - since) / 1000:.0f} s"
        return self.failed(job, Failure(UnknownTask.__name__, text), "unknown task", Call(task))

    def _limit(self, call: Call | None, options: TaskOptions) -> int | None:
        if call is not None and call.max_retries is not ...:
            limit: int | None = call.max_retries
            return limit
        return options.max_retries

    def _automatic_delay_s(self, job: ClaimedJob, options: TaskOptions) -> float:
        if options.retry_backoff is False:
            return seconds(options.default_retry_delay)
        return backoff_s(
            job.message.header.retries,
            float(options.retry_backoff),
            seconds(options.retry_backoff_max),
            options.retry_jitter,
        )

    def _record(
        self,
        state: State,
        job: ClaimedJob,
        call: Call | None,
        *,
        result: bytes | None = None,
        failure: Failure | None = None,
    ) -> bytes:
        header = job.message.header
        about: dict[str, Any] = {
            "task": call.task if call else None,
            "worker": job.worker,
            "retries": header.retries or None,
            "losses": header.losses or None,
            "enqueued": call.enqueued if call else None,
            "started": job.started_ms,
            "finished": None if state is State.STARTED else self.now_ms(),
            "parent_id": call.parent_id if call else None,
            "root_id": call.root_id if call else None,
        }
        return Record(state, result, failure, about).encode()
