"""The only service that writes how jobs ended. What gathers while a batch is under way leaves together in the next.

It alone keeps that a batch whose reply was lost is sent again under its number, until Redis has answered, and that one
bad item fails alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from rqueue.broker.broker import Broker, Done
from rqueue.config import Limits
from rqueue.errors import BrokerUnavailable
from rqueue.log import event
from rqueue.wire.record import Failure, state_of
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.judge import RETRY_RECORD_TTL_S, Judge
from rqueue.worker.outcome import Ack, Bury, Defer, Release, Settlement, Track

LANES = 4
"""Batches under way at once for each queue and worker id."""

BATCH_JOBS = 200
BATCH_BYTES = 1024 * 1024
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_REFUSED_PAUSE_S = 5.0

Item = tuple[ClaimedJob, Settlement, "asyncio.Future[bool] | None"]


class Settler:
    """Settles jobs.

    Args:
        broker: the broker.
        inflight: what is claimed; its outbox is what is to be settled.
        limits: how many dead letters are kept, and for how long.
        judge: makes a failure of what Redis refuses to store.
        lanes: their names; a supervisor that settles in a dead worker's name has one that the worker did not use.

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
    ) -> None:
        self._broker, self._inflight, self._limits, self._judge = broker, inflight, limits, judge
        self._waiting: dict[tuple[int, str], list[Item]] = defaultdict(list)
        self._names = lanes
        self._lanes: dict[tuple[int, str], list[int | str]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self.lost = 0
        self.dropped = 0
        self.ended: Counter[tuple[str, str]] = Counter()
        self.total = 0

    async def run(self) -> None:
        """Settle until cancelled."""
        wake = self._inflight.signals.settle
        while True:
            await wake.wait()
            wake.clear()
            self.tick()

    def tick(self) -> int:
        """Send what has gathered, as far as lanes are free; how many batches were."""
        outbox, self._inflight.outbox = self._inflight.outbox, []
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
        while self._inflight.outbox or self._waiting or self._tasks:
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
                self._close(item, ord("0"))
        finally:
            self._lanes[key].append(lane)
            self._inflight.signals.settle.set()

    async def _send(self, lane: int | str, batch: list[Item]) -> None:
        """Send one batch until Redis has answered: the jobs stay claimed until then."""
        self._number += 1
        number, pause = self._number, _FIRST_PAUSE_S
        while True:
            try:
                answer = await self._ask(lane, number, batch)
            except BrokerUnavailable as exc:
                event(logging.WARNING, "settling waits for redis", jobs=len(batch), error=str(exc))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            except Exception as exc:  # noqa: BLE001 - it is about these jobs, and the others are still settled
                await self._refused(lane, batch, exc)
                return
            else:
                for index, item in enumerate(batch):
                    self._close(item, answer[index] if answer is not None else ord("0"))
                return

    async def _ask(self, lane: int | str, number: int, batch: Sequence[Item]) -> bytes | None:
        job, settlement, _ = batch[0]
        keys, worker, broker = job.keys, job.worker, self._broker
        keep, keep_s = self._limits.dead_max, self._limits.dead_ttl_s
        match settlement:
            case Ack(record, ttl) if job.is_settled_early:
                return b"%d" % await broker.record(keys, job.id, record, ttl, worker=worker)
            case Ack():
                return await broker.ack(keys, worker, lane, number, [_done(*item) for item in batch])
            case Bury(record, ttl, letter) if job.is_settled_early:
                return b"%d" % await broker.record(keys, job.id, record, ttl, letter, keep, keep_s, worker=worker)
            case Bury(_, _, letter):
                done = _done(*batch[0])
                return await broker.bury(keys, worker, lane, number, done, letter, keep, keep_s)
            case Defer(message, delay_s, record):
                raw, ttl_s, early = job.message.raw, RETRY_RECORD_TTL_S, job.is_settled_early
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
                )
            case Track(record):
                return b"%d" % await broker.track(keys, worker, job.id, job.message.raw, record, 86_400)
            case Release():
                return b"%d" % await broker.release(keys, worker, [(job.message.raw, job.id, job.level)])

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
            self._close(batch[0], ord("0"))
        elif isinstance(settlement, Ack | Defer):
            failure = Failure(type(error).__name__, f"Redis refused to store how it ended: {error}")
            await self._send(lane, [(job, self._judge.failed(job, failure, "failed"), None)])
        else:
            # It stays claimed here, so that it does not run again, until whoever looks after Redis has mended it.
            await asyncio.sleep(_REFUSED_PAUSE_S)
            await self._send(lane, batch)

    def _close(self, item: Item, mark: int) -> None:
        job, settlement, future = item
        owned = mark != ord("0")
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
        if isinstance(settlement, Ack | Bury | Defer) and settlement.record:
            self.ended[job.seen.get("task", ""), state_of(settlement.record)] += 1
            self.total += 1
        if mark == ord("2"):
            self.dropped += 1
            event(logging.WARNING, "redis is full, result dropped", **describe(job))
        level, text = _WORDS[_name(settlement)]
        if isinstance(settlement, Ack) and "error" in job.seen:
            level, text = logging.ERROR, "job failed"
        elif "rate_limit" in job.seen:
            level = logging.DEBUG  # what a limit puts off is no news, and may be a lot
        event(level, text, **describe(job))


_WORDS = {
    "Ack": (logging.INFO, "job done"),
    "Bury": (logging.ERROR, "job failed"),
    "Defer": (logging.WARNING, "job deferred"),
    "Release": (logging.INFO, "job released"),
    "Track": (logging.DEBUG, "job tracked"),
}


def _name(settlement: Settlement) -> str:
    return type(settlement).__name__


def _done(job: ClaimedJob, settlement: Settlement, _: object) -> Done:
    assert isinstance(settlement, Ack | Bury)
    return Done(job.message.raw, job.id, settlement.record, settlement.ttl)
