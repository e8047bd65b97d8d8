"""How long a worker process may go on: it starts so many jobs, and none while it is too large."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from rqueue.policy.clock import elapsed_s

_SAMPLE_S: Final = 0.05
_STATM: Final = Path("/proc/self/statm")


def memory_bytes() -> int:
    """Memory that this process has resident now; where only the peak is to be had, the peak; 0 where neither is."""
    with suppress(OSError):
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Life:
    """Counts starts, and measures memory.

    Args:
        max_tasks: jobs that may be started; None is no limit.
        max_bytes: nothing is started while the process is larger; None is no limit.
        on_spent: called when nothing may be started any more; at the second limit, whenever that begins.
        measure: gives the process's memory.

    Attributes:
        started: jobs that have been started.
    """

    def __init__(
        self,
        max_tasks: int | None = None,
        max_bytes: int | None = None,
        on_spent: Callable[[], None] = lambda: None,
        measure: Callable[[], int] = memory_bytes,
    ) -> None:
        self._max_tasks, self._max_bytes, self._measure = max_tasks, max_bytes, measure
        self._on_spent = on_spent
        self.started = 0
        self._is_told = False
        self._is_large, self._measured_s = False, -_SAMPLE_S

    def count(self) -> None:
        """A job is started."""
        self.started += 1

    def confirm(self) -> None:
        """A job that was counted runs: it is not put off, so that its start will not be given back."""
        if self.started == self._max_tasks and not self._is_told:
            self._is_told = True
            self._on_spent()

    def left(self) -> int | None:
        """How many more may be started; None is no limit."""
        return None if self._max_tasks is None else max(0, self._max_tasks - self.started)

    def is_spent(self) -> bool:
        """True when nothing may be started (any more)."""
        return self.left() == 0 or (self._max_bytes is not None and self._is_too_large(self._max_bytes))

    def _is_too_large(self, max_bytes: int) -> bool:
        now_s = elapsed_s()
        if now_s - self._measured_s >= _SAMPLE_S:
            was_large, self._is_large = self._is_large, self._measure() >= max_bytes
            self._measured_s = now_s
            if self._is_large and not was_large:
                self._on_spent()
        return self._is_large
