"""Which dead letters are meant, and what is to be different about their messages before they run again.

Nothing here talks to Redis: :class:`~rqueue.client.admin.Admin` does what is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypedDict

import orjson

from rqueue.client.options import Seconds, seconds
from rqueue.client.registry import Registry
from rqueue.config import positive
from rqueue.errors import ConfigError, MalformedMessage, MessageTooLarge
from rqueue.wire import codec
from rqueue.wire.keys import MAIN
from rqueue.wire.message import Call, Message, check_priority, fragment
from rqueue.wire.record import Letter

_LIMITS: Final = ("max_retries", "time_limit", "soft_time_limit")


class FilterKwargs(TypedDict, total=False):
    """What chooses dead letters; see :class:`LetterFilter`."""

    task: str | None
    reason: str | None
    error: str | None
    older_than: Seconds | None
    newer_than: Seconds | None


class ChangeKwargs(TypedDict, total=False):
    """What changes a dead letter's message; see :class:`Changes`."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    priority: int | None
    max_retries: int | None
    time_limit: Seconds | None
    soft_time_limit: Seconds | None
    expires: Seconds | None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant; all conditions must hold.

    Attributes:
        task: of this task.
        reason: with this reason, ``worker lost`` for example.
        error: with this text in ``Type: message``, in capitals or not.
        older_than, newer_than: that died longer ago than this, or less long ago: seconds or a timedelta.
    """

    task: str | None = None
    reason: str | None = None
    error: str | None = None
    older_than: Seconds | None = None
    newer_than: Seconds | None = None

    @property
    def has_age(self) -> bool:
        """Whether Redis's time is needed to tell."""
        return self.older_than is not None or self.newer_than is not None

    def matches(self, letter: Letter, now_ms: int) -> bool:
        """Whether the letter is meant; of one that does not say when it died, no age is known."""
        if self.task not in (None, letter.task) or self.reason not in (None, letter.reason):
            return False
        if self.error is not None and self.error.casefold() not in error_of(letter).casefold():
            return False
        if not self.has_age:
            return True
        if letter.died is None:
            return False
        age_s = (now_ms - letter.died) / 1000
        if self.older_than is not None and age_s <= seconds(self.older_than, "older_than"):
            return False
        return self.newer_than is None or age_s < seconds(self.newer_than, "newer_than")


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different in a message; what is Ellipsis stays.

    Attributes:
        args, kwargs: its arguments.
        priority: 1 to 10, or None for none.
        max_retries: None for no limit.
        time_limit, soft_time_limit: seconds or a timedelta; None is the task's own.
        expires: seconds or a timedelta from now on; None is never.
    """

    args: Sequence[Any] | Any = ...
    kwargs: Mapping[str, Any] | Any = ...
    priority: int | Any | None = ...
    max_retries: int | Any | None = ...
    time_limit: Seconds | Any | None = ...
    soft_time_limit: Seconds | Any | None = ...
    expires: Seconds | Any | None = ...

    @property
    def are_none(self) -> bool:
        """Whether everything stays."""
        return self == Changes()

    def applied(self, message: Message, now_ms: int, max_bytes: int, tasks: Registry) -> Message:
        """The changed message; fields that are not named, known or not, stay as they are.

        Args:
            message: a message that can be read.
            now_ms: Redis's time.
            max_bytes: a larger message is refused.
            tasks: where the task is known, arguments are checked against its function.

        Raises:
            ConfigError: a value is wrong.
            TypeError: an argument is not JSON, or not one that the task takes.
            MessageTooLarge: it is.
        """
        changed = message
        if self.priority is not ...:
            changed = changed.changed(level=MAIN if self.priority is None else check_priority(self.priority))
        if fields := self._fields(now_ms):
            changed = changed.with_body(_with_fields(message.body, fields))
        self._check(changed, max_bytes, tasks)
        return changed

    def _fields(self, now_ms: int) -> dict[str, Any]:
        """What becomes of the object's fields, as JSON; None removes one."""
        found: dict[str, Any] = {}
        for name, kind, word in (("args", list | tuple, "a list"), ("kwargs", dict, "an object with names")):
            if (value := getattr(self, name)) is not ...:
                if not isinstance(value, kind):
                    raise ConfigError(f"{name} {value!r}: {word} is needed")
                found[name] = codec.dumps(value)
        for name in _LIMITS:
            if (value := getattr(self, name)) is not ...:
                sent = value.total_seconds() if isinstance(value, timedelta) else value
                found[name] = None if sent is None and name != "max_retries" else codec.dumps(sent)
        if self.expires is not ...:
            found["expires"] = None
            if self.expires is not None:
                positive("expires", after_s := seconds(self.expires, "expires"))
                found["expires"] = codec.dumps(now_ms + round(after_s * 1000))
        return found

    def _check(self, message: Message, max_bytes: int, tasks: Registry) -> None:
        try:
            call = Call.decode(message.body)
        except MalformedMessage as exc:
            raise ConfigError(f"the message would not be one: {exc}") from None
        if len(message.raw) > max_bytes:
            raise MessageTooLarge(f"the message would have {len(message.raw)} bytes, and {max_bytes} are allowed")
        task = tasks.find(call.task)
        if task is not None and (self.args is not ... or self.kwargs is not ...):
            task.check(tuple(call.args), dict(call.kwargs or {}))


def error_of(letter: Letter) -> str:
    """The error in a line, '' for none."""
    return f"{letter.failure.type}: {letter.failure.message}" if letter.failure is not None else ""


def with_message(data: bytes, message: Message) -> bytes:
    """A stored letter with another message: its first line stays as it is, to the byte."""
    return data.partition(b"\n")[0] + b"\n" + message.raw


def _with_fields(body: bytes, fields: Mapping[str, bytes | None]) -> bytes:
    """The object with other fields. Numbers beyond 64 bits, which other producers may send, are kept by ``json``."""
    try:
        found = json.loads(body)
    except ValueError as exc:
        raise ConfigError(f"the message is not JSON: {exc}") from None
    if not isinstance(found, dict):
        raise ConfigError("the message is no JSON object")
    for name, data in fields.items():
        if data is None:
            found.pop(name, None)
        else:
            found[name] = fragment(data)
    return orjson.dumps({name: _kept(value) for name, value in found.items()})


def _kept(value: Any) -> Any:
    return value if isinstance(value, orjson.Fragment) else fragment(json.dumps(value, separators=(",", ":")).encode())
