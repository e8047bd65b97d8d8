"""hours: each end is counted once in its hour, whenever its row was written, and stays so when the row has gone."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import delete, text, update

from rqueue.results.sql import hours as module
from rqueue.results.sql import marks, tables
from rqueue.results.sql.calls import call
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.hours import DAY, HOUR, roll

from .ended import AT, counted, ended, how_many, put

MINUTE = timedelta(minutes=1)
OVER = AT + HOUR + 10 * MINUTE
"""When the hour that begins at AT is counted."""


async def everything(engine):
    async with engine.connect() as connection:
        return sorted(map(tuple, await connection.execute(tables.hours.select())))


async def test_an_hour_is_counted_when_it_has_been_over_for_a_while(engine):
    await put(
        engine,
        ended(AT),
        ended(AT + 59 * MINUTE, "FAILURE"),
        ended(AT + 30 * MINUTE, "REVOKED", run_ms=None),
        ended(AT + 30 * MINUTE, "RETRY"),
        ended(AT + 30 * MINUTE, task=None),
        ended(AT + HOUR),
    )
    assert await roll(engine, OVER - MINUTE) == 0
    assert await counted(engine) == {}
    assert await roll(engine, OVER) == 1
    assert await counted(engine) == {(AT, ""): (1, 0, 0), (AT, "mail.send"): (1, 1, 1)}
    assert await roll(engine, OVER + HOUR) == 1
    assert (await counted(engine))[AT + HOUR, "mail.send"] == (1, 0, 0)


async def test_counting_again_changes_nothing(engine):
    await put(engine, *(ended(AT + number * 7 * MINUTE) for number in range(80)))
    now = AT + 2 * DAY
    assert await roll(engine, now) == 10
    before = await everything(engine)
    assert await roll(engine, now) == 0
    assert await everything(engine) == before
    async with engine.begin() as connection:
        await connection.execute(delete(tables.marks))
    await roll(engine, now)
    assert await everything(engine) == before


async def test_a_day_is_the_sum_of_its_hours(engine):
    day = AT.replace(hour=0)
    await put(engine, ended(day), ended(day + 23 * HOUR, "FAILURE"), ended(day + 24 * HOUR), ended(day + 49 * HOUR))
    await roll(engine, day + 23 * HOUR + 30 * MINUTE)
    assert await counted(engine, 24) == {}
    await roll(engine, day + 3 * DAY + HOUR)
    assert await counted(engine, 24) == {
        (day, "mail.send"): (1, 1, 0),
        (day + DAY, "mail.send"): (1, 0, 0),
        (day + 2 * DAY, "mail.send"): (1, 0, 0),
    }


async def test_a_day_that_ends_without_jobs_is_added_up(engine):
    """Breaks when days are added up only with an hour that has rows."""
    day = AT.replace(hour=0)
    await put(engine, ended(day + 3 * HOUR))
    await roll(engine, day + 20 * HOUR)
    assert await counted(engine, 24) == {}
    await roll(engine, day + 25 * HOUR)
    assert await counted(engine, 24) == {(day, "mail.send"): (1, 0, 0)}


async def test_a_row_that_is_written_late_is_counted_in_its_hour(engine):
    """Breaks when nobody looks for rows by when they were recorded."""
    await put(engine, ended(AT))
    await roll(engine, AT + 2 * DAY)
    await put(engine, *(ended(AT + at, recorded=AT + 2 * DAY + MINUTE) for at in (MINUTE, 5 * HOUR)))
    assert await roll(engine, AT + 2 * DAY + 5 * MINUTE) == 2
    assert await counted(engine) == {(AT, "mail.send"): (2, 0, 0), (AT + 5 * HOUR, "mail.send"): (1, 0, 0)}
    assert await counted(engine, 24) == {(AT.replace(hour=0), "mail.send"): (3, 0, 0)}
    await roll(engine, AT + 2 * DAY + 11 * MINUTE)
    assert await roll(engine, AT + 2 * DAY + 17 * MINUTE) == 0


async def test_a_row_whose_transaction_took_long_is_counted(engine):
    """It is recorded when its transaction began, before the last look, and is there after it."""
    await put(engine, ended(AT))
    await roll(engine, AT + DAY)
    await put(engine, ended(AT + MINUTE, recorded=AT + DAY - 4 * MINUTE))
    await roll(engine, AT + DAY + 5 * MINUTE)
    assert await counted(engine) == {(AT, "mail.send"): (2, 0, 0)}


async def test_rows_that_are_written_in_time_are_counted_once(engine):
    """Breaks when the margin reaches back to the end of the hour that was just counted."""
    await put(engine, *(ended(AT + number * MINUTE) for number in range(60)))
    assert await roll(engine, OVER) == 1
    assert await roll(engine, OVER + 5 * MINUTE) == 0


async def test_counts_stay_when_rows_go(engine):
    """Also when a late row comes, and the hour is counted anew without those that went."""
    await put(engine, ended(AT), ended(AT, "FAILURE"), ended(AT, task="other"))
    await roll(engine, AT + DAY)
    async with engine.begin() as connection:
        await connection.execute(delete(tables.jobs))
    await put(
        engine,
        ended(AT, recorded=AT + DAY),
        *(ended(AT, task=name, recorded=AT + DAY) for name in ("other", "other", "new")),
    )
    assert await roll(engine, AT + DAY + 5 * MINUTE) == 1
    assert await counted(engine) == {
        (AT, "mail.send"): (1, 1, 0),
        (AT, "new"): (1, 0, 0),
        (AT, "other"): (2, 0, 0),
    }


async def test_many_may_count_at_once(postgresql):
    """Breaks without the lock: an hour is counted from an old sight of it, after another one has moved the mark."""
    await put(postgresql, *(ended(AT + number * 6 * MINUTE) for number in range(120)))
    amounts = await asyncio.gather(*(roll(postgresql, AT + 2 * DAY) for _ in range(6)))
    assert sum(amounts) == 12
    assert sum(count for count, _, _ in (await counted(postgresql)).values()) == 120


async def test_a_row_that_comes_while_its_hour_is_counted_is_found_after(postgresql):
    """The writer's transaction begins before the hour is counted, and ends after."""
    await put(postgresql, ended(AT))
    async with postgresql.connect() as writer:
        await writer.execute(tables.jobs.insert(), [ended(AT, recorded=OVER - MINUTE)])
        assert await roll(postgresql, OVER) == 1
        assert await counted(postgresql) == {(AT, "mail.send"): (1, 0, 0)}
        await writer.commit()
    assert await roll(postgresql, OVER + 5 * MINUTE) == 1
    assert await counted(postgresql) == {(AT, "mail.send"): (2, 0, 0)}


