"""``app.history`` against PostgreSQL and SQLite: which jobs it finds, page by page, and what it tells of one."""

import asyncio
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Text, bindparam, cast
from sqlalchemy.dialects.postgresql import JSON as PG_JSON

from rqueue import ConfigError, JobNotFound, MissingDependency, RQueue, SchemaMismatch, State, StoreUnavailable
from rqueue.client.history import HistoryEntry
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.tables import UNKNOWN, jobs

NOW = datetime.now(UTC).replace(microsecond=0)


def row(job_id, ended_ago_s, **more):
    """A row of a job that ended so long ago."""
    finished = NOW - timedelta(seconds=ended_ago_s)
    about = {
        "task": "shop.send",
        "queue": "email",
        "priority": None,
        "state": "SUCCESS",
        "args": None,
        "kwargs": None,
        "result": None,
        "error": None,
        "traceback": None,
        "attempts": 1,
        "losses": 0,
        "worker": "host:1:a",
        "parent_id": None,
        "root_id": None,
        "enqueued": finished - timedelta(seconds=2),
        "started": finished - timedelta(seconds=1),
        "history": None,
        "wait_ms": 1000,
        "run_ms": 1000,
        "recorded": NOW,
    }
    return {"id": job_id, "finished": finished} | about | more


ROWS = [
    row("plain", 10, args='["ann@example.org"]', kwargs='{"note":"two words"}', result='{"$bytes":"/w=="}', priority=8),
    row(
        "failed",
        20,
        state="FAILURE",
        error="TimeoutError: the gateway did not answer",
        traceback="Traceback",
        attempts=3,
    ),
    row("report", 30, task="shop.report", queue="reports", args='["bob@example.org"]'),
    row("revoked", 40, state="REVOKED", error="JobRevoked: by hand", started=None),
    row("retried", 50, state="RETRY", error="OSError: away"),
    row("old", 90_000, state="FAILURE", task="shop.report", queue="reports", error="ValueError: 100% wrong_name"),
    row("undated", 100_000, enqueued=UNKNOWN, started=None, task=None),
]
ALL = [each["id"] for each in ROWS]


JSON = ("args", "kwargs", "result", "history")


async def put(url, rows):
    engine = engine_for(url)
    insert = jobs.insert()
    if engine.dialect.name == "postgresql":
        insert = insert.values({name: cast(bindparam(name, type_=Text), PG_JSON) for name in JSON})
    async with engine.begin() as connection:
        await connection.execute(insert, rows)
    await engine.dispose()


async def make_tables(url):
    engine = engine_for(url)
    await upgrade(engine)
    await engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """The URL of each kind of database, with tables and no rows."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite+aiosqlite:///{tmp_path}/h.db" if is_sqlite else request.getfixturevalue("postgres_url")
    asyncio.run(make_tables(url))
    return url


@pytest.fixture
def filled(empty):
    asyncio.run(put(empty, ROWS))
    return empty


@pytest.fixture
async def app(filled):
    app = RQueue("memory://history", results=filled)

    @app.task(name="shop.report")
    async def report(): ...

    yield app
    await app.close()


def join_threads_of_sqlite():
    """A connection that could not be made ends by itself, and must not find the loop closed."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join()


async def ids(app, **which):
    return [each.id async for each in app.history.jobs(**which)]


async def test_each_condition(app):
    """On one database after the other, in one test each: a database costs more than a question."""
    for which, wanted in [
        ({}, ALL),
        ({"state": "FAILURE"}, ["failed", "old"]),
        ({"state": State.SUCCESS}, ["plain", "report", "undated"]),
        ({"state": "retry"}, ["retried"]),
        ({"task": "shop.report"}, ["report", "old"]),
        ({"task": "report"}, ["report", "old"]),
        ({"queue": "reports"}, ["report", "old"]),
        ({"queue": "reports", "state": "FAILURE"}, ["old"]),
        ({"task": "shop.report", "queue": "email"}, []),
        ({"task": "shop.report", "queue": "reports", "state": "SUCCESS"}, ["report"]),
        ({"since": "24h"}, ["plain", "failed", "report", "revoked", "retried"]),
        ({"since": NOW - timedelta(seconds=30)}, ["plain", "failed", "report"]),
        ({"until": NOW - timedelta(seconds=30)}, ["revoked", "retried", "old", "undated"]),
        ({"since": timedelta(hours=26), "until": timedelta(hours=1), "state": "FAILURE"}, ["old"]),
        ({"search": "ann@example.org"}, ["plain"]),
        ({"search": "EXAMPLE org"}, ["plain", "report"]),
        ({"search": "words two"}, ["plain"]),
        ({"search": "gate*"}, ["failed"]),
        ({"search": "gateway bob"}, []),
        ({"search": "shop report 100%"}, ["old"]),
        ({"search": "example", "queue": "reports", "task": "shop.report"}, ["report"]),
        ({"search": "shop", "state": "FAILURE", "since": "1h"}, ["failed"]),
        ({"limit": 2}, ALL[:2]),
        ({"limit": 0}, []),
    ]:
        assert await ids(app, **which) == wanted, which


