"""saq."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "saq-py.readthedocs.io/en/latest"


class Saq(Contender):
    """One process with one event loop."""

    name = "saq"
    environment = "shared"
    package = "saq"
    rate = 1500
    workloads = HEADLINE - {"enqueue-bulk"}  # it has no such call: its batch() is about cancelling
    settings = (
        f"concurrency as asked ({DOCS}/settings.html), orjson in place of json, uvloop, result by refresh(0.1), "
        f"repeated ({DOCS}/job.html), ack after the body, results in Redis for 10 minutes"
    )

    def command(self, setup: Setup) -> list[str]:  # noqa: ARG002  # the app has it from BENCH_CONCURRENCY
        return ["-m", "saq", "benchmarks.contenders.saq_app.settings"]

    async def open(self, url: str) -> None:  # noqa: ARG002  # the app has it from BENCH_URL
        from benchmarks.contenders.saq_app import queue

        self.queue = queue
        await queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        arguments: dict[str, Any] = {"sent": sent, "payload": payload} if payload else {"sent": sent}
        return await self.queue.enqueue(task, **arguments)

    async def result(self, handle: Any, timeout: float) -> Any:
        async with asyncio.timeout(timeout):
            while not handle.completed:
                try:
                    await handle.refresh(until_complete=0.1)
                except TimeoutError:
                    continue  # it subscribes after it has looked, and may miss the end of the job between the two
        return handle.result

    async def left(self) -> Left:
        jobs = [key async for key in self.queue.redis.scan_iter(f"{self.queue.job_id('')}*", count=1000)]
        unfinished = await self.queue.count("incomplete")
        return Left(await self.queue.count("queued"), await self.queue.count("active"), len(jobs) - unfinished)


class Retried(Saq):
    """With retries; for runs with faults."""

    name = "saq-retries"
    workloads = frozenset()
    settings = (
        f"retries 5, as in its docs' example ({DOCS}/task.html): with the default of 1, what its sweep finds of a dead "
        "worker ends as aborted; default timeout of 10 s and sweep each 60 s; orjson, uvloop"
    )
    places = {r"saq:\w+:queued$": "queued", r"saq:\w+:active$": "active"}  # noqa: RUF012

    async def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:
        return await self.queue.enqueue(task, sent=sent, payload=payload, retries=5, **options)


class Swept(Retried):
    """Looking for what dead workers held as often as it can."""

    name = "saq-tuned"
    settings = (
        "as saq-retries, with a timer of 1 s for the sweep (the docstring of its Worker). A task is taken for stuck "
        "after its timeout of 10 s, the default, and one that takes longer ends there"
    )

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002
        return {"BENCH_SWEEP_S": "1"}


CONTENDERS = [Saq(), Retried(), Swept()]
