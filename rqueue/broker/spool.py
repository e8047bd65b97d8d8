"""The verbs about what waits in Redis for the result store: into the spool, and out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from rqueue.broker.calls import Calls, in_ms, number_of
from rqueue.broker.link import Argument
from rqueue.wire.keys import QueueKeys

NO_STORE = -1


class Spool(NamedTuple):
    """What waits for the result store.

    Attributes:
        entries, bytes: how much it is.
        lost: how many did not fit, in about the last week.
    """

    entries: int
    bytes: int
    lost: int


class Spooling(Calls):
    """What waits for the result store."""

    async def spool(self, keys: QueueKeys, entries: Sequence[bytes], bound: int | None = None) -> int:
        """Have entries wait, as far as there is room; how many do, the first ones. See ``spool.lua``.

        Args:
            keys: the queue.
            entries: see :class:`~rqueue.results.entry.Entry`.
            bound: how many bytes may wait. None: whoever asks has no store of its own, and does not know; then -1
                says that nobody has one.

        Sent again after a lost reply it keeps them twice, which does no harm.
        """
        return int(await self._run("spool", keys.spooling, ("" if bound is None else bound, *entries)))

    async def unspool(
        self,
        keys: QueueKeys,
        worker: str,
        written: Sequence[bytes],
        *,
        bound: int,
        most: int,
        most_bytes: int,
        lock_s: float,
    ) -> list[bytes] | None:
        """Take away what was written to the store, and tell what is next; None while another worker is at it.

        May be repeated. It also says that there is a store, for a day, with the bound.
        """
        names = (keys.recorded, keys.spool, keys.spool_bytes, keys.spool_lock)
        arguments: list[Argument] = [worker, in_ms(lock_s), bound, most, most_bytes, *written]
        found = await self._run("unspool", names, arguments)
        return None if found is None else [bytes(entry) for entry in found]

    async def spooled(self, keys: QueueKeys) -> Spool:
        """How much waits, and how much did not fit."""
        entries, size, lost = await asyncio.gather(
            self._link.call(b"LLEN", keys.spool),
            self._link.call(b"GET", keys.spool_bytes),
            self._link.call(b"GET", keys.unrecorded),
        )
        return Spool(int(entries), number_of(size or b"") or 0, number_of(lost or b"") or 0)
