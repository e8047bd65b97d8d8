"""Counts of each past hour and day, by task: statistics that need not read every row, and that outlive the rows.

It alone writes the table of hours. An hour is counted once it is over for a while; rows that are written still later,
since the database was away, are found by when they were recorded, and their hours are counted anew. A count never
becomes less: where rows have gone meanwhile, by whatever way, what was counted before stands. Days are sums of hours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.results.sql import marks
from rqueue.results.sql.calls import call
from rqueue.results.sql.engine import read_committed
from rqueue.results.sql.tables import Moment, hours
from rqueue.results.tally import LAST, LN_GAMMA, Tally

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
KEPT: Final = timedelta(days=400)
"""Counts are kept for a year, and until it has been compared with the one before."""

_LAG: Final = timedelta(minutes=10)  # most rows of an hour are there by then, and need not be looked for
_MARGIN: Final = timedelta(minutes=5)  # a row is recorded when its transaction begins, and is seen when that ends
_TIMEOUT_S: Final = 300.0  # for one hour, which may have millions of rows

Tallies: TypeAlias = defaultdict[tuple[datetime, str], Tally]

_ENDED: Final = "FROM rqueue_jobs WHERE finished >= :since AND finished < :until AND state <> 'RETRY'"


def _bucket(column: str) -> str:
    """As :func:`~rqueue.results.tally.bucket_of`; NULL, of a job that never ran, falls into none."""
    logarithm = f"ceil(ln({column}::double precision) / {LN_GAMMA!r}::double precision)"
    return f"CASE WHEN {column} > 0 THEN least({logarithm}::int + 1, {LAST}) WHEN {column} <= 0 THEN 0 END"


_TALLY: Final = """
SELECT hour, task, CAST(coalesce(sum(n) FILTER (WHERE state = 'SUCCESS'), 0) AS bigint) AS succeeded,
    CAST(coalesce(sum(n) FILTER (WHERE state = 'FAILURE'), 0) AS bigint) AS failed,
    CAST(coalesce(sum(n) FILTER (WHERE state = 'REVOKED'), 0) AS bigint) AS revoked,
    coalesce({join}(wait || ',' || n, ',') FILTER (WHERE wait IS NOT NULL), '') AS waits,
    coalesce({join}(run || ',' || n, ',') FILTER (WHERE run IS NOT NULL), '') AS runs
FROM ({counted}) AS counted GROUP BY hour, task
"""
# One pass over the rows, however many sets of groups.
_POSTGRES: Final = _TALLY.format(
    join="string_agg",
    counted=f"""
    SELECT hour, task, state, wait, run, count(*) AS n FROM (
        SELECT date_trunc('hour', finished, 'UTC') AS hour, coalesce(task, '') AS task, state,
            {_bucket("wait_ms")} AS wait, {_bucket("run_ms")} AS run
        {_ENDED} {{more}}
    ) AS ended
    GROUP BY GROUPING SETS ((hour, task, state), (hour, task, wait), (hour, task, run))
    """,  # noqa: S608 - nothing in it is anybody's input
)
_KEY: Final = "strftime('%Y-%m-%d %H:00:00.000000', finished) AS hour, coalesce(task, '') AS task"
# SQLite may have been built without logarithms: milliseconds are told, and put into buckets here.
_SQLITE: Final = _TALLY.format(
    join="group_concat",
    counted=" UNION ALL ".join(
        f"SELECT {_KEY}, {columns}, count(*) AS n {_ENDED} {{more}} GROUP BY 1, 2, {column}"
        for columns, column in (
            ("state, NULL AS wait, NULL AS run", "state"),
            ("NULL, wait_ms, NULL", "wait_ms"),
            ("NULL, NULL, run_ms", "run_ms"),
        )
    ),
)
_UPSERT: Final = text(
    """
INSERT INTO rqueue_hours (span, hour, task, succeeded, failed, revoked, waits, runs)
VALUES (:span, :hour, :task, :succeeded, :failed, :revoked, :waits, :runs)
ON CONFLICT (span, hour, task) DO UPDATE SET
    succeeded = excluded.succeeded, failed = excluded.failed, revoked = excluded.revoked,
    waits = excluded.waits, runs = excluded.runs
WHERE excluded.succeeded + excluded.failed + excluded.revoked
    >= rqueue_hours.succeeded + rqueue_hours.failed + rqueue_hours.revoked
