"""What a worker does about pauses: it heeds those that came before it, and parks the jobs of paused tasks.

That nothing is claimed from a paused queue is the script's affair; see ``broker/lua/pause.lua``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rqueue.broker.broker import Broker
from rqueue.client.task import Task
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import Call
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import Defer, Outcome, Unknown

PARKED_S: Final = 60.0
"""A job of a paused task comes back after so long; a resume brings it back at once."""


async def apply_pauses(broker: Broker, queues: Sequence[QueueKeys]) -> None:
    """Pause in these queues what was paused before they came into use.

    The queues must be announced: whoever pauses or resumes from then on finds them. What changes meanwhile is looked
    for again.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    applied: dict[str, int] = {}
    while (declared := await broker.declared()) != applied:
        for keys in queues:
            for field in declared:
                if (what := what_in(keys, field)) is not None:
                    await broker.pause(keys, what)
            for field in applied.keys() - declared.keys():
                if (what := what_in(keys, field)) is not None:
                    await broker.resume(keys, what)
        applied = declared


def what_in(keys: QueueKeys, field: str) -> str | None:
    """What a declared pause stops in that queue, in the words of ``stops``; None when it stops nothing there."""
    kind, _, name = field.partition(":")
    if kind == "queue":
        return "queue" if name == keys.name else None
    return field


def is_paused(prepared: tuple[Call, Task[Any, Any]] | Outcome, paused: frozenset[str]) -> bool:
    """Whether a job's task is among the paused ones, by its name or the one in the message; also an unknown one."""
    match prepared:
        case (Call(task=name), task):
            return name in paused or task.name in paused
        case Unknown(name):
            return name in paused
    return False


def parked(job: ClaimedJob) -> Defer:
    """Put off as it is: it spends no retry, and keeps its id and its priority."""
    return Defer(job.message.changed(id=job.id), PARKED_S, is_parked=True)
