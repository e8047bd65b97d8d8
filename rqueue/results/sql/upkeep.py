"""What the tables need now and then, done by whichever worker comes first."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.results.sql import marks
from rqueue.results.sql.calls import call
from rqueue.results.sql.engine import autocommit
from rqueue.results.sql.hours import roll
from rqueue.results.sql.partitions import ensure_months
from rqueue.results.sql.retention import prune

ROLL_EVERY: Final = timedelta(minutes=5)
PRUNE_EVERY: Final = timedelta(hours=1)
MONTHS_EVERY: Final = timedelta(days=1)
"""Making one locks the whole table for a moment, and there are three to spare."""


async def tidy(engine: AsyncEngine, retention_s: float | None, *, keep_failures: bool = False) -> int:
    """Do what is due, and nobody else has done: make months, count hours, remove old rows.

    Args:
        engine: the database's.
        retention_s: rows of jobs that ended so long ago are removed; None: they stay.
        keep_failures: but not those in the state FAILURE.

    Returns:
        How many rows were removed.

    Raises:
        StoreUnavailable, SchemaMismatch: the database cannot be used, or has other tables.
    """
    if await _is_our_turn(engine, "months", MONTHS_EVERY):
        await call(autocommit(engine), _make_months)
    if await _is_our_turn(engine, "roll", ROLL_EVERY):
        await roll(engine)
    if retention_s is None or not await _is_our_turn(engine, "prune", PRUNE_EVERY):
        return 0
    before = await call(engine, marks.now) - timedelta(seconds=retention_s)
    return await prune(engine, before, keep_failures=keep_failures)


async def _is_our_turn(engine: AsyncEngine, name: str, every: timedelta) -> bool:
    return await call(autocommit(engine), partial(marks.take_turn, name=name, every=every))


async def _make_months(connection: AsyncConnection) -> None:
    await ensure_months(connection, await marks.now(connection))
