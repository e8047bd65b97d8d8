"""The view ``celery_taskmeta``: history under the names that Celery's own table has, for what was written for that.

It is made anew after each upgrade, so it is no migration: whoever still has Celery's table of that name keeps it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

NAME: Final = "celery_taskmeta"

IN_THE_WAY: Final = (
    f"there is a table {NAME} already, Celery's own: reports go on reading that, and not rqueue's jobs. When nothing "
    f"writes to it any more: ALTER TABLE {NAME} RENAME TO {NAME}_old, and `rqueue db upgrade` once more"
)

_COLUMNS: Final = """
    id AS task_id,
    state AS status,
    {result} AS result,
    {date_done} AS date_done,
    traceback,
    task AS name,
    {args} AS args,
    {kwargs} AS kwargs,
    worker,
    CASE WHEN attempts > 1 THEN attempts - 1 ELSE 0 END AS retries,
    queue
"""

_POSTGRES: Final = (
    # OR REPLACE, since views of others may stand on it, and rights were given.
    f"CREATE OR REPLACE VIEW {NAME} AS "  # noqa: S608 - of constants
    "SELECT seq AS id, "
    + _COLUMNS.format(
        # Celery keeps the exception there.
        result="CASE WHEN state = 'SUCCESS' THEN CAST(result AS text) ELSE error END",
        date_done="finished AT TIME ZONE 'UTC'",
        args="CAST(args AS text)",
        kwargs="CAST(kwargs AS text)",
    )
    + " FROM rqueue_jobs",
)
_DELETE: Final = "DELETE FROM rqueue_jobs WHERE rowid = OLD.id"
_SQLITE: Final = (
    f"DROP VIEW IF EXISTS {NAME}",
    f"CREATE VIEW {NAME} AS "  # noqa: S608
    "SELECT rowid AS id, "
    + _COLUMNS.format(
        result="CASE WHEN state = 'SUCCESS' THEN result ELSE error END",
        date_done="finished",
        args="args",
        kwargs="kwargs",
    )
    + " FROM rqueue_jobs",
    f"CREATE TRIGGER {NAME}_delete INSTEAD OF DELETE ON {NAME} BEGIN {_DELETE}; END",
)


def make_view(connection: Connection) -> bool:
    """Make the view, or make it anew.

    Returns:
        False where a table of that name is in the way, which is left as it is.
    """
    if inspect(connection).has_table(NAME) and NAME not in inspect(connection).get_view_names():
        return False
    for statement in _POSTGRES if connection.dialect.name == "postgresql" else _SQLITE:
        connection.execute(text(statement))
    return True
