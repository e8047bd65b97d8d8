"""Sends what was committed to the outbox: each job once, whoever dies where. Every worker does, beside each other.

(a) One statement gives rows a batch's name. (b) The batch goes to Redis under that name, as many times as it takes:
Redis knows it for a day, and changes nothing the second time. (c) The rows are deleted. Who dies before (a) has
committed has done nothing. Who dies later leaves a batch with a name, and any other relay sends the same rows under the
same name: whether the first has sent them, and the jobs have run, or not.

A batch's name is a relay's token and a number. Redis remembers of a token the last number alone, and refuses all below:
a number is used once all before it were seen to their end, rows deleted. Where that is in doubt, the relay takes
another token, and nothing is ever sent under the old one's later numbers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from rqueue.broker.broker import Broker, Enqueued
from rqueue.client.stops import forget
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, StoreError, StoreUnavailable
from rqueue.log import Recurring, event
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import is_job_id, is_queue_name
from rqueue.wire.message import Message

if TYPE_CHECKING:
    from rqueue.results.sql.outbox import Entry, Outbox

REMEMBER_S: Final = 86_400
"""How long Redis knows a batch: a relay may freeze, and nobody else be there, for as long."""

_TOLD_EVERY_S: Final = 5.0  # it is told of commits, and looks by itself in case that was lost
_EVERY_S: Final = 1.0
_TAKE_OVER_EVERY_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_STOP_S: Final = 2.0
_CLOSE_S: Final = 2.0

_DUE: Final = re.compile(r"[0-9]{0,16}")
_LOCK: Final = re.compile(r"((unique|debounce|throttle) [0-9]{1,16} [!-~]{1,64})?")
_LEVELS: Final = range(11)


class Relay:
    """Sends batches.

    Args:
        broker: the broker.
        outbox: the table; None: there is none, and nothing to do.
        max_message_bytes: no larger message is sent.

    Attributes:
        sent: jobs that it has sent.
    """

    def __init__(self, broker: Broker, outbox: Outbox | None, max_message_bytes: int) -> None:
        self._broker, self._outbox, self._max_bytes = broker, outbox, max_message_bytes
        self._new_token()
        self._left: list[str] = []  # batches that are not at their end
        self._troubled: set[str] = set()  # queues that Redis refuses, and of which nothing more is marked
        self._look_s = self._retry_s = 0.0
        self._one = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_told = self._is_stopping = False
        self._waits = Recurring()
        self.sent = 0

    async def open(self) -> None:
        """Look at the table; a database that is away is asked again later.

        Raises:
            SchemaMismatch: it is not as this version knows it: nothing would ever be sent.
        """
        if self._outbox is not None:
            with suppress(StoreUnavailable):  # it is said as soon as it runs
                await self._outbox.open()

    async def run(self) -> None:
        """Send what is committed, until cancelled or stopped."""
        if self._outbox is None:
            return
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, self._outbox)
                await self._send_all()
                group.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._outbox.close()

    async def stop(self) -> None:
        """Begin nothing more; returns when the batch under way is at its end, or has had its time."""
        self._is_stopping = True
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S), self._one:
                pass

    async def drained(self) -> None:
        """Send all that is committed now.

        Raises:
            StoreError: the database could not be asked.
            BrokerError: Redis refused, or could not be asked.
        """
        while self._outbox is not None and await self.tick():
            pass

    async def tick(self) -> int:
        """Send a batch, first of those that are left; how many jobs."""
        assert self._outbox is not None
        async with self._one:
            await self._broker.ready()  # first: while Redis is away nothing is marked
            try:
                return await self._tick(self._outbox)
            except BaseException:
                self._new_token()  # what is under way may not be at its end
                raise

    async def _send_all(self) -> None:
        pause = _FIRST_PAUSE_S
        is_untold = False
        while not self._is_stopping:
            self._wake.clear()
            try:
                sent = await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop sending
                self._waits.event(logging.WARNING, "outbox waits", error=str(exc) or repr(exc))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            if sent:
                self._is_told = self._is_told and not is_untold
                continue
            is_untold = False
            try:
                async with asyncio.timeout(_TOLD_EVERY_S if self._is_told else _EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                is_untold = True  # what is found now came without a word: the trigger is gone, or a pooler is between

    async def _listen(self, outbox: Outbox) -> None:
        while True:
            try:
                await outbox.listen(self._told)
            except StoreError as exc:
                self._waits.event(logging.WARNING, "outbox is not told of commits", error=str(exc))
            self._is_told = False
            await asyncio.sleep(_LONGEST_PAUSE_S)

    def _told(self) -> None:
        self._is_told = True
        self._wake.set()

    async def _tick(self, outbox: Outbox) -> int:
        sent = 0
        if elapsed_s() >= self._look_s:
            self._look_s = elapsed_s() + _TAKE_OVER_EVERY_S
            if (late := await outbox.take_over()) is not None:
                self._look_s = 0.0  # there may be more
                if late not in self._left:
                    self._left.append(late)
        if elapsed_s() >= self._retry_s:
            for batch in list(self._left):
                sent += await self._send(outbox, batch, await outbox.read(batch))
        if not self._left:
            self._troubled.clear()  # another relay may have seen to them
        batch = f"{self._token} {self._number + 1}"
        self._left.append(batch)  # whether the statement comes through or not, and whoever says so
        entries = await outbox.mark(batch, self._troubled)
        if entries:
            self._number += 1
        return sent + await self._send(outbox, batch, entries)

    async def _send(self, outbox: Outbox, batch: str, entries: Sequence[Entry]) -> int:
        """Send what is left of a batch, and see it to its end; how many jobs."""
        entries = await self._readable(outbox, batch, entries)
        queues: dict[str, list[Entry]] = {}
        for entry in entries:
            queues.setdefault(entry.queue, []).append(entry)
        again: list[int] = []
        for queue, those in list(queues.items()):
            try:
                again += await self._put(batch, queue, those)
            except BrokerError as exc:
                if isinstance(exc, BrokerUnavailable | BrokerFull) and not self._broker.is_cluster:
                    raise
                # Redis refuses this queue, or its node is away: the others go on.
                self._waits.event(logging.WARNING, "outbox waits for a queue", queue=queue, error=str(exc))
                self._troubled.add(queue)
                del queues[queue]
            else:
                self._troubled.discard(queue)
        if queues:
            # Dies it before this, or is the reply lost: they are sent again, and Redis knows the batch.
            for queue, job_id in await outbox.sent(batch, queues, again):
                # Dies it before this: it meets the stop another time.
                await forget(self._broker, self._broker.keys.queue(queue), job_id)
        if sum(map(len, queues.values())) == len(entries):
            self._left.remove(batch)
        else:
            self._new_token()
            self._retry_s = elapsed_s() + _LONGEST_PAUSE_S
        sent = sum(map(len, queues.values())) - len(again)
        self.sent += sent
        return sent

    async def _put(self, batch: str, queue: str, entries: Sequence[Entry]) -> list[int]:
        """Send one queue's jobs of a batch; the rows of those that met the stop of an earlier job of their id."""
        keys = self._broker.keys.queue(queue)
        token, number = batch.split(" ")
        # Custom: where a batch was left for longer than Redis knows it, what still waits or runs is not doubled.
        jobs = [Enqueued(each.job_id, True, each.level, each.due, each.message, each.lock) for each in entries]
        verb = self._broker.admit if any(each.lock for each in entries) else self._broker.enqueue
        await self._broker.announce(queue)
        answers = await verb(keys, token, 0, int(number), jobs, REMEMBER_S)
        if len(answers) != len(entries):
            return []  # a later batch's: this one is at its end, and another relay has seen to it
        for entry, answer in zip(entries, answers, strict=True):
            if answer is False or isinstance(answer, str):
                first = answer or entry.job_id
                event(logging.INFO, "job not needed, one is there", job=entry.job_id, queue=queue, first=first)
        return [entry.seq for entry, answer in zip(entries, answers, strict=True) if answer is None]

    async def _readable(self, outbox: Outbox, batch: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The rows that can be sent; the others are set apart first, so that whoever sends the batch sends the same."""
        flaws = {entry.seq: flaw for entry in entries if (flaw := self._flaw(entry))}
        if not flaws:
            return entries
        await outbox.refuse(batch, flaws)
        for seq, flaw in flaws.items():
            event(logging.ERROR, "outbox row refused", row=seq, why=flaw)
        return [entry for entry in entries if entry.seq not in flaws]

    def _flaw(self, entry: Entry) -> str:
        """Why a row cannot be sent: the script would stop at it half-way, or the job never be settled."""
        if not is_queue_name(entry.queue):
            return "no queue's name"
        if not is_job_id(entry.job_id) or Message.id_of(entry.message) != entry.job_id:
            return "the message's header names another job"
        if entry.level not in _LEVELS:
            return "no priority"
        if not _DUE.fullmatch(entry.due):
            return "no due time"
        if not _LOCK.fullmatch(entry.lock):
            return "no lock"
        if len(entry.message) > self._max_bytes:
            return f"the message has {len(entry.message):,} bytes, max_message_bytes is {self._max_bytes:,}"
        return ""

    def _new_token(self) -> None:
        self._token, self._number = secrets.token_hex(8), 0
