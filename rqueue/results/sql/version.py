"""The tables' version: which one this release knows, and which one a database has.

It is told without Alembic, which only ``rqueue db`` loads: a worker asks at each start.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

VERSION: Final = "0003"
"""The newest of ``migrations/versions``."""

VERSION_TABLE: Final = "rqueue_version"


UPGRADE: Final = "run `rqueue db upgrade`"


def complaint(found: str | None) -> str | None:
    """What is wrong with a database of that version, and what to do; None where nothing is."""
    if found is None:
        return f"there are no tables yet; {UPGRADE}"
    if found < VERSION:
        return f"the tables are of version {found}, this rqueue needs {VERSION}; {UPGRADE}"
    if found > VERSION:
        return f"the tables are of version {found}, made by a newer rqueue; this one knows {VERSION}: install the newer"
    return None


async def current(connection: AsyncConnection) -> str | None:
    """The database's version; None where there are no tables yet."""
    return await connection.run_sync(_current)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return found
