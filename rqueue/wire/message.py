"""A job's message: an ASCII header that scripts may read and change, then one JSON object that nobody rewrites.

    1 <list> <losses> <retries> <since> <id> {"task":"tasks.add","args":[1,2]}

A message without a header, just the object, is complete as well: any producer may push one. The specification is
``docs/wire-format.md``; golden files pin every byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import orjson

from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire import codec
from rqueue.wire.history import Entry, is_history
from rqueue.wire.keys import LEVELS, MAIN, check_job_id, check_queue_name

TOKEN: Final = b""
"""An empty element of a main list: a hint that there is work elsewhere, never a job."""

_HEADER = re.compile(rb"1 (-|[1-9]|10) (\d{1,9}) (\d{1,9}) (\d{1,15}) ([!-~]{1,128}) (?=\s*\{)")
_UNTOUCHED = re.compile(rb"1 (-|[1-9]|10) 0 0 0 (?!- )([!-~]{1,128}) (?=\s*\{)")
"""The header of a job that nothing has happened to yet, as nearly all have."""

_NO_KWARGS: Final[dict[str, Any]] = {}
_ORDINARY: Final = frozenset({"task", "args", "kwargs", "enqueued"})
_KNOWN: Final = frozenset(
    {
        "task",
        "args",
        "kwargs",
        "id",
        "enqueued",
        "expires",
        "parent_id",
        "root_id",
        "max_retries",
        "time_limit",
        "soft_time_limit",
        "unique",
        "history",
        "move",
        "headers",
    }
)


# Not frozen, though nobody changes one: each job makes one of these, and a frozen class takes four times as long.
@dataclass(slots=True)
class Header:
    """What scripts may read or change of a message.

    Attributes:
        level: the list it belongs in: 0 the main list, 1 to 10 that priority's.
        losses: how many workers died while they ran it.
        retries: how many times the task asked for another run.
        since: when the job was first put off because no worker knew its task, in ms since the epoch; 0 never.
        id: the job's id; None until one is given.
    """

    level: int = MAIN
    losses: int = 0
    retries: int = 0
    since: int = 0
    id: str | None = None

    def encode(self) -> bytes:
        """The header's bytes, with the space that ends it."""
        level = "-" if self.level == MAIN else self.level
        return f"1 {level} {self.losses} {self.retries} {self.since} {self.id or '-'} ".encode()


@dataclass(slots=True)
class Message:
    """A message as it stands in a list.

    Attributes:
        raw: the exact bytes.
        header: its header; an empty one when it has none.
        body: the JSON object's bytes.
    """

    raw: bytes
    header: Header
    body: bytes

    @classmethod
    def build(cls, header: Header, body: bytes) -> Self:
        """A message from its two parts."""
        return cls(header.encode() + body, header, body)

    @classmethod
    def parse(cls, raw: bytes, level: int = MAIN) -> Self:
        """Read a message's header; the body is not looked at.

        Args:
            raw: the bytes from the list.
            level: the list it came from, for a message without a header.

        Raises:
            MalformedMessage: it starts neither with a header nor with an object.
        """
        if (found := _UNTOUCHED.match(raw)) is not None:
            list_, job_id = found.groups()
            header = Header(MAIN if list_ == b"-" else int(list_), 0, 0, 0, job_id.decode())
            return cls(raw, header, raw[found.end() :])
        found = _HEADER.match(raw)
        if found is None:
            body = raw.lstrip(b" \t\r\n")  # what changed() builds must be a message too
            if not body.startswith(b"{"):
                raise MalformedMessage("neither a header nor a JSON object")
            return cls(raw, Header(level=level), body)
        list_, losses, retries, since, job_id = found.groups()
        header = Header(
            level=MAIN if list_ == b"-" else int(list_),
            losses=int(losses),
            retries=int(retries),
            since=int(since),
            id=None if job_id == b"-" else job_id.decode(),
        )
        return cls(raw, header, raw[found.end() :])

    @staticmethod
    def id_of(raw: bytes) -> str | None:
        """The id in a message's header, if it has one."""
        found = _HEADER.match(raw)
        return None if found is None or found[5] == b"-" else found[5].decode()

    def changed(self, **changes: Any) -> Message:
        """The same body under a changed header."""
        return Message.build(replace(self.header, **changes), self.body)

    def for_queue(self, queue: str) -> Message:  # noqa: ARG002 - only a sealed one is of a queue
        """The same for another queue."""
        return self

    def with_body(self, body: bytes) -> Message:
        """Another object under the same header."""
        return Message.build(self.header, body)

    def rewritten(self, fields: Mapping[str, bytes | None], **changes: Any) -> Message:
        """The same with some of its object's fields as this JSON, None for without, under a changed header.

        All other fields keep their values, also those that nobody here knows.

        Raises:
            TypeError: it is nested too deeply.
        """
        body = orjson.loads(self.body)  # not by the codec: what is tagged stays tagged
        for name, value in fields.items():
            body.pop(name, None)
            if value is not None:
                body[name] = fragment(value)
        return Message.build(replace(self.header, **changes), orjson.dumps(body))


