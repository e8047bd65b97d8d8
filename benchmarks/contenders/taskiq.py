"""taskiq, with each of its two brokers on Redis that deliver a job to one worker."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "taskiq-python.github.io"
WORKER = (
    "1 worker process, --max-async-tasks and --max-prefetch as the concurrency, --no-parse, uvloop "
    f"({DOCS}/guide/cli.html), orjson, result asked for each 10 ms (0.2 s by default), results in Redis for 10 minutes"
)


class Taskiq(Contender):
    """One process with one event loop."""

    environment = "taskiq"
    package = "taskiq"
    workloads = HEADLINE - {"enqueue-bulk"}  # it has no such call
    broker: str

    def command(self, setup: Setup) -> list[str]:
        worker = ["-m", "taskiq", "worker", "benchmarks.contenders.taskiq_app:broker", "--workers", "1", "--no-parse"]
        slots = str(setup.concurrency)
        return [*worker, "--max-async-tasks", slots, "--max-prefetch", slots, "--log-level", "WARNING"]

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002
        return {"BENCH_BROKER": self.broker}

    async def open(self, url: str) -> None:
        from redis.asyncio import Redis

        from benchmarks.contenders.taskiq_app import broker

        self.tasks, self.app, self.redis = broker.get_all_tasks(), broker, Redis.from_url(url)
        await broker.startup()

    async def close(self) -> None:
        await self.app.shutdown()
        await self.redis.aclose()

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return await self.tasks[task].kiq(*((sent, payload) if payload else (sent,)))

    async def result(self, handle: Any, timeout: float) -> Any:
        return (await handle.wait_result(check_interval=0.01, timeout=timeout)).return_value

    async def left(self) -> Left:
        waiting, running = await self.unfinished()
        return Left(waiting, running, len([key async for key in self.redis.scan_iter("result:*", count=1000)]))

    async def unfinished(self) -> tuple[int, int]:
        """How many wait, and how many are claimed."""
        raise NotImplementedError


class TaskiqList(Taskiq):
    """With the list, which forgets a job as it gives it out."""

    name = "taskiq-list"
    broker = "list"
    rate = 1100
    settings = f"ListQueueBroker, no ack, {WORKER}"

    async def unfinished(self) -> tuple[int, int]:
        return await self.redis.llen(self.app.queue_name), 0


class TaskiqStream(Taskiq):
    """With the stream, which is acknowledged."""

    name = "taskiq-stream"
    broker = "stream"
    rate = 1100
    settings = f"RedisStreamBroker, ack when the result is saved ({DOCS}/guide/cli.html), {WORKER}"

    async def unfinished(self) -> tuple[int, int]:
        (group,) = await self.redis.xinfo_groups(self.app.queue_name)
        return group["lag"] or 0, group["pending"]


CONTENDERS = [TaskiqList(), TaskiqStream()]
