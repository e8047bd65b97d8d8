"""arq, with the pause that it makes between two looks at its queue by default, and with a short one."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "arq-docs.helpmanual.io"
WORKER = (
    f"max_jobs as the concurrency ({DOCS}/#arq.worker.Worker), uvloop, no log line for each task, ack after the body, "
    "pickle, results in Redis for an hour"
)


class Arq(Contender):
    """One process with one event loop."""

    name = "arq"
    environment = "arq"
    package = "arq"
    rate = 1000
    workloads = HEADLINE - {"enqueue-bulk"}  # it has no such call
    settings = f"poll_delay of worker and result 0.5 s, the default, which bounds the rate, {WORKER}"
    poll_s = 0.5

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002  # the app has it from BENCH_CONCURRENCY
        app = "benchmarks.contenders.arq_app"
        return ["-m", "arq", f"{app}.WorkerSettings", "--custom-log-dict", f"{app}.quiet"]

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002
        return {"BENCH_POLL_S": str(self.poll_s)}

    async def open(self, url: str) -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        self.redis = await create_pool(RedisSettings.from_dsn(url))

    async def close(self) -> None:
        await self.redis.aclose()

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return await self.redis.enqueue_job(task, *((sent, payload) if payload else (sent,)))

    async def result(self, handle: Any, timeout: float) -> Any:
        return await handle.result(timeout, poll_delay=self.poll_s)

    async def left(self) -> Left:
        waiting = await self.redis.zcard(self.redis.default_queue_name)  # where a job stays until it is finished
        return Left(waiting, 0, len([key async for key in self.redis.scan_iter("arq:result:*", count=1000)]))


class ArqPolling(Arq):
    """The same, looking at its queue a hundred times a second."""

    name = "arq-poll-10ms"
    workloads = frozenset({"drain", "round-trip", "idle"})
    settings = f"poll_delay of worker and result 10 ms, {WORKER}"
    poll_s = 0.01


CONTENDERS = [Arq(), ArqPolling()]
