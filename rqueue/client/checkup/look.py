"""One look at a queue: all that its checks need, read once, in pages and samples.

A queue at work changes while it is read, so nothing that is seen once is believed: the doctor looks twice, and what
was there both times is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from rqueue.broker.broker import Broker, Sizes
from rqueue.client.checkup.census import Found
from rqueue.errors import BrokerError, BrokerUnavailable, MalformedMessage
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import TOKEN, Call, Message
from rqueue.wire.record import Letter

SAMPLE: Final = 25
"""Messages that are read at each end of a list."""

SAMPLE_BYTES: Final = 512 * 1024
"""About how much of a list's end is read."""

COUNTED: Final = 2_000
"""In a queue with no more jobs than that, each id is looked for."""

COUNTED_BYTES: Final = 16 * 1024 * 1024
_FEW: Final = 3  # where Redis does not say how large its messages are, they may have a megabyte each
LATE_MS: Final = 10_000
RECENT_MS: Final = 3_600_000
_PAGE: Final = 100
_TOKENS: Final = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """A message of the sample.

    Attributes:
        raw: its bytes.
        is_next: it is the next of its list.
        is_still: it was so before.
    """

    raw: bytes
    is_next: bool = False
    is_still: bool = False

    @property
    def size(self) -> int:
        """Its length."""
        return len(self.raw)

    @property
    def call(self) -> Call | None:
        """What it asks for; None when it cannot be read."""
        found = self._read()
        return found if isinstance(found, Call) else None

    @property
    def fault(self) -> str:
        """Why it cannot be read, without any of it; '' where it can."""
        found = self._read()
        return "" if isinstance(found, Call) else str(found)

    def _read(self) -> Call | MalformedMessage:
        try:
            return Call.decode(Message.parse(self.raw).body, is_glance=True)
        except MalformedMessage as exc:
            return exc


