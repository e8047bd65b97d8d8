"""How far regular work on the tables has come, and whose turn it is: one row for each, under a name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import TextClause, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rqueue.results.sql.tables import Moment, marks

ROLLED: Final = "rolled"
"""Every hour that ended until then is counted."""

LOOKED: Final = "looked"
"""When it was last looked for rows of such hours that were written late."""

PRUNED: Final = "pruned"
"""Rows of jobs that ended before may be gone."""

_LOCK: Final = 0x72717565_75650001  # "rqueue", and the first of its locks


async def now(connection: AsyncConnection) -> datetime:
    """The database's time: workers' clocks may differ, and this one stands in the rows' ``recorded``."""
    if connection.dialect.name == "postgresql":
        moment: datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        return moment.astimezone(UTC)
    shown: str = (await connection.execute(text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')"))).scalar_one()
    return datetime.fromisoformat(shown).replace(tzinfo=UTC)


async def read(connection: AsyncConnection) -> dict[str, datetime]:
    """All marks."""
    return {row.name: row.at for row in await connection.execute(select(marks))}


async def write(connection: AsyncConnection, name: str, at: datetime) -> None:
    """Set a mark, wherever it stood."""
    await connection.execute(_upsert("", "at"), {"name": name, "at": at})


async def take_turn(connection: AsyncConnection, name: str, every: timedelta) -> bool:
    """Whether it is this caller's turn: nobody has had it for so long. It is taken in that step, once committed.

    Whoever takes a turn and dies leaves it undone until the next one. A mark in the future, of a clock that was wrong,
    counts for nothing.
    """
    at = await now(connection)
    upsert = _upsert("WHERE rqueue_marks.at <= :due OR rqueue_marks.at > :ahead RETURNING name", "at", "due", "ahead")
    given = {"name": name, "at": at, "due": at - every, "ahead": at + every}
    return (await connection.execute(upsert, given)).first() is not None


async def lock(connection: AsyncConnection) -> None:
    """Wait until nobody else changes what is counted; held until the transaction ends.

    Never a session's lock: behind a pooler that hands out connections by the transaction it would be held by a
    stranger. SQLite has one writer anyway, from a transaction's first write on, and this is one.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    else:
        await connection.execute(text("UPDATE rqueue_marks SET at = at WHERE 0"))


def _upsert(more: str, *moments: str) -> TextClause:
    """Both databases take it so; moments are written in the way of each."""
    query = "INSERT INTO rqueue_marks (name, at) VALUES (:name, :at) ON CONFLICT (name) DO UPDATE SET at = excluded.at "
    return text(query + more).bindparams(*(bindparam(name, type_=Moment) for name in moments))
