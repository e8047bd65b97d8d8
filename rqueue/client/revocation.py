"""Cancels jobs: what waits is taken away, what a worker has is marked in Redis and then interrupted over the channel.

It alone keeps that a stop that has met no job any more is forgotten by the one who set it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rqueue.broker.broker import Broker, Done, Known
from rqueue.client.inspector import Inspector
from rqueue.client.stops import forget
from rqueue.errors import BrokerError, ConfigError, JobNotFound, MalformedMessage, ReplyLost
from rqueue.wire import codec
from rqueue.wire.keys import LEVELS, MAIN, QueueKeys
from rqueue.wire.message import Call, Message
from rqueue.wire.record import Failure, Record
from rqueue.wire.seal import Keyring, as_far_as_known, seal_record
from rqueue.wire.state import State

if TYPE_CHECKING:
    from rqueue.client.client import Client

REVOKED_RECORD: Final = b'{"state":"REVOKED"'
_NOT_ALIVE, _REMOVED, _MARKED, _OTHER_WORKERS = range(4)
_TRIES: Final = 3
_SETTLED_S: Final = 1.0  # a worker that has no such job any more is about to settle it
_PAGE: Final = 50
_PASSES: Final = 10  # a producer that does not say when it enqueues must not keep a cancel going for ever
_KEPT_S: Final = 60  # where the app keeps no results: whoever waits, and a cancel whose reply was lost, still find it


class Cancelled(StrEnum):
    """What became of a job that was to be cancelled.

    ``removed``: it waited, or was scheduled; it is REVOKED and will not run. ``interrupted``: its worker has raised an
    exception in it, or will not start it; it is REVOKED, at the latest when it ends. ``requested``: a worker has it,
    and did not answer within a second; it may still end there, and will not be run again. ``too_late``: it had ended.
    """

    REMOVED = "removed"
    INTERRUPTED = "interrupted"
    REQUESTED = "requested"
    TOO_LATE = "too_late"


@dataclass(frozen=True, slots=True)
class Cancellations:
    """What became of the jobs of a task, or with a header.

    Attributes:
        found: how many there were.
        removed, interrupted, requested, too_late: how many of them came to what; see :class:`Cancelled`.
    """

    found: int = 0
    removed: int = 0
    interrupted: int = 0
    requested: int = 0
    too_late: int = 0

    def plus(self, outcomes: Iterable[Cancelled]) -> Cancellations:
        """With these as well."""
        counts = asdict(self)
        for outcome in outcomes:
            counts["found"] += 1
            counts[outcome] += 1
        return Cancellations(**counts)


class Target(NamedTuple):
    """A job that is to be cancelled.

    Attributes:
        id: its id; '' for a waiting message that has none yet.
        raw: its bytes, where they are known.
        level: the waiting list that they were read from.
        task: its task's name, where it is known.
    """

    id: str
    raw: bytes = b""
    level: int = MAIN
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which jobs are meant.

    Attributes:
        tasks: those whose task has one of these names; None is any.
        header: those with this header, name and value; None is any.

    Raises:
        ConfigError: neither is given, or the header is no such pair.
        TypeError: the header's value is not JSON.
    """

    tasks: frozenset[str] | None
    header: tuple[str, Any] | None

    def __post_init__(self) -> None:
        header: object = self.header
        if self.tasks is None and header is None:
            raise ConfigError("cancel: say which jobs, by task, by header, or by both")
        if header is not None:
            if not isinstance(header, tuple) or len(header) != 2 or not isinstance(header[0], str):
                raise ConfigError(f"header {header!r}: a name and a JSON value, for example ('tenant', 'acme')")
            codec.dumps(header[1])

    def target(
        self, raw: bytes, level: int, before_ms: int, keyring: Keyring | None = None, queue: bytes = b""
    ) -> Target | None:
        """The job if it is meant, and was enqueued until then; one that is sealed by what can be seen of it."""
        try:
            message = as_far_as_known(keyring, Message.parse(raw), queue)
            call = Call.decode(message.body, is_glance=True)
        except MalformedMessage:
            return None
        if (self.tasks is not None and call.task not in self.tasks) or (call.enqueued or 0) > before_ms:
            return None
        if self.header is not None:
            name, value = self.header
            headers = call.headers or {}
            if name not in headers or codec.dumps(headers[name]) != codec.dumps(value):
                return None
        return Target(message.header.id or "", raw, level, call.task)


