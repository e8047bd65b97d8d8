"""Tells hooks and observers what happens to jobs in this worker.

It alone keeps that a hook speaks only of what was settled: it is called after Redis has confirmed, at most once, beside
the jobs' slots. If the process dies in between, nobody is told.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, Protocol

from rqueue.client.registry import Registry
from rqueue.client.signals import Hooks, JobOutcome, Signals
from rqueue.client.task import Task
from rqueue.errors import MalformedMessage
from rqueue.log import event
from rqueue.wire import codec
from rqueue.wire.message import Call
from rqueue.wire.record import Letter, decode_record, state_of
from rqueue.wire.seal import Keyring, open_record
from rqueue.wire.state import State
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import (
    Ack,
    Bury,
    Defer,
    Expired,
    Failed,
    Outcome,
    Revoke,
    Settlement,
    Succeeded,
    Unknown,
    WantsRetry,
)
from rqueue.worker.perform import request_of

_HOOK_OF = {State.SUCCESS: "on_success", State.FAILURE: "on_failure", State.RETRY: "on_retry"}
_NOBODY = Call("?")


class Listening(Protocol):
    """Whoever is told how jobs were settled; false while nobody listens."""

    def __bool__(self) -> bool: ...

    def settled(self, job: ClaimedJob, settlement: Settlement) -> None:
        """Redis has confirmed how a job was settled."""


class Observers:
    """Those who are told. True when there is anybody: whoever has something to tell asks first.

    Args:
        hooks: the app's hooks.
        signals: the app's signals.
        tasks: the tasks, with their hooks.
        keyring: what was stored was sealed with it.
    """

    def __init__(self, hooks: Hooks, signals: Signals, tasks: Registry, keyring: Keyring | None = None) -> None:
        self._hooks, self._signals, self._tasks, self._keyring = hooks, signals, tasks, keyring

    def __bool__(self) -> bool:
        return self._signals.is_used

    def received(self, job: ClaimedJob) -> None:
        """A job was claimed."""
        if self._signals.task_received and (found := self._read(job)) is not None:
            self._signals.task_received.send(job.worker, request=request_of(job, *found))

    def started(self, job: ClaimedJob, call: Call, task: Task[Any, Any]) -> None:
        """A run begins."""
        if self._signals.task_prerun:
            self._signals.task_prerun.send(
                task, task_id=job.id, task=task, args=list(call.args), kwargs=dict(call.kwargs or {})
            )

    def ended(self, job: ClaimedJob, outcome: Outcome, settlement: Settlement, call: Call | None) -> None:
        """A run has ended, and is not settled yet."""
        job.outcome = outcome
        task = self._tasks.find(call.task) if call is not None else None
        if self._signals.task_postrun and call is not None and task is not None:
            self._signals.task_postrun.send(
                task,
                task_id=job.id,
                task=task,
                args=list(call.args),
                kwargs=dict(call.kwargs or {}),
                retval=_value(outcome),
                state=_state(settlement),
            )

    def settled(self, job: ClaimedJob, settlement: Settlement) -> None:
        """Redis has confirmed how a job was settled."""
        try:
            self._tell(job, settlement)
        except Exception as exc:  # noqa: BLE001 - an error of our own: the job is settled all the same
            event(logging.CRITICAL, "telling of a job failed in the worker itself", id=job.id, error=repr(exc))

    def _tell(self, job: ClaimedJob, settlement: Settlement) -> None:
        state, outcome = _state(settlement), job.outcome
        job.outcome = None
        call, task = self._found(job)
        if isinstance(outcome, Unknown) and self._signals.task_unknown:
            self._signals.task_unknown.send(
                job.worker, name=outcome.task, id=job.id, message=job.message.raw, exc=outcome.task
            )
        if state is None:
            return
        told = _outcome_of(self._keyring, job, call, outcome, settlement, state)
        self._observe(job, told, call, task, outcome)
        sources = (task.hooks, self._hooks) if task is not None else (self._hooks,)
        names = [_HOOK_OF[state]] if state in _HOOK_OF else []
        if isinstance(settlement, Bury):
            names.append("on_dead")
        for name in names:
            for source in sources:
                for hook in getattr(source, name):
                    self._signals.spawn(_called(hook, told), name, hook)

    async def drained(self) -> None:
        """Return when no hook runs any more."""
        while running := self._signals.running():
            await asyncio.wait(running)

    def abandon(self) -> None:
        """What still runs is cancelled; a function in a thread goes on by itself."""
        if running := self._signals.running():
            event(logging.WARNING, "hooks still run, leaving without them", hooks=len(running))
        for task in running:
            task.cancel()

    def _observe(
        self, job: ClaimedJob, told: JobOutcome, call: Call, task: Task[Any, Any] | None, outcome: Outcome | None
    ) -> None:
        signals, sender = self._signals, task
        about = {"task_id": job.id, "args": list(call.args), "kwargs": dict(call.kwargs or {})}
        error: dict[str, Any] = {
            "exception": told.exception,
            "traceback": told.exception.__traceback__ if told.exception is not None else None,
            "einfo": told.traceback or told.error,
        }
        if told.state is State.SUCCESS and signals.task_success:
            signals.task_success.send(sender, result=told.result, **about)
        elif told.state is State.FAILURE and told.reason in ("malformed", "not authentic") and signals.task_rejected:
            signals.task_rejected.send(job.worker, message=job.message.raw, exc=told.error)
        elif told.state is State.FAILURE and signals.task_failure:
            signals.task_failure.send(sender, **about, **error)
        elif told.state is State.RETRY and signals.task_retry and task is not None:
            reason = told.exception or told.error
            signals.task_retry.send(sender, request=request_of(job, call, task), reason=reason, einfo=error["einfo"])
        elif told.state is State.REVOKED and signals.task_revoked and task is not None:
            has_run = not isinstance(outcome, Expired) and job.started_s > 0
            signals.task_revoked.send(
                sender,
                request=request_of(job, call, task),
                terminated=has_run,
                signum=None,
                expired=isinstance(outcome, Expired),
            )

    def _found(self, job: ClaimedJob) -> tuple[Call, Task[Any, Any] | None]:
        try:
            call = Call.decode(job.message.body)
        except MalformedMessage:
            return _NOBODY, None
        return call, self._tasks.find(call.task)

    def _read(self, job: ClaimedJob) -> tuple[Call, Task[Any, Any]] | None:
        call, task = self._found(job)
        return (call, task) if task is not None else None


async def _called(hook: Callable[[JobOutcome], object], told: JobOutcome) -> None:
    """Call a hook: a coroutine function here, any other in a thread."""
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
        await hook(told)  # type: ignore[misc]
    else:
        value = await asyncio.to_thread(hook, told)
        if inspect.isawaitable(value):  # a partial, a lambda
            await value


def _state(settlement: Settlement) -> State | None:
    """The state in which the job is from then on; None when it goes on as if nothing had been."""
    if isinstance(settlement, Defer) and settlement.is_quiet:
        return None
    if isinstance(settlement, Ack | Bury | Defer | Revoke) and settlement.record:
        return State(state_of(settlement.record))
    return None


def _value(outcome: Outcome) -> Any:
    """What Celery gives as retval: the value, or the error."""
    match outcome:
        case Succeeded(result):
            return codec.loads(result)
        case Failed(error, _):
            return error
        case WantsRetry(signal, _):
            return signal
    return None


def _outcome_of(
    keyring: Keyring | None,
    job: ClaimedJob,
    call: Call,
    outcome: Outcome | None,
    settlement: Settlement,
    state: State,
) -> JobOutcome:
    """What is told of it: what was written, and the objects themselves where they are at hand."""
    assert isinstance(settlement, Ack | Bury | Defer | Revoke)
    fields = decode_record(open_record(keyring, job.keys.main, job.id, settlement.record))
    error, exception = fields.get("error"), None
    if isinstance(outcome, Failed):
        exception = outcome.error
    elif isinstance(outcome, WantsRetry):
        exception = outcome.signal.exc
    return JobOutcome(
        id=job.id,
        task=fields.get("task"),
        args=call.args,
        kwargs=call.kwargs or {},
        queue=job.keys.name,
        state=state,
        retries=job.message.header.retries,
        losses=job.message.header.losses,
        worker=job.worker,
        result=codec.loads(outcome.result) if state is State.SUCCESS and isinstance(outcome, Succeeded) else None,
        error=f"{error['type']}: {error['message']}" if error else None,
        traceback=fields.get("traceback"),
        exception=exception if state is not State.SUCCESS else None,
        reason=Letter.decode(settlement.letter).reason if isinstance(settlement, Bury) else None,
        retry_in_s=settlement.delay_s if isinstance(settlement, Defer) else None,
    )
