"""A walk over the namespace's keys: which queues there are, and which keys lack an owner or a TTL.

It only lists suspects by their names. Whether a worker is really gone is asked when its queue is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.wire.keys import LEVELS

MOST_KEYS: Final = 2_000_000
"""Keys of the database, of whoever, that are walked over: about two seconds."""

MOST_RECORDS: Final = 5_000
"""Records whose TTL is looked at; there may be one for each job of the last hour."""

_LASTING: Final = {
    "",
    "workers",
    "jobs",
    "scheduled",
    "stops",
    "dead",
    "unique",
    "periodic",
    "spool",
    *(f"p{n}" for n in LEVELS),
}
_EXPIRING: Final = {"counts", "settled", "worker", "sent", "throttle", "recorded", "unrecorded"}


@dataclass(slots=True)
class Found:
    """What there is of one queue, by the keys' names.

    Attributes:
        holders: workers with a processing list.
        starters: workers with marks of started jobs.
        lasting: keys that should have a TTL and have none.
        unknown: keys that rqueue does not know.
    """

    holders: set[str] = field(default_factory=set)
    starters: set[str] = field(default_factory=set)
    lasting: list[bytes] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Census:
    """What the walk found.

    Attributes:
        queues: by name.
        walked: the share of the database that was walked over, at most 1.
        records: results that were looked at.
        kept: those of them without a TTL.
        records_seen: all results that were met.
    """

    queues: dict[str, Found] = field(default_factory=dict)
    walked: float = 1.0
    records: int = 0
    kept: int = 0
    records_seen: int = 0

    def queue(self, name: str) -> Found:
        """What is known of a queue so far."""
        return self.queues.setdefault(name, Found())


async def take_census(broker: Broker, most_keys: int = MOST_KEYS) -> Census:
    """Walk over the keys, in steps.

    Raises:
        BrokerError: SCAN is refused.
    """
    census, cursor, steps = Census(), 0, 0
    size = await broker.database_size()
    while True:
        cursor, names = await broker.keys_step(cursor)
        steps += 1
        await _count(broker, census, names)
        if not cursor:
            return census
        if steps * 1000 >= most_keys:
            census.walked = min(1.0, steps * 1000 / max(size, 1))
            return census


async def _count(broker: Broker, census: Census, names: Sequence[bytes]) -> None:
    """Sort a page of names; asked of Redis is only what a name does not tell."""
    expiring: dict[bytes, str] = {}
    records: list[bytes] = []
    processing: list[tuple[bytes, str, str]] = []
    placed = [(name, parts) for name in names if (parts := broker.keys.parts_of(name)) is not None]
    for name, (queue, part, whose) in placed:
        found = census.queue(queue)
        if part in _EXPIRING:
            expiring[name] = queue
        elif part == "result":
            records.append(name)
        elif part == "processing":
            processing.append((name, queue, whose))
        elif part == "started":
            found.starters.add(whose)
        elif part not in _LASTING:
            found.unknown.append(name)
    await _count_records(broker, census, records)
    expiring |= await _count_lists(broker, census, processing)
    for name in await broker.without_ttl(list(expiring)):
        census.queue(expiring[name]).lasting.append(name)


async def _count_lists(
    broker: Broker, census: Census, processing: Sequence[tuple[bytes, str, str]]
) -> dict[bytes, str]:
    """Who has a list; given back are the tombstones, and their queues."""
    kinds = await broker.kinds([name for name, _, _ in processing])
    for (_, queue, worker), kind in zip(processing, kinds, strict=True):
        if kind == "list":
            census.queue(queue).holders.add(worker)
    # Not what is not there: an empty list is none, and may be a list again in a moment.
    return {name: queue for (name, queue, _), kind in zip(processing, kinds, strict=True) if kind == "string"}


async def _count_records(broker: Broker, census: Census, names: Sequence[bytes]) -> None:
    """Of the records, which may be many, the first that are met are looked at."""
    census.records_seen += len(names)
    looked_at = names[: MOST_RECORDS - census.records]
    census.records += len(looked_at)
    census.kept += len(await broker.without_ttl(looked_at))
