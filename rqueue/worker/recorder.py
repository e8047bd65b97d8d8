"""Writes how runs ended to the result store, and only then has them settled. Without a result store there is none.

It alone keeps that no job is settled whose row is not in the store, or waits for it in the spool: if the process dies
before the write, the job is not settled and runs again; if it dies between the write and the settle, the job runs
again, and its next row takes the place of this one. The other way round, a settled job would have no row.

What need not be recorded passes at once. What gathers while a write is under way leaves together in the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.errors import BrokerError, BrokerUnavailable, StoreUnavailable
from rqueue.log import Recurring, event
from rqueue.results.entry import Entry
from rqueue.results.reader import Reader
from rqueue.results.row import Row
from rqueue.wire.keys import QueueKeys
from rqueue.worker.archive import Archive
from rqueue.worker.inflight import Inflight
from rqueue.worker.outcome import Ack, Bury, Defer, Revoke, Settlement
from rqueue.worker.settler import Item

WRITES: Final = 2
"""Batches under way at once: one is made while the other is written."""

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 1024 * 1024
MOST_WAITING: Final = 2_000
MOST_WAITING_BYTES: Final = 8 * 1024 * 1024
"""With a store that answers and is slower than the jobs the worker goes at its pace: it claims nothing while more waits
for it. That must be enough to keep a fast one busy, and is what would run again if the process died."""

_JOB_ENDS: Final = (Ack, Bury, Revoke)
_RUN_ENDS: Final = (Ack, Bury, Revoke, Defer)
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class Recorder:
    """Records jobs.

    Args:
        broker: the broker.
        inflight: what is claimed; its outbox is what is to be recorded, or settled.
        archive: the result store.
        reader: makes rows.
        bound: how many bytes may wait in Redis while the store is away.

    Attributes:
        outbox: what may be settled.
        wake: there is something in it.
        recorded: rows that were written.
        spooled: rows that wait in Redis, or did.
        dropped: rows that were not kept, since neither the store nor Redis took them.
    """

    def __init__(self, broker: Broker, inflight: Inflight, archive: Archive, reader: Reader, bound: int) -> None:
        self._broker, self._inflight, self._archive, self._reader = broker, inflight, archive, reader
        self._bound = bound
        self.outbox: list[Item] = []
        self.wake = asyncio.Event()
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._waits = Recurring()
        self.recorded = self.spooled = self.dropped = 0

    @property
    def away_since(self) -> int | None:
        """Since when the result store is away, in ms since the epoch; None while it is there."""
        return self._archive.away_since

    async def run(self) -> None:
        """Record until cancelled."""
        wake = self._inflight.signals.settle
        try:
            while True:
                await wake.wait()
                wake.clear()
                self.tick()
        finally:  # what still waits for Redis would do so for ever: its connection is about to be closed
            for task in self._tasks:
                task.cancel()

    def tick(self) -> int:
        """Send what has gathered, as far as writes are free, and let the rest pass; how many writes were begun."""
        outbox, self._inflight.outbox = self._inflight.outbox, []
        for item in outbox:
            if _ends_a_run(item):
                self._waiting.append(item)
                self._waiting_bytes += _size(item)
            else:
                self.outbox.append(item)
        if self.outbox:
            self.wake.set()
        begun = 0
        while self._waiting and len(self._tasks) < WRITES:
            task = asyncio.create_task(self._deliver(self._next()), name="rqueue record")
            self._tasks.add(task)
            self._is_quiet.clear()
            task.add_done_callback(self._delivered)
            begun += 1
        self._hold_back()
        return begun

    async def drained(self) -> None:
        """Return when nothing waits to be recorded: all of it is in the settler's hands."""
        while self._inflight.outbox or self._waiting or self._tasks:
            self.tick()
            await self._is_quiet.wait()

    async def record(self, items: Sequence[Item]) -> None:
        """Return when how these ended is in the store, or in the spool, or cannot be kept.

        Args:
            items: all of them end a run.
        """
        if self._archive.away_since is None:
            try:
                rows = self._rows(items)
                refused = await self._archive.save(rows) if rows else ()
            except StoreUnavailable:
                pass  # it may have them all the same: the drainer writes the same rows again
            else:
                self.recorded += len(rows) - len(refused)
                self._drop(len(refused), "the result store refuses them")
                return
        await self._spool(items)

    def _hold_back(self) -> None:
        """Have nothing claimed while too much waits, and until half of it does."""
        inflight, part = self._inflight, 2 if self._inflight.is_backed_up else 1
        is_much = len(self._waiting) * part > MOST_WAITING or self._waiting_bytes * part > MOST_WAITING_BYTES
        if inflight.is_backed_up and not is_much:
            inflight.signals.fetch.set()
        inflight.is_backed_up = is_much

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._is_quiet.set()
        self._inflight.signals.settle.set()

    def _next(self) -> list[Item]:
        """The next batch: the oldest that fit."""
        batch, size = [self._waiting.popleft()], 0
        size = _size(batch[0])
        while self._waiting and len(batch) < BATCH_ROWS and size + _size(self._waiting[0]) <= BATCH_BYTES:
            size += _size(self._waiting[0])
            batch.append(self._waiting.popleft())
        self._waiting_bytes -= size
        return batch

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            await self.record(batch)
        except Exception as exc:  # noqa: BLE001 - an error of our own: the jobs have ended as they did
            event(logging.CRITICAL, "recording failed in the worker itself", error=repr(exc))
            self._drop(len(batch), repr(exc))
        # Cancelled before this, they are not settled: whoever takes them back runs them again.
        self.outbox += batch
        self.wake.set()

    def _rows(self, items: Sequence[Item]) -> list[Row]:
        rows = []
        for job, settlement, _ in items:
            try:
                entry = Entry(job.id, _record_of(settlement), job.message.raw)
                row = self._reader.row(job.keys, entry, job.message)
            except Exception as exc:  # noqa: BLE001 - an error of our own, about this one
                event(logging.CRITICAL, "a row failed in the worker itself", id=job.id, error=repr(exc))
                row = None
            if row is None:
                self._drop(1, "no row could be made")
            else:
                rows.append(row)
        return rows

    async def _spool(self, items: Sequence[Item]) -> None:
        """Have them wait in Redis; each queue has a spool of its own."""
        entries: dict[QueueKeys, list[bytes]] = defaultdict(list)
        for job, settlement, _ in items:
            entries[job.keys].append(Entry(job.id, _record_of(settlement), job.message.raw).encode())
        for keys, waiting in entries.items():
            try:
                kept = await self._pushed(keys, waiting)
            except BrokerError as exc:  # it is full, or may not: no worker stops for that
                self._drop(len(waiting), str(exc))
            else:
                self.spooled += kept
                self._drop(len(waiting) - kept, f"more than {self._bound:,} bytes wait for the result store")

    async def _pushed(self, keys: QueueKeys, entries: Sequence[bytes]) -> int:
        """How many wait. While Redis is away as well nothing can be settled: that waits, as the settler does."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._broker.spool(keys, entries, self._bound)
            except BrokerUnavailable as exc:  # a lost reply too: twice in the spool is once in the store
                self._waits.event(logging.WARNING, "recording waits for redis", jobs=len(entries), error=str(exc))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _drop(self, count: int, why: str) -> None:
        if count:
            self.dropped += count
            self._waits.event(logging.ERROR, "results were not kept", jobs=count, total=self.dropped, error=why)


def _ends_a_run(item: Item) -> bool:
    """What there is a row of: notes about jobs that go on, and jobs that are put off or given back, have none."""
    _, settlement, future = item
    if isinstance(settlement, Defer):
        return bool(settlement.record) and not settlement.is_quiet
    return future is None and isinstance(settlement, _JOB_ENDS)


def _size(item: Item) -> int:
    job, settlement, _ = item
    return len(job.message.raw) + len(_record_of(settlement))


def _record_of(settlement: Settlement) -> bytes:
    assert isinstance(settlement, _RUN_ENDS)
    return settlement.record
