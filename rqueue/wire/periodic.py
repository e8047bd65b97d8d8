"""A periodic schedule as it is stored: what it enqueues, when, and how far it has come. One JSON object.

The stored bytes are compared before every change, so that of two who change an entry at once one begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire import codec
from rqueue.wire.history import is_moment
from rqueue.wire.keys import LEVELS

VERSION: Final = 1
MISFIRES: Final = ("skip", "once", "all")
"""What becomes of ticks that were missed: nothing, one job for the latest, or one job for each."""

OVERLAPS: Final = ("allow", "skip", "queue")
"""What a tick does while the last tick's job is alive: enqueue all the same, nothing, or wait for its end."""

_NAME = re.compile(r"[!-~]{1,100}")


def check_schedule_name(name: object) -> str:
    """Return the schedule's name.

    Raises:
        ConfigError: it is not 1 to 100 printable ASCII characters without spaces: it begins its jobs' ids.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"schedule {name!r}: a schedule's name is 1 to 100 printable ASCII characters without spaces; "
            "give it one with name="
        )
    return name


@dataclass(frozen=True, slots=True)
class Entry:
    """One schedule; exactly one of ``cron`` and ``every`` is given.

    Attributes:
        task: the name of the task that it enqueues.
        args, kwargs: the task's arguments.
        priority: 1 to 10, or None.
        expires: seconds after the enqueue when a job must not start any more, or None.
        cron: a crontab expression, or None.
        tz: the IANA time zone of the expression.
        every: ms between two ticks, or None.
        misfire: one of :data:`MISFIRES`.
        grace: ms that a tick may be late and still counts as on time.
        overlap: one of :data:`OVERLAPS`.
        source: ``code`` or ``added``.
        code: a fingerprint of the definition in the code that was last taken over, or None.
        paused: it does not tick.
        due: when it ticks next, ms since the epoch.
        last: the due time of the last tick that enqueued a job, or None.
        last_id: that job's id, or None.
        pending: due times of ticks that wait for the last job's end, for ``overlap="queue"``.
    """

    task: str
    due: int
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    priority: int | None = None
    expires: float | None = None
    cron: str | None = None
    tz: str = "UTC"
    every: int | None = None
    misfire: str = "skip"
    grace: int = 60_000
    overlap: str = "allow"
    source: str = "added"
    code: str | None = None
    paused: bool = False
    last: int | None = None
    last_id: str | None = None
    pending: Sequence[int] = ()

    def encode(self) -> bytes:
        """The object's bytes; fields at their default are left out.

        Raises:
            TypeError: an argument is not JSON.
        """
        body: dict[str, Any] = {"v": VERSION}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not (field.name == "kwargs" and not value):
                body[field.name] = list(value) if isinstance(value, tuple) else value
        return codec.dumps(body)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an entry; fields that are not known are ignored.

        Raises:
            MalformedMessage: it is none, or of a version that is not known here.
        """
        try:
            body = codec.loads(data)
        except ValueError as exc:
            raise MalformedMessage(f"not JSON: {exc}") from None
        if not isinstance(body, dict) or body.get("v") != VERSION:
            raise MalformedMessage(f'a JSON object with "v":{VERSION} is needed')
        known = {field.name: body[field.name] for field in fields(cls) if field.name in body}
        for name, (is_right, wanted) in _CHECKS.items():
            if (name in known or name in ("task", "due")) and not is_right(known.get(name)):
                raise MalformedMessage(f"{name!r} must be {wanted}")
        if (known.get("cron") is None) is (known.get("every") is None):
            raise MalformedMessage("one of 'cron' and 'every' is needed")
        for name in ("args", "pending"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


def _is_ms(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1e15


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_CHECKS: Final = {
    "task": (_is_text, "a task's name"),
    "due": (is_moment, "milliseconds since the epoch"),
    "args": (lambda value: isinstance(value, list), "a list"),
    "kwargs": (lambda value: isinstance(value, dict | None), "an object"),
    "priority": (lambda value: value is None or (type(value) is int and value in LEVELS), "a number from 1 to 10"),
    "expires": (lambda value: value is None or (type(value) in (int, float) and 0 < value < 1e10), "seconds above 0"),
    "cron": (lambda value: value is None or _is_text(value), "a crontab expression"),
    "tz": (_is_text, "a time zone"),
    "every": (lambda value: value is None or (_is_ms(value) and 0 < value < 1e12), "milliseconds above 0"),
    "misfire": (lambda value: value in MISFIRES, f"one of {', '.join(MISFIRES)}"),
    "grace": (_is_ms, "milliseconds"),
    "overlap": (lambda value: value in OVERLAPS, f"one of {', '.join(OVERLAPS)}"),
    "source": (lambda value: value in ("code", "added"), "code or added"),
    "code": (lambda value: value is None or _is_text(value), "a text"),
    "paused": (lambda value: isinstance(value, bool), "true or false"),
    "last": (lambda value: value is None or is_moment(value), "milliseconds since the epoch"),
    "last_id": (lambda value: value is None or _is_text(value), "a job's id"),
    "pending": (lambda value: isinstance(value, list) and all(map(is_moment, value)), "a list of milliseconds"),
}
