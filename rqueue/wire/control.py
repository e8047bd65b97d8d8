"""What is said on the control channel: an operator's request, and one answer of each worker that it is addressed to.

Both are JSON objects. Redis announces and forgets: nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from rqueue.errors import MalformedMessage

VERSION: Final = 1

INSPECT: Final = ("ping", "active", "reserved", "scheduled", "registered", "stats", "active_queues", "report")
"""Verbs that only look."""

CONTROL: Final[Mapping[str, tuple[str, ...]]] = {
    "shutdown": (),
    "pool_grow": ("n",),
    "pool_shrink": ("n",),
    "add_consumer": ("queue",),
    "cancel_consumer": ("queue",),
    "rate_limit": ("task", "rate"),
    "time_limit": ("task", "soft", "hard"),
    "cancel": ("id", "terminate", "queue"),
}
"""Verbs that change something, and their arguments."""

LOOK: Final = "look"
"""A verb that programs publish and nobody waits for: what may run, or a periodic schedule, has changed: look now."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """One request.

    Attributes:
        id: its id, part of the reply channel's name.
        verb: what is asked for.
        args: the verb's arguments by name.
        to: the ids of the workers that it is for; None is all.
        reply: the channel for the answers; None wants none.
        at: when it was made, ms since the epoch, where requests are sealed; else None.
        problem: why it cannot be answered as it stands, or None.
    """

    id: str
    verb: str
    args: Mapping[str, Any]
    to: Sequence[str] | None
    reply: str | None
    problem: str | None = None
    at: int | None = None

    def encode(self) -> bytes:
        """The request's bytes."""
        fields = {"id": self.id, "verb": self.verb, "args": self.args, "to": self.to, "reply": self.reply}
        return orjson.dumps({"v": VERSION, **fields} | ({} if self.at is None else {"at": self.at}))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a request; one that is wrong in part has a ``problem``, so that whoever sent it can be told.

        Raises:
            MalformedMessage: it is no JSON object.
        """
        try:
            fields = orjson.loads(data)
        except ValueError as exc:
            raise MalformedMessage(f"not JSON: {exc}") from None
        if not isinstance(fields, dict):
            raise MalformedMessage(f"a JSON object is needed, got a {type(fields).__name__}")
        request, verb, args, to, reply = (fields.get(name) for name in ("id", "verb", "args", "to", "reply"))
        problem = None
        if fields.get("v") != VERSION:
            problem = f"version {fields.get('v')!r} of the control channel is not known here"
        elif not isinstance(verb, str) or not isinstance(request, str):
            problem = "'id' and 'verb' must be strings"
        elif not isinstance(args, dict | None):
            problem = "'args' must be an object"
        if to is not None and not (isinstance(to, list) and all(isinstance(each, str) for each in to)):
            problem, to = problem or "'to' must be null or a list of workers' ids", None
        at = fields.get("at") if type(fields.get("at")) is int else None
        channel = reply if isinstance(reply, str) else None
        known_args = args if isinstance(args, dict) else {}
        return cls(str(request), str(verb), known_args, to, channel, problem, at)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker answered.

    Attributes:
        worker: its id.
        ok: what the verb gave; None with an error.
        error: why it could not be done, or None.
    """

    worker: str
    ok: Any = None
    error: str | None = None

    def encode(self) -> bytes:
        """The answer's bytes.

        Raises:
            TypeError: what the verb gave is no JSON.
        """
        about = {"ok": self.ok} if self.error is None else {"error": self.error}
        return orjson.dumps({"worker": self.worker, **about})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an answer.

        Raises:
            MalformedMessage: it is none.
        """
        try:
            fields = orjson.loads(data)
        except ValueError as exc:
            raise MalformedMessage(f"not JSON: {exc}") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("worker"), str):
            raise MalformedMessage("an answer is an object that names its worker")
        error = fields.get("error")
        return cls(fields["worker"], fields.get("ok"), None if error is None else str(error))
