"""Rows of jobs that ended, for tests of what is counted and what is removed."""

import itertools
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from rqueue.results.sql.tables import hours, jobs

AT = datetime(2024, 5, 14, 10, 0, tzinfo=UTC)
"""A Tuesday, at a full hour."""

_ids = itertools.count(1)


def ended(finished, state="SUCCESS", *, task="mail.send", wait_ms=20, run_ms=30, recorded=None, enqueued=None):
    return {
        "id": f"job-{next(_ids)}",
        "enqueued": finished - timedelta(milliseconds=(wait_ms or 0) + (run_ms or 0)) if enqueued is None else enqueued,
        "task": task,
        "queue": "email",
        "state": state,
        "attempts": 1,
        "losses": 0,
        "started": None,
        "finished": finished,
        "wait_ms": wait_ms,
        "run_ms": run_ms,
        "recorded": recorded or finished,
    }


async def put(engine, *rows):
    async with engine.begin() as connection:
        await connection.execute(jobs.insert(), list(rows))


async def ids(engine):
    async with engine.connect() as connection:
        return list(await connection.scalars(select(jobs.c.id).order_by(jobs.c.finished, jobs.c.id)))


async def counted(engine, span=1):
    """What is counted: by hour or day, and task."""
    query = select(hours).where(hours.c.span == span).order_by(hours.c.hour, hours.c.task)
    async with engine.connect() as connection:
        return {
            (row.hour, row.task): (row.succeeded, row.failed, row.revoked) for row in await connection.execute(query)
        }


async def how_many(engine, table=jobs):
    async with engine.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(table))
