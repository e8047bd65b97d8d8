"""From what Redis holds of a job that ended to its row: opened, redacted, cut. What cannot be read is left out.

Every job comes here once, so it decodes no more than it must: values go from JSON to JSON as they are, tags included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from rqueue.errors import MalformedMessage
from rqueue.policy.redaction import scrubbed
from rqueue.results.entry import Entry
from rqueue.results.row import Row
from rqueue.wire.history import is_history, is_moment
from rqueue.wire.keys import QueueKeys, is_job_id
from rqueue.wire.message import Header, Message
from rqueue.wire.record import state_of
from rqueue.wire.seal import Keyring, as_trusted, open_record
from rqueue.wire.state import State

Shown = Callable[[str, Sequence[Any], Mapping[str, Any]], tuple[list[Any], dict[str, Any]]]
"""A call's arguments as they may be shown, by its task's name: :meth:`~rqueue.client.registry.Registry.shown`."""

RECORDED: Final = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED, State.RETRY})
"""The states of which there are rows."""

_NO_HEADER: Final = Header()
_MOST: Final = 2**31 - 1
_NOTHING: Final[dict[str, Any]] = {}


class Reader:
    """Makes rows.

    Args:
        shown: hides what must not be read.
        keyring: opens what is sealed; None: nothing is.
        args_bytes: arguments are cut to this many bytes; 0 keeps none.
        now_ms: Redis's time, for what does not say when it ended.
    """

    def __init__(self, shown: Shown, keyring: Keyring | None, args_bytes: int, now_ms: Callable[[], int]) -> None:
        self._shown, self._keyring, self._args_bytes, self._now_ms = shown, keyring, args_bytes, now_ms

    def row(self, keys: QueueKeys, entry: Entry, message: Message | None = None) -> Row | None:
        """The row of a job that ended so in that queue; None where not even its state is known.

        Args:
            keys: the queue.
            entry: how it ended.
            message: its message, where that was read already.
        """
        told = self._told(keys, entry)
        state = told.get("state")
        if not isinstance(state, str) or state not in RECORDED:
            return None
        header, said = self._said(keys, entry.message, message)
        task = _text(told.get("task")) or _text(said.get("task"))
        started, finished = _moment(told.get("started")), _moment(told.get("finished"))
        error, traceback = _error(told.get("error")), _text(told.get("traceback"))
        args, kwargs, error, traceback = self._shown_of(task or "", said, error, traceback)
        history = told.get("history")
        # The record's come first: who speaks for a lost worker counts that loss, and may not have the message.
        retries, losses = told.get("retries", header.retries), told.get("losses", header.losses)
        # One that was cancelled before it started has not run.
        attempts = _count(retries) + (state != "REVOKED" or started is not None)
        return tuple.__new__(  # a NamedTuple's own way takes three times as long
            Row,
            (
                entry.id,
                _moment(told.get("enqueued", said.get("enqueued"))),
                task,
                keys.name,
                header.level or None,
                state,
                args,
                kwargs,
                orjson.dumps(told["result"]).decode() if "result" in told else None,
                error,
                traceback,
                attempts,
                _count(losses),
                _text(told.get("worker")),
                _id(told.get("parent_id", said.get("parent_id"))),
                _id(told.get("root_id", said.get("root_id"))),
                started,
                self._now_ms() if finished is None else finished,
                orjson.dumps(history).decode() if history and is_history(history) else None,
            ),
        )

    def _shown_of(
        self, task: str, said: dict[str, Any], error: str | None, traceback: str | None
    ) -> tuple[str | None, str | None, str | None, str | None]:
        """What people may read of the call and its error, which may quote it."""
        args, kwargs = said.get("args", ()), said.get("kwargs", _NOTHING)
        if not said or not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            return None, None, error, traceback
        shown = self._shown(task, args, kwargs)
        if error is not None:
            given = [*args, kwargs], [*shown[0], shown[1]]
            error, traceback = scrubbed(error, *given), traceback and scrubbed(traceback, *given)
        return self._cut(shown[0]), self._cut(shown[1]), error, traceback

    def _told(self, keys: QueueKeys, entry: Entry) -> dict[str, Any]:
        """The record's fields; of one that cannot be read its state, which is never hidden."""
        try:
            fields = orjson.loads(open_record(self._keyring, keys.main, entry.id, entry.record))
            if isinstance(fields, dict):
                return fields
        except ValueError:  # it is not JSON, or not ours
            pass
        try:
            return {"state": state_of(entry.record)}
        except ValueError:
            return {}

    def _said(self, keys: QueueKeys, raw: bytes, message: Message | None) -> tuple[Header, dict[str, Any]]:
        """The message's header and the fields of its object, as far as they can be read."""
        try:
            if message is None or self._keyring is not None:
                message = as_trusted(self._keyring, Message.parse(raw), keys.main)
        except MalformedMessage:
            return _NO_HEADER, _NOTHING
        try:
            fields = orjson.loads(message.body)
        except ValueError:
            fields = None
        return message.header, fields if isinstance(fields, dict) and "sealed" not in fields else _NOTHING

    def _cut(self, values: Sequence[Any] | Mapping[str, Any]) -> str | None:
        """As JSON; what is too long is an object with its beginning, and how long it was."""
        if not self._args_bytes:
            return None
        data = orjson.dumps(values)
        if len(data) > self._args_bytes:
            beginning = data[: self._args_bytes].decode(errors="ignore")
            data = orjson.dumps({"truncated": beginning, "bytes": len(data)})
        return data.decode()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _id(value: object) -> str | None:
    return value if value is not None and is_job_id(value) else None  # type: ignore[return-value]


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _MOST else 0


def _moment(value: object) -> int | None:
    return value if is_moment(value) else None


def _error(value: object) -> str | None:
    """The error as ``Type: text``."""
    if not isinstance(value, dict):
        return None
    return f"{value.get('type')}: {value.get('message')}"
