"""Starts held jobs while there are slots. It alone keeps that a job is marked as started before it starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from rqueue.broker.broker import Broker
from rqueue.client.options import TaskOptions
from rqueue.client.registry import Registry
from rqueue.client.task import Task
from rqueue.config import Limits, WorkerConfig
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.log import LOGGER, event
from rqueue.policy.clock import elapsed_s
from rqueue.policy.rate import Rates
from rqueue.policy.redelivery import is_suspect
from rqueue.wire.message import Call
from rqueue.wire.record import Failure
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.judge import Judge
from rqueue.worker.lease import Lease
from rqueue.worker.limits import Alarm, Limiter, TimeLimits, cancel, limits_of
from rqueue.worker.observers import Observers
from rqueue.worker.outcome import (
    Ack,
    Defer,
    Expired,
    Failed,
    Moving,
    Outcome,
    Rejected,
    Release,
    Revoked,
    Settlement,
    Snoozed,
    Succeeded,
    Track,
    Unknown,
    Unreadable,
    WantsRetry,
)
from rqueue.worker.parent import Nobody, Parent
from rqueue.worker.pausing import is_paused, parked
from rqueue.worker.perform import failure_of, perform, prepare
from rqueue.worker.pools import Inline, executor_for
from rqueue.worker.progress import Progress

_PAUSE_S = 1.0


class Executor:
    """Runs jobs.

    Args:
        broker: marks jobs as started.
        registry: the tasks.
        inflight: what is claimed.
        lease: nothing starts while it may have run out.
        judge: what becomes of an outcome.
        limits: the largest value that is stored.
        config: the worker's settings: how long jobs may run.
        pool: where plain functions run; closed with the executor.
        on_stuck: called with a job that was settled because its time was up, and does not end.
        parent: told when jobs with a hard time limit begin and end, and of jobs that have cost a worker.
        progress: writes what jobs say of their progress; default: nothing is written.
        observers: told of each run's beginning and end.

    Attributes:
        overrides: task name -> (soft, hard) time limit in seconds, None for none; they go before every other.
        rates: how many jobs of a task may start in a time.
    """

    def __init__(
        self,
        broker: Broker,
        registry: Registry,
        inflight: Inflight,
        lease: Lease,
        judge: Judge,
        limits: Limits,
        config: WorkerConfig,
        pool: Pool,
        on_stuck: Callable[[ClaimedJob], None],
        parent: Parent | None = None,
        progress: Progress | None = None,
        observers: Observers | None = None,
    ) -> None:
        self._observers = observers
        self._progress = progress or Progress(judge)
        self._broker, self._registry, self._inflight, self._lease = broker, registry, inflight, lease
        self._judge, self._limits, self._config, self._pool, self._on_stuck = judge, limits, config, pool, on_stuck
        self.overrides: dict[str, tuple[float | None, float | None]] = {}
        self._is_inline = isinstance(pool, Inline)
        self._alarm = Alarm() if self._is_inline else None
        self._parent = parent or Nobody()
        self._limiter = Limiter(self._parent, self._alarm)
        self.rates = Rates()
        self._thread_count = max(inflight.slots, config.autoscale[0] if config.autoscale is not None else 0)
        self._marks: set[asyncio.Task[bool]] = set()
        self._is_stopping = False
        self._has_stopped = asyncio.Event()

    async def run(self) -> None:
        """Start what can start, until it is stopped."""
        wake = self._inflight.signals.execute
        while not self._is_stopping:
            await wake.wait()
            wake.clear()
            # What may not start because the lease is too old starts when the heart has renewed it, and wakes us.
            await self.tick()
        self._has_stopped.set()

    async def stop(self) -> None:
        """Return when nothing more is started; what runs goes on."""
        self._is_stopping = True
        self._inflight.signals.execute.set()
        await self._has_stopped.wait()

    async def tick(self) -> int:
        """Start what can start now; how many did."""
        self._fit_threads()
        batch = self._startable()
        if not batch:
            return 0
        try:
            await self._mark(batch)
        except BrokerError:
            # Not marked: if it killed us, nobody would be charged. It starts when Redis can be told.
            for job in batch:
                self._put_back(job)
            asyncio.get_running_loop().call_later(_PAUSE_S, self._inflight.signals.execute.set)
            return 0
        loop = asyncio.get_running_loop()
        for job in batch:
            job.task = loop.create_task(self._run_job(job), name=f"rqueue job {job.id}")
        return len(batch)

    def close(self) -> None:
        """Take no more work; threads that still run are left to themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._alarm is not None:
            self._alarm.close()

    def cancel(self, job_id: str, queue: str | None = None, *, terminate: bool = False) -> bool:
        """End a job as REVOKED, one that runs by an exception inside it; false when it is neither held nor runs here.

        What cannot be interrupted goes on, and is REVOKED when it ends; or, to terminate it, a second later, and then
        the process is replaced, as after a hard time limit.

        Args:
            job_id: its id.
            queue: its queue; None is any.
            terminate: do not wait for its end.
        """
        here = [*self._inflight.of(Phase.RUNNING), *self._inflight.of(Phase.HELD)]
        job = next((each for each in here if each.id == job_id and queue in (None, each.keys.name)), None)
        if job is None:
            return False
        if job.phase is Phase.HELD:
            self._inflight.settle(job, self._judge.decide(job, Revoked()))
            self._inflight.signals.fetch.set()
            return True
        prepared = prepare(job, self._registry, job.started_ms or 0)
        give_up = partial(self._give_up, job, *prepared) if terminate and isinstance(prepared, tuple) else None
        if not isinstance(job.verdict, Revoked) or terminate:
            cancel(job, give_up)
        return True

    def _fit_threads(self) -> None:
        """Have a thread for each slot; where there are too few, a larger pool takes over, and the old one finishes."""
        if isinstance(self._pool, ThreadPoolExecutor) and self._inflight.slots > self._thread_count:
            self._pool.shutdown(wait=False)
            self._thread_count = self._inflight.slots
            self._pool = executor_for(self._config, self._thread_count, None)

    def _startable(self) -> list[ClaimedJob]:
        """Take slots for the jobs that may start, the most urgent first."""
        inflight = self._inflight
        if self._is_stopping or not self._lease.may_start():
            return []
        batch = inflight.begin_unsuspected()
        while inflight.idle_slots > 0 and (job := inflight.exclusive or inflight.peek()) is not None:
            if inflight.exclusive is None and is_suspect(job.message.header.losses):
                self._clear_the_way(job)
            if inflight.exclusive is not None and (inflight.running or job.phase is not Phase.HELD):
                break  # it waits until nothing else runs, and nothing overtakes it
            inflight.begin(job)
            if job.message.header.losses:
                self._parent.questioned(job, inflight.question_ends_s)
            batch.append(job)
        return batch

    def _clear_the_way(self, suspect: ClaimedJob) -> None:
        """A job that has cost workers runs with nothing else in the process: what is held goes to other workers."""
        self._inflight.exclusive = suspect
        for job in self._inflight.take_held(but=suspect):
            self._inflight.settle(job, Release())
        self._inflight.signals.fetch.set()  # what a block still brings is given back, and the blocks end

    async def _mark(self, batch: list[ClaimedJob]) -> None:
        """Mark as started; returns when the operating system has the command, not when Redis has answered.

        If we die after this line, the command still arrives, and the job is charged. If we die before, the job has
        not started. To wait for the reply would cost each job a round trip.
        """
        groups: dict[tuple[int, str], list[ClaimedJob]] = {}
        for job in batch:
            groups.setdefault((id(job.keys), job.worker), []).append(job)
        for (_, worker), jobs in groups.items():
            mark = self._broker.start(jobs[0].keys, worker, [job.id for job in jobs])
            self._marks.add(mark)
            mark.add_done_callback(self._marked)
        await self._broker.written()

    def _marked(self, mark: asyncio.Task[bool]) -> None:
        """A lost reply to a mark changes nothing: the settle that follows tells whether the claim still stands."""
        self._marks.discard(mark)
        if not mark.cancelled() and (error := mark.exception()) is not None:
            event(logging.DEBUG, "start mark not confirmed", worker=self._lease.worker, error=str(error))

    def _put_back(self, job: ClaimedJob) -> None:
        """A job that took a slot and may not start."""
        self._inflight.put_back(job)
        if job.worker != self._lease.worker:
            self._inflight.gone(job)  # the lease was lost meanwhile: it is no longer ours to start

    async def _run_job(self, job: ClaimedJob) -> None:
        """Run a job; an error of our own ends it as well: no slot is lost, and no claim is renewed for ever."""
        try:
            if (ready := self._ready(job)) is None:
                return
            call, task = ready
            options = task.defaults
            # Most jobs have nothing to tell Redis before they begin.
            must_tell = job.unique or options.track_started or not options.acks_late
            if must_tell and not await self._tell_redis(job, call, options):
                return
            self._tell(job, call, task)
            limits = limits_of(call, options, self._config, self.overrides)
            if limits is None:
                outcome = await perform(job, call, task, self._pool, self._limits.max_message_bytes)
            else:
                outcome = await self._perform_within(limits, job, call, task)
            self._end(job, outcome, call, task)
        except asyncio.CancelledError:
            if job.verdict is None:
                raise  # at shutdown, which gives back what runs
            self._end(job, job.verdict, None, None)  # cancelled before its function began, while Redis was asked
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is about this job
            fields = describe(job) | {"error": repr(exc)}
            event(logging.CRITICAL, "running a job failed in the worker itself", **fields)
            if job.phase is Phase.RUNNING:
                self._inflight.end(job, self._judge.failed(job, failure_of(exc), "failed"))
        finally:
            # Its context knows the job: a circle that only the collector could open, at a third of a worker's time.
            job.task = None

    def _ready(self, job: ClaimedJob) -> tuple[Call, Task[Any, Any]] | None:
        """A started job's call and task; None when it does not run, which is seen to."""
        job.started_s, lease = elapsed_s(), self._lease
        # We may have stood still since the batch was begun, for so long that others have run it. One look for each job:
        # what has begun after this line, and is frozen, runs twice.
        if (job.started_s >= lease.starts_until_s or lease.is_lost or job.worker != lease.worker) and not job.verdict:
            self._put_back(job)
            return None
        job.started_ms = self._judge.now_ms()
        prepared = prepare(job, self._registry, job.started_ms)
        if isinstance(prepared, tuple):
            job.seen["task"] = prepared[1].name
        if (later := self._not_now(job, prepared)) is not None:
            self._inflight.put_off(job, later)
            return None
        self._inflight.life.confirm()
        if isinstance(prepared, tuple):
            return prepared
        self._end(job, prepared, None, None)
        return None

    def _tell(self, job: ClaimedJob, call: Call, task: Task[Any, Any]) -> None:
        """Tell those here that it runs."""
        if task.is_bound:
            job.report = self._progress.reporter(job, call)
        if self._observers:
            self._observers.started(job, call, task)
        if LOGGER.isEnabledFor(logging.DEBUG):
            event(logging.DEBUG, "job started", **describe(job))

    async def _tell_redis(self, job: ClaimedJob, call: Call, options: TaskOptions) -> bool:
        """Tell Redis what it must know before the function begins; false when it does not run, which is seen to."""
        if job.unique and job.unique[0] == "start" and (later := await self._unlock(job, job.unique[1])) is not None:
            self._inflight.put_off(job, later)
            return False
        if not options.acks_late and not await self._settle_early(job, call):
            self._forget(job)
            return False
        if options.track_started and options.acks_late:
            noted = self._inflight.note(job, Track(self._judge.started(job, call)))
            if self._is_inline:
                await noted  # the loop stands still while the function runs
        return True

    async def _perform_within(self, limits: TimeLimits, job: ClaimedJob, call: Call, task: Task[Any, Any]) -> Outcome:
        largest, is_soft = self._limits.max_message_bytes, limits.soft_s is not None
        with self._limiter.limiting(job, limits, partial(self._give_up, job, call, task)):
            return await perform(job, call, task, self._pool, largest, is_soft=is_soft)

    def _not_now(self, job: ClaimedJob, prepared: tuple[Call, Task[Any, Any]] | Outcome) -> Settlement | None:
        """What becomes of a job that may not run: it is cancelled, its task is paused or has been started too often."""
        if job.verdict is not None:  # since it has its slot: nothing was there yet that could be interrupted
            job.started_ms = None
            return self._judge.decide(job, job.verdict)
        if self._inflight.paused_tasks and is_paused(prepared, self._inflight.paused_tasks.get(job.keys, frozenset())):
            job.seen["paused"] = True
            return parked(job)
        if not self.rates or not isinstance(prepared, tuple):
            return None
        name = prepared[1].name
        if (wait_s := self.rates.wait_s(name, job.started_s)) > 0:
            job.seen["rate_limit"] = self.rates.text(name)
            return Defer(job.message.changed(id=job.id), wait_s)
        return None

    async def _unlock(self, job: ClaimedJob, lock: str) -> Settlement | None:
        """Give up the lock of a job that is unique until its start: what is enqueued from now on runs after it began.

        When Redis cannot be asked the job does not start here, for a call during its run would be taken for this one:
        then it is put off. If we die after this, the job runs again without its lock.
        """
        try:
            await self._broker.unlock(job.keys, [(lock, job.id)], if_ended=False)
        except BrokerError as exc:
            event(logging.WARNING, "unlocking waits for redis", **describe(job), error=str(exc))
            if isinstance(exc, BrokerUnavailable):
                return Release()
            return Defer(job.message.changed(id=job.id), _PAUSE_S)  # refused: it would be claimed, and refused, at once
        return None

    async def _settle_early(self, job: ClaimedJob, call: Call) -> bool:
        """Take the job out of the processing list before it starts; false when another worker owns it."""
        noted = self._inflight.note(job, Ack(self._judge.started(job, call), "86400"))
        try:
            job.is_settled_early = await asyncio.shield(noted)
        except asyncio.CancelledError:
            with suppress(asyncio.CancelledError):  # how it is settled depends on what has been sent
                await asyncio.wait([noted])
            job.is_settled_early = noted.done() and noted.result()
            raise
        return job.is_settled_early

    def _give_up(self, job: ClaimedJob, call: Call, task: Task[Any, Any]) -> None:
        """Settle a job that was interrupted and has not ended; what it still does is nobody's affair."""
        if job.phase is not Phase.RUNNING:
            return
        assert job.verdict is not None
        job.seen |= _seen(job.verdict)
        settlement = self._judge.decide(job, job.verdict, call, task.defaults)
        if self._observers:
            self._observers.ended(job, job.verdict, settlement, call)
        self._inflight.give_up(job, settlement)
        self._on_stuck(job)

    def _end(self, job: ClaimedJob, outcome: Outcome, call: Call | None, task: Task[Any, Any] | None) -> None:
        job.run = None
        if job.phase is not Phase.RUNNING:
            self._inflight.ended_late(job)
            return  # given back, given up on or reaped while it ran: there is nothing to settle
        if job.verdict is not None:
            outcome = _judged(job.verdict, outcome)
        options = (task.defaults,) if task is not None else ()
        if not isinstance(outcome, Succeeded):
            job.seen |= _seen(outcome)
        settlement = self._judge.decide(job, outcome, call, *options)
        if self._observers:
            self._observers.ended(job, outcome, settlement, call)
        self._inflight.end(job, settlement)

    def _forget(self, job: ClaimedJob) -> None:
        self._inflight.running -= 1
        self._inflight.gone(job)
        self._inflight.signals.execute.set()


def _judged(verdict: Outcome, outcome: Outcome) -> Outcome:
    """The verdict; where the task was at the time is told by what it raised."""
    if isinstance(verdict, Failed) and isinstance(outcome, Failed):
        verdict.error.__context__ = outcome.error
        return Failed(verdict.error, failure_of(verdict.error))
    return verdict


def _seen(outcome: Outcome) -> dict[str, Any]:
    """What log lines say of an outcome that is no success."""
    match outcome:
        case Failed(_, failure) | WantsRetry(_, Failure() as failure) | Rejected(failure):
            return {"error": f"{failure.type}: {failure.message}"}
        case Snoozed(delay_s):
            return {"snooze": delay_s}
        case Moving(call, to):
            return {"task": call.task, "to": to.queue}
        case Unknown(task):
            return {"task": task, "error": "no task of that name is known here"}
        case Unreadable(_, text):
            return {"error": text}
        case Expired():
            return {"error": "expired"}
        case Revoked():
            return {"error": "cancelled"}
    return {}
