"""A job's stop in one queue: set where a worker has the job, and forgotten, so that its id is free for another."""

from __future__ import annotations

from rqueue.broker.broker import Broker, Done
from rqueue.wire.keys import QueueKeys

_OTHER_WORKERS = 3
_UNKNOWN_WORKERS = -1


async def cancel(broker: Broker, keys: QueueKeys, done: Done) -> tuple[int, str | None]:
    """Remove or mark one job; see ``cancel.lua`` for the answer. May be repeated.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    answer: tuple[int, str | None] = _OTHER_WORKERS, None
    while answer[0] == _OTHER_WORKERS:
        answer = await broker.cancel(keys, done, await broker.worker_names(keys))
    return answer


async def forget(broker: Broker, keys: QueueKeys, job_id: str) -> bool:
    """Take away the stop, and what the cancel left in a long list; false when there is none, or the job is alive.

    May be repeated.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    answer = _UNKNOWN_WORKERS
    while answer == _UNKNOWN_WORKERS:
        answer = await broker.forget(keys, job_id, await broker.worker_names(keys))
    return bool(answer)
