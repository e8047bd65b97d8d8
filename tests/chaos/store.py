"""What stands in Redis, seen by a plain client: whether all is done, what stays for ever, results, dead letters."""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any

import redis

from rqueue.wire.keys import Keys, QueueKeys
from rqueue.wire.record import Letter, decode_record

from .tasks import QUEUES

MARK = re.compile(rb"m\.[a-z0-9.]+")


class Store:
    """One server, or whatever answers for it.

    Args:
        connect: makes a client; a cluster's or a sentinel's one will do.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._client: Any = None

    @classmethod
    def at(cls, url: str) -> "Store":
        return cls(lambda: redis.Redis.from_url(url))

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    @property
    def keys(self) -> list[QueueKeys]:
        return [Keys().queue(queue.name) for queue in QUEUES]

    def version(self) -> str:
        """The server's name and version."""
        info = self.client.info("server")
        if "redis_version" not in info:  # a cluster answers for each of its nodes
            info = next(iter(info.values()))
        return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"

    def unsettled(self) -> int:
        """How many jobs have not ended: waiting, scheduled or running."""
        return sum(self.client.scard(keys.jobs) for keys in self.keys) + sum(
            len([raw for raw in self.client.lrange(name, 0, -1) if raw]) for keys in self.keys for name in keys.lists
        )

    def spooled(self) -> int:
        """How many results wait in Redis for their store."""
        return sum(self.client.llen(keys.spool) for keys in self.keys)

    def letters(self) -> dict[str, str]:
        """Why each dead job died, by its mark."""
        found = {}
        for keys in self.keys:
            for data in self.client.hvals(keys.letters):
                letter = Letter.decode(data)
                mark = MARK.search(letter.raw.partition(b"{")[2])
                found[mark[0].decode() if mark else letter.id] = letter.reason
        return found

    def records(self, jobs: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
        """The records that are there, by job id; asked for by queue and id."""
        found = {}
        wanted = list(jobs)
        for part in (wanted[first : first + 500] for first in range(0, len(wanted), 500)):
            pipeline = self.client.pipeline(transaction=False)
            for queue, job_id in part:
                pipeline.get(Keys().queue(queue).result(job_id))
            for (_, job_id), data in zip(part, pipeline.execute(), strict=True):
                if data is not None:
                    found[job_id] = decode_record(data)
        return found

    def leaks(self) -> dict[str, str]:
        """Keys that stay for ever and should not, when nothing is queued and no worker lives."""
        allowed = {Keys().queues, *(name for keys in self.keys for name in (keys.dead, keys.letters))}
        return {
            name.decode(): self.client.type(name).decode()
            for name in self.client.scan_iter(count=1000)
            if name not in allowed and self.client.ttl(name) == -1
        }

    async def until_settled(self, timeout_s: float) -> int:
        """Return when nothing is unsettled, or when the time is up: how many are then."""
        left = 1
        try:
            async with asyncio.timeout(timeout_s):
                while left := await asyncio.to_thread(self.unsettled):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        return left

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
