"""When the next scheduled job is due, as far as this worker knows."""

from __future__ import annotations

import asyncio

from rqueue.policy.clock import elapsed_s


class Schedule:
    """The next due time, on this machine's clock of elapsed time.

    Args:
        changed: set when the time becomes an earlier one.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._due_s: float | None = None

    def note(self, due_ms: int | None) -> None:
        """Redis says that the next job is due in so many ms; None when there is none."""
        due_s = None if due_ms is None else elapsed_s() + due_ms / 1000
        is_earlier = due_s is not None and (self._due_s is None or due_s < self._due_s)
        self._due_s = due_s
        if is_earlier:
            self._changed.set()

    def look_now(self) -> None:
        """Something may be due already: the clock was moved."""
        self._due_s = elapsed_s()
        self._changed.set()

    def left_s(self) -> float | None:
        """Seconds until it is due, 0 when it is, None when nothing is known to be scheduled."""
        return None if self._due_s is None else max(0.0, self._due_s - elapsed_s())
