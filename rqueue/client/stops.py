"""Forgets the stop of a cancelled job that has ended, so that its id is free for another."""

from __future__ import annotations

from rqueue.broker.broker import Broker
from rqueue.wire.keys import QueueKeys

_OTHER_WORKERS = -1


async def forget(broker: Broker, keys: QueueKeys, job_id: str) -> bool:
    """Take away the stop, and what the cancel left in a long list; false when there is none, or the job is alive.

    May be repeated.

    Raises:
        BrokerError: Redis refused, or could not be asked.
    """
    answer = _OTHER_WORKERS
    while answer == _OTHER_WORKERS:
        answer = await broker.forget(keys, job_id, await broker.worker_names(keys))
    return bool(answer)
