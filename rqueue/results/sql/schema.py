"""The tables' version: brings a database up to date, and says whether it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from rqueue.results.sql import version

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """The version that this release knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def current(engine: AsyncEngine) -> str | None:
    """The database's version; None where there are no tables yet."""
    async with engine.connect() as connection:
        return await version.current(connection)


async def upgrade(engine: AsyncEngine) -> None:
    """Bring the tables up to date."""
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), "head"))
