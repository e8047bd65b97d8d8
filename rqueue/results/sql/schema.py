"""Brings a database's tables up to date, and says what differs: what ``rqueue db`` does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.errors import ConfigError
from rqueue.results.sql import version
from rqueue.results.sql.calls import call, connected, meaning
from rqueue.results.sql.partitions import ensure_months
from rqueue.results.sql.tables import INDEXES, POSTGRES_INDEXES, metadata
from rqueue.results.sql.taskmeta import IN_THE_WAY, NAME, make_view

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_TIMEOUT_S: Final = 10.0
_REFUSED: Final = "SELECT count(*) FROM rqueue_outbox WHERE batch LIKE 'refused: %'"
_LOCK: Final = 0x727175657565  # any number that nobody else takes: "rqueue"


async def current(engine: AsyncEngine) -> str | None:
    """The database's version; None where there are no tables yet."""
    return await call(engine, version.current, timeout_s=_TIMEOUT_S)


async def upgrade(engine: AsyncEngine, revision: str = "head") -> list[str]:
    """Bring the tables up to date, in one transaction; two at once do it one after the other.

    Returns:
        What could not be done, as sentences.

    Raises:
        ConfigError: the database cannot store every character.
    """
    async with _alone(engine) as connection:
        await _check_encoding(connection)
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))
        await ensure_months(connection, datetime.now(UTC))
        return [] if await connection.run_sync(make_view) else [IN_THE_WAY]


async def downgrade(engine: AsyncEngine, revision: str) -> None:
    """Go back to an older version; what its tables have no place for is lost."""
    async with _alone(engine) as connection:
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), revision))


async def check(engine: AsyncEngine) -> list[str]:
    """What differs from what this release would make, as sentences; nothing where all is well."""

    async def ask(connection: AsyncConnection) -> list[str]:
        if complaint := version.complaint(await version.current(connection)):
            return [complaint]
        differences = await connection.run_sync(_differences)
        if refused := (await connection.execute(text(_REFUSED))).scalar():
            differences.append(f"rows of rqueue_outbox that cannot be sent: {refused}; their column batch says why")
        return differences

    return await call(engine, ask, timeout_s=_TIMEOUT_S)


def _differences(connection: Connection) -> list[str]:
    inspector = inspect(connection)
    tables, views = set(inspector.get_table_names()), set(inspector.get_view_names())
    differences = [f"table {name} is missing" for name in metadata.tables if name not in tables]
    for name, table in metadata.tables.items():
        if name in tables:
            there = {column["name"] for column in inspector.get_columns(name)}
            differences += [f"column {name}.{column.name} is missing" for column in table.c if column.name not in there]
            indexes = {index["name"] for index in inspector.get_indexes(name)}
            differences += [
                f"index {index} is missing"
                for index in indexes_of(name, connection.dialect.name)
                if index not in indexes
            ]
    if NAME not in views:
        differences.append(IN_THE_WAY if NAME in tables else f"view {NAME} is missing; {version.UPGRADE}")
    return differences


def indexes_of(table: str, dialect: str) -> Sequence[str]:
    """The names of a table's indexes, its key apart."""
    more = POSTGRES_INDEXES.get(table, ()) if dialect == "postgresql" else ()
    return (*INDEXES.get(table, ()), *more)


async def _check_encoding(connection: AsyncConnection) -> None:
    """Else rows with characters that it has not would be refused one by one, when they are written."""
    if connection.dialect.name == "postgresql":
        found = (await connection.exec_driver_sql("SHOW server_encoding")).scalar_one()
        if found != "UTF8":
            raise ConfigError(f"results: the database's encoding is {found}, it must be UTF8")


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that no other of these runs beside."""
    # SQLite's driver begins transactions as it sees fit, not before it makes tables: it is told to leave that to us.
    is_postgres = engine.dialect.name == "postgresql"
    begin = (
        ("BEGIN ISOLATION LEVEL READ COMMITTED", f"SELECT pg_advisory_xact_lock({_LOCK})")
        if is_postgres
        else ("BEGIN IMMEDIATE",)
    )
    try:
        async with connected(engine.execution_options(isolation_level="AUTOCOMMIT")) as connection:
            for statement in begin:
                await connection.exec_driver_sql(statement)
            try:
                yield connection
            except BaseException:
                await connection.exec_driver_sql("ROLLBACK")
                raise
            await connection.exec_driver_sql("COMMIT")
    except (DBAPIError, OSError) as exc:
        raise meaning(exc) from exc


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
