"""How a run ended, and what is to be done about it: data, so that effects come last and in one place."""

from __future__ import annotations

from dataclasses import dataclass

from rqueue.errors import Retry
from rqueue.wire.message import Message
from rqueue.wire.record import Failure

# How a run ended


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned this value, as JSON."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The task, or the storing of its value, raised this."""

    error: BaseException
    failure: Failure


@dataclass(frozen=True, slots=True)
class WantsRetry:
    """The task asked for another run."""

    signal: Retry
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Expired:
    """It could not be started in time."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No task of that name is known here."""

    task: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The message is not one."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker stopped it to shut down: it has not ended, another worker will run it."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """It was cancelled while it ran."""


Outcome = Succeeded | Failed | WantsRetry | Expired | Unknown | Unreadable | Interrupted | Revoked

# What is to be done


@dataclass(frozen=True, slots=True)
class Ack:
    """Settle; keep the record for ``ttl`` ('' for ever, '0' not at all, else seconds)."""

    record: bytes
    ttl: str


@dataclass(frozen=True, slots=True)
class Defer:
    """Put off; ``record`` says why, b'' for nothing."""

    message: Message
    delay_s: float
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class Bury:
    """Move to the dead letters."""

    record: bytes
    ttl: str
    letter: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """Give back, uncharged."""


@dataclass(frozen=True, slots=True)
class Track:
    """Write that it runs; nothing waits for it, and the claim goes on."""

    record: bytes


Settlement = Ack | Defer | Bury | Release | Track
