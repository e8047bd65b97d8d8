"""The result store in a SQL database: rows in, by one statement a batch, and one row out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.errors import SchemaMismatch
from rqueue.results.row import Row, replaces
from rqueue.results.sql import version
from rqueue.results.sql.calls import TIMEOUT_S, Refused, call, close
from rqueue.results.sql.engine import autocommit, engine_for, shown
from rqueue.results.sql.tables import FIELDS, jobs, row_from
from rqueue.results.sql.upkeep import tidy
from rqueue.results.sql.upsert import encoded, least, statement, storable


class SqlStore:
    """Keeps rows in PostgreSQL or SQLite.

    Args:
        url: the database's URL.
        timeout_s: seconds that any call may take.

    Attributes:
        engine: SQLAlchemy's, for queries and upkeep, which may take long.
        shown: the URL without the password.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.engine: AsyncEngine = engine_for(url)
        self.shown = shown(self.engine)
        self._timeout_s = timeout_s
        # A pool of its own: reports, also those that a worker's tasks ask for, must not keep rows waiting. And one
        # statement is its own transaction: BEGIN and COMMIT would be two more round trips.
        self._writing = autocommit(engine_for(url))
        self._statement = text(statement(self.engine.dialect.name))

    async def open(self) -> None:
        """See that the database answers, and that its tables are this version's.

        Raises:
            StoreUnavailable, SchemaMismatch: as :class:`~rqueue.results.store.ResultStore` says.
        """
        found = await call(self._writing, version.current, timeout_s=self._timeout_s)
        if complaint := version.complaint(found):
            raise SchemaMismatch(f"results {self.shown}: {complaint}")

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        """Write rows: see :meth:`~rqueue.results.store.ResultStore.save`."""
        newest: dict[tuple[str, int], Row] = {}
        for row in rows:
            key = (row.id, row.enqueued or 0)
            if key not in newest or replaces(row, newest[key]):
                newest[key] = row
        # In one order everywhere: two writers that have rows in common wait for each other, and never in a circle.
        return await self._save([newest[key] for key in sorted(newest)]) if newest else ()

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        """One job's row: see :meth:`~rqueue.results.store.ResultStore.find`."""
        query = select(*FIELDS).where(jobs.c.id == storable(job_id)).order_by(jobs.c.enqueued.desc()).limit(1)
        if queue is not None:
            query = query.where(jobs.c.queue == queue)

        async def work(connection: AsyncConnection) -> Row | None:
            found = (await connection.execute(query)).first()
            return None if found is None else row_from(found)

        return await call(self._writing, work, timeout_s=self._timeout_s)

    async def tidy(self, retention_s: float | None, *, keep_failures: bool = False) -> int:
        """Do what is due: see :func:`~rqueue.results.sql.upkeep.tidy`."""
        return await tidy(self.engine, retention_s, keep_failures=keep_failures)

    async def close(self) -> None:
        """Close its connections."""
        await asyncio.gather(close(self._writing), close(self.engine))

    async def _save(self, rows: Sequence[Row]) -> list[str]:
        try:
            await self._write(rows)
        except Refused:
            # One bad row is found by halving: it costs two statements for each halving, and is rare.
            if len(rows) > 1:
                half = len(rows) // 2
                return await self._save(rows[:half]) + await self._save(rows[half:])
            try:
                await self._write([least(rows[0])])
            except Refused:
                return [rows[0].id]
        return []

    async def _write(self, rows: Sequence[Row]) -> None:
        given: Mapping[str, Any] = {"rows": encoded(rows)}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(self._statement, given)

        await call(self._writing, work, timeout_s=self._timeout_s)
