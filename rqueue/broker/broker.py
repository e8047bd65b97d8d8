"""The verbs: each is one script, or one blocking command, and says what it did.

Nothing here retries and nothing decides. A :class:`~rqueue.errors.ReplyLost` means that the step may have happened;
each verb's docstring says what sending it again does.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Argument, Link, NoScript, Reply
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, ReplyLost
from rqueue.policy.clock import RedisClock, elapsed_s
from rqueue.wire.keys import MAIN, Keys, QueueKeys
from rqueue.wire.message import TOKEN

REPLY_TIMEOUT_S: Final = 10.0
"""A reply that takes longer breaks the connection: ten times what a healthy Redis needs for its slowest step here."""

_RECORD = re.compile(rb'\{"state":"[A-Z]+"')

_FRESH: Final = {ord("0"): False, ord("1"): True, ord("2"): None}

PROMOTE_AT_ONCE: Final = 100
PURGE_AT_ONCE: Final = 1000
PRUNE_AT_ONCE: Final = 1000
CANCEL_LOOKS_AT: Final = 1000
CANCEL_LOOKS_AT_BYTES: Final = 1024 * 1024
SCAN_AT_ONCE: Final = 1000
SENT_TTL_S: Final = 120  # twice the longest enqueue_timeout
ANNOUNCE_EVERY_S: Final = 1.0


class Enqueued(NamedTuple):
    """One job of an enqueue batch.

    Attributes:
        id: the job's id.
        is_custom: the caller chose it, so that it may be taken.
        level: the list it goes to.
        due: '' now, '+ms' from now, or 'ms' since the epoch.
        message: its bytes.
        lock: '' for none, or how, for how long and under which name it is locked, as ``admit.lua`` takes it.
    """

    id: str
    is_custom: bool
    level: int
    due: str
    message: bytes
    lock: str = ""


class Claimed(NamedTuple):
    """One claimed message: its queue's place in the claim, the list it came from, its bytes."""

    queue: int
    level: int
    raw: bytes


class Stopped(NamedTuple):
    """What must not run in one queue of a claim.

    Attributes:
        queue: its place in the claim.
        is_paused: nothing of it is claimed.
        tasks: the names of the tasks that are paused.
        revoked: the ids of the claimed messages that were revoked.
    """

    queue: int
    is_paused: bool
    tasks: frozenset[str]
    revoked: frozenset[str]


class Claim(NamedTuple):
    """What a claim brought.

    Attributes:
        due_ms: ms until the first scheduled job of any of the queues, or None.
        messages: in the order in which they should run.
        stopped: the queues in which something must not run.
    """

    due_ms: int | None
    messages: list[Claimed]
    stopped: tuple[Stopped, ...] = ()


class Done(NamedTuple):
    """One finished job of an ack batch; ``ttl`` is '' for ever, '0' not at all, else seconds."""

    raw: bytes
    id: str
    record: bytes
    ttl: str


class Tick(NamedTuple):
    """What a look at a periodic schedule brings.

    Attributes:
        name: the schedule's.
        read: the schedule as it was read.
        now_ms: Redis's time by which this was decided.
        level: the list that its jobs go to.
        after, look_ms: the schedule as it goes on, and when it is looked at then.
        last_id: the job that must not be alive, or ''.
        held, held_look_ms: as ``after`` and ``look_ms``, where it is alive.
        jobs: id and message of each job.
    """

    name: str
    read: bytes
    now_ms: int
    level: int
    after: bytes
    look_ms: int
    last_id: str
    held: bytes
    held_look_ms: int
    jobs: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a queue holds.

    Attributes:
        waiting: by level, 0 the main list; tokens are not counted.
        scheduled, running, dead: jobs.
        workers: registered ones.
        counts: jobs by the state in which they ended, of about the last day.
        is_paused: nothing of it is claimed.
        paused_tasks: the tasks of which nothing is started.
    """

    waiting: tuple[int, ...]
    scheduled: int
    running: int
    dead: int
    workers: int
    counts: dict[str, int]
    is_paused: bool = False
    paused_tasks: tuple[str, ...] = ()

    @property
    def claimable(self) -> int:
        """Waiting jobs, as far as they may be claimed: none of a paused queue."""
        return 0 if self.is_paused else sum(self.waiting)


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of an id: its record's bytes if any, and whether it lives or is among the dead or scheduled."""

    record: bytes | None
    is_alive: bool
    is_scheduled: bool
    is_dead: bool


