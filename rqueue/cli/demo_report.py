"""The demo's result: what became of every job, by queue and in all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rqueue.cli.demo_oracle import Oracle
from rqueue.cli.demo_tasks import QUEUES


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that was enqueued: its id, its queue, and when, in seconds since the epoch."""

    id: str
    queue: str
    moment: float


@dataclass(frozen=True, slots=True)
class Kill:
    """The worker process that was killed.

    Attributes:
        pid: its process id.
        moment: when, in seconds since the epoch.
        running: the jobs that it ran then.
    """

    pid: int
    moment: float
    running: Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """The jobs of one queue, or all.

    Attributes:
        queue: its name.
        priority: its priority.
        jobs: how many were enqueued.
        done: how many ended.
        redelivered: how many started more than once.
        lost: how many never ended.
        latency_p50_ms, latency_p99_ms: from the enqueue to the end.
    """

    queue: str
    priority: int | None
    jobs: int
    done: int
    redelivered: int
    lost: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """The whole result.

    Attributes:
        server: which server was used.
        queues: one row for each queue.
        total: all of them.
        seconds: from the first enqueue to the last end.
        jobs_per_s: over all of that time.
        killed_pid: the worker process that was killed.
        killed_running: how many jobs it ran then.
        recovered_s: how long after that the last of these was done; None when one is lost.
    """

    server: str
    queues: tuple[Row, ...]
    total: Row
    seconds: float
    jobs_per_s: float
    killed_pid: int
    killed_running: int
    recovered_s: float | None

    @classmethod
    def of(cls, server: str, sent: Sequence[Sent], oracle: Oracle, kill: Kill) -> Report:
        """The result by what the jobs noted."""
        rows = [
            _row(queue.name, queue.priority, [job for job in sent if job.queue == queue.name], oracle)
            for queue in QUEUES
        ]
        total = _row("all", None, sent, oracle)
        seconds = max(oracle.last_end - min(job.moment for job in sent), 1e-6)
        ends = [oracle.ended.get(job_id) for job_id in kill.running]
        back = [end - kill.moment for end in ends if end is not None]
        return cls(
            server=server,
            queues=tuple(rows),
            total=total,
            seconds=round(seconds, 3),
            jobs_per_s=round(total.done / seconds, 1),
            killed_pid=kill.pid,
            killed_running=len(kill.running),
            recovered_s=round(max(back), 3) if len(back) == len(ends) and back else None,
        )

    @property
    def has_passed(self) -> bool:
        """True when nothing is lost, although a process was killed while it ran jobs."""
        return self.total.lost == 0 and self.killed_running > 0

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return {**asdict(self), "passed": self.has_passed}

    def cells(self) -> Iterable[tuple[Any, ...]]:
        """The table's rows, under :data:`COLUMNS`."""
        for row in (*self.queues, self.total):
            latencies = (_ms(row.latency_p50_ms), _ms(row.latency_p99_ms))
            yield (row.queue, row.priority, row.jobs, row.done, row.redelivered, row.lost, *latencies)


COLUMNS = ("queue", " prio", " jobs", " done", " redelivered", " lost", " p50", " p99")


def _row(name: str, priority: int | None, sent: Sequence[Sent], oracle: Oracle) -> Row:
    latencies = sorted(oracle.ended[job.id] - job.moment for job in sent if job.id in oracle.ended)
    return Row(
        queue=name,
        priority=priority,
        jobs=len(sent),
        done=len(latencies),
        redelivered=sum(oracle.starts[job.id] > 1 for job in sent),
        lost=len(sent) - len(latencies),
        latency_p50_ms=quantile_ms(latencies, 0.50),
        latency_p99_ms=quantile_ms(latencies, 0.99),
    )


def quantile_ms(ordered: Sequence[float], share: float) -> float | None:
    """The value below or at which that share of the ordered seconds lies, in ms."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 1)


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"
