"""Who is told what happens: hooks (how a job ended, once that is settled) and observers (Celery's signals).

Neither changes anything: what one raises is logged. Where nobody is registered, one truth test is all that it costs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from rqueue.errors import ConfigError
from rqueue.log import event
from rqueue.wire.state import State

Function = TypeVar("Function", bound=Callable[..., object])

HOOKS: Final = ("on_success", "on_failure", "on_retry", "on_dead")

SIGNALS: Final = (
    "before_task_publish",
    "after_task_publish",
    "task_received",
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_revoked",
    "task_rejected",
    "task_unknown",
    "worker_init",
    "worker_ready",
    "worker_shutting_down",
    "worker_shutdown",
    "worker_process_init",
    "worker_process_shutdown",
)


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a run of a job ended: what hooks are given.

    Attributes:
        id: the job's id.
        task: the task's name, or None when it could not be read.
        args, kwargs: what it was called with; empty when they could not be read.
        queue: its queue.
        state: SUCCESS, FAILURE or RETRY.
        retries: retries before this run.
        losses: workers that died while they ran it.
        worker: the worker that settled it.
        result: the value as a waiter gets it, in SUCCESS.
        error: ``Type: text`` of the error, in FAILURE and RETRY.
        traceback: the traceback as text, or None.
        exception: the error itself, where it was raised in this process, or None.
        reason: in ``on_dead`` why it is a dead letter: ``failed``, ``malformed``, ``unknown task``, ``worker lost``, …
        retry_in_s: in ``on_retry`` the seconds until the next run.
    """

    id: str
    task: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    state: State
    retries: int = 0
    losses: int = 0
    worker: str | None = None
    result: Any = None
    error: str | None = None
    traceback: str | None = None
    exception: BaseException | None = None
    reason: str | None = None
    retry_in_s: float | None = None


class Hooks:
    """The hooks of a task, or of the app for all its tasks; each list in the order in which they are called.

    Args:
        signals: the app's, told that somebody listens.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.on_success: list[Callable[[JobOutcome], object]] = []
        self.on_failure: list[Callable[[JobOutcome], object]] = []
        self.on_retry: list[Callable[[JobOutcome], object]] = []
        self.on_dead: list[Callable[[JobOutcome], object]] = []

    def add(self, name: str, hook: Function) -> Function:
        """Register one.

        Raises:
            ConfigError: it cannot be called with one argument.
        """
        check_outcome_hook(name, hook)
        getattr(self, name).append(hook)
        self._signals.is_used = True
        return hook


def check_outcome_hook(name: str, hook: object) -> None:
    """Refuse what cannot be called with an outcome.

    Raises:
        ConfigError: it is no function of one argument.
    """
    if not callable(hook):
        raise ConfigError(f"{name} {hook!r}: a function of one argument, the outcome")
    try:
        inspect.signature(hook).bind(None)
    except ValueError:  # a builtin that does not say
        return
    except TypeError as exc:
        raise ConfigError(f"{name} {hook!r}: a function of one argument, the outcome: {exc}") from None


class _Receiver(NamedTuple):
    function: Callable[..., object]
    sender: object
    names: frozenset[str] | None  # the keyword arguments that it takes; None takes all


class Signal:
    """One of Celery's signals. True when somebody is connected.

    Args:
        name: its name.
        signals: the app's.
    """

    def __init__(self, name: str, signals: Signals) -> None:
        self.name, self._signals = name, signals
        self._receivers: list[_Receiver] = []

    def __repr__(self) -> str:
        return f"Signal({self.name!r})"

    def __bool__(self) -> bool:
        return bool(self._receivers)

    def connect(self, function: Any = None, *, sender: object = None) -> Any:
        """Call a function at each signal, as ``@signal.connect`` or ``@signal.connect(sender=…)``.

        Args:
            function: it is called with those of the signal's keyword arguments that it takes: a plain one at once and
                in place, so it must be short; a coroutine function in an asyncio task of its own.
            sender: only what comes from that task, given as the task or by its name.

        Raises:
            ConfigError: it is no function, or needs an argument that is not given by keyword.
        """
        if function is None:
            return partial(self.connect, sender=sender)
        self._receivers.append(_Receiver(function, sender, _keywords(self.name, function)))
        self._signals.is_used = True
        return function

    def disconnect(self, function: Callable[..., object], *, sender: object = None) -> bool:
        """Call it no more; false when it was not connected so."""
        for receiver in self._receivers:
            if receiver.function is function and receiver.sender == sender:
                self._receivers.remove(receiver)
                return True
        return False

    def send(self, sender: object, **values: Any) -> None:
        """Call whoever is connected; what they raise is logged."""
        values |= {"sender": sender, "signal": self}
        for receiver in tuple(self._receivers):
            if receiver.sender is not None and receiver.sender not in (sender, getattr(sender, "name", sender)):
                continue
            names = receiver.names
            given = values if names is None else {name: value for name, value in values.items() if name in names}
            try:
                called = receiver.function(**given)
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - an observer changes nothing
                report(self.name, receiver.function, exc)
            else:
                if inspect.iscoroutine(called):
                    self._signals.spawn(called, self.name, receiver.function)


class Signals:
    """An app's signals, by Celery's names.

    Args:
        elsewhere: runs a coroutine where no event loop runs here.

    Attributes:
        is_used: somebody has ever been registered, so that it is worth while to look who.
    """

    before_task_publish: Signal
    after_task_publish: Signal
    task_received: Signal
    task_prerun: Signal
    task_postrun: Signal
    task_success: Signal
    task_failure: Signal
    task_retry: Signal
    task_revoked: Signal
    task_rejected: Signal
    task_unknown: Signal
    worker_init: Signal
    worker_ready: Signal
    worker_shutting_down: Signal
    worker_shutdown: Signal
    worker_process_init: Signal
    worker_process_shutdown: Signal

    def __init__(self, elsewhere: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]) -> None:
        self._elsewhere = elsewhere
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_used = False
        for name in SIGNALS:
            setattr(self, name, Signal(name, self))

    def spawn(self, coroutine: Coroutine[Any, Any, object], what: str, function: Callable[..., object]) -> None:
        """Run a coroutine of theirs beside everything else; what it raises is logged."""

        async def guarded() -> None:
            try:
                await coroutine
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - it changes nothing
                report(what, function, exc)

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._elsewhere(guarded)
            return
        task = loop.create_task(guarded(), name=f"rqueue {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def running(self) -> set[asyncio.Task[None]]:
        """What was spawned in this loop and has not ended."""
        loop = asyncio.get_running_loop()
        return {task for task in self._tasks.copy() if task.get_loop() is loop}


def report(what: str, function: Callable[..., object], error: BaseException) -> None:
    """Log what a hook or an observer raised, with its traceback."""
    name = getattr(function, "__qualname__", repr(function))
    event(logging.ERROR, "hook or observer failed", exc_info=error, what=what, function=name, error=repr(error))


def _keywords(name: str, function: object) -> frozenset[str] | None:
    if not callable(function):
        raise ConfigError(f"{name} {function!r}: a function is needed")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin that does not say
        return None
    taken: set[str] = set()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            return None
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            taken.add(parameter.name)
        elif parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise ConfigError(f"{name} {function!r}: it is called with keyword arguments only")
    return frozenset(taken)
