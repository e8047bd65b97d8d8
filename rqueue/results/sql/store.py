"""The result store in a SQL database: rows in, by one statement a batch, and one row out."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from rqueue.results.row import Row
from rqueue.results.sql.engine import engine_for


class SqlStore:
    """Keeps rows in PostgreSQL or SQLite.

    Args:
        url: the database's URL.

    Attributes:
        engine: SQLAlchemy's, for queries.
        shown: the URL without the password.
    """

    def __init__(self, url: str) -> None:
        self.engine: AsyncEngine = engine_for(url)
        self.shown = self.engine.url.render_as_string(hide_password=True)

    async def open(self) -> None:
        """See that the tables are there."""
        raise NotImplementedError

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        """Write rows."""
        raise NotImplementedError

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        """One job's row."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close its connections."""
        await self.engine.dispose()
