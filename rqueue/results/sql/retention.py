"""Removes old rows, without ever standing in anybody's way for long.

On PostgreSQL a month whose rows are all to go is dropped at once, if that needs no wait; everything else goes in small
batches, each a transaction of its own, with a pause after each that grows with how long the database took for it. It
may be broken off at any time, and done by several at once: what is left is found again.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.results.sql import marks
from rqueue.results.sql.calls import call
from rqueue.results.sql.engine import autocommit, read_committed
from rqueue.results.sql.hours import roll
from rqueue.results.sql.tables import Moment

BATCH: Final = 1000
"""Rows that go in one transaction: some tens of milliseconds."""

_PAUSE: Final = 9.0  # times what the batch took: a tenth of one of the database's processes is what it costs
_TIMEOUT_S: Final = 60.0
_COUNT_S: Final = 900.0  # rows are counted before a month goes, and there may be hundreds of millions
_TRIES: Final = 3  # for a month's lock, which is waited for shortly: everybody else stands behind whoever waits for it
_IN_USE: Final = -1
_NOT_NOW: Final = "55P03"
_FORBIDDEN: Final = "42501"

# What is not SUCCESS has an index of its own, in which a month's failures are few.
_OLD: Final = "finished < :before"
_OLD_BUT_FAILURES: Final = f"{_OLD} AND state <> 'FAILURE'"

# A bound is shown as the session shows times, and not every way of it can be read again.
_IN_ISO: Final = text("SELECT set_config('DateStyle', 'ISO', true), set_config('TimeZone', 'UTC', true)")
# One without a beginning is for jobs without a time, of which there are always more.
_PARTITIONS: Final = text(
    """
