"""The tables as SQLAlchemy knows them, for queries; the migrations make them.

Times are ``timestamptz`` in PostgreSQL, and in SQLite text in UTC, ``2026-11-22 08:00:00.000000``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    cast,
)
from sqlalchemy import Row as Record

from rqueue.results.row import Row

UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
"""In ``enqueued``, of a job whose producer did not say when: it is part of the key, so it is never NULL."""


class Moment(TypeDecorator[datetime]):
    """A moment: aware, and in UTC, wherever it is stored."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's
        """From the database."""
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

jobs = Table(
    "rqueue_jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("enqueued", Moment, primary_key=True),
    Column("task", Text),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger),
    Column("state", Text, nullable=False),
    Column("args", Text),  # JSON text, as is kwargs, result and history: `json` in PostgreSQL
    Column("kwargs", Text),
    Column("result", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("attempts", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("worker", Text),
    Column("parent_id", Text),
    Column("root_id", Text),
    Column("started", Moment),
    Column("finished", Moment, nullable=False),
    Column("wait_ms", BigInteger),
    Column("run_ms", BigInteger),
    Column("history", Text),
    Column("recorded", Moment, nullable=False),
)

FIELDS: Final = tuple(
    # Some drivers decode what is of the type `json`, and would then be asked for its text again.
    cast(jobs.c[name], Text).label(name) if name in ("args", "kwargs", "result", "history") else jobs.c[name]
    for name in Row._fields
)
"""What to select for :func:`row_from`."""


def row_from(found: Record[Any]) -> Row:
    """The row of history in what was selected by :data:`FIELDS`."""
    moments = {name: getattr(found, name) for name in ("enqueued", "started", "finished")}
    times: dict[str, Any] = {name: None if moment is None else milliseconds(moment) for name, moment in moments.items()}
    times["enqueued"] = times["enqueued"] or None  # UNKNOWN
    return Row._make(found[: len(FIELDS)])._replace(**times)


def milliseconds(moment: datetime) -> int:
    """A moment as messages and records have it: ms since the epoch. No float comes near it."""
    return (moment - UNKNOWN) // timedelta(milliseconds=1)


hours = Table(
    "rqueue_hours",
    metadata,
    Column("span", SmallInteger, primary_key=True),  # hours that it counts: 1, or the 24 of a day in UTC
    Column("hour", Moment, primary_key=True),
    Column("task", Text, primary_key=True),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
    Column("waits", Text, nullable=False),  # JSON: bucket, count, bucket, count, …: see rqueue.results.tally
    Column("runs", Text, nullable=False),
)

marks = Table(
    "rqueue_marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("at", Moment, nullable=False),
)

outbox = Table(
    "rqueue_outbox",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("namespace", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("due", Text, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("lock", Text, nullable=False),
    Column("created", Moment, nullable=False),
    Column("batch", Text),
    Column("marked", Moment),
)

INDEXES: Final = {
    "rqueue_jobs": tuple(
        f"rqueue_jobs_{name}"
        for name in ("finished", "task", "queue", "state", "state_task", "state_queue", "parent", "root", "recorded")
    ),
    "rqueue_outbox": tuple(f"rqueue_outbox_{name}" for name in ("waiting", "batch", "marked")),
}
POSTGRES_INDEXES: Final = {"rqueue_jobs": ("rqueue_jobs_words", "rqueue_jobs_date_done")}
