"""Natural batching: what is enqueued while a batch is under way leaves together in the next.

It alone keeps the promise that a repeated enqueue is harmless: a batch whose reply was lost is sent again under its
number, and after ``timeout_s`` the callers are told that nobody knows. A caller alone waits one round trip.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rqueue.broker.broker import Broker, Enqueued
from rqueue.client.stops import forget
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, EnqueueUnknown, ReplyLost
from rqueue.wire.keys import QueueKeys

LANES: Final = 2
"""Batches under way at once for each queue: one at the server while the next is packed."""

BATCH_JOBS: Final = 500
BATCH_BYTES: Final = 512 * 1024
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LATE_S: Final = 0.2


Answer = bool | str
"""True: it is there; false: its id is alive already; or the id of the job that was there first."""


@dataclass(slots=True)
class _Parcel:
    """What one caller enqueues at once: it goes in one step, and is answered as one, at the latest at its deadline."""

    jobs: Sequence[Enqueued]
    size: int
    answer: asyncio.Future[list[Answer]]
    deadline_s: float
    may_exist: bool = False


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

    async def put(self, keys: QueueKeys, jobs: Sequence[Enqueued]) -> list[Answer]:
        """Enqueue jobs in one step; how each came out.

        Cancelling before they were sent withdraws them; after that they exist.

        Raises:
            BrokerUnavailable: Redis could not be reached; nothing was enqueued.
            BrokerFull: Redis is full; nothing was enqueued.
            EnqueueUnknown: the reply was lost for good.
            BrokerError: Redis refused; nothing was enqueued.
        """
        outlet = self._outlets.get(keys.name)
        if outlet is None:
            outlet = self._outlets[keys.name] = _Outlet(self._broker, keys, self._id, self._timeout_s)
        return await outlet.put(jobs)

    async def close(self) -> None:
        """Let what is under way end."""
        await asyncio.gather(*(outlet.close() for outlet in self._outlets.values()))


class _Outlet:
    """One queue's batches."""

    def __init__(self, broker: Broker, keys: QueueKeys, producer: str, timeout_s: float) -> None:
        self._broker, self._keys, self._producer, self._timeout_s = broker, keys, producer, timeout_s
        self._waiting: deque[_Parcel] = deque()
        self._unanswered: deque[_Parcel] = deque()
        self._lanes = list(range(LANES))
        self._number = 0
        self._is_pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: BrokerError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, jobs: Sequence[Enqueued]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        size = sum(len(job.message) for job in jobs)
        parcel = _Parcel(jobs, size, loop.create_future(), loop.time() + self._timeout_s)
        self._waiting.append(parcel)
        while self._unanswered and self._unanswered[0].answer.done():
            self._unanswered.popleft()
        self._unanswered.append(parcel)
        if self._timer is None:
            self._timer = loop.call_at(parcel.deadline_s, self._expire)
        if not self._is_pumping and self._lanes:
            self._is_pumping = True
            loop.call_soon(self._pump)  # at the end of this turn: whoever enqueues in the same turn comes along
        return await parcel.answer

    async def close(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        """Tell those whose time is up; what was sent may exist, what was not is withdrawn."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and loop.time() - self._timer.when() > _LATE_S:
            # The loop was blocked: the replies may be here already, unread, and are read first.
            self._timer = loop.call_later(_LATE_S / 2, self._expire)
            return
        self._timer = None
        while self._unanswered:
            parcel = self._unanswered[0]
            if not parcel.answer.done():
                if parcel.deadline_s > loop.time():
                    self._timer = loop.call_at(parcel.deadline_s, self._expire)
                    return
                if parcel.may_exist:
                    _fail(parcel, EnqueueUnknown([job.id for job in parcel.jobs]))
                else:
                    why = self._trouble or "Redis did not answer"
                    _fail(parcel, BrokerUnavailable(f"nothing was enqueued within {self._timeout_s:g} s: {why}"))
            self._unanswered.popleft()

    def _pump(self) -> None:
        self._is_pumping = False
        while self._waiting and self._lanes:
            self._begin(self._deliver(self._lanes.pop()))
            if self._waiting[0].size < BATCH_BYTES and len(self._waiting) <= BATCH_JOBS:
                return  # one batch takes them all

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="rqueue enqueue")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, lane: int) -> None:
        """Send batches over a lane until nothing waits."""
        pause = _FIRST_PAUSE_S
        try:
            while self._waiting:
                try:
                    # A batch is made once Redis can be reached: until then a caller can still withdraw.
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
                    if batch := self._take():
                        await self._send(lane, batch)
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

    async def _send(self, lane: int, batch: list[_Parcel]) -> None:
        """Send one batch, the same under the same number, until its fate is known or nobody waits for it any more."""
        self._number += 1
        number, pause, is_lost = self._number, _FIRST_PAUSE_S, False
        while not all(parcel.answer.done() for parcel in batch):
            if not is_lost:  # nothing of it is there: what was withdrawn, or given up, stays so
                batch = [parcel for parcel in batch if not parcel.answer.done()]
            for parcel in batch:
                parcel.may_exist = True
            jobs = [job for parcel in batch for job in parcel.jobs]
            try:
                answer: Sequence[Answer | None]
                if any(job.lock for job in jobs):
                    answer = await self._broker.admit(self._keys, self._producer, lane, number, jobs)
                else:
                    answer = await self._broker.enqueue(self._keys, self._producer, lane, number, jobs)
            except BrokerUnavailable as exc:
                self._trouble = exc
                is_lost |= isinstance(exc, ReplyLost)
                for parcel in batch:
                    parcel.may_exist = is_lost
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            except BrokerError as exc:
                await self._split(lane, batch, exc)
                return
            else:
                self._answer(batch, answer)
                return

    def _answer(self, batch: list[_Parcel], answer: Sequence[Answer | None]) -> None:
        at = 0
        for parcel in batch:
            marks = answer[at : at + len(parcel.jobs)]
            if None in marks:
                self._begin(self._put_again(parcel, marks))
            elif not parcel.answer.done():
                parcel.answer.set_result([mark for mark in marks if mark is not None])
            at += len(parcel.jobs)

    async def _put_again(self, parcel: _Parcel, marks: Sequence[Answer | None]) -> None:
        """Some met the stop of an earlier job of their id, and were not enqueued: they are, once it is forgotten."""
        stopped = [job for job, mark in zip(parcel.jobs, marks, strict=True) if mark is None]
        if parcel.answer.done():
            return
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

    async def _split(self, lane: int, batch: list[_Parcel], error: BrokerError) -> None:
        """A refused batch goes again in halves, so that one caller's message fails alone."""
        if len(batch) <= 1 or isinstance(error, BrokerFull):
            for parcel in batch:
                _fail(parcel, error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._send(lane, half)


def _fail(parcel: _Parcel, error: BrokerError) -> None:
    if not parcel.answer.done():
        parcel.answer.set_exception(error)
