"""The result store in a checkup: one that is away, old or incomplete, and what waits for it in Redis."""

import time
from pathlib import Path

import pytest

from rqueue import RQueue
from rqueue.client.checkup.finding import Level
from rqueue.client.checkup.results import LATE_S, Waiting, examine_spool, examine_store, spool
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.store import SqlStore

DAY = "86400"


def ms(ago_s: float) -> int:
    return round((time.time() - ago_s) * 1000)


def entry(job_id: str = "a", ago_s: float = 0) -> bytes:
    return b'%b\n{"state":"SUCCESS","result":1,"finished":%d}\n1 - 0 0 0 %b {"task":"t"}' % (
        job_id.encode(),
        ms(ago_s),
        job_id.encode(),
    )


@pytest.fixture
async def with_store(url, new_app):
    """Apps with a store."""

    async def make(results: str, **options) -> RQueue:
        app: RQueue = new_app(url, results=results, **options)
        await app.open()
        return app

    return make


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/history.db"


async def engine_of(app: RQueue):
    store = app.session().store()
    assert isinstance(store, SqlStore)
    return store.engine


# --- the store --------------------------------------------------------------------------------------------------------


async def test_an_app_without_a_store_has_nothing_to_look_at(app):
    assert await examine_store(app) == []


async def test_tables_that_are_not_there_are_a_problem_until_they_are_made(with_store, sqlite):
    app = await with_store(sqlite)
    (found,) = await examine_store(app)
    assert (found.check, found.level, found.advice) == ("results", Level.PROBLEM, "rqueue db upgrade")
    await upgrade(await engine_of(app))
    (found,) = await examine_store(app)
    assert (found.level, found.text.endswith("answers; rows are kept for ever")) == (Level.OK, True)


async def test_what_a_database_lacks_is_a_warning(with_store, sqlite):
    app = await with_store(sqlite)
    engine = await engine_of(app)
    await upgrade(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DROP VIEW celery_taskmeta")
    (found,) = await examine_store(app)
    assert (found.level, "celery_taskmeta" in found.text) == (Level.WARNING, True)


async def test_the_next_months_place_is_looked_for(redis_url, postgres_url, new_app):
    app = new_app(redis_url, results=postgres_url)
    engine = await engine_of(app)
    await upgrade(engine)
    (found,) = await examine_store(app)
    assert found.level == Level.OK, found
    async with engine.begin() as connection:
        names = await connection.exec_driver_sql(
            "SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid"
            " WHERE relname ~ '^rqueue_jobs_[0-9_]+$' ORDER BY 1"
        )
        this_month, *later = names.scalars()
        for name in later:
            await connection.exec_driver_sql(f"DROP TABLE {name}")
    (found,) = await examine_store(app)
    assert (found.level, found.advice) == (Level.WARNING, "rqueue db upgrade")
    assert this_month


async def test_a_store_that_is_away_is_a_problem_and_its_password_is_not_told(with_store):
    app = await with_store("redis://:secret@127.0.0.1:1/0")
    (found,) = await examine_store(app)
    assert (found.level, "secret" in f"{found}") == (Level.PROBLEM, False)


async def test_a_store_that_is_none_is_a_problem(with_store):
    app = await with_store("mongodb://u:secret@h/x")
    (found,) = await examine_store(app)
    assert (found.level, "secret" in f"{found}") == (Level.PROBLEM, False)


# --- what waits for it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "levels"),
    [
        (Waiting(), []),
        (Waiting(bound=100), []),
        (Waiting(entries=1, bytes=10, bound=100, age_s=1), [Level.NOTE]),
        (Waiting(entries=1, bytes=10, bound=100, age_s=LATE_S), [Level.WARNING]),
        (Waiting(entries=1, bytes=10, bound=100), [Level.WARNING]),
        (Waiting(entries=1, bytes=80, bound=100, age_s=1), [Level.PROBLEM]),
        (Waiting(entries=1, bytes=10, age_s=1), [Level.PROBLEM]),
        (Waiting(lost=2), [Level.PROBLEM]),
        (Waiting(entries=1, bytes=10, lost=2, bound=100, age_s=1), [Level.PROBLEM, Level.NOTE]),
    ],
    ids=str,
)
def test_how_bad_it_is(seen, levels):
    found = list(spool("default", seen, has_store=True))
    assert [each.level for each in found] == levels
    assert {each.check for each in found} <= {"spool"}


def test_who_does_not_know_the_store_is_told_that_there_is_one():
    (found,) = spool("default", Waiting(bound=100), has_store=False)
    assert (found.check, found.level) == ("results", Level.NOTE)


@pytest.mark.parametrize(("ago_s", "level"), [(1, Level.NOTE), (600, Level.WARNING)])
async def test_how_long_it_waits_is_read_from_the_first(app, call, ago_s, level):
    keys = app.keys.queue("default")
    await call(b"SET", keys.recorded, b"1000", b"EX", DAY)
    assert await app.session().broker.spool(keys, [entry(ago_s=ago_s), entry("b", ago_s=9000)]) == 2
    (found,) = await examine_spool(app, keys)
    assert (found.level, found.text.startswith("2 job(s) wait for the store, the first for")) == (level, True)


async def test_an_entry_that_cannot_be_read_is_counted(app, call):
    keys = app.keys.queue("default")
    await call(b"SET", keys.recorded, b"1000", b"EX", DAY)
    await app.session().broker.spool(keys, [b"?"])
    (found,) = await examine_spool(app, keys)
    assert found.level == Level.WARNING


async def test_the_whole_checkup_tells_of_it(app, call, checkup):
    """Breaks when a queue's spool is not looked at, or a key of another type stops the checkup."""
    await call(b"SADD", app.keys.queues, b"email", b"wrong")
    keys = app.keys.queue("email")
    await call(b"SET", keys.recorded, b"1000", b"EX", DAY)
    await call(b"SET", keys.unrecorded, b"3", b"EX", DAY)
    await call(b"SET", app.keys.queue("wrong").spool, b"x")
    found = {(each.check, each.where, each.level) for each in await checkup()}
    assert ("spool", "email", Level.PROBLEM) in found
    assert ("results", "email", Level.NOTE) in found
    assert ("spool", "wrong", Level.WARNING) in found


@pytest.mark.parametrize(("ttl", "kept"), [(None, "for ever"), (7200, "for 2:00:00")])
async def test_another_redis_keeps_rows_for_the_result_ttl(with_store, redis_url, ttl, kept):
    """Breaks when the age of a database's rows is told of it."""
    app = await with_store(f"{redis_url.rpartition('/')[0]}/1", result_ttl=ttl)
    (found,) = await examine_store(app)
    assert (found.level, found.text.partition("rows are kept ")[2]) == (Level.OK, kept)
