"""What a checkup reads of the server and of what is stored: pages and samples, so that Redis is never held for long.

Nothing here changes a job. The one write, :meth:`Survey.expire_forgotten`, gives keys a TTL that have lost theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rqueue.broker.calls import Calls, escape_glob, every, name_of, number_of, or_nothing
from rqueue.broker.link import Argument
from rqueue.errors import BrokerError
from rqueue.wire.keys import QueueKeys

PAGE: Final = 1000
"""Keys, ids or locks in one step."""

FORGOTTEN_S: Final = 86_400
"""The TTL of what has lost its own: no key that rqueue lets expire is needed for longer."""

LATE_TICK_MS: Final = 60_000
"""Each worker looks at the schedules of its queues once in a lease, at least."""

_WANTS: Final = {"workers": "zset", "jobs": "set", "scheduled": "zset", "messages": "hash", "stops": "zset"}
_WANTS_ALSO: Final = {"dead": "zset", "letters": "hash", "unique": "hash", "periodic": "zset", "entries": "hash"}


class Survey(Calls):
    """The verbs of a checkup."""

    # The server

    async def info(self) -> dict[str, str]:
        """All that INFO says.

        Raises:
            BrokerError: it is refused, or unknown.
        """
        return await self._info(b"default")

    async def cluster_info(self) -> dict[str, str]:
        """What CLUSTER INFO says. Errors as in :meth:`info`."""
        text = bytes(await self._link.call(b"CLUSTER", b"INFO")).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def time_ms(self) -> int:
        """The server's clock, in ms since the epoch."""
        seconds, micros = await self._link.call(b"TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def refused(self, command: Sequence[Argument]) -> str | None:
        """Why this user may not run a harmless command; None where it may, or where it fails for another reason."""
        try:
            await self._link.call(*command)
        except BrokerError as exc:  # also READONLY, and a node that is away: whoever asks on is told if Redis is gone
            return str(exc) if "permission" in str(exc).lower() else None
        return None

    # The keyspace

    async def queue_names(self) -> list[str]:
        """All that stands in the list of queues, also what is no queue's name."""
        return sorted(map(_text, await self._link.call(b"SMEMBERS", self.keys.queues)))

    async def keys_step(self, cursor: int) -> tuple[int, list[bytes]]:
        """One step through the namespace's keys; the cursor to go on with is 0 at the end."""
        pattern = escape_glob(self.keys.namespace.encode()) + b":*"
        cursor, names = await self._scan(cursor, b"MATCH", pattern, b"COUNT", PAGE)
        return int(cursor), list(names)

    async def database_size(self) -> int:
        """How many keys there are, of whoever."""
        return int(await self._link.call(b"DBSIZE"))

    async def kinds(self, names: Sequence[bytes]) -> list[str]:
        """The type of each key; ``none`` where there is no such key."""
        return [_text(kind) for kind in await every([self._link.call(b"TYPE", name) for name in names])]

    async def without_ttl(self, names: Sequence[bytes]) -> list[bytes]:
        """Those of the keys that are there for ever."""
        ttls = await every([self._link.call(b"PTTL", name) for name in names])
        return [name for name, ttl in zip(names, ttls, strict=True) if ttl == -1]

    async def expire_forgotten(self, names: Sequence[bytes]) -> int:
        """Give a day to those of the keys that have no TTL; how many. May be repeated.

        A key that is written anew between the look and the step has its day as well, until it is next written.
        """
        forgotten = await self.without_ttl(names)
        return sum(await every([self._link.call(b"EXPIRE", name, FORGOTTEN_S) for name in forgotten]))

    async def memory(self, names: Sequence[bytes]) -> int:
        """About how many bytes the keys take.

        Raises:
            BrokerError: Redis does not say.
        """
        asked = [self._link.call(b"MEMORY", b"USAGE", name, b"SAMPLES", 5) for name in names]
        return sum(int(each or 0) for each in await every(asked))

    # A queue

    async def misplaced(self, keys: QueueKeys) -> list[tuple[bytes, str, str]]:
        """The queue's keys that hold something else than rqueue's: name, what is there, what should be."""
        wanted = dict.fromkeys(keys.lists, "list")
        wanted |= {getattr(keys, name): kind for name, kind in (_WANTS | _WANTS_ALSO).items()}
        found = await self.kinds(list(wanted))
        return [
            (name, kind, wanted[name])
            for name, kind in zip(wanted, found, strict=True)
            if kind not in ("none", wanted[name])
        ]

    async def stops(self, keys: QueueKeys) -> tuple[list[str], list[str]]:
        """What is paused as it stands in the queue's stops, and the ids of some cancelled jobs."""
        pauses = self._link.call(b"ZMSCORE", keys.stops, b"queue", b"all")
        tasks = self._link.call(b"ZRANGEBYLEX", keys.stops, b"[task:", b"(task;")
        marks = self._link.call(b"ZRANGEBYLEX", keys.stops, b"[job:", b"(job;", b"LIMIT", 0, PAGE)
        whole, named, marked = await every([pauses, tasks, marks])
        paused = [name for name, score in zip(("queue", "all"), whole, strict=True) if score is not None]
        paused += [_text(name) for name in named]
        return paused, [_text(mark).removeprefix("job:") for mark in marked]

    async def counted(self, keys: QueueKeys, now_ms: int, overdue_ms: int, recent_ms: int) -> dict[str, int]:
        """Some counts: ids, scheduled jobs and their messages, what is late of them and of schedules, letters."""
        asked: dict[str, Sequence[Argument]] = {
            "jobs": (b"SCARD", keys.jobs),
            "scheduled": (b"ZCARD", keys.scheduled),
            "messages": (b"HLEN", keys.messages),
            "overdue": (b"ZCOUNT", keys.scheduled, b"-inf", now_ms - overdue_ms),
            "periodic": (b"ZCARD", keys.periodic),
            "unticked": (b"ZCOUNT", keys.periodic, b"-inf", now_ms - LATE_TICK_MS),
            "dead": (b"ZCARD", keys.dead),
            "letters": (b"HLEN", keys.letters),
            "died": (b"ZCOUNT", keys.dead, now_ms - recent_ms, b"+inf"),
            "locks": (b"HLEN", keys.unique),
        }
        counts = await every([self._link.call(*command) for command in asked.values()])
        return dict(zip(asked, map(int, counts), strict=True))

    async def held(self, keys: QueueKeys, worker: str) -> tuple[str, int]:
        """What a worker's processing key is, and how many messages are in it."""
        name = keys.processing(worker)
        kind = self._link.call(b"TYPE", name)
        length = await or_nothing(self._link.call(b"LLEN", name), 0)
        return _text(await kind), int(length)

    async def registered(self, keys: QueueKeys, workers: Sequence[str]) -> set[str]:
        """Those of the ids that are registered workers."""
        if not workers:
            return set()
        ends = await self._link.call(b"ZMSCORE", keys.workers, *map(name_of, workers))
        return {worker for worker, end in zip(workers, ends, strict=True) if end is not None}

    async def marks(self, keys: QueueKeys, worker: str) -> set[str]:
        """The ids of the jobs that a worker has started."""
        found = await or_nothing(self._link.call(b"SMEMBERS", keys.started(worker)), [])
        return {_text(name) for name in found}

    async def job_ids(self, keys: QueueKeys, most: int) -> set[str]:
        """Ids of jobs that are not settled: so many at least, or all."""
        found: set[str] = set()
        cursor: Argument = 0
        while True:
            cursor, page = await self._link.call(b"SSCAN", keys.jobs, cursor, b"COUNT", PAGE)
            found |= {_text(name) for name in page}
            if not int(cursor) or len(found) >= most:
                return found

    async def alive(self, keys: QueueKeys, ids: Sequence[str]) -> set[str]:
        """Those of the ids whose jobs are not settled."""
        if not ids:
            return set()
        flags = await self._link.call(b"SMISMEMBER", keys.jobs, *ids)
        return {job_id for job_id, flag in zip(ids, flags, strict=True) if flag}

    async def dead_locks(self, keys: QueueKeys, most: int) -> dict[str, str]:
        """Locks whose jobs have ended: lock -> id. So many are looked at, or all."""
        found: dict[str, str] = {}
        cursor: Argument = 0
        seen = 0
        while True:
            cursor, flat = await self._link.call(b"HSCAN", keys.unique, cursor, b"COUNT", PAGE)
            locks = {_text(lock): _text(holder).partition(" ")[0] for lock, holder in _pairs(flat)}
            living = await self.alive(keys, list(locks.values()))
            found |= {lock: job_id for lock, job_id in locks.items() if job_id not in living}
            seen += len(locks)
            if not int(cursor) or seen >= most:
                return found

    async def half_scheduled(self, keys: QueueKeys, most: int) -> tuple[set[str], set[str]]:
        """Ids that have a due time and no message, and ids that have a message and no due time; of so many, about."""
        timed: set[str] = set()
        told: set[str] = set()
        cursor = 0
        for _ in range(most // PAGE + 1):
            step, flat = await self._link.call(b"ZSCAN", keys.scheduled, cursor, b"COUNT", PAGE)
            ids = [bytes(name) for name, _ in _pairs(flat)]
            there = await every([self._link.call(b"HEXISTS", keys.messages, name) for name in ids])
            timed |= {_text(name) for name, is_there in zip(ids, there, strict=True) if not is_there}
            if not (cursor := int(step)):
                break
        names = await self._some_fields(keys.messages, most)
        if names:
            scores = await self._link.call(b"ZMSCORE", keys.scheduled, *names)
            told = {_text(name) for name, score in zip(names, scores, strict=True) if score is None}
        return timed, told

    async def sampled_scheduled(self, keys: QueueKeys, count: int, most_bytes: int) -> tuple[int, list[bytes]]:
        """The largest of some scheduled messages, and those of them that are not larger than that."""
        names = await self._some_fields(keys.messages, count)
        lengths = await every([self._link.call(b"HSTRLEN", keys.messages, name) for name in names])
        small = [name for name, length in zip(names, lengths, strict=True) if length <= most_bytes]
        found = await self._link.call(b"HMGET", keys.messages, *small) if small else []
        return max(lengths, default=0), [bytes(raw) for raw in found if raw is not None]

    async def newest_letters(self, keys: QueueKeys, count: int, most_bytes: int) -> list[bytes]:
        """The newest dead letters, without those that are larger than that."""
        names = await self._link.call(b"ZRANGE", keys.dead, 0, count - 1, b"REV")
        lengths = await every([self._link.call(b"HSTRLEN", keys.letters, name) for name in names])
        small = [name for name, length in zip(names, lengths, strict=True) if length <= most_bytes]
        found = await self._link.call(b"HMGET", keys.letters, *small) if small else []
        return [bytes(data) for data in found if data is not None]

    async def spool_head(self, keys: QueueKeys) -> tuple[int | None, bytes | None]:
        """How many bytes may wait for the result store, None where nobody has one; and what waits the longest."""
        bound, first = await every([self._link.call(b"GET", keys.recorded), self._link.call(b"LINDEX", keys.spool, 0)])
        return None if bound is None else number_of(bound) or 0, None if first is None else bytes(first)

    async def _some_fields(self, name: bytes, count: int) -> list[bytes]:
        return [bytes(field) for field in await self._link.call(b"HRANDFIELD", name, count) or ()]


def _text(name: bytes) -> str:
    """A name as text, whatever somebody has put there."""
    return name.decode("utf-8", "surrogateescape")


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
