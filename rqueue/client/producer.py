"""Natural batching: what is enqueued while a batch is under way leaves together in the next.

It alone keeps the promise that a repeated enqueue is harmless: a batch whose reply was lost is sent again under its
number, and after ``timeout_s`` the callers are told that nobody knows. A caller alone waits one round trip.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from rqueue.broker.broker import Broker, Enqueued
from rqueue.broker.durable import Unconfirmed
from rqueue.broker.enqueue import SENT_TTL_S
from rqueue.client.stops import forget
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, EnqueueUnknown, NotDurable, ReplyLost
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import QueueKeys

LANES: Final = 2
"""Batches under way at once for each queue: one at the server while the next is packed."""

BATCH_JOBS: Final = 500
BATCH_BYTES: Final = 512 * 1024
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LATE_S: Final = 0.2
_LOCK: Final = attrgetter("lock")


Answer = bool | str
"""True: it is there; false: its id is alive already; or the id of the job that was there first."""


@dataclass(slots=True, eq=False)
class _Parcel:
    """What one caller enqueues at once: it goes in one step, and is answered as one, at the latest at its deadline."""

    jobs: Sequence[Enqueued]
    size: int
    answer: asyncio.Future[list[Answer]]
    deadline_s: float


@dataclass(slots=True, eq=False)
class _Batch:
    """Parcels that wait no more and are not answered yet; whether Redis may have them, or has said that it does."""

    parcels: list[_Parcel]
    may_exist: bool = False
    is_stored: bool = False


class Producer:
    """Enqueues over one broker, in one event loop.

    Args:
        broker: the broker.
        timeout_s: how long to try to reach Redis, or to learn what became of a lost reply.
    """

    def __init__(self, broker: Broker, timeout_s: float) -> None:
        self._broker = broker
        self._timeout_s = timeout_s
        self._id = secrets.token_hex(8)
        self._outlets: dict[str, _Outlet] = {}

    def put(self, keys: QueueKeys, jobs: Sequence[Enqueued]) -> asyncio.Future[list[Answer]]:
        """Enqueue jobs in one step; how each came out is the future's result.

        Cancelling it before they were sent withdraws them; after that they exist.

        Raises (from the future):
            BrokerUnavailable: Redis could not be reached; nothing was enqueued.
            BrokerFull: Redis is full; nothing was enqueued.
            EnqueueUnknown: the reply was lost for good.
            NotDurable: Redis has it, and nobody knows whether it is as safe as ``durability`` asks.
            BrokerError: Redis refused; nothing was enqueued.
        """
        outlet = self._outlets.get(keys.name)
        if outlet is None:
            outlet = self._outlets[keys.name] = _Outlet(self._broker, keys, self._id, self._timeout_s)
        return outlet.put(jobs)

    async def close(self) -> None:
        """Let what is under way end."""
        await asyncio.gather(*(outlet.close() for outlet in self._outlets.values()))


class _Outlet:
    """One queue's batches."""

    def __init__(self, broker: Broker, keys: QueueKeys, producer: str, timeout_s: float) -> None:
        self._broker, self._keys, self._producer, self._timeout_s = broker, keys, producer, timeout_s
        self._remember_s = max(SENT_TTL_S, math.ceil(2 * timeout_s))  # longer than anything is sent again
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Parcel] = deque()
        self._under_way: set[_Batch] = set()
        self._lanes = list(range(LANES))
        self._number = 0
        self._is_starting = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: BrokerError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, jobs: Sequence[Enqueued]) -> asyncio.Future[list[Answer]]:
        loop = self._loop
        size = len(jobs[0].message) if len(jobs) == 1 else sum([len(job.message) for job in jobs])
        parcel = _Parcel(jobs, size, loop.create_future(), loop.time() + self._timeout_s)
        self._waiting.append(parcel)
        if self._timer is None:
            self._timer = loop.call_at(parcel.deadline_s, self._expire)
        self._start()
        return parcel.answer

    async def close(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        """Tell those whose time is up; what was sent may exist, what was not is withdrawn."""
        now = self._loop.time()
        if self._timer is not None and now - self._timer.when() > _LATE_S:
            # The loop was blocked: the replies may be here already, unread, and are read first.
            self._timer = self._loop.call_later(_LATE_S / 2, self._expire)
            return
        deadlines = [self._give_up(batch.parcels, now, batch) for batch in self._under_way]
        deadlines.append(self._give_up(self._waiting, now, None))
        next_s = min(deadlines)
        self._timer = self._loop.call_at(next_s, self._expire) if next_s < math.inf else None

    def _give_up(self, parcels: Iterable[_Parcel], now: float, batch: _Batch | None) -> float:
        """Tell those of the parcels, oldest first, whose time is up; when the next one's is."""
        for parcel in parcels:
            if parcel.answer.done():
                continue
            if parcel.deadline_s > now:
                return parcel.deadline_s
            why = self._trouble or "Redis did not answer"
            if batch is not None and batch.is_stored:
                _fail(parcel, NotDurable([job.id for job in parcel.jobs], why))
            elif batch is not None and batch.may_exist:
                _fail(parcel, EnqueueUnknown([job.id for job in parcel.jobs]))
            else:
                _fail(parcel, BrokerUnavailable(f"nothing was enqueued within {self._timeout_s:g} s: {why}"))
        return math.inf

    def _start(self) -> None:
        """Have a free lane deliver from the next turn on: whoever enqueues in the same turn comes along."""
        if self._waiting and self._lanes and not self._is_starting:
            self._is_starting = True
            self._begin(self._deliver(self._lanes.pop()))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work, name="rqueue enqueue")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, lane: int) -> None:
        """Send batches over a lane until nothing waits."""
        self._is_starting = False
        pause = _FIRST_PAUSE_S
        try:
            while self._waiting:
                try:
                    # A batch is made once Redis can be reached: until then a caller can still withdraw.
                    if not self._broker.is_ready(self._keys.name):
                        await self._broker.ready()
                        await self._broker.announce(self._keys.name)
                except BrokerUnavailable as exc:
                    self._trouble = exc
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
                    self._forget_answered()
                except BrokerError as exc:
                    for parcel in self._take():
                        _fail(parcel, exc)
                else:
                    pause = _FIRST_PAUSE_S
                    if parcels := self._take():
                        self._start()  # for what is left
                        await self._send(lane, _Batch(parcels))
        finally:
            self._lanes.append(lane)

    def _forget_answered(self) -> None:
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()

    def _take(self) -> list[_Parcel]:
        """The next batch, without what its callers have withdrawn."""
        batch: list[_Parcel] = []
        jobs = size = 0
        while self._waiting:
            parcel = self._waiting[0]
            if batch and (jobs + len(parcel.jobs) > BATCH_JOBS or size + parcel.size > BATCH_BYTES):
                break
            self._waiting.popleft()
            if not parcel.answer.done():
                batch.append(parcel)
                jobs += len(parcel.jobs)
                size += parcel.size
        return batch

    async def _send(self, lane: int, batch: _Batch) -> None:
        """Send one batch, the same under the same number, until its fate is known or nobody waits for it any more."""
        self._number += 1
        number, pause, is_lost, first_s = self._number, _FIRST_PAUSE_S, False, elapsed_s()
        self._under_way.add(batch)
        try:
            while batch.parcels:
                jobs = [job for parcel in batch.parcels for job in parcel.jobs]
                batch.may_exist = True
                try:
                    answer: Sequence[Answer | None]
                    batch_of = self._keys, self._producer, lane, number, jobs, self._remember_s
                    if any(map(_LOCK, jobs)):
                        answer = await self._broker.admit(*batch_of)
                    else:
                        answer = await self._broker.enqueue(*batch_of)
                except BrokerUnavailable as exc:
                    self._trouble = exc
                    is_lost |= isinstance(exc, ReplyLost)
                    batch.is_stored = isinstance(exc, Unconfirmed)
                    batch.may_exist = is_lost
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
                    left = [parcel for parcel in batch.parcels if not parcel.answer.done()]
                    if not (left and is_lost):  # nothing of it is there: what was withdrawn, or given up, stays so
                        batch.parcels = left
                    elif elapsed_s() - first_s > self._remember_s / 2:
                        # We stood still, and callers' clocks perhaps with us: Redis may know the number no more.
                        batch.parcels = []
                        for parcel in left:
                            _fail(parcel, EnqueueUnknown([job.id for job in parcel.jobs]))
                else:
                    self._answer(batch.parcels, answer)
                    break
        except BrokerError as exc:
            batch.may_exist = False
            await self._split(lane, batch, exc)
        self._under_way.discard(batch)  # not after an error of our own: its callers are told when their time is up

    def _answer(self, parcels: list[_Parcel], answer: Sequence[Answer | None]) -> None:
        at, is_whole = 0, None not in answer
        for parcel in parcels:
            marks: Any = answer[at : at + len(parcel.jobs)]
            if not is_whole and None in marks:
                self._begin(self._put_again(parcel, marks))
            elif not parcel.answer.done():
                parcel.answer.set_result(marks)
            at += len(parcel.jobs)

    async def _put_again(self, parcel: _Parcel, marks: Sequence[Answer | None]) -> None:
        """Some met the stop of an earlier job of their id, and were not enqueued: they are, once it is forgotten."""
        stopped = [job for job, mark in zip(parcel.jobs, marks, strict=True) if mark is None]
        if parcel.answer.done():
            return
        batch = _Batch([parcel], may_exist=True)
        self._under_way.add(batch)
        try:
            for job in stopped:
                await forget(self._broker, self._keys, job.id)
            fresh = iter(await self.put(stopped))
        except BrokerError as exc:
            others = len(stopped) < len(parcel.jobs)
            _fail(parcel, EnqueueUnknown([job.id for job in parcel.jobs]) if others else exc)
        else:
            if not parcel.answer.done():
                parcel.answer.set_result([next(fresh) if mark is None else mark for mark in marks])
        finally:
            self._under_way.discard(batch)

    async def _split(self, lane: int, batch: _Batch, error: BrokerError) -> None:
        """A refused batch goes again in halves, so that one caller's message fails alone."""
        parcels = batch.parcels
        if len(parcels) <= 1 or isinstance(error, BrokerFull):
            for parcel in parcels:
                _fail(parcel, error)
            return
        middle = len(parcels) // 2
        first, batch.parcels = _Batch(parcels[:middle]), parcels[middle:]
        for half in (first, batch):  # refused, nothing of it is there: what was withdrawn, or given up, stays so
            half.parcels = [parcel for parcel in half.parcels if not parcel.answer.done()]
            await self._send(lane, half)


def _fail(parcel: _Parcel, error: BrokerError) -> None:
    if not parcel.answer.done():
        parcel.answer.set_exception(error)
