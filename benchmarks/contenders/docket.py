"""docket, which keeps its queue in a stream."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "docket.lol/en/latest"


class Docket(Contender):
    """One process with one event loop."""

    name = "docket"
    environment = "docket"
    package = "pydocket"
    rate = 500
    workloads = HEADLINE - {"enqueue-bulk"}  # it has no such call
    settings = (
        f"concurrency as asked, max_connections above it ({DOCS}/production), uvloop, log level WARNING, ack after the "
        "body, cloudpickle, results in Redis for 15 minutes (its docs say that it is faster without)"
    )

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002  # the app has it from BENCH_CONCURRENCY
        return ["-m", "benchmarks.contenders.docket_app"]

    async def open(self, url: str) -> None:  # noqa: ARG002  # the app has it from BENCH_URL
        import docket

        from benchmarks.contenders import docket_app

        self.docket = await docket.Docket("bench", docket_app.url).__aenter__()
        for function in docket_app.tasks:
            self.docket.register(function)

    async def close(self) -> None:
        await self.docket.__aexit__(None, None, None)

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return await self.docket.add(task)(*((sent, payload) if payload else (sent,)))

    async def result(self, handle: Any, timeout: float) -> Any:
        return await handle.get_result(timeout=timedelta(seconds=timeout))

    async def left(self) -> Left:
        results = f"{self.docket.results_collection}:*"
        async with self.docket.redis() as redis:
            waiting = await redis.xlen(self.docket.stream_key)  # where a job stays until it is finished
            return Left(waiting, 0, len([key async for key in redis.scan_iter(results, count=1000)]))


CONTENDERS = [Docket()]
