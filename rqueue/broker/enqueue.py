"""The verbs of producers: enqueue and admit, and the locks that admit takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from rqueue.broker.calls import Calls
from rqueue.broker.link import Argument
from rqueue.errors import BrokerFull, BrokerUnavailable
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import MAIN, QueueKeys

_FRESH: Final = {ord("0"): False, ord("1"): True, ord("2"): None}
PRUNE_AT_ONCE: Final = 1000
SENT_TTL_S: Final = 120  # at least; a producer that tries for longer than half of it asks for more
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


class Producing(Calls):
    """Producers' verbs."""

    def is_ready(self, queue: str) -> bool:
        """Whether there is a connection, and the queue was announced a moment ago."""
        return self._producing.is_open and elapsed_s() - self._announced.get(queue, -math.inf) < ANNOUNCE_EVERY_S

    async def announce(self, queue: str, *, again: bool = False) -> None:
        """Make the queue known to those who look for all queues; once a second, since somebody may flush Redis.

        Args:
            queue: its name.
            again: at once, even if it was announced a moment ago.
        """
        now = elapsed_s()
        if again or now - self._announced.get(queue, -math.inf) >= ANNOUNCE_EVERY_S:
            try:
                with suppress(BrokerFull):  # it is known from an earlier time, or will be
                    await self._producing.call(b"SADD", self.keys.queues, queue)
                    self._announced[queue] = now
            except BrokerUnavailable:
                if not self.is_cluster:
                    raise
                self._announced[queue] = now  # the queue's own node may be there; a second later it is said again

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
        ids, customs, levels, dues, messages, _ = zip(*jobs, strict=True)
        names = [keys.jobs, keys.sent(producer), keys.main]
        arguments: list[Argument] = [lane, number, remember_s]
        if any(customs) or any(dues) or levels.count(levels[0]) < len(jobs):
            names += (*keys.lists[1:], keys.scheduled, keys.messages)
            for job in jobs:
                arguments += (job.id, "1" if job.is_custom else "", job.level, job.due, job.message)
            if any(customs):
                names += (*(keys.result(job.id) for job in jobs if job.is_custom), keys.stops)
        else:
            if levels[0] != MAIN:
                names.append(keys.lists[levels[0]])
            arguments += (*ids, *messages)
        reply = await self._store("enqueue", names, arguments)
        if reply.count(b"1") == len(jobs):
            return [True] * len(jobs)
        return [_FRESH[mark] for mark in reply]

    async def admit(
        self,
        keys: QueueKeys,
        producer: str,
        lane: int,
        number: int,
        jobs: Sequence[Enqueued],
        remember_s: int = SENT_TTL_S,
    ) -> list[bool | str | None]:
        """As :meth:`enqueue`, for a batch with locks; for a job that was not needed, the id that was there first."""
        # A lane of its own in the memory of what was sent, so that neither verb has to read the other's answers.
        arguments: list[Argument] = [f"locked {lane}", number, remember_s]
        names = [keys.jobs, keys.scheduled, keys.messages, keys.sent(producer), keys.unique, *keys.lists]
        names.append(keys.stops)
        for job in jobs:
            arguments += (job.id, "1" if job.is_custom else "", job.level, job.due, job.message, job.lock)
            if job.is_custom:
                names.append(keys.result(job.id))
            if job.lock.startswith("throttle "):
                names.append(keys.throttle(job.lock.rpartition(" ")[2]))
        reply = bytes(await self._store("admit", names, arguments)).decode()
        return [mark[1:] if mark[0] == "=" else _FRESH[ord(mark)] for mark in reply.split(" ")]

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
