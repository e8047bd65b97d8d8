"""When a failed job runs again."""

from __future__ import annotations

import random
from collections.abc import Callable


def may_retry(retries: int, max_retries: int | None) -> bool:
    """True while the task's own limit allows another run; None is no limit."""
    return max_retries is None or retries < max_retries


def backoff_s(
    retries: int,
    factor: float,
    maximum_s: float,
    jitter: bool,
    rand: Callable[[], float] = random.random,
) -> float:
    """Seconds until the next run: exponential backoff with full jitter.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").

    Args:
        retries: retries so far; 0 before the first.
        factor: seconds of the first delay, doubled each time.
        maximum_s: no delay is longer.
        jitter: choose evenly between 0 and the delay, so that jobs which failed together do not return together.
        rand: a source of numbers in [0, 1).
    """
    delay = min(maximum_s, factor * 2.0 ** min(retries, 64))
    return rand() * delay if jitter else delay
