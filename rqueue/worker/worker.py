"""The worker: wires the services and their order of shutdown. It reads like a table of contents.

    keepalive   the heart, the gauge, the control listener
      outbound  the settler; with a result store the recorder, the drainer, the archive
        inbound the fetcher, the executor, the promoter, the ticker, the reaper, the autoscaler,
                the relay

What is inside ends first: nothing more comes in, then everything is settled, then the lease is given up. Around them
all stand the app's lifespan, hooks and resources: there before the worker is known to Redis, closed when it is not.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio
import orjson

from rqueue.broker.broker import Broker
from rqueue.broker.durable import broker_for
from rqueue.client.client import Client
from rqueue.client.resources import ACTIVE, Resources
from rqueue.config import WorkerConfig
from rqueue.errors import BrokerError, ConfigError, StoreError
from rqueue.log import event
from rqueue.policy.autoscale import Autoscale
from rqueue.results.reader import Reader
from rqueue.results.stores import outbox_for
from rqueue.wire.control import LOOK
from rqueue.wire.keys import QueueKeys
from rqueue.worker.archive import Archive
from rqueue.worker.autoscaler import Autoscaler
from rqueue.worker.commands import Commands
from rqueue.worker.control import Control
from rqueue.worker.drainer import Drainer
from rqueue.worker.executor import Executor
from rqueue.worker.fetcher import Fetcher, register
from rqueue.worker.gauge import Gauge
from rqueue.worker.heart import Heart
from rqueue.worker.herald import read
from rqueue.worker.housekeeper import Housekeeper
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.inspection import Inspection
from rqueue.worker.judge import Judge
from rqueue.worker.lease import Lease, this_host
from rqueue.worker.life import Life
from rqueue.worker.observers import Observers
from rqueue.worker.outcome import Interrupted
from rqueue.worker.parent import Nobody, Parent
from rqueue.worker.pools import executor_for
from rqueue.worker.progress import Progress
from rqueue.worker.promoter import Promoter
from rqueue.worker.reaper import Reaper
from rqueue.worker.recorder import Recorder
from rqueue.worker.relay import Relay
from rqueue.worker.schedule import Schedule
from rqueue.worker.settler import Settler
from rqueue.worker.ticker import Ticker

_CANCEL_GRACE_S = 1.0
_LEAVE_S = 5.0
_HURRY_S = 2.0


class Worker:
    """One worker in one event loop.

    Args:
        client: the app.
        config: the settings; its queues are the ones to serve.
        parent: whoever keeps its process.

    Attributes:
        main_thread: runs functions in the main thread, for the pool ``prefork``; set by the process, before it runs.
        is_replaceable: the process ends when a job does not, for another to take its place. False: such a job keeps
            its slot.
        must_be_replaced: it ended because a job did not.
    """

    def __init__(self, client: Client, config: WorkerConfig, parent: Parent | None = None) -> None:
        self._client, self._config, self._parent = client, config, parent or Nobody()
        self._queues = [client.keys.queue(name) for name in config.queues]
        life = Life(config.max_tasks, config.max_memory_bytes, self._parent.spent)
        most = config.concurrency * config.prefetch_multiplier
        self._inflight = Inflight(config.concurrency, most, life, settles_first=config.pool == "solo")
        self._lease = Lease(config.lease_s, self._parent.registering)
        self._stopping = asyncio.Event()
        self._must_hurry = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._ready = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._is_standby = False
        self.main_thread: Pool | None = None
        self.is_replaceable = self.must_be_replaced = False

    @property
    def id(self) -> str:
        """The worker's id now; a new one after a lost lease."""
        return self._lease.worker

    @property
    def has_started(self) -> bool:
        """Whether it came as far as taking jobs."""
        return self._ready.is_set()

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
        if not self._must_hurry.is_set():
            self.stop()
        if self._main is not None:
            await self._main

    def stop(self) -> None:
        """Begin to stop: claim nothing more, give back what has not started, let what runs end.

        A second call does not wait for what runs, and gives it back as well.
        """
        if self._must_hurry.is_set():
            self._stop_now.set()
        self._must_hurry.set()
        self._stopping.set()

    def retire(self) -> None:
        """Begin to stop as :meth:`stop`, without a limit to the time that running jobs take.

        A supervisor has somebody else in its place. A call of :meth:`stop` sets the usual limit.
        """
        self._stopping.set()

    def resize(self, slots: int) -> None:
        """Run so many jobs at once from now on, at least one; running ones go on, also where they are too many.

        Raises:
            ConfigError: a process of this pool runs one job.
        """
        if self._config.pool in ("prefork", "solo") and slots != 1:
            raise ConfigError(f"slots {slots!r}: a process of the pool {self._config.pool!r} runs one job")
        slots = max(1, slots)
        self._inflight.resize(slots, slots * self._config.prefetch_multiplier)
        event(logging.INFO, "worker resized", worker=self.id, slots=slots)

    async def drain(self, *, scheduled: bool = False) -> None:
        """Return when nothing waits or runs in the worker's queues, but what is paused.

        Args:
            scheduled: and nothing is scheduled, but in paused queues and of paused tasks.

        Raises:
            BrokerError: Redis could not be asked, or the worker was stopped meanwhile.
        """
        idle = self._inflight.signals.idle
        while True:
            idle.clear()
            self._fetcher.poke()
            with suppress(StoreError):  # what the database holds back is in no queue
                await self._relay.drained()
            await self._idle_or_ended()
            await self._ends_drained()
            await self._observers.drained()
            claimed = self._inflight.claimed
            left = sum([await self._left(keys, scheduled=scheduled) for keys in list(self._fetcher.served)])
            has_moved = self._inflight.claimed != claimed or self._client.signals.running()  # while it was counted
            if not left and idle.is_set() and not has_moved:
                return
            # What is left runs elsewhere, or is not due yet, or came meanwhile.
            await asyncio.sleep(0.02)

    async def _left(self, keys: QueueKeys, *, scheduled: bool) -> int:
        """How many jobs of a queue are to be drained: those that wait for a resume are not."""
        size = await self._broker.sizes(keys)
        left = size.claimable + size.running
        if scheduled and not size.is_paused:
            left += size.scheduled - (len(await self._broker.parked(keys)) if size.paused_tasks else 0)
        return left

    async def _idle_or_ended(self) -> None:
        idle = asyncio.create_task(self._inflight.signals.idle.wait())
        ended = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([idle, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (idle, ended):
            task.cancel()
        if self._stopping.is_set():
            raise BrokerError("the worker stops: what it drains is not done")

    async def clock_moved(self) -> None:
        """Redis's clock was moved, in a test: what is due now is looked for at once, and the lease is renewed."""
        await self._broker.sync_clock()
        self._schedule.look_now()
        self._look()

    def _look(self) -> None:
        """What may run, or a periodic schedule, has changed: see what there is."""
        self._fetcher.poke()
        self._ticker.look_now()

    async def ready(self) -> None:
        """Return when it works."""
        await self._ready.wait()

    def lease_told(self, worker: str, sent_s: float, is_registered: bool) -> None:
        """The supervisor has renewed the lease of that id, or was told that it is not registered."""
        self._heart.told(worker, sent_s, is_registered)

    def told_of_end(self, told: dict[str, Any]) -> None:
        """The supervisor has settled a job, and its hooks are called here."""
        if self.has_started and self._observers:
            self._observers.settled(*read(told, self._client.keys, self._client.keyring))

    async def run(self) -> None:
        """Work until :meth:`stop`.

        Raises:
            BrokerError: Redis could not be reached to begin with.
            StartupFailed: the app's lifespan, a startup hook or a resource failed.
            SchemaMismatch: the tables of the result store, or of the outbox, are not those that this version knows.
            ConfigError: resources need each other in a circle; or the pool is ``prefork``, and the process gave no
                main thread.
        """
        self._wire()
        token = ACTIVE.set(self._resources)
        self._client.workers.add(self)
        self._client.signals.worker_init.send(self)
        try:
            await self._broker.open()  # first: while Redis is away nothing else is opened, again and again
            if self._archive is not None:
                await self._archive.open()
            if self._has_own_outbox():
                await self._relay.open()
            if await self._open_resources():
                await self._serve()
        finally:
            self._client.workers.discard(self)
            ACTIVE.reset(token)
            self._executor.close()
            self._progress.close()
            try:
                await self._close_resources()
            finally:
                await self._close_connections()
        event(logging.INFO, "worker stopped", worker=self.id)

    def _has_own_outbox(self) -> bool:
        """In the store's own database it was looked at its tables already."""
        results = self._client.config.results
        return results is not None and results.outbox not in (None, results.url)

    async def _serve(self) -> None:
        await register(self._broker, self._queues, self._lease)
        self._fetcher.fetched_ms = self._broker.clock.now_ms()
        await self._warn_about_eviction()
        event(logging.INFO, "worker started", worker=self.id, queues=",".join(self._config.queues), **self._size())
        async with anyio.create_task_group() as keepalive:
            keepalive.start_soon(self._heart.run)
            keepalive.start_soon(self._gauge.run)
            keepalive.start_soon(self._control.run)
            async with anyio.create_task_group() as outbound:
                for outgoing in self._outbound():
                    outbound.start_soon(outgoing.run)
                async with anyio.create_task_group() as inbound:
                    self._ready.set()
                    if await self._turn_has_come():
                        for service in self._inbound():
                            inbound.start_soon(service.run)
                        self._client.signals.worker_ready.send(self)
                        await self._stopping.wait()
                        await self._finish()
                    inbound.cancel_scope.cancel()
                await self._settle_all()
                outbound.cancel_scope.cancel()
            await self._end_hooks()
            await self._leave()
            keepalive.cancel_scope.cancel()

    async def _turn_has_come(self) -> bool:
        """Wait until the worker may claim; false when it is stopped before that."""
        turn = asyncio.create_task(self._parent.turn())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([turn, stop], timeout=0)
        self._is_standby = not turn.done()
        await asyncio.wait([turn, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in (turn, stop):
            task.cancel()
        self._is_standby = False
        return not self._stopping.is_set()

    def _inbound(
        self,
    ) -> tuple[Fetcher | Executor | Promoter | Ticker | Reaper | Autoscaler | Relay | Housekeeper, ...]:
        services = self._fetcher, self._executor, self._promoter, self._ticker, self._reaper, self._autoscaler
        keepers = () if self._housekeeper is None else (self._housekeeper,)
        return *services, self._relay, *keepers

    def _outbound(self) -> tuple[Settler | Recorder | Drainer | Archive, ...]:
        if self._archive is None or self._recorder is None or self._drainer is None:
            return (self._settler,)
        return self._settler, self._recorder, self._drainer, self._archive

    def _wire(self) -> None:
        """Make the services; they know the broker, the table of claimed jobs and its events, not each other."""
        client, config, inflight, lease, queues = self._client, self._config, self._inflight, self._lease, self._queues
        limits, signals = client.config.limits, inflight.signals
        # Durable: a job that moves to another node of a cluster is gone from here once it is confirmed there.
        self._broker = broker = broker_for(client.endpoint, client.keys, limits)
        self._judge = judge = Judge(limits, config, broker.clock.now_ms, client.keyring)
        self._schedule = schedule = Schedule(signals.promote)
        # In solo the loop stands still for as long as a job's function runs: that says nothing.
        stall_s = math.inf if config.pool == "solo" else config.max_loop_stall_s
        self._heart = Heart(client.endpoint, queues, lease, signals, self._card, stall_s, self._is_renewed_by_parent)
        self._gauge = Gauge(inflight, self._parent, self._card, self._spent)
        self._observers = observers = Observers(client.hooks, client.signals, client.tasks, client.keyring)
        self._fetcher = Fetcher(broker, queues, inflight, lease, schedule, judge, client.config, config, observers)
        self._record()
        self._settler = Settler(broker, inflight, limits, judge, observers=observers, recorder=self._recorder)
        pool = executor_for(config, inflight.slots, self.main_thread)
        self._progress = self._progress_of(client, broker, judge)
        self._executor = Executor(
            broker,
            client.tasks,
            inflight,
            lease,
            judge,
            limits,
            config,
            pool,
            self._has_stuck,
            self._parent,
            self._progress,
            observers,
        )
        self._promoter = Promoter(broker, queues, schedule, signals.promote)
        self._ticker = Ticker(broker, client, self._fetcher.served, lease, config.lease_s)
        self._reaper = Reaper(broker, queues, client.tasks, judge, limits, config, observers)
        self._relay = Relay(broker, outbox_for(client.config.results, client.keys.namespace), limits.max_message_bytes)
        self._resources = Resources(client)
        scale = Autoscale(*config.autoscale) if config.autoscale is not None else None
        self._autoscaler = Autoscaler(broker, self._fetcher.served, inflight, scale, self.resize)
        upward = self._parent.ask if self._parent.replaces else None
        self._control = Control(broker, lease, self._verbs(), upward, self._passed_on(), client.keyring)

    def _record(self) -> None:
        """What an app with a result store has beside the others."""
        client, broker, clock, results = self._client, self._broker, self._broker.clock, self._client.config.results
        self._archive: Archive | None = None
        self._recorder: Recorder | None = None
        self._drainer: Drainer | None = None
        self._housekeeper: Housekeeper | None = None
        if results is None:
            return
        # Its own: the app's goes on when this worker ends, and this one when the app is closed around it.
        store = client.session().new_store()
        self._archive = archive = Archive(store, clock.now_ms)
        self._housekeeper = Housekeeper(store, results)
        reader = Reader(client.tasks.shown, client.keyring, results.args_bytes, clock.now_ms)
        self._recorder = Recorder(broker, self._inflight, archive, reader, results.spool_bytes)
        served, beat_s = self._fetcher.served, self._config.heartbeat_s
        self._drainer = Drainer(broker, served, self._lease, archive, reader, results.spool_bytes, beat_s)

    def _progress_of(self, client: Client, broker: Broker, judge: Judge) -> Progress:
        if self._config.pool == "solo":  # while a function runs this loop stands still
            return Progress(judge, lambda: client.session().broker, lambda write: client.portal().spawn(write))
        loop = asyncio.get_running_loop()
        return Progress(judge, lambda: broker, lambda write: asyncio.run_coroutine_threadsafe(write(), loop))

    def _is_renewed_by_parent(self) -> bool:
        """In the heart's thread. A supervisor that stands still is not relied on: it renews thrice in a heartbeat."""
        return self._parent.keeps_lease and self._lease.age_s < self._config.heartbeat_s * 2 / 3

    async def _open_resources(self) -> bool:
        """Start what the app shares; false when the worker is stopped meanwhile, which need not wait for it."""
        starting = asyncio.create_task(self._resources.start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            starting.cancel()
        await asyncio.wait([starting])
        if starting.cancelled():
            return False
        starting.result()
        return True

    async def _close_resources(self) -> None:
        """Close what the app shares; it is given as much time as running jobs are."""
        closing = asyncio.create_task(self._resources.close())
        await self._in_time(closing, max(self._config.shutdown_timeout_s, _LEAVE_S))
        await asyncio.wait([closing], timeout=_CANCEL_GRACE_S)

    def _has_stuck(self, job: ClaimedJob) -> None:
        """A job does not end though its time is up: it is settled, and only the end of the process ends it."""
        if not self.is_replaceable:
            event(logging.ERROR, "job does not end, it keeps its slot", **describe(job))
            return
        event(logging.ERROR, "job does not end, the process must be replaced", **describe(job))
        self.must_be_replaced = True
        self.stop()
        self.stop()

    def _verbs(self) -> dict[str, Callable[..., Any]]:
        """What an operator can ask of this worker."""
        client, inflight, fetcher, executor = self._client, self._inflight, self._fetcher, self._executor
        inspection = Inspection(
            self._broker,
            client.config,
            self._config,
            client.tasks,
            inflight,
            self._lease,
            self._heart,
            self._settler,
            fetcher,
            executor,
            self._recorder,
            self._drainer,
        )
        serves = self._parent.serves
        commands = Commands(client.keys, client.tasks, inflight, fetcher, executor, self.resize, self.stop, serves)
        return {**inspection.verbs(), **commands.verbs(), LOOK: self._look}

    def _passed_on(self) -> frozenset[str]:
        """Verbs that are the supervisor's: a child that stops is replaced, and one of prefork's is one slot."""
        pool = ("pool_grow", "pool_shrink") if self._config.pool == "prefork" else ()
        return frozenset(("shutdown", *pool))

    async def _finish(self) -> None:
        """Claimed and unstarted jobs go back first; then what runs may end, as long as it is given time."""
        event(logging.INFO, "worker stopping", worker=self.id, running=self.running, held=self.held)
        how = "cold" if self._stop_now.is_set() else "warm"
        self._client.signals.worker_shutting_down.send(self, sig=None, how=how, exitcode=0)
        await self._in_time(asyncio.gather(self._executor.stop(), self._fetcher.stop(), self._relay.stop()), math.inf)
        self._give_back(self._inflight.take_held())
        await self._wait_for_running(math.inf, self._must_hurry)
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

    async def _wait_for_running(self, timeout_s: float, end: asyncio.Event | None = None) -> None:
        """Wait until nothing runs, or the time is up, or that happens: unless it is named, a second stop."""
        tasks = [job.task for job in self._inflight.of(Phase.RUNNING) if job.task is not None]
        if not tasks:
            return
        now = asyncio.create_task((end or self._stop_now).wait())
        everything = asyncio.ensure_future(asyncio.wait(tasks))
        timeout = None if timeout_s == math.inf else timeout_s
        await asyncio.wait([now, everything], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
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
        drained = asyncio.ensure_future(self._ends_drained())
        await self._in_time(drained, max(self._config.shutdown_timeout_s, _LEAVE_S))
        if not drained.done() or drained.cancelled():
            event(logging.ERROR, "stopped without settling", worker=self.id, jobs=len(self._inflight))

    async def _ends_drained(self) -> None:
        """Return when what has ended is recorded, where that is to be, and settled."""
        if self._recorder is not None:
            await self._recorder.drained()
        await self._settler.drained()

    async def _close_connections(self) -> None:
        try:
            if self._archive is not None:
                await self._archive.close()
        except StoreError as exc:
            event(logging.WARNING, "result store was left without saying so", error=str(exc))
        finally:
            await self._broker.close()

    async def _end_hooks(self) -> None:
        """Hooks and observers are given as much time as running jobs are."""
        self._client.signals.worker_shutdown.send(self)
        if self._observers:
            await self._in_time(asyncio.ensure_future(self._observers.drained()), self._config.shutdown_timeout_s)
            self._observers.abandon()

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

    def _spent(self) -> None:
        """Nothing may be started any more: a supervisor replaces the process, and without one the worker ends."""
        if not self._parent.replaces and not self._stopping.is_set():
            event(logging.INFO, "worker has done its share", worker=self.id, jobs=self._inflight.life.started)
            self.stop()

    def _size(self) -> dict[str, Any]:
        return {
            "concurrency": self._inflight.slots,
            "most_held": self._inflight.most,
            "tasks": len(self._client.tasks),
        }

    def _card(self) -> bytes:
        """What the worker says of itself at each beat; moments are ms on Redis's clock."""
        card = {**this_host(), **self._size(), "queues": [keys.name for keys in list(self._fetcher.served)]}
        return orjson.dumps(
            {
                **card,
                "state": self._state(),
                "running": self.running,
                "held": self.held,
                "done": self._settler.total,
                "stalls": self._heart.stalls,
                "heartbeat": self._config.heartbeat_s,
                "block": self._config.longest_block_s,
                "beat": self._broker.clock.now_ms(),
                "clock": self._broker.clock.apart_ms,
                "fetched": self._fetched_ms(),
            }
        )

    def _state(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        return "standby" if self._is_standby else "running"

    def _fetched_ms(self) -> int | None:
        """When it last fetched, or had no reason to: now, while it may not, or while its one job stops the loop."""
        is_full = self._config.pool in ("prefork", "solo") and self.running > 0
        return self._broker.clock.now_ms() if is_full or self._is_standby else self._fetcher.fetched_ms
