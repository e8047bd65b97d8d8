"""The statement that writes a batch of rows, and the one parameter that it takes: all rows, as one JSON text.

One parameter, whatever the number of rows: the statement is parsed and planned once for a connection, and there is no
limit on how many rows fit. Where a row takes the place of a stored one, the statement says it as
:func:`~rqueue.results.row.replaces` does; the database decides, so that two writers need not know of each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from rqueue.results.row import SKEW_MS, Row
from rqueue.results.sql.calls import Refused

_LAST_MS: Final = 253_402_300_799_999  # of the year 9999, the last that Python reads
_NAMES: Final = Row._fields
_MOMENTS: Final = ("enqueued", "started", "finished")
_JSON: Final = ("args", "kwargs", "result", "history")
_KINDS: Final = {  # of a row, in the order of the table's columns
    "id": "text",
    "enqueued": "bigint",
    "task": "text",
    "queue": "text",
    "priority": "smallint",
    "state": "text",
    "args": "text",
    "kwargs": "text",
    "result": "text",
    "error": "text",
    "traceback": "text",
    "attempts": "integer",
    "losses": "integer",
    "worker": "text",
    "parent_id": "text",
    "root_id": "text",
    "started": "bigint",
    "finished": "bigint",
    "wait_ms": "bigint",
    "run_ms": "bigint",
    "history": "text",
}
_LONGEST_TEXT: Final = 500  # of characters, of 4 bytes each: PostgreSQL bounds what is part of an index, at 2,700
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

# In whole milliseconds all the way: no float comes near a time.
_SQLITE_MOMENT: Final = (
    "strftime('%Y-%m-%d %H:%M:%S', json_extract(value, '$.{0}') / 1000, 'unixepoch')"
    " || printf('.%03d000', json_extract(value, '$.{0}') % 1000)"
)
_SQLITE_NOW: Final = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_SKEWED: Final = {
    "postgresql": f"coalesce(stored.started, stored.finished) - {SKEW_MS} * interval '1 millisecond'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', coalesce(stored.started, stored.finished), "
    f"'-{SKEW_MS / 1000:g} seconds')",
}
_POSTGRES_MOMENT: Final = "timestamptz 'epoch' + t.{0} * interval '1 millisecond'"


def statement(dialect: str) -> str:
    """The statement for a database, with the parameter ``:rows``."""
    select = _of_postgres() if dialect == "postgresql" else _of_sqlite()
    updated = ", ".join(f"{name} = excluded.{name}" for name in [*_KINDS, "recorded"] if name not in ("id", "enqueued"))
    return f"""
        INSERT INTO rqueue_jobs AS stored ({", ".join(_KINDS)}, recorded)
        {select}
        ON CONFLICT (id, enqueued) DO UPDATE SET {updated}
        WHERE coalesce(excluded.started, excluded.finished) > coalesce(stored.started, stored.finished)
        OR (
            excluded.attempts + excluded.losses = stored.attempts + stored.losses
            AND coalesce(excluded.started, excluded.finished) = coalesce(stored.started, stored.finished)
        )
        OR (
            excluded.attempts + excluded.losses > stored.attempts + stored.losses
            AND coalesce(excluded.started, excluded.finished) > {_SKEWED[dialect]}
        )
    """


def encoded(rows: Sequence[Row]) -> str:
    """The parameter.

    Raises:
        Refused: a number is not one of 64 bits.
    """
    try:
        text = orjson.dumps([_fields(row) for row in rows])
    except TypeError:  # of a lone surrogate, or of a number
        text = _dumped([_fields(storable_row(row)) for row in rows])
    # What a JSON column holds is escaped twice here, and may hold the escape: that costs a second look.
    if rb"\u0000" in text:
        text = _dumped([_fields(storable_row(row)) for row in rows])
    return text.decode()


def storable(text: str) -> str:
    """A text without what no database stores: NUL, and halves of characters."""
    return _UNSTORABLE.sub("\ufffd", text)


def storable_row(row: Row) -> Row:
    """A row all of whose texts are storable."""
    return Row._make(storable(value) if isinstance(value, str) else value for value in row)


def least(row: Row) -> Row:
    """A row with only what tells the job and its end: what is tried where the whole row was refused."""
    short = Row._make(value[:_LONGEST_TEXT] if isinstance(value, str) else value for value in row)
    priority = row.priority if row.priority in range(1, 11) else None
    return short._replace(
        id=row.id, priority=priority, args=None, kwargs=None, result=None, traceback=None, history=None
    )


def _dumped(fields: list[dict[str, Any]]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError as exc:
        raise Refused(str(exc)) from None


def _fields(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(_NAMES, row, strict=True))  # half of what _asdict() takes
    enqueued, started, finished = row.enqueued, row.started, row.finished
    if enqueued is None or not 0 <= enqueued <= _LAST_MS:
        enqueued, fields["enqueued"] = None, 0
    if started is not None and not 0 <= started <= _LAST_MS:
        started = fields["started"] = None
    if not 0 <= finished <= _LAST_MS:
        finished = fields["finished"] = 0 if finished < 0 else _LAST_MS
    # Clocks of two hosts: no wait is shorter than none.
    fields["wait_ms"] = None if started is None or enqueued is None else max(0, started - enqueued)
    fields["run_ms"] = None if started is None else max(0, finished - started)
    return fields


def _of_postgres() -> str:
    def value(name: str) -> str:
        if name in _MOMENTS:
            return _POSTGRES_MOMENT.format(name)
        # As text up to here: as JSON inside of JSON its escapes would be resolved, and NUL with them.
        return f"CAST(t.{name} AS json)" if name in _JSON else f"t.{name}"

    columns = ", ".join(f"{name} {kind}" for name, kind in _KINDS.items())
    values = ", ".join(map(value, _KINDS))
    return f"SELECT {values}, now() FROM json_to_recordset(CAST(:rows AS json)) AS t({columns})"  # noqa: S608


def _of_sqlite() -> str:
    def value(name: str) -> str:
        return _SQLITE_MOMENT.format(name) if name in _MOMENTS else f"json_extract(value, '$.{name}')"

    # Without a condition SQLite takes the ON of ON CONFLICT for a join's.
    return f"SELECT {', '.join(map(value, _KINDS))}, {_SQLITE_NOW} FROM json_each(:rows) WHERE true"  # noqa: S608
