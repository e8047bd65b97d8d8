"""The verbs of dead letters, revive, edit and discard, and purge, which throws waiting jobs away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rqueue.broker.calls import Calls, in_ms, text_of
from rqueue.wire.keys import QueueKeys

PURGE_AT_ONCE: Final = 1000


class Burying(Calls):
    """Dead letters, and what is thrown away."""

    async def dead(self, keys: QueueKeys, limit: int, offset: int = 0) -> list[bytes]:
        """Dead letters, the newest first."""
        ids = await self._link.call(b"ZRANGE", keys.dead, offset, offset + limit - 1, b"REV")
        if not ids:
            return []
        return [letter for letter in await self._link.call(b"HMGET", keys.letters, *ids) if letter is not None]

    async def letter(self, keys: QueueKeys, job_id: str) -> bytes | None:
        """One dead letter."""
        reply: bytes | None = await self._link.call(b"HGET", keys.letters, job_id)
        return reply

    async def revive(
        self, keys: QueueKeys, letter_id: str, letter: bytes, job_id: str, message: bytes, level: int
    ) -> int:
        """Make a dead letter a waiting job: 1 done, 0 the letter has gone or changed, 2 the id is alive.

        3 where a stop is left of an earlier job of that id: :meth:`forget` comes first. The message need not be the
        letter's own.
        """
        names = (keys.dead, keys.letters, keys.jobs, keys.result(job_id), *keys.lists, keys.stops)
        return int(await self._run("revive", names, (letter_id, letter, job_id, message, level)))

    async def edit(self, keys: QueueKeys, letter_id: str, letter: bytes, changed: bytes) -> bool:
        """Put another letter in a dead letter's place; false when that has gone or has changed. May be repeated."""
        return bool(await self._run("edit", (keys.letters,), (letter_id, letter, changed)))

    async def discard_old(self, keys: QueueKeys, keep_s: float) -> int:
        """Throw away up to 1,000 dead letters that are older than that; how many were."""
        before = self.clock.now_ms() - in_ms(keep_s)
        ids = await self._link.call(b"ZRANGEBYSCORE", keys.dead, b"-inf", before, b"LIMIT", 0, 1000)
        return await self.discard(keys, list(map(text_of, ids)))

    async def discard(self, keys: QueueKeys, ids: Sequence[str]) -> int:
        """Throw dead letters away; how many there were."""
        chunks = [ids[start : start + 1000] for start in range(0, len(ids), 1000)]
        return sum([int(await self._run("discard", (keys.dead, keys.letters), chunk)) for chunk in chunks])

    async def purge(self, keys: QueueKeys) -> int:
        """Throw away up to 1,000 waiting jobs; how many were."""
        return int(await self._run("purge", (keys.jobs, *keys.lists, keys.stops), (PURGE_AT_ONCE,)))
