"""The months into which PostgreSQL's table of jobs is parted: made before they are needed.

A row whose month is not there falls into the default partition, so nothing ever fails for want of one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

OTHER: Final = "rqueue_jobs_other"
"""The default partition."""

# Making a month locks the default partition. Whoever waits for a reader of it keeps the readers after that one waiting.
_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '1s'")
_NO_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout TO DEFAULT")
_PARTITIONS: Final = text(
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid"
    " WHERE inhparent = to_regclass('rqueue_jobs')"
)


async def ensure_months(connection: AsyncConnection, now: datetime, ahead: int = 3) -> list[str]:
    """Make the partitions of this month and of the next ones, as far as they are not there.

    A month is left out, until the next time, where the default partition already holds rows of it, where somebody reads
    the default partition for long, or where the database's user may not make tables.

    Args:
        connection: in a transaction; what is made is there when it is committed.
        now: which month is this one.
        ahead: how many months after it.

    Returns:
        The names of those that were made.
    """
    if connection.dialect.name != "postgresql":
        return []
    there = set((await connection.execute(_PARTITIONS)).scalars())
    month = now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1
    wanted = [(name_of(each), each) for each in range(month, month + ahead + 1)]
    return [name for name, each in wanted if name not in there and await _make(connection, name, each)]


async def months_ahead(connection: AsyncConnection, now: datetime) -> int | None:
    """How many of the months after this one have their partition; None where the database knows no partitions."""
    if connection.dialect.name != "postgresql":
        return None
    there = set((await connection.execute(_PARTITIONS)).scalars())
    month = now.astimezone(UTC).year * 12 + now.astimezone(UTC).month
    return next(ahead for ahead in range(len(there) + 1) if name_of(month + ahead) not in there)


def name_of(month: int) -> str:
    """The name of a month's partition; the month as ``year * 12 + month - 1``."""
    return f"rqueue_jobs_{month // 12:04}_{month % 12 + 1:02}"


async def _make(connection: AsyncConnection, name: str, month: int) -> bool:
    first, last = (f"{each // 12:04}-{each % 12 + 1:02}-01 00:00:00+00" for each in (month, month + 1))
    try:
        async with connection.begin_nested():
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF rqueue_jobs FOR VALUES FROM ('{first}') TO ('{last}')")
            )
            await connection.execute(_NO_LOCK_TIMEOUT)
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise
        return False
    return True