class Revocation:
    """Cancels what a client's Redis has.

    Args:
        client: the app; it stays open.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def cancel(self, keys: QueueKeys, targets: Sequence[Target], *, terminate: bool) -> dict[str, Cancelled]:
        """Cancel jobs of one queue; what became of each, by its id.

        Args:
            keys: the queue.
            targets: the jobs, with their ids.
            terminate: end what has not ended a second after it was interrupted, with its process.

        Raises:
            BrokerError: Redis refused, or could not be asked; it may be done again.
        """
        if not self._broker.clock.is_observed:
            await self._broker.sync_clock()
        ends = {target.id: self._end(keys, target) for target in targets}
        done: dict[str, Cancelled] = {}
        held = await self._step(keys, targets, ends, done, ())
        if held:
            interrupted, heard = await self._interrupt(keys, held, terminate=terminate)
            # It has ended meanwhile, or has gone back to wait; or its worker is silent.
            left = [target for target in targets if target.id in held and target.id not in interrupted]
            held = await self._step(keys, left, ends, done, held)
            if late := {job_id: worker for job_id, worker in held.items() if worker in heard}:
                # It was on its way to its worker when that was asked.
                interrupted |= (await self._interrupt(keys, late, terminate=terminate))[0]
            done |= dict.fromkeys(held, Cancelled.REQUESTED) | dict.fromkeys(interrupted, Cancelled.INTERRUPTED)
        return done

    async def matching(
        self, criteria: Criteria, queue: str | None = None, *, terminate: bool = False, dry_run: bool = False
    ) -> Cancellations:
        """Cancel what exists now and is meant, wherever it is.

        Args:
            criteria: which jobs.
            queue: only of this queue; None is all.
            terminate: as for :meth:`cancel`.
            dry_run: only count them.

        Raises:
            BrokerError: as for :meth:`cancel`.
        """
        await self._broker.sync_clock()
        before_ms = self._broker.clock.now_ms()
        names = [queue] if queue is not None else {*self._client.config.queues, *await self._broker.queues()}
        total = Cancellations()
        for keys in map(self._client.keys.queue, sorted(names)):
            seen: set[str] = set()
            async for targets in self._found(keys, criteria, before_ms, seen, dry_run=dry_run):
                if dry_run:
                    total = Cancellations(total.found + len(targets))
                else:
                    total = total.plus(await self._cancel_all(keys, targets, terminate=terminate))
        return total

    @property
    def _broker(self) -> Broker:
        return self._client.session().broker

    def _end(self, keys: QueueKeys, target: Target) -> Done:
        """What is kept of a job that is removed."""
        limits, task = self._client.config.limits, self._client.tasks.find(target.task) if target.task else None
        ttl_s = limits.in_redis_s(limits.result_ttl_s if task is None else task.defaults.ttl_s(limits.result_ttl_s))
        failure = Failure("JobRevoked", "it was cancelled")
        about = {"task": target.task, "finished": self._broker.clock.now_ms()}
        record = Record(State.REVOKED, failure=failure, about=about).encode()
        record = seal_record(self._client.keyring, keys.main, target.id, record)
        return Done(target.raw, target.id, record, "" if ttl_s is None else str(math.ceil(ttl_s) or _KEPT_S))

    async def _step(
        self,
        keys: QueueKeys,
        targets: Sequence[Target],
        ends: dict[str, Done],
        done: dict[str, Cancelled],
        marked: Iterable[str],
    ) -> dict[str, str]:
        """Have each removed or marked; which are marked, and the worker that has each."""
        held = {}
        workers = await self._broker.worker_names(keys)
        steps = [self._ask(keys, ends[target.id], target.level, workers) for target in targets]
        for target, (code, worker) in zip(targets, await asyncio.gather(*steps), strict=True):
            if code == _REMOVED:
                done[target.id] = Cancelled.REMOVED
            elif code == _MARKED:
                held[target.id] = str(worker)
            else:
                done[target.id] = await self._ended(keys, ends[target.id], was_marked=target.id in marked)
        return held

    async def _ask(self, keys: QueueKeys, end: Done, level: int, workers: Sequence[str]) -> tuple[int, str | None]:
        tries = 0
        while True:
            try:
                answer = await self._broker.cancel(keys, end, workers, level)
            except ReplyLost:  # again: if the first has removed the job, its record is ours
                tries += 1
                if tries == _TRIES:
                    raise
            else:
                if answer[0] != _OTHER_WORKERS:
                    return answer
                workers = await self._broker.worker_names(keys)

    async def _ended(self, keys: QueueKeys, end: Done, *, was_marked: bool) -> Cancelled:
        """It is not alive: who has ended it?"""
        (known,) = await self._broker.known([(keys, end.id)])
        if isinstance(known, BrokerError):
            raise known
        if was_marked:
            await forget(self._broker, keys, end.id)
        return _who_ended(known, end, was_marked=was_marked)

    async def _interrupt(
        self, keys: QueueKeys, held: dict[str, str], *, terminate: bool
    ) -> tuple[set[str], Collection[str]]:
        """Ask the workers to interrupt what they have; the ids of what they did, and the workers that have answered."""
        workers = sorted(set(held.values()))
        try:
            replies = await Inspector(self._client).ask(
                "cancel", to=workers, id=list(held), terminate=terminate, queue=keys.name
            )
        except BrokerError:  # nothing is heard: the stop is in Redis all the same
            return set(), ()
        heard = {answer.worker: _cancelled(answer.ok) for answer in replies.answers if answer.error is None}
        interrupted = {job_id for ids in heard.values() for job_id in ids}
        over = [job_id for job_id, worker in held.items() if worker in heard and job_id not in interrupted]
        if over:
            with suppress(TimeoutError, JobNotFound):
                async with asyncio.timeout(_SETTLED_S):
                    listener = self._client.session().listener
                    await asyncio.gather(*(listener.wait(keys, job_id) for job_id in over))
        return interrupted & held.keys(), heard

    async def _cancel_all(self, keys: QueueKeys, targets: Sequence[Target], *, terminate: bool) -> list[Cancelled]:
        named = [target for target in targets if target.id]
        done = await self.cancel(keys, named, terminate=terminate) if named else {}
        outcomes = list(done.values())
        for target in targets:
            if not target.id:
                gone = await self._broker.take_away(keys, target.raw, target.level)
                outcomes.append(Cancelled.REMOVED if gone else Cancelled.TOO_LATE)
        return outcomes

    async def _found(
        self, keys: QueueKeys, criteria: Criteria, before_ms: int, seen: set[str], *, dry_run: bool
    ) -> AsyncIterator[list[Target]]:
        """What is meant, page by page, in the order in which jobs move on.

        Some go back meanwhile: what a worker holds and cannot start soon waits again, and another worker may have it
        when this one's turn is over. So all is read again until there is nothing new, unless nobody moves anything.
        """
        for number in range(_PASSES):
            before, has_workers = len(seen), bool(await self._broker.worker_names(keys))
            waiting = self._waiting(keys, dry_run=dry_run)
            for pages in (self._scheduled(keys), waiting, self._claimed(keys), self._scheduled(keys)):
                async for page, level in pages:
                    targets = []
                    for raw in page:
                        target = criteria.target(raw, level, before_ms, self._client.keyring, keys.main)
                        if target is None or target.id in seen:
                            continue
                        if target.id:
                            seen.add(target.id)
                        elif number or pages is not waiting:
                            continue  # one without an id cannot be told from the next one that somebody pushes
                        targets.append(target)
                    if targets:
                        yield targets
            if (number and len(seen) == before) or not (has_workers or await self._broker.worker_names(keys)):
                return

    async def _scheduled(self, keys: QueueKeys) -> AsyncIterator[tuple[list[bytes], int]]:
        cursor, is_first = 0, True
        while cursor or is_first:
            cursor, page = await self._broker.scheduled_messages(keys, cursor)
            is_first = False
            yield page, MAIN

    async def _waiting(self, keys: QueueKeys, *, dry_run: bool) -> AsyncIterator[tuple[list[bytes], int]]:
        """From the end where jobs come in: what comes meanwhile shifts the rest; it is seen twice then, not missed."""
        for level in (*reversed(LEVELS), MAIN):
            start = 0
            while page := await self._broker.waiting(keys, level, start, _PAGE):
                before = len(page) if dry_run else await self._broker.length(keys, level)
                yield [raw for raw in page if raw], level
                gone = 0 if dry_run else max(0, before - await self._broker.length(keys, level))
                start += max(0, len(page) - gone)

    async def _claimed(self, keys: QueueKeys) -> AsyncIterator[tuple[list[bytes], int]]:
        for worker in await self._broker.worker_names(keys):
            yield await self._broker.claimed(keys, worker), MAIN


def _cancelled(said: object) -> list[str]:
    """The ids in a worker's answer, which may be anybody's."""
    ids = said.get("cancelled") if isinstance(said, dict) else None
    return [each for each in ids if isinstance(each, str)] if isinstance(ids, list) else []


def _who_ended(known: Known, end: Done, *, was_marked: bool) -> Cancelled:
    if known.record is None:
        return Cancelled.TOO_LATE
    if known.record == end.record:
        return Cancelled.REMOVED  # the first reply was lost
    is_revoked = known.record.startswith(REVOKED_RECORD)
    return Cancelled.INTERRUPTED if was_marked and is_revoked else Cancelled.TOO_LATE
