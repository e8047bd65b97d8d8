"""How much a worker may hold beyond what it runs: short jobs come in batches, long ones are not hoarded.

What is held and not started is at most what the worker starts in a tenth of a second. Two measures bound it, and the
smaller one counts: slots divided by the mean run time (so that a burst of long jobs that ended together promises
nothing), and the number of jobs that ended within the last second (so that jobs which block the event loop, and seem
short, are not hoarded either).
"""

from __future__ import annotations

from typing import Final

HORIZON_S: Final = 0.1
"""Hold no more than is started in this time: well under the promised second, so that idle workers find the rest."""

_WINDOW_S: Final = 1.0
_WEIGHT: Final = 0.1


class Pace:
    """A worker's measured pace.

    Args:
        slots: how many jobs run at once.

    Attributes:
        slots: the same; it may change while the worker works.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._mean_s: float | None = None
        self._bucket_started = 0.0
        self._ended = 0
        self._ended_before = 0

    def ended(self, run_s: float, now_s: float) -> None:
        """Count a job that ended after running for so many seconds."""
        self._mean_s = run_s if self._mean_s is None else self._mean_s + _WEIGHT * (run_s - self._mean_s)
        self._turn(now_s)
        self._ended += 1

    def allowance(self, now_s: float) -> int:
        """How many jobs may be held beside the running ones; 0 until something has been measured."""
        if self._mean_s is None:
            return 0
        self._turn(now_s)
        by_slots = self.slots / max(self._mean_s, 1e-6)
        by_count = (self._ended + self._ended_before) / _WINDOW_S
        return int(min(by_slots, by_count) * HORIZON_S)

    def _turn(self, now_s: float) -> None:
        """Keep the counts of this half window and the one before."""
        age = now_s - self._bucket_started
        if age < _WINDOW_S / 2:
            return
        self._ended_before = self._ended if age < _WINDOW_S else 0
        self._ended = 0
        self._bucket_started = now_s
