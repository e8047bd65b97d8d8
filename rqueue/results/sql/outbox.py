"""The outbox's table: rows in, within a transaction of their caller's; and batches out of it, for a relay.

It alone keeps that a batch is the same rows for whoever reads it: they get its name in one statement, and those of one
queue leave it in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, NoReturn

from sqlalchemy import (
    Connection,
    Insert,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from rqueue.errors import SchemaMismatch, StoreUnavailable
from rqueue.results.sql import version
from rqueue.results.sql.calls import call, close, first_line
from rqueue.results.sql.engine import engine_for, shown
from rqueue.results.sql.tables import outbox

CHANNEL: Final = "rqueue_outbox"
BATCH_JOBS: Final = 500
BATCH_BYTES: Final = 1024 * 1024
ABANDONED_S: Final = 30
"""A batch that was marked longer ago than that has lost its relay, or is none the worse for a second one."""

_ANSWER_S: Final = 10.0
_ALIVE_S: Final = 60.0  # how often it is seen that the connection on which the database tells is still one
_REFUSED: Final = "refused: "
_MISSING: Final = ("42P01", "42703")  # the table; a column of it
_ASYNC: Final = (AsyncSession, AsyncConnection, async_scoped_session)
_SYNC: Final = (Session, Connection, scoped_session)

AsyncTransaction = AsyncSession | AsyncConnection | async_scoped_session[Any]
SyncTransaction = Session | Connection | scoped_session[Any]


class Entry(NamedTuple):
    """One job in the outbox; see :class:`~rqueue.broker.enqueue.Enqueued`."""

    seq: int
    job_id: str
    queue: str
    level: int
    due: str
    message: bytes
    lock: str


class Waiting(NamedTuple):
    """What is in the table.

    Attributes:
        jobs: how many are not sent yet.
        first: when the first of them was enqueued, or None.
        refused: how many others cannot be sent.
    """

    jobs: int = 0
    first: datetime | None = None
    refused: int = 0


async def add(session: AsyncTransaction, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows in the caller's transaction, which is neither committed nor rolled back.

    Raises:
        SchemaMismatch: the table is not there.
    """
    try:
        await session.execute(*_inserting(rows))
    except DBAPIError as exc:
        _explain(exc)


def add_now(session: SyncTransaction, rows: Sequence[dict[str, Any]]) -> None:
    """As :func:`add`, for synchronous code.

    Raises:
        SchemaMismatch: the table is not there.
    """
    try:
        session.execute(*_inserting(rows))
    except DBAPIError as exc:
        _explain(exc)


def check_transaction(session: object, *, is_async: bool) -> None:
    """Refuse what is no session or connection of SQLAlchemy's of this kind.

    Raises:
        TypeError: it is not.
    """
    if isinstance(session, _ASYNC if is_async else _SYNC):
        return
    if isinstance(session, _SYNC):
        hint = "a synchronous session takes task.delay_in(session, …)"
    elif isinstance(session, _ASYNC):
        hint = "an asynchronous session takes await task.enqueue_in(session, …)"
    else:
        hint = "it takes SQLAlchemy's AsyncSession or AsyncConnection, and delay_in its Session or Connection"
    raise TypeError(f"{'enqueue_in' if is_async else 'delay_in'}: {type(session).__name__} given; {hint}")


