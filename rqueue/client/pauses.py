"""Pausing and resuming a queue, a task, or everything.

It alone keeps the order in which a pause is written down: first for the namespace, for the queues that come into use
later, then in each queue; a resume goes the other way. So whoever is interrupted can do the same again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rqueue.client.inspector import Inspector
from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire.keys import QueueKeys, check_queue_name, shown
from rqueue.wire.message import Call, Message

if TYPE_CHECKING:
    from rqueue.broker.broker import Broker
    from rqueue.client.client import Client
    from rqueue.client.task import Task

_PAGE: Final = 100
"""Messages read, and jobs moved, at once: a message may have a megabyte."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What is paused.

    Attributes:
        kind: ``all``, ``queue`` or ``task``.
        name: the queue's or the task's name; None for ``all``.
        since: when, on Redis's clock.
    """

    kind: str
    name: str | None
    since: datetime

    def __str__(self) -> str:
        return "everything" if self.name is None else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resume did.

    Attributes:
        was_paused: whether it was paused at all.
        still: what keeps it, or a part of it, paused all the same.
    """

    was_paused: bool
    still: tuple[Pause, ...] = ()


class Pauses:
    """What is paused under one namespace.

    Args:
        client: the app; it stays open, and is closed by whoever opened it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def pause(
        self, queue: str | None = None, task: str | Task[Any, Any] | None = None, all_: bool = False
    ) -> bool:
        """Pause one of them; false when it was paused already.

        When it returns, nothing more of a paused queue is claimed, whatever workers are about to do. What runs goes on
        and is settled, and what a worker has claimed and not started goes back. Jobs of a paused task are put off
        instead; a worker that waits for jobs at that moment may still start one.

        Raises:
            ConfigError: it is not one of them that is named, or no queue's name.
            BrokerError: Redis refused, or could not be asked; a part may be paused, and it can be done again.
        """
        what = self._what(queue, task, all_)
        is_new = await self._broker.declare(_field(what))
        keys = await self._queues(what)
        await asyncio.gather(*(self._broker.pause(each, _stop(what)) for each in keys))
        await Inspector(self._client).hint()
        return is_new

    async def resume(
        self, queue: str | None = None, task: str | Task[Any, Any] | None = None, all_: bool = False
    ) -> Resumed:
        """Resume one of them, and nothing else: a queue that was paused by its name stays so when all is resumed.

        Errors as in :meth:`pause`.
        """
        what = self._what(queue, task, all_)
        keys = await self._queues(what)
        await self._resume(keys, what)
        was_paused = await self._broker.withdraw(_field(what))
        # A worker that came meanwhile may have found it still written down, in a queue that was not known before.
        await self._resume(set(await self._queues(what)).difference(keys), what)
        await Inspector(self._client).hint()
        still = [each for each in await self.paused() if what[0] == "all" or each.kind == "all"]
        return Resumed(was_paused, tuple(still))

    async def paused(self) -> list[Pause]:
        """What is paused, everything first, then queues, then tasks."""
        found = []
        for field, since in sorted((await self._broker.declared()).items()):
            kind, _, name = field.partition(":")
            found.append(Pause(kind, shown(name) or None, datetime.fromtimestamp(since / 1000, UTC)))
        return found

    @property
    def _broker(self) -> Broker:
        return self._client.session().broker

    def _what(self, queue: str | None, task: str | Task[Any, Any] | None, all_: bool) -> tuple[str, str]:
        if (queue is not None) + (task is not None) + bool(all_) != 1:
            raise ConfigError("name a queue, or a task, or all: one of them")
        if queue is not None:
            return "queue", check_queue_name(queue)
        if task is None:
            return "all", ""
        if not task:
            raise ConfigError(f"task {task!r}: a task has a name")
        return "task", self._client.tasks.full_name(task)

    async def _queues(self, what: tuple[str, str]) -> list[QueueKeys]:
        names = [what[1]] if what[0] == "queue" else await self._broker.queues()
        return [self._client.keys.queue(name) for name in names]

    async def _resume(self, queues: Iterable[QueueKeys], what: tuple[str, str]) -> None:
        keys = list(queues)
        await asyncio.gather(*(self._broker.resume(each, _stop(what)) for each in keys))
        if what[0] == "task":
            for each in keys:
                await self._unpark(each, what[1])

    async def _unpark(self, keys: QueueKeys, task: str) -> None:
        """Bring a task's jobs back in their order. If this is interrupted, the rest comes back within a minute."""
        ids = await self._broker.parked(keys)
        mine: list[str] = []
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            messages = await self._broker.messages_of(keys, page)
            mine += [job_id for job_id, raw in zip(page, messages, strict=True) if self._task_of(raw) == task]
        jobs = [(job_id, len(mine) - place) for place, job_id in enumerate(mine)]
        for start in range(0, len(jobs), _PAGE):
            await self._broker.unpark(keys, jobs[start : start + _PAGE])

    def _task_of(self, raw: bytes | None) -> str | None:
        """The name of a message's task, its whole one where the app knows it."""
        try:
            if raw is None:
                return None
            call = Call.decode(Message.parse(raw).body, is_glance=True)  # its name is seen of an encrypted one as well
            return self._client.tasks.full_name(call.task)
        except MalformedMessage:
            return None


def _field(what: tuple[str, str]) -> str:
    """How it stands in what is declared for the namespace."""
    return ":".join(part for part in what if part)


def _stop(what: tuple[str, str]) -> str:
    """How it stands in a queue's stops."""
    return "queue" if what[0] == "queue" else _field(what)
