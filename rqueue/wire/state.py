"""The lifecycle as a table: where a job can be, and which verb moves it.

Each verb is one ``broker/lua/<verb>.lua``, one ``Broker.<verb>()`` and one ``tests/broker/test_<verb>.py``; a test
asserts that the sets are equal. ``block`` alone has no script, since a blocking command cannot run in one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class State(StrEnum):
    """A job's state as its users see it, with Celery's names."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"

    @property
    def is_final(self) -> bool:
        """True when the job will not change any more."""
        return self in FINAL


FINAL: Final = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED})


class Place(StrEnum):
    """Where a job's message is."""

    ABSENT = "absent"
    WAITING = "waiting"
    SCHEDULED = "scheduled"
    CLAIMED = "claimed"
    SETTLED = "settled"
    DEAD = "dead"


class Move(NamedTuple):
    """One row of the lifecycle: the verb takes a message from one place to another, in one step."""

    source: Place
    verb: str
    target: Place


LIFECYCLE: Final = (
    Move(Place.ABSENT, "enqueue", Place.WAITING),
    Move(Place.ABSENT, "enqueue", Place.SCHEDULED),
    Move(Place.ABSENT, "admit", Place.WAITING),
    Move(Place.ABSENT, "admit", Place.SCHEDULED),
    Move(Place.SCHEDULED, "admit", Place.SCHEDULED),
    Move(Place.ABSENT, "tick", Place.WAITING),
    Move(Place.SCHEDULED, "promote", Place.WAITING),
    Move(Place.SCHEDULED, "unpark", Place.SCHEDULED),
    Move(Place.WAITING, "claim", Place.CLAIMED),
    Move(Place.WAITING, "block", Place.CLAIMED),
    Move(Place.CLAIMED, "adopt", Place.CLAIMED),
    Move(Place.CLAIMED, "start", Place.CLAIMED),
    Move(Place.CLAIMED, "track", Place.CLAIMED),
    Move(Place.CLAIMED, "ack", Place.SETTLED),
    Move(Place.SETTLED, "record", Place.SETTLED),
    Move(Place.SETTLED, "record", Place.DEAD),
    Move(Place.CLAIMED, "retry", Place.SCHEDULED),
    Move(Place.SETTLED, "retry", Place.SCHEDULED),
    Move(Place.CLAIMED, "move", Place.ABSENT),
    Move(Place.CLAIMED, "bury", Place.DEAD),
    Move(Place.CLAIMED, "revoke", Place.SETTLED),
    Move(Place.CLAIMED, "release", Place.WAITING),
    Move(Place.WAITING, "cancel", Place.SETTLED),
    Move(Place.SCHEDULED, "cancel", Place.SETTLED),
    Move(Place.CLAIMED, "cancel", Place.CLAIMED),
    Move(Place.WAITING, "forget", Place.ABSENT),
    Move(Place.CLAIMED, "reap", Place.WAITING),
    Move(Place.DEAD, "revive", Place.WAITING),
    Move(Place.DEAD, "edit", Place.DEAD),
    Move(Place.DEAD, "discard", Place.ABSENT),
    Move(Place.WAITING, "purge", Place.ABSENT),
)

WORKER_VERBS: Final = ("register", "renew", "audit", "condemn", "leave")
"""The verbs that move no job: a worker's own life."""

OTHER_VERBS: Final = ("unlock", "prune", "plan", "declare", "pause", "resume", "keep", "spool", "unspool")
"""The verbs that move no job, and are no worker's own: about locks, schedules, what must not run, and what is kept in
a result store."""

VERBS_WITHOUT_SCRIPT: Final = frozenset({"block"})
