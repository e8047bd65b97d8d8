"""What was written for Celery's table reads and archives rqueue's history as it stands."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect

from rqueue.results.sql.schema import check, upgrade
from rqueue.results.sql.taskmeta import IN_THE_WAY

from ..conftest import NOW, make_row  # noqa: TID252 - tests are no installed package
from .conftest import ask, run

DAY = 86_400_000


@pytest.fixture
async def rows(history):
    rows = [
        make_row(finished=NOW - 40 * DAY, started=None),
        make_row(
            state="FAILURE", finished=NOW, error="ValueError: no", traceback="Traceback …", result=None, attempts=3
        ),
        make_row(state="REVOKED", finished=NOW - 50 * DAY, result=None, worker=None, attempts=0, started=None),
        make_row(state="RETRY", finished=NOW - 1, error="OSError: away", result=None),
    ]
    for row in rows:
        await history.save([row])
    return rows


async def test_it_has_the_columns_of_celerys_table(engine):
    async with engine.connect() as connection:
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("celery_taskmeta"))
    celerys = ["id", "task_id", "status", "result", "date_done", "traceback"]
    extended = ["name", "args", "kwargs", "worker", "retries", "queue"]
    assert [column["name"] for column in columns] == celerys + extended


async def test_a_job_by_its_id(history, rows):
    statement = (
        "SELECT task_id, status, result, date_done, traceback, name, args, kwargs, worker, retries, queue"
        " FROM celery_taskmeta WHERE task_id = '{}'"
    )
    ((*found,),) = await ask(history.engine, statement.format(rows[1].id))
    done = datetime(2025, 11, 22, 19, 53, 54, 567_000)  # noqa: DTZ001 - as Celery's column has it, in UTC and without a zone
    if history.engine.dialect.name == "sqlite":
        done = str(done)
    row = rows[1]
    shown = [row.id, "FAILURE", "ValueError: no", done, "Traceback …", row.task, row.args, row.kwargs, row.worker, 2]
    assert found == [*shown, row.queue]
    ((*found,),) = await ask(history.engine, statement.format(rows[0].id))
    assert (found[1], json.loads(found[2]), found[9]) == ("SUCCESS", {"sent": True}, 0)


async def test_what_reports_ask(history, rows):
    counts = await ask(history.engine, "SELECT status, count(*) FROM celery_taskmeta GROUP BY status ORDER BY status")
    assert counts == [("FAILURE", 1), ("RETRY", 1), ("REVOKED", 1), ("SUCCESS", 1)]
    latest = await ask(history.engine, "SELECT task_id FROM celery_taskmeta ORDER BY date_done DESC LIMIT 2")
    assert [name for (name,) in latest] == [rows[1].id, rows[3].id]
    failed = "FROM celery_taskmeta WHERE date_done >= '2025-11-22' AND status = 'FAILURE' GROUP BY name"
    assert await ask(history.engine, f"SELECT name, count(*) {failed}") == [("mail.send", 1)]


async def test_rows_have_numbers_by_which_they_can_be_paged(history, rows):
    """In the order in which they were written first, and they stay. Breaks when a later write moves a row."""
    before = await ask(history.engine, "SELECT id, task_id FROM celery_taskmeta ORDER BY id")
    assert [job for _, job in before] == [row.id for row in rows]
    assert len({number for number, _ in before}) == len(rows)
    await history.save([rows[0]._replace(attempts=2, started=NOW)])
    assert await ask(history.engine, "SELECT id, task_id FROM celery_taskmeta ORDER BY id") == before


async def test_archiving_by_time(history, rows):
    """Breaks when the view cannot be deleted from, or takes what is younger along."""
    month_ago = datetime(2025, 11, 22) - timedelta(days=30)  # noqa: DTZ001
    assert await run(history.engine, f"DELETE FROM celery_taskmeta WHERE date_done < '{month_ago}'") in (2, 0, -1)
    left = await ask(history.engine, "SELECT id FROM rqueue_jobs")
    assert {name for (name,) in left} == {rows[1].id, rows[3].id}


async def test_archiving_in_batches_and_by_state(history, rows):
    batch = "DELETE FROM celery_taskmeta WHERE id IN (SELECT id FROM celery_taskmeta ORDER BY date_done LIMIT 1)"
    await run(history.engine, batch)
    await run(history.engine, "DELETE FROM celery_taskmeta WHERE status = 'FAILURE'")
    left = await ask(history.engine, "SELECT id FROM rqueue_jobs")
    assert {name for (name,) in left} == {rows[0].id, rows[3].id}


async def test_ids_and_times_are_found_by_an_index(pg):
    """Breaks when the view hides them from the planner behind an expression that no index has."""
    await run(
        pg,
        "INSERT INTO rqueue_jobs (id, enqueued, queue, state, attempts, losses, finished, recorded)"
        " SELECT 'job-' || n, now() - n * interval '1 s', 'q', 'SUCCESS', 1, 0, now() - n * interval '1 s', now()"
        " FROM generate_series(1, 20000) AS n",
    )
    await run(pg, "ANALYZE rqueue_jobs")
    for condition in ("task_id = 'job-7'", "date_done < now() AT TIME ZONE 'UTC' - interval '19990 s'"):
        for verb in ("SELECT * FROM", "DELETE FROM"):
            plan = await ask(pg, f"EXPLAIN {verb} celery_taskmeta WHERE {condition}")
            shown = "\n".join(line for (line,) in plan)
            assert "Index" in shown, shown
            # Partitions without rows are read as a whole, which costs nothing.
            assert "Seq Scan on rqueue_jobs_2026" not in shown or "rows=1 " in shown, shown


async def test_the_statements_of_the_docs(pg):
    text = (Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    statements = re.findall(r"^(?:SELECT|DELETE) .*celery_taskmeta.*(?=;$)", text, re.MULTILINE)
    assert len(statements) == 3
    for statement in statements:
        await run(pg, statement)


async def test_celerys_own_table_stays_and_is_told_of(empty, empty_url):
    """Breaks when an upgrade fails, or takes a table of somebody else's away."""
    await run(empty, "CREATE TABLE celery_taskmeta (id integer, task_id varchar(155))")
    await run(empty, "INSERT INTO celery_taskmeta VALUES (1, 'old')")
    assert await upgrade(empty) == [IN_THE_WAY]
    assert await check(empty) == [IN_THE_WAY]
    assert await ask(empty, "SELECT task_id FROM celery_taskmeta") == [("old",)]
    await run(empty, "ALTER TABLE celery_taskmeta RENAME TO celery_taskmeta_old")
    assert await upgrade(empty) == []
    assert await check(empty) == []
    await empty.dispose()  # a driver remembers what a statement gave
    assert await ask(empty, "SELECT task_id FROM celery_taskmeta") == []


async def test_views_of_others_that_stand_on_it_survive_an_upgrade(pg):
    await run(pg, "CREATE VIEW failures AS SELECT * FROM celery_taskmeta WHERE status = 'FAILURE'")
    assert await upgrade(pg) == []
    assert await ask(pg, "SELECT count(*) FROM failures") == [(0,)]
