"""What is measured: CPU and memory of process trees, what Redis did, and the file in which task bodies note their runs.

It reads /proc: Linux only.
"""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import redis

from benchmarks.bodies import RECORD

TICKS = os.sysconf("SC_CLK_TCK")
MB = 1_000_000
KIB = 1024


class Ran(NamedTuple):
    """A body's run: when, when its job was enqueued, in which process."""

    at: float
    sent: float
    pid: int


class Records:
    """The file to which bodies append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def count(self) -> int:
        """How many bodies have begun."""
        return self.path.stat().st_size // RECORD.size

    def read(self, skip: int = 0) -> list[Ran]:
        """All runs but the first so many."""
        data = self.path.read_bytes()[skip * RECORD.size :]
        return [Ran(*each) for each in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size])]


def steady_rate(runs: Sequence[Ran]) -> float:
    """Runs a second from when every process that took part had begun; (N - 1) / (last - first) where one process runs.

    A process that began when most was done does not shorten the window: then all runs count.
    """
    first: dict[int, float] = {}
    for run in runs:
        first[run.pid] = min(run.at, first.get(run.pid, run.at))
    moments = sorted(run.at for run in runs)
    window = [at for at in moments if at >= max(first.values())]
    if len(window) < len(moments) / 2:
        window = moments
    return (len(window) - 1) / (window[-1] - window[0])


@dataclass(frozen=True)
class RedisUse:
    """What a server has done so far; the difference of two is what it did between them."""

    cpu_s: float
    commands: int  # those inside scripts too
    reads: int  # times it read a socket, the nearest thing to round trips
    bytes: int

    def per_task(self, before: RedisUse, tasks: int) -> dict[str, float]:
        """The difference for each task."""
        return {
            "redis_cpu_us": 1e6 * (self.cpu_s - before.cpu_s) / tasks,
            "commands": (self.commands - before.commands) / tasks,
            "round_trips": (self.reads - before.reads) / tasks,
            "bytes": (self.bytes - before.bytes) / tasks,
        }


def redis_use(server: redis.Redis) -> RedisUse:
    """Ask the server, leaving out the asking."""
    info: Any = server.info("everything")
    calls = sum(stat["calls"] for name, stat in info.items() if name.startswith("cmdstat_") and name != "cmdstat_info")
    return RedisUse(
        cpu_s=info["used_cpu_sys"] + info["used_cpu_user"],
        commands=calls,
        reads=info["total_reads_processed"] - calls_of(info, "info"),
        bytes=info["total_net_input_bytes"] + info["total_net_output_bytes"],
    )


def calls_of(info: dict[str, Any], command: str) -> int:
    """How often a command was called."""
    return int(info.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them and live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root for root in roots if _stat(root)]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that processes, and those of their children that have ended, have used."""
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) / TICKS


def peak_mb(pids: Iterable[int]) -> float:
    """The sum of the most memory that each had at once; what they share is counted for each."""
    return sum(_status_kib(pid, "VmHWM") for pid in pids) * KIB / MB


def memory_mb(pids: Sequence[int]) -> tuple[float, float]:
    """What they hold now: resident memory, and the same with what is shared counted once (PSS)."""
    resident = sum(_status_kib(pid, "VmRSS") for pid in pids) * KIB / MB
    shared_once = sum(_field_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids) * KIB / MB
    return resident, shared_once


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A signal to each that lives."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and p99.9 in milliseconds, each a value that was seen."""
    ordered = sorted(seconds)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    return {name: 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in shares.items()}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least, greatest."""
    return statistics.median(values), min(values), max(values)


def _stat(pid: int) -> list[str] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields  # it has ended, and its parent has not looked yet


def _status_kib(pid: int, name: str) -> int:
    return _field_kib(Path(f"/proc/{pid}/status"), name)


def _field_kib(path: Path, name: str) -> int:
    try:
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name + ":")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
