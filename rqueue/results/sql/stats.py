"""Statistics by task: from the counts of hours and days where they are there, and from the rows for the rest.

They are of one moment, though hours are counted and rows are removed meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.results.sql import marks
from rqueue.results.sql.calls import call
from rqueue.results.sql.hours import DAY, HOUR, count, day_of, hour_of
from rqueue.results.sql.tables import hours
from rqueue.results.tally import Tally, TaskStats

_TIMEOUT_S: Final = 60.0  # before the first worker has counted them, all rows are read
_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Span(NamedTuple):
    """A time; what is not before its end is not in it."""

    since: datetime
    until: datetime


class Plan(NamedTuple):
    """What a time is put together from."""

    days: list[Span]
    hours: list[Span]
    rows: list[Span]


async def stats(
    engine: AsyncEngine, since: datetime, until: datetime | None = None, task: str | None = None
) -> list[TaskStats]:
    """How the jobs of each task went that ended in a time; those with the most jobs first.

    A run that was retried is no end, and does not count. Where rows were removed, the hours in which the time begins
    and ends count as a whole. Percentiles are off by at most 1 % of themselves: see :mod:`rqueue.results.tally`.

    Args:
        engine: the database's.
        since: the time's begin.
        until: its end, which is not in it; None is now.
        task: only this task.

    Raises:
        StoreUnavailable, SchemaMismatch: the database cannot be asked, or has other tables.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    return await call(engine, partial(_stats, since=since, until=until, task=task), timeout_s=_TIMEOUT_S)


def plan(span: Span, rolled: datetime, pruned: datetime, oldest: datetime = _EVER) -> Plan:
    """Which part of a time is taken from where.

    Args:
        span: the time.
        rolled: all hours before are counted.
        pruned: rows of jobs that ended before may be gone.
        oldest: the first hour that is counted; of the time before there are rows, or nothing.
    """
    since, until = span
    begin = max(since, oldest)
    first = hour_of(begin) if begin < pruned else _up(begin, HOUR)
    # The hour of the last rows that are gone is told as a whole, like those before it.
    last = _up(until, HOUR) if begin < pruned and until < _up(pruned, HOUR) else min(hour_of(until), rolled)
    if first >= last:
        return Plan([], [], [span])
    rows = [Span(since, first), Span(last, until)]
    monday, sunday = _up(first, DAY), day_of(last)
    if monday >= sunday:
        return Plan([], [Span(first, last)], _real(rows))
    return Plan([Span(monday, sunday)], _real([Span(first, monday), Span(sunday, last)]), _real(rows))


async def _stats(
    connection: AsyncConnection, since: datetime, until: datetime | None, task: str | None
) -> list[TaskStats]:
    if connection.dialect.name == "sqlite":
        await connection.execute(text("BEGIN"))  # its driver begins no transaction to read
    known = await marks.read(connection)
    # Rows are told apart by the databases' clocks and by Redis's: what ends now may have ended a moment from now.
    until = until or await marks.now(connection) + DAY
    rolled, pruned = (known.get(name, _EVER) for name in (marks.ROLLED, marks.PRUNED))
    # Rows may be kept for longer than counts.
    oldest = (await connection.execute(select(func.min(hours.c.hour)).where(hours.c.span == 1))).scalar() or rolled
    parts = plan(Span(since, until), rolled, pruned, oldest)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    if parts.days or parts.hours:
        query = select(hours).where(or_(*_within(24, parts.days), *_within(1, parts.hours)))
        for row in await connection.execute(query if task is None else query.where(hours.c.task == task)):
            tallies[row.task].add(row)
    for part in parts.rows:
        await count(connection, part.since, part.until, lambda _, name: tallies[name], task)
    found = [tally.stats(name or None) for name, tally in tallies.items()]
    return sorted(found, key=lambda each: (-each.count, each.task or ""))


def _within(span: int, times: list[Span]) -> list[ColumnElement[bool]]:
    return [and_(hours.c.span == span, hours.c.hour >= since, hours.c.hour < until) for since, until in times]


def _up(moment: datetime, unit: timedelta) -> datetime:
    """The next full hour or day, or the moment itself where it is one."""
    down = hour_of(moment) if unit == HOUR else day_of(moment)
    return down if down == moment else down + unit


def _real(spans: list[Span]) -> list[Span]:
    return [each for each in spans if each.since < each.until]