@dataclass(frozen=True, slots=True)
class Registered:
    """A worker as it stands in a queue.

    Attributes:
        id: its id.
        lease_s: seconds left of its lease.
        held: how many messages it has claimed.
        card: what it says of itself.
    """

    id: str
    lease_s: float
    held: int = 0
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heartbeat_s(self) -> float | None:
        """Seconds between its heartbeats, as far as it says."""
        beat = self.card.get("heartbeat")
        return float(beat) if isinstance(beat, int | float) and beat > 0 else None

    def serves(self, queue: str) -> bool:
        """Whether it claims from the queue: it has a lease, and was not told to leave the queue alone."""
        queues = self.card.get("queues")
        return self.lease_s > 0 and (not isinstance(queues, list) or queue in queues)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a queue.

    Attributes:
        keys: the queue's.
        now_ms: Redis's time.
        misplaced: keys that hold something else: name, what is there, what should be. Then nothing more is read.
        found: what the walk over all keys found.
        is_known: it is in the list of queues.
        sizes: how much it holds.
        counts: see ``Survey.counted``.
        workers: the registered ones.
        orphans: worker -> messages in a list whose worker is not registered.
        unmarked: workers that are not registered, have no list, and left marks of started jobs.
        stops: what is paused here.
        half_paused: what is written down as paused and is not paused here, or the other way round.
        was_served: in the look before.
        stale_stops: cancelled jobs that have ended, where nothing waits.
        sample: some messages.
        largest: the longest message that was seen, in bytes.
        memory: bytes; None where Redis does not say.
        first_due: the first scheduled job, and how many ms it is late.
        timeless, bodiless: scheduled jobs without a time, and without a message.
        gap: how many more messages than times there are of scheduled jobs, where they are too many to look at each.
        adrift: ids that are alive and in no list; None where there are too many jobs to look.
        locks: locks without a living job, and that job.
        letters: the newest dead letters.
    """

    keys: QueueKeys
    now_ms: int
    misplaced: Sequence[tuple[bytes, str, str]] = ()
    found: Found = field(default_factory=Found)
    is_known: bool = True
    sizes: Sizes = field(default_factory=lambda: Sizes((0,) * 11, 0, 0, 0, 0, {}))
    counts: Mapping[str, int] = field(default_factory=dict)
    workers: Sequence[Registered] = ()
    orphans: Mapping[str, int] = field(default_factory=dict)
    unmarked: Sequence[str] = ()
    stops: Sequence[str] = ()
    half_paused: frozenset[str] = frozenset()
    was_served: bool = False
    stale_stops: Sequence[str] = ()
    sample: Sequence[Seen] = ()
    largest: int = 0
    memory: int | None = None
    first_due: tuple[str, int] | None = None
    timeless: frozenset[str] = frozenset()
    bodiless: frozenset[str] = frozenset()
    gap: int = 0
    adrift: frozenset[str] | None = None
    locks: Mapping[str, str] = field(default_factory=dict)
    letters: Sequence[Letter] = ()

    @property
    def waiting(self) -> int:
        """All waiting jobs."""
        return sum(self.sizes.waiting)

    @property
    def is_served(self) -> bool:
        """Some live worker claims from it."""
        return self.was_served or any(worker.serves(self.keys.name) for worker in self.workers)

    def count(self, name: str) -> int:
        """One of the counts."""
        return self.counts.get(name, 0)

    def since(self, before: Look) -> Look:
        """The same, with only those doubts that were there in the look before as well."""
        leases = {worker.id: worker.lease_s for worker in before.workers}
        next_before = {seen.raw for seen in before.sample if seen.is_next}
        is_due_still = self.first_due and before.first_due and self.first_due[0] == before.first_due[0]
        adrift = None if self.adrift is None or before.adrift is None else self.adrift & before.adrift
        return replace(
            self,
            misplaced=[each for each in self.misplaced if each in before.misplaced],
            # One that was alive a heartbeat ago, or not there yet, is not condemned.
            workers=[replace(each, lease_s=max(each.lease_s, leases.get(each.id, 1.0))) for each in self.workers],
            was_served=before.is_served,
            orphans={worker: held for worker, held in self.orphans.items() if worker in before.orphans},
            unmarked=[worker for worker in self.unmarked if worker in before.unmarked],
            half_paused=self.half_paused & before.half_paused,
            stale_stops=[each for each in self.stale_stops if each in before.stale_stops],
            sample=[replace(each, is_still=each.is_next and each.raw in next_before) for each in self.sample],
            first_due=self.first_due if is_due_still else None,
            timeless=self.timeless & before.timeless,
            bodiless=self.bodiless & before.bodiless,
            gap=self.gap if self.gap * before.gap > 0 else 0,
            adrift=adrift,
            locks={lock: job_id for lock, job_id in self.locks.items() if lock in before.locks},
        )


async def look_at(broker: Broker, keys: QueueKeys, found: Found, *, is_known: bool = True) -> Look:
    """Look at a queue.

    Args:
        broker: the broker, which knows Redis's time.
        keys: the queue's.
        found: what the walk over all keys found.
        is_known: it is in the list of queues.

    Raises:
        BrokerError: Redis cannot be reached, or refuses.
    """
    now_ms = broker.clock.now_ms()
    if misplaced := await broker.misplaced(keys):
        return Look(keys, now_ms, misplaced, found, is_known)
    # First of all: an id that is alive now is looked for in what is read after it.
    ids = await broker.job_ids(keys, 2 * COUNTED)
    sizes, counts, (stops, marked), workers, due, declared = await asyncio.gather(
        broker.sizes(keys),
        broker.counted(keys, now_ms, LATE_MS, RECENT_MS),
        broker.stops(keys),
        _workers(broker, keys),
        broker.scheduled(keys, 1),
        broker.declared(),
    )
    seen = Look(
        keys,
        now_ms,
        found=found,
        is_known=is_known,
        sizes=sizes,
        counts=counts,
        workers=workers,
        stops=stops,
        half_paused=_half_paused(keys, stops, declared, has_workers=bool(workers)),
        first_due=(due[0][0], now_ms - due[0][1]) if due else None,
    )
    return await _closer(broker, seen, ids, has_marks=bool(marked))


async def _closer(broker: Broker, look: Look, ids: set[str], *, has_marks: bool) -> Look:
    """The look with what takes more commands."""
    keys, sizes, counts = look.keys, look.sizes, look.counts
    memory = await _memory(broker, keys, look.workers)
    sample, largest = await _sample(broker, keys, sizes, memory)
    orphans, unmarked = await _without_worker(broker, keys, look.found)
    timeless, bodiless = await _halves(broker, keys, counts)
    # Lists that nobody owns count too: their jobs are not lost.
    holders = [*(worker.id for worker in look.workers), *orphans]
    total = look.waiting + sizes.scheduled + sizes.running + sum(orphans.values())
    is_small = total <= (COUNTED if _is_told(broker, memory) else _FEW) and (memory or 0) <= COUNTED_BYTES
    return replace(
        look,
        orphans=orphans,
        unmarked=unmarked,
        stale_stops=await broker.stale_stops(keys, _PAGE) if has_marks else (),
        sample=sample,
        largest=largest,
        memory=memory,
        timeless=timeless,
        bodiless=bodiless,
        gap=counts["messages"] - counts["scheduled"] if counts["scheduled"] > COUNTED else 0,
        adrift=await _adrift(broker, keys, ids, holders) if is_small and len(ids) <= COUNTED else None,
        locks=await broker.dead_locks(keys, 10 * _PAGE) if counts["locks"] else {},
        letters=await _letters(broker, keys),
    )


def _half_paused(
    keys: QueueKeys, stops: Iterable[str], declared: Iterable[str], *, has_workers: bool
) -> frozenset[str]:
    """In a queue that only producers have used, a pause is completed by the first worker that comes."""
    here = {f"queue:{keys.name}" if stop == "queue" else stop for stop in stops}
    meant = {each for each in declared if not each.startswith("queue:") or each == f"queue:{keys.name}"}
    return frozenset(here ^ meant if has_workers else here - meant)


async def _workers(broker: Broker, keys: QueueKeys) -> list[Registered]:
    found = await broker.workers(keys)
    held = await asyncio.gather(*(broker.held(keys, worker) for worker, _, _ in found))
    return [
        Registered(worker, lease_s, length if kind == "list" else 0, _card(card))
        for (worker, lease_s, card), (kind, length) in zip(found, held, strict=True)
    ]


def _card(card: bytes | None) -> dict[str, Any]:
    try:
        said = orjson.loads(card or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


async def _without_worker(broker: Broker, keys: QueueKeys, found: Found) -> tuple[dict[str, int], list[str]]:
    """The lists and marks that the walk has met, as far as they are still there and nobody's."""
    suspects = sorted(found.holders | found.starters)
    registered = await broker.registered(keys, suspects)
    orphans, unmarked = {}, []
    for worker in suspects:
        if worker in registered:
            continue
        kind, length = await broker.held(keys, worker)
        if kind == "list":
            orphans[worker] = length
        elif await broker.without_ttl([keys.started(worker)]):
            unmarked.append(worker)
    # Asked again: one that has registered meanwhile is somebody's.
    registered = await broker.registered(keys, [*orphans, *unmarked])
    return (
        {worker: held for worker, held in orphans.items() if worker not in registered},
        [worker for worker in unmarked if worker not in registered],
    )