class Broker:
    """The verbs on one Redis, for one event loop.

    Args:
        endpoint: where Redis is.
        keys: the keys' namespace.
    """

    def __init__(self, endpoint: Endpoint, keys: Keys) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.clock = RedisClock()
        self._link = Link(endpoint.connection, REPLY_TIMEOUT_S)
        self._blocks: dict[str, Link] = {}
        self._announced: dict[str, float] = {}

    @property
    def resets(self) -> int:
        """How often a connection broke: after each, a claim's reply may have been lost."""
        return self._link.resets + sum(link.resets for link in self._blocks.values())

    async def open(self) -> None:
        """Connect, and learn Redis's time.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        await self.sync_clock()

    async def sync_clock(self) -> None:
        """Ask Redis for its time; claims keep it up to date from then on.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        seconds, micros = await self._link.call(b"TIME")
        more = 0 if self.endpoint.clock is None else int(await self._link.call(b"GET", self.endpoint.clock) or 0)
        self.clock.observe(int(seconds) * 1000 + int(micros) // 1000 + more)

    async def add_to_clock(self, ms: int) -> None:
        """Move the clock of :meth:`Endpoint.move_clock`."""
        await self._link.call(b"INCRBY", self._moved_clock(), ms)

    async def reset_clock(self) -> None:
        """Forget by how much the clock was moved."""
        await self._link.call(b"DEL", self._moved_clock())

    def _moved_clock(self) -> bytes:
        if self.endpoint.clock is None:
            raise BrokerError("the clock cannot be moved: rqueue.testing.moving_clock() makes one that can")
        return self.endpoint.clock

    async def close(self) -> None:
        """Close all connections."""
        for link in (*self._blocks.values(), self._link):
            await link.close()

    async def ready(self) -> None:
        """Return when there is a connection.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        if not self._link.is_open:
            await self._link.call(b"PING")

    async def written(self) -> None:
        """Return when all that was asked for so far is in the operating system's hands.

        Raises:
            BrokerUnavailable: it could not be sent.
        """
        await self._link.written()

    def links(self, reply_timeout_s: float) -> Link:
        """A new connection of its own, for a listener."""
        return Link(self.endpoint.connection, reply_timeout_s, scripts=False)

    def changes(
        self,
        queue: str | None,
        on_message: Callable[[bytes, bytes], None],
        on_listening: Callable[[list[bytes]], None],
        ping_s: float,
    ) -> Subscription:
        """Listen to the records of all jobs of a queue, or of all queues; the arguments are the subscription's."""
        prefix = _escape_glob(self.keys.namespace.encode())
        pattern = prefix + b":{%b}:result:*" % (b"*" if queue is None else queue.encode())
        connect = self.endpoint.connection
        subscription = Subscription(connect, on_message, on_listening, "events", ping_s, patterns=True)
        subscription.add(pattern)
        return subscription

    # Producing

    async def announce(self, queue: str, *, again: bool = False) -> None:
        """Make the queue known to those who look for all queues; once a second, since somebody may flush Redis.

        Args:
            queue: its name.
            again: at once, even if it was announced a moment ago.
        """
        now = elapsed_s()
        if again or now - self._announced.get(queue, -math.inf) >= ANNOUNCE_EVERY_S:
            with suppress(BrokerFull):  # it is known from an earlier time, or will be
                await self._link.call(b"SADD", self.keys.queues, queue)
                self._announced[queue] = now

    async def enqueue(
        self,
        keys: QueueKeys,
        producer: str,
        lane: int,
        number: int,
        jobs: Sequence[Enqueued],
        remember_s: int = SENT_TTL_S,
    ) -> list[bool | None]:
        """Enqueue a batch in one step; false for each custom id that is alive already.

        None where a stop is left of an earlier job of that id: this one was not enqueued, :meth:`forget` comes first.

        Sent again under its lane and number within ``remember_s`` it changes nothing and gives the first answer.
        """
        arguments: list[Argument] = [lane, number, remember_s]
        for job in jobs:
            arguments += (job.id, "1" if job.is_custom else "", job.level, job.due, job.message)
        names = [keys.jobs, keys.scheduled, keys.messages, keys.sent(producer), *keys.lists]
        if results := [keys.result(job.id) for job in jobs if job.is_custom]:
            names += (*results, keys.stops)
        reply = await self._run("enqueue", names, arguments)
        return [_FRESH[mark] for mark in reply]

    async def admit(
        self, keys: QueueKeys, producer: str, lane: int, number: int, jobs: Sequence[Enqueued]
    ) -> list[bool | str]:
        """As :meth:`enqueue`, for a batch with locks; for a job that was not needed, the id that was there first."""
        # A lane of its own in the memory of what was sent, so that neither verb has to read the other's answers.
        arguments: list[Argument] = [f"locked {lane}", number, SENT_TTL_S]
        names = [keys.jobs, keys.scheduled, keys.messages, keys.sent(producer), keys.unique, *keys.lists]
        for job in jobs:
            arguments += (job.id, "1" if job.is_custom else "", job.level, job.due, job.message, job.lock)
            if job.is_custom:
                names.append(keys.result(job.id))
            if job.lock.startswith("throttle "):
                names.append(keys.throttle(job.lock.rpartition(" ")[2]))
        reply = bytes(await self._run("admit", names, arguments)).decode()
        return [mark[1:] if mark[0] == "=" else mark == "1" for mark in reply.split(" ")]

    # Claiming

    async def claim(
        self,
        queues: Sequence[QueueKeys],
        ranks: Sequence[int],
        worker: str,
        lease_s: float,
        want: int,
        max_bytes: int,
        first: int = 0,
    ) -> Claim | None:
        """Claim up to ``want`` messages over all lists, highest priority first; None when not registered.

        If the reply is lost, messages may have been claimed: the worker's audit finds them.
        """
        names: list[bytes] = []
        for keys in queues:
            names += (keys.processing(worker), keys.workers, keys.scheduled, *keys.lists, keys.stops)
        reply = await self._run("claim", names, (worker, _ms(lease_s), want, max_bytes, first % len(queues), *ranks))
        if reply is None:
            return None
        now, due, flat, stops = reply
        self.clock.observe(now)
        messages = [Claimed(*flat[index : index + 3]) for index in range(0, len(flat), 3)]
        return Claim(None if due < 0 else due, messages, tuple(_stopped(*each) for each in stops))

    async def block(self, keys: QueueKeys, worker: str, timeout_s: float) -> bytes | None:
        """Wait at the server for a message in the main list; None when the time was up or the wait was ended.

        The token is returned as it is; the next claim removes it from the processing list. If the reply is lost, a
        message may have been claimed: the worker's audit finds it.

        Raises:
            BrokerError: the worker's list is a tombstone: it must go on under a new id.
        """
        link = self._blocks.get(keys.name)
        if link is None:
            link = self._blocks[keys.name] = Link(self.endpoint.connection, timeout_s + 5, scripts=False)
        link.reply_timeout_s = timeout_s + 5
        timeout_s = max(timeout_s, 0.001)  # 0 would be for ever
        reply = await link.call(b"BRPOPLPUSH", keys.main, keys.processing(worker), f"{timeout_s:.3f}")
        return None if reply is None else bytes(reply)

    async def unblock(self, keys: QueueKeys) -> None:
        """End the wait at that queue, if the server lets us; else it ends by its timeout."""
        link = self._blocks.get(keys.name)
        if link is not None and link.client_id is not None:
            try:
                await self._link.call(b"CLIENT", b"UNBLOCK", link.client_id)
            except BrokerUnavailable:
                raise
            except BrokerError:
                link.client_id = None  # an ACL without it: do not ask again on this connection

    async def audit(self, keys: QueueKeys, worker: str) -> list[bytes]:
        """The fingerprint of each message in the worker's processing list, the last claimed first; b'' for a token."""
        return list(await self._run("audit", (keys.processing(worker),), ()))

    async def held_at(self, keys: QueueKeys, worker: str, index: int) -> bytes | None:
        """The message at that place of the worker's processing list."""
        reply: bytes | None = await _or_nothing(self._link.call(b"LINDEX", keys.processing(worker), index), None)
        return reply

    async def adopt(self, keys: QueueKeys, worker: str, items: Sequence[tuple[bytes, bytes, str]]) -> bytes | None:
        """Give ids to claimed messages: (bytes as claimed, bytes with the id, id). See ``adopt.lua`` for the reply."""
        arguments: list[Argument] = [worker]
        for item in items:
            arguments += item
        reply = await self._run("adopt", (keys.processing(worker), keys.workers, keys.jobs), arguments)
        return None if reply is None else bytes(reply)

    def start(self, keys: QueueKeys, worker: str, ids: Sequence[str]) -> asyncio.Task[bool]:
        """Mark claimed jobs as started; false when not registered. May be repeated.

        The command is on its way when this returns, in front of all later ones: :meth:`written` tells when it is in
        the operating system's hands. The task gives the reply.
        """
        names, arguments = (keys.workers, keys.started(worker)), (worker, *ids)
        sent = self._link.call(b"EVALSHA", self.endpoint.scripts["start"].sha, len(names), *names, *arguments)
        return asyncio.create_task(self._started(sent, names, arguments), name="rqueue start mark")

    async def _started(self, sent: asyncio.Future[Reply], keys: Sequence[bytes], arguments: Sequence[Argument]) -> bool:
        try:
            return bool(await sent)
        except NoScript:
            return bool(await self._run("start", keys, arguments))

    async def track(
        self,
        keys: QueueKeys,
        worker: str,
        job_id: str,
        raw: bytes,
        record: bytes,
        ttl_s: int,
        *,
        is_settled_early: bool = False,
    ) -> bool:
        """Write a running job's record; false when the claim was lost. May be repeated."""
        names = (keys.processing(worker), keys.result(job_id), keys.workers, keys.started(worker))
        early = (worker, job_id) if is_settled_early else ("", "")
        return bool(await self._run("track", names, (raw, record, ttl_s, *early)))

    # Settling

    async def ack(
        self, keys: QueueKeys, worker: str, lane: int | str, number: int, jobs: Sequence[Done]
    ) -> bytes | None:
        """Settle a batch of finished jobs; None when not registered. See ``ack.lua`` for the reply.

        Sent again under its lane and number it changes nothing and gives the first answer.
        """
        names = [
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.jobs,
            keys.settled(worker),
            keys.counts,
        ]
        arguments: list[Argument] = [worker, lane, number]
        for job in jobs:
            _check_done(job)
            names.append(keys.result(job.id))
            arguments += job
        reply = await self._run("ack", names, arguments)
        return None if reply is None else bytes(reply)

    async def record(
        self,
        keys: QueueKeys,
        job_id: str,
        record: bytes,
        ttl: str,
        letter: bytes = b"",
        keep: int = 0,
        keep_s: float = 0,
        *,
        worker: str = "",
        started_by: str = "",
    ) -> bool:
        """Keep the result, and the dead letter if any, of a job that was settled before it started.

        May be repeated. False when ``worker`` is named and not registered any more; ``started_by`` is named by a
        reaper: the dead worker that ran it, and may have recorded its end before it was reaped.
        """
        _check_done(Done(b"", job_id, record, ttl))
        names = (
            keys.result(job_id),
            keys.counts,
            keys.dead,
            keys.letters,
            keys.jobs,
            keys.started(worker or started_by),
            keys.workers,
        )
        by_reaper = "1" if started_by else ""
        arguments = (record, ttl, job_id, letter, keep, _ms(keep_s), worker, by_reaper)
        return bool(await self._run("record", names, arguments))

    async def retry(
        self,
        keys: QueueKeys,
        worker: str,
        lane: int | str,
        number: int,
        raw: bytes,
        job_id: str,
        message: bytes,
        delay_s: float,
        record: bytes = b"",
        ttl_s: int = 0,
        *,
        is_settled_early: bool = False,
        is_parked: bool = False,
    ) -> bytes | None:
        """Put a claimed job off; None when not registered, b'0' when the claim was lost. Repeatable like ``ack``."""
        early = "1" if is_settled_early else ""
        delay_ms = f"{_ms(delay_s)}.5" if is_parked else _ms(delay_s)
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.settled(worker),
            keys.scheduled,
            keys.messages,
            keys.result(job_id),
            keys.main,
            keys.jobs,
        )
        arguments = (worker, lane, number, raw, job_id, message, delay_ms, record, ttl_s, early)
        reply = await self._run("retry", names, arguments)
        return None if reply is None else bytes(reply)

    async def move(
        self,
        keys: QueueKeys,
        worker: str,
        lane: int | str,
        number: int,
        raw: bytes,
        job_id: str,
        record: bytes,
        ttl_s: int,
        queue: str,
    ) -> bytes | None:
        """Let go of a claimed job that was enqueued in another queue; the reply is as in ``retry``.

        Repeatable like ``ack``.
        """
        _check_done(Done(raw, job_id, record, str(ttl_s)))
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.settled(worker),
            keys.jobs,
            keys.result(job_id),
        )
        short = b'{"state":"RETRY","moved":"%b"}' % queue.encode()
        reply = await self._run("move", names, (worker, lane, number, raw, job_id, record, ttl_s, short))
        return None if reply is None else bytes(reply)

    async def bury(
        self,
        keys: QueueKeys,
        worker: str,
        lane: str | int,
        number: int,
        done: Done,
        letter: bytes,
        keep: int,
        keep_s: float,
        *,
        by_reaper: bool = False,
    ) -> bytes | None:
        """Move a claimed job to the dead letters; the reply is as in ``retry``. Repeatable like ``ack``."""
        _check_done(done)
        reply = await self._run(
            "bury",
            (
                keys.processing(worker),
                keys.workers,
                keys.started(worker),
                keys.jobs,
                keys.settled(worker),
                keys.counts,
                keys.result(done.id),
                keys.dead,
                keys.letters,
            ),
            (
                worker,
                lane,
                number,
                *done,
                letter,
                keep,
                _ms(keep_s),
                "1" if by_reaper else "",
            ),
        )
        return None if reply is None else bytes(reply)

    async def revoke(
        self, keys: QueueKeys, worker: str, lane: str | int, number: int, done: Done, *, is_settled_early: bool = False
    ) -> bytes | None:
        """Settle a claimed job that was cancelled; the reply is as in ``retry``. Repeatable like ``ack``."""
        _check_done(done)
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.jobs,
            keys.settled(worker),
            keys.counts,
            keys.result(done.id),
            keys.stops,
        )
        early = "1" if is_settled_early else ""
        arguments: list[Argument] = [worker, lane, number, *done, early]
        reply = await self._run("revoke", names, arguments)
        return None if reply is None else bytes(reply)

    async def release(self, keys: QueueKeys, worker: str, items: Sequence[tuple[bytes, str, int]]) -> int:
        """Give claimed messages back, the last claimed first: (bytes, id or '', level). May be repeated."""
        arguments: list[Argument] = []
        for item in items:
            arguments += item
        names = (keys.processing(worker), keys.started(worker), *keys.lists, keys.stops)
        return int(await self._run("release", names, arguments))

    # Cancelling

    async def cancel(
        self, keys: QueueKeys, done: Done, workers: Sequence[str], level: int = MAIN
    ) -> tuple[int, str | None]:
        """Take a waiting job away, or mark one that a worker has; see ``cancel.lua`` for the reply.

        Args:
            keys: its queue.
            done: its id, and the record of its end; its bytes where they are known, as they stand in a waiting list.
            workers: the queue's workers, as :meth:`worker_names` gave them.
            level: that list.

        May be repeated: then it says 0 where the first had removed the job.
        """
        _check_done(done)
        names = [keys.jobs, keys.scheduled, keys.messages, keys.stops, keys.workers, keys.result(done.id), keys.counts]
        names += keys.lists
        for worker in workers:
            names += (keys.processing(worker), keys.started(worker))
        arguments: list[Argument] = [done.id, done.record, done.ttl, done.raw, level]
        arguments += [CANCEL_LOOKS_AT, CANCEL_LOOKS_AT_BYTES, *map(_name, workers)]
        code, *worker_ = await self._run("cancel", names, arguments)
        return int(code), worker_[0].decode("utf-8", "surrogateescape") if worker_ else None

    async def forget(self, keys: QueueKeys, job_id: str, workers: Sequence[str]) -> int:
        """Take away the stop of a job that has ended, and what its cancel left; see ``forget.lua``. May be repeated."""
        names = [keys.jobs, keys.stops, keys.workers, *keys.lists, *map(keys.processing, workers)]
        return int(await self._run("forget", names, (job_id, *map(_name, workers))))

    async def take_away(self, keys: QueueKeys, raw: bytes, level: int) -> bool:
        """Take a waiting message without an id away; false when it is not there (any more)."""
        return bool(await _or_nothing(self._link.call(b"LREM", keys.lists[level], 1, raw), 0))

    async def revoked(self, keys: QueueKeys, ids: Sequence[str]) -> set[str]:
        """Which of these ids have a stop."""
        if not ids:
            return set()
        scores = await self._link.call(b"ZMSCORE", keys.stops, *(f"job:{job_id}" for job_id in ids))
        return {job_id for job_id, score in zip(ids, scores, strict=True) if score is not None}

    async def stale_stops(self, keys: QueueKeys, limit: int) -> list[str]:
        """Ids that have a stop and are not alive, while nothing waits in the queue: nobody else would forget them."""
        found = await self._link.call(b"ZRANGEBYLEX", keys.stops, b"[job:", b"(job;", b"LIMIT", 0, limit)
        if not found or await self._link.call(b"EXISTS", *keys.lists):
            return []
        ids = [member.removeprefix(b"job:") for member in found]
        alive = await self._link.call(b"SMISMEMBER", keys.jobs, *ids)
        return [job_id.decode() for job_id, is_alive in zip(ids, alive, strict=True) if not is_alive]

    async def worker_names(self, keys: QueueKeys) -> list[str]:
        """The ids of the queue's registered workers."""
        return [
            name.decode("utf-8", "surrogateescape") for name in await self._link.call(b"ZRANGE", keys.workers, 0, -1)
        ]

    # Workers

    async def register(self, keys: QueueKeys, worker: str, lease_s: float) -> bool:
        """Give a worker its lease; false when the id was used before."""
        now = await self._run("register", (keys.processing(worker), keys.workers), (worker, _ms(lease_s)))
        if now:
            self.clock.observe(now)
        return bool(now)

    async def renew(self, queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes) -> bool:
        """Renew the lease; false when the worker is not registered any more. May be repeated."""
        names, arguments = renewal(queues, worker, lease_s, card)
        return bool(await self._run("renew", names, arguments))

    async def leave(self, keys: QueueKeys, worker: str) -> bool:
        """Take the worker off; false while it still holds messages. May be repeated."""
        names = (keys.processing(worker), keys.workers, keys.started(worker), keys.settled(worker), keys.card(worker))
        return bool(await self._run("leave", names, (worker,)))

    async def condemn(self, keys: QueueKeys, worker: str) -> bool:
        """End the lease of a worker whose process is known to be dead; false when not registered. May be repeated."""
        return bool(await self._run("condemn", (keys.workers,), (worker,)))

    async def overdue(self, keys: QueueKeys) -> set[str]:
        """The workers whose lease has run out."""
        return {
            name.decode("utf-8", "surrogateescape")
            for name in await self._link.call(b"ZRANGEBYSCORE", keys.workers, b"-inf", self.clock.now_ms())
        }

    async def remains(self, keys: QueueKeys, worker: str, limit: int) -> tuple[list[bytes], set[str]]:
        """What a dead worker left: up to so many messages, the last claimed first, and the ids that had started."""
        messages, started = await asyncio.gather(
            _or_nothing(self._link.call(b"LRANGE", keys.processing(worker), 0, limit - 1), []),
            self._link.call(b"SMEMBERS", keys.started(worker)),
        )
        return [raw for raw in messages if raw != TOKEN], {name.decode() for name in started}

    async def reap(self, keys: QueueKeys, worker: str, items: Sequence[tuple[bytes, int, bytes]]) -> int:
        """Return a dead worker's messages: (bytes in the list, level, bytes as they go on). May be repeated.

        Returns 1 when the worker is gone, 0 when something is left, -1 when it is alive.
        """
        arguments: list[Argument] = [worker]
        for item in items:
            arguments += item
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.settled(worker),
            keys.card(worker),
            *keys.lists,
            keys.jobs,
            keys.stops,
        )
        return int(await self._run("reap", names, arguments))

    async def orphans(self, queues: Sequence[QueueKeys], cursor: int) -> tuple[int, list[tuple[QueueKeys, str]]]:
        """One step of a search for processing lists whose worker is not registered; give back the cursor."""
        prefix = self.keys.namespace.encode()
        pattern = _escape_glob(prefix) + b":{*}:processing:*"
        cursor, found = await self._link.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 500, b"TYPE", b"list")
        mine = []
        for name in found:
            for keys in queues:
                if name.startswith(keys.main + b":processing:"):
                    worker = keys.worker_of(name)
                    if await self._link.call(b"ZSCORE", keys.workers, name.removeprefix(keys.processing(""))) is None:
                        mine.append((keys, worker))
        return int(cursor), mine

    async def promote(self, keys: QueueKeys) -> tuple[int, int | None]:
        """Move due jobs to their lists; how many, and ms until the next is due. May be repeated."""
        names = (keys.scheduled, keys.messages, *keys.lists, keys.stops)
        moved, due = await self._run("promote", names, (PROMOTE_AT_ONCE,))
        return moved, None if due < 0 else due

    # Locks

    async def unlock(self, keys: QueueKeys, locks: Sequence[tuple[str, str]], *, if_ended: bool) -> int:
        """Give up locks: (name, id of the job); how many still were those jobs'. May be repeated.

        Args:
            keys: the queue.
            locks: the locks.
            if_ended: only those whose job has ended: it may be alive again, under the same id and lock.
        """
        arguments = ["1" if if_ended else "", *(word for lock in locks for word in lock)]
        return int(await self._run("unlock", (keys.unique, keys.jobs), arguments))

    async def prune(self, keys: QueueKeys, cursor: int = 0) -> int:
        """Throw away a page of the locks whose jobs have ended; the next page's cursor, 0 at the end."""
        return int(await self._run("prune", (keys.unique, keys.jobs), (cursor, PRUNE_AT_ONCE)))

    # Periodic schedules

    async def tick(self, keys: QueueKeys, tick: Tick) -> int:
        """Enqueue what a schedule brings now; the outcome is as in ``tick.lua``. May be repeated: it happens once."""
        arguments: list[Argument] = [tick.name, tick.read, tick.now_ms, tick.level, tick.after, tick.look_ms]
        arguments += [tick.last_id, tick.held, tick.held_look_ms]
        for job in tick.jobs:
            arguments += job
        names = [keys.periodic, keys.entries, keys.jobs, *keys.lists, *(keys.result(job_id) for job_id, _ in tick.jobs)]
        return int(await self._run("tick", names, arguments))

    async def plan(self, keys: QueueKeys, name: str, read: bytes, entry: bytes, look_ms: int | None) -> bool:
        """Write a schedule in place of the one that was read, b'' for none; false when that has changed meanwhile.

        It is looked at at that time, or never. May be repeated.
        """
        look: Argument = "" if look_ms is None else look_ms
        return bool(await self._run("plan", (keys.periodic, keys.entries), (name, read, entry, look)))

    async def next_look(self, keys: QueueKeys) -> int | None:
        """When the queue's first schedule is looked at, in ms since the epoch; None without schedules."""
        first = await self._link.call(b"ZRANGE", keys.periodic, 0, 0, b"WITHSCORES")
        return int(float(first[1])) if first else None

    async def ticking(self, keys: QueueKeys, now_ms: int) -> dict[str, bytes]:
        """The schedules to look at now, at most a hundred, the first first; b'' where only the name is left."""
        names = await self._link.call(b"ZRANGEBYSCORE", keys.periodic, b"-inf", now_ms, b"LIMIT", 0, 100)
        entries = await self._link.call(b"HMGET", keys.entries, *names) if names else []
        return {name.decode(): entry or b"" for name, entry in zip(names, entries, strict=True)}

    async def schedules(self, keys: QueueKeys) -> dict[str, bytes]:
        """The queue's schedules by name."""
        flat = await self._link.call(b"HGETALL", keys.entries)
        return {flat[index].decode(): flat[index + 1] for index in range(0, len(flat), 2)}

    async def schedule(self, keys: QueueKeys, name: str) -> bytes:
        """One schedule; b'' when there is none."""
        return bytes(await self._link.call(b"HGET", keys.entries, name) or b"")

    # Pausing

    async def declare(self, field: str) -> bool:
        """Write down what is paused: ``all``, ``queue:<name>``, ``task:<name>``; false when it was. May be repeated."""
        return bool(await self._run("declare", (self.keys.paused,), (field,)))

    async def declared(self) -> dict[str, int]:
        """What is paused, and since when in ms since the epoch."""
        flat = await self._link.call(b"HGETALL", self.keys.paused)
        names = (name.decode("utf-8", "surrogateescape") for name in flat[::2])
        return {name: int(since) for name, since in zip(names, flat[1::2], strict=True)}

    async def withdraw(self, field: str) -> bool:
        """Undo :meth:`declare`; false when it was not written down. May be repeated."""
        return bool(await self._link.call(b"HDEL", self.keys.paused, field))

    async def pause(self, keys: QueueKeys, what: str) -> bool:
        """Let no more of the queue (``queue`` or ``all``) or of a task in it (``task:<name>``) run. May be repeated.

        Of a queue nothing more is claimed from then on. False when it was paused already.
        """
        return bool(await self._run("pause", (keys.stops, keys.workers, keys.main), (what,)))

    async def resume(self, keys: QueueKeys, what: str) -> bool:
        """Undo :meth:`pause`; false when it was not paused. May be repeated."""
        return bool(await self._run("resume", (keys.stops, keys.workers, keys.main), (what,)))

    async def parked(self, keys: QueueKeys) -> list[str]:
        """The ids of the jobs that were put off since their task is paused, in the order in which they come back."""
        found: dict[str, float] = {}
        cursor: Argument = 0
        while True:
            cursor, flat = await self._link.call(b"ZSCAN", keys.scheduled, cursor, b"COUNT", SCAN_AT_ONCE)
            for job_id, due in zip(flat[::2], flat[1::2], strict=True):
                if not float(due).is_integer():
                    found[job_id.decode()] = float(due)
            if not int(cursor):
                return sorted(found, key=lambda job_id: (found[job_id], job_id))

    async def messages_of(self, keys: QueueKeys, ids: Sequence[str]) -> list[bytes | None]:
        """The messages of scheduled jobs; None for those that are not scheduled (any more)."""
        return list(await self._link.call(b"HMGET", keys.messages, *ids))

    async def unpark(self, keys: QueueKeys, jobs: Sequence[tuple[str, int]]) -> int:
        """Make parked jobs due: (id, how many ms ago). How many were still parked. May be repeated."""
        arguments: list[Argument] = [part for job in jobs for part in job]
        return int(await self._run("unpark", (keys.scheduled, keys.main), arguments))

    # Dead letters and waiting jobs

    async def dead(self, keys: QueueKeys, limit: int, offset: int = 0) -> list[bytes]:
        """Dead letters, the newest first."""
        ids = await self._link.call(b"ZRANGE", keys.dead, offset, offset + limit - 1, b"REV")
        if not ids:
            return []
        return [letter for letter in await self._link.call(b"HMGET", keys.letters, *ids) if letter is not None]

    async def letter(self, keys: QueueKeys, job_id: str) -> bytes | None:
        """One dead letter."""
        reply: bytes | None = await self._link.call(b"HGET", keys.letters, job_id)
        return reply

    async def revive(
        self, keys: QueueKeys, letter_id: str, letter: bytes, job_id: str, message: bytes, level: int
    ) -> int:
        """Make a dead letter a waiting job: 1 done, 0 the letter has gone or changed, 2 the id is alive.

        3 where a stop is left of an earlier job of that id: :meth:`forget` comes first. The message need not be the
        letter's own.
        """
        names = (keys.dead, keys.letters, keys.jobs, keys.result(job_id), *keys.lists, keys.stops)
        return int(await self._run("revive", names, (letter_id, letter, job_id, message, level)))

    async def edit(self, keys: QueueKeys, letter_id: str, letter: bytes, changed: bytes) -> bool:
        """Put another letter in a dead letter's place; false when that has gone or has changed. May be repeated."""
        return bool(await self._run("edit", (keys.letters,), (letter_id, letter, changed)))

    async def discard_old(self, keys: QueueKeys, keep_s: float) -> int:
        """Throw away up to 1,000 dead letters that are older than that; how many were."""
        before = self.clock.now_ms() - _ms(keep_s)
        ids = await self._link.call(b"ZRANGEBYSCORE", keys.dead, b"-inf", before, b"LIMIT", 0, 1000)
        return await self.discard(keys, [each.decode() for each in ids])

    async def discard(self, keys: QueueKeys, ids: Sequence[str]) -> int:
        """Throw dead letters away; how many there were."""
        chunks = [ids[start : start + 1000] for start in range(0, len(ids), 1000)]
        return sum([int(await self._run("discard", (keys.dead, keys.letters), chunk)) for chunk in chunks])

    async def purge(self, keys: QueueKeys) -> int:
        """Throw away up to 1,000 waiting jobs; how many were."""
        return int(await self._run("purge", (keys.jobs, *keys.lists, keys.stops), (PURGE_AT_ONCE,)))

    # Looking

    async def queues(self) -> list[str]:
        """Every queue that a worker or producer has used."""
        return sorted(name.decode() for name in await self._link.call(b"SMEMBERS", self.keys.queues))

    async def known(self, pairs: Sequence[tuple[QueueKeys, str]]) -> list[Known | BrokerError]:
        """What is stored of each id, in one round trip, or why Redis does not say.

        Whether it lives is asked before its record: a job that settles in between is then found by its record.
        """
        calls = [
            self._link.call(*command)
            for keys, job_id in pairs
            for command in (
                (b"SISMEMBER", keys.jobs, job_id),
                (b"ZSCORE", keys.scheduled, job_id),
                (b"GET", keys.result(job_id)),
                (b"HEXISTS", keys.letters, job_id),
            )
        ]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        return [_known(*replies[i : i + 4]) for i in range(0, len(replies), 4)]

    async def sizes(self, keys: QueueKeys) -> Sizes:
        """How much the queue holds.

        Tokens are looked for before the lists are counted: one that comes between the two is counted as a job for a
        moment, and never hides one.
        """
        find_tokens = (b"LPOS", keys.main, TOKEN, b"RANK", -1, b"COUNT", 0, b"MAXLEN", 1000)
        asked = [self._link.call(*find_tokens), *(self._link.call(b"LLEN", name) for name in keys.lists)]
        asked += [
            self._link.call(b"ZCARD", keys.scheduled),
            self._link.call(b"ZCARD", keys.dead),
            self._link.call(b"HGETALL", keys.counts),
            self._link.call(b"ZRANGE", keys.workers, 0, -1),
            self._link.call(b"ZMSCORE", keys.stops, b"queue", b"all"),
            self._link.call(b"ZRANGEBYLEX", keys.stops, b"[task:", b"(task;"),
        ]
        tokens, *waiting, scheduled, dead, counts, workers, pauses, tasks = await _all(asked)
        waiting[MAIN] = max(0, waiting[MAIN] - len(tokens))
        processing = [keys.processing(worker.decode("utf-8", "surrogateescape")) for worker in workers]
        heads = asyncio.gather(*(_or_nothing(self._link.call(b"LINDEX", name, 0), None) for name in processing))
        held = asyncio.gather(*(_or_nothing(self._link.call(b"LLEN", name), 0) for name in processing))
        running = [max(0, n - (head == TOKEN)) for head, n in zip(await heads, await held, strict=True)]
        return Sizes(
            waiting=tuple(waiting),
            scheduled=scheduled,
            running=sum(running),
            dead=dead,
            workers=len(workers),
            counts={counts[index].decode(): int(counts[index + 1]) for index in range(0, len(counts), 2)},
            is_paused=pauses != [None, None],
            paused_tasks=tuple(_task_names(tasks)),
        )

    async def workers(self, keys: QueueKeys) -> list[tuple[str, float, bytes | None]]:
        """The queue's workers: id, seconds left of the lease, and what the worker says of itself."""
        flat = await self._link.call(b"ZRANGE", keys.workers, 0, -1, b"WITHSCORES")
        names = [name.decode("utf-8", "surrogateescape") for name in flat[::2]]
        if not names:
            return []
        cards = await self._link.call(b"MGET", *(keys.card(name) for name in names))
        now = self.clock.now_ms()
        return [
            (name, (float(end) - now) / 1000, card) for name, end, card in zip(names, flat[1::2], cards, strict=True)
        ]

    async def scheduled(self, keys: QueueKeys, limit: int) -> list[tuple[str, int]]:
        """The queue's next scheduled jobs: id, and when it is due in ms since the epoch."""
        flat = await self._link.call(b"ZRANGE", keys.scheduled, 0, limit - 1, b"WITHSCORES")
        return [(name.decode(), int(float(due))) for name, due in zip(flat[::2], flat[1::2], strict=True)]

    async def scheduled_messages(self, keys: QueueKeys, cursor: int) -> tuple[int, list[bytes]]:
        """One step through the messages of the scheduled jobs; the cursor to go on with is 0 at the end."""
        cursor, flat = await self._link.call(b"HSCAN", keys.messages, cursor, b"COUNT", 100)
        return int(cursor), list(flat[1::2])

    async def waiting(self, keys: QueueKeys, level: int, start: int, count: int) -> list[bytes]:
        """Some messages of a waiting list, the newest first, tokens among them."""
        part = self._link.call(b"LRANGE", keys.lists[level], start, start + count - 1)
        return list(await _or_nothing(part, []))

    async def length(self, keys: QueueKeys, level: int) -> int:
        """How many there are in a waiting list, tokens included."""
        return int(await _or_nothing(self._link.call(b"LLEN", keys.lists[level]), 0))

    async def claimed(self, keys: QueueKeys, worker: str) -> list[bytes]:
        """All messages that a worker has claimed, the last claimed first."""
        found = await _or_nothing(self._link.call(b"LRANGE", keys.processing(worker), 0, -1), [])
        return [raw for raw in found if raw != TOKEN]

    async def publish(self, channel: bytes, data: bytes) -> int:
        """Say something on a channel; how many heard it."""
        return int(await self._link.call(b"PUBLISH", channel, data))

    async def server_version(self) -> str:
        """Which server it is, for a bug report."""
        try:
            info = bytes(await self._link.call(b"INFO", b"server")).decode()
        except BrokerUnavailable:
            raise
        except BrokerError as exc:
            return f"it does not say ({exc})"
        found = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        if "valkey_version" in found:
            return f"Valkey {found['valkey_version']}"
        return f"Redis {found.get('redis_version', '?')}"

    async def eviction_policy(self) -> str | None:
        """Redis's ``maxmemory-policy``, or None where it does not say."""
        try:
            reply = await self._link.call(b"CONFIG", b"GET", b"maxmemory-policy")
        except BrokerUnavailable:
            raise
        except BrokerError:
            return None
        return reply[1].decode() if reply else None

    # Scripts

    async def _run(self, verb: str, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Reply:
        script = self.endpoint.scripts[verb]
        try:
            return await self._link.call(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScript:
            # Nothing was run. The source goes along once; the server knows the script again from then on.
            return await self._link.call(b"EVAL", script.source, len(keys), *keys, *arguments)


def renewal(
    queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes
) -> tuple[list[bytes], list[Argument]]:
    """The keys and arguments of ``renew``, for whoever sends it."""
    names = [name for keys in queues for name in (keys.workers, keys.card(worker))]
    return names, [worker, _ms(lease_s), card]


def fingerprint(raw: bytes) -> bytes:
    """What tells a message from others, as :meth:`Broker.audit` gives it: its length and its first 256 bytes."""
    return b"%d:" % len(raw) + raw[:256]


async def _all(calls: Sequence[asyncio.Future[Reply]]) -> list[Any]:
    """All replies; the first error is raised after all have come."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


def _name(worker: str) -> bytes:
    """A worker's name as it stands in keys and sets, whatever somebody has put there."""
    return worker.encode("utf-8", "surrogateescape")


def _stopped(queue: int, is_paused: int, tasks: list[bytes], revoked: list[bytes]) -> Stopped:
    ids = frozenset(job_id.decode() for job_id in revoked)
    return Stopped(queue, bool(is_paused), frozenset(_task_names(tasks)), ids)


def _task_names(stops: Sequence[bytes]) -> list[str]:
    return [name.decode("utf-8", "surrogateescape").removeprefix("task:") for name in stops]


def _known(is_alive: Any, due: Any, record: Any, is_dead: Any) -> Known | BrokerError:
    for reply in (is_alive, due, record, is_dead):
        if isinstance(reply, BrokerUnavailable):
            raise reply
        if isinstance(reply, BrokerError):
            return reply
    return Known(record, bool(is_alive), due is not None, bool(is_dead))


async def _or_nothing(call: asyncio.Future[Reply], nothing: Reply) -> Reply:
    """The reply, or nothing where a tombstone has taken a processing list's place."""
    try:
        return await call
    except BrokerUnavailable:
        raise
    except BrokerError as exc:
        if "WRONGTYPE" in str(exc):
            return nothing
        raise


def _check_done(job: Done) -> None:
    """Refuse what would fail in the middle of a script: scripts do not roll back."""
    if not (job.ttl == "" or (job.ttl.isascii() and job.ttl.isdigit())) or not _RECORD.match(job.record):
        raise BrokerError(f"job {job.id}: a record begins with its state, and is kept for whole seconds ({job.ttl!r})")


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _escape_glob(name: bytes) -> bytes:
    for char in b"\\*?[]":
        name = name.replace(bytes([char]), b"\\" + bytes([char]))
    return name


__all__ = [
    "Broker",
    "Claim",
    "Claimed",
    "Done",
    "Enqueued",
    "Known",
    "ReplyLost",
    "Sizes",
    "Stopped",
    "Tick",
    "fingerprint",
    "renewal",
]
