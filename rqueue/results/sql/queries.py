"""What is asked of the tables: pages of jobs, and one job with its kin. It reads, and writes nothing.

Every statement here is served by an index, however many rows there are; a test holds the plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, and_, cast, func, literal_column, or_, select, text, tuple_
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.errors import SchemaMismatch, StoreUnavailable
from rqueue.results.selection import Position, Selection, Word
from rqueue.results.sql.tables import jobs
from rqueue.wire.state import State

TIMEOUT_S: Final = 30.0
"""No question takes longer: a database that does not answer must not hold up who asks."""

Fields = dict[str, Any]
"""A row by its columns' names: times are datetimes, JSON is text."""

_JSON: Final = ("args", "kwargs", "result", "history")
# Drivers differ in what they make of a json column; its text is the same everywhere.
_COLUMNS: Final = [cast(each, Text).label(each.name) if each.name in _JSON else each for each in jobs.c]
_KEY: Final = (jobs.c.finished, jobs.c.id, jobs.c.enqueued)
_NEWEST: Final = tuple(each.desc() for each in _KEY)
_SEARCHED: Final = (jobs.c.task, jobs.c.args, jobs.c.kwargs, jobs.c.error)
_PLANNING: Final = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)


class Kin(NamedTuple):
    """One job, and the jobs around it.

    Attributes:
        rows: its own, the newest first: several where its id was used again; none where it is not known.
        parent: the job that enqueued it, or None.
        children: the jobs that it enqueued, the newest first.
    """

    rows: list[Fields]
    parent: Fields | None
    children: list[Fields]


async def page(engine: AsyncEngine, selection: Selection, limit: int, after: Position | None = None) -> list[Fields]:
    """The newest jobs that are meant, below a position where one is given.

    Raises:
        StoreUnavailable: the database could not be asked.
        SchemaMismatch: its tables are not those that this version knows.
    """
    async with reading(engine) as connection:
        return await _fetch(connection, statement(selection, limit, after, engine.dialect.name))


async def kin(engine: AsyncEngine, job_id: str, most_children: int) -> Kin:
    """One job with its parent, and its children up to a number; raises as :func:`page`."""
    async with reading(engine) as connection:
        rows = await _fetch(connection, of_job(job_id))
        parents: list[Fields] = []
        if rows and rows[0]["parent_id"] is not None:
            parents = await _fetch(connection, of_job(rows[0]["parent_id"]).limit(1))
        children = Selection(parent_id=job_id)
        found = await _fetch(connection, statement(children, most_children, None, engine.dialect.name)) if rows else []
        return Kin(rows, parents[0] if parents else None, found)


def of_job(job_id: str) -> Select[Any]:
    """The rows of one id, the newest first."""
    return select(*_COLUMNS).where(jobs.c.id == job_id).order_by(jobs.c.enqueued.desc())


def statement(selection: Selection, limit: int, after: Position | None, dialect: str) -> Select[Any]:
    """The newest jobs that are meant."""
    conditions = [*_equalities(selection), *_times(selection, after)]
    if selection.words:
        conditions.append(_tsquery(selection.words) if dialect == "postgresql" else _likes(selection.words))
    return select(*_COLUMNS).where(and_(True, *conditions)).order_by(*_NEWEST).limit(limit)


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection for questions, and the database's errors as rqueue's own; also what asyncio calls a timeout.

    Raises:
        StoreUnavailable, SchemaMismatch: as :func:`page`.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S), engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                # A plan for these very values: whether an index helps depends on them. Compiling a plan takes longer
                # than any of these runs.
                await connection.execute(_PLANNING)
            yield connection
    except (
        DBAPIError,
        PoolTimeout,
        OSError,
    ) as exc:  # OSError: asyncio's TimeoutError is one, as is a refused connection
        raise _ours(exc, engine) from exc


def _ours(error: Exception, engine: AsyncEngine) -> StoreUnavailable | SchemaMismatch:
    shown = engine.url.render_as_string(hide_password=True)
    cause = getattr(error, "orig", None) or error
    if isinstance(error, ProgrammingError) or "no such " in str(cause):
        return SchemaMismatch(f"the tables at {shown} are not those of this version: run `rqueue db upgrade` ({cause})")
    return StoreUnavailable(f"{shown} cannot be asked: {cause or type(cause).__name__}")


async def _fetch(connection: AsyncConnection, asked: Select[Any]) -> list[Fields]:
    return [dict(row) for row in (await connection.execute(asked)).mappings()]


def _equalities(selection: Selection) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if selection.state is not None:
        # Not a parameter: the index over all states but SUCCESS is taken where the state is seen.
        found.append(jobs.c.state == literal_column(f"'{State(selection.state).value}'"))
    given = {name: getattr(selection, name) for name in ("task", "queue", "parent_id", "root_id")}
    return found + [jobs.c[name] == value for name, value in given.items() if value is not None]


def _times(selection: Selection, after: Position | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if selection.since is not None:
        found.append(jobs.c.finished >= selection.since)
    if selection.until is not None:
        found.append(jobs.c.finished < selection.until)
    if after is not None:
        found.append(tuple_(*_KEY) < tuple_(*after, types=[each.type for each in _KEY]))
    return found


def _tsquery(words: tuple[Word, ...]) -> ColumnElement[bool]:
    """The words' own parser reads each, so that they are taken apart as the stored ones were."""
    asked: list[ColumnElement[Any]] = [
        func.to_tsquery(literal_column("'simple'"), f"'{each.text}':*")
        if each.is_prefix
        else func.plainto_tsquery(literal_column("'simple'"), each.text)
        for each in words
    ]
    query = asked[0]
    for each in asked[1:]:
        query = query.op("&&")(each)
    return literal_column("rqueue_jobs.words").op("@@")(query)


def _likes(words: tuple[Word, ...]) -> ColumnElement[bool]:
    return and_(*(or_(*(column.icontains(each.text, autoescape=True) for column in _SEARCHED)) for each in words))
