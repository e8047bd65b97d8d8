"""What ``rqueue bench`` measures: the workloads of one round, each with as many jobs as the plan says.

Only the work itself is timed: a worker's start and end, and the removal of what a workload has left, are not.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from rqueue.app import RQueue
from rqueue.client.task import Task
from rqueue.errors import RQueueError
from rqueue.worker.worker import Worker

CALLERS: Final = 100
MANY: Final = 1000
"""Jobs of one ``enqueue_many``."""

TRIPS: Final = 200
NAP_S: Final = 0.05
NAPS: Final = 10
"""Sleeps one after the other in each slot of the worker."""

_ALONE: Final = 20
"""A caller alone enqueues one job in a round trip: a twentieth of the jobs is enough to see how fast that is."""

_TRIP_TIMEOUT_S: Final = 60.0
_SHUTDOWN_S: Final = 1.0
_LOOK_S: Final = 1.0


class BenchFailed(RQueueError):
    """The figures would be wrong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done in a round.

    Attributes:
        jobs: jobs of a workload.
        concurrency: slots of the worker.
        payload: characters of each job's argument.
    """

    jobs: int
    concurrency: int
    payload: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round has shown of one workload.

    Attributes:
        workload: its name.
        unit: of the value.
        jobs: how many it had.
        value: the figure.
        cpu_us: microseconds of this process's CPU time for each job; None where another row has them.
    """

    workload: str
    unit: str
    jobs: int
    value: float
    cpu_us: float | None


class Workloads:
    """The workloads on one app.

    Args:
        app: an app whose namespace is the bench's own.
        plan: how much to do.
        say: is told what comes next.
    """

    def __init__(self, app: RQueue, plan: Plan, say: Callable[[str], None]) -> None:
        self._app, self._plan, self._say = app, plan, say
        self._text = "x" * plan.payload
        self._ran = 0
        self._ids: list[str] = []

        async def noop(text: str) -> int:
            self._ran += 1
            return len(text)

        async def nap() -> None:
            await asyncio.sleep(NAP_S)
            self._ran += 1

        self._noop, self._nap = app.task(name="bench.noop")(noop), app.task(name="bench.nap")(nap)

    async def round(self) -> list[Sample]:
        """Run each once.

        Raises:
            BenchFailed: jobs were lost.
        """
        samples = []
        for workload in (self._one_at_a_time, self._callers, self._many, self._drain, self._naps, self._trips):
            samples += await workload()
        return samples

    async def _one_at_a_time(self) -> list[Sample]:
        jobs = math.ceil(self._plan.jobs / _ALONE)
        self._say(name := "enqueue, one at a time")
        with _Watch() as watch:
            for _ in range(jobs):
                await self._noop.enqueue(self._text)
        await self._clear()
        return [_rate(name, jobs, watch)]

    async def _callers(self) -> list[Sample]:
        jobs, callers = self._plan.jobs, min(CALLERS, self._plan.jobs)
        self._say(name := f"enqueue, {callers} callers")

        async def caller(first: int) -> None:
            for _ in range(first, jobs, callers):
                await self._noop.enqueue(self._text)

        with _Watch() as watch:
            tasks = [asyncio.create_task(caller(first)) for first in range(callers)]
            try:
                await asyncio.gather(*tasks)
            finally:  # where one has failed no other goes on
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        await self._clear()
        return [_rate(name, jobs, watch)]

    async def _many(self) -> list[Sample]:
        """What it enqueues is what :meth:`_drain` works off."""
        self._say(name := f"enqueue_many, {MANY:,} a call")
        with _Watch() as watch:
            await self._enqueue(self._noop, self._plan.jobs, self._text)
        return [_rate(name, self._plan.jobs, watch)]

    async def _drain(self) -> list[Sample]:
        self._say(name := "drain, no-ops")
        return [_rate(name, self._plan.jobs, await self._work_off(self._plan.jobs))]

    async def _naps(self) -> list[Sample]:
        jobs = self._plan.concurrency * NAPS
        self._say(name := f"drain, {NAP_S * 1000:g} ms sleeps")
        await self._enqueue(self._nap, jobs)
        watch = await self._work_off(jobs)
        return [Sample(name, "% of ideal", jobs, 100 * NAPS * NAP_S / watch.seconds, watch.cpu_us(jobs))]

    async def _trips(self) -> list[Sample]:
        """From a call to its result, one job at a time, with a worker that waits for it."""
        self._say("round trip")
        async with self._app.worker(concurrency=self._plan.concurrency, shutdown_timeout=_SHUTDOWN_S):
            await self._trip()  # the first one also opens the connection that hears of results
            with _Watch() as watch:
                took = sorted([await self._trip() for _ in range(TRIPS)])
        await self._clear()
        p99 = took[math.ceil(0.99 * TRIPS) - 1]
        return [
            Sample("round trip, p50", "ms", TRIPS, statistics.median(took) * 1000, watch.cpu_us(TRIPS)),
            Sample("round trip, p99", "ms", TRIPS, p99 * 1000, None),
        ]

    async def _trip(self) -> float:
        begun = time.perf_counter()
        job = await self._noop.enqueue(self._text)
        self._ids.append(job.id)
        await job.result(timeout=_TRIP_TIMEOUT_S)
        return time.perf_counter() - begun

    async def _enqueue(self, task: Task[Any, Any], jobs: int, *args: str) -> None:
        for first in range(0, jobs, MANY):
            signatures = [task.s(*args) for _ in range(first, min(first + MANY, jobs))]
            self._ids += [job.id for job in await self._app.enqueue_many(signatures)]

    async def _work_off(self, jobs: int) -> _Watch:
        """Let a worker run what waits."""
        self._ran = 0
        async with self._app.worker(concurrency=self._plan.concurrency, shutdown_timeout=_SHUTDOWN_S) as worker:
            with _Watch() as watch:
                await self._drain_while_redis_answers(worker)
        if self._ran < jobs:
            raise BenchFailed(f"{self._ran:,} of {jobs:,} jobs ran: Redis has lost the others (by eviction?)")
        await self._clear()
        return watch

    async def _drain_while_redis_answers(self, worker: Worker) -> None:
        """A worker would wait for Redis for as long as it takes; who measures wants to hear that it has gone."""
        draining = asyncio.ensure_future(worker.drain())
        try:
            while not (await asyncio.wait([draining], timeout=_LOOK_S))[0]:
                await self._app.session().broker.ping()
            await draining
        finally:
            draining.cancel()

    async def _clear(self) -> None:
        """Remove what waits, and the results, so that Redis never holds more than one workload."""
        keys = self._app.keys.queue(next(iter(self._app.config.queues)))
        await self._app.session().broker.unlink([keys.main, keys.jobs, *map(keys.result, self._ids)])
        self._ids.clear()


class _Watch:
    """Takes the time and this process's CPU time of a block."""

    def __enter__(self) -> Self:
        gc.collect()  # not in the middle of what is timed
        self.seconds, self._cpu_s = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter()
        self._cpu_s += time.process_time()

    def cpu_us(self, jobs: int) -> float:
        """Microseconds of CPU time for each of so many jobs."""
        return self._cpu_s * 1e6 / jobs


def _rate(workload: str, jobs: int, watch: _Watch) -> Sample:
    return Sample(workload, "jobs/s", jobs, jobs / watch.seconds, watch.cpu_us(jobs))