class Onward(NamedTuple):
    """Where a job goes when it is claimed next, in place of running.

    Attributes:
        queue: the other queue.
        token: what makes the enqueue there, however often it is repeated, one: the name of a producer of its own.
    """

    queue: str
    token: str

    @classmethod
    def to(cls, queue: str) -> Onward:
        """A new way to a queue."""
        return cls(queue, os.urandom(8).hex())

    def encode(self) -> bytes:
        """Its JSON in a message."""
        return orjson.dumps(self._asdict())


@dataclass(slots=True)
class Call:
    """What a message asks for: the decoded object.

    Attributes:
        task: the task's name.
        args: positional arguments.
        kwargs: keyword arguments.
        id: the id that the producer of a message without a header chose, or None.
        enqueued: when it was enqueued, ms since the epoch, or None.
        expires: after when it must not start, ms since the epoch, or None.
        parent_id: the job that enqueued it, or None.
        root_id: the first job of that line, or None.
        max_retries: overrides the task's limit; Ellipsis when the call names none, None for no limit.
        time_limit: seconds after which a run is ended, or None.
        soft_time_limit: seconds after which the task is told so, or None.
        unique: the lock that its enqueue has taken: given up at its first "start" or at its "end", and its name; or
            None.
        history: the errors of its last retries; only retries write it.
        move: the queue that it goes to when it is claimed next; only a retry to another queue writes it.
        headers: what the producer wants known of the job, by name, or None.
    """

    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    id: str | None = None
    enqueued: int | None = None
    expires: int | None = None
    parent_id: str | None = None
    root_id: str | None = None
    max_retries: int | Any | None = ...
    time_limit: float | None = None
    soft_time_limit: float | None = None
    unique: Sequence[str] | None = None
    history: Sequence[Entry] = ()
    move: Onward | None = None
    headers: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        """The object's bytes; fields at their default are left out.

        Raises:
            TypeError: an argument is not JSON; the text names it.
        """
        rare = rare_fields(
            self.expires,
            self.parent_id,
            self.root_id,
            self.time_limit,
            self.soft_time_limit,
            self.unique,
            self.max_retries,
            self.headers,
        )
        return encode_call(self.task, self.args, self.kwargs, self.enqueued, rare)

    @classmethod
    def decode(cls, body: bytes, *, is_glance: bool = False) -> Self:
        """Read a message's object; fields that are not known are ignored here and kept in the message.

        Args:
            body: the object's bytes.
            is_glance: what is seen of an encrypted one is enough.

        Raises:
            MalformedMessage: it is not the JSON object that the wire format asks for, or it is encrypted.
        """
        try:
            fields = codec.loads(body)
        except ValueError as exc:
            raise MalformedMessage(f"not JSON: {exc}") from None
        if not isinstance(fields, dict):
            raise MalformedMessage(f"a JSON object is needed, got a {type(fields).__name__}")
        task, args, kwargs = fields.get("task"), fields.get("args", []), fields.get("kwargs", _NO_KWARGS)
        if not isinstance(task, str) or not task:
            raise MalformedMessage("'task' must be a task's name")
        if not isinstance(args, list):
            raise MalformedMessage("'args' must be a list")
        if not isinstance(kwargs, dict):
            raise MalformedMessage("'kwargs' must be an object")
        if fields.keys() <= _ORDINARY and type(fields.get("enqueued")) is int:
            return cls(task, args or (), kwargs or None, None, fields["enqueued"])
        if "sealed" in fields and not is_glance:
            raise MalformedMessage("it is encrypted, and there is no key here")
        known = {name: value for name, value in fields.items() if name in _KNOWN}
        _check_optional(known)
        if (move := known.get("move")) is not None:
            known["move"] = _onward(move)
        return cls(**known)