"""
).bindparams(bindparam("hour", type_=Moment))


class _Late(NamedTuple):
    hours: list[datetime]
    now: datetime


async def count(
    connection: AsyncConnection,
    since: datetime,
    until: datetime,
    tally: Callable[[datetime, str], Tally],
    task: str | None = None,
) -> None:
    """Count the rows of what ended in a time.

    Args:
        connection: to the database.
        since, until: the time, without its end.
        tally: what an hour and a task are added to; '' is the task of what could not be read.
        task: only this task.
    """
    is_postgres = connection.dialect.name == "postgresql"
    query = (_POSTGRES if is_postgres else _SQLITE).format(more="" if task is None else "AND task = :task")
    given = {"since": since, "until": until} | ({} if task is None else {"task": task})
    statement = text(query).bindparams(bindparam("since", type_=Moment), bindparam("until", type_=Moment))
    for row in await connection.execute(statement.columns(hour=Moment), given):
        tally(row.hour, row.task).add(row, in_ms=not is_postgres)


async def roll(engine: AsyncEngine, now: datetime | None = None) -> int:
    """Count the hours that are over and are not counted yet, and anew those that were written to since.

    It may be done by several at once, and again at any time. Each hour is a transaction, or each day where rows were
    late: one that breaks off is counted by whoever rolls next.

    Args:
        engine: the database's.
        now: the time; default: the database's.

    Returns:
        How many hours were counted.

    Raises:
        StoreUnavailable, SchemaMismatch: the database cannot be asked, or has other tables.
    """
    rolling = read_committed(engine)
    counted = 0
    while await call(rolling, partial(_roll_next, now=now), timeout_s=_TIMEOUT_S):
        counted += 1
    late = await call(rolling, partial(_look, now=now), timeout_s=_TIMEOUT_S)
    for day in sorted({day_of(hour) for hour in late.hours}):
        again = [hour for hour in late.hours if day_of(hour) == day]
        await call(rolling, partial(_roll_again, hours_of_day=again), timeout_s=_TIMEOUT_S)
    # Only now: whoever dies before leaves the mark, and what is late is found again.
    await call(rolling, partial(_looked, now=late.now))
    return counted + len(late.hours)


def hour_of(moment: datetime) -> datetime:
    """The hour in which it lies."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """The day in which it lies, in UTC."""
    return hour_of(moment).replace(hour=0)


def _oldest(now: datetime) -> datetime:
    return day_of(now - KEPT)


async def _roll_next(connection: AsyncConnection, now: datetime | None) -> bool:
    """Count the next hour; false when there is none."""
    await marks.lock(connection)
    known = await marks.read(connection)
    now = now or await marks.now(connection)
    start = max(known.get(marks.ROLLED, _oldest(now)), _oldest(now))
    end = hour_of(now - _LAG)
    if marks.LOOKED not in known:
        await marks.write(connection, marks.LOOKED, now)
    hour = await _next_with_rows(connection, start, end)
    if hour is not None:
        end = hour + HOUR
        await _count_hour(connection, hour)
    if end > start:
        await _add_up(connection, {day_of(start), day_of(hour or start)}, end)
        await marks.write(connection, marks.ROLLED, end)
    await connection.commit()
    return hour is not None


async def _look(connection: AsyncConnection, now: datetime | None) -> _Late:
    """The hours to which rows were written after they had been counted."""
    known = await marks.read(connection)
    now = now or await marks.now(connection)
    recorded = known[marks.LOOKED] - _MARGIN
    return _Late(await _hours_written(connection, recorded, _oldest(now), known[marks.ROLLED]), now)


async def _roll_again(connection: AsyncConnection, hours_of_day: list[datetime]) -> None:
    """Count hours of one day anew."""
    await marks.lock(connection)
    for hour in hours_of_day:
        await _count_hour(connection, hour)
    await _add_up(connection, {day_of(hours_of_day[0])}, (await marks.read(connection))[marks.ROLLED])
    await connection.commit()


async def _looked(connection: AsyncConnection, now: datetime) -> None:
    """It was looked for late rows, at that time; and what is too old goes."""
    await marks.lock(connection)
    if now > (await marks.read(connection))[marks.LOOKED]:
        await marks.write(connection, marks.LOOKED, now)
    await connection.execute(delete(hours).where(hours.c.hour < _oldest(now)))
    await connection.commit()


async def _next_with_rows(connection: AsyncConnection, start: datetime, end: datetime) -> datetime | None:
    """The first hour in which something ended."""
    query = "SELECT finished FROM rqueue_jobs WHERE finished >= :start AND finished < :end ORDER BY finished LIMIT 1"
    statement = text(query).bindparams(bindparam("start", type_=Moment), bindparam("end", type_=Moment))
    row = (await connection.execute(statement.columns(finished=Moment), {"start": start, "end": end})).first()
    return None if row is None else hour_of(row[0])


async def _hours_written(
    connection: AsyncConnection, recorded: datetime, oldest: datetime, rolled: datetime
) -> list[datetime]:
    """The hours, of those that are counted, of rows that were recorded since then."""
    is_postgres = connection.dialect.name == "postgresql"
    hour = "date_trunc('hour', finished, 'UTC')" if is_postgres else _KEY.partition(" AS ")[0]
    query = (
        f"SELECT DISTINCT {hour} AS hour FROM rqueue_jobs "  # noqa: S608 - nothing in it is anybody's input
        "WHERE recorded >= :recorded AND finished >= :oldest AND finished < :rolled"
    )
    given = {"recorded": recorded, "oldest": oldest, "rolled": rolled}
    statement = text(query).bindparams(*(bindparam(name, type_=Moment) for name in given))
    return sorted(row[0] for row in await connection.execute(statement.columns(hour=Moment), given))


async def _count_hour(connection: AsyncConnection, hour: datetime) -> None:
    """Keep an hour's counts, where they are not less than what is kept."""
    found: Tallies = defaultdict(Tally)
    await count(connection, hour, hour + HOUR, lambda hour, task: found[hour, task])
    await _upsert(connection, 1, found)


async def _add_up(connection: AsyncConnection, days: Iterable[datetime], end: datetime) -> None:
    """Keep the sums of these days, of those that are over."""
    for day in sorted(each for each in days if each + DAY <= end):
        query = select(hours).where(hours.c.span == 1, hours.c.hour >= day, hours.c.hour < day + DAY)
        sums: Tallies = defaultdict(Tally)
        for row in await connection.execute(query):
            sums[day, row.task].add(row)
        await _upsert(connection, 24, sums)


async def _upsert(connection: AsyncConnection, span: int, tallies: Tallies) -> None:
    values: list[dict[str, Any]] = [
        {
            "span": span,
            "hour": hour,
            "task": task,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "revoked": tally.revoked,
            "waits": tally.waits.dump(),
            "runs": tally.runs.dump(),
        }
        for (hour, task), tally in sorted(tallies.items(), key=lambda each: each[0])
    ]
    if not values:
        return
    await connection.execute(_UPSERT, values)
