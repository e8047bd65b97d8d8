"""The only service that writes how jobs ended. What gathers while a batch is under way leaves together in the next.

It alone keeps that a batch whose reply was lost is sent again under its number, until Redis has answered, and that one
bad item fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rqueue.broker.broker import Broker, Done, Enqueued
from rqueue.client.stops import cancel, forget
from rqueue.config import Limits
from rqueue.errors import BrokerError, BrokerForbidden, BrokerUnavailable
from rqueue.log import LOGGER, Recurring, event
from rqueue.wire.message import Call
from rqueue.wire.record import Failure, state_of
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.judge import RETRY_RECORD_TTL_S, Judge
from rqueue.worker.observers import Listening
from rqueue.worker.outcome import Ack, Bury, Defer, Release, Revoke, Revoked, Settlement, Track, Transfer

LANES = 4
"""Batches under way at once for each queue and worker id."""

BATCH_JOBS = 200
BATCH_BYTES = 1024 * 1024
MOVE_TTL_S = 86_400
"""How long the other queue remembers that a job was moved there: a worker may freeze in between for as long."""

_ID_PAUSE_S = 1.0
_MOVE_PAUSE_S = 10.0
_MOVE_TRIES = 3  # a lost reply is no reason to wait; another node, or its replicas, may be away for long
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_REFUSED_PAUSE_S = 5.0

_LOST, _DROPPED, _PUT_OFF = b"023"
_JOB_ENDS = (Ack, Bury, Revoke)
_RUN_ENDS = (Ack, Bury, Defer, Revoke)

Item = tuple[ClaimedJob, Settlement, "asyncio.Future[bool] | None"]


class Recording(Protocol):
    """Whoever writes to a result store how runs end, before they are settled.

    Attributes:
        outbox: what may be settled.
        wake: there is something in it.
    """

    outbox: list[Item]
    wake: asyncio.Event

    async def record(self, items: Sequence[Item]) -> None:
        """Return when it is written how these ended."""


class Settler:
    """Settles jobs.

    Args:
        broker: the broker.
        inflight: what is claimed; its outbox is what is to be settled.
        limits: how many dead letters are kept, and for how long.
        judge: makes a failure of what Redis refuses to store.
        lanes: their names; a supervisor that settles in a dead worker's name has one that the worker did not use.
        observers: told of each job that was settled.
        recorder: what is to be settled comes from it, and not from the table of claimed jobs.

    Attributes:
        lost: jobs that another worker owned when they were to be settled.
        dropped: jobs whose result a full Redis did not keep.
        ended: (task, state) -> runs that were settled so; ``total`` is their sum.
    """

    def __init__(
        self,
        broker: Broker,
        inflight: Inflight,
        limits: Limits,
        judge: Judge,
        lanes: Sequence[int | str] = range(LANES),
        observers: Listening | None = None,
        recorder: Recording | None = None,
    ) -> None:
        self._observers, self._recorder = observers, recorder
        self._source: Inflight | Recording = recorder or inflight
        self._wake = recorder.wake if recorder is not None else inflight.signals.settle
        self._broker, self._inflight, self._limits, self._judge = broker, inflight, limits, judge
        self._waiting: dict[tuple[int, str], list[Item]] = defaultdict(list)
        self._names = lanes
        self._lanes: dict[tuple[int, str], list[int | str]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waits = Recurring()
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self.lost = 0
        self.dropped = 0
        self.ended: Counter[tuple[str, str]] = Counter()
        self.total = 0

    async def run(self) -> None:
        """Settle until cancelled."""
        wake = self._wake
        try:
            while True:
                await wake.wait()
                wake.clear()
                self.tick()
        finally:  # what still waits for Redis would do so for ever: its connection is about to be closed
            for task in self._tasks:
                task.cancel()

    def tick(self) -> int:
        """Send what has gathered, as far as lanes are free; how many batches were."""
        outbox, self._source.outbox = self._source.outbox, []
        for item in outbox:
            self._waiting[id(item[0].keys), item[0].worker].append(item)
        sent = 0
        for key in list(self._waiting):
            lanes = self._lanes.setdefault(key, list(self._names))
            while self._waiting[key] and lanes:
                batch = self._next(self._waiting[key])
                task = asyncio.create_task(self._deliver(key, lanes.pop(), batch), name="rqueue settle")
                self._tasks.add(task)
                self._is_quiet.clear()
                task.add_done_callback(self._delivered)
                sent += 1
            if not self._waiting[key]:
                del self._waiting[key]
        return sent

    async def drained(self) -> None:
        """Return when nothing waits to be settled."""
        while self._source.outbox or self._waiting or self._tasks:
            self.tick()
            await self._is_quiet.wait()

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._is_quiet.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            event(logging.CRITICAL, "settling failed", error=repr(error))

    def _next(self, waiting: list[Item]) -> list[Item]:
        """The next batch: as many acks as come in a row and fit, or one of anything else."""
        size = count = 0
        for job, settlement, _ in waiting:
            if not isinstance(settlement, Ack) or job.is_settled_early:
                break
            size += len(job.message.raw) + len(settlement.record)
            if count == BATCH_JOBS or (count and size > BATCH_BYTES):
                break
            count += 1
        batch = waiting[: count or 1]
        del waiting[: count or 1]
        return batch

    async def _deliver(self, key: tuple[int, str], lane: int | str, batch: list[Item]) -> None:
        try:
            await self._send(lane, batch)
        except Exception as exc:  # noqa: BLE001 - an error of our own: no slot, waiter or drain may hang on it
            event(logging.CRITICAL, "settling failed in the worker itself", error=repr(exc))
            for item in batch:
                self._close(item, _LOST)
        finally:
            self._lanes[key].append(lane)
            self._wake.set()

    async def _send(self, lane: int | str, batch: list[Item]) -> None:
        """Send one batch until Redis has answered: the jobs stay claimed until then."""
        self._number += 1
        number, pause, tries = self._number, _FIRST_PAUSE_S, 0
        while True:
            tries += 1
            try:
                answer = await self._ask(lane, number, batch)
            except (BrokerUnavailable, BrokerForbidden) as exc:
                if isinstance(batch[0][1], Transfer) and (isinstance(exc, BrokerForbidden) or tries == _MOVE_TRIES):
                    # Into a queue that is not this worker's, or is away: this one's jobs have only a few lanes.
                    await self._refused(lane, batch, exc)
                    return
                # An ACL that was changed says nothing of the jobs: they have ended as they did.
                self._waits.event(logging.WARNING, "settling waits for redis", jobs=len(batch), error=str(exc))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            except Exception as exc:  # noqa: BLE001 - it is about these jobs, and the others are still settled
                await self._refused(lane, batch, exc)
                return
            else:
                has_locks = False
                for item, mark in zip(batch, answer or bytes((_LOST,)) * len(batch), strict=True):
                    self._close(item, mark)
                    has_locks = has_locks or item[0].unique is not None
                if has_locks:
                    await self._unlock(batch)
                return

    async def _unlock(self, batch: Sequence[Item]) -> None:
        """Take away the locks of jobs that have ended. They count for nothing any more; reapers take what is left."""
        ended = [
            (job.unique[1], job.id)
            for job, settlement, future in batch
            if job.unique is not None and future is None and isinstance(settlement, _JOB_ENDS)
        ]
        if ended:
            try:
                await self._broker.unlock(batch[0][0].keys, ended, if_ended=True)
            except BrokerError as exc:
                event(logging.DEBUG, "locks are left to the reapers", jobs=len(ended), error=str(exc))

    async def _ask(self, lane: int | str, number: int, batch: Sequence[Item]) -> bytes | None:
        job, settlement, _ = batch[0]
        keys, worker, broker = job.keys, job.worker, self._broker
        keep, keep_s = self._limits.dead_max, self._limits.dead_ttl_s
        match settlement:
            case Ack(record, ttl) if job.is_settled_early:
                return b"%d" % await broker.record(keys, job.id, record, ttl, worker=worker)
            case Ack():
                return await broker.ack(keys, worker, lane, number, [_done(job, each) for job, each, _ in batch])
            case Bury(record, ttl, letter) if job.is_settled_early:
                return b"%d" % await broker.record(keys, job.id, record, ttl, letter, keep, keep_s, worker=worker)
            case Bury(_, _, letter):
                done = _done(job, settlement)
                return await broker.bury(keys, worker, lane, number, done, letter, keep, keep_s)
            case Defer(message, delay_s, record):
                raw, early = job.message.raw, job.is_settled_early
                ttl_s = RETRY_RECORD_TTL_S + math.ceil(delay_s)  # it is there while the job waits
                return await broker.retry(
                    keys,
                    worker,
                    lane,
                    number,
                    raw,
                    job.id,
                    message.raw,
                    delay_s,
                    record,
                    ttl_s,
                    is_settled_early=early,
                    is_parked=settlement.is_parked,
                )
            case Transfer():
                return await self._transfer(job, settlement, lane, number)
            case Revoke():
                done, early = _done(job, settlement), job.is_settled_early
                return await broker.revoke(keys, worker, lane, number, done, is_settled_early=early)
            case Track(record):
                return b"%d" % await broker.track(keys, worker, job.id, job.message.raw, record, 86_400)
            case Release():
                return b"%d" % await broker.release(keys, worker, [(job.message.raw, job.id, job.level)])

    async def _transfer(self, job: ClaimedJob, move: Transfer, lane: int | str, number: int) -> bytes | None:
        """Into the other queue, and then out of this one: from whichever step we die in, another worker goes on.

        Between the two it is in both, and does not run here. The other way round it would be in neither. One that was
        cancelled here is cancelled there, and only then let go of with its stop.
        """
        broker, message = self._broker, move.message
        claim = job.keys, job.worker, lane, number, job.message.raw, job.id
        item = Enqueued(job.id, True, message.header.level, "", message.raw)
        there = broker.keys.queue(move.to.queue)
        await broker.announce(there.name)
        (is_new,) = await broker.enqueue(there, move.to.token, 0, 1, [item], MOVE_TTL_S)
        if is_new is None:  # a job of this id was cancelled there, and has left a trace
            await forget(broker, there, job.id)
        if not is_new:
            if await broker.revoked(job.keys, [job.id]):
                await self._instead(lane, (job, self._revoke(job), None))
                return b"3"
            # Another job of this id lives there; or this one has just come from there, and has not been let go yet.
            event(logging.WARNING, "job waits to move, its id is alive there", **describe(job))
            owned = await broker.retry(*claim, move.again.raw, _ID_PAUSE_S)
            return b"3" if owned == b"1" else owned
        letting_go = partial(broker.move, *claim, move.record, RETRY_RECORD_TTL_S, there.name)
        if (answer := await letting_go()) == b"4":
            await cancel(broker, there, _done(job, self._revoke(job)))
            answer = await letting_go(is_cancelled_there=True)
        return answer

    def _revoke(self, job: ClaimedJob) -> Settlement:
        """The end of a cancelled job that was to move."""
        return self._judge.decide(job, Revoked(), Call.decode(job.message.body))

    async def _refused(self, lane: int | str, batch: list[Item], error: Exception) -> None:
        """Redis refuses: in halves, so that the rest is settled; alone, the job fails with what Redis said."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._send(lane, batch[:middle])
            await self._send(lane, batch[middle:])
            return
        ((job, settlement, future),) = batch
        event(logging.ERROR, "redis refused to settle", **(describe(job) | {"error": str(error)}))
        if isinstance(settlement, Track) or future is not None:
            self._close(batch[0], _LOST)
        elif isinstance(settlement, Transfer):  # the other queue may be full, away, or no list: this one has the job
            await self._send(lane, [(job, Defer(job.message.changed(id=job.id), _MOVE_PAUSE_S), None)])
        elif isinstance(settlement, Ack | Defer):
            failure = Failure(type(error).__name__, f"Redis refused to store how it ended: {error}")
            await self._instead(lane, (job, self._judge.failed(job, failure, "failed"), None))
        else:
            # It stays claimed here, so that it does not run again, until whoever looks after Redis has mended it.
            await asyncio.sleep(_REFUSED_PAUSE_S)
            await self._send(lane, batch)

    async def _instead(self, lane: int | str, item: Item) -> None:
        """Settle a job in another way than was asked for: what is recorded of it is another end as well."""
        if self._recorder is not None:
            await self._recorder.record([item])
        await self._send(lane, [item])

    def _close(self, item: Item, mark: int) -> None:
        job, settlement, future = item
        owned = mark != _LOST
        if future is not None:
            if not future.done():
                future.set_result(owned)
            return
        if job.phase is Phase.SETTLING:
            self._inflight.gone(job)
        if not owned:
            self.lost += 1
            event(logging.WARNING, "claim lost", **describe(job), was=_name(settlement).lower())
            return
        if mark == _PUT_OFF:
            return  # put off, and said so
        if isinstance(settlement, _RUN_ENDS) and settlement.record and not _is_quiet(settlement):
            self.ended[job.seen.get("task", ""), state_of(settlement.record)] += 1
            self.total += 1
        if mark == _DROPPED:
            self.dropped += 1
            event(logging.WARNING, "redis is full, result dropped", **describe(job))
        if self._observers:
            self._observers.settled(job, settlement)
        level, text = _news(job, settlement)
        if LOGGER.isEnabledFor(level):
            event(level, text, **describe(job))


