"""What `rqueue db` does, beside the steps themselves: what differs is named, and nothing is half done."""

import asyncio

import pytest

from rqueue.errors import ConfigError, StoreUnavailable
from rqueue.results.sql import schema
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import check, current, downgrade, indexes_of, upgrade
from rqueue.results.sql.tables import metadata
from rqueue.results.sql.version import VERSION

from .conftest import ask, run

CHANGES = [
    ("DROP INDEX rqueue_jobs_task", ["index rqueue_jobs_task is missing"]),
    ("DROP VIEW celery_taskmeta", ["view celery_taskmeta is missing; run `rqueue db upgrade`"]),
    ("DROP TABLE rqueue_hours", ["table rqueue_hours is missing"]),
    ("ALTER TABLE rqueue_hours DROP COLUMN runs", ["column rqueue_hours.runs is missing"]),
    ("ALTER TABLE rqueue_hours ADD COLUMN note text", []),
    ("UPDATE rqueue_version SET version_num = '9999'", [f"made by a newer rqueue; this one knows {VERSION}"]),
    ("UPDATE rqueue_version SET version_num = '0001'", [f"needs {VERSION}; run `rqueue db upgrade`"]),
]


@pytest.mark.parametrize(("change", "found"), CHANGES, ids=[change for change, _ in CHANGES])
async def test_what_differs_is_named(engine, change, found):
    await run(engine, change)
    differences = await check(engine)
    assert len(differences) == len(found)
    assert all(one in other for one, other in zip(found, differences, strict=True)), differences


async def test_every_index_that_is_made_is_looked_for(engine):
    """Breaks when a migration makes an index that `check` does not know."""
    asked = (
        "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if engine.dialect.name == "sqlite"
        else "SELECT i.relname FROM pg_index JOIN pg_class i ON i.oid = indexrelid JOIN pg_class t ON t.oid = indrelid"
        " WHERE NOT indisprimary AND NOT t.relispartition AND i.relname LIKE 'rqueue%'"
    )
    known = {index for name in metadata.tables for index in indexes_of(name, engine.dialect.name)}
    assert {name for (name,) in await ask(engine, asked)} == known


async def test_an_upgrade_that_fails_changes_nothing(empty, monkeypatch):
    """All steps are one transaction. Breaks when a database is left between two versions."""

    async def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(schema, "ensure_months", fail)
    with pytest.raises(RuntimeError):
        await upgrade(empty)
    assert await current(empty) is None
    monkeypatch.undo()
    await upgrade(empty)
    assert await check(empty) == []


async def test_an_upgrade_waits_for_another(pg, own_postgres):
    """Breaks when two at once run the same steps: the lock is what keeps them apart."""
    other = engine_for(own_postgres)
    async with schema._alone(pg):
        waiting = asyncio.create_task(downgrade(other, "base"))
        while not await ask(pg, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            pass
        assert not waiting.done()
    await waiting
    assert await current(other) is None
    await other.dispose()


async def test_a_user_without_rights_is_told_in_one_line(pg, own_postgres):
    await run(pg, "DROP ROLE IF EXISTS rqueue_reader")
    await run(pg, "CREATE ROLE rqueue_reader LOGIN")
    await run(pg, "DROP VIEW celery_taskmeta")
    reader = engine_for(own_postgres.replace("postgres@", "rqueue_reader@"))
    with pytest.raises(StoreUnavailable, match="permission denied") as raised:
        await upgrade(reader)
    assert "\n" not in str(raised.value)
    await reader.dispose()
    await run(pg, "DROP ROLE rqueue_reader")


@pytest.fixture
def latin1_url(postgres):
    """A database that has not every character."""
    postgres.run("CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    yield postgres.url("latin1")
    postgres.run("DROP DATABASE latin1 WITH (FORCE)")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_database_of_another_encoding_is_refused(latin1_url, driver):
    """Breaks when jobs lose their rows for a character later on."""
    engine = engine_for(latin1_url.replace("asyncpg", driver))
    with pytest.raises(ConfigError, match="LATIN1, it must be UTF8"):
        await upgrade(engine)
    assert await current(engine) is None
    await engine.dispose()
