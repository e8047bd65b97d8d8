"""Rows of history in a Redis: the verb of a result store that is one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from rqueue.broker.calls import Calls, every


class Kept(NamedTuple):
    """A row to be kept.

    Attributes:
        job_id: the job's id.
        enqueued: when it was enqueued, in ms: it tells jobs of the same id apart.
        order: its runs, and when the last one started: which of two rows is the later's.
        row: whatever is to be kept.
    """

    job_id: str
    enqueued: int
    order: tuple[int, int]
    row: bytes


class Keeping(Calls):
    """The verb of a Redis that keeps history, and the way back."""

    async def keep(self, rows: Sequence[Kept], ttl_s: int | None, skew_ms: int = 0) -> list[bool]:
        """Keep jobs' rows in one step; may be repeated.

        Args:
            rows: the rows, at least one; in a cluster not more, since ids lie in any slot.
            ttl_s: seconds to keep them, and what else is kept of these ids; None for ever.
            skew_ms: by how much two hosts' times may differ: more runs count within it, and the later start beyond.

        Returns:
            For each whether it is written; False where a later row is there.

        Raises:
            BrokerError: it is not known which of them are kept.
        """
        keys = [self.keys.row(row.job_id) for row in rows]
        arguments = [each for row in rows for each in (row.enqueued, *row.order, row.row)]
        answer = await self._run("keep", keys, [b"" if ttl_s is None else ttl_s, skew_ms, *arguments])
        return [each == ord("1") for each in answer]

    async def keep_all(self, rows: Sequence[Kept], ttl_s: int | None, skew_ms: int = 0) -> None:
        """Keep jobs' rows, in as many steps as it takes; as :meth:`keep`."""
        parts = [[row] for row in rows] if self.is_cluster else [rows]
        await every([asyncio.ensure_future(self.keep(part, ttl_s, skew_ms)) for part in parts])

    async def kept(self, job_id: str) -> dict[int, bytes]:
        """The rows of an id, by when the job was enqueued.

        Raises:
            BrokerError: Redis cannot be asked.
        """
        flat = await self._link.call(b"HGETALL", self.keys.row(job_id))
        return {int(when): row.split(b" ", 2)[2] for when, row in zip(flat[::2], flat[1::2], strict=True)}
