"""A row of history: one job, and how its last run ended."""

from __future__ import annotations

from typing import Final, NamedTuple

SKEW_MS: Final = 60_000
"""Two hosts' times are never further apart than this: both estimate Redis's."""


class Row(NamedTuple):
    """One job, as a result store keeps it.

    A job is told by its id and by when it was enqueued: an id that its caller chose may be used again for another job.

    Attributes:
        id: its id.
        enqueued: when it was enqueued, ms since the epoch; None when its producer did not say so.
        task: the task's name, or None when it could not be read.
        queue: the queue in which it ended.
        priority: its own priority, 1 to 10; None when it had none.
        state: SUCCESS, FAILURE, REVOKED or RETRY.
        args, kwargs: its arguments as JSON text, without what names of secrets hide, and cut to a size; or None.
        result: the returned value as JSON text, or None when there is none.
        error: ``Type: text``, or None.
        traceback: as text, or None.
        attempts: runs so far, the one that ended included.
        losses: workers that died while they ran it.
        worker: the worker that wrote this, or None.
        parent_id: the job that enqueued it, or None.
        root_id: the first job of that line, or None.
        started: when its last run started, ms since the epoch; None when it never ran.
        finished: when it ended, ms since the epoch.
        history: the errors of its last retries as JSON text, ``[[ms, "Type: text"], …]``, or None.
    """

    id: str
    enqueued: int | None
    task: str | None
    queue: str
    priority: int | None
    state: str
    args: str | None
    kwargs: str | None
    result: str | None
    error: str | None
    traceback: str | None
    attempts: int
    losses: int
    worker: str | None
    parent_id: str | None
    root_id: str | None
    started: int | None
    finished: int
    history: str | None

    @property
    def order(self) -> tuple[int, int]:
        """Which of two rows of the same job is the later one's: see :func:`replaces`."""
        return self.attempts + self.losses, self.finished if self.started is None else self.started


def replaces(row: Row, stored: Row) -> bool:
    """Whether a row takes the place of what is stored of the same job.

    A worker that was frozen while others ran its job on must not overwrite what they wrote. Its run started a lease
    before theirs, and the job had no more attempts then. A dead letter that is revived begins to count anew, and starts
    later. So the later start decides, and more attempts do where hosts disagree on the time by less than a minute.
    """
    (tries, at), (stored_tries, stored_at) = row.order, stored.order
    if at == stored_at:  # of the same run: whoever ended it for a lost worker has counted the loss
        return tries >= stored_tries
    return at > stored_at or (tries > stored_tries and at > stored_at - SKEW_MS)
