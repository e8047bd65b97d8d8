"""How a run ended, and what is to be done about it: data, so that effects come last and in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rqueue.errors import MalformedMessage, Retry
from rqueue.wire.message import Call, Message, Onward
from rqueue.wire.record import Failure

# How a run ended


@dataclass(slots=True)  # not frozen: each job makes one, and a frozen class takes four times as long
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
    fields: Mapping[str, bytes | None] = field(default_factory=dict)  # of its message's object, from now on


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The task asked to be run later, as if it had not run."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The task does not want the job."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Expired:
    """It could not be started in time."""


@dataclass(frozen=True, slots=True)
class Moving:
    """It was claimed to go on in another queue, and does not run here."""

    call: Call
    to: Onward


@dataclass(frozen=True, slots=True)
class Unknown:
    """No task of that name is known here."""

    task: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The message is not one, or not one of ours."""

    reason: str
    text: str
    error: str = MalformedMessage.__name__


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker stopped it to shut down: it has not ended, another worker will run it."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """It was cancelled, before it started or while it ran."""


Outcome = (
    Succeeded
    | Failed
    | WantsRetry
    | Snoozed
    | Rejected
    | Moving
    | Expired
    | Unknown
    | Unreadable
    | Interrupted
    | Revoked
)

# What is to be done


@dataclass(slots=True)  # not frozen, as Succeeded
class Ack:
    """Settle; keep the record for ``ttl`` ('' for ever, '0' not at all, else seconds).

    A failure that is expected is one that the task's ``throws`` names.
    """

    record: bytes
    ttl: str
    is_expected: bool = False


@dataclass(frozen=True, slots=True)
class Defer:
    """Put off; ``record`` says why, b'' for nothing. A quiet one did not fail: it is no run that ended.

    A parked one waits until its task is not paused any more, and can be told from others.
    """

    message: Message
    delay_s: float
    record: bytes = b""
    is_quiet: bool = False
    is_parked: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """Enqueue in another queue, and let go here; while its id is alive there, put off as ``again``."""

    to: Onward
    message: Message
    record: bytes
    again: Message


@dataclass(frozen=True, slots=True)
class Bury:
    """Move to the dead letters."""

    record: bytes
    ttl: str
    letter: bytes


@dataclass(frozen=True, slots=True)
class Revoke:
    """Settle what was cancelled, with its stop; keep the record as in :class:`Ack`."""

    record: bytes
    ttl: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give back, uncharged."""


@dataclass(frozen=True, slots=True)
class Track:
    """Write that it runs; nothing waits for it, and the claim goes on."""

    record: bytes


Settlement = Ack | Defer | Transfer | Bury | Revoke | Release | Track
