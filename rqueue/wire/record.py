"""A job's stored record (its state and result) and its dead letter, to bytes and back.

A record always begins with ``{"state":"…"``: the script that settles reads the state from there, to count it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson

from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire import codec
from rqueue.wire.keys import check_queue_name
from rqueue.wire.message import fragment
from rqueue.wire.state import State

MAX_ERROR_CHARS: Final = 2_000
"""An error's text is cut to this many characters."""

MAX_NAME_CHARS: Final = 200
"""The name of an error's class is cut to this many characters."""

MAX_TRACEBACK_CHARS: Final = 16_000
"""A traceback is cut to this many characters, from its beginning: its end says what happened."""


DROPPED: Final = b'"dropped":true}'
"""A record that a script wrote because Redis was too full for the whole one ends so."""

_SUCCESS: Final = b'{"state":"SUCCESS","result":%b,"task":%b,"worker":%b,"enqueued":%d,"started":%d,"finished":%d}'
_as_json = lru_cache(orjson.dumps)
_STATES: Final = {state.encode(): state.value for state in State}
_PLAIN: Final = frozenset({str, int, orjson.Fragment})


@dataclass(frozen=True, slots=True)
class Failure:
    """What is kept of an exception.

    Attributes:
        type: the name of its class.
        message: its text, bounded.
        traceback: its traceback as text, bounded, or None.
    """

    type: str
    message: str
    traceback: str | None = None

    def fields(self) -> dict[str, Any]:
        """Its part of a record or letter."""
        found: dict[str, Any] = {"error": {"type": self.type, "message": self.message}}
        if self.traceback:
            found["traceback"] = self.traceback
        return found


@dataclass(slots=True)  # not frozen: each job makes one, and a frozen class takes four times as long
class Record:
    """What is stored under a job's result key.

    Attributes:
        state: the job's state.
        result: the returned value as JSON, or None when there is none.
        failure: why it failed, is retried or was revoked, or None.
        about: the other fields: ``task``, ``worker``, ``retries``, ``losses``, ``enqueued``, ``started``, ``finished``,
            ``parent_id``, ``root_id``, ``progress``, ``history``, ``moved``; those that are None are left out.
    """

    state: State
    result: bytes | None = None
    failure: Failure | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The record's bytes."""
        fields: dict[str, Any] = {"state": self.state}
        if self.result is not None:
            fields["result"] = fragment(self.result)
        if self.failure is not None:
            fields |= self.failure.fields()
        for name, value in self.about.items():
            if value is not None:
                fields[name] = value if type(value) in _PLAIN else fragment(codec.dumps(value))
        return orjson.dumps(fields)


def encode_success(result: bytes, task: str, worker: str, enqueued: int, started: int, finished: int) -> bytes:
    """The record of a job that had nothing but its success, as ``Record(…).encode()`` makes it in three times the time.

    Args:
        result: the returned value as JSON.
        task: the task's name.
        worker: the worker that ran it.
        enqueued, started, finished: when, in ms since the epoch.
    """
    names = _as_json(task), _as_json(worker)
    return _SUCCESS % (result, *names, enqueued, started, finished)


def decode_record(data: bytes) -> dict[str, Any]:
    """A record's fields; ``state`` is a :class:`State`, ``result`` is decoded.

    Raises:
        MalformedMessage: it is not a record.
    """
    try:
        fields = codec.loads(data)
        fields["state"] = State(fields["state"])
    except (ValueError, TypeError, KeyError) as exc:
        raise MalformedMessage(f"not a job's record: {exc}") from None
    return dict(fields)


def state_of(record: bytes) -> str:
    """The state of a record that was made here, without reading the rest of it."""
    start = len(b'{"state":"')
    name = record[start : record.index(b'"', start)]
    return _STATES.get(name) or name.decode()  # another version of rqueue may know more states


def moved_to(record: bytes) -> str | None:
    """The queue in which a job goes on that has left this record's queue, or None.

    Raises:
        MalformedMessage: it is not a record.
    """
    if b'"moved":"' not in record:
        return None
    fields = decode_record(record)
    if fields["state"].is_final or "moved" not in fields:
        return None
    try:
        return check_queue_name(fields["moved"])
    except ConfigError as exc:
        raise MalformedMessage(f"not a job's record: 'moved': {exc}") from None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: what could not be done, why, and the exact bytes.

    Attributes:
        id: the job's id; one made for the letter when the message had none.
        reason: ``failed``, ``rejected``, ``malformed``, ``unknown task`` or ``worker lost``.
        raw: the message's bytes.
        task: the task's name, or None when it could not be read.
        failure: the error.
        died: when, ms since the epoch.
        retries: retries it had.
        losses: workers it had lost.
    """

    id: str
    reason: str
    raw: bytes
    task: str | None = None
    failure: Failure | None = None
    died: int | None = None
    retries: int = 0
    losses: int = 0

    def encode(self) -> bytes:
        """One line of JSON, then the raw bytes as they were."""
        fields: dict[str, Any] = {
            "id": self.id,
            "reason": self.reason,
            "task": self.task,
            "died": self.died,
            "retries": self.retries,
            "losses": self.losses,
        }
        if self.failure is not None:
            fields |= self.failure.fields()
            fields.setdefault("traceback", None)
        return orjson.dumps(fields) + b"\n" + self.raw

    @classmethod
    def decode(cls, data: bytes) -> Letter:
        """Read a dead letter.

        Raises:
            MalformedMessage: it is not one.
        """
        head, _, raw = data.partition(b"\n")
        try:
            fields = orjson.loads(head)
            if not isinstance(fields, dict):
                raise TypeError(f"a JSON object is needed, got a {type(fields).__name__}")  # noqa: TRY301
            error = fields.get("error")
            failure = None
            if error is not None:
                failure = Failure(error["type"], error["message"], fields.get("traceback"))
                _check_types(asdict(failure), {"type": str, "message": str, "traceback": str | None})
            known = {name: fields[name] for name in _LETTER_TYPES if name in fields}
            _check_types(known, _LETTER_TYPES)
            return cls(raw=raw, failure=failure, **known)
        except (ValueError, TypeError, KeyError) as exc:
            raise MalformedMessage(f"not a dead letter: {exc}") from None


_LETTER_TYPES: Final[dict[str, Any]] = {
    "id": str,
    "reason": str,
    "task": str | None,
    "died": int | None,
    "retries": int,
    "losses": int,
}


def _check_types(found: dict[str, Any], types: dict[str, Any]) -> None:
    for name, value in found.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise TypeError(f"{name!r} is a {type(value).__name__}")
