"""How many jobs of a task may start in a time, on one worker.

The generic cell rate algorithm in its virtual scheduling form: ITU-T Recommendation I.371, "Traffic control and
congestion control in B-ISDN", annex A. A start is a cell: it conforms if it does not come before its theoretical time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rqueue.errors import ConfigError

TOLERANCE_S: Final = 0.1
"""A job may start so much before its time: what was put off comes back a little late, and its slot is not lost."""

LONGEST_WAIT_S: Final = 60.0
"""A job is put off for no longer at once, so that a limit that is lifted is forgotten within a minute."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/([smh]))?")
_UNIT_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(text: str | float | None) -> float | None:
    """Seconds between two starts, from Celery's notation; None is no limit.

    Args:
        text: ``10/s``, ``100/m``, ``5/h``; a number alone counts a second; ``0``, ``none`` or None is no limit.

    Raises:
        ConfigError: it is something else.
    """
    if text is None or str(text).strip().lower() == "none":
        return None
    match = _RATE.fullmatch(str(text).strip().lower())
    if match is None or isinstance(text, bool):
        raise ConfigError(f"rate {text!r}: write 10/s, 100/m or 5/h; 0 or none is no limit")
    count = float(match[1])
    return _UNIT_S[match[2]] / count if count else None


@dataclass(slots=True)
class _Limit:
    """One task's limit.

    Attributes:
        text: as it was written.
        interval_s: seconds between two starts.
        next_s: the theoretical time of the next start.
        tail_s: when the last of the jobs that were put off is to come back.
    """

    text: str
    interval_s: float
    next_s: float = float("-inf")
    tail_s: float = float("-inf")


class Rates:
    """The limits of a worker's tasks."""

    def __init__(self) -> None:
        self._limits: dict[str, _Limit] = {}

    def __len__(self) -> int:
        return len(self._limits)

    def set(self, task: str, rate: str | float | None) -> None:
        """Limit a task, or no longer.

        Raises:
            ConfigError: it is no rate; see :func:`parse_rate`.
        """
        interval_s = parse_rate(rate)
        if interval_s is None:
            self._limits.pop(task, None)
        else:
            self._limits[task] = _Limit(str(rate).strip(), interval_s)

    def text(self, task: str) -> str | None:
        """The task's limit as it was written, or None."""
        limit = self._limits.get(task)
        return limit.text if limit is not None else None

    def wait_s(self, task: str, now_s: float) -> float:
        """Seconds until a job of the task may try again; 0 when it may start now, and then it counts as started.

        Those that must wait get times of their own, one after the other, so that they do not all come back together.
        """
        limit = self._limits.get(task)
        if limit is None:
            return 0.0
        if now_s >= limit.next_s - TOLERANCE_S:
            limit.next_s = max(now_s, limit.next_s) + limit.interval_s
            return 0.0
        slot_s = max(limit.next_s, limit.tail_s + limit.interval_s)
        if slot_s - now_s > LONGEST_WAIT_S:
            return LONGEST_WAIT_S  # it gets its time when it comes back
        limit.tail_s = slot_s
        return slot_s - now_s
