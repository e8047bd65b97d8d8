"""What the database's own tests share: an engine on a database with empty tables, and on one without any."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.store import SqlStore


@pytest.fixture
async def engine(own_database: str) -> AsyncIterator[AsyncEngine]:
    """With empty tables; of each kind of database in turn."""
    made = engine_for(own_database, pool_size=8)
    yield made
    await made.dispose()


@pytest.fixture
async def pg(own_postgres: str) -> AsyncIterator[AsyncEngine]:
    """With empty tables, in PostgreSQL."""
    made = engine_for(own_postgres)
    yield made
    await made.dispose()


@pytest.fixture(params=["asyncpg", "psycopg", "sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    url: str = request.getfixturevalue("postgres_url")
    return url.replace("asyncpg", request.param)


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[AsyncEngine]:
    """Without tables."""
    made = engine_for(empty_url)
    yield made
    await made.dispose()


@pytest.fixture
async def history(own_database: str) -> AsyncIterator[SqlStore]:
    """A store with empty tables; of each kind of database in turn."""
    store = SqlStore(own_database)
    yield store
    await store.close()


async def ask(engine: AsyncEngine, statement: str) -> list[tuple]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def run(engine: AsyncEngine, statement: str) -> int:
    """How many rows it changed."""
    async with engine.begin() as connection:
        return (await connection.execute(text(statement))).rowcount


@pytest.fixture
async def postgresql(own_postgres: str) -> AsyncIterator[AsyncEngine]:
    """With empty tables, in PostgreSQL, for many at once."""
    made = engine_for(own_postgres, pool_size=8)
    yield made
    await made.dispose()
