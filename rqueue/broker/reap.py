"""The verbs of leases: register, renew, leave, condemn, and reap, which takes back what a dead worker has left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rqueue.broker.calls import Calls, escape_glob, in_ms, or_nothing
from rqueue.broker.link import Argument
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import TOKEN


class Leasing(Calls):
    """Workers' leases, and what becomes of what they leave."""

    async def register(self, keys: QueueKeys, worker: str, lease_s: float) -> bool:
        """Give a worker its lease; false when the id was used before."""
        now = await self._run("register", (keys.processing(worker), keys.workers), (worker, in_ms(lease_s)))
        if now:
            self.clock.observe(now)
        return bool(now)

    async def renew(self, queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes) -> bool:
        """Renew the lease; false when the worker is not registered any more. May be repeated."""
        names, arguments = renewal(queues, worker, lease_s, card)
        return bool(await self._run("renew", names, arguments))

    async def leave(self, keys: QueueKeys, worker: str) -> bool:
        """Take the worker off; false while it still holds messages. May be repeated."""
        names = (keys.processing(worker), keys.workers, keys.started(worker), keys.settled(worker), keys.card(worker))
        return bool(await self._run("leave", names, (worker,)))

    async def condemn(self, keys: QueueKeys, worker: str) -> bool:
        """End the lease of a worker whose process is known to be dead; false when not registered. May be repeated."""
        return bool(await self._run("condemn", (keys.workers,), (worker,)))

    async def overdue(self, keys: QueueKeys, ahead_s: float = 0.0) -> dict[str, float]:
        """The workers whose lease has run out, or will so soon, with the seconds that are left: 0 or less, none."""
        now = self.clock.now_ms()
        flat = await self._link.call(b"ZRANGEBYSCORE", keys.workers, b"-inf", now + int(ahead_s * 1000), b"WITHSCORES")
        ends = zip(flat[::2], flat[1::2], strict=True)
        return {name.decode("utf-8", "surrogateescape"): (float(end) - now) / 1000 for name, end in ends}

    async def remains(self, keys: QueueKeys, worker: str, limit: int) -> tuple[list[bytes], set[str]]:
        """What a dead worker left: up to so many messages, the last claimed first, and the ids that had started."""
        messages, started = await asyncio.gather(
            or_nothing(self._link.call(b"LRANGE", keys.processing(worker), 0, limit - 1), []),
            self._link.call(b"SMEMBERS", keys.started(worker)),
        )
        return [raw for raw in messages if raw != TOKEN], {name.decode() for name in started}

    async def reap(self, keys: QueueKeys, worker: str, items: Sequence[tuple[bytes, int, bytes]]) -> int:
        """Return a dead worker's messages: (bytes in the list, level, bytes as they go on). May be repeated.

        Returns 1 when the worker is gone, 0 when something is left, -1 when it is alive.
        """
        arguments: list[Argument] = [worker]
        for item in items:
            arguments += item
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.settled(worker),
            keys.card(worker),
            *keys.lists,
            keys.jobs,
            keys.stops,
        )
        return int(await self._run("reap", names, arguments))

    async def orphans(self, queues: Sequence[QueueKeys], cursor: int) -> tuple[int, list[tuple[QueueKeys, str]]]:
        """One step of a search for processing lists whose worker is not registered; give back the cursor."""
        prefix = self.keys.namespace.encode()
        pattern = escape_glob(prefix) + b":{*}:processing:*"
        cursor, found = await self._link.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 500, b"TYPE", b"list")
        mine = []
        for name in found:
            for keys in queues:
                if name.startswith(keys.main + b":processing:"):
                    worker = keys.worker_of(name)
                    if await self._link.call(b"ZSCORE", keys.workers, name.removeprefix(keys.processing(""))) is None:
                        mine.append((keys, worker))
        return int(cursor), mine

    async def worker_names(self, keys: QueueKeys) -> list[str]:
        """The ids of the queue's registered workers."""
        return [
            name.decode("utf-8", "surrogateescape") for name in await self._link.call(b"ZRANGE", keys.workers, 0, -1)
        ]


def renewal(
    queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes
) -> tuple[list[bytes], list[Argument]]:
    """The keys and arguments of ``renew``, for whoever sends it."""
    names = [name for keys in queues for name in (keys.workers, keys.card(worker))]
    return names, [worker, in_ms(lease_s), card]
