"""How many slots or processes there should be: up quickly when work waits, down slowly when it does not."""

from __future__ import annotations

from typing import Final, NamedTuple

SETTLE_S: Final = 30.0
"""How long something must have been idle before there is less: bursts come again."""


class Change(NamedTuple):
    """A new size, and why."""

    size: int
    reason: str


class Autoscale:
    """Follows the backlog between two bounds.

    Upwards it doubles at each look, as long as all are busy and something waits. Downwards it takes a quarter at most,
    once in :data:`SETTLE_S`, and never below what was busy at once in that time.

    Args:
        most, fewest: the bounds.
        settle_s: how long a look back it takes before it goes down.
    """

    def __init__(self, most: int, fewest: int, settle_s: float = SETTLE_S) -> None:
        self.most, self.fewest = most, fewest
        self._settle_s = settle_s
        self._peak = 0
        self._since_s: float | None = None

    def decide(self, now_s: float, size: int, busy: int, waiting: int) -> Change | None:
        """What to change, None for nothing.

        Args:
            now_s: any clock in seconds that only goes on.
            size: how many there are.
            busy: how many of them work.
            waiting: jobs that wait.
        """
        if self._since_s is None:
            self._since_s = now_s
        self._peak = max(self._peak, busy)
        if waiting > 0 and busy >= size and size < self.most:
            self._begin(now_s)
            return Change(min(self.most, size + max(1, min(size, waiting))), f"{waiting} wait and all {size} are busy")
        if now_s - self._since_s < self._settle_s:
            return None
        peak = self._peak
        self._begin(now_s)
        if peak >= size or size <= self.fewest:
            return None
        size_then = max(self.fewest, peak, size - max(1, size // 4))
        return Change(size_then, f"at most {peak} of {size} were busy in {self._settle_s:g} s")

    def _begin(self, now_s: float) -> None:
        self._since_s, self._peak = now_s, 0
