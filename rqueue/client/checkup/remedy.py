"""What ``--fix`` does: only by the verbs that workers use for the same thing, each of which asks once more.

Nothing here needs to be finished: whoever is interrupted can do it again, and so can a worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rqueue.broker.broker import Broker
from rqueue.client.checkup.finding import Finding, Remedy
from rqueue.client.stops import forget
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.wire.keys import QueueKeys

Reap = Callable[[Sequence[tuple[QueueKeys, str]]], Awaitable[int]]
"""Takes back what workers have left; the reaper's."""

_AT_ONCE = 100


async def mend(broker: Broker, findings: Sequence[Finding], reap: Reap) -> list[Finding]:
    """Do what is safe about the findings; give back those of which something was done, or refused.

    What has changed since it was found is left alone.

    Raises:
        BrokerUnavailable: Redis cannot be reached (any more): what was done is done.
    """
    gone = [
        (broker.keys.queue(each.remedy.queue), str(each.remedy.names[0]))
        for each in findings
        if each.remedy is not None and each.remedy.kind == "reap"
    ]
    # All at once: a job that its worker held in one queue may explain the loss of another queue's.
    if gone:
        await reap(gone)
    mended = [await _mended(broker, each, each.remedy) for each in findings if each.remedy is not None]
    return [finding for finding in mended if finding is not None]


async def _mended(broker: Broker, finding: Finding, remedy: Remedy) -> Finding | None:
    try:
        done = await _REMEDIES[remedy.kind](broker, broker.keys.queue(remedy.queue), remedy)
    except BrokerUnavailable:
        raise
    except BrokerError as exc:
        return replace(finding, text=f"{finding.text}; it could not be fixed: {exc}")
    return replace(finding, fixed=done) if done else None


async def _reaped(broker: Broker, keys: QueueKeys, remedy: Remedy) -> str:
    worker = str(remedy.names[0])
    kind, _ = await broker.held(keys, worker)
    is_gone = kind != "list" and not await broker.registered(keys, [worker])
    return "reaped: its jobs wait again" if is_gone else ""


async def _pruned(broker: Broker, keys: QueueKeys, _: Remedy) -> str:
    cursor = await broker.prune(keys, 0)
    while cursor:
        cursor = await broker.prune(keys, cursor)
    return "pruned"


async def _forgotten(broker: Broker, keys: QueueKeys, remedy: Remedy) -> str:
    stale = [job_id for job_id in await broker.stale_stops(keys, _AT_ONCE) if job_id in remedy.names]
    gone = sum([await forget(broker, keys, job_id) for job_id in stale])
    return f"{gone} forgotten" if gone else ""


async def _expired(broker: Broker, _: QueueKeys, remedy: Remedy) -> str:
    names = [name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape") for name in remedy.names]
    count = await broker.expire_forgotten(names)
    return f"{count} will be gone in a day" if count else ""


async def _announced(broker: Broker, keys: QueueKeys, _: Remedy) -> str:
    await broker.announce(keys.name, again=True)
    return "added"


_REMEDIES: dict[str, Callable[[Broker, QueueKeys, Remedy], Awaitable[str]]] = {
    "reap": _reaped,
    "prune": _pruned,
    "forget": _forgotten,
    "expire": _expired,
    "announce": _announced,
}
