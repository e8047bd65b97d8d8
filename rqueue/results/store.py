"""What a result store is, whatever keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rqueue.results.row import Row


class ResultStore(Protocol):
    """Keeps one row for each job. It is used from one event loop.

    Attributes:
        shown: its URL, without the password.
    """

    shown: str

    async def open(self) -> None:
        """Connect, and see that it can be written to.

        Raises:
            StoreUnavailable: it cannot be reached.
            SchemaMismatch: its tables are not those that this version knows.
        """

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        """Write rows, all of them or, where it raises, perhaps none; may be repeated.

        A row takes the place of what is stored of the same job as :func:`~rqueue.results.row.replaces` says. A row
        that the store refuses does not keep the others from being written.

        Returns:
            The ids of the rows that were refused, usually none.

        Raises:
            StoreUnavailable: it could not be written to; the same rows may be written later.
            SchemaMismatch: the tables are not those that this version knows.
        """

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        """The row of a job, of the one that was enqueued last where an id was used again; None when there is none.

        Raises:
            StoreUnavailable: it could not be asked.
        """

    async def tidy(self, retention_s: float | None, *, keep_failures: bool = False) -> int:
        """Do what the store needs now and then, if it is due and nobody else has done it; may take long.

        Args:
            retention_s: rows of jobs that ended so long ago are removed; None: they stay.
            keep_failures: but not those in the state FAILURE.

        Returns:
            How many rows were removed.

        Raises:
            StoreUnavailable: it could not be asked; what was done until then is done.
        """

    async def close(self) -> None:
        """Close its connections."""
