"""What is a database's own: its tables may be of another version, and it may be killed while it writes."""

import asyncio
import itertools
import random
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rqueue.errors import SchemaMismatch, StoreUnavailable
from rqueue.results.sql.store import SqlStore

from ..conftest import bring_up, make_row  # noqa: TID252 - tests are no installed package
from .conftest import ask, run

DOCS = (Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8")


async def test_a_database_without_tables(empty_url):
    store = SqlStore(empty_url)
    for what in (store.open(), store.save([make_row()]), store.find("x")):
        with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
            await what
    await store.close()


@pytest.mark.parametrize(("found", "said"), [("0001", "rqueue db upgrade"), ("9999", "a newer rqueue")])
async def test_a_database_of_another_version(history, found, said):
    await history.open()
    await run(history.engine, f"UPDATE rqueue_version SET version_num = '{found}'")
    with pytest.raises(SchemaMismatch, match=said) as raised:
        await history.open()
    assert history.shown in str(raised.value)


async def test_a_column_that_is_gone(history):
    await run(history.engine, "DROP VIEW celery_taskmeta")
    await run(history.engine, "ALTER TABLE rqueue_jobs DROP COLUMN losses")
    with pytest.raises(SchemaMismatch, match="losses"):
        await history.save([make_row()])


async def test_a_batch_is_one_statement(history):
    """Breaks when a batch costs a round trip for each row, or one for a transaction around it."""
    from sqlalchemy import event

    seen = []
    event.listen(history._writing.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    rows = [make_row() for _ in range(100)]
    await history.save([*rows, *rows[::-1]])  # a job twice in one statement is refused by PostgreSQL
    assert [statement.split()[:3] for statement in seen] == [["INSERT", "INTO", "rqueue_jobs"]]


async def test_rows_that_were_refused_are_found_in_a_few_statements(history):
    """By halving. Breaks when each row of the batch is then written alone."""
    from sqlalchemy import event

    seen = []
    event.listen(history._writing.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    bad = [make_row(losses=2**62), make_row(losses=2**62)]
    rows = [make_row() for _ in range(500)]
    refused = await history.save([*rows[:250], bad[0], *rows[250:], bad[1]])
    if history.engine.dialect.name == "postgresql":  # SQLite's numbers are as large as they are
        assert sorted(refused) == sorted(row.id for row in bad)
    assert len(seen) < 50
    ((number,),) = await ask(history.engine, "SELECT count(*) FROM rqueue_jobs")
    assert number == 502 - len(refused)


async def test_rows_of_the_same_time_in_different_queues(history):
    """The queue is no part of a job's identity: it may be moved. Breaks when a move makes a second row."""
    row = make_row(state="RETRY", queue="email")
    await history.save([row])
    await history.save([row._replace(queue="reports", attempts=2, state="SUCCESS")])
    assert await ask(history.engine, "SELECT queue, state FROM rqueue_jobs") == [("reports", "SUCCESS")]


async def test_the_rights_that_the_docs_name_are_enough(pg, own_postgres):
    """Breaks when a write needs one more, as a sequence's, and workers stop at a guarded database."""
    await run(pg, "DROP ROLE IF EXISTS worker")
    await run(pg, "CREATE ROLE worker LOGIN")
    for grant in re.findall(r"^GRANT .*(?=;$)", DOCS, re.MULTILINE):
        await run(pg, grant)
    store = SqlStore(own_postgres.replace("postgres@", "worker@"))
    await store.open()
    row = make_row()
    assert not await store.save([row])
    assert not await store.save([row])
    assert await store.find(row.id) == row
    await run(store.engine, "DELETE FROM rqueue_jobs")
    await store.close()
    await run(pg, "DROP OWNED BY worker")
    await run(pg, "DROP ROLE worker")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_killed_while_it_writes(new_postgres, driver):
    """Again and again. What was confirmed is there, what was not is repeated, and no row is there twice."""
    server = await asyncio.to_thread(new_postgres)
    url = server.url(driver=driver)
    await bring_up(url)
    store = SqlStore(url)
    batches = [[make_row() for _ in range(50)] for _ in range(60)]
    confirmed = []
    numbers = itertools.count()

    async def save(batch):
        while True:
            try:
                assert not await store.save(batch)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            confirmed.append(next(numbers))
            return

    for number in range(3):
        writing = [asyncio.create_task(save(batch)) for batch in batches[number * 20 : number * 20 + 20]]
        before = len(confirmed)
        while len(confirmed) < before + 2:  # so that it dies with some done, and others under way
            await asyncio.sleep(0)
        server.kill()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*writing)
    ((rows, ids),) = await ask(store.engine, "SELECT count(*), count(DISTINCT id) FROM rqueue_jobs")
    assert (rows, ids) == (3000, 3000)
    await store.close()


async def test_reports_keep_no_rows_waiting(own_postgres):
    """Tasks of a worker may ask for history. Breaks when they take the connections that results are written on."""
    store = SqlStore(own_postgres)
    async with AsyncExitStack() as reports:
        for _ in range(store.engine.pool.size()):
            await reports.enter_async_context(store.engine.connect())
        row = make_row()
        assert not await store.save([row])
        assert await store.find(row.id) == row
    await store.close()


async def test_a_name_of_many_bytes_is_cut_and_its_row_is_there(own_postgres):
    """Breaks when it is cut to a number of characters that no index takes."""
    noise = random.Random(4)
    row = make_row(task="".join(chr(noise.randrange(0x10000, 0x1FFFF)) for _ in range(3000)))
    store = SqlStore(own_postgres)
    assert not await store.save([row])
    found = await store.find(row.id)
    assert found.task
    assert row.task.startswith(found.task)
    await store.close()
