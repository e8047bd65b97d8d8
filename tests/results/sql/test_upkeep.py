"""upkeep: what is due is done once, by whoever comes first."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import text, update

from rqueue.results.sql import tables
from rqueue.results.sql.hours import DAY, HOUR
from rqueue.results.sql.partitions import name_of
from rqueue.results.sql.upkeep import tidy

from .ended import counted, ended, how_many, put

WEEK_S = 7 * 86_400.0


async def later(engine, by):
    """As if the clock had gone on by so much, for whoever looks whose turn it is."""
    async with engine.begin() as connection:
        for name in ("months", "roll", "prune"):
            at = datetime.now(UTC) - by
            await connection.execute(update(tables.marks).where(tables.marks.c.name == name).values(at=at))


async def test_hours_are_counted_and_old_rows_go(engine):
    now = datetime.now(UTC)
    await put(engine, ended(now - 8 * DAY), ended(now - 9 * DAY, "FAILURE"), ended(now - 3 * HOUR))
    assert await tidy(engine, WEEK_S, keep_failures=True) == 1
    assert await how_many(engine) == 2
    assert len(await counted(engine)) == 3
    await put(engine, ended(now - 8 * DAY), ended(now - 4 * HOUR, recorded=now))
    assert await tidy(engine, WEEK_S) == 0
    assert len(await counted(engine)) == 3
    await later(engine, timedelta(minutes=6))
    assert await tidy(engine, WEEK_S) == 0
    assert len(await counted(engine)) == 4
    await later(engine, HOUR)
    assert await tidy(engine, WEEK_S) == 2
    assert await how_many(engine) == 2


async def test_without_a_retention_nothing_goes(engine):
    await put(engine, ended(datetime.now(UTC) - 300 * DAY))
    assert await tidy(engine, None) == 0
    assert await how_many(engine) == 1


async def test_many_at_once_do_it_once(engine):
    now = datetime.now(UTC)
    await put(engine, *(ended(now - 8 * DAY) for _ in range(20)))
    assert sorted(await asyncio.gather(*(tidy(engine, WEEK_S) for _ in range(6)))) == [0] * 5 + [20]


async def test_months_are_made_before_they_are_needed(postgresql):
    now = datetime.now(UTC)
    month = now.year * 12 + now.month - 1 + 3
    async with postgresql.begin() as connection:
        await connection.execute(text(f"DROP TABLE {name_of(month)}"))
    await tidy(postgresql, None)
    async with postgresql.connect() as connection:
        assert await connection.scalar(text(f"SELECT to_regclass('{name_of(month)}')")) is not None
