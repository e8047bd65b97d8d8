"""The verbs from a waiting message to a running job: claim, block, audit, adopt, start, track."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from rqueue.broker.calls import Calls, in_ms, or_nothing, text_of
from rqueue.broker.cluster import by_slot
from rqueue.broker.link import Argument, Link, NoScript, Redirected, Reply
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.wire.keys import QueueKeys


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
        missed: of a cluster, the places of the queues that could not be asked, for ``error``.
    """

    due_ms: int | None
    messages: list[Claimed]
    stopped: tuple[Stopped, ...] = ()
    missed: tuple[int, ...] = ()
    error: BrokerError | None = None


class Claiming(Calls):
    """How a worker comes by its jobs."""

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

        If the reply is lost, messages may have been claimed: the worker's audit finds them. A cluster is asked once
        for each slot: see :meth:`_claim_by_slot`.
        """
        if self.endpoint.cluster is not None and len(groups := by_slot(queues)) > 1:
            return await self._claim_by_slot(groups, queues, ranks, worker, lease_s, want, max_bytes, first)
        names: list[bytes] = []
        for keys in queues:
            names += (keys.processing(worker), keys.workers, keys.scheduled, *keys.lists, keys.stops)
        reply = await self._run("claim", names, (worker, in_ms(lease_s), want, max_bytes, first % len(queues), *ranks))
        if reply is None:
            return None
        now, due, flat, stops = reply
        self.clock.observe(now)
        taken = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        # A NamedTuple's own way takes three times as long.
        messages = [tuple.__new__(Claimed, (queue, level, raw)) for queue, level, raws in taken for raw in raws]
        return Claim(None if due < 0 else due, messages, tuple(_stopped(*each) for each in stops))

    async def _claim_by_slot(
        self,
        groups: list[list[int]],
        queues: Sequence[QueueKeys],
        ranks: Sequence[int],
        worker: str,
        lease_s: float,
        want: int,
        max_bytes: int,
        first: int,
    ) -> Claim | None:
        """One claim for each slot, the highest ranks first, each for what is still wanted.

        Also when nothing is: it renews the lease, and says what is due and stopped. What some slots gave is never
        dropped for another's error: that one's queues are named instead. Where the worker is not registered in one, it
        has lost its lease in all, and what others gave is reaped with it.

        Raises:
            BrokerError: no slot could be asked.
        """
        turn = first % len(groups)
        groups = sorted(groups[turn:] + groups[:turn], key=lambda group: -max(ranks[place] for place in group))
        due: int | None = None
        messages: list[Claimed] = []
        stopped: list[Stopped] = []
        missed: list[int] = []
        errors: list[BrokerError] = []
        for group in groups:
            left = max_bytes - sum(len(each.raw) for each in messages)
            some, their_ranks = [queues[place] for place in group], [ranks[place] for place in group]
            try:
                claim = await self.claim(some, their_ranks, worker, lease_s, want - len(messages), left, first)
            except BrokerError as exc:
                missed += group
                errors.append(exc)
                continue
            if claim is None:
                return None
            messages += [each._replace(queue=group[each.queue]) for each in claim.messages]
            stopped += [each._replace(queue=group[each.queue]) for each in claim.stopped]
            if claim.due_ms is not None:
                due = claim.due_ms if due is None else min(due, claim.due_ms)
        if len(errors) == len(groups):
            raise errors[0]
        return Claim(due, messages, tuple(stopped), tuple(missed), errors[0] if errors else None)

    async def block(self, keys: QueueKeys, worker: str, timeout_s: float) -> bytes | None:
        """Wait at the server for a message in the main list; None when the time was up or the wait was ended.

        The token is returned as it is; the next claim removes it from the processing list. If the reply is lost, a
        message may have been claimed: the worker's audit finds it.

        Raises:
            BrokerError: the worker's list is a tombstone: it must go on under a new id.
        """
        link = self._blocks.get(keys.name)
        if link is None:
            connect = self.endpoint.connection if self._router is None else self._router.home(keys.main)
            link = self._blocks[keys.name] = Link(connect, timeout_s + 5, scripts=False)
        link.reply_timeout_s = timeout_s + 5
        timeout_s = max(timeout_s, 0.001)  # 0 would be for ever
        try:
            reply = await link.call(b"BRPOPLPUSH", keys.main, keys.processing(worker), f"{timeout_s:.3f}")
        except (BrokerUnavailable, Redirected) as exc:
            if self._router is None:
                raise
            link.reset()  # the next one connects to whoever serves the slot then
            raise self._router.missed(keys.main, exc) from None
        return None if reply is None else bytes(reply)

    async def unblock(self, keys: QueueKeys) -> None:
        """End the wait at that queue, if the server lets us; else it ends by its timeout."""
        link = self._blocks.get(keys.name)
        if link is not None and link.client_id is not None:
            try:
                if self._router is None:
                    await self._link.call(b"CLIENT", b"UNBLOCK", link.client_id)
                else:
                    await self._router.call_home(keys.main, b"CLIENT", b"UNBLOCK", link.client_id)
            except BrokerUnavailable:
                raise
            except BrokerError:
                link.client_id = None  # an ACL without it: do not ask again on this connection

    async def audit(self, keys: QueueKeys, worker: str) -> list[bytes]:
        """The fingerprint of each message in the worker's processing list, the last claimed first; b'' for a token."""
        return list(await self._run("audit", (keys.processing(worker),), ()))

    async def held_at(self, keys: QueueKeys, worker: str, index: int) -> bytes | None:
        """The message at that place of the worker's processing list."""
        reply: bytes | None = await or_nothing(self._link.call(b"LINDEX", keys.processing(worker), index), None)
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

        Raises:
            BrokerUnavailable: it cannot be sent.
        """
        names, arguments = (keys.workers, keys.started(worker)), (worker, *ids)
        sent = self._link.call(b"EVALSHA", self.endpoint.scripts["start"].sha, len(names), *names, *arguments)
        if sent.done():
            sent.result()  # it is not on its way: the queue's node is known to be away
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


def fingerprint(raw: bytes) -> bytes:
    """What tells a message from others, as :meth:`Broker.audit` gives it: its length and its first 256 bytes."""
    return b"%d:" % len(raw) + raw[:256]


def _stopped(queue: int, is_paused: int, tasks: list[bytes], revoked: list[bytes]) -> Stopped:
    ids = frozenset(map(text_of, revoked))
    return Stopped(queue, bool(is_paused), frozenset(task_names(tasks)), ids)


def task_names(stops: Sequence[bytes]) -> list[str]:
    """The tasks that stops of the form ``task:<name>`` are about."""
    return [text_of(name).removeprefix("task:") for name in stops]