def new_header(level: int, job_id: str) -> bytes:
    """The header of a job that has never run: ``Header(level, id=job_id).encode()``."""
    return f"1 {level or '-'} 0 0 0 {job_id} ".encode()


def encode_call(
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    enqueued: int | None,
    rare: Mapping[str, Any] | None = None,
) -> bytes:
    """A call's bytes from its fields, without a :class:`Call`, since each enqueue comes here.

    Args:
        task, args, kwargs, enqueued: what nearly every call has.
        rare: the others, by :func:`rare_fields`.

    Raises:
        TypeError: an argument is not JSON; the text names it.
    """
    body: dict[str, Any] = {"task": task}
    if args:
        body["args"] = args
    if kwargs:
        body["kwargs"] = kwargs
    if enqueued is not None:
        body["enqueued"] = enqueued
    if rare:
        body.update(rare)
    try:
        return codec.dumps(body)
    except TypeError as exc:
        raise TypeError(_name_culprit(exc, body)) from None


def rare_fields(
    expires: int | None,
    parent_id: str | None,
    root_id: str | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    unique: Sequence[str] | None,
    max_retries: int | Any | None,
    headers: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A call's other fields by name, in the message's order; those at their default are left out."""
    fields: dict[str, Any] = {
        "expires": expires,
        "parent_id": parent_id,
        "root_id": root_id,
        "time_limit": time_limit,
        "soft_time_limit": soft_time_limit,
        "unique": unique,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if max_retries is not ...:
        fields["max_retries"] = max_retries
    if headers:
        fields["headers"] = headers
    return fields


def _name_culprit(error: TypeError, body: Mapping[str, Any]) -> str:
    task = body["task"]
    named = [(f"argument {index + 1}", value) for index, value in enumerate(body.get("args", ()))]
    named += [(f"argument {name!r}", value) for name, value in body.get("kwargs", {}).items()]
    named += [(f"header {name!r}", value) for name, value in body.get("headers", {}).items()]
    for name, value in named:
        try:
            codec.dumps(value)
        except TypeError as exc:
            return f"{task}: {name} cannot be sent as JSON: {exc} (got {type(value).__name__})"
    return f"{task}: the arguments cannot be sent as JSON: {error}"


def _check_optional(fields: dict[str, Any]) -> None:
    for name in ("enqueued", "expires"):
        if not isinstance(fields.get(name), int | None) or isinstance(fields.get(name), bool):
            raise MalformedMessage(f"{name!r} must be milliseconds since the epoch")
    for name in ("id", "parent_id", "root_id"):
        if (value := fields.get(name)) is not None:
            try:
                check_job_id(value)
            except ConfigError as exc:
                raise MalformedMessage(f"{name!r}: {exc}") from None
    limit = fields.get("max_retries")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise MalformedMessage("'max_retries' must be null or a whole number from 0")
    if "history" in fields and not is_history(fields["history"]):
        raise MalformedMessage("'history' must be a list of pairs: milliseconds since the epoch, and a text")
    for name in ("time_limit", "soft_time_limit"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not value > 0):
            raise MalformedMessage(f"{name!r} must be null or seconds, above 0")
    _check_lock(fields.get("unique"))
    _check_headers(fields.get("headers"))


def _check_headers(headers: object) -> None:
    if not isinstance(headers, dict | None):
        raise MalformedMessage("'headers' must be an object")


def _check_lock(lock: object) -> None:
    is_lock = isinstance(lock, list) and len(lock) == 2 and lock[0] in ("start", "end") and isinstance(lock[1], str)
    if lock is not None and not is_lock:
        raise MalformedMessage("'unique' must be null, or 'start' or 'end' and a lock's name")


def _onward(value: object) -> Onward:
    try:
        if not isinstance(value, dict) or value.keys() != {"queue", "token"}:
            raise ConfigError("an object with a queue and a token")  # noqa: TRY301
        return Onward(check_queue_name(value["queue"]), check_job_id(value["token"]))
    except ConfigError as exc:
        raise MalformedMessage(f"'move': {exc}") from None


def check_priority(priority: object) -> int:
    """Return the priority.

    Raises:
        ConfigError: it is not a whole number from 1 to 10.
    """
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in LEVELS:
        raise ConfigError(f"priority {priority!r}: a whole number from 1 (lowest) to 10 (highest)")
    return priority


def fragment(data: bytes) -> Any:
    """Already encoded JSON, to stand inside a larger value without being encoded again."""
    return orjson.Fragment(data)
