"""Which queue and which list a job goes to."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def choose_queue(task: str, named: Sequence[str | None], routes: Sequence[tuple[str, str]]) -> str:
    """The job's queue: the first that is named, else the first route that matches, else ``default``.

    Args:
        task: the task's name.
        named: the call's queue, then the task's; None where none is given.
        routes: (pattern, queue) pairs in their order; patterns are shell patterns (``*.email.*``).
    """
    for queue in named:
        if queue is not None:
            return queue
    for pattern, queue in routes:
        if fnmatchcase(task, pattern):
            return queue
    return "default"


def choose_priority(call: int | None, parent: int | None, task: int | None) -> int | None:
    """The job's priority: the call's, else the running parent's, else the task's, else none (the queue's rank)."""
    for priority in (call, parent, task):
        if priority is not None:
            return priority
    return None
