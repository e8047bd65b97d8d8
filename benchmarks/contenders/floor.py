"""The floors: only the Redis work that a queue with late ack and results cannot leave out, and no care for failures.

A contender each, since they are different programs: what enqueues fastest is not what drains fastest.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import count
from typing import Any, ClassVar

from benchmarks.contender import Contender, Left, Setup

BATCH = 100
AT_ONCE = 10_000


class Floor(Contender):
    """What the floors share: redis-py, orjson, ids that are a number behind a salt."""

    environment: ClassVar = "rqueue"
    package: ClassVar = "redis"
    rate: ClassVar = 100_000

    async def open(self, url: str) -> None:
        """Connect, with the scripts at hand."""
        import redis.asyncio

        from benchmarks.contenders import floor_app

        self._redis = redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=None)
        self._script = self._redis.register_script(floor_app.ENQUEUE)
        await self._redis.script_load(floor_app.ENQUEUE)
        salt = secrets.token_hex(8)
        self._ids: Iterator[str] = (f"{salt}{number:08x}" for number in count())

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> None:
        """The ids, the messages and a record of the batch, 100 jobs in a script."""
        import orjson

        for first in range(0, len(calls), BATCH):
            batch = calls[first : first + BATCH]
            ids = [next(self._ids) for _ in batch]
            jobs = [orjson.dumps({"task": task, "id": i, "args": c}) for i, c in zip(ids, batch, strict=True)]
            await self._script(keys=["floor", "floor:jobs", "floor:batch:" + ids[0]], args=[*ids, *jobs])

    async def left(self) -> Left:
        """The lengths of the lists, and the number of the results."""
        results = sum([1 async for _ in self._redis.scan_iter("floor:result:*", count=10_000)])
        return Left(await self._redis.llen("floor"), await self._redis.llen("floor:claimed"), results)


class FloorEnqueue(Floor):
    """The fewest steps of a producer."""

    name: ClassVar = "floor-enqueue"
    settings: ClassVar = (
        "one at a time `await redis.asyncio.Redis.lpush()`; in bulk a script for 100 jobs: their ids, their messages, "
        "a record of the batch"
    )
    workloads: ClassVar = frozenset({"enqueue-one", "enqueue-bulk"})

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> None:  # noqa: ARG002
        """What anyone would write: one LPUSH."""
        import orjson

        await self._redis.lpush("floor", orjson.dumps({"task": task, "id": next(self._ids), "args": (sent, payload)}))


class FloorDrain(Floor):
    """The fewest steps of a worker."""

    name: ClassVar = "floor-drain"
    settings: ClassVar = (
        "three batches of 100 at once: claimed by a script, an asyncio task for each job, settled with their results "
        "by another; redis-py, uvloop"
    )
    workloads: ClassVar = frozenset({"drain", "drain-2", "payload", "latency", "workers", "backlog"})

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002
        """The loop of floor_app."""
        return ["-m", "benchmarks.contenders.floor_app", "drain"]

    enqueue = FloorEnqueue.enqueue

    async def backlog(self, count: int) -> None:
        """Ready messages, 10,000 in an LPUSH."""
        for first in range(0, count, AT_ONCE):
            ids = [next(self._ids) for _ in range(first, min(first + AT_ONCE, count))]
            pipe = self._redis.pipeline(transaction=False)
            pipe.lpush("floor", *[f'{{"task":"noop","id":"{each}","args":[0.0]}}' for each in ids])
            pipe.sadd("floor:jobs", *ids)
            await pipe.execute()


class FloorRoundTrip(Floor):
    """The fewest steps between a producer and its result."""

    name: ClassVar = "floor-roundtrip"
    settings: ClassVar = (
        "LPUSH; BRPOPLPUSH in another process; a script that settles, stores the result and announces it; GET when "
        "it is announced; redis-py, uvloop"
    )
    workloads: ClassVar = frozenset({"round-trip"})

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002
        """The loop of floor_app."""
        return ["-m", "benchmarks.contenders.floor_app", "answer"]

    async def open(self, url: str) -> None:
        """Listen as well."""
        await super().open(url)
        self._news = self._redis.pubsub(ignore_subscribe_messages=True)
        await self._news.subscribe("floor:news")
        await self._news.get_message(ignore_subscribe_messages=True, timeout=5)

    async def close(self) -> None:
        """Disconnect."""
        await self._news.aclose()
        await super().close()

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> str:  # noqa: ARG002
        """One LPUSH; its id is the handle."""
        import orjson

        chosen = next(self._ids)
        await self._redis.lpush("floor", orjson.dumps({"task": task, "id": chosen, "args": (sent, payload)}))
        return chosen

    async def result(self, handle: str, timeout: float) -> Any:
        """Wait for its announcement; this producer waits for one job at a time."""
        import orjson

        while True:
            news = await self._news.get_message(timeout=timeout)
            if news is None:
                raise TimeoutError(handle)
            if news["data"].decode() == handle:
                return orjson.loads(await self._redis.get("floor:result:" + handle))


CONTENDERS = (FloorEnqueue(), FloorDrain(), FloorRoundTrip())