_WORDS = {
    "Ack": (logging.INFO, "job done"),
    "Bury": (logging.ERROR, "job failed"),
    "Defer": (logging.WARNING, "job deferred"),
    "Transfer": (logging.INFO, "job moved"),
    "Revoke": (logging.INFO, "job revoked"),
    "Release": (logging.INFO, "job released"),
    "Track": (logging.DEBUG, "job tracked"),
}


def _news(job: ClaimedJob, settlement: Settlement) -> tuple[int, str]:
    """How loud a settled job is, and in which words."""
    level, text = _WORDS[type(settlement).__name__]
    if isinstance(settlement, Ack):
        if "error" in job.seen:
            return logging.INFO if settlement.is_expected else logging.ERROR, "job failed"
    elif _is_quiet(settlement):
        return logging.INFO, text
    if "rate_limit" in job.seen or "paused" in job.seen:
        return logging.DEBUG, text  # what a limit puts off is no news, and may be a lot
    return level, text


def _is_quiet(settlement: Settlement) -> bool:
    return isinstance(settlement, Defer) and settlement.is_quiet


def _name(settlement: Settlement) -> str:
    return type(settlement).__name__


def _done(job: ClaimedJob, settlement: Settlement) -> Done:
    assert isinstance(settlement, _JOB_ENDS)
    # A NamedTuple's own way takes three times as long.
    return tuple.__new__(Done, (job.message.raw, job.id, settlement.record, settlement.ttl))
