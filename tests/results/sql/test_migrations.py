"""All steps together: what they make is what the code knows, from wherever a database comes."""

import asyncio
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from rqueue.results.sql import migrations
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import check, current, downgrade, upgrade
from rqueue.results.sql.tables import metadata
from rqueue.results.sql.version import VERSION

from ..conftest import make_row  # noqa: TID252 - tests are no installed package
from .conftest import ask

FOLDER = Path(migrations.__file__).parent
NOT_FOR_QUERIES = {"words", "seq"}


def test_the_version_is_the_newest_step():
    """Breaks when a migration is added and workers go on to ask for the version before."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    steps = ScriptDirectory.from_config(config)
    assert steps.get_heads() == [VERSION]
    assert {step.revision for step in steps.walk_revisions()} == {
        path.name[1:5] for path in (FOLDER / "versions").glob("v*.py")
    }


async def test_from_nothing_and_again(empty, empty_url):
    assert await current(empty) is None
    assert await upgrade(empty) == []
    assert (await current(empty), await check(empty)) == (VERSION, [])
    assert await upgrade(empty) == []
    assert (await current(empty), await check(empty)) == (VERSION, [])


async def test_two_deployments_at_once(empty_url):
    """Breaks when the second one makes what the first one has just made, and fails."""
    engines = [engine_for(empty_url) for _ in range(3)]
    assert await asyncio.gather(*map(upgrade, engines)) == [[], [], []]
    assert await check(engines[0]) == []
    for engine in engines:
        await engine.dispose()


async def test_two_deployments_at_once_whatever_transactions_are_by_default(postgres_url):
    """Breaks when the second one does not see what the first one made while it waited."""
    engines = [engine_for(postgres_url) for _ in range(3)]
    name = engines[0].url.database
    async with engines[0].execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
    await engines[0].dispose()
    assert await asyncio.gather(*map(upgrade, engines)) == [[], [], []]
    for engine in engines:
        await engine.dispose()


async def test_down_step_by_step_and_up_again(engine):
    """Breaks when a step back leaves something behind that is in the way of the next way up."""
    for number in range(int(VERSION) - 1, 0, -1):
        await downgrade(engine, f"{number:04}")
        assert await current(engine) == f"{number:04}"
    await downgrade(engine, "base")
    async with engine.connect() as connection:
        left = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert left == ["rqueue_version"]
    await upgrade(engine)
    assert await check(engine) == []


async def test_rows_outlive_an_upgrade(history):
    row = make_row()
    await history.save([row])
    await upgrade(history.engine)
    assert await history.find(row.id) == row


async def test_the_code_knows_the_tables_as_they_are(engine):
    """Breaks when a column is added to the one and not to the other, or may be NULL in one of them."""

    def look(connection):
        inspector = inspect(connection)
        return {
            name: (
                {column["name"]: column["nullable"] for column in inspector.get_columns(name)},
                inspector.get_pk_constraint(name)["constrained_columns"],
            )
            for name in metadata.tables
        }

    async with engine.connect() as connection:
        there = await connection.run_sync(look)
    for name, table in metadata.tables.items():
        columns, key = there[name]
        # SQLite takes its own number of a row for one that may be NULL.
        known = {column.name: columns[column.name] if column.name == "seq" else column.nullable for column in table.c}
        assert {one: may for one, may in columns.items() if one in known or one not in NOT_FOR_QUERIES} == known, name
        assert set(key) == {column.name for column in table.primary_key}, name


async def test_the_table_is_parted_by_month(pg):
    """This month and the next three, and one for what has no month."""
    parts = await ask(pg, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'rqueue_jobs_%'")
    assert len(parts) == 6
    assert {("rqueue_jobs_other",), ("rqueue_jobs_undated",)} <= set(parts)
