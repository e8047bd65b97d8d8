"""rqueue itself, as its own docs run it."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from benchmarks.contender import HEADLINE, REST, Contender, Left, Setup

AT_ONCE = 10_000


class RQueueWorker(Contender):
    """``rqueue worker`` with its defaults."""

    name: ClassVar = "rqueue"
    environment: ClassVar = "rqueue"
    package: ClassVar = "rqueue"
    settings: ClassVar = (
        "`rqueue worker` with its defaults, `-c` as asked (docs/workers.md); late ack, results kept with their TTL "
        "of an hour"
    )
    workloads: ClassVar = HEADLINE | REST
    rate: ClassVar = 12_000
    is_supervised: ClassVar = True
    places: ClassVar = {
        r"rqueue:\{\w+\}(:p\d+)?$": "waiting",
        r"rqueue:\{\w+\}:scheduled": "scheduled",
        r"rqueue:\{\w+\}:processing:": "claimed",
        r"rqueue:\{\w+\}:dead": "dead letter",
    }

    def command(self, setup: Setup) -> list[str]:
        """One supervisor with one worker process, or with as many processes as the prefork pool is asked for."""
        command = ["-m", "rqueue", "worker", "-A", "benchmarks.contenders.rqueue_app:app", "-P", setup.pool]
        return [*command, "-c", str(setup.concurrency), "-Q", ",".join(setup.queues), "-l", "warning"]

    def variables(self, setup: Setup) -> dict[str, str]:
        """The worker's URL may be another than the producer's: a proxy's."""
        return {"RQUEUE_URL": setup.url}

    async def open(self, url: str) -> None:
        """Connect."""
        from benchmarks.contenders import rqueue_app

        self._app = rqueue_app.make_app(url)
        self._tasks = {task.name: task for task in self._app.tasks}
        await self._app.open()

    async def close(self) -> None:
        """Disconnect."""
        await self._app.close()

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:
        """Enqueue one."""
        called = self._tasks[task]
        arguments = (sent, payload) if payload else (sent,)
        return await (called.options(**options) if options else called).enqueue(*arguments)

    async def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> Any:
        """Enqueue all."""
        called = self._tasks[task]
        signatures = [called.s(sent, payload) if payload else called.s(sent) for sent, payload in calls]
        return await self._app.enqueue_many(signatures)

    async def result(self, handle: Any, timeout: float) -> Any:
        """Wait for the result's announcement."""
        return await handle.result(timeout=timeout)

    async def backlog(self, count: int) -> None:
        """Ready messages, as docs/wire-format.md has them."""
        import redis.asyncio

        keys, salt = self._app.keys.queue("default"), secrets.token_hex(6)
        async with redis.asyncio.Redis.from_url(self._app.endpoint.url) as server:
            for first in range(0, count, AT_ONCE):
                ids = [f"{salt}{number:x}" for number in range(first, min(first + AT_ONCE, count))]
                pipe = server.pipeline(transaction=False)
                pipe.lpush(keys.main, *[f'1 - 0 0 0 {each} {{"task":"noop","args":[0.0]}}' for each in ids])
                pipe.sadd(keys.jobs, *ids)
                await pipe.execute()

    async def left(self) -> Left:
        """Count by what the admin tells, and by the records."""
        import redis.asyncio

        from rqueue.client.admin import Admin

        statuses = await Admin(self._app).queues()
        async with redis.asyncio.Redis.from_url(self._app.endpoint.url) as server:
            results = sum([1 async for _ in server.scan_iter("rqueue:{*}:result:*", count=10_000)])
        return Left(sum(each.waiting_total for each in statuses), sum(each.running for each in statuses), results)

    def unsettled(self, server: Any) -> int:
        """The set of jobs that are not settled."""
        return int(server.scard("rqueue:{default}:jobs"))


class WithStore(RQueueWorker):
    """The same with a result store beside Redis; for `make bench-results`."""

    workloads: ClassVar = frozenset({"enqueue-bulk", "drain", "round-trip"})
    places: ClassVar = {}
    rate: ClassVar = 5_000
    rows: ClassVar = "SELECT count(*), count(DISTINCT id) FROM rqueue_jobs WHERE state = 'SUCCESS'"

    def prepare(self, results: str) -> list[str]:
        """As its users do."""
        return ["-m", "rqueue", "db", "upgrade", "--results", results]


class WithAsyncpg(WithStore):
    """PostgreSQL by asyncpg."""

    name: ClassVar = "rqueue-asyncpg"
    store: ClassVar = "postgresql+asyncpg"
    settings: ClassVar = "as rqueue, and `results=` a PostgreSQL, by asyncpg (docs/results.md)"


class WithPsycopg(WithStore):
    """PostgreSQL by psycopg."""

    name: ClassVar = "rqueue-psycopg"
    store: ClassVar = "postgresql+psycopg"
    settings: ClassVar = "as rqueue, and `results=` a PostgreSQL, by psycopg 3 with its C parts (docs/results.md)"


class WithSqlite(WithStore):
    """A file."""

    name: ClassVar = "rqueue-sqlite"
    store: ClassVar = "sqlite+aiosqlite"
    settings: ClassVar = "as rqueue, and `results=` an SQLite file (docs/results.md)"


class WithRedis(WithStore):
    """Another Redis."""

    name: ClassVar = "rqueue-redis"
    store: ClassVar = "redis"
    settings: ClassVar = "as rqueue, and `results=` a second Redis (docs/results.md)"

    def prepare(self, results: str) -> list[str]:  # noqa: ARG002
        """It has no tables."""
        return []


CONTENDERS = (RQueueWorker(), WithAsyncpg(), WithPsycopg(), WithSqlite(), WithRedis())
