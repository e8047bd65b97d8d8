"""Brings what waits in Redis to the result store: what gathered while it was away, and what ended without a worker.

It alone keeps that an entry leaves the spool only after the store has its row. If the process dies in between, another
one writes the row again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.errors import BrokerError, BrokerUnavailable, MalformedMessage, StoreUnavailable
from rqueue.log import Recurring, event
from rqueue.results.entry import Entry
from rqueue.results.reader import Reader
from rqueue.results.row import Row
from rqueue.wire.keys import QueueKeys
from rqueue.worker.archive import Archive
from rqueue.worker.lease import Lease

AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 1024 * 1024
LOCK_S: Final = 10.0
"""For so long nobody else is at a queue's spool; it counts anew with each page, and a write takes a part of it."""


class Drainer:
    """Drains the spools of the served queues at each heartbeat, and when the store is back.

    Args:
        broker: the broker.
        served: the queues; it may change.
        lease: the worker's id.
        archive: the result store.
        reader: makes rows.
        bound: how many bytes may wait in Redis, as those are told who have no store.
        heartbeat_s: seconds between two rounds.

    Attributes:
        drained: rows that were written.
        dropped: entries of which no row could be made, or that the store refuses.
    """

    def __init__(
        self,
        broker: Broker,
        served: Sequence[QueueKeys],
        lease: Lease,
        archive: Archive,
        reader: Reader,
        bound: int,
        heartbeat_s: float,
    ) -> None:
        self._broker, self._served, self._lease, self._archive, self._reader = broker, served, lease, archive, reader
        self._bound, self._heartbeat_s = bound, heartbeat_s
        self._waits = Recurring()
        self.drained = self.dropped = 0

    async def run(self) -> None:
        """Drain until cancelled."""
        back = self._archive.back
        while True:
            try:
                await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop draining
                self._waits.event(logging.WARNING, "draining waits for redis", error=str(exc) or repr(exc))
            try:
                await asyncio.wait_for(back.wait(), self._heartbeat_s)
            except TimeoutError:
                continue
            back.clear()

    async def tick(self) -> int:
        """One round; how many rows were written. It also says in each queue that there is a store.

        Raises:
            BrokerError: Redis refused, or could not be asked; of other queues it may have been.
        """
        before, failed = self.drained, None
        for keys in list(self._served):
            try:
                await self._drain(keys)
            except BrokerError as exc:  # a key is none of ours, or a part of a cluster is away: the others are drained
                if isinstance(exc, BrokerUnavailable) and not self._broker.is_cluster:
                    raise
                failed = exc
        if failed is not None:
            raise failed
        return self.drained - before

    async def _drain(self, keys: QueueKeys) -> None:
        written: Sequence[bytes] = ()
        while page := await self._page(keys, written):
            rows = self._rows(keys, page)
            try:
                refused = await self._archive.save(rows) if rows else ()
            except StoreUnavailable:
                return  # the page stays, and the lock runs out
            self.drained += len(rows) - len(refused)
            self._drop(keys, len(refused), "the result store refuses them")
            written = page

    async def _page(self, keys: QueueKeys, written: Sequence[bytes]) -> list[bytes] | None:
        return await self._broker.unspool(
            keys,
            self._lease.worker,
            written,
            bound=self._bound,
            most=AT_ONCE if self._archive.away_since is None else 0,
            most_bytes=BYTES_AT_ONCE,
            lock_s=LOCK_S,
        )

    def _rows(self, keys: QueueKeys, page: Sequence[bytes]) -> list[Row]:
        rows = []
        for data in page:
            try:
                row = self._reader.row(keys, Entry.decode(data))
            except MalformedMessage:
                row = None
            except Exception as exc:  # noqa: BLE001 - an error of our own: the others are written
                event(logging.CRITICAL, "a row failed in the worker itself", queue=keys.name, error=repr(exc))
                row = None
            if row is None:
                self._drop(keys, 1, "an entry of the spool cannot be read")
            else:
                rows.append(row)
        return rows

    def _drop(self, keys: QueueKeys, count: int, why: str) -> None:
        if count:
            self.dropped += count
            self._waits.event(logging.ERROR, "results were not kept", jobs=count, queue=keys.name, error=why)
