"""The result store as a worker uses it: there, or away. While it is away nobody waits for it.

It alone keeps that a store that does not answer costs a few rows one time-out, and not each row one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from rqueue.errors import SchemaMismatch, StoreError, StoreUnavailable
from rqueue.log import Recurring, event
from rqueue.results.patience import Patience
from rqueue.results.row import Row
from rqueue.results.store import ResultStore

T = TypeVar("T")

TIMEOUT_S: Final = 2.5
"""Stores give up by themselves after two seconds; this is for what hangs all the same."""

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0


class Archive:
    """A result store, and whether it is there.

    Args:
        store: the store.
        now_ms: Redis's time.
        timeout_s: seconds after which no answer is one.
        sleep: waits for so many seconds.

    Attributes:
        away_since: since when it is away, in ms since the epoch; None while it is there.
        back: it is there again, after it was away.
    """

    def __init__(
        self,
        store: ResultStore,
        now_ms: Callable[[], int],
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store, self._now_ms, self._timeout_s, self._sleep = store, now_ms, timeout_s, sleep
        self.away_since: int | None = None
        self.back = asyncio.Event()
        self._has_left = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._waits = Recurring()

    @property
    def shown(self) -> str:
        """The store's URL, without the password."""
        return self._store.shown

    async def open(self) -> None:
        """Look whether it is there. Where it is away it is looked for from then on.

        Raises:
            SchemaMismatch: its tables are not those that this version knows.
        """
        try:
            await self._in_time(self._store.open())
        except StoreUnavailable as exc:
            self._leave(exc)

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        """Write rows; the ids of those that it refuses. May be repeated.

        Raises:
            StoreUnavailable: it is away, or has just left.
        """
        if self.away_since is not None:
            raise StoreUnavailable("the result store is away")
        try:
            refused = await self._saved(rows)
        except StoreError as exc:
            self._leave(exc)
            raise StoreUnavailable(str(exc)) from exc
        self._pause_s = FIRST_PAUSE_S
        return refused

    async def run(self) -> None:
        """Look for it while it is away, with a growing pause, until cancelled."""
        while True:
            await self._has_left.wait()
            await self._sleep(self._pause_s)
            # It grows until something could be written: what answers and refuses is as good as away.
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            await self.tick()

    async def tick(self) -> bool:
        """Look once; whether it is there."""
        try:
            await self._in_time(self._store.open())
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is not there, and is looked for again
            level = logging.ERROR if isinstance(exc, SchemaMismatch) else logging.WARNING
            self._waits.event(level, "result store is still away", url=self.shown, error=str(exc) or repr(exc))
            return False
        away_s = 0.0 if self.away_since is None else (self._now_ms() - self.away_since) / 1000
        event(logging.INFO, "result store is back", url=self.shown, seconds=round(away_s, 1))
        self.away_since = None
        self._has_left.clear()
        self.back.set()
        return True

    async def close(self) -> None:
        """Close its connections."""
        await self._in_time(self._store.close())

    async def _saved(self, rows: Sequence[Row]) -> Sequence[str]:
        """Written by the store; where it fails by an error of its own, in halves, so that one row alone is refused."""
        try:
            return await self._in_time(self._store.save(rows))
        except StoreError:
            raise
        except Exception as exc:  # noqa: BLE001 - about these rows, not about the store
            if len(rows) == 1:
                event(logging.CRITICAL, "a row failed in the result store itself", id=rows[0].id, error=repr(exc))
                return [rows[0].id]
        half = len(rows) // 2
        return [*await self._saved(rows[:half]), *await self._saved(rows[half:])]

    def _leave(self, error: StoreError) -> None:
        if self.away_since is not None:
            return
        self.away_since = self._now_ms()
        self.back.clear()
        self._has_left.set()
        level = logging.ERROR if isinstance(error, SchemaMismatch) else logging.WARNING
        self._waits.event(level, "result store away, results wait in redis", url=self.shown, error=str(error))

    async def _in_time(self, call: Coroutine[Any, Any, T]) -> T:
        """Its answer. What hangs is cancelled, and not waited for: its cancellation may hang as well.

        Raises:
            StoreUnavailable: there was none in time.
        """
        task = asyncio.create_task(call)
        try:
            is_done = await Patience(self._timeout_s).wait(task)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if is_done:
            return task.result()
        self._abandon(task)
        raise StoreUnavailable(f"no answer within {self._timeout_s:g} s")

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._abandoned.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