async def _memory(broker: Broker, keys: QueueKeys, workers: Sequence[Registered]) -> int | None:
    try:
        return await broker.memory([*keys.lists, keys.messages, *(keys.processing(worker.id) for worker in workers)])
    except BrokerUnavailable:
        raise
    except BrokerError:
        return None


async def _sample(broker: Broker, keys: QueueKeys, sizes: Sizes, memory: int | None) -> tuple[list[Seen], int]:
    """Both ends of each list: of large messages only a few."""
    total = sum(sizes.waiting) + sizes.scheduled + sizes.running
    mean = (memory or 0) // max(total, 1) or 1000
    count = max(1, min(SAMPLE, SAMPLE_BYTES // mean)) if _is_told(broker, memory) else _FEW
    sample: list[Seen] = []
    for level, length in enumerate(sizes.waiting):
        if not length:
            continue
        # A pause leaves tokens at the end that is read next.
        wanted = count + (_TOKENS if level == MAIN and sizes.is_paused else 0)
        tail = [raw for raw in await broker.waiting(keys, level, -wanted, wanted) if raw != TOKEN]
        head = [raw for raw in await broker.waiting(keys, level, 0, count) if raw != TOKEN] if length > count else []
        sample += map(Seen, dict.fromkeys([*tail[:-1], *head]))
        sample += [Seen(tail[-1], is_next=True)] if tail else []
    largest, scheduled = await broker.sampled_scheduled(keys, count, SAMPLE_BYTES // count)
    sample += map(Seen, scheduled)
    return sample, max([largest, *(each.size for each in sample)])


async def _halves(broker: Broker, keys: QueueKeys, counts: Mapping[str, int]) -> tuple[frozenset[str], frozenset[str]]:
    """Scheduled jobs without a time, and without a message, where they are few enough to look at each."""
    if max(counts["scheduled"], counts["messages"]) > COUNTED:
        return frozenset(), frozenset()
    bodiless, timeless = await broker.half_scheduled(keys, COUNTED)
    return frozenset(timeless), frozenset(bodiless)


def _is_told(broker: Broker, memory: int | None) -> bool:
    """Whether it is known how large the messages are; in memory it does not matter."""
    return memory is not None or broker.endpoint.is_memory


async def _adrift(broker: Broker, keys: QueueKeys, ids: set[str], holders: Iterable[str]) -> frozenset[str]:
    """Which of the ids are in no list."""
    for level in range(len(keys.lists)):
        ids -= _ids([raw async for raw in _list(broker, keys, level)])
    cursor = 0
    while ids:
        cursor, page = await broker.scheduled_messages(keys, cursor)
        ids -= _ids(page)
        if not cursor:
            break
    for worker in holders:
        if ids:
            ids -= _ids(await broker.claimed(keys, worker))
            ids -= await broker.marks(keys, worker)
    return frozenset(await broker.alive(keys, sorted(ids)))


async def _list(broker: Broker, keys: QueueKeys, level: int) -> Any:
    """A waiting list, from the end that is not taken from."""
    start = 0
    while page := await broker.waiting(keys, level, start, _PAGE):
        for raw in page:
            yield raw
        start += len(page)


def _ids(messages: Iterable[bytes]) -> set[str]:
    """Their ids; of a message without one, nobody knows it yet."""
    return {job_id for job_id in map(Message.id_of, messages) if job_id is not None}


async def _letters(broker: Broker, keys: QueueKeys) -> list[Letter]:
    found = []
    for data in await broker.newest_letters(keys, SAMPLE, 64 * 1024):
        try:
            found.append(Letter.decode(data))
        except MalformedMessage:
            found.append(Letter("?", "unreadable letter", b""))
    return found