class Outbox:
    """The table as a relay sees it: batches of rows, by name.

    Args:
        url: the database's.
        namespace: whose jobs.

    Attributes:
        shown: the URL without the password.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._engine = engine_for(url)
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._ours = outbox.c.namespace == namespace
        self._is_postgres = self._engine.dialect.name == "postgresql"
        self.shown = shown(self._engine)
        # By the database's clock: relays' own may be apart.
        ago = f"-{ABANDONED_S} seconds"
        if self._is_postgres:
            self._now, self._since = "now()", f"now() + interval '{ago}'"
        else:
            self._now, self._since = (f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{by}')" for by in ("0 seconds", ago))

    async def open(self) -> None:
        """See that its tables are this version's; no connection stays.

        Raises:
            SchemaMismatch: they are not; the text says what to do.
            StoreUnavailable: the database cannot be asked.
        """
        try:
            found = await call(self._engine, version.current)
        finally:
            await close(self._engine)
        if complaint := version.complaint(found):
            raise SchemaMismatch(f"outbox {self.shown}: {complaint}")

    async def mark(self, batch: str, but: Collection[str] = ()) -> list[Entry]:
        """Give the oldest rows that have no batch a name, in order: at most 500, and a megabyte or one row.

        Rows that another relay is marking are passed over.

        Args:
            batch: a name that was never used.
            but: not those of these queues.

        Raises:
            StoreUnavailable, SchemaMismatch: as all verbs here; rows may have been given the name all the same.
        """
        picked = (
            select(outbox.c.seq, func.length(outbox.c.message).label("size"))
            .where(outbox.c.batch.is_(None), self._ours, outbox.c.queue.not_in(but))
            .order_by(outbox.c.seq)
            .limit(BATCH_JOBS)
        )
        # Materialized: evaluated twice, it would lock and mark others the second time.
        locked = (
            picked.with_for_update(skip_locked=True).cte("picked").prefix_with("MATERIALIZED", dialect="postgresql")
        )
        before = func.sum(locked.c.size).over(order_by=locked.c.seq) - locked.c.size
        fitting = select(locked.c.seq, before.label("before")).subquery()
        marking = (
            update(outbox)
            .where(outbox.c.seq.in_(select(fitting.c.seq).where(fitting.c.before < BATCH_BYTES)))
            .values(batch=batch, marked=literal_column(self._now))
            .returning(*_ENTRY)
        )
        is_sent = False

        async def mark(connection: AsyncConnection) -> list[Entry]:
            nonlocal is_sent
            # SQLite locks the file for an update that finds nothing, too.
            if not self._is_postgres and (await connection.execute(picked.limit(1))).first() is None:
                return []
            if is_sent:  # the second time it would give the name to other rows, too, of which nobody here knew
                raise StoreUnavailable("it is not known whether jobs of the outbox were marked")
            is_sent = True
            return sorted(Entry(*row) for row in await connection.execute(marking))

        return await call(self._single, mark, timeout_s=_ANSWER_S)

    async def take_over(self) -> str | None:
        """The name of a batch whose relay has not sent it in time; None where there is none.

        Another relay may be given it in the same moment: they send the same.
        """
        is_late = outbox.c.marked < literal_column(self._since)
        late = select(outbox.c.batch).where(is_late, self._ours).order_by(outbox.c.marked).limit(1)

        async def take_over(connection: AsyncConnection) -> str | None:
            name: str | None = (await connection.execute(late)).scalar()
            if name is not None:
                again = update(outbox).where(outbox.c.batch == name, is_late)
                await connection.execute(again.values(marked=literal_column(self._now)))
            return name

        return await call(self._single, take_over, timeout_s=_ANSWER_S)

    async def read(self, batch: str) -> list[Entry]:
        """The rows of a batch that were not sent yet, in order."""
        found = select(*_ENTRY).where(outbox.c.batch == batch, outbox.c.marked.is_not(None)).order_by(outbox.c.seq)

        async def read(connection: AsyncConnection) -> list[Entry]:
            return [Entry(*row) for row in await connection.execute(found)]

        return await call(self._single, read, timeout_s=_ANSWER_S)

    async def sent(self, batch: str, queues: Collection[str], again: Collection[int] = ()) -> list[tuple[str, str]]:
        """Redis has a batch's jobs of these queues, but for some rows, which go back to those without a batch.

        Returns:
            Queue and id of the jobs that went back; none of a batch that another relay has seen to its end.
        """
        ours = outbox.c.batch == batch
        done = delete(outbox).where(ours, outbox.c.queue.in_(queues))
        back = update(outbox).where(ours, outbox.c.seq.in_(again)).values(batch=None, marked=None)
        back = back.returning(outbox.c.queue, outbox.c.job_id)

        async def end(connection: AsyncConnection) -> list[tuple[str, str]]:
            found = [(row[0], row[1]) for row in await connection.execute(back)] if again else []
            await connection.execute(done)
            if again:
                await connection.commit()  # in one step: what is left of a batch is never less of it
            return found

        return await call(self._engine if again else self._single, end, timeout_s=_ANSWER_S)

    async def refuse(self, batch: str, why: Mapping[int, str]) -> None:
        """Set rows of a batch apart that cannot be sent, with the reasons; they stay, and no relay looks at them."""

        async def refuse(connection: AsyncConnection) -> None:
            for seq, reason in why.items():
                apart = update(outbox).where(outbox.c.batch == batch, outbox.c.seq == seq)
                await connection.execute(apart.values(batch=_REFUSED + reason, marked=None))

        await call(self._single, refuse, timeout_s=_ANSWER_S)

    async def waiting(self) -> Waiting:
        """What is in the table now."""
        is_refused = outbox.c.batch.is_not(None) & outbox.c.marked.is_(None)
        sendable = case((~is_refused, outbox.c.created))
        query = select(func.count(sendable), func.min(sendable), func.count(case((is_refused, 1)))).where(self._ours)

        async def ask(connection: AsyncConnection) -> Waiting:
            return Waiting(*(await connection.execute(query)).one())

        return await call(self._single, ask)

    async def listen(self, told: Callable[[], None]) -> None:
        """Call a function whenever jobs were committed, until the connection is lost; in SQLite nobody tells.

        Raises:
            StoreUnavailable: the connection was lost, or could not be made.
        """
        if not self._is_postgres:
            await asyncio.Event().wait()
        listen = _listen_asyncpg if self._engine.driver == "asyncpg" else _listen_psycopg
        try:
            async with self._single.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                try:
                    await listen(driver, told)
                finally:
                    await connection.invalidate()  # it listens, and is nobody else's
        except Exception as exc:
            raise StoreUnavailable(f"{self.shown}: {first_line(exc)}") from exc

    async def close(self) -> None:
        """Close its connections."""
        await close(self._engine)


_ENTRY: Final = tuple(outbox.c[name] for name in Entry._fields)


def _inserting(rows: Sequence[dict[str, Any]]) -> tuple[Insert, Sequence[dict[str, Any]]]:
    return insert(outbox).inline(), rows  # inline: nobody asks for the row's number


def _explain(exc: DBAPIError) -> NoReturn:
    code = getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None)
    said = str(exc.orig)
    if code in _MISSING or "no such table" in said or "has no column named" in said:
        raise SchemaMismatch(f"no table rqueue_outbox as this version knows it; {version.UPGRADE}") from exc
    raise exc


async def _listen_asyncpg(driver: Any, told: Callable[[], None]) -> None:
    ended = asyncio.Event()
    driver.add_termination_listener(lambda _: ended.set())
    await driver.add_listener(CHANNEL, lambda *_: told())
    while not ended.is_set():
        try:
            async with asyncio.timeout(_ALIVE_S):
                await ended.wait()
        except TimeoutError:  # a firewall may have forgotten the connection, and nobody says so
            await driver.execute("SELECT 1", timeout=_ANSWER_S)
    raise ConnectionError("the connection was lost")


async def _listen_psycopg(driver: Any, told: Callable[[], None]) -> None:
    await driver.execute(f"LISTEN {CHANNEL}")
    while True:
        async for _ in driver.notifies(timeout=_ALIVE_S):
            told()
        async with asyncio.timeout(_ANSWER_S):
            await driver.execute("SELECT 1")
