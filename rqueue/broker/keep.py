"""Rows of history in a Redis: the verb of a result store that is one."""

from __future__ import annotations

from rqueue.broker.calls import Calls


class Keeping(Calls):
    """The verb of a Redis that keeps history, and the way back."""

    async def keep(
        self, job_id: str, enqueued: int, order: tuple[int, int], row: bytes, ttl_s: int | None, skew_ms: int = 0
    ) -> bool:
        """Keep a job's row; may be repeated.

        Args:
            job_id: its id.
            enqueued: when it was enqueued, in ms: it tells jobs of the same id apart.
            order: its runs, and when the last one started: which of two rows is the later's.
            row: whatever is to be kept.
            ttl_s: seconds to keep it, and what else is kept of that id; None for ever.
            skew_ms: by how much two hosts' times may differ: more runs count within it, and the later start beyond.

        Returns:
            False where a later row is there.

        Raises:
            BrokerError: it is not known whether it is kept.
        """
        ttl = b"" if ttl_s is None else ttl_s
        return bool(await self._run("keep", [self.keys.row(job_id)], [enqueued, *order, row, ttl, skew_ms]))

    async def kept(self, job_id: str) -> dict[int, bytes]:
        """The rows of an id, by when the job was enqueued.

        Raises:
            BrokerError: Redis cannot be asked.
        """
        flat = await self._link.call(b"HGETALL", self.keys.row(job_id))
        return {int(when): row.split(b" ", 2)[2] for when, row in zip(flat[::2], flat[1::2], strict=True)}
