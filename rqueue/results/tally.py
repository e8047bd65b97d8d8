"""What statistics count: how jobs ended, and how long they waited and ran, in buckets of a relative width.

The buckets are those of DDSketch (Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with
relative-error guarantees, VLDB 2019): bucket ``i`` holds the milliseconds from ``GAMMA ** (i - 2)``, exclusive, to
``GAMMA ** (i - 1)``, and bucket 0 what took none, so that one number stands for all of a bucket with an error of at
most ``ERROR``. Two tallies are added bucket by bucket, and nothing is lost by it: hours add up to weeks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

ERROR: Final = 0.01
"""Of a percentile, in proportion to itself."""

GAMMA: Final = (1 + ERROR) / (1 - ERROR)
LN_GAMMA: Final = math.log(GAMMA)
LAST: Final = 1600
"""The last bucket: centuries. What takes longer is a clock's error."""


@dataclass(frozen=True, slots=True)
class TaskStats:
    """How the jobs of a task went. Times are in seconds, and None where there was none.

    Attributes:
        task: its name; None: of jobs whose message could not be read.
        count: jobs that ended.
        succeeded, failed, revoked: how.
        failure_rate: what part of them failed, 0 to 1.
        wait_p50, wait_p95, wait_p99: from enqueue to start, which so many percent of the jobs did not exceed.
        run_p50, run_p95, run_p99: the same of the time that they ran.
    """

    task: str | None
    count: int
    succeeded: int
    failed: int
    revoked: int
    failure_rate: float
    wait_p50: float | None
    wait_p95: float | None
    wait_p99: float | None
    run_p50: float | None
    run_p95: float | None
    run_p99: float | None


class Histogram:
    """How many fell into which bucket: a list, since adding to it is what statistics mostly do."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * (LAST + 1)

    def add(self, pairs: str) -> None:
        """Add what :meth:`dump` made."""
        numbers, counts = orjson.loads(f"[{pairs}]"), self.counts
        for bucket, count in zip(numbers[::2], numbers[1::2], strict=True):
            counts[bucket] += count

    def add_ms(self, pairs: str) -> None:
        """Add milliseconds, count, milliseconds, count, …"""
        numbers = orjson.loads(f"[{pairs}]")
        for ms, count in zip(numbers[::2], numbers[1::2], strict=True):
            self.counts[bucket_of(ms)] += count

    def dump(self) -> str:
        """As bucket, count, bucket, count, …, without those that are empty."""
        return ",".join(f"{bucket},{count}" for bucket, count in enumerate(self.counts) if count)

    def percentile_s(self, percent: float) -> float | None:
        """The value, in seconds, that so many percent do not exceed; None when there is none."""
        left = max(1, math.ceil(sum(self.counts) * percent / 100))
        for bucket, count in enumerate(self.counts):
            left -= count
            if left <= 0:
                return value_ms(bucket) / 1000
        return None


@dataclass(slots=True)
class Tally:
    """A task's counts over some time."""

    succeeded: int = 0
    failed: int = 0
    revoked: int = 0
    waits: Histogram = field(default_factory=Histogram)
    runs: Histogram = field(default_factory=Histogram)

    def add(self, row: Any, *, in_ms: bool = False) -> None:
        """Add a row of the table of hours, or one like it with times in place of buckets."""
        self.succeeded += row.succeeded
        self.failed += row.failed
        self.revoked += row.revoked
        for histogram, pairs in ((self.waits, row.waits), (self.runs, row.runs)):
            if in_ms:
                histogram.add_ms(pairs)
            else:
                histogram.add(pairs)

    def stats(self, task: str | None) -> TaskStats:
        """For its readers."""
        count = self.succeeded + self.failed + self.revoked
        waits, runs = ([each.percentile_s(percent) for percent in (50, 95, 99)] for each in (self.waits, self.runs))
        rate = self.failed / count if count else 0.0
        return TaskStats(task, count, self.succeeded, self.failed, self.revoked, rate, *waits, *runs)


def bucket_of(ms: float) -> int:
    """Where so many milliseconds belong."""
    return min(math.ceil(math.log(ms) / LN_GAMMA) + 1, LAST) if ms > 0 else 0


def value_ms(bucket: int) -> float:
    """What stands for a bucket: as far from its least as from its greatest, in proportion."""
    return 2 * GAMMA ** (bucket - 1) / (1 + GAMMA) if bucket else 0.0
