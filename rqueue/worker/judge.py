"""From an outcome to what is to be done: the task's options decide, without I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from rqueue.client.options import TaskOptions, seconds
from rqueue.config import Limits, WorkerConfig
from rqueue.errors import MaxRetriesExceeded, UnknownTask
from rqueue.policy.retry import backoff_s, may_retry
from rqueue.wire import codec
from rqueue.wire.history import noted
from rqueue.wire.message import Call, Onward, fragment
from rqueue.wire.record import Failure, Letter, Record, encode_success
from rqueue.wire.seal import Keyring, seal_letter, seal_record
from rqueue.wire.state import State
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import (
    Ack,
    Bury,
    Defer,
    Expired,
    Failed,
    Interrupted,
    Moving,
    Outcome,
    Rejected,
    Release,
    Revoke,
    Revoked,
    Settlement,
    Snoozed,
    Succeeded,
    Transfer,
    Unknown,
    Unreadable,
    WantsRetry,
)
from rqueue.worker.perform import failure_of

_NO_TASK = TaskOptions()
_NO_CALL = Call("")
_NO_FIELDS: Final[Mapping[str, bytes | None]] = {}
RETRY_RECORD_TTL_S = 86_400


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides what becomes of a job.

    Args:
        limits: bounds on what is stored.
        config: the worker's settings.
        now_ms: Redis's time.
        keyring: what is to be stored is sealed with it; None: it is stored as it is.
    """

    limits: Limits
    config: WorkerConfig
    now_ms: Callable[[], int]
    keyring: Keyring | None = None

    def decide(  # noqa: C901 - a case for each outcome
        self, job: ClaimedJob, outcome: Outcome, call: Call | None = None, options: TaskOptions = _NO_TASK
    ) -> Settlement:
        """What is to be done about a job that ended so."""
        match outcome:
            case Succeeded(result):
                return self._succeeded(job, result, call, options)
            case WantsRetry():
                return self._asked_to_retry(job, outcome, call, options)
            case Snoozed(delay_s):
                return self._snoozed(job, delay_s, call)
            case Moving(called, to):
                return self._moving(job, called, to)
            case Rejected(failure):
                return self.failed(job, failure, "rejected", call, options)
            case Failed():
                return self._raised(job, outcome, call, options)
            case Expired():
                failure = Failure("JobExpired", "it could not be started in time")
                return Ack(self._record(State.REVOKED, job, call, failure=failure), self.ttl(options))
            case Revoked():
                text = "it was cancelled" if job.started_ms is None else "it was cancelled while it ran"
                record = self._record(State.REVOKED, job, call, failure=Failure("JobRevoked", text))
                return Revoke(record, self.ttl(options))
            case Unknown(task):
                return self._unknown(job, task)
            case Unreadable(reason, text, error):
                return self.failed(job, Failure(error, text), reason)
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
        *,
        is_expected: bool = False,
    ) -> Settlement:
        """A job that is not tried again: FAILURE, and a dead letter unless the task wants none, or it is expected."""
        record, ttl = self._record(State.FAILURE, job, call, failure=failure), self.ttl(options)
        if is_expected or not options.dead_letter:
            return Ack(record, ttl, is_expected)
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
        return Bury(record, ttl, seal_letter(self.keyring, job.keys.main, letter).encode())

    def started(self, job: ClaimedJob, call: Call) -> bytes:
        """The record of a job that runs."""
        return self._record(State.STARTED, job, call)

    def ttl(self, options: TaskOptions) -> str:
        """How long the record is kept, as the scripts take it."""
        return _whole_seconds(self.limits.in_redis_s(options.ttl_s(self.limits.result_ttl_s)))

    def _succeeded(self, job: ClaimedJob, result: bytes, call: Call | None, options: TaskOptions) -> Settlement:
        if options.ignore_result:
            return Ack(self._record(State.SUCCESS, job, call), "0")
        if call is not None and call.enqueued is not None and job.started_ms is not None and _is_uneventful(job, call):
            record = encode_success(result, call.task, job.worker, call.enqueued, job.started_ms, self.now_ms())
            if self.keyring is not None:
                record = seal_record(self.keyring, job.keys.main, job.id, record)
        else:
            record = self._record(State.SUCCESS, job, call, result=result)
        return Ack(record, self.ttl(options))

    def _asked_to_retry(
        self, job: ClaimedJob, outcome: WantsRetry, call: Call | None, options: TaskOptions
    ) -> Settlement:
        signal, retries = outcome.signal, job.message.header.retries
        limit = self._limit(call, options) if signal.max_retries is ... else signal.max_retries
        if may_retry(retries, limit):
            delay_s = seconds(options.default_retry_delay) if signal.defer is None else signal.defer
            fields = outcome.fields
            if signal.queue not in (None, job.keys.name):
                # It waits here, in one step as ever; whoever claims it when it is due moves it.
                fields = {**fields, "move": Onward.to(signal.queue).encode()}
            return self._retried(job, outcome.failure, delay_s, call, options, fields)
        error = signal.exc
        if error is None:
            cause = outcome.failure
            because = f": {cause.type}: {cause.message}" if cause else ""
            error = MaxRetriesExceeded(f"no retry left after {retries}{because}")
            error.__cause__ = signal.__cause__ or signal.__context__
        is_expected = isinstance(error, options.throws)
        return self.failed(job, failure_of(error), "failed", call, options, is_expected=is_expected)

    def _raised(self, job: ClaimedJob, outcome: Failed, call: Call | None, options: TaskOptions) -> Settlement:
        error, retries = outcome.error, job.message.header.retries
        is_automatic = isinstance(error, options.autoretry_for) and not isinstance(error, options.dont_autoretry_for)
        if is_automatic and may_retry(retries, self._limit(call, options)):
            return self._retried(job, outcome.failure, self._automatic_delay_s(job, options), call, options)
        is_expected = isinstance(error, options.throws)
        return self.failed(job, outcome.failure, "failed", call, options, is_expected=is_expected)

    def _retried(
        self,
        job: ClaimedJob,
        failure: Failure | None,
        delay_s: float,
        call: Call | None,
        options: TaskOptions,
        fields: Mapping[str, bytes | None] = _NO_FIELDS,
    ) -> Settlement:
        header = {"retries": job.message.header.retries + 1, "id": job.id}
        if call is not None and failure is not None:
            history = noted(call.history, self.now_ms(), f"{failure.type}: {failure.message}")
            fields, call = {**fields, "history": codec.dumps(history)}, replace(call, history=history)
        try:
            message = job.message.rewritten(fields, **header) if fields else job.message.changed(**header)
        except TypeError as exc:  # more levels than JSON is written with: only another producer can have sent them
            return self.failed(job, failure_of(exc), "failed", call, options)
        return Defer(message, delay_s, self._record(State.RETRY, job, call, failure=failure))

    def _snoozed(self, job: ClaimedJob, delay_s: float, call: Call | None) -> Defer:
        """Put off as it came. Its record is written anew, since one that says STARTED may stand there."""
        state = State.RETRY if job.message.header.retries else State.PENDING
        record = self._record(state, job, call, failure=_last_failure(call))
        return Defer(job.message.changed(id=job.id), delay_s, record, is_quiet=True)

    def _moving(self, job: ClaimedJob, call: Call, to: Onward) -> Transfer:
        message = job.message.rewritten({"move": None}, id=job.id, since=0).for_queue(to.queue)
        again = job.message.rewritten({"move": Onward.to(to.queue).encode()}, id=job.id)
        record = self._record(State.RETRY, job, call, failure=_last_failure(call), moved=to.queue)
        return Transfer(to, message, record, again)

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
        moved: str | None = None,
    ) -> bytes:
        header = job.message.header
        call = call or _NO_CALL
        about: dict[str, Any] = {"task": call.task or None, "worker": job.worker}
        if header.retries or header.losses:
            about |= {"retries": header.retries or None, "losses": header.losses or None}
        about["enqueued"], about["started"] = call.enqueued, job.started_ms
        about["finished"] = None if state is State.STARTED else self.now_ms()
        if call.root_id is not None or call.parent_id is not None:
            about |= {"parent_id": call.parent_id, "root_id": call.root_id}
        if call.history or moved is not None:
            about |= {"history": call.history or None, "moved": moved}
        if job.progress is not None:
            about["progress"] = fragment(job.progress)
        return seal_record(self.keyring, job.keys.main, job.id, Record(state, result, failure, about).encode())


def _is_uneventful(job: ClaimedJob, call: Call) -> bool:
    """Nothing is to be said of it but that it ran, as of most jobs."""
    header = job.message.header
    has_family = call.root_id is not None or call.parent_id is not None
    return not (header.retries or header.losses or has_family or call.history or job.progress is not None)


@lru_cache
def _whole_seconds(ttl_s: float | None) -> str:
    return "" if ttl_s is None else str(math.ceil(ttl_s))


def _last_failure(call: Call | None) -> Failure | None:
    """The error of the last retry, as far as the message tells it."""
    if call is None or not call.history:
        return None
    name, _, text = call.history[-1][1].partition(": ")
    return Failure(name, text)
