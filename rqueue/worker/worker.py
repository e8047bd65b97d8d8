"""The worker: wires the services and their order of shutdown. It reads like a table of contents.

    keepalive   the heart
      outbound  the settler
        inbound the fetcher, the executor, the promoter, the reaper

What is inside ends first: nothing more comes in, then everything is settled, then the lease is given up.
"""

from __future__ import annotations

import asyncio
import logging
import math
from types import TracebackType
from typing import Any, Self

import anyio
import orjson

from rqueue.broker.broker import Broker
from rqueue.client.client import Client
from rqueue.config import WorkerConfig
from rqueue.errors import BrokerError
from rqueue.log import event
from rqueue.worker.executor import Executor
from rqueue.worker.fetcher import Fetcher, register
from rqueue.worker.heart import Heart
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase
from rqueue.worker.judge import Judge
from rqueue.worker.lease import Lease, this_host
from rqueue.worker.outcome import Interrupted
from rqueue.worker.promoter import Promoter
from rqueue.worker.reaper import Reaper
from rqueue.worker.schedule import Schedule
from rqueue.worker.settler import Settler

_CANCEL_GRACE_S = 1.0
_LEAVE_S = 5.0
_HURRY_S = 2.0


class Worker:
    """One worker in one event loop.

    Args:
        client: the app.
        config: the settings; its queues are the ones to serve.
    """

    def __init__(self, client: Client, config: WorkerConfig) -> None:
        self._client, self._config = client, config
        self._queues = [client.keys.queue(name) for name in config.queues]
        self._inflight = Inflight(config.concurrency, config.concurrency * config.prefetch_multiplier)
        self._lease = Lease(config.lease_s)
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._ready = asyncio.Event()
        self._main: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The worker's id now; a new one after a lost lease."""
        return self._lease.worker

    @property
    def running(self) -> int:
        """Jobs that run now."""
        return self._inflight.running

    @property
    def held(self) -> int:
        """Jobs that are claimed and have not started."""
        return self._inflight.held

    async def __aenter__(self) -> Self:
        self._main = asyncio.create_task(self.run(), name="rqueue worker")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait([self._main, ready], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:  # given up on: it must not go on unseen
            self._main.cancel()
            await asyncio.wait([self._main])
            raise
        finally:
            ready.cancel()
        if self._main.done():
            await self._main  # it could not start: here is why
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._stopping.is_set():
            self.stop()
        if self._main is not None:
            await self._main

    def stop(self) -> None:
        """Begin to stop: claim nothing more, give back what has not started, let what runs end.

        A second call does not wait for what runs, and gives it back as well.
        """
        if self._stopping.is_set():
            self._stop_now.set()
        self._stopping.set()

    async def drain(self, *, scheduled: bool = False) -> None:
        """Return when nothing waits or runs in the worker's queues.

        Args:
            scheduled: and nothing is scheduled.

        Raises:
            BrokerError: Redis could not be asked, or the worker was stopped meanwhile.
        """
        idle = self._inflight.signals.idle
        while True:
            idle.clear()
            self._fetcher.poke()
            await self._idle_or_ended()
            await self._settler.drained()
            sizes = [await self._broker.sizes(keys) for keys in self._queues]
            is_empty = not any(sum(size.waiting) + size.running + size.scheduled * scheduled for size in sizes)
            if is_empty and idle.is_set():  # nothing was claimed here while the sizes were asked
                return
            # What is left runs elsewhere, or is not due yet, or came meanwhile.
            await asyncio.sleep(0.02)

    async def _idle_or_ended(self) -> None:
        idle = asyncio.create_task(self._inflight.signals.idle.wait())
        ended = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([idle, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (idle, ended):
            task.cancel()
        if self._stopping.is_set():
            raise BrokerError("the worker stops: what it drains is not done")

    async def run(self) -> None:
        """Work until :meth:`stop`.

        Raises:
            BrokerError: Redis could not be reached to begin with.
        """
        self._wire()
        try:
            await self._broker.open()
            await register(self._broker, self._queues, self._lease)
            await self._warn_about_eviction()
            event(logging.INFO, "worker started", worker=self.id, queues=",".join(self._config.queues), **self._size())
            async with anyio.create_task_group() as keepalive:
                keepalive.start_soon(self._heart.run)
                async with anyio.create_task_group() as outbound:
                    outbound.start_soon(self._settler.run)
                    async with anyio.create_task_group() as inbound:
                        for service in (self._fetcher, self._executor, self._promoter, self._reaper):
                            inbound.start_soon(service.run)
                        self._ready.set()
                        await self._stopping.wait()
                        await self._finish()
                        inbound.cancel_scope.cancel()
                    await self._settle_all()
                    outbound.cancel_scope.cancel()
                await self._leave()
                keepalive.cancel_scope.cancel()
        finally:
            self._executor.close()
            await self._broker.close()
        event(logging.INFO, "worker stopped", worker=self.id)

    def _wire(self) -> None:
        """Make the services; they know the broker, the table of claimed jobs and its events, not each other."""
        client, config, inflight, lease, queues = self._client, self._config, self._inflight, self._lease, self._queues
        limits, signals = client.config.limits, inflight.signals
        self._broker = broker = Broker(client.endpoint, client.keys)
        self._judge = judge = Judge(limits, config, broker.clock.now_ms)
        schedule = Schedule(signals.promote)
        self._heart = Heart(client.endpoint, queues, lease, signals, self._card, config.max_loop_stall_s)
        self._settler = Settler(broker, inflight, limits, judge)
        self._fetcher = Fetcher(broker, queues, inflight, lease, schedule, judge, client.config, config)
        self._executor = Executor(broker, client.tasks, inflight, lease, judge, limits)
        self._promoter = Promoter(broker, queues, schedule, signals.promote)
        self._reaper = Reaper(broker, queues, client.tasks, judge, limits, config)

    async def _finish(self) -> None:
        """Claimed and unstarted jobs go back first; then what runs may end, as long as it is given time."""
        event(logging.INFO, "worker stopping", worker=self.id, running=self.running, held=self.held)
        await self._in_time(asyncio.gather(self._executor.stop(), self._fetcher.stop()), math.inf)
        self._give_back(self._inflight.take_held())
        await self._wait_for_running(self._config.shutdown_timeout_s)
        for job in self._inflight.of(Phase.RUNNING):
            job.is_interrupted = True
            if job.task is not None:
                job.task.cancel()
        await self._wait_for_running(_CANCEL_GRACE_S)
        # Threads, and coroutines that ignore their cancellation: another worker runs them, and their end is refused.
        self._give_back(self._inflight.of(Phase.RUNNING))

    def _give_back(self, jobs: list[ClaimedJob]) -> None:
        for job in jobs:
            self._inflight.settle(job, self._judge.decide(job, Interrupted()))

    async def _wait_for_running(self, timeout_s: float) -> None:
        """Wait until nothing runs, or the time is up, or a second stop comes."""
        tasks = [job.task for job in self._inflight.of(Phase.RUNNING) if job.task is not None]
        if not tasks:
            return
        now = asyncio.create_task(self._stop_now.wait())
        everything = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait([now, everything], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        everything.cancel()

    async def _in_time(self, future: asyncio.Future[Any], timeout_s: float) -> None:
        """Wait for it, but not longer than that, and after a second stop only as long as leaving may take."""
        hurry = asyncio.create_task(self._stop_now.wait())
        timeout = None if timeout_s == math.inf else timeout_s
        await asyncio.wait([future, hurry], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done() and not future.done():
            await asyncio.wait([future], timeout=_HURRY_S)
        hurry.cancel()
        future.cancel()

    async def _settle_all(self) -> None:
        """Wait until all that ended is settled; if Redis stays away, the lease runs out and a reaper takes over."""
        drained = asyncio.ensure_future(self._settler.drained())
        await self._in_time(drained, max(self._config.shutdown_timeout_s, _LEAVE_S))
        if not drained.done() or drained.cancelled():
            event(logging.ERROR, "stopped without settling", worker=self.id, jobs=len(self._inflight))

    async def _leave(self) -> None:
        """Give up the lease; what is still in the list is the reapers'."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                for keys in self._queues:
                    if not await self._broker.leave(keys, self.id):
                        event(logging.WARNING, "left jobs to the reapers", worker=self.id, queue=keys.name)
        except (TimeoutError, BrokerError) as exc:
            event(logging.WARNING, "left without saying so", worker=self.id, error=str(exc))

    async def _warn_about_eviction(self) -> None:
        policy = await self._broker.eviction_policy()
        if policy not in (None, "noeviction"):
            event(
                logging.CRITICAL,
                "redis may throw jobs away: set maxmemory-policy to noeviction",
                policy=policy,
                url=self._client.endpoint.shown,
            )

    def _size(self) -> dict[str, int]:
        return {
            "concurrency": self._config.concurrency,
            "most_held": self._inflight.most,
            "tasks": len(self._client.tasks),
        }

    def _card(self) -> bytes:
        """What the worker says of itself at each beat."""
        card = {**this_host(), **self._size(), "queues": list(self._config.queues)}
        return orjson.dumps({**card, "running": self.running, "held": self.held})
