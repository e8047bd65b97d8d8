"""One run of one job: from its message to an outcome.

It touches no storage, and nothing that a task raises gets past it.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor as ThreadPool
from functools import partial
from typing import Any

from rqueue.client.context import CURRENT, Context, Request
from rqueue.client.registry import Registry
from rqueue.client.task import Task
from rqueue.errors import MalformedMessage, MessageTooLarge, Reject, ResultError, Retry, Snooze
from rqueue.wire import codec
from rqueue.wire.history import past_errors
from rqueue.wire.keys import MAIN, check_queue_name
from rqueue.wire.message import Call
from rqueue.wire.record import MAX_ERROR_CHARS, MAX_NAME_CHARS, MAX_TRACEBACK_CHARS, Failure
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.interrupt import Driven, FunctionRun
from rqueue.worker.outcome import (
    Expired,
    Failed,
    Interrupted,
    Moving,
    Outcome,
    Rejected,
    Snoozed,
    Succeeded,
    Unknown,
    Unreadable,
    WantsRetry,
)

_VALUES = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})
"""What most tasks return, and nobody awaits."""


def prepare(job: ClaimedJob, registry: Registry, now_ms: int) -> tuple[Call, Task[Any, Any]] | Outcome:
    """The call and its task, or why it cannot run."""
    try:
        call = Call.decode(job.message.body)
    except MalformedMessage as exc:
        return Unreadable("malformed", str(exc))
    job.unique = call.unique
    if call.move is not None and call.move.queue != job.keys.name:
        return Moving(call, call.move)  # by any worker: it need not know the task
    task = registry.find(call.task)
    if task is None:
        return Unknown(call.task)
    if call.expires is not None and now_ms > call.expires:
        return Expired()
    return call, task


def request_of(job: ClaimedJob, call: Call, task: Task[Any, Any]) -> Request:
    """What the running job may know of itself."""
    header = job.message.header
    return Request(
        id=job.id,
        task=task.name,
        args=call.args,
        kwargs=call.kwargs or {},
        queue=job.keys.name,
        priority=None if header.level == MAIN else header.level,
        retries=header.retries,
        losses=header.losses,
        worker=job.worker,
        parent_id=call.parent_id,
        root_id=call.root_id or job.id,
        history=past_errors(call.history) if call.history else (),
        headers=call.headers or {},
    )


async def perform(
    job: ClaimedJob,
    call: Call,
    task: Task[Any, Any],
    threads: ThreadPool | None,
    max_result_bytes: int,
    *,
    is_soft: bool = False,
) -> Outcome:
    """Run the task.

    Args:
        job: the claimed job.
        call: its decoded message.
        task: its task.
        threads: where plain functions run; None is the event loop's own pool.
        max_result_bytes: a larger value, or message of a retry with other arguments, fails the job.
        is_soft: it has a soft time limit: a coroutine is run so that it can be told.
    """
    args = _introduced(job, call, task)
    kwargs = dict(call.kwargs or {})
    try:
        if task.needs:
            kwargs |= await task.provide(kwargs)
        if task.is_coroutine:
            awaitable = task.function(*args, **kwargs)
            value = await (_told(job, awaitable) if is_soft else awaitable)
        else:
            value = await _in_thread(job, threads, task.function, args, kwargs)
        if type(value) not in _VALUES and inspect.isawaitable(
            value
        ):  # a plain function that gives one back: a partial, a lambda, a wrapper
            value = await (_told(job, value) if is_soft else value)
        return Succeeded(_encode(value, max_result_bytes))
    except Retry as signal:
        return _wants_retry(job, signal, call, task, max_result_bytes)
    except Snooze as signal:
        return Snoozed(signal.delay_s)
    except Reject as signal:
        return Snoozed(0.0) if signal.requeue else Rejected(failure_of(signal))
    except asyncio.CancelledError as exc:
        return Interrupted() if job.is_interrupted else Failed(exc, failure_of(exc))
    except BaseException as exc:
        # SystemExit and KeyboardInterrupt too: a unit of work ends itself, never the worker.
        return Failed(exc, failure_of(exc))


def _introduced(job: ClaimedJob, call: Call, task: Task[Any, Any]) -> Sequence[Any]:
    """Make the job known in this asyncio task's own context, which ends with it; its positional arguments."""
    if not task.is_bound:
        CURRENT.set(partial(request_of, job, call, task))
        return call.args
    request = request_of(job, call, task)
    CURRENT.set(request)
    return (Context(request, job.report), *call.args)


def failure_of(error: BaseException) -> Failure:
    """What is kept of an exception; one whose ``__str__`` raises is kept as well."""
    try:
        message = str(error)
    except BaseException as exc:
        message = f"<str() of the exception raised {type(exc).__name__}>"
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as exc:
        text = f"<the traceback could not be formatted: {type(exc).__name__}>"
    return Failure(
        _storable(type(error).__name__)[:MAX_NAME_CHARS],
        _storable(message)[:MAX_ERROR_CHARS],
        _storable(text)[-MAX_TRACEBACK_CHARS:],
    )


def _wants_retry(
    job: ClaimedJob, signal: Retry, call: Call, task: Task[Any, Any], max_bytes: int
) -> WantsRetry | Failed:
    """The retry that a task asked for; what cannot be sent is an error, as if ``retry`` had raised it."""
    error = signal.exc or signal.__cause__ or signal.__context__
    fields: dict[str, bytes | None] = {}
    try:
        if signal.queue is not None:
            check_queue_name(signal.queue)
        if signal.new_args is not None or signal.new_kwargs is not None:
            args = call.args if signal.new_args is None else tuple(signal.new_args)
            kwargs = call.kwargs or {} if signal.new_kwargs is None else dict(signal.new_kwargs)
            task.check(args, kwargs)
            Call(call.task, args, kwargs).encode()  # names what cannot be sent
            fields = {"args": codec.dumps(args), "kwargs": codec.dumps(kwargs)}
            size = len(job.message.rewritten(fields | {"history": None}).raw)
            if size > max_bytes:
                raise MessageTooLarge(
                    f"{call.task}: the message of the retry has {size:,} bytes, max_message_bytes is {max_bytes:,}; "
                    "store large data elsewhere and send a reference"
                )
    except (TypeError, ValueError) as exc:
        return Failed(exc, failure_of(exc))
    return WantsRetry(signal, None if error is None else failure_of(error), fields)


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def _encode(value: Any, max_bytes: int) -> bytes:
    try:
        data = codec.dumps(value)
    except TypeError as exc:
        raise ResultError(f"the value cannot be stored as JSON: {exc} (got {type(value).__name__})") from None
    if len(data) > max_bytes:
        raise ResultError(f"the value has {len(data):,} bytes as JSON, max_message_bytes is {max_bytes:,}")
    return data


def _told(job: ClaimedJob, awaitable: Awaitable[Any]) -> Awaitable[Any]:
    """What to await so that the job can be told that its soft limit is over."""
    job.run = driven = Driven(awaitable, lambda: job.is_interrupted or job.verdict is not None)
    return driven


async def _in_thread(
    job: ClaimedJob,
    threads: ThreadPool | None,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    """Run a function in a thread, in this context; whatever it raises comes back as data first.

    A future cannot carry StopIteration, and a thread that ends by SystemExit would say so on stderr.
    """
    job.run = run = FunctionRun(function, args, kwargs)
    value, error = await asyncio.get_running_loop().run_in_executor(threads, run)
    job.run = None
    if error is None:
        return value
    if isinstance(error, StopIteration):
        raise RuntimeError(f"the task raised StopIteration: {error}") from error  # noqa: TRY004 - as in a coroutine
    raise error
