"""Claims messages, and waits at the server when there are none.

It alone keeps that no wake-up is missed (every block is followed by a claim over all lists), that nothing is claimed
for which there is no room, and that a message whose reply was lost is found again (the audit).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rqueue.broker.broker import Broker
from rqueue.config import AppConfig, WorkerConfig
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, MalformedMessage
from rqueue.log import event
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import TOKEN, Call, Header, Message
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.judge import Judge
from rqueue.worker.lease import Lease
from rqueue.worker.outcome import Unreadable
from rqueue.worker.schedule import Schedule

CLAIM_AT_ONCE = 200
CLAIM_BYTES = 8 * 1024 * 1024
_NO_BLOCK_PAUSE_S = 1.0
_AUDIT_BEATS = 3
_LONGEST_HELD_S = 0.25  # what was claimed should have started in a tenth of a second
_UNBLOCK_AGAIN_S = 0.1


class Fetcher:
    """Fills the table of claimed jobs.

    Args:
        broker: the broker.
        queues: the queues to serve.
        inflight: what is claimed.
        lease: the worker's id and lease.
        schedule: told when the next scheduled job is due.
        judge: what becomes of messages that cannot be read.
        app: ranks of the queues.
        config: the worker's settings.
    """

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[QueueKeys],
        inflight: Inflight,
        lease: Lease,
        schedule: Schedule,
        judge: Judge,
        app: AppConfig,
        config: WorkerConfig,
    ) -> None:
        self._broker, self._queues, self._inflight, self._lease = broker, queues, inflight, lease
        self._schedule, self._judge, self._config = schedule, judge, config
        self._ranks = [app.queue(keys.name).priority for keys in queues]
        self._blocks: dict[int, asyncio.Task[bytes | None]] = {}
        self._turn = 0
        self._is_more = True
        self._no_block_until_s = 0.0
        self._audited_s = elapsed_s()
        self._audited_resets = broker.resets
        self._is_unsure = False
        self._is_stopping = False
        self._has_stopped = asyncio.Event()

    async def run(self) -> None:
        """Fetch until it is stopped; whatever Redis says, it goes on."""
        pause = 0.05
        while not self._is_stopping:
            try:
                await self.tick()
                pause = 0.05
            except BrokerError as exc:
                event(logging.WARNING, "fetching waits for redis", worker=self._lease.worker, error=str(exc))
                # Whatever was under way may have claimed something of which we know nothing.
                self._is_more = self._is_unsure = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)
        try:
            await self._end_blocks()
            await self._harvest()
        except BrokerError as exc:
            event(logging.WARNING, "fetching stopped without redis", worker=self._lease.worker, error=str(exc))
        finally:
            self._has_stopped.set()

    async def tick(self) -> None:
        """One step: take in what arrived, audit if it is time, claim if there is room, else wait for something."""
        await self._harvest()
        if self._lease.is_lost:
            await self._begin_anew()
        if self._is_audit_due():
            await self.audit()
        if stale := self._inflight.overstaying(_LONGEST_HELD_S):
            # Short jobs were followed by long ones: what cannot start soon is for those who can.
            await self._give_back(self._inflight.take_held(stale))
        room = self._inflight.room()
        if self._is_more and room > 0:
            await self._claim(min(room, CLAIM_AT_ONCE))
        elif self._inflight.free_slots <= 0 and self._blocks:
            await self._end_blocks()
        elif self._inflight.free_slots > 0 and self._may_block() and len(self._blocks) < len(self._queues):
            self._is_more = True  # slots came free since the last claim: only a claim may be followed by a block
        else:
            await self._wait()

    def poke(self) -> None:
        """Look again at once."""
        self._is_more = True
        self._inflight.signals.fetch.set()

    async def stop(self) -> None:
        """Return when nothing more is claimed; what is held then is for the caller to give back."""
        self._is_stopping = True
        self._inflight.signals.fetch.set()
        await self._has_stopped.wait()

    async def audit(self) -> None:
        """Compare the processing lists with the memory; run what is only there, forget what is only here.

        No claim and no block is under way here. Settles may be: their jobs are in the memory until Redis has
        answered, over the same connection as the look.
        """
        await self._end_blocks()
        await self._harvest()
        resets = self._broker.resets
        for keys in self._queues:
            in_redis = Counter(await self._broker.held(keys, self._lease.worker))
            in_memory = self._inflight.raws(keys, self._lease.worker)
            found = list((in_redis - in_memory).elements())
            if found:
                event(logging.WARNING, "audit found jobs", queue=keys.name, jobs=len(found), worker=self._lease.worker)
                await self._accept([(keys, MAIN, raw) for raw in reversed(found)])
            gone = in_memory - in_redis
            for job in self._inflight.of(Phase.HELD):
                if job.keys is keys and job.worker == self._lease.worker and gone[job.message.raw] > 0:
                    gone[job.message.raw] -= 1
                    event(logging.WARNING, "claim lost", **describe(job), was="held")
                    self._inflight.gone(job)
        self._audited_s, self._audited_resets, self._is_unsure = elapsed_s(), resets, False
        self._is_more = True

    def _is_audit_due(self) -> bool:
        is_old = elapsed_s() - self._audited_s > _AUDIT_BEATS * self._config.heartbeat_s
        return is_old or self._is_unsure or self._broker.resets != self._audited_resets

    async def _claim(self, want: int) -> None:
        self._turn += 1
        sent_s, lease = elapsed_s(), self._lease
        claim = await self._broker.claim(
            self._queues, self._ranks, lease.worker, lease.lease_s, want, CLAIM_BYTES, self._turn
        )
        if claim is None:
            lease.is_lost = True
            return
        lease.renewed(sent_s)
        self._schedule.note(claim.due_ms)
        self._is_more = len(claim.messages) >= want or sum(len(each.raw) for each in claim.messages) >= CLAIM_BYTES
        await self._accept([(self._queues[each.queue], each.level, each.raw) for each in claim.messages])
        if not self._is_more and self._inflight.free_slots > 0:
            self._begin_blocks()

    def _may_block(self) -> bool:
        return elapsed_s() >= self._no_block_until_s

    def _begin_blocks(self) -> None:
        """Wait at the server for each queue; only right after a claim that found nothing more."""
        if not self._may_block():
            return
        for index, keys in enumerate(self._queues):
            if index not in self._blocks:
                block = self._broker.block(keys, self._lease.worker, self._config.longest_block_s)
                task = asyncio.create_task(block, name=f"rqueue block {keys.name}")
                task.add_done_callback(lambda _: self._inflight.signals.fetch.set())
                self._blocks[index] = task

    async def _end_blocks(self) -> None:
        """End all waits; what they brought all the same is harvested next."""
        while waiting := {index: task for index, task in self._blocks.items() if not task.done()}:
            with suppress(BrokerUnavailable):
                for index in waiting:
                    await self._broker.unblock(self._queues[index])
            # Again and again: a block that was still on its way when the server looked for it has begun meanwhile.
            await asyncio.wait(waiting.values(), timeout=_UNBLOCK_AGAIN_S)
        self._is_more = True

    async def _harvest(self) -> None:
        """Take in what the waits brought, and give back what there is no slot for."""
        arrived = []
        for index, task in list(self._blocks.items()):
            if not task.done():
                continue
            del self._blocks[index]
            self._is_more = True
            error = task.exception()
            if error is None:
                raw = task.result()
                if raw is not None and raw != TOKEN:
                    arrived.append((self._queues[index], MAIN, raw))
            elif isinstance(error, BrokerFull):
                # A full Redis refuses to block; claims by script go on, with a pause.
                self._no_block_until_s = elapsed_s() + _NO_BLOCK_PAUSE_S
            elif not isinstance(error, BrokerError):
                raise error
            elif not isinstance(error, BrokerUnavailable):
                # A tombstone: the next claim says that the lease is lost. Or the main list is none: do not spin.
                self._no_block_until_s = elapsed_s() + _NO_BLOCK_PAUSE_S
                event(logging.WARNING, "block refused", queue=self._queues[index].name, error=str(error))
        if arrived:
            await self._accept(arrived)
            excess = -self._inflight.free_slots - self._inflight.pace.allowance(elapsed_s())
            if excess > 0:
                await self._give_back(self._inflight.take_held(excess))

    async def _give_back(self, jobs: list[ClaimedJob]) -> None:
        """Release jobs that were claimed beyond the room for them, uncharged. A lost reply is the audit's affair."""
        for job in jobs:
            self._inflight.gone(job)
        for keys in {id(job.keys): job.keys for job in jobs}.values():
            items = [(job.message.raw, job.id, job.level) for job in jobs if job.keys is keys]
            await self._broker.release(keys, self._lease.worker, items)

    async def _accept(self, arrived: list[tuple[QueueKeys, int, bytes]]) -> None:
        """Take in claimed messages; those without an id are given one first, those that are none are buried."""
        nameless: dict[int, list[tuple[ClaimedJob, bytes]]] = {}
        for keys, level, raw in arrived:
            job = self._read(keys, level, raw)
            if job is None:
                continue
            if job.message.header.id is not None:
                self._inflight.hold(job)
            else:
                nameless.setdefault(id(keys), []).append((job, raw))
        for jobs in nameless.values():
            await self._adopt(jobs)

    def _read(self, keys: QueueKeys, level: int, raw: bytes) -> ClaimedJob | None:
        """A claimed message as a job; None when it is none, and on its way to the dead letters."""
        worker, rank = self._lease.worker, self._ranks[self._queues.index(keys)] if level == MAIN else level
        try:
            message = Message.parse(raw, level)
            if message.header.level != MAIN:
                rank = message.header.level
            job_id = message.header.id or Call.decode(message.body).id or secrets.token_hex(16)
        except MalformedMessage as exc:
            bad = ClaimedJob(keys, worker, Message(raw, Header(level=level), raw), secrets.token_hex(16), rank)
            bad.phase, bad.seen = Phase.SETTLING, {"error": str(exc)}
            self._inflight.settle(bad, self._judge.decide(bad, Unreadable("malformed", str(exc))))
            return None
        return ClaimedJob(keys, worker, message, job_id, rank)

    async def _adopt(self, jobs: list[tuple[ClaimedJob, bytes]]) -> None:
        """Give ids to messages of producers that gave none, in Redis before anything else is done about them."""
        keys, worker = jobs[0][0].keys, jobs[0][0].worker
        for job, _ in jobs:
            job.message = job.message.changed(id=job.id)
        marks = await self._broker.adopt(keys, worker, [(raw, job.message.raw, job.id) for job, raw in jobs])
        for (job, _), mark in zip(jobs, marks or b"0" * len(jobs), strict=True):
            if mark == ord("1"):
                self._inflight.hold(job)
            elif mark == ord("2"):
                event(logging.WARNING, "duplicate dropped, a job of this id is alive", id=job.id, queue=keys.name)

    async def _begin_anew(self) -> None:
        """The lease was lost: drop what has not started, and go on under a new id."""
        old = self._lease.worker
        await self._end_blocks()
        for task in self._blocks.values():
            task.exception()  # WRONGTYPE: the tombstone; what else it may have brought is the reaper's
        self._blocks.clear()
        for job in self._inflight.take_held():
            self._inflight.gone(job)
        self._no_block_until_s = 0.0
        self._lease.renumber()
        event(logging.WARNING, "lease lost, going on under a new id", worker=self._lease.worker, was=old)
        await register(self._broker, self._queues, self._lease)
        self._is_more = True

    async def _wait(self) -> None:
        """Wait until a block ends, or there is room again, or somebody pokes."""
        fetch = self._inflight.signals.fetch
        if not len(self._inflight) and not self._is_more:
            self._inflight.signals.idle.set()
        timeout_s = (
            min(self._config.heartbeat_s, _LONGEST_HELD_S / 2) if self._inflight.held else self._config.heartbeat_s
        )
        if not self._may_block():
            timeout_s = _NO_BLOCK_PAUSE_S
        try:
            async with asyncio.timeout(timeout_s):
                await fetch.wait()
        except TimeoutError:
            self._is_more = True
        fetch.clear()


async def register(broker: Broker, queues: Sequence[QueueKeys], lease: Lease) -> None:
    """Register the worker in all its queues, under a new id where one was used before.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    sent_s = elapsed_s()
    for keys in queues:
        if not await broker.register(keys, lease.worker, lease.lease_s):
            raise BrokerError(f"worker id {lease.worker} was used before")
        await broker.announce(keys.name, again=True)  # a lease can be lost because Redis was flushed
    lease.renewed(sent_s)
