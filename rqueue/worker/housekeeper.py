"""Sees to it that the result store is kept in order: a worker does it, since there need be nobody else.

Every worker offers it, and the store knows whose turn it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from rqueue.config import Results, age_s
from rqueue.log import Recurring, event
from rqueue.results.store import ResultStore

LOOK_S: Final = 300.0
"""Seconds between two offers."""


class Housekeeper:
    """Keeps a result store in order.

    Args:
        store: the store.
        results: for how long it keeps what.
    """

    def __init__(self, store: ResultStore, results: Results) -> None:
        self._store, self._results = store, results
        self._waits = Recurring()

    async def run(self) -> None:
        """Offer it at once, and then every few minutes, until cancelled."""
        while True:
            try:
                await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, jobs run on, and it is tried again
                self._waits.event(logging.WARNING, "result store is not kept in order", error=str(exc) or repr(exc))
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> int:
        """Do what is due, if it is this worker's turn; how many old rows were removed."""
        age = self._results.retention
        retention_s = None if age is None else age_s(age, "retention")
        removed = await self._store.tidy(retention_s, keep_failures=self._results.keep_failures)
        if removed:
            event(logging.INFO, "old results removed", rows=removed, store=self._store.shown)
        return removed