SELECT inhrelid::regclass::text AS name,
    (regexp_match(pg_get_expr(relpartbound, oid), $$FROM \\('[^']+'\\) TO \\('([^']+)'\\)$$))[1]::timestamptz AS ends,
    has_table_privilege(inhrelid, 'SELECT') AND has_table_privilege(inhrelid, 'UPDATE')
        AND has_table_privilege(inhrelid, 'DELETE') AS is_open
FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'rqueue_jobs'::regclass ORDER BY ends NULLS LAST
"""
)
_WHOLE: Final = "rqueue_jobs"


# In one statement, so that nobody waits for a process that stands still between two. The whole is locked before the
# month: whoever writes has the whole, and then asks for the month. What was written meanwhile keeps it.
_DROP: Final = """
DO $rqueue$
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOCK TABLE ONLY rqueue_jobs IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE {month} IN ACCESS EXCLUSIVE MODE;
    IF NOT (EXISTS (SELECT FROM {month} WHERE finished >= '{before}') {failures}) THEN
        DROP TABLE {month};
    END IF;
END
$rqueue$
"""


class _Table(NamedTuple):
    """A partition by its quoted name, or all of the table; None is no end, of months or of time."""

    name: str
    ends: datetime | None


class _Batch(NamedTuple):
    rows: int
    last: datetime | None


async def prune(engine: AsyncEngine, before: datetime, *, keep_failures: bool = False) -> int:
    """Remove the rows of jobs that ended before a time. What statistics tell of them stays: they are counted first.

    Args:
        engine: the database's.
        before: jobs that ended then or later stay.
        keep_failures: jobs in the state FAILURE stay.

    Returns:
        How many rows were removed.

    Raises:
        StoreUnavailable, SchemaMismatch: the database cannot be used, or has other tables.
    """
    await roll(engine)
    await call(read_committed(engine), partial(_note, before=before))
    removed = 0
    for table in await call(engine, _tables):
        is_over = table.ends is not None and table.ends <= before  # nothing is enqueued into it any more
        dropped = await _drop(engine, table.name, before, keep_failures=keep_failures) if is_over else None
        removed += await _empty(engine, table.name, before, keep_failures) if dropped is None else dropped
    return removed


async def doomed(engine: AsyncEngine, before: datetime, *, keep_failures: bool = False) -> int:
    """How many rows :func:`prune` would remove now.

    Raises:
        StoreUnavailable, SchemaMismatch: the database cannot be asked, or has other tables.
    """
    condition = _OLD_BUT_FAILURES if keep_failures else _OLD
    return await call(engine, partial(_doomed, condition=condition, before=before), timeout_s=_COUNT_S)


async def _note(connection: AsyncConnection, before: datetime) -> None:
    """Statistics are to know from when on rows are all there. What is not counted yet is not there at all then."""
    await marks.lock(connection)
    known = await marks.read(connection)
    pruned = min(before, known[marks.ROLLED])
    if pruned > known.get(marks.PRUNED, pruned.min.replace(tzinfo=pruned.tzinfo)):
        await marks.write(connection, marks.PRUNED, pruned)
    await connection.commit()


async def _tables(connection: AsyncConnection) -> list[_Table]:
    """What rows are in, the oldest first."""
    if connection.dialect.name != "postgresql":
        return [_Table(_WHOLE, None)]
    await connection.execute(_IN_ISO)
    found = (await connection.execute(_PARTITIONS)).all()
    # Rights to the table are none to its months: who has no others removes rows through it.
    return (
        [_Table(row.name, row.ends) for row in found] if all(row.is_open for row in found) else [_Table(_WHOLE, None)]
    )


async def _drop(engine: AsyncEngine, month: str, before: datetime, *, keep_failures: bool) -> int | None:
    """Drop a month if all that is in it may go; how many rows that were. None: it is still there."""
    for left in reversed(range(_TRIES)):
        started_s = asyncio.get_running_loop().time()
        dropping = partial(_try_to_drop, month=month, before=before, keep_failures=keep_failures)
        outcome = await call(autocommit(engine), dropping, timeout_s=_COUNT_S)
        if outcome is not _IN_USE:
            return outcome
        if left:
            await asyncio.sleep((asyncio.get_running_loop().time() - started_s) * _PAUSE)
    return None


async def _empty(engine: AsyncEngine, table: str, before: datetime, keep_failures: bool) -> int:
    """Remove what may go from a table, batch by batch; how many rows that were."""
    condition = _OLD_BUT_FAILURES if keep_failures else _OLD
    since: datetime | None = None
    removed = 0
    while True:
        started_s = asyncio.get_running_loop().time()
        removing = partial(_remove, table=table, condition=condition, before=before, since=since)
        batch = await call(autocommit(engine), removing, timeout_s=_TIMEOUT_S)
        removed += batch.rows
        if batch.rows < BATCH:
            return removed
        since = batch.last  # what is kept, and what was removed and is not cleared away yet, is not read again
        await asyncio.sleep((asyncio.get_running_loop().time() - started_s) * _PAUSE)


async def _try_to_drop(connection: AsyncConnection, month: str, before: datetime, *, keep_failures: bool) -> int | None:
    """Drop a month; None: it must stay, or its owner is another user; ``_IN_USE``: it cannot be had now."""
    if await _is_wanted(connection, month, before, keep_failures=keep_failures):
        return None
    count = await _count(connection, month)
    failures = f"OR EXISTS (SELECT FROM {month} WHERE state = 'FAILURE')" if keep_failures else ""
    try:
        await connection.execute(text(_DROP.format(month=month, before=before.isoformat(), failures=failures)))
    except DBAPIError as exc:
        state = getattr(exc.orig, "sqlstate", None)
        if state not in (_NOT_NOW, _FORBIDDEN):
            raise
        return _IN_USE if state == _NOT_NOW else None
    is_there = (await connection.execute(text("SELECT to_regclass(:month) IS NOT NULL"), {"month": month})).scalar_one()
    return None if is_there else count


async def _is_wanted(connection: AsyncConnection, month: str, before: datetime, *, keep_failures: bool) -> bool:
    """Whether anything in it must stay: two looks at the ends of indexes."""
    newest = (await connection.execute(text(f"SELECT max(finished) FROM {month}"))).scalar_one()  # noqa: S608 - quoted
    if newest is not None and newest >= before:
        return True
    failures = text(f"SELECT EXISTS (SELECT FROM {month} WHERE state = 'FAILURE')")  # noqa: S608 - quoted
    return keep_failures and bool((await connection.execute(failures)).scalar_one())


async def _count(connection: AsyncConnection, table: str) -> int:
    return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())  # noqa: S608 - quoted


async def _doomed(connection: AsyncConnection, condition: str, before: datetime) -> int:
    query = text(f"SELECT count(*) FROM rqueue_jobs WHERE {condition}")  # noqa: S608 - a constant
    return int((await connection.execute(query.bindparams(bindparam("before", before, Moment)))).scalar_one())


async def _remove(
    connection: AsyncConnection, table: str, condition: str, before: datetime, since: datetime | None
) -> _Batch:
    """Remove one batch, the oldest first. What somebody else is at is passed over."""
    given = {"before": before} | ({} if since is None else {"since": since})
    after = "" if since is None else "AND finished >= :since"
    oldest = f"FROM {table} WHERE {condition} {after} ORDER BY finished LIMIT {BATCH}"
    old = ""
    if connection.dialect.name != "postgresql":
        which = f"(id, enqueued) IN (SELECT id, enqueued {oldest})"
    elif table == _WHOLE:  # a row's place is told apart within one partition only
        old = f"WITH old AS MATERIALIZED (SELECT id, enqueued {oldest} FOR UPDATE SKIP LOCKED)"
        which = "(id, enqueued) IN (SELECT id, enqueued FROM old)"
    else:  # not by the key: its ids lie anywhere, and a page is read for each
        which = f"ctid = ANY (ARRAY(SELECT ctid {oldest} FOR UPDATE SKIP LOCKED))"
    query = text(f"{old} DELETE FROM {table} WHERE {which} RETURNING finished")  # noqa: S608 - quoted, and constants
    query = query.bindparams(*(bindparam(name, type_=Moment) for name in given))
    gone = [row.finished for row in await connection.execute(query.columns(finished=Moment), given)]
    return _Batch(len(gone), max(gone, default=None))
