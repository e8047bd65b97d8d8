"""What operators do: look at queues, workers and dead letters, make dead letters jobs again, throw jobs away.

Nothing here is needed to produce or to run jobs. The command line is made of it, and a dashboard can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Unpack

import orjson

from rqueue.broker.broker import Broker
from rqueue.client.letters import ChangeKwargs, Changes, FilterKwargs, LetterFilter, with_message
from rqueue.client.stops import forget
from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire.keys import QueueKeys, shown
from rqueue.wire.message import Call, Message
from rqueue.wire.record import Letter
from rqueue.wire.seal import open_letter, opened

if TYPE_CHECKING:
    from rqueue.client.client import Client

_PAGE: Final = 100
"""Dead letters read at once: each may have a megabyte."""

_DISCARD: Final = 1000
_NO_CHANGES: Final = Changes()
_REVIVE_ANSWERS: Final = ("missing", "waiting", "alive")
_MET_A_STOP: Final = 3


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How much a queue holds.

    Attributes:
        name: the queue.
        waiting: waiting jobs by level: at 0 those without a priority, at 1 to 10 those of that priority.
        scheduled: jobs that are not due yet, retries included.
        running: claimed jobs, those that a worker holds and has not started included.
        dead: dead letters.
        workers: registered workers.
        counts: jobs by the state in which they ended, of about the last day.
        is_paused: nothing of it is claimed.
        paused_tasks: the tasks of which nothing is started.
    """

    name: str
    waiting: tuple[int, ...]
    scheduled: int
    running: int
    dead: int
    workers: int
    counts: dict[str, int]
    is_paused: bool = False
    paused_tasks: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Its name, marked where it is paused."""
        return f"{self.name} (paused)" if self.is_paused else self.name

    @property
    def waiting_total(self) -> int:
        """All waiting jobs."""
        return sum(self.waiting)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker said of itself at its last heartbeat; None where it has not said anything yet.

    Attributes:
        id: ``host:pid:nonce``.
        queues: the queues where it is registered.
        lease_s: seconds until its lease runs out, the least of its queues; below 0 it waits to be reaped.
        host, pid: where it runs.
        concurrency: jobs at once.
        running: jobs that ran.
        held: jobs that were claimed and had not started.
        state: ``running``, ``standby`` (it waits to take another one's place) or ``stopping``.
        serves: the queues that it claims from.
        done: runs that it has settled since its start, retries included.
        stalls: how often something has blocked its event loop for over a second.
        beat_age_s: seconds since that heartbeat.
        fetched_age_s: seconds since it last got an answer to a fetch, or had no room for more.
        heartbeat_s, block_s: seconds between two heartbeats, and of its longest wait at the server.
    """

    id: str
    queues: tuple[str, ...]
    lease_s: float
    host: str | None = None
    pid: int | None = None
    concurrency: int | None = None
    running: int | None = None
    held: int | None = None
    state: str | None = None
    serves: tuple[str, ...] | None = None
    done: int | None = None
    stalls: int | None = None
    beat_age_s: float | None = None
    fetched_age_s: float | None = None
    heartbeat_s: float | None = None
    block_s: float | None = None

    @property
    def is_live(self) -> bool:
        """Its lease has not run out."""
        return self.lease_s > 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter and its queue.

    Attributes:
        queue: the queue.
        letter: the letter.
        data: its bytes as they are stored: what an edit is compared with.
        opened: its message, where it was sealed and a key is here.
    """

    queue: str
    letter: Letter
    data: bytes = field(default=b"", compare=False, repr=False)
    opened: Message | None = field(default=None, compare=False, repr=False)

    @property
    def attempts(self) -> int:
        """How often it was started: its first run, its retries, and the runs that ended with their worker."""
        return 1 + self.letter.retries + self.letter.losses

    @property
    def call(self) -> Call | None:
        """What its message asks for; None when it cannot be read."""
        try:
            return Call.decode((self.opened or Message.parse(self.letter.raw)).body)
        except MalformedMessage:
            return None

    @property
    def message(self) -> Message | None:
        """The message as it would run again, with its errors and losses forgotten; None when it cannot be read."""
        try:
            message = self.opened or Message.parse(self.letter.raw)
            Call.decode(message.body, is_glance=True)  # a worker may have the key that is not here
        except MalformedMessage:
            return None
        return message.changed(retries=0, losses=0, since=0, id=message.header.id or self.letter.id)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of dead letters that were to run again, by their ids.

    Attributes:
        waiting: these are waiting jobs now.
        alive: a job of the same id is alive; the letter stays.
        unreadable: the message cannot be read, so that no worker could run it; the letter stays.
        missing: there is no such letter (any more).
    """

    waiting: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


