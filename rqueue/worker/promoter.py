"""Moves scheduled jobs to their lists when they are due. Every worker does; the script moves each only once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from rqueue.broker.broker import Broker
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.log import Recurring, event
from rqueue.wire.keys import QueueKeys
from rqueue.worker.schedule import Schedule

_PAUSE_S = 1.0


class Promoter:
    """Promotes due jobs.

    Args:
        broker: the broker.
        queues: the queues to serve.
        schedule: when the next job is due; claims keep it up to date.
        changed: set when that becomes earlier.
    """

    def __init__(self, broker: Broker, queues: Sequence[QueueKeys], schedule: Schedule, changed: asyncio.Event) -> None:
        self._broker, self._queues, self._schedule, self._changed = broker, queues, schedule, changed
        self._waits = Recurring()

    async def run(self) -> None:
        """Wait until something is due and promote it, until cancelled."""
        while True:
            left_s = self._schedule.left_s()
            if left_s is None or left_s > 0:
                try:
                    async with asyncio.timeout(left_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # due
                self._changed.clear()
                continue
            try:
                await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop promoting
                self._waits.event(logging.WARNING, "promoting waits for redis", error=str(exc) or repr(exc))
                await asyncio.sleep(_PAUSE_S)

    async def tick(self) -> int:
        """Promote what is due in each queue, at most a hundred in one script; how many were."""
        moved, next_ms = 0, None
        for keys in self._queues:
            try:
                count, due_ms = await self._broker.promote(keys)
            except BrokerUnavailable as exc:
                if not self._broker.is_cluster:
                    raise
                self._waits.event(logging.WARNING, "promoting waits for redis", queue=keys.name, error=str(exc))
                count, due_ms = 0, round(_PAUSE_S * 1000)  # the other nodes' queues go on
            except BrokerError as exc:  # one list is none: the other queues go on, and this one is tried again
                event(logging.ERROR, "redis refused to promote", queue=keys.name, error=str(exc))
                count, due_ms = 0, round(_PAUSE_S * 1000)
            if not count and due_ms == 0:
                due_ms = round(_PAUSE_S * 1000)  # what is due cannot go to its list: do not spin on it
            moved += count
            if due_ms is not None and (next_ms is None or due_ms < next_ms):
                next_ms = due_ms
        self._schedule.note(next_ms)
        return moved
