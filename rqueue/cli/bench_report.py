"""The result of ``rqueue bench``: where it ran, what it measured, and what may explain low figures."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final, Self

from rqueue.broker.broker import Broker
from rqueue.cli.bench_workloads import Plan, Sample

COLUMNS: Final = ("workload", " jobs", " median", " min", " max", "unit", " CPU µs/job")
LIBRARIES: Final = ("rqueue", "redis", "hiredis", "orjson")

_PINGS: Final = 100
_SLOW_MS: Final = 1.0
"""A round trip within a host or a rack takes less."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where it ran.

    Attributes:
        server: which server, and where.
        namespace: the first part of all keys that are used.
        ping_p50_ms: a round trip to it.
        python: which Python.
        event_loop: whose event loop.
        libraries: their versions.
        cores: of this machine.
        warnings: what may explain low figures.
    """

    server: str
    namespace: str
    ping_p50_ms: float
    python: str
    event_loop: str
    libraries: dict[str, str]
    cores: int | None
    warnings: tuple[str, ...]

    @classmethod
    async def of(cls, broker: Broker, place: str) -> Self:
        """Ask the server, and look at this process; what an ACL forbids is left out.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        ping_ms = await _ping_p50_ms(broker)
        return cls(
            server=f"{await broker.server_version()}, {place}",
            namespace=broker.keys.namespace,
            ping_p50_ms=round(ping_ms, 3),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            event_loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
            libraries={name: version(name) for name in LIBRARIES},
            cores=os.cpu_count(),
            warnings=tuple(warnings_of(ping_ms, await broker.eviction_policy(), await _fsync(broker))),
        )

    def lines(self) -> Iterable[str]:
        """For people, before anything is measured."""
        yield f"server: {self.server}; a ping takes {self.ping_p50_ms:.2f} ms (p50)"
        libraries = ", ".join(f"{name} {number}" for name, number in self.libraries.items())
        yield f"client: {self.python} on {self.event_loop}, {libraries}; {self.cores or '?'} cores"
        yield f"keys: {self.namespace}:*; nothing else is touched, and they are removed at the end"


@dataclass(frozen=True, slots=True)
class Row:
    """One workload over all rounds.

    Attributes:
        workload, unit, jobs: as in a sample.
        median, min, max: of the rounds' values.
        cpu_us: the median.
        rounds: all values.
    """

    workload: str
    unit: str
    jobs: int
    median: float
    min: float
    max: float
    cpu_us: float | None
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        """What the rounds' samples of one workload come to."""
        values = tuple(round(sample.value, 3) for sample in samples)
        cpu = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
        return cls(
            workload=samples[0].workload,
            unit=samples[0].unit,
            jobs=samples[0].jobs,
            median=round(statistics.median(values), 3),
            min=min(values),
            max=max(values),
            cpu_us=round(statistics.median(cpu), 1) if cpu else None,
            rounds=values,
        )

    def cells(self) -> tuple[Any, ...]:
        """For people, under :data:`COLUMNS`."""
        figures = map(_shown, (self.median, self.min, self.max))
        cpu = None if self.cpu_us is None else f"{self.cpu_us:,.0f}"
        return (self.workload, f"{self.jobs:,}", *figures, self.unit, cpu)


@dataclass(frozen=True, slots=True)
class Report:
    """The whole result.

    Attributes:
        surroundings: where it ran.
        plan: what was to be done.
        rows: one for each workload.
    """

    surroundings: Surroundings
    plan: Plan
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, surroundings: Surroundings, plan: Plan, rounds: Sequence[Sequence[Sample]]) -> Self:
        """The result of the rounds, which have the same workloads in the same order."""
        return cls(surroundings, plan, tuple(map(Row.of, zip(*rounds, strict=True))))

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self.surroundings), **asdict(self.plan), "workloads": [asdict(row) for row in self.rows]}


def warnings_of(ping_ms: float, eviction_policy: str | None, appendfsync: str | None) -> Iterable[str]:
    """What may explain low figures, or lost jobs.

    Args:
        ping_ms: a round trip to Redis.
        eviction_policy: its ``maxmemory-policy``, None where it does not say.
        appendfsync: its ``appendfsync``, None where it has no append-only file or does not say.
    """
    if ping_ms > _SLOW_MS:
        yield (
            f"a round trip to Redis takes {ping_ms:.1f} ms: one caller alone enqueues at most {1000 / ping_ms:,.0f} "
            "jobs/s; concurrent callers and enqueue_many share round trips"
        )
    if appendfsync == "always":
        yield "appendfsync is always: each write waits for Redis's disk"
    if eviction_policy not in (None, "noeviction"):
        yield f"maxmemory-policy is {eviction_policy}: when memory is short Redis throws jobs away; set noeviction"


async def _ping_p50_ms(broker: Broker) -> float:
    took = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        await broker.ping()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


async def _fsync(broker: Broker) -> str | None:
    return await broker.setting("appendfsync") if await broker.setting("appendonly") == "yes" else None


def _shown(value: float) -> str:
    """Three digits, or all of a whole number's."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
