"""retention: what is old goes, nothing else does, and nobody waits for it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from rqueue.errors import StoreUnavailable
from rqueue.results.sql import retention
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.retention import doomed, prune

from .ended import AT, ended, how_many, ids, put

DAY = timedelta(days=1)
MAY, JUNE, JULY = (datetime(2024, month, 1, tzinfo=UTC) for month in (5, 6, 7))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 10)


@pytest.fixture
async def months(postgresql):
    """PostgreSQL with the months of May and June 2024."""
    async with postgresql.begin() as connection:
        for name, first, last in (("may", MAY, JUNE), ('"June "', JUNE, JULY)):
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF rqueue_jobs FOR VALUES FROM ('{first}') TO ('{last}')")
            )
    return postgresql


async def tables(engine):
    async with engine.connect() as connection:
        found = await connection.scalars(
            text("SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid WHERE relkind = 'r' ORDER BY 1")
        )
        return [name for name in found if not name.startswith("rqueue_jobs_2")]


async def test_what_ended_before_goes_in_batches(engine):
    old = [ended(AT + timedelta(minutes=number)) for number in range(35)]
    new = [ended(AT + DAY + timedelta(minutes=number)) for number in range(5)]
    await put(engine, *old, *new)
    assert await doomed(engine, AT + DAY) == 35
    assert await prune(engine, AT + DAY) == 35
    assert await ids(engine) == [row["id"] for row in new]
    assert await prune(engine, AT + DAY) == 0
    assert await doomed(engine, AT + DAY) == 0


async def test_failures_may_be_kept(engine):
    """More of them than there are in a batch, so that they do not stand in the way of what is to go."""
    kept = [ended(AT + timedelta(minutes=number), "FAILURE") for number in range(25)]
    gone = [ended(AT + timedelta(minutes=number), state) for number in range(12) for state in ("SUCCESS", "RETRY")]
    await put(engine, *kept, *gone, ended(AT + timedelta(minutes=40), "REVOKED"))
    assert await doomed(engine, AT + DAY, keep_failures=True) == 25
    assert await prune(engine, AT + DAY, keep_failures=True) == 25
    assert await ids(engine) == [row["id"] for row in kept]


async def test_many_of_one_moment(engine):
    await put(engine, *(ended(AT) for _ in range(33)), ended(AT + DAY))
    assert await prune(engine, AT + DAY) == 33
    assert await how_many(engine) == 1


async def test_a_month_that_is_old_goes_at_once(months, monkeypatch):
    """Breaks when it is emptied row by row."""
    monkeypatch.setattr(retention, "_remove", None)
    later = ended(JUNE + DAY, enqueued=JUNE)
    await put(months, *(ended(MAY + number * DAY) for number in range(1, 31)), later)
    with pytest.raises(TypeError):  # the months that are not over are looked through
        await prune(months, JUNE)
    assert await tables(months) == ["June ", "rqueue_jobs_other", "rqueue_jobs_undated"]
    assert await ids(months) == [later["id"]]


async def test_rows_of_dropped_months_count(months):
    await put(months, *(ended(MAY + number * DAY) for number in range(1, 31)), *(ended(MAY - DAY) for _ in range(12)))
    assert await prune(months, JULY) == 42
    assert await tables(months) == ["rqueue_jobs_other", "rqueue_jobs_undated"]


@pytest.mark.parametrize("why", ["later", "failure", "not over"])
async def test_a_month_of_which_something_stays_stays(months, why):
    kept = {
        "later": ended(JUNE + 3 * DAY, enqueued=MAY),  # it waited, or ran, for long
        "failure": ended(MAY + DAY, "FAILURE"),
        "not over": ended(MAY + 25 * DAY),
    }[why]
    await put(months, *(ended(MAY + number * timedelta(hours=1)) for number in range(1, 31)), kept)
    before = MAY + 20 * DAY if why == "not over" else JUNE + DAY
    assert await prune(months, before, keep_failures=why == "failure") == 30
    assert await ids(months) == [kept["id"]]
    assert "may" in await tables(months)


async def test_a_month_that_is_read_is_not_waited_for(months):
    """Breaks without a bound to the wait for its lock: whoever writes then stands behind it."""
    await put(months, *(ended(MAY + number * DAY) for number in range(1, 26)))
    async with months.connect() as reader:
        await reader.execute(text("SELECT count(*) FROM rqueue_jobs"))  # a backup, or a long report
        assert await prune(months, JUNE) == 25
        assert "may" in await tables(months)
        await put(months, ended(AT))
    assert await prune(months, JUNE) == 1
    assert "may" not in await tables(months)


async def test_a_row_that_comes_before_the_month_is_locked_keeps_it(months, monkeypatch):
    """Breaks when it is only looked at before it is locked."""
    await put(months, ended(MAY + DAY))
    count, late = retention._count, ended(JUNE + DAY, enqueued=MAY)

    async def count_and_write(connection, month):
        found = await count(connection, month)
        if month == "may":
            await put(months, late)
        return found

    monkeypatch.setattr(retention, "_count", count_and_write)
    assert await prune(months, JUNE) == 1
    assert await ids(months) == [late["id"]]


async def test_a_row_that_somebody_is_at_is_passed_over(postgresql):
    """Breaks when it is waited for."""
    rows = [ended(AT + timedelta(minutes=number)) for number in range(25)]
    await put(postgresql, *rows)
    async with postgresql.connect() as other:
        await other.execute(text(f"SELECT FROM rqueue_jobs WHERE id = '{rows[3]['id']}' FOR UPDATE"))
        async with asyncio.timeout(20):
            await prune(postgresql, AT + DAY)
    assert await ids(postgresql) == [rows[3]["id"]]
    assert await prune(postgresql, AT + DAY) == 1


async def test_two_at_once_remove_each_row_once(postgresql):
    await put(postgresql, *(ended(AT + timedelta(seconds=number)) for number in range(150)))
    assert sum(await asyncio.gather(*(prune(postgresql, AT + DAY) for _ in range(3)))) == 150
    assert await how_many(postgresql) == 0


async def test_what_is_broken_off_goes_the_next_time(engine, monkeypatch):
    await put(engine, *(ended(AT + timedelta(seconds=number)) for number in range(45)))
    remove, calls = retention._remove, 0

    async def breaks(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise asyncio.CancelledError
        return await remove(*args, **kwargs)

    monkeypatch.setattr(retention, "_remove", breaks)
    with pytest.raises(asyncio.CancelledError):
        await prune(engine, AT + DAY)
    monkeypatch.undo()
    left = await how_many(engine)
    assert 25 <= left <= 45
    assert await prune(engine, AT + DAY) == left


async def test_a_user_that_owns_no_table_removes_rows_all_the_same(months):
    await put(months, *(ended(MAY + number * DAY) for number in range(1, 26)))
    async with months.begin() as connection:
        name = f"clerk_{months.url.database}"
        await connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        await connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"))
    clerk = engine_for(months.url.set(username=name).render_as_string(hide_password=False))
    try:
        assert await prune(clerk, JUNE) == 25
        assert "may" in await tables(months)
    finally:
        await clerk.dispose()
        async with months.begin() as connection:
            await connection.execute(text(f"DROP OWNED BY {name}"))
            await connection.execute(text(f"DROP ROLE {name}"))


async def test_a_user_without_rights_to_the_months_removes_rows_all_the_same(months):
    """The docs name no months: rights to the table are none to its parts."""
    await put(months, *(ended(MAY + number * DAY) for number in range(1, 26)), *(ended(JUNE + DAY) for _ in range(13)))
    kept = [ended(MAY + DAY, "FAILURE"), ended(JULY + DAY)]
    await put(months, *kept)
    name = f"guest_{months.url.database}"
    async with months.begin() as connection:
        await connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        for table in ("rqueue_jobs", "rqueue_hours", "rqueue_marks"):
            await connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {name}"))
    guest = engine_for(months.url.set(username=name).render_as_string(hide_password=False))
    try:
        assert await prune(guest, JULY, keep_failures=True) == 38
        assert await ids(months) == [row["id"] for row in kept]
    finally:
        await guest.dispose()
        async with months.begin() as connection:
            await connection.execute(text(f"DROP OWNED BY {name}"))
            await connection.execute(text(f"DROP ROLE {name}"))


async def test_jobs_without_a_time_of_their_enqueue_keep_their_partition(months):
    """It ends in 1970, and is never over."""
    await put(months, ended(MAY + DAY, enqueued=datetime(1970, 1, 1, tzinfo=UTC)))
    assert await prune(months, JULY) == 1
    assert "rqueue_jobs_undated" in await tables(months)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_months_are_known_however_the_server_shows_times(months, driver):
    """Of its two clocks one has a name that means another in what is read."""
    await put(months, ended(MAY + DAY))
    async with months.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for setting in ("DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Karachi'", "standard_conforming_strings = off"):
            await connection.execute(text(f"ALTER DATABASE {months.url.database} SET {setting}"))
    other = engine_for(months.url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False))
    try:
        assert await prune(other, JUNE) == 1
        assert "may" not in await tables(months)
    finally:
        await other.dispose()


async def test_another_error_is_not_taken_for_a_lock(months, monkeypatch):
    await put(months, ended(MAY + DAY))
    async with months.begin() as connection:
        await connection.execute(text("CREATE VIEW report AS SELECT id FROM may"))
    with pytest.raises(StoreUnavailable, match="cannot drop table may because other objects depend on it") as refused:
        await prune(months, JUNE)
    assert isinstance(refused.value.__cause__, DBAPIError)
