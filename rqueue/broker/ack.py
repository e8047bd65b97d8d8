"""The verbs that settle a claim: ack and record, retry, move, bury, revoke, release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rqueue.broker.calls import Calls, in_ms
from rqueue.broker.link import Argument
from rqueue.errors import BrokerError
from rqueue.wire.keys import QueueKeys
from rqueue.wire.state import State

_RECORDS = tuple(b'{"state":"%b"' % state.encode() for state in State)


class Done(NamedTuple):
    """One finished job of an ack batch; ``ttl`` is '' for ever, '0' not at all, else seconds."""

    raw: bytes
    id: str
    record: bytes
    ttl: str


class Settling(Calls):
    """How a worker is rid of its jobs."""

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
            check_done(job)
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
        check_done(Done(b"", job_id, record, ttl))
        names = [
            keys.result(job_id),
            keys.counts,
            keys.dead,
            keys.letters,
            keys.jobs,
            keys.started(worker or started_by),
            keys.workers,
        ]
        if started_by:
            names += keys.spooling
        by_reaper = "1" if started_by else ""
        arguments = (record, ttl, job_id, letter, keep, in_ms(keep_s), worker, by_reaper)
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
        delay_ms = f"{in_ms(delay_s)}.5" if is_parked else in_ms(delay_s)
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
        *,
        is_cancelled_there: bool = False,
    ) -> bytes | None:
        """Let go of a claimed job that was enqueued in another queue; the reply is as in ``retry``.

        b'4' where it was cancelled here: it goes once it is cancelled there. Repeatable like ``ack``.
        """
        check_done(Done(raw, job_id, record, str(ttl_s)))
        names = (
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.settled(worker),
            keys.jobs,
            keys.result(job_id),
            keys.stops,
        )
        cancelled = "1" if is_cancelled_there else ""
        short = b'{"state":"RETRY","moved":"%b"}' % queue.encode()
        reply = await self._run("move", names, (worker, lane, number, raw, job_id, record, ttl_s, short, cancelled))
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
        check_done(done)
        names = [
            keys.processing(worker),
            keys.workers,
            keys.started(worker),
            keys.jobs,
            keys.settled(worker),
            keys.counts,
            keys.result(done.id),
            keys.dead,
            keys.letters,
        ]
        if by_reaper:
            names += keys.spooling
        by = "1" if by_reaper else ""
        reply = await self._run("bury", names, (worker, lane, number, *done, letter, keep, in_ms(keep_s), by))
        return None if reply is None else bytes(reply)

    async def revoke(
        self, keys: QueueKeys, worker: str, lane: str | int, number: int, done: Done, *, is_settled_early: bool = False
    ) -> bytes | None:
        """Settle a claimed job that was cancelled; the reply is as in ``retry``. Repeatable like ``ack``."""
        check_done(done)
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


def check_done(job: Done) -> None:
    """Refuse what would fail in the middle of a script: scripts do not roll back."""
    if not job.record.startswith(_RECORDS) or not ((job.ttl.isascii() and job.ttl.isdigit()) or job.ttl == ""):
        raise BrokerError(f"job {job.id}: a record begins with its state, and is kept for whole seconds ({job.ttl!r})")
