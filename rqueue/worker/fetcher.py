"""Claims messages, and waits at the server when there are none.

It alone keeps that no wake-up is missed (every block is followed by a claim over all lists), that nothing is claimed
for which there is no room, and that a message whose reply was lost is found again (the audit).
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress

from rqueue.broker.broker import Broker, Stopped, fingerprint
from rqueue.config import AppConfig, WorkerConfig
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, MalformedMessage, NotAuthentic
from rqueue.log import Recurring, event
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import TOKEN, Call, Header, Message
from rqueue.wire.seal import as_trusted, opened
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.judge import Judge
from rqueue.worker.lease import Lease
from rqueue.worker.observers import Observers
from rqueue.worker.outcome import Moving, Outcome, Revoked, Unreadable
from rqueue.worker.pausing import apply_pauses
from rqueue.worker.schedule import Schedule

CLAIM_AT_ONCE = 200
CLAIM_BYTES = 8 * 1024 * 1024
GIVE_BACK_AT_ONCE = 50
_FIRST_BLOCK_PAUSE_S = 0.05
_NO_BLOCK_PAUSE_S = 1.0
AUDIT_BEATS = 18  # a look at what nothing gave reason to look at; after a break, or an error, it is at once
_AUDIT_AGAIN_S = 0.5
_LONGEST_SUSPENSE_S = 5.0
_LONGEST_HELD_S = 0.25  # what was claimed should have started in a tenth of a second
_UNBLOCK_AGAIN_S = 0.1
_MISSED_AGAIN_S = 0.5  # nobody blocks at a part of a cluster that is away

Arrived = tuple[QueueKeys, int, bytes]
"""A claimed message: its queue, the list it came from, its bytes."""


class Fetcher:
    """Fills the table of claimed jobs.

    Args:
        broker: the broker.
        queues: the queues in which the worker has a lease; a new one is added to this list, for all who share it.
        inflight: what is claimed.
        lease: the worker's id and lease.
        schedule: told when the next scheduled job is due.
        judge: what becomes of messages that cannot be read.
        app: ranks of the queues.
        config: the worker's settings.
        observers: told of each job that was claimed.

    Attributes:
        served: the queues to claim from: those with a lease, but those that were dropped.
        paused: those of them that are paused: nothing is claimed from them, and nobody waits at them.
        fetched_ms: when Redis last answered, or there was last no room to ask for more; Redis's time.
    """

    def __init__(
        self,
        broker: Broker,
        queues: list[QueueKeys],
        inflight: Inflight,
        lease: Lease,
        schedule: Schedule,
        judge: Judge,
        app: AppConfig,
        config: WorkerConfig,
        observers: Observers | None = None,
    ) -> None:
        self._observers = observers
        self._broker, self._queues, self._inflight, self._lease = broker, queues, inflight, lease
        self._schedule, self._judge, self._config = schedule, judge, config
        self.served = list(queues)
        self.paused: set[QueueKeys] = set()
        self.fetched_ms = 0
        self._app = app
        self._ranks: dict[QueueKeys, int] = {}
        self._blocks: dict[QueueKeys, asyncio.Task[bytes | None]] = {}
        self._changes: list[tuple[QueueKeys, bool, asyncio.Future[bool]]] = []
        self._turn = 0
        self._is_more = True
        self._no_block_until_s = 0.0
        self._block_pause_s = _FIRST_BLOCK_PAUSE_S
        self._audited_s = elapsed_s()
        self._audited_resets = broker.resets
        self._is_unsure = False
        self._missed: list[QueueKeys] = []
        self._waits = Recurring()
        self._is_stopping = False
        self._has_stopped = asyncio.Event()

    async def run(self) -> None:
        """Fetch until it is stopped; whatever Redis says, it goes on."""
        pause = 0.05
        while not self._is_stopping:
            try:
                await self.tick()
                pause = 0.05
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop fetching
                self._waits.event(
                    logging.WARNING if isinstance(exc, BrokerError) else logging.CRITICAL,
                    "fetching waits for redis" if isinstance(exc, BrokerError) else "fetching failed",
                    worker=self._lease.worker,
                    error=str(exc) if isinstance(exc, BrokerError) else repr(exc),
                )
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
            self._refuse_changes()
            self._has_stopped.set()

    async def tick(self) -> None:
        """One step: take in what arrived, audit if it is time, claim if there is room, else wait for something."""
        await self._harvest()
        if self._lease.is_lost:
            await self._begin_anew()
        while self._changes:
            await self._change(*self._changes.pop(0))
        if self._is_audit_due():
            await self.audit()
        if stale := self._inflight.overstaying(_LONGEST_HELD_S):
            # Short jobs were followed by long ones: what cannot start soon is for those who can.
            await self._give_back(self._inflight.take_held(stale))
        room = self._inflight.room()
        if room <= 0 or not self.served:
            self.fetched_ms = self._broker.clock.now_ms()
        if not self.served:
            self._is_more = False
            await self._wait()
        elif self._is_more and room > 0:
            await self._claim(min(room, CLAIM_AT_ONCE))
        elif self._inflight.free_slots <= 0 and self._blocks:
            # Not waited for: where an ACL forbids it they end by their timeout, and meanwhile slots may come free.
            await self._unblock()
            await self._wait(_UNBLOCK_AGAIN_S)
        elif self._inflight.free_slots > 0 and self._may_block() and self._unblocked():
            self._is_more = True  # slots came free since the last claim: only a claim may be followed by a block
        else:
            await self._wait()

    def poke(self) -> None:
        """Look again at once."""
        self._is_more = True
        self._inflight.signals.fetch.set()

    async def serve(self, keys: QueueKeys) -> bool:
        """Claim from this queue as well, from now on; false when it was served already.

        Raises:
            BrokerError: Redis gave no lease for it, or the worker stops.
        """
        return await self._ask_for_change(keys, True)

    async def drop(self, keys: QueueKeys) -> bool:
        """Claim no more from this queue, and give back what is held of it; false when it was not served.

        What runs goes on, and the lease stays.

        Raises:
            BrokerError: the worker stops.
        """
        return await self._ask_for_change(keys, False)

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
        # Noted first: an audit that fails is repeated after a heartbeat, and claims go on meanwhile.
        self._audited_s, self._audited_resets, self._is_unsure = elapsed_s(), resets, False
        for keys in self._queues:
            if keys in self._missed:
                self._is_unsure = True  # looked at once a claim has come through, and renewed the lease there
            else:
                await self._audit_queue(keys)
        self._is_more = True

    async def _ask_for_change(self, keys: QueueKeys, serve: bool) -> bool:
        """Have the fetcher's own loop do it, between two claims: no reply on its way speaks of other queues."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._changes.append((keys, serve, done))
        if self._is_stopping:
            self._refuse_changes()
        self._inflight.signals.fetch.set()
        return await done

    async def _change(self, keys: QueueKeys, serve: bool, done: asyncio.Future[bool]) -> None:
        try:
            is_new = (keys in self.served) is not serve
            if is_new:
                await (self._begin_serving(keys) if serve else self._end_serving(keys))
        except BaseException as exc:
            if not done.done():
                done.set_exception(exc if isinstance(exc, BrokerError) else BrokerError(f"it failed: {exc!r}"))
            raise  # what was under way may have claimed something
        if not done.done():
            done.set_result(is_new)

    def _refuse_changes(self) -> None:
        for _, _, done in self._changes:
            if not done.done():
                done.set_exception(BrokerError("the worker stops"))
        self._changes.clear()

    async def _begin_serving(self, keys: QueueKeys) -> None:
        """The lease first: whoever renews a lease that is not there has lost them all."""
        if keys not in self._queues:
            await register(self._broker, [keys], self._lease)
            self._queues.append(keys)
        self.served.append(keys)
        self._is_more = True

    async def _end_serving(self, keys: QueueKeys) -> None:
        self.served.remove(keys)
        await self._end_blocks()
        await self._harvest()
        await self._give_back(self._inflight.take_held(queue=keys))

    async def _audit_queue(self, keys: QueueKeys) -> None:
        worker = self._lease.worker
        in_redis = await self._broker.audit(keys, worker)
        jobs = {job: fingerprint(raw) for job, raw in self._inflight.listed(keys, worker)}
        in_memory = Counter(jobs.values())
        found: list[Arrived] = []
        for index in reversed(range(len(in_redis))):
            mark = in_redis[index]
            if in_memory[mark] > 0:
                in_memory[mark] -= 1
            elif mark:
                raw = await self._broker.held_at(keys, worker, index)
                # A settle may have moved the rest meanwhile: then the next audit finds it.
                if raw is not None and fingerprint(raw) == mark:
                    found.append((keys, MAIN, raw))
                else:
                    self._is_unsure = True
        if found:
            event(logging.WARNING, "audit found jobs", queue=keys.name, jobs=len(found), worker=worker)
            ids = [job_id for _, _, raw in found if (job_id := Message.id_of(raw)) is not None]
            await self._accept(self._without_revoked(found, keys, await self._broker.revoked(keys, ids)))
        for job, mark in jobs.items():
            if job.phase is Phase.HELD and in_memory[mark] > 0:
                in_memory[mark] -= 1
                event(logging.WARNING, "claim lost", **describe(job), was="held")
                self._inflight.gone(job)

    def _is_audit_due(self) -> bool:
        age_s, beat_s = elapsed_s() - self._audited_s, self._config.heartbeat_s
        if self._broker.resets != self._audited_resets and age_s > min(_AUDIT_AGAIN_S, beat_s):
            return True
        return age_s > (beat_s if self._is_unsure else AUDIT_BEATS * beat_s)

    async def _claim(self, want: int) -> None:
        self._turn += 1
        sent_s, lease, queues = elapsed_s(), self._lease, self.served
        ranks = [self._rank(keys) for keys in queues]
        claim = await self._broker.claim(queues, ranks, lease.worker, lease.lease_s, want, CLAIM_BYTES, self._turn)
        if claim is None:
            lease.is_lost = True
            return
        if not lease.may_start():
            self._inflight.signals.execute.set()  # the heart, which says so else, may not reach all nodes of a cluster
        lease.renewed(sent_s)
        self.fetched_ms = self._broker.clock.now_ms()
        self._schedule.note(claim.due_ms)
        self._is_more = len(claim.messages) >= want or sum(len(each.raw) for each in claim.messages) >= CLAIM_BYTES
        if claim.missed or self._missed:
            self._note_missed([queues[place] for place in claim.missed], claim.error)
        if claim.stopped or self.paused or self._inflight.paused_tasks:
            await self._note_stops({queues[each.queue]: each for each in claim.stopped})
        arrived = [(queues[each.queue], each.level, each.raw) for each in claim.messages]
        for stopped in claim.stopped:
            arrived = self._without_revoked(arrived, queues[stopped.queue], stopped.revoked)
        await self._accept(arrived)
        if not self._is_more and self._inflight.free_slots > 0:
            self._begin_blocks()

    def _note_missed(self, missed: list[QueueKeys], error: BrokerError | None) -> None:
        """A part of a cluster could not be asked: nothing of its queues starts, and the audit looks what they have."""
        if missed and not self._missed:
            names = sorted(keys.name for keys in missed)
            event(
                logging.WARNING,
                "claims wait for some queues",
                worker=self._lease.worker,
                queues=names,
                error=str(error),
            )
        elif self._missed and not missed:
            event(logging.INFO, "claims reach all queues again", worker=self._lease.worker)
        self._missed = missed
        self._is_unsure = self._is_unsure or bool(missed)
        for keys in missed:
            for job in self._inflight.take_held(queue=keys):
                self._inflight.gone(job)  # its lease is not known to be renewed

    async def _note_stops(self, stopped: dict[QueueKeys, Stopped]) -> None:
        """Of a queue that has been paused nothing more starts; a block at it ends by the token that pausing left."""
        paused = {keys for keys, each in stopped.items() if each.is_paused}
        newly, before, self.paused = paused - self.paused, self.paused, paused
        self._inflight.paused_tasks = {keys: each.tasks for keys, each in stopped.items() if each.tasks}
        for keys in before - paused:
            event(logging.INFO, "queue resumed", queue=keys.name, worker=self._lease.worker)
        for keys in newly:
            event(logging.INFO, "queue paused", queue=keys.name, worker=self._lease.worker)
            await self._give_back(self._inflight.take_held(queue=keys))

    def _without_revoked(self, arrived: list[Arrived], keys: QueueKeys, revoked: Collection[str]) -> list[Arrived]:
        """What may start of what arrived; the cancelled jobs of that queue are settled, and do not."""
        if not revoked:
            return arrived
        rest = []
        for each in arrived:
            if each[0] is keys and Message.id_of(each[2]) in revoked and (job := self._read(*each)) is not None:
                call: Call | None = None
                outcome: Outcome = Revoked()
                with suppress(MalformedMessage):
                    call = Call.decode(job.message.body)
                    job.seen["task"] = call.task
                    if call.move is not None and call.move.queue != keys.name:
                        outcome = Moving(call, call.move)  # it may be in the other queue already: the stop goes along
                job.phase = Phase.SETTLING  # it is not held, and never was
                self._inflight.settle(job, self._judge.decide(job, outcome, call))
            else:
                rest.append(each)
        return rest

    def _unblocked(self) -> list[QueueKeys]:
        """Queues to wait at, at which nobody waits."""
        served = [keys for keys in self.served if keys not in self._blocks and keys not in self.paused]
        return [keys for keys in served if keys not in self._missed] if self._missed else served

    def _may_block(self) -> bool:
        return elapsed_s() >= self._no_block_until_s

    def _begin_blocks(self) -> None:
        """Wait at the server for each queue; only right after a claim that found nothing more."""
        if not self._may_block():
            return
        for keys in self._unblocked():
            block = self._broker.block(keys, self._lease.worker, self._config.longest_block_s)
            task = asyncio.create_task(block, name=f"rqueue block {keys.name}")
            task.add_done_callback(lambda _: self._inflight.signals.fetch.set())
            self._blocks[keys] = task

    async def _end_blocks(self) -> None:
        """End all waits; what they brought all the same is harvested next."""
        while waiting := [task for task in self._blocks.values() if not task.done()]:
            await self._unblock()
            # Again and again: a block that was still on its way when the server looked for it has begun meanwhile.
            await asyncio.wait(waiting, timeout=_UNBLOCK_AGAIN_S)
        self._is_more = True

    async def _unblock(self) -> None:
        for keys, task in list(self._blocks.items()):
            if not task.done():
                try:
                    await self._broker.unblock(keys)
                except BrokerUnavailable:
                    if not self._broker.is_cluster:
                        return

    async def _harvest(self) -> None:
        """Take in what the waits brought, and give back what there is no slot for."""
        arrived: list[Arrived] = []
        for keys, task in list(self._blocks.items()):
            if not task.done():
                continue
            del self._blocks[keys]
            self._is_more = True
            error = task.exception()
            if error is None:
                self._block_pause_s = _FIRST_BLOCK_PAUSE_S
                raw = task.result()
                if raw is not None and raw != TOKEN:
                    arrived.append((keys, MAIN, raw))
            elif not isinstance(error, BrokerError):
                raise error
            else:
                # A full Redis refuses to block; a main list may be none; a connection may not open. Claims by script
                # go on, and blocks are tried again, later each time. A tombstone: the next claim says that the lease
                # is lost.
                self._no_block_until_s = elapsed_s() + self._block_pause_s
                self._block_pause_s = min(2 * self._block_pause_s, _NO_BLOCK_PAUSE_S)
                if not isinstance(error, BrokerUnavailable | BrokerFull):
                    self._waits.event(logging.WARNING, "block refused", queue=keys.name, error=str(error))
        if arrived:
            await self._accept(arrived)
            if (room := self._inflight.room()) < 0:
                await self._give_back(self._inflight.take_held(-room))
        await self._make_way()

    async def _make_way(self) -> None:
        """While a job must run alone, nothing else is held; if it has waited in vain, somebody else may try."""
        suspect = self._inflight.exclusive
        if suspect is None:
            return
        has_waited = suspect.phase is Phase.HELD and elapsed_s() - suspect.held_s > _LONGEST_SUSPENSE_S
        if jobs := self._inflight.take_held(but=None if has_waited else suspect):
            await self._give_back(jobs)

    async def _give_back(self, jobs: list[ClaimedJob]) -> None:
        """Release jobs that were claimed beyond the room for them, uncharged. A lost reply is the audit's affair."""
        for job in jobs:
            self._inflight.gone(job)
        for keys in {id(job.keys): job.keys for job in jobs}.values():
            items = [(job.message.raw, job.id, job.level) for job in jobs if job.keys is keys]
            await self._broker.release(keys, self._lease.worker, items)

    async def _accept(self, arrived: list[Arrived]) -> None:
        """Take in claimed messages; those without an id are given one first, those that are none are buried."""
        held: list[ClaimedJob] = []
        nameless: dict[int, list[tuple[ClaimedJob, bytes]]] = {}
        for keys, level, raw in arrived:
            job = self._read(keys, level, raw)
            if job is None:
                continue
            if job.message.header.id is not None:
                held.append(job)
            else:
                nameless.setdefault(id(keys), []).append((job, raw))
        if held:
            self._inflight.hold(*held)
        if self._observers:
            for job in (*held, *(job for jobs in nameless.values() for job, _ in jobs)):
                self._observers.received(job)
        for jobs in nameless.values():
            await self._adopt(jobs)
        for keys in self.paused & {keys for keys, _, _ in arrived} if self.paused else ():
            await self._give_back(self._inflight.take_held(queue=keys))  # an audit found it

    def _read(self, keys: QueueKeys, level: int, raw: bytes) -> ClaimedJob | None:
        """A claimed message as a job; None when it is none, and on its way to the dead letters."""
        worker = self._lease.worker
        try:
            message = Message.parse(raw, level)
            if self._judge.keyring is not None:
                message = opened(self._judge.keyring, message, keys.main)
            job_id = message.header.id or Call.decode(message.body).id or secrets.token_hex(16)
        except NotAuthentic as exc:
            message = as_trusted(self._judge.keyring, Message.parse(raw, level), keys.main)
            bad = ClaimedJob(keys, worker, message, message.header.id or secrets.token_hex(16), level)
            self._bury(bad, Unreadable("not authentic", str(exc), NotAuthentic.__name__))
            return None
        except MalformedMessage as exc:
            bad = ClaimedJob(keys, worker, Message(raw, Header(level=level), raw), secrets.token_hex(16), level)
            self._bury(bad, Unreadable("malformed", str(exc)))
            return None
        rank = message.header.level or level or self._rank(keys)
        return ClaimedJob(keys, worker, message, job_id, rank)

    def _bury(self, job: ClaimedJob, outcome: Unreadable) -> None:
        job.phase, job.seen = Phase.SETTLING, {"error": outcome.text}
        self._inflight.settle(job, self._judge.decide(job, outcome))

    def _rank(self, keys: QueueKeys) -> int:
        """Where the queue's jobs without a priority rank among the others."""
        rank = self._ranks.get(keys)
        if rank is None:
            rank = self._ranks[keys] = self._app.queue(keys.name).priority
        return rank

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
            task.exception()  # WRONGTYPE: the tombstone; what it may have brought all the same stands in the list
        self._blocks.clear()
        for job in self._inflight.take_held():
            self._inflight.gone(job)
        for keys in self._queues:
            await self._clear_out(keys, old)
        self._no_block_until_s = 0.0
        self._lease.renumber()
        event(logging.WARNING, "lease lost, going on under a new id", worker=self._lease.worker, was=old)
        await register(self._broker, self._queues, self._lease)
        self._is_more = True

    async def _clear_out(self, keys: QueueKeys, old: str) -> None:
        """Put back what blocks have popped into the list of a worker that is registered no more, and close the list.

        Where a reaper took it, the list is closed already. After a flush it is not: a block that waited at the server
        goes on, and what it pops has no owner; where that has started here, its end is refused, and it runs again. If
        we die before this, the search for such lists finds it.
        """
        verdict = 0
        while verdict == 0:
            raws, _ = await self._broker.remains(keys, old, GIVE_BACK_AT_ONCE)
            verdict = await self._broker.reap(keys, old, [(raw, _level(raw), raw) for raw in raws])

    async def _wait(self, longest_s: float = math.inf) -> None:
        """Wait until a block ends, or there is room again, or somebody pokes, or the time is up."""
        fetch = self._inflight.signals.fetch
        if not len(self._inflight) and not self._is_more:
            self._inflight.signals.idle.set()
        timeout_s = min(longest_s, self._config.heartbeat_s)
        if self._inflight.held:
            timeout_s = min(timeout_s, _LONGEST_HELD_S / 2)
        if self._missed:
            timeout_s = min(timeout_s, _MISSED_AGAIN_S)
        if not self._may_block():
            timeout_s = min(timeout_s, max(0.01, self._no_block_until_s - elapsed_s()))
        try:
            async with asyncio.timeout(timeout_s):
                await fetch.wait()
        except TimeoutError:
            self._is_more = self._is_more or longest_s == math.inf
        fetch.clear()


def _level(raw: bytes) -> int:
    """The list that a message belongs to, as far as it says so."""
    try:
        return Message.parse(raw).header.level
    except MalformedMessage:
        return MAIN


async def register(broker: Broker, queues: Sequence[QueueKeys], lease: Lease) -> None:
    """Register the worker in all its queues, under a new id where one was used before.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    lease.registering(lease.worker)
    sent_s = elapsed_s()
    for keys in queues:
        if not await broker.register(keys, lease.worker, lease.lease_s):
            raise BrokerError(f"worker id {lease.worker} was used before")
        await broker.announce(keys.name, again=True)  # a lease can be lost because Redis was flushed
    await apply_pauses(broker, queues)  # known to all who pause from here on: what was paused before is found now
    lease.renewed(sent_s)