async def test_words_are_whole_on_postgresql(app, filled):
    """SQLite has no words, and looks for their letters."""
    found = await ids(app, search="exam")
    assert found == ([] if "postgresql" in filled else ["plain", "report"])


async def test_what_an_entry_says(app):
    page = await app.history.page(limit=2)
    plain, failed = page.entries
    assert isinstance(plain, HistoryEntry)
    assert plain.args == ["ann@example.org"]
    assert plain.kwargs == {"note": "two words"}
    assert plain.result == b"\xff"
    assert (plain.state, plain.task, plain.queue, plain.priority) == (State.SUCCESS, "shop.send", "email", 8)
    assert plain.finished == NOW - timedelta(seconds=10)
    assert plain.wait == plain.duration == timedelta(seconds=1)
    assert (failed.error, failed.attempts) == ("TimeoutError: the gateway did not answer", 3)
    (undated,) = [each async for each in app.history.jobs(until=timedelta(hours=26))]
    assert undated.enqueued is undated.started is undated.wait is undated.duration is undated.task is None


async def test_pages_hold_while_rows_come_and_go(app, filled):
    """Fails with OFFSET: what comes pushes a job onto the next page again, and what goes lets one be skipped."""
    first = await app.history.page(limit=3)
    assert [each.id for each in first.entries] == ALL[:3]
    await put(filled, [row("new", 1), row("late", 35)])
    engine = engine_for(filled)
    async with engine.begin() as connection:
        await connection.execute(jobs.delete().where(jobs.c.id.in_(["report", "plain"])))
    await engine.dispose()
    second = await app.history.page(limit=3, after=first.after)
    assert [each.id for each in second.entries] == ["late", *ALL[3:5]]
    third = await app.history.page(limit=3, after=second.after)
    assert [each.id for each in third.entries] == ALL[5:]
    assert third.after is None
    assert await ids(app, after=second.entries[0].position, limit=1) == ["revoked"]


async def test_jobs_that_ended_at_the_same_time_are_told_once_each(empty):
    """Fails when a page goes on behind a time, and not behind a row."""
    finished = NOW - timedelta(seconds=5, microseconds=123)
    rows = [row(f"j{number:04}", 5, finished=finished, started=None) for number in range(1201)]
    rows.append(row("j0600", 5, finished=finished, started=None, enqueued=UNKNOWN))
    await put(empty, rows)
    app = RQueue("memory://history", results=empty)
    assert await ids(app) == sorted((each["id"] for each in rows), reverse=True)
    after, found = None, []
    while True:
        page = await app.history.page(limit=601, after=after)
        found += [each.id for each in page.entries]
        if (after := page.after) is None:
            break
    assert found == sorted((each["id"] for each in rows), reverse=True)
    await app.close()


async def test_the_story_of_a_job(empty):
    first, second = (int(NOW.timestamp() - each) * 1000 for each in (60, 50))
    past = f'[[{first},"OSError: away"],[{second},"OSError: still"]]'
    await put(
        empty,
        [
            row(
                "child",
                40,
                state="FAILURE",
                error="ValueError: no",
                attempts=3,
                history=past,
                parent_id="p",
                root_id="r",
            ),
            row("child", 9_000, task="shop.first"),
            row("p", 100, task="shop.parent"),
            *(row(f"grand{number}", number, parent_id="child", root_id="r") for number in range(3)),
        ],
    )
    app = RQueue("memory://history", results=empty)
    story = await app.history.show("child", children=2)
    assert story.job.attempts == 3
    ago = [(round((NOW - each.at).total_seconds()), each.what, each.error) for each in story.timeline]
    assert ago == [
        (42, "enqueued", None),
        (60, "failed", "OSError: away"),
        (50, "failed", "OSError: still"),
        (41, "started", None),
        (40, "FAILURE", "ValueError: no"),
    ]
    assert story.parent is not None
    assert story.parent.task == "shop.parent"
    assert [each.id for each in story.children] == ["grand0", "grand1"]
    assert story.has_more_children
    assert [each.task for each in story.earlier] == ["shop.first"]
    alone = await app.history.show("grand1")
    assert alone.parent is not None
    assert (alone.parent.task, alone.children, alone.has_more_children) == ("shop.send", (), False)
    with pytest.raises(JobNotFound):
        await app.history.show("nobody")
    assert [each.id async for each in app.history.jobs(root_id="r")] == ["grand0", "grand1", "grand2", "child"]
    assert [each.id async for each in app.history.jobs(root_id="r", parent_id="p")] == ["child"]
    await app.close()


