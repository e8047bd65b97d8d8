"""Times and JSON as the database gives them back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from rqueue.results.row import Row
from rqueue.results.sql.tables import FIELDS, UNKNOWN, jobs, marks, milliseconds, row_from

from ..conftest import NOW, make_row  # noqa: TID252 - tests are no installed package


@given(st.integers(0, 253_402_300_799_999))
def test_no_millisecond_is_lost(ms):
    """Breaks when a time goes through a float: 1763841234567 is one that then is another."""
    assert milliseconds(UNKNOWN + timedelta(milliseconds=ms)) == ms


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 22, 8, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 11, 22, 8, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        UNKNOWN,
    ],
)
async def test_a_moment_is_the_same_one_in_each_database(engine, moment):
    async with engine.begin() as connection:
        await connection.execute(insert(marks).values(name="x", at=moment))
        found = (await connection.execute(select(marks.c.at))).scalar_one()
        assert (found, found.tzinfo) == (moment, UTC)
        assert (await connection.execute(select(marks.c.name).where(marks.c.at <= moment))).scalar() == "x"
        assert (await connection.execute(select(marks.c.name).where(marks.c.at < moment))).scalar() is None


async def test_what_the_store_has_written_compares_with_what_queries_give(history):
    """In SQLite times are texts. Breaks when the two write them in different lengths."""
    row = make_row(started=None)
    await history.save([row])
    at = UNKNOWN + timedelta(milliseconds=NOW)
    async with history.engine.connect() as connection:
        for condition in (jobs.c.enqueued == at, jobs.c.enqueued >= at, jobs.c.enqueued <= at):
            assert (await connection.execute(select(jobs.c.id).where(condition))).scalar() == row.id
        for condition in (jobs.c.enqueued > at, jobs.c.enqueued < at):
            assert (await connection.execute(select(jobs.c.id).where(condition))).scalar() is None
        recorded = (await connection.execute(select(jobs.c.recorded))).scalar_one()
    assert abs(datetime.now(UTC) - recorded) < timedelta(minutes=1)


async def test_a_row_is_read_field_by_field(history):
    rows = [make_row(enqueued=None, started=None), make_row()]
    await history.save(rows)
    async with history.engine.connect() as connection:
        found = [row_from(one) for one in await connection.execute(select(*FIELDS).order_by(jobs.c.enqueued))]
    assert found == rows
    assert [field.name for field in FIELDS] == list(Row._fields)
