"""streaQ, which keeps its queue in a stream."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import Contender, Left, Setup

DOCS = "streaq.readthedocs.io/en/latest"


class Streaq(Contender):
    """One process with one event loop."""

    name = "streaq"
    environment = "shared"
    package = "streaq"
    rate = 800
    settings = (
        f"concurrency as asked, prefetch the same by default, uvloop, coredis in optimized mode ({DOCS}/worker.html), "
        "no log line for each task, ack after the body, pickle, results in Redis for 5 minutes"
    )

    places = {r"streaq:\w+:queues:": "in the stream"}  # noqa: RUF012

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002  # the app has it from BENCH_CONCURRENCY
        return ["-m", "streaq", "run", "benchmarks.contenders.streaq_app:worker"]

    async def open(self, url: str) -> None:  # noqa: ARG002  # the app has it from BENCH_URL
        from benchmarks.contenders.streaq_app import worker

        self.worker = await worker.__aenter__()

    async def close(self) -> None:
        await self.worker.__aexit__(None, None, None)

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return await self.task(task, sent, payload)

    async def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> None:
        await self.worker.enqueue_many([self.task(task, *call) for call in calls])

    async def result(self, handle: Any, timeout: float) -> Any:
        return (await handle.result(timeout)).result

    async def left(self) -> Left:
        waiting = await self.worker.queue_size()  # what is claimed stays in the stream until it is finished
        results = [key async for key in self.worker.redis.scan_iter(f"{self.worker.results_key}*", count=1000)]
        return Left(waiting, 0, len(results))

    def task(self, name: str, sent: float, payload: str) -> Any:
        """A task that is not enqueued yet: awaiting it does that."""
        return self.worker.registry[name].enqueue(*((sent, payload) if payload else (sent,)))


class Sooner(Streaq):
    """Giving back sooner what a dead worker held; for runs with faults."""

    name = "streaq-tuned"
    workloads = frozenset()
    settings = f"as streaq, with an idle_timeout of 10 s in place of 60 s ({DOCS}/worker.html)"

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002
        return {"BENCH_IDLE_S": "10"}


CONTENDERS = [Streaq(), Sooner()]