async def test_of_an_id_that_was_used_very_often_the_last_are_told(empty):
    """Breaks when all rows of a job for each hour are fetched."""
    often = [row("hourly", 3600 * number) for number in range(120)]
    await put(empty, often)
    async with RQueue("memory://history", results=empty) as app:
        story = await app.history.show("hourly")
    assert [each.finished for each in (story.job, *story.earlier)] == [each["finished"] for each in often[:101]]


async def test_the_other_driver(postgres_url):
    await make_tables(postgres_url)
    await put(postgres_url, ROWS)
    app = RQueue("memory://history", results=postgres_url.replace("asyncpg", "psycopg"))
    first = await app.history.page(limit=1, search="example", queue="email")
    assert first.entries[0].kwargs == {"note": "two words"}
    assert await ids(app, after=first.entries[0].position) == ALL[1:]
    assert (await app.history.show("plain")).job.result == b"\xff"
    await app.close()


async def test_an_export(app, tmp_path):
    file = tmp_path / "failed.csv"
    assert await app.history.export(file, "csv", state="FAILURE") == 2
    assert file.read_text().count("shop.") == 2


async def test_what_is_no_json_stands_for_itself(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/history.db"
    await make_tables(url)
    await put(url, [row("cut", 1, args='["a', result='{"$bytes":"?"}', history="[1]")])
    app = RQueue("memory://history", results=url)
    ((entry,), _) = await app.history.page()
    assert (entry.args, entry.result, entry.history) == ('["a', '{"$bytes":"?"}', ())
    await app.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": -1},
        {"limit": 0.5},
        {"after": "x"},
        {"state": "DONE"},
        {"since": "soon"},
        {"search": ""},
        {"queue": "a b"},
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_before_anything_is_asked(wrong):
    app = RQueue("memory://history", results="sqlite+aiosqlite:////nowhere/history.db")
    with pytest.raises(ConfigError):
        await ids(app, **wrong)
    await app.close()


async def test_an_app_without_a_database_says_what_to_do():
    app = RQueue("memory://history")
    with pytest.raises(ConfigError, match="results="):
        await app.history.page()
    await app.close()


async def test_a_database_that_is_not_there(tmp_path):
    away = ("postgresql+asyncpg://u:secret@127.0.0.1:1/x", StoreUnavailable)
    for url, error in (away, ("sqlite+aiosqlite:////nowhere/history.db", ConfigError)):
        app = RQueue("memory://history", results=url)
        with pytest.raises(error) as caught:
            await app.history.page()
        assert "secret" not in str(caught.value)
        await app.close()
        await asyncio.to_thread(join_threads_of_sqlite)


async def test_a_database_without_tables(tmp_path, postgres_url):
    for url in (f"sqlite+aiosqlite:///{tmp_path}/empty.db", postgres_url):
        app = RQueue("memory://history", results=url)
        with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
            await app.history.page()
        await app.close()
        await asyncio.to_thread(join_threads_of_sqlite)


@pytest.mark.parametrize("results", ["sqlite:///history.db", "redis://127.0.0.1:1/0"])
@pytest.mark.parametrize("ask", ["page", "show", "stats", "prune"])
async def test_without_the_extra_it_is_named(monkeypatch, results, ask):
    """Breaks when SQLAlchemy is asked for before the store is."""
    app = RQueue("memory://history", results=results)
    given: dict[str, Any] = {"show": {"job_id": "a"}, "prune": {"older_than": "1d"}}
    for name in [each for each in sys.modules if each.startswith("rqueue.results.sql")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    kind, said = (MissingDependency, r"rqueue\[sql\]") if results.startswith("sqlite") else (ConfigError, "is none")
    with pytest.raises(kind, match=said):
        await getattr(app.history, ask)(**given.get(ask, {}))
    await app.close()
