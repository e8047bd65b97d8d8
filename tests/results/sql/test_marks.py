"""marks: how far work has come, and whose turn it is."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from rqueue.results.sql import marks, tables
from rqueue.results.sql.engine import autocommit

HOUR = timedelta(hours=1)


async def turn(engine, every=HOUR):
    async with autocommit(engine).connect() as connection:
        return await marks.take_turn(connection, "sweep", every)


async def move(engine, by):
    """As if the clock had gone on by so much."""
    async with engine.begin() as connection:
        at = (await marks.read(connection))["sweep"]
        await connection.execute(update(tables.marks).values(at=at - by))


async def test_a_mark_stands_where_it_was_set_last(engine):
    first, second = datetime(2024, 5, 1, 1, 2, 3, 456789, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    async with engine.begin() as connection:
        assert await marks.read(connection) == {}
        await marks.write(connection, "a", first)
        await marks.write(connection, "b", first)
        await marks.write(connection, "b", second)
        assert await marks.read(connection) == {"a": first, "b": second}


async def test_the_time_is_the_databases(engine):
    async with engine.connect() as connection:
        now = await marks.now(connection)
    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=30)


async def test_a_turn_is_had_once_in_its_time(engine):
    assert await turn(engine)
    assert not await turn(engine)
    await move(engine, HOUR - timedelta(seconds=60))
    assert not await turn(engine)
    await move(engine, timedelta(seconds=61))
    assert await turn(engine)
    assert not await turn(engine)


async def test_one_of_many_has_the_turn(engine):
    """Breaks when it is looked at first, and taken after."""
    assert sorted(await asyncio.gather(*(turn(engine) for _ in range(8)))) == [False] * 7 + [True]
    await move(engine, HOUR)
    assert sorted(await asyncio.gather(*(turn(engine) for _ in range(8)))) == [False] * 7 + [True]


async def test_a_mark_of_a_clock_that_was_wrong_stops_nobody(engine):
    await turn(engine)
    await move(engine, -timedelta(days=365))
    assert await turn(engine)
    assert not await turn(engine)


async def test_who_has_the_lock_is_alone_until_the_transaction_ends(postgresql):
    async with postgresql.connect() as one, postgresql.connect() as other:
        await marks.lock(one)
        waiting = asyncio.ensure_future(marks.lock(other))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        await one.commit()
        await waiting
