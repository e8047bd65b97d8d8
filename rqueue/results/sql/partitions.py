"""The months into which PostgreSQL's table of jobs is parted: made before they are needed.

A row whose month is not there falls into the default partition, so nothing ever fails for want of one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

OTHER: Final = "rqueue_jobs_other"
"""The default partition."""

# Making a month locks the table and the default partition: whoever waits longer for a reader keeps other readers
# waiting. It is one statement, so that no lock is held while its sender stands still, if that is all the transaction.
_MAKE: Final = """
DO $rqueue$
DECLARE
    usual text := current_setting('lock_timeout');
BEGIN
    PERFORM set_config('lock_timeout', '1s', true);
    CREATE TABLE {name} PARTITION OF rqueue_jobs FOR VALUES FROM ('{first}') TO ('{last}');
    PERFORM set_config('lock_timeout', usual, true);
EXCEPTION WHEN OTHERS THEN
    NULL;  -- whatever kept it from being made, rows have a place
END
$rqueue$
"""
_PARTITIONS: Final = text(
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid"
    " WHERE inhparent = to_regclass('rqueue_jobs')"
)


async def ensure_months(connection: AsyncConnection, now: datetime, ahead: int = 3) -> list[str]:
    """Make the partitions of this month and of the next ones, as far as they are not there.

    A month is left out, until the next time, where the default partition already holds rows of it, where somebody reads
    the default partition for long, or where the database's user may not make tables.

    Args:
        connection: what is made is there when its transaction is committed, if it is in one.
        now: which month is this one.
        ahead: how many months after it.

    Returns:
        The names of those that were not there, and are now.
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
    await connection.execute(text(_MAKE.format(name=name, first=first, last=last)))
    return bool((await connection.execute(text(f"SELECT to_regclass('{name}') IS NOT NULL"))).scalar_one())
