"""Where time comes from: Redis's clock for what is stored, this machine's unstoppable one for how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable

# A clock that also runs while the machine is suspended, where there is one: a lease must not seem young after a sleep.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else None


def elapsed_s() -> float:
    """Seconds from some fixed moment, never adjusted, counting a suspended machine's sleep where the system can."""
    return time.clock_gettime(_CLOCK_ID) if _CLOCK_ID is not None else time.monotonic()


def local_ms() -> int:
    """This machine's wall clock, in ms since the epoch."""
    return time.time_ns() // 1_000_000


class RedisClock:
    """Redis's clock as seen from here: what was last observed, and what has gone by since on a clock that nobody sets.

    This machine's wall clock may jump at any time, by an hour if it was wrong; nothing expires for that.

    Args:
        local: this machine's wall clock in ms.
        elapsed: its unstoppable one in s.

    Attributes:
        is_observed: Redis has been asked; until then this machine's wall clock is taken for its.
    """

    def __init__(self, local: Callable[[], int] = local_ms, *, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._local, self._elapsed = local, elapsed
        self._offset_ms = 0.0
        self.is_observed = False

    def now_ms(self) -> int:
        """Redis's time, in ms since the epoch; off by at most the round trip in which it was observed."""
        return int(self._elapsed() * 1000 + self._offset_ms) if self.is_observed else self._local()

    @property
    def apart_ms(self) -> int:
        """This machine's clock less Redis's, as last observed."""
        return self._local() - self.now_ms()

    def observe(self, redis_ms: int) -> None:
        """Take note of what Redis said the time is."""
        # Not rounded: it is never ahead of Redis, which refuses what was decided in its future.
        self._offset_ms = redis_ms - self._elapsed() * 1000
        self.is_observed = True