async def test_what_breaks_off_is_done_by_the_next(engine, monkeypatch):
    await put(engine, *(ended(AT + number * HOUR) for number in range(4)))
    upsert, left = module._upsert, 2

    async def breaks(connection, span, tallies):
        nonlocal left
        await upsert(connection, span, tallies)
        left -= bool(tallies)
        if left <= 0:
            raise asyncio.CancelledError

    monkeypatch.setattr(module, "_upsert", breaks)
    with pytest.raises(asyncio.CancelledError):
        await roll(engine, AT + 6 * HOUR)
    monkeypatch.undo()
    assert len(await counted(engine)) == 1
    assert await roll(engine, AT + 6 * HOUR) == 3
    assert await counted(engine) == {(AT + number * HOUR, "mail.send"): (1, 0, 0) for number in range(4)}


async def test_counts_go_after_400_days(engine):
    await put(engine, ended(AT), ended(AT + 3 * DAY))
    await roll(engine, AT + 10 * DAY)
    await roll(engine, AT + 402 * DAY)
    assert await counted(engine) == {(AT + 3 * DAY, "mail.send"): (1, 0, 0)}
    assert await counted(engine, 24) == {(AT.replace(hour=0) + 3 * DAY, "mail.send"): (1, 0, 0)}


async def test_a_clock_that_goes_back_uncounts_nothing(engine):
    await put(engine, ended(AT))
    await roll(engine, AT + DAY)
    assert await roll(engine, AT + 2 * HOUR) == 0
    assert await counted(engine) == {(AT, "mail.send"): (1, 0, 0)}
    async with engine.connect() as connection:
        known = await marks.read(connection)
    assert (known[marks.ROLLED], known[marks.LOOKED]) == (AT + DAY - HOUR, AT + DAY)


async def test_both_databases_count_alike(own_postgres, own_sqlite):

    found = []
    times = [0, 1, 2, 3, 49, 50, 51, 999, 1000, 123_456, 10**9, 2**62, None, -4]
    rows = [ended(AT + number * MINUTE, wait_ms=ms, run_ms=ms, enqueued=AT) for number, ms in enumerate(times)]
    for url in (own_postgres, own_sqlite):
        engine = engine_for(url)
        await put(engine, *rows)
        await roll(engine, OVER)
        found.append(await everything(engine))
        await engine.dispose()
    assert found[0] == found[1]
    assert len(found[0]) == 1


async def test_hours_are_those_of_utc_whatever_the_databases_time_zone_is(own_postgres):
    """Breaks in zones that are half an hour off."""
    engine = engine_for(own_postgres)
    async with engine.begin() as connection:
        await connection.execute(text(f"ALTER DATABASE {engine.url.database} SET timezone = 'Asia/Kolkata'"))
    await engine.dispose()
    engine = engine_for(own_postgres)
    await put(engine, ended(AT + 20 * MINUTE), ended(AT + 40 * MINUTE))
    await roll(engine, AT + DAY + 15 * HOUR)
    assert await counted(engine) == {(AT, "mail.send"): (2, 0, 0)}
    await engine.dispose()


async def test_late_rows_are_found_without_reading_all(postgresql):
    """BRIN on when they were recorded: of 12,000 rows it reads what was written last."""
    async with postgresql.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO rqueue_jobs"
                " (id, enqueued, task, queue, state, attempts, losses, finished, recorded, error)"
                " SELECT 'j' || n, at, 'a', 'q', 'SUCCESS', 1, 0, at, at, repeat('x', 200)"
                " FROM (SELECT n, timestamptz '2024-05-14 00:00Z' + n * interval '1 second' AS at"
                " FROM generate_series(1, 12000) AS n) AS s"
            )
        )
    async with postgresql.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE rqueue_jobs"))
    async with postgresql.connect() as connection:
        plan = "\n".join(
            await connection.scalars(
                text(
                    "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) SELECT DISTINCT date_trunc('hour', finished, 'UTC')"
                    " FROM rqueue_jobs WHERE recorded >= '2024-05-14 03:10Z' AND finished >= '2024-05-01'"
                    " AND finished < '2024-05-14 03:00Z'"
                )
            )
        )
    assert "recorded_idx" in plan, plan
    assert "Seq Scan on rqueue_jobs_other" not in plan, plan


async def test_nothing_is_counted_where_there_is_nothing(engine):
    assert await roll(engine) == 0
    assert await how_many(engine, tables.hours) == 0
    assert await call(engine, marks.read) != {}
    async with engine.begin() as connection:
        await connection.execute(update(tables.marks).values(at=AT))
    assert await roll(engine) == 0
