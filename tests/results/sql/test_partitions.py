"""Months are made ahead, again and again, and nothing fails where one cannot be made."""

import asyncio
from datetime import UTC, datetime

from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.partitions import OTHER, ensure_months, name_of
from rqueue.results.sql.store import SqlStore
from rqueue.results.sql.tables import milliseconds

from ..conftest import make_row  # noqa: TID252 - tests are no installed package
from .conftest import ask, run

THEN = datetime(2031, 11, 30, 23, 59, tzinfo=UTC)


async def ensure(engine, now=THEN, ahead=3):
    async with engine.begin() as connection:
        return await ensure_months(connection, now, ahead)


def test_names():
    assert name_of(2026 * 12 + 0) == "rqueue_jobs_2026_01"
    assert name_of(2026 * 12 + 11) == "rqueue_jobs_2026_12"


async def test_this_month_and_the_next_ones_once(pg):
    """Over the end of a year. Breaks when a month is made twice, or under another's name."""
    made = [f"rqueue_jobs_{month}" for month in ("2031_11", "2031_12", "2032_01", "2032_02")]
    assert await ensure(pg) == made
    assert await ensure(pg) == []
    assert await ensure(pg, datetime(2031, 12, 1, tzinfo=UTC)) == ["rqueue_jobs_2032_03"]


async def test_a_row_lies_in_its_month_to_the_millisecond(own_postgres, pg):
    await ensure(pg, ahead=1)
    store = SqlStore(own_postgres)
    december = milliseconds(datetime(2031, 12, 1, tzinfo=UTC))
    rows = {at: make_row(enqueued=at) for at in (december - 1, december, None)}
    await store.save(list(rows.values()))
    await store.close()
    lies = dict(await ask(pg, "SELECT id, CAST(tableoid::regclass AS text) FROM rqueue_jobs"))
    assert [lies[row.id] for row in rows.values()] == [
        "rqueue_jobs_2031_11",
        "rqueue_jobs_2031_12",
        "rqueue_jobs_undated",  # whoever makes a month reads the default partition through
    ]


async def test_a_month_whose_rows_are_elsewhere_already_is_left_out(own_postgres, pg):
    """Breaks when making months fails for ever, because they were made too late once."""
    store = SqlStore(own_postgres)
    row = make_row(enqueued=milliseconds(THEN))
    await store.save([row])
    assert await ensure(pg, ahead=1) == ["rqueue_jobs_2031_12"]
    assert await store.find(row.id) == row
    await store.close()


async def test_several_at_once(pg, own_postgres):
    """Each worker does it. Breaks when the second one fails, or they wait for each other."""
    engines = [pg, *(engine_for(own_postgres) for _ in range(2))]
    made = await asyncio.gather(*map(ensure, engines))
    assert {name for names in made for name in names} == {
        f"rqueue_jobs_{month}" for month in ("2031_11", "2031_12", "2032_01", "2032_02")
    }
    for engine in engines[1:]:
        await engine.dispose()


async def test_whoever_reads_for_long_is_not_waited_for(pg):
    """An export, or a backup. Breaks when other readers queue up behind the wait."""
    async with pg.connect() as reader:
        await reader.exec_driver_sql(f"SELECT count(*) FROM {OTHER}")
        assert await ensure(pg, ahead=0) == []
        await reader.rollback()
        assert await ensure(pg, ahead=0) == ["rqueue_jobs_2031_11"]


async def test_a_user_who_may_only_write_goes_on(pg, own_postgres):
    await run(pg, "DROP ROLE IF EXISTS rqueue_writer")
    await run(pg, "CREATE ROLE rqueue_writer LOGIN")
    await run(pg, "GRANT SELECT, INSERT, UPDATE ON rqueue_jobs TO rqueue_writer")
    url = own_postgres.replace("postgres@", "rqueue_writer@")
    writer = engine_for(url)
    assert await ensure(writer) == []
    await writer.dispose()
    store = SqlStore(url)
    row = make_row()
    assert not await store.save([row])
    assert await store.find(row.id) == row
    await store.close()
    await run(pg, "DROP OWNED BY rqueue_writer")
    await run(pg, "DROP ROLE rqueue_writer")


async def test_sqlite_has_none(history):
    if history.engine.dialect.name == "sqlite":
        assert await ensure(history.engine) == []
