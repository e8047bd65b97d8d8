"""The verbs of time: promote for scheduled jobs, tick and plan for periodic schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rqueue.broker.calls import Calls, moment_of, text_of
from rqueue.broker.link import Argument
from rqueue.wire.keys import QueueKeys

PROMOTE_AT_ONCE: Final = 100


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


class Scheduling(Calls):
    """Scheduled jobs, and periodic schedules."""

    async def promote(self, keys: QueueKeys) -> tuple[int, int | None]:
        """Move due jobs to their lists; how many, and ms until the next is due. May be repeated."""
        names = (keys.scheduled, keys.messages, *keys.lists, keys.stops)
        moved, due = await self._run("promote", names, (PROMOTE_AT_ONCE,))
        return moved, None if due < 0 else due

    async def scheduled(self, keys: QueueKeys, limit: int) -> list[tuple[str, int]]:
        """The queue's next scheduled jobs: id, and when it is due in ms since the epoch."""
        flat = await self._link.call(b"ZRANGE", keys.scheduled, 0, limit - 1, b"WITHSCORES")
        return [(text_of(name), moment_of(due)) for name, due in zip(flat[::2], flat[1::2], strict=True)]

    async def scheduled_messages(self, keys: QueueKeys, cursor: int) -> tuple[int, list[bytes]]:
        """One step through the messages of the scheduled jobs; the cursor to go on with is 0 at the end."""
        cursor, flat = await self._link.call(b"HSCAN", keys.messages, cursor, b"COUNT", 100)
        return int(cursor), list(flat[1::2])

    async def messages_of(self, keys: QueueKeys, ids: Sequence[str]) -> list[bytes | None]:
        """The messages of scheduled jobs; None for those that are not scheduled (any more)."""
        return list(await self._link.call(b"HMGET", keys.messages, *ids))

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
        return moment_of(first[1]) if first else None

    async def ticking(self, keys: QueueKeys, now_ms: int) -> dict[str, bytes]:
        """The schedules to look at now, at most a hundred, the first first; b'' where only the name is left."""
        names = await self._link.call(b"ZRANGEBYSCORE", keys.periodic, b"-inf", now_ms, b"LIMIT", 0, 100)
        entries = await self._link.call(b"HMGET", keys.entries, *names) if names else []
        return {text_of(name): entry or b"" for name, entry in zip(names, entries, strict=True)}

    async def schedules(self, keys: QueueKeys) -> dict[str, bytes]:
        """The queue's schedules by name."""
        flat = await self._link.call(b"HGETALL", keys.entries)
        return {text_of(flat[index]): flat[index + 1] for index in range(0, len(flat), 2)}

    async def schedule(self, keys: QueueKeys, name: str) -> bytes:
        """One schedule; b'' when there is none."""
        return bytes(await self._link.call(b"HGET", keys.entries, name) or b"")
