"""outbox: batches of rows, the same for whoever reads them, by each driver."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rqueue import SchemaMismatch, StoreUnavailable
from rqueue.config import Results
from rqueue.results.sql import outbox as module
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.outbox import Entry, Outbox
from rqueue.results.sql.schema import check
from rqueue.results.sql.tables import outbox as table
from rqueue.results.stores import outbox_for

AT = datetime(2026, 11, 22, 8, tzinfo=UTC)

on_postgres = pytest.mark.parametrize("database", ["asyncpg", "psycopg"], indirect=True)
by_asyncpg = pytest.mark.parametrize("database", ["asyncpg"], indirect=True)


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(database)
    yield engine
    await engine.dispose()


@pytest.fixture
async def outbox(database: str) -> AsyncIterator[Outbox]:
    outbox = Outbox(database, "rqueue")
    yield outbox
    await outbox.close()


async def write(engine: AsyncEngine, *rows: dict[str, Any]) -> None:
    """Rows, of which only what differs is given."""
    plain = {"namespace": "rqueue", "queue": "default", "level": 0, "due": "", "message": b"\x00\xff", "lock": ""}
    made = [{"job_id": f"job-{n}", "created": AT, **plain, **row} for n, row in enumerate(rows)]
    async with engine.begin() as connection:
        await connection.execute(insert(table), made)


async def batches(engine: AsyncEngine) -> list[tuple[str, str | None, bool]]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT job_id, batch, marked IS NULL FROM rqueue_outbox ORDER BY seq"))
        return [(row[0], row[1], not row[2]) for row in found]


async def pass_time(engine: AsyncEngine) -> None:
    earlier = "marked - interval '1 minute'"
    if engine.dialect.name == "sqlite":
        earlier = "strftime('%Y-%m-%d %H:%M:%f000', marked, '-1 minute')"
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE rqueue_outbox SET marked = {earlier} WHERE marked IS NOT NULL"))


async def test_a_batch_is_named_read_and_deleted(engine, outbox):
    """Breaks when a row's bytes change on the way, or rows of another name are given or deleted."""
    await write(engine, {"level": 3, "due": "12", "lock": "unique 0 a"}, {})
    assert await outbox.mark("t 1") == [
        Entry(1, "job-0", "default", 3, "12", b"\x00\xff", "unique 0 a"),
        Entry(2, "job-1", "default", 0, "", b"\x00\xff", ""),
    ]
    await write(engine, {"job_id": "later"})
    assert [entry.job_id for entry in await outbox.read("t 1")] == ["job-0", "job-1"]
    assert await outbox.mark("t 2") == [Entry(3, "later", "default", 0, "", b"\x00\xff", "")]
    assert await outbox.mark("t 3") == []
    assert await outbox.sent("t 1", ["default"]) == []
    assert await batches(engine) == [("later", "t 2", True)]


async def test_a_batch_is_bounded_in_rows_and_bytes(engine, outbox, monkeypatch):
    """Breaks when a few large messages are held at once, or one that is larger than a batch never leaves."""
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    monkeypatch.setattr(module, "BATCH_JOBS", 4)
    sizes = [60, 60, 60, 300, 10, 10, 10, 10, 10]
    await write(engine, *({"message": b"x" * size} for size in sizes))
    found = []
    while entries := await outbox.mark(f"t {len(found)}"):
        found.append([len(entry.message) for entry in entries])
    assert found == [[60, 60], [60, 300], [10] * 4, [10]]


async def test_rows_of_queues_in_trouble_and_of_other_namespaces_are_passed_over(engine, outbox):
    """Breaks when one queue's trouble is all queues', or a neighbour's jobs are taken."""
    await write(engine, {"queue": "away"}, {"namespace": "theirs"}, {})
    assert [entry.job_id for entry in await outbox.mark("t 1", {"away"})] == ["job-2"]
    assert [entry.job_id for entry in await outbox.mark("t 2")] == ["job-0"]


@on_postgres
async def test_rows_that_another_relay_is_marking_are_passed_over(engine, outbox):
    """Breaks when one relay waits for another, or both get the same rows."""
    await write(engine, {}, {})
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1 FROM rqueue_outbox WHERE seq = 1 FOR UPDATE"))
        assert [entry.seq for entry in await outbox.mark("t 1")] == [2]


async def test_a_batch_is_taken_over_once_it_is_late(engine, outbox):
    """Breaks when it is taken at once, or again and again by everyone, or never."""
    await write(engine, {})
    await outbox.mark("t 1")
    assert await outbox.take_over() is None
    await pass_time(engine)
    assert await outbox.take_over() == "t 1"
    assert await outbox.take_over() is None, "it was marked anew"


