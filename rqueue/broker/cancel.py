"""The verbs about what must not run: cancel and forget for jobs, pause and resume for queues and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rqueue.broker.ack import Done, check_done
from rqueue.broker.calls import Calls, name_of, number_of, or_nothing, text_of
from rqueue.broker.link import Argument
from rqueue.wire.history import is_moment
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import TOKEN

CANCEL_LOOKS_AT: Final = 1000
CANCEL_LOOKS_AT_BYTES: Final = 1024 * 1024
SCAN_AT_ONCE: Final = 1000


class Stopping(Calls):
    """What must not run."""

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
        check_done(done)
        names = [keys.jobs, keys.scheduled, keys.messages, keys.stops, keys.workers, keys.result(done.id), keys.counts]
        names += (*keys.lists, *keys.spooling)
        for worker in workers:
            names += (keys.processing(worker), keys.started(worker))
        arguments: list[Argument] = [done.id, done.record, done.ttl, done.raw, level]
        arguments += [CANCEL_LOOKS_AT, CANCEL_LOOKS_AT_BYTES, *map(name_of, workers)]
        code, *worker_ = await self._run("cancel", names, arguments)
        return int(code), worker_[0].decode("utf-8", "surrogateescape") if worker_ else None

    async def forget(self, keys: QueueKeys, job_id: str, workers: Sequence[str]) -> int:
        """Take away the stop of a job that has ended, and what its cancel left; see ``forget.lua``. May be repeated."""
        names = [keys.jobs, keys.stops, keys.workers, *keys.lists, *map(keys.processing, workers)]
        return int(await self._run("forget", names, (job_id, *map(name_of, workers))))

    async def take_away(self, keys: QueueKeys, raw: bytes, level: int) -> bool:
        """Take a waiting message without an id away; false when it is not there (any more)."""
        return bool(await or_nothing(self._link.call(b"LREM", keys.lists[level], 1, raw), 0))

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
        return [text_of(job_id) for job_id, is_alive in zip(ids, alive, strict=True) if not is_alive]

    async def waiting(self, keys: QueueKeys, level: int, start: int, count: int) -> list[bytes]:
        """Some messages of a waiting list, the newest first, tokens among them."""
        part = self._link.call(b"LRANGE", keys.lists[level], start, start + count - 1)
        return list(await or_nothing(part, []))

    async def length(self, keys: QueueKeys, level: int) -> int:
        """How many there are in a waiting list, tokens included."""
        return int(await or_nothing(self._link.call(b"LLEN", keys.lists[level]), 0))

    async def claimed(self, keys: QueueKeys, worker: str) -> list[bytes]:
        """All messages that a worker has claimed, the last claimed first."""
        found = await or_nothing(self._link.call(b"LRANGE", keys.processing(worker), 0, -1), [])
        return [raw for raw in found if raw != TOKEN]

    async def declare(self, field: str) -> bool:
        """Write down what is paused: ``all``, ``queue:<name>``, ``task:<name>``; false when it was. May be repeated."""
        return bool(await self._run("declare", (self.keys.paused,), (field,)))

    async def declared(self) -> dict[str, int]:
        """What is paused, and since when in ms since the epoch; 0 where that cannot be read."""
        flat = await self._link.call(b"HGETALL", self.keys.paused)
        found = zip(map(text_of, flat[::2]), map(number_of, flat[1::2]), strict=True)
        return {field: since if is_moment(since) else 0 for field, since in found if _is_pause(field)}

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
                    found[text_of(job_id)] = float(due)
            if not int(cursor):
                return sorted(found, key=lambda job_id: (found[job_id], job_id))

    async def unpark(self, keys: QueueKeys, jobs: Sequence[tuple[str, int]]) -> int:
        """Make parked jobs due: (id, how many ms ago). How many were still parked. May be repeated."""
        arguments: list[Argument] = [part for job in jobs for part in job]
        return int(await self._run("unpark", (keys.scheduled, keys.main), arguments))


def _is_pause(field: str) -> bool:
    """False for what somebody else has put among the pauses."""
    kind, found, name = field.partition(":")
    return field == "all" or (kind in ("queue", "task") and bool(found and name))
