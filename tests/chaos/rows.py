"""What stands in the result store, seen by a plain connection: the rows of each job."""

import json
from collections import defaultdict
from typing import NamedTuple

import psycopg

ROWS = "SELECT id, state, result::text FROM rqueue_jobs"


class Kept(NamedTuple):
    """One row: the state in which its job ended, and the run whose result it has, if it has one."""

    state: str
    run: str = ""


class Rows:
    """A PostgreSQL with rqueue's tables.

    Args:
        url: as SQLAlchemy takes it.
    """

    def __init__(self, url: str) -> None:
        self._address = url.replace("+asyncpg", "", 1)

    def by_job(self) -> dict[str, list[Kept]]:
        """All rows, by the job's id."""
        found: dict[str, list[Kept]] = defaultdict(list)
        with psycopg.connect(self._address) as connection:
            for job_id, state, result in connection.execute(ROWS):
                value = json.loads(result) if result else None
                found[job_id].append(Kept(state, value.get("run", "") if isinstance(value, dict) else ""))
        return found