Place = tuple[QueueKeys, str]


class Admin:
    """The operator's view of everything under one namespace.

    Args:
        client: the app; it stays open, and is closed by whoever opened it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def queues(self) -> list[QueueStatus]:
        """Every queue that the app declares, or that a worker or producer has used."""
        names = {*self._client.config.queues, *await self._broker.queues()}
        return list(await asyncio.gather(*map(self.queue, sorted(names))))

    async def queue(self, name: str) -> QueueStatus:
        """One queue.

        Raises:
            ConfigError: it is not a queue's name.
        """
        sizes = await self._broker.sizes(self._client.keys.queue(name))
        return QueueStatus(
            name,
            sizes.waiting,
            sizes.scheduled,
            sizes.running,
            sizes.dead,
            sizes.workers,
            sizes.counts,
            sizes.is_paused,
            tuple(map(shown, sizes.paused_tasks)),
        )

    async def workers(self) -> list[WorkerStatus]:
        """Every registered worker, once for all its queues."""
        await self._broker.open()  # learns Redis's time, by which leases end
        names = await self._broker.queues()
        found = await asyncio.gather(*(self._broker.workers(self._client.keys.queue(name)) for name in names))
        merged: dict[str, list[tuple[str, float, bytes | None]]] = {}
        for name, workers in zip(names, found, strict=True):
            for worker, lease_s, card in workers:
                merged.setdefault(worker, []).append((name, lease_s, card))
        now_ms = self._broker.clock.now_ms()
        return [_worker_status(worker, entries, now_ms) for worker, entries in sorted(merged.items())]

    async def purge(self, queue: str) -> int:
        """Throw away the waiting jobs of a queue; how many were. What is scheduled or runs is not touched."""
        keys, gone = self._client.keys.queue(queue), 0
        while some := await self._broker.purge(keys):
            gone += some
        return gone

    # Dead letters

    async def dead(
        self, queue: str | None = None, limit: int = 100, *, offset: int = 0, **which: Unpack[FilterKwargs]
    ) -> list[DeadLetter]:
        """Dead letters, the newest of each queue first.

        Args:
            queue: only of this queue.
            limit: so many at most.
            offset: without the first so many that match.
            **which: only these; see :class:`~rqueue.client.letters.LetterFilter`.
        """
        found: list[DeadLetter] = []
        for keys in await self._queues(queue):
            async with aclosing(self._walk(keys, LetterFilter(**which))) as letters:
                async for dead in letters:
                    if len(found) == offset + limit:
                        return found[offset:]
                    found.append(dead)
        return found[offset:]

    async def dead_letter(self, job_id: str) -> DeadLetter | None:
        """The dead letter of that id, or None."""
        queues = await self._queues(None)
        letters = await asyncio.gather(*(self._broker.letter(keys, job_id) for keys in queues))
        found = [(keys, data) for keys, data in zip(queues, letters, strict=True) if data is not None]
        return self._read(*found[0], job_id) if found else None

    async def dead_retry(
        self,
        ids: Sequence[str] = (),
        *,
        queue: str | None = None,
        changes: Changes = _NO_CHANGES,
        **which: Unpack[FilterKwargs],
    ) -> Retried:
        """Make dead letters waiting jobs again, under their ids and with all their retries.

        Args:
            ids: these; without ids, all that match. A job that dies again meanwhile is not tried twice.
            queue: only of this queue.
            changes: what is different from now on: priority, limits, arguments.
            **which: only these; see :class:`~rqueue.client.letters.LetterFilter`.

        Raises:
            ConfigError, TypeError, MessageTooLarge: a change is wrong; the letter that it was for stays.
        """
        if changes.expires is not ...:
            await self._broker.sync_clock()
        places, missing = await self._choose(ids, queue, LetterFilter(**which))
        sorted_: dict[str, list[str]] = {"waiting": [], "alive": [], "unreadable": [], "missing": missing}
        for keys, job_id in places:
            sorted_[await self._revive(keys, job_id, changes)].append(job_id)
        return Retried(**{name: tuple(each) for name, each in sorted_.items()})

    async def dead_edit(self, letter: str | DeadLetter, *, retry: bool = False, **changes: Unpack[ChangeKwargs]) -> str:
        """Change a dead letter's message, and keep the letter, or make it a waiting job again in the same step.

        Fields of the message that are not named stay as they are, also those that rqueue does not know.

        Args:
            letter: its id, or a letter that was read: if it has changed since, nothing is done.
            retry: make it a waiting job, with its errors forgotten.
            **changes: see :class:`~rqueue.client.letters.Changes`.

        Returns:
            ``edited``, ``waiting``, ``alive`` (a job of that id is alive; the letter stays as it was), ``unreadable``
            (its message is none), or ``missing`` (there is no such letter, or it has changed).

        Raises:
            ConfigError: a value is wrong, or nothing is to be done.
            TypeError: an argument is not JSON, or not one that the task takes.
            MessageTooLarge: the message would be over ``max_message_bytes``.
        """
        wanted = Changes(**changes)
        if wanted.are_none and not retry:
            raise ConfigError("nothing is to be changed")
        found = letter if isinstance(letter, DeadLetter) else await self.dead_letter(letter)
        if found is None:
            return "missing"
        keys, letter_id = self._client.keys.queue(found.queue), found.letter.id
        try:
            message = opened(self._client.keyring, Message.parse(found.letter.raw), keys.main)
        except MalformedMessage:
            return "unreadable"
        if wanted.expires is not ...:
            await self._broker.sync_clock()
        changed = self._changed(message.changed(id=message.header.id or found.letter.id), wanted)
        if not retry:
            is_done = await self._broker.edit(keys, letter_id, found.data, with_message(found.data, changed))
            return "edited" if is_done else "missing"
        return await self._wait_again(keys, letter_id, found.data, changed.changed(retries=0, losses=0, since=0))

    async def dead_purge(
        self,
        ids: Sequence[str] = (),
        *,
        queue: str | None = None,
        **which: Unpack[FilterKwargs],
    ) -> int:
        """Throw dead letters away; how many were. Arguments as in :meth:`dead_retry`."""
        places, _ = await self._choose(ids, queue, LetterFilter(**which))
        gone = 0
        for name, group in groupby(places, key=lambda place: place[0].name):
            chosen = [job_id for _, job_id in group]
            for start in range(0, len(chosen), _DISCARD):
                gone += await self._broker.discard(self._client.keys.queue(name), chosen[start : start + _DISCARD])
        return gone

    @property
    def _broker(self) -> Broker:
        return self._client.session().broker

    async def _queues(self, name: str | None) -> list[QueueKeys]:
        names = [name] if name is not None else await self._broker.queues()
        return [self._client.keys.queue(each) for each in names]

    async def _walk(self, keys: QueueKeys, which: LetterFilter) -> AsyncGenerator[DeadLetter, None]:
        """The letters of one queue that match; one that moves to another page meanwhile comes once."""
        now_ms = await self._now_ms(which)
        seen: set[str] = set()
        offset = 0
        while page := await self._broker.dead(keys, _PAGE, offset):
            offset += len(page)
            for data in page:
                dead = self._read(keys, data)
                if dead.letter.id not in seen and which.matches(dead.letter, now_ms):
                    seen.add(dead.letter.id)
                    yield dead

    async def _now_ms(self, which: LetterFilter) -> int:
        """Redis's time, where a filter needs it."""
        if not which.has_age:
            return 0
        await self._broker.sync_clock()
        return self._broker.clock.now_ms()

    async def _choose(
        self, ids: Sequence[str], queue: str | None, which: LetterFilter
    ) -> tuple[list[Place], list[str]]:
        """Where the letters are that are meant, and which of the ids are of no letter that matches."""
        queues = await self._queues(queue)
        if not ids:
            # All of them are noted first: a job that is retried and dies again at once is a new letter, and stays.
            return [(keys, dead.letter.id) for keys in queues async for dead in self._walk(keys, which)], []
        now_ms = await self._now_ms(which)
        places: list[Place] = []
        missing = []
        for job_id in dict.fromkeys(ids):
            letters = await asyncio.gather(*(self._broker.letter(keys, job_id) for keys in queues))
            meant = [
                (keys, job_id)
                for keys, data in zip(queues, letters, strict=True)
                if data is not None and which.matches(self._read(keys, data, job_id).letter, now_ms)
            ]
            places += meant
            missing += [job_id] * (not meant)
        return places, missing

    async def _revive(self, keys: QueueKeys, job_id: str, changes: Changes) -> str:
        """Make one letter a job; the name of the list in :class:`Retried` that it belongs in."""
        data = await self._broker.letter(keys, job_id)
        if data is None:
            return "missing"
        dead = self._read(keys, data, job_id)
        message = dead.message
        if message is None or (not changes.are_none and dead.opened is None and self._client.keyring is not None):
            return "unreadable"  # what is not ours is not made ours by a change
        if not changes.are_none:
            message = self._changed(message, changes)
        return await self._wait_again(keys, job_id, data, message)

    async def _wait_again(self, keys: QueueKeys, letter_id: str, data: bytes, message: Message) -> str:
        level, new_id = message.header.level, str(message.header.id)
        while (answer := await self._broker.revive(keys, letter_id, data, new_id, message.raw, level)) == _MET_A_STOP:
            await forget(self._broker, keys, new_id)
        return _REVIVE_ANSWERS[answer]

    def _read(self, keys: QueueKeys, data: bytes, job_id: str = "?") -> DeadLetter:
        """A stored letter with what our keys can open of it."""
        letter = open_letter(self._client.keyring, keys.main, _letter(data, job_id))
        message: Message | None = None
        if self._client.keyring is not None:
            with suppress(MalformedMessage):
                message = opened(self._client.keyring, Message.parse(letter.raw), keys.main)
        return DeadLetter(keys.name, letter, data, message)

    def _changed(self, message: Message, changes: Changes) -> Message:
        limit, tasks = self._client.config.limits.max_message_bytes, self._client.tasks
        return changes.applied(message, self._broker.clock.now_ms(), limit, tasks)


