"""Takes back the jobs of workers whose lease ran out. Every worker does; only the one that finds a message moves it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from rqueue.broker.broker import Broker, Done, Known
from rqueue.client.client import Client
from rqueue.client.options import TaskOptions
from rqueue.client.registry import Registry
from rqueue.client.stops import forget
from rqueue.config import Limits, WorkerConfig
from rqueue.errors import BrokerError, BrokerUnavailable, MalformedMessage, WorkerLost
from rqueue.log import Recurring, event
from rqueue.policy.redelivery import Redelivery, charged, redeliver
from rqueue.wire import codec
from rqueue.wire.history import is_moment
from rqueue.wire.keys import QueueKeys, shown
from rqueue.wire.message import Call, Header, Message
from rqueue.wire.record import Failure, decode_record
from rqueue.wire.seal import as_trusted, open_record
from rqueue.worker.inflight import ClaimedJob, describe
from rqueue.worker.judge import Judge
from rqueue.worker.observers import Listening
from rqueue.worker.outcome import Ack, Bury, Revoke, Revoked

REAP_AT_ONCE = 50
FORGET_AT_ONCE = 100
_PART = 0.2  # of a heartbeat: leases that end within it are one look's, and so soon it does not look again
_LATE_S = 0.01  # after a lease's end, so that it is seen to have ended
LOOKS_PER_SEARCH = 5  # a step of the search for lists without an owner: they come only from outside
_LOOKS_UNTIL_OLD = 12  # old dead letters and forgotten locks are looked for once a minute, with the default lease


class Reaper:
    """Looks for dead workers at each heartbeat.

    Args:
        broker: the broker.
        queues: the queues to serve.
        tasks: what a task wants done about its results and dead letters.
        judge: makes a failure of a job that has cost too many workers.
        limits: how many dead letters are kept, and for how long.
        config: the heartbeat, and at how many losses a job is a dead letter.
        observers: told of each job that ended so.

    Attributes:
        pause_s: seconds until the next look.
    """

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[QueueKeys],
        tasks: Registry,
        judge: Judge,
        limits: Limits,
        config: WorkerConfig,
        observers: Listening | None = None,
    ) -> None:
        self._observers = observers
        self._broker, self._queues, self._tasks, self._judge, self._limits = broker, queues, tasks, judge, limits
        self._heartbeat_s, self._max_deliveries = config.heartbeat_s, config.max_deliveries
        self.pause_s = self._heartbeat_s
        self._seen: set[tuple[str, str]] = set()
        self._cursor = 0
        self._pruned: dict[str, int] = {}
        self._looks = 0
        self._number = 0
        self._id = secrets.token_hex(4)
        self._waits = Recurring()

    async def run(self) -> None:
        """Look at each heartbeat, or when a lease ends before the next one, until cancelled."""
        while True:
            await asyncio.sleep(self.pause_s)
            try:
                await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop reaping
                # Nobody is condemned on what was seen before a break: a stalled Redis is not a dead fleet.
                self._seen.clear()
                self.pause_s = self._heartbeat_s
                self._waits.event(logging.WARNING, "reaping waits for redis", error=str(exc) or repr(exc))

    async def tick(self) -> int:
        """One look; how many messages were moved. A worker is reaped when two looks in a row find its lease run out."""
        self._looks += 1
        found = await self._overdue()
        self.pause_s = self._pause_s([left_s for _, leases in found for left_s in leases.values()])
        orphans: list[tuple[QueueKeys, str]] = []
        if self._looks % LOOKS_PER_SEARCH == 1:
            try:
                self._cursor, orphans = await self._broker.orphans(self._queues, self._cursor)
            except BrokerUnavailable:
                if not self._broker.is_cluster:
                    raise  # else the search goes on there when the node is back
        overdue = {
            (keys.name, worker): keys for keys, leases in found for worker, left_s in leases.items() if left_s <= 0
        }
        if self._looks % _LOOKS_UNTIL_OLD == 0:
            for keys, _ in found:
                await self._broker.announce(keys.name)
                await self._broker.discard_old(keys, self._limits.dead_ttl_s)
                for job_id in await self._broker.stale_stops(keys, FORGET_AT_ONCE):
                    await forget(self._broker, keys, job_id)
        await self._prune([keys for keys, _ in found])
        dead = [(keys, worker) for (name, worker), keys in overdue.items() if (name, worker) in self._seen]
        self._seen = set(overdue)
        return await self.reap([*dead, *orphans])

    async def reap(self, gone: Sequence[tuple[QueueKeys, str]]) -> int:
        """Take back what workers have left whose lease ran out, or that are not registered; how many messages.

        Nothing of a worker whose lease has not run out is moved: the step asks once more. May be repeated.
        """
        moved = 0
        # Asked before anything is moved: a job of one queue may explain the loss of another queue's.
        charged = {worker: await self._charged(worker) for worker in {worker for _, worker in gone}}
        for keys, worker in gone:
            try:
                moved += await self._reap(keys, worker, charged[worker])
            except BrokerUnavailable:
                raise
            except BrokerError as exc:  # one list is none: the others are reaped all the same
                event(logging.ERROR, "redis refused to reap", queue=keys.name, worker=worker, error=str(exc))
        return moved

    def _pause_s(self, left_s: Sequence[float]) -> float:
        """How long until the next look, by how long the leases last that end soon.

        Who has missed heartbeats is first seen as lost when its lease ends, and not at the heartbeat after: its jobs
        are back that much sooner. A host's processes end within a moment: one look for all of them. Where a worker has
        been seen already, a heartbeat lies between the two looks.
        """
        beat_s = self._heartbeat_s
        if not left_s or min(left_s) <= 0 or min(left_s) > beat_s:
            return beat_s
        return max(*left_s, beat_s * _PART) + _LATE_S

    async def _overdue(self) -> list[tuple[QueueKeys, dict[str, float]]]:
        """The queues that can be asked, and whose leases have run out, or soon will, in each.

        Of a cluster a part may be away. What was seen of it before does not count when it is back.
        """
        soon_s = self._heartbeat_s * (1 + _PART)
        # Asked together: one round trip for all queues.
        looks = await asyncio.gather(
            *(self._broker.overdue(keys, soon_s) for keys in self._queues), return_exceptions=True
        )
        found = [(keys, each) for keys, each in zip(self._queues, looks, strict=True) if isinstance(each, dict)]
        errors = [each for each in looks if isinstance(each, BaseException)]
        for error in errors:
            if not found or not self._broker.is_cluster or not isinstance(error, BrokerUnavailable):
                raise error
        if errors:
            self._waits.event(logging.WARNING, "reaping waits for redis", error=str(errors[0]), queues=len(errors))
        return found

    async def _prune(self, queues: Sequence[QueueKeys]) -> None:
        """Begin once a minute, and go on by a page in each look: however many locks there are, no look takes long."""
        for keys in queues:
            cursor = self._pruned.get(keys.name, 0)
            if cursor or self._looks % _LOOKS_UNTIL_OLD == 0:
                self._pruned[keys.name] = await self._broker.prune(keys, cursor)

    async def take_back(self, worker: str, uncharged: bool = False, suspect: str | None = None) -> int:
        """Take back the jobs of a worker whose process is known to be dead; how many. May be repeated.

        Args:
            worker: its id.
            uncharged: it was ended on purpose, so that its jobs are not to blame.
            suspect: the job that alone is charged, if it had started.

        Raises:
            BrokerError: Redis could not be asked; what is left is the next call's, or any reaper's.
        """
        charged = set() if uncharged else await self._charged(worker)
        if suspect in charged:
            charged = {suspect}
        moved, refused = 0, None
        for keys in self._queues:
            try:
                while await self._broker.condemn(keys, worker):
                    # What the dead process had still sent may have renewed the lease; then it is condemned again.
                    moved += await self._reap(keys, worker, charged)
            except BrokerError as exc:  # a list is none, or a part of a cluster is away: the other queues' come back
                if isinstance(exc, BrokerUnavailable) and not self._broker.is_cluster:
                    raise
                refused = exc
        if refused is not None:
            raise refused
        return moved

    async def _charged(self, worker: str) -> set[str]:
        """Which of the jobs that had started are charged with their worker's loss, over all queues."""
        losses: dict[str, int] = {}
        for keys in self._queues:
            try:
                _, started = await self._broker.remains(keys, worker, 1)
                marks = await self._broker.audit(keys, worker) if started else []
            except BrokerUnavailable:
                if not self._broker.is_cluster:
                    raise
                continue  # its node is away; a job there that had started too is charged by its own queue's reap
            except BrokerError:
                continue  # a key that is none of ours: it is reported when it is reaped
            for mark in marks:
                with suppress(MalformedMessage):
                    header = Message.parse(mark.partition(b":")[2]).header
                    if header.id in started:
                        losses[header.id] = header.losses
        return charged(losses)

    async def _reap(self, keys: QueueKeys, worker: str, charged: set[str]) -> int:
        """Move all that a dead worker left. If we die half-way, another reaper goes on with the rest."""
        moved, early = 0, None
        while True:
            raws, started = await self._broker.remains(keys, worker, REAP_AT_ONCE)
            ids = {raw: Message.id_of(raw) for raw in raws}
            early = set(started) if early is None else early
            early.difference_update(filter(None, ids.values()))
            # Cancelled: it goes back as it is, and is REVOKED by whoever claims it.
            revoked = await self._broker.revoked(keys, [each for each in ids.values() if each])
            back: list[tuple[bytes, int, bytes]] = []
            for raw in raws:
                fate = self._fate(raw, charged) if ids[raw] not in revoked else None
                if fate is None:
                    back.append((raw, 0, raw))
                elif not fate.is_dead:
                    back.append((raw, fate.message.header.level, fate.message.raw))
                elif not await self._bury(keys, worker, raw, fate.message):
                    return moved  # alive after all
            verdict = await self._broker.reap(keys, worker, back)
            if verdict < 0:
                return moved
            moved += len(raws)
            if verdict == 1:
                await self._report_early(keys, worker, early)
                event(logging.WARNING, "worker reaped", queue=keys.name, worker=worker, jobs=moved)
                return moved

    def _fate(self, raw: bytes, charged: set[str]) -> Redelivery | None:
        try:
            message = Message.parse(raw)
        except MalformedMessage:
            return None  # whoever claims it next buries it
        return redeliver(message, message.header.id in charged, self._max_deliveries)

    async def _bury(self, keys: QueueKeys, worker: str, raw: bytes, message: Message) -> bool:
        """A job that has cost too many workers becomes a dead letter; false when its worker is alive after all."""
        message = as_trusted(self._judge.keyring, message, keys.main)
        job = ClaimedJob(keys, shown(worker), message, str(message.header.id), rank=0)
        losses = message.header.losses
        failure = Failure(WorkerLost.__name__, f"{losses} workers died while they ran it; the last was {job.worker}")
        call, options = self._known(message)
        settlement = self._judge.failed(job, failure, "worker lost", call, options)
        assert isinstance(settlement, Ack | Bury)
        letter, keep = (settlement.letter, self._limits.dead_max) if isinstance(settlement, Bury) else (b"", 0)
        self._number += 1
        answer = await self._broker.bury(
            keys,
            worker,
            f"reaper {self._id}",
            self._number,
            Done(raw, job.id, settlement.record, settlement.ttl),
            letter,
            keep,
            self._limits.dead_ttl_s,
            by_reaper=True,
        )
        if answer == b"1":
            event(logging.ERROR, "job failed", **describe(job), error="WorkerLost", losses=losses)
            if self._observers:
                self._observers.settled(job, settlement)
        return answer is not None

    async def _report_early(self, keys: QueueKeys, worker: str, ids: set[str]) -> None:
        """Jobs that had been settled before they started (acks_late=False) do not run again: they failed.

        If we die before this, they are simply not known any more.
        """
        name = shown(worker)
        failure = Failure(WorkerLost.__name__, f"its worker died, and it runs at most once; the worker was {name}")
        revoked = await self._broker.revoked(keys, list(ids))
        told = zip(ids, await self._broker.known([(keys, job_id) for job_id in ids]), strict=True)
        for job_id, known in told:
            job = ClaimedJob(keys, name, Message.build(Header(id=job_id), b"{}"), job_id, rank=0)
            call = self._started_call(job, known)
            settlement = self._judge.failed(job, failure, "worker lost", call, TaskOptions(dead_letter=False))
            if job_id in revoked:
                settlement = self._judge.decide(job, Revoked(), call)
            assert isinstance(settlement, Ack | Revoke)
            is_told = await self._broker.record(keys, job_id, settlement.record, settlement.ttl, started_by=worker)
            if is_told and self._observers:
                self._observers.settled(job, settlement)
            if job_id in revoked:
                await forget(self._broker, keys, job_id)

    def _started_call(self, job: ClaimedJob, known: Known | BrokerError) -> Call | None:
        """What is left of the call of a job whose message is gone: what its record says since it started."""
        if not isinstance(known, Known) or known.record is None:
            return None
        try:
            fields = decode_record(open_record(self._judge.keyring, job.keys.main, job.id, known.record))
            found = {name: fields[name] for name in ("task", "enqueued", "parent_id", "root_id") if name in fields}
            call = Call.decode(codec.dumps(found))
        except MalformedMessage:
            return None
        started = fields.get("started")
        job.started_ms = started if is_moment(started) else None
        # With the loss of its worker: it tells this end from one that the worker itself may still write.
        losses, retries = (count if is_moment(count := fields.get(name)) else 0 for name in ("losses", "retries"))
        job.message = Message.build(Header(id=job.id, losses=losses + 1, retries=retries), b"{}")
        return call

    def _known(self, message: Message) -> tuple[Call | None, TaskOptions]:
        """The call and its task's options, as far as they are known here."""
        try:
            call = Call.decode(message.body)
        except MalformedMessage:
            return None, TaskOptions()
        task = self._tasks.find(call.task)
        return call, task.defaults if task is not None else TaskOptions()


def for_operators(client: Client, queues: Sequence[QueueKeys]) -> Reaper:
    """A reaper that is told whom to reap.

    It makes no dead letters: how many workers a job may cost, workers say, and it does not know their settings. Such a
    job goes back with its loss, and the next worker that it costs has it buried.
    """
    config = replace(WorkerConfig(), max_deliveries=sys.maxsize)
    broker, limits = client.session().broker, client.config.limits
    return Reaper(
        broker, queues, client.tasks, Judge(limits, config, broker.clock.now_ms, client.keyring), limits, config
    )