async def test_rows_go_back(engine, outbox):
    """Breaks when a row is deleted that was not sent, or stays in its batch."""
    await write(engine, {}, {"queue": "away"}, {})
    await outbox.mark("t 1")
    assert await outbox.sent("t 1", ["default"], [1]) == [("default", "job-0")]
    assert await batches(engine) == [("job-0", None, False), ("job-1", "t 1", True)]
    assert await outbox.sent("t 1", ["default"], [1]) == [], "another relay has done it"


async def test_refused_rows_stay_and_are_counted(engine, outbox):
    """Breaks when they are sent, deleted or taken over."""
    await write(engine, {}, {}, {"namespace": "theirs"})
    await outbox.mark("t 1")
    await outbox.refuse("t 1", {1: "no lock"})
    assert await batches(engine) == [
        ("job-0", "refused: no lock", False),
        ("job-1", "t 1", True),
        ("job-2", None, False),
    ]
    assert [entry.seq for entry in await outbox.read("t 1")] == [2]
    assert await outbox.read("refused: no lock") == []
    assert await check(engine) == ["rows of rqueue_outbox that cannot be sent: 1; their column batch says why"]
    await outbox.sent("t 1", ["default"])
    assert [job_id for job_id, *_ in await batches(engine)] == ["job-0", "job-2"]


@on_postgres
async def test_a_committed_transaction_is_told_once(engine, outbox):
    """Breaks when a rolled back one is told, or each row of one is."""
    told = asyncio.Queue[None]()
    listening = asyncio.create_task(outbox.listen(lambda: told.put_nowait(None)))
    async with asyncio.timeout(5):
        while not await _listens(engine):
            await asyncio.sleep(0.005)
        async with engine.connect() as connection:
            await connection.execute(insert(table), {**_PLAIN, "job_id": "rolled back"})
            await connection.rollback()
        await write(engine, *({} for _ in range(10)))
        await told.get()
        await write(engine, {})
        await told.get()
    assert told.empty()
    listening.cancel()
    await asyncio.wait([listening])


@on_postgres
async def test_the_end_of_the_connection_is_told(engine, outbox):
    """Breaks when nobody notices."""
    listening = asyncio.create_task(outbox.listen(lambda: None))
    async with asyncio.timeout(5):
        while not (pid := await _listens(engine)):
            await asyncio.sleep(0.005)
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
        with pytest.raises(StoreUnavailable):
            await listening


_PLAIN = {
    "namespace": "rqueue",
    "queue": "default",
    "level": 0,
    "due": "",
    "message": b"",
    "lock": "",
    "created": AT,
}


async def _listens(engine: AsyncEngine) -> int | None:
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"
    async with engine.connect() as connection:
        pid: int | None = (await connection.execute(text(query))).scalar()
    return pid


async def test_without_the_tables_it_says_so(tmp_path):
    """Breaks when a relay only hears of an error of the driver's."""
    outbox = Outbox(f"sqlite:///{tmp_path / 'empty.db'}", "rqueue")
    with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
        await outbox.mark("t 1")
    await outbox.close()


async def test_without_the_database_it_says_so():
    """Breaks when a refused connection is an error of its own."""
    outbox = Outbox("postgresql+asyncpg://nobody@127.0.0.1:1/none", "rqueue")
    with pytest.raises(StoreUnavailable):
        await outbox.mark("t 1")
    with pytest.raises(StoreUnavailable):
        await outbox.listen(lambda: None)
    await outbox.close()


def test_which_database_the_outbox_is_in(tmp_path):
    """Its own, else that of the results. Breaks when a Redis is taken for one."""
    file = f"sqlite:///{tmp_path / 'a.db'}"
    assert outbox_for(None, "n") is None
    assert outbox_for(Results("redis://localhost/2"), "n") is None
    for results in (Results(file), Results("redis://localhost/2", outbox=file)):
        found = outbox_for(results, "n")
        assert found is not None
        assert found.shown.endswith("a.db")


async def test_a_refused_login_is_told_in_one_line(postgres):
    away = Outbox(f"postgresql+asyncpg://nobody:secret@127.0.0.1:{postgres.port}/postgres", "rqueue")
    with pytest.raises(StoreUnavailable) as caught:
        await away.listen(lambda: None)
    await away.close()
    assert str(caught.value).endswith('postgres: role "nobody" does not exist')
