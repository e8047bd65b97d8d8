"""What is asked of the tables: pages of jobs, and one job with its kin. It reads, and writes nothing.

Every statement here is served by an index, however many rows there are; a test holds the plans.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    cast,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.results.selection import Position, Selection, Word
from rqueue.results.sql.calls import call
from rqueue.results.sql.tables import jobs
from rqueue.results.sql.upsert import storable
from rqueue.wire.state import State

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
"""No question takes longer: a database that does not answer must not hold up who asks."""

Fields = dict[str, Any]
"""A row by its columns' names: times are datetimes, JSON is text."""

_JSON: Final = ("args", "kwargs", "result", "history")
_SEARCHED: Final = ("task", "args", "kwargs", "error")
_BY_INDEX: Final = ("parent_id", "root_id", "task", "queue")
"""Each has an index that is in the order of history behind it; the first that is asked for is taken."""

_WINDOW: Final = 1_000
_WINDOW_OF_WORDS: Final = 5_000
_WORDS: Final[ColumnElement[Any]] = literal_column("words")
_SIMPLE: Final[ColumnElement[Any]] = literal_column("'simple'")

# A plan for these very values: whether an index helps depends on them. Compiling a plan takes longer than any runs.
_PLANNING: Final = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
# With little memory a bitmap keeps pages in place of rows, and then each page's rows have to be read.
_BITMAPS: Final = text(
    "SELECT set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'off', true), "
    "set_config('work_mem', '64MB', true)"
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
    dialect = engine.dialect.name

    async def work(connection: AsyncConnection) -> list[Fields]:
        if dialect == "postgresql" and is_mixed(selection):
            # No planner knows how often two conditions meet. If they often do, the newest of one's are enough; if they
            # do not, the bitmaps of both have little in common. A walk that hopes for one more match may pass over all.
            found = await _fetch(connection, near(selection, limit, after))
            if len(found) == limit:
                return found
            await connection.execute(_BITMAPS)
        return await _fetch(connection, statement(selection, limit, after, dialect))

    return await _ask(engine, work)


async def kin(engine: AsyncEngine, job_id: str, most_rows: int, most_children: int) -> Kin:
    """One job with its parent, and its rows and children up to a number; raises as :func:`page`."""
    children = statement(Selection(parent_id=storable(job_id)), most_children, None, engine.dialect.name)

    async def work(connection: AsyncConnection) -> Kin:
        rows = await _fetch(connection, of_job(job_id).limit(most_rows))
        if not rows:
            return Kin([], None, [])
        parent_id = rows[0]["parent_id"]
        parents = [] if parent_id is None else await _fetch(connection, of_job(parent_id).limit(1))
        return Kin(rows, parents[0] if parents else None, await _fetch(connection, children))

    return await _ask(engine, work)


def of_job(job_id: str) -> Select[Any]:
    """The rows of one id, the newest first."""
    return select(*_columns(jobs)).where(jobs.c.id == storable(job_id)).order_by(jobs.c.enqueued.desc())


def statement(selection: Selection, limit: int, after: Position | None, dialect: str) -> Select[Any]:
    """The newest jobs that are meant."""
    conditions = [*_by_index(selection, jobs), *_by_reading(selection, jobs, dialect), *_times(selection, after)]
    return _newest(select(*_columns(jobs)).where(and_(True, *conditions)), jobs, limit)


def near(selection: Selection, limit: int, after: Position | None) -> Select[Any]:
    """The jobs that are meant among the newest that one index finds, of which only so many are looked at."""
    walked = and_(True, *_by_index(selection, jobs), *_times(selection, after))
    most = max(_WINDOW_OF_WORDS if selection.words else _WINDOW, 10 * limit)
    window = _newest(select(jobs, _WORDS).where(walked), jobs, most).subquery("near")
    found = select(*_columns(window)).where(and_(True, *_by_reading(selection, window, "postgresql")))
    return _newest(found, window, limit)


def is_mixed(selection: Selection) -> bool:
    """Whether one index alone does not tell which jobs are meant."""
    return bool(selection.words) or sum(getattr(selection, name) is not None for name in _BY_INDEX) > 1


async def _ask(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async def planned(connection: AsyncConnection) -> T:
        if engine.dialect.name == "postgresql":
            await connection.execute(_PLANNING)
        return await work(connection)

    return await call(engine, planned, timeout_s=TIMEOUT_S)


async def _fetch(connection: AsyncConnection, asked: Select[Any]) -> list[Fields]:
    return [dict(row) for row in (await connection.execute(asked)).mappings()]


def _columns(source: FromClause) -> list[ColumnElement[Any]]:
    """All that is told of a job. Drivers differ in what they make of a json column; its text is the same everywhere."""
    found = [source.c[each.name] for each in jobs.c]
    return [cast(each, Text).label(each.name) if each.name in _JSON else each for each in found]


def _newest(asked: Select[Any], source: FromClause, limit: int) -> Select[Any]:
    return asked.order_by(*(each.desc() for each in _key(source))).limit(limit)


def _key(source: FromClause) -> list[ColumnElement[Any]]:
    return [source.c.finished, source.c.id, source.c.enqueued]


def _by_index(selection: Selection, source: FromClause) -> list[ColumnElement[bool]]:
    """The conditions of one index, of which as many rows as are wanted can be walked in their order."""
    found: list[ColumnElement[bool]] = []
    if selection.state not in (None, State.SUCCESS):
        found.append(_in_state(selection, source))
    named = [name for name in _BY_INDEX if getattr(selection, name) is not None]
    return found + [source.c[name] == getattr(selection, name) for name in named[:1]]


def _by_reading(selection: Selection, source: FromClause, dialect: str) -> list[ColumnElement[bool]]:
    """The other conditions."""
    found = [_in_state(selection, source)] if selection.state is State.SUCCESS else []
    named = [name for name in _BY_INDEX if getattr(selection, name) is not None]
    found += [source.c[name] == getattr(selection, name) for name in named[1:]]
    if selection.words:
        found.append(_tsquery(selection.words) if dialect == "postgresql" else _likes(selection.words, source))
    return found


def _in_state(selection: Selection, source: FromClause) -> ColumnElement[bool]:
    assert selection.state is not None
    return source.c.state == selection.state.value


def _times(selection: Selection, after: Position | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if selection.since is not None:
        found.append(jobs.c.finished >= selection.since)
    if selection.until is not None:
        found.append(jobs.c.finished < selection.until)
    if after is not None:
        key = _key(jobs)
        found.append(tuple_(*key) < tuple_(*after, types=[each.type for each in key]))
    return found


def _tsquery(words: tuple[Word, ...]) -> ColumnElement[bool]:
    """The words' own parser reads each, so that they are taken apart as the stored ones were."""
    asked: list[ColumnElement[Any]] = [
        func.to_tsquery(_SIMPLE, f"'{each.text}':*") if each.is_prefix else func.plainto_tsquery(_SIMPLE, each.text)
        for each in words
    ]
    query = asked[0]
    for each in asked[1:]:
        query = query.op("&&")(each)
    return _WORDS.op("@@")(query)


def _likes(words: tuple[Word, ...], source: FromClause) -> ColumnElement[bool]:
    columns = [source.c[name] for name in _SEARCHED]
    return and_(*(or_(*(column.icontains(each.text, autoescape=True) for column in columns)) for each in words))
