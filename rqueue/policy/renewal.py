"""When a worker process is replaced, and how soon one that died is started again."""

from __future__ import annotations

from typing import Final

LONGEST_PAUSE_S: Final = 30.0
"""A process that dies at once each time is tried twice a minute: whoever mends it does not wait long."""

LONGEST_PAUSE_AT_WORK_S: Final = 1.0
"""One that had begun to work is soon back: a job that ends its process each time is a dead letter at its third."""

STEADY_S: Final = 10.0
"""A process that has lived so long did not die at once."""

_FIRST_PAUSE_S: Final = 0.5
_PART: Final = 10  # the successor is started with a tenth of the limit left, at the latest


def pause_s(deaths: int, *, has_worked: bool = False) -> float:
    """Seconds until a process is started again.

    Args:
        deaths: how many have died at once in a row, this one included; 0 or 1 is no pause.
        has_worked: the last one had begun to work.
    """
    longest = LONGEST_PAUSE_AT_WORK_S if has_worked else LONGEST_PAUSE_S
    return 0.0 if deaths < 2 else min(longest, _FIRST_PAUSE_S * 2.0 ** min(deaths - 2, 16))


def is_successor_due(started: int, max_tasks: int, rate: float, startup_s: float) -> bool:
    """True when a successor must be started now, to be ready before the old process has no start left.

    Args:
        started: jobs that the old one has started.
        max_tasks: how many it may start.
        rate: jobs that it starts in a second.
        startup_s: how long a process takes until it works; twice that is planned for.
    """
    return max_tasks - started <= max(max_tasks / _PART, rate * 2 * startup_s)


def is_memory_low(rss: int, max_bytes: int) -> bool:
    """True when nine tenths of the memory that a process may have are in use: its successor is started."""
    return rss >= max_bytes * 0.9