def _letter(data: bytes, job_id: str = "?") -> Letter:
    """A stored letter; one that cannot be read is shown as what it is."""
    try:
        return Letter.decode(data)
    except MalformedMessage:
        return Letter(job_id, "unreadable letter", data)


def _worker_status(worker: str, entries: Sequence[tuple[str, float, bytes | None]], now_ms: int) -> WorkerStatus:
    """One worker from its entries in all its queues: (queue, seconds left of the lease, what it said of itself)."""
    card = next((card for _, _, card in entries if card is not None), b"{}")
    try:
        said: Any = orjson.loads(card)
    except ValueError:
        said = None
    told = said if isinstance(said, dict) else {}
    known: dict[str, Any] = {name: _of(str, told.get(name)) for name in ("host", "state")}
    for name in ("pid", "concurrency", "running", "held", "done", "stalls"):
        known[name] = _of(int, told.get(name))
    for name, key in (("beat_age_s", "beat"), ("fetched_age_s", "fetched")):
        moment = _of(int, told.get(key))
        known[name] = None if moment is None else max(0.0, (now_ms - moment) / 1000)
    for name, key in (("heartbeat_s", "heartbeat"), ("block_s", "block")):
        known[name] = _of((int, float), told.get(key))
    if isinstance(told.get("queues"), list):
        known["serves"] = tuple(map(str, told["queues"]))
    queues = tuple(sorted(name for name, _, _ in entries))
    return WorkerStatus(shown(worker), queues, min(lease_s for _, lease_s, _ in entries), **known)


def _of(kind: type[Any] | tuple[type[Any], ...], value: Any) -> Any:
    """The value if it is of that kind: a card may be anybody's."""
    return value if isinstance(value, kind) and not isinstance(value, bool) else None
