"""What becomes of a message whose worker died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rqueue.wire.message import Message


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A reaped message's fate: back to its list under a changed header, or to the dead letters.

    Attributes:
        message: the message as it goes on.
        is_dead: true when it has cost too many workers.
    """

    message: Message
    is_dead: bool


def redeliver(message: Message, started: bool, max_deliveries: int) -> Redelivery:
    """Charge the loss of a worker to the jobs that had started, and only to them.

    Args:
        message: as it stood in the dead worker's list.
        started: whether the job had been marked as started.
        max_deliveries: at this many losses the job is a dead letter.
    """
    if not started:
        return Redelivery(message, is_dead=False)
    charged = message.changed(losses=message.header.losses + 1)
    return Redelivery(charged, is_dead=charged.header.losses >= max_deliveries)


def charged(losses: Mapping[str, int]) -> set[str]:
    """Which of the jobs that were running when a worker died are charged with its loss.

    All of them, unless some had cost a worker before: then only those. A worker starts such jobs one at a time, so
    that a job which kills its worker each time is charged alone from the second time on.

    Args:
        losses: by id, how many workers each running job had cost before.
    """
    return {job_id for job_id, before in losses.items() if before} or set(losses)


def is_suspect(losses: int) -> bool:
    """True when a job has cost so many workers that it runs with nothing else in its process: from its second loss."""
    return losses >= 2
