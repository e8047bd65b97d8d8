"""Tells the supervisor how the worker is, four times a second: that the event loop moves is the first thing it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from rqueue.policy.clock import elapsed_s
from rqueue.worker.board import Figures
from rqueue.worker.inflight import Inflight
from rqueue.worker.life import memory_bytes
from rqueue.worker.parent import Parent

_LOOK_S: Final = 0.25


class Gauge:
    """Reports to the supervisor.

    Args:
        inflight: what is claimed, and how many jobs may still be started.
        parent: the supervisor.
        card: what the worker says of itself.
        spent: called, again and again, while the worker may start nothing and runs nothing.
    """

    def __init__(
        self, inflight: Inflight, parent: Parent, card: Callable[[], bytes], spent: Callable[[], None]
    ) -> None:
        self._inflight, self._parent, self._card, self._spent = inflight, parent, card, spent
        self._ready_s = 0.0

    async def run(self) -> None:
        """Report until cancelled."""
        self._ready_s = elapsed_s()
        while True:
            self.tick()
            await asyncio.sleep(_LOOK_S)

    def tick(self) -> None:
        """Report once."""
        inflight = self._inflight
        figures = Figures(elapsed_s(), self._ready_s, inflight.life.started, memory_bytes(), inflight.running)
        self._parent.report(figures, self._card())
        if inflight.life.is_spent() and not inflight.running:
            self._spent()
