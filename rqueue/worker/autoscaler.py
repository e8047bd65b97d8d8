"""Lets the worker's slots follow the backlog, between two bounds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.errors import BrokerError
from rqueue.log import event
from rqueue.policy.autoscale import Autoscale
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import QueueKeys
from rqueue.worker.inflight import Inflight

_LOOK_S: Final = 1.0


class Autoscaler:
    """Grows and shrinks a worker.

    Args:
        broker: is asked for the backlog, and only while every slot is busy.
        served: the queues that the worker claims from now.
        inflight: the slots, and how many of them are busy.
        scale: decides; None: the slots stay as they are.
        resize: changes them.
    """

    def __init__(
        self,
        broker: Broker,
        served: Sequence[QueueKeys],
        inflight: Inflight,
        scale: Autoscale | None,
        resize: Callable[[int], None],
    ) -> None:
        self._broker, self._served, self._inflight, self._scale, self._resize = broker, served, inflight, scale, resize

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while self._scale is not None:
            await asyncio.sleep(_LOOK_S)
            await self.tick()

    async def tick(self) -> int:
        """One look; by how many slots the worker grew, below 0 when it shrank."""
        if self._scale is None:
            return 0
        before, busy, waiting = self._inflight.slots, self._inflight.running, 0
        if busy >= before and before < self._scale.most:
            try:
                sizes = await asyncio.gather(*(self._broker.sizes(keys) for keys in self._served))
            except BrokerError as exc:
                event(logging.WARNING, "backlog not known", error=str(exc))
                return 0
            waiting = sum(size.claimable for size in sizes)
        change = self._scale.decide(elapsed_s(), before, busy, waiting)
        if change is None:
            return 0
        event(logging.INFO, "autoscale", slots=change.size, before=before, why=change.reason)
        self._resize(change.size)
        return change.size - before
