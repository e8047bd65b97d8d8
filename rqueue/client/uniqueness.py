"""What counts as the same job: the lock of a call, by its task and arguments or by a key of its own.

It alone knows how a lock is named. That a lock never outlives its job is the scripts' part: see ``admit.lua``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from rqueue.client.options import CallOptions, TaskOptions, seconds
from rqueue.errors import ConfigError
from rqueue.wire import codec

if TYPE_CHECKING:
    from rqueue.client.task import Signature

Until = Literal["start", "end"]

_RELEASED: Final[dict[str, Until]] = {"until_done": "end", "until_start": "start"}


@dataclass(frozen=True, slots=True)
class Lock:
    """What keeps a second job of the same kind from being enqueued.

    Attributes:
        kind: ``unique``, ``debounce`` or ``throttle``.
        name: the same for calls that count as the same.
        ms: for how long at most; 0 is no limit. For ``debounce`` the delay.
        until: when the worker gives it up; None where none is held.
    """

    kind: str
    name: str
    ms: int
    until: Until | None

    @property
    def due(self) -> str | None:
        """When the job may start, where the lock says that, as the enqueue script takes it."""
        return f"+{self.ms}" if self.kind == "debounce" else None

    @property
    def wire(self) -> str:
        """As ``admit.lua`` takes it."""
        return f"{self.kind} {0 if self.kind == 'debounce' else self.ms} {self.name}"

    @property
    def field(self) -> tuple[str, str] | None:
        """As the message says it."""
        return None if self.until is None else (self.until, self.name)


def lock_of(signature: Signature[Any]) -> Lock | None:
    """The lock of a call, or None: the call's options, where they name one, go before the task's.

    Raises:
        ConfigError: the key cannot be made of the call's arguments, or a debounced call has a time of its own.
    """
    call, task = signature.options, signature.task
    options: CallOptions | TaskOptions = call if call.is_locking else task.defaults
    if not options.is_locking:
        return None
    given = call.unique_key if call.unique_key is not None else task.defaults.unique_key
    until: Until | None = "end"
    if options.debounce is not None:
        if call.countdown is not None or call.eta is not None:
            raise ConfigError(f"{task.name}: debounce says when the job runs: give no countdown or eta")
        kind, ms = "debounce", _ms(options.debounce)
    elif options.throttle is not None:
        kind, ms, until = "throttle", _ms(options.throttle), None
    elif isinstance(options.unique, timedelta):
        kind, ms = "unique", _ms(options.unique)
    elif options.unique is None:
        return None
    else:
        kind, ms, until = "unique", 0, _RELEASED[options.unique]
    return Lock(kind, _name(kind, task.name, _key(signature, given)), ms, until)


def check_template(name: str, key: object, parameters: inspect.Signature | None) -> None:
    """Refuse a template that names what the task does not take.

    Raises:
        ConfigError: the text names it.
    """
    if isinstance(key, str) and parameters is not None:
        for field in _fields(key):
            if field not in parameters.parameters:
                raise ConfigError(
                    f"{name}: unique_key {key!r}: no parameter {field!r}; there are: {', '.join(parameters.parameters)}"
                )


def _key(signature: Signature[Any], given: Callable[..., object] | str | None) -> object:
    task = signature.task
    if callable(given):
        return given(*signature.args, **signature.kwargs)
    if task.parameters is None:  # a builtin that does not say what it takes
        arguments: dict[str, Any] = {"args": signature.args, "kwargs": signature.kwargs}
    else:
        arguments = _arguments(task.parameters, signature.args, signature.kwargs)
    if given is None:
        return arguments
    check_template(task.name, given, task.parameters)
    try:
        return given.format_map(arguments)
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise ConfigError(f"{task.name}: unique_key {given!r} does not fit the arguments: {exc}") from exc


def _arguments(parameters: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, defaults included; a default that cannot be sent is told by its absence."""
    bound = parameters.bind(*args, **kwargs)
    given = dict(bound.arguments)
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        if name not in given:
            with suppress(TypeError):
                codec.dumps(value)
                given[name] = value
    return given


def _name(kind: str, task: str, key: object) -> str:
    try:
        sent = codec.dumps([kind, task, key])
    except TypeError as exc:
        raise TypeError(f"{task}: the key of a unique job must be JSON: {exc}") from None
    sorted_ = orjson.dumps(orjson.loads(sent), option=orjson.OPT_SORT_KEYS)
    return blake2b(sorted_, digest_size=16).hexdigest()


def _fields(template: str) -> list[str]:
    """The parameters that a template names.

    Raises:
        ConfigError: it is no template.
    """
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as exc:
        raise ConfigError(f"unique_key {template!r}: {exc}") from None
    return [field.partition(".")[0].partition("[")[0] for field in fields]


def _ms(period: float | timedelta) -> int:
    return max(1, round(seconds(period) * 1000))
