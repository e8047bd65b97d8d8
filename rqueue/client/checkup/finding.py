"""What a checkup finds, as data; and the table of all that it looks at, from which the docs' table is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Final


class Level(IntEnum):
    """How bad a finding is.

    ``OK``: looked at, and nothing found. ``NOTE``: worth knowing. ``WARNING``: something will go wrong, or goes slowly.
    ``PROBLEM``: jobs are lost, stuck or refused, or will be when something ordinary happens.
    """

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3


@dataclass(frozen=True, slots=True)
class Remedy:
    """What ``--fix`` does about a finding; each may be repeated, and be interrupted anywhere.

    Attributes:
        kind: ``reap``, ``prune``, ``forget``, ``expire`` or ``announce``.
        queue: the queue.
        names: workers, ids or keys.
    """

    kind: str
    queue: str
    names: tuple[str | bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a checkup found.

    Attributes:
        check: its name in :data:`CHECKS`.
        level: how bad it is.
        text: what is wrong.
        where: the queue, worker or key; '' for the whole Redis.
        advice: what to do: a command where there is one.
        remedy: what ``--fix`` would do, or None.
        fixed: what was done about it, or ''.
    """

    check: str
    level: Level
    text: str
    where: str = ""
    advice: str = ""
    remedy: Remedy | None = field(default=None, repr=False)
    fixed: str = ""

    def printable(self) -> Finding:
        """The same, as any terminal can show it: names may be anybody's bytes."""
        text, where, advice = map(_printable, (self.text, self.where, self.advice))
        return replace(self, text=text, where=where, advice=advice)

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "check": self.check,
            "level": self.level.name.lower(),
            "where": self.where,
            "text": self.text,
            "advice": self.advice,
            "fixable": self.remedy is not None,
            "fixed": self.fixed,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table.

    Attributes:
        name: as in findings.
        asks: what is looked at, and from when on it is said.
        worst: the worst level that it can have.
        fix: what ``--fix`` does, or ''.
    """

    name: str
    asks: str
    worst: Level
    fix: str = ""


CHECKS: Final = (
    Check("versions", "the server is Redis 6.2 to 8 or Valkey; Python and the libraries", Level.PROBLEM),
    Check("permissions", "what this user may not do that workers or operators want", Level.PROBLEM),
    Check("topology", "a cluster that is not whole; a Sentinel in place of a Redis", Level.PROBLEM),
    Check("eviction", "`maxmemory-policy` is `noeviction`: any other throws jobs away", Level.PROBLEM),
    Check("memory", "from 80 % of `maxmemory`, or of the machine's memory; a problem from 95 %", Level.PROBLEM),
    Check("persistence", "what a crash of Redis costs; a save or a write that failed", Level.PROBLEM),
    Check("replicas", "a replica that lags or is not online; too few for `min-replicas-to-write`", Level.PROBLEM),
    Check("clients", "from 80 % of `maxclients`; a problem from 95 %", Level.PROBLEM),
    Check("latency", "the median of 20 round trips is over 5 ms, or 50 ms; the worst over a second", Level.WARNING),
    Check("clocks", "this machine, or a worker's, and Redis are over 2 s apart, or 30 s", Level.WARNING),
    Check("keyspace", "a key of a queue that holds another type, or that rqueue does not know", Level.PROBLEM),
    Check("expiry", "a key without the TTL that it should have", Level.WARNING, "gives it a day"),
    Check("orphans", "a processing list whose worker is not registered", Level.PROBLEM, "reaps it"),
    Check("lost workers", "a worker whose lease has run out, and nobody has reaped it", Level.PROBLEM, "reaps it"),
    Check("hung workers", "a worker with a lease that fetches nothing", Level.WARNING),
    Check("unserved", "jobs or schedules in a queue that no live worker serves", Level.PROBLEM),
    Check("unknown queues", "jobs in a queue that is not in the list of queues", Level.NOTE, "adds it"),
    Check(
        "paused",
        "a paused queue or task, a warning where its jobs wait; a pause that is half done",
        Level.WARNING,
    ),
    Check("waiting", "the oldest waiting job: from ten minutes; from an hour where it does not move", Level.WARNING),
    Check(
        "overdue",
        "scheduled jobs that are over ten seconds late, and do not move; schedules, over a minute",
        Level.PROBLEM,
    ),
    Check("scheduled", "a scheduled job without its message, or without its time", Level.PROBLEM),
    Check("lost jobs", "ids that count as alive, and are in no list", Level.WARNING),
    Check("dead letters", "how many, of what; from 100 in an hour, or 90 % of `dead_max`", Level.WARNING),
    Check(
        "unreadable",
        "messages that no worker can read, or of another version; a task that the app does not have",
        Level.WARNING,
    ),
    Check("payloads", "messages of 100 kB and more; a queue with over a quarter of `maxmemory`", Level.WARNING),
    Check("locks", "locks whose jobs have ended", Level.NOTE, "prunes them"),
    Check("stops", "marks of cancelled jobs that have ended, where nothing waits", Level.NOTE, "forgets them"),
    Check("results", "the result store answers, with the tables and months of this version", Level.PROBLEM),
    Check(
        "spool",
        "what waits in Redis for the result store: over a minute, or near its bound; what had no room",
        Level.PROBLEM,
    ),
    Check(
        "outbox",
        "committed jobs that are not sent: from a minute, a problem from ten; that cannot be sent",
        Level.PROBLEM,
    ),
)
"""All checks, in the order in which they are printed."""

ORDER: Final = {check.name: place for place, check in enumerate(CHECKS)}


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of what is not fixed."""
    return max((finding.level for finding in findings if not finding.fixed), default=Level.OK)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, and then as in the table."""
    return sorted(findings, key=lambda each: (-each.level, ORDER[each.check], each.where))


def _printable(text: str) -> str:
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in whole)
