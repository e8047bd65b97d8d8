"""What ``rqueue worker`` costs as a supervisor with its processes: scaling, memory, recovery, recycling, limits, start.

Each figure is taken on real processes and a private server, once or more often in a round; what is compared stands side
by side in one round. Other work on the machine shows in the load, in the share of a core that jobs get, and in the
floor: a ``multiprocessing.Pool`` that runs the same jobs in the same round. It reads /proc: Linux only.

Run ``make bench-fleet``, in short ``make bench-fleet ARGS=--quick``, one figure alone ``… ARGS="memory --rounds 3"``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import fleet_tasks
import redis
import uvloop

import rqueue
from rqueue.embedded import EmbeddedServer

PATIENCE_S: Final = 120.0
POLL_S: Final = 0.01  # as long as nobody waits for the moment itself: every look takes something from Redis
SPIN_S: Final = 0.02
PAUSE_S: Final = 0.1
MB: Final = 1_000_000
TICKS: Final = os.sysconf("SC_CLK_TCK")

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Sizes:
    """How much is done in a round."""

    spins: int = 300  # 20 ms each
    warm: int = 2_000
    noops: int = 100_000
    victims: int = 4
    pauses: int = 400  # 100 ms each, four at once
    drained: int = 20_000
    starts: int = 3


QUICK: Final = Sizes(spins=80, noops=20_000, pauses=120, drained=5_000, starts=1)

AIMS: Final = {
    "CPU-bound: -c 2 over -c 1": "at least 1.8",
    "memory: idle worker process (MB)": "under 60",
    "memory: grown in the jobs after that (MB)": "at most 5",
}


class Fleet:
    """One ``rqueue worker``, and what it logs, with the moments at which it was read."""

    def __init__(self, url: str, *arguments: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RQUEUE_")}
        source = str(Path(rqueue.__file__).parent.parent)
        command = [sys.executable, "-m", "rqueue", "worker", "-A", "fleet_tasks:app", "--log-format", "json"]
        self.began_s = time.monotonic()
        self._process = subprocess.Popen(
            [*command, *arguments],
            cwd=Path(__file__).parent,
            env={**kept, "PYTHONPATH": source, "RQUEUE_URL": url},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: list[tuple[float, dict[str, Any]]] = []
        self._plain: list[str] = []
        self._news = threading.Condition()
        self._is_over = False
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.send_signal(signal.SIGQUIT)  # after a SIGTERM it kills its processes
            self._process.wait()
        self._reading.join()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            moment = time.monotonic()
            with self._news:
                try:
                    self._lines.append((moment, json.loads(line)))
                except ValueError:
                    self._plain.append(line.decode(errors="replace"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def of(self, event: str) -> list[tuple[float, dict[str, Any]]]:
        """The moments and fields of an event, in order."""
        with self._news:
            return [(moment, line) for moment, line in self._lines if line["event"] == event]

    def ready(self, workers: int = 1) -> float:
        """When so many workers had started; waits for it."""
        with self._news:
            self._news.wait_for(lambda: self._is_over or len(self.workers()) >= workers, PATIENCE_S)
        started = self.of("worker started")
        if len(started) < workers:
            raise RuntimeError("\n".join(["rqueue worker did not start:", *self._plain, *map(str, self._lines)]))
        return started[workers - 1][0]

    def workers(self) -> list[str]:
        """The ids of the workers that have started."""
        return [line["worker"] for _, line in self._lines if line["event"] == "worker started"]

    def pids(self) -> list[int]:
        """Their process ids."""
        return [int(worker.split(":")[1]) for worker in self.workers()]


class Bench:
    """The server, a producer, and what was measured."""

    def __init__(self, server: EmbeddedServer, runner: asyncio.Runner, sizes: Sizes) -> None:
        self.url, self.sizes, self.samples = server.url, sizes, defaultdict[str, list[float]](list)
        self.redis = redis.Redis.from_url(self.url)
        self._server_pid, self._runner, self._app = server.pid, runner, fleet_tasks.make_app(self.url)
        self.keys = self._app.keys.queue("default")

    def fleet(self, *arguments: str) -> Fleet:
        """A fleet on an empty server."""
        self.redis.flushall()
        return Fleet(self.url, *arguments)

    def note(self, figure: str, value: float) -> None:
        """Take a sample of a figure."""
        self.samples[figure].append(value)

    def cpu_s(self, fleet: Fleet) -> float:
        """CPU seconds that a fleet and the server have used."""
        return sum(map(_cpu_s, (fleet.pid, *fleet.pids(), self._server_pid)))

    def enqueue(self, task: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Enqueue a call for each tuple of arguments; their handles."""
        found = self._app.tasks.find(task)
        assert found is not None
        return self._runner.run(self._app.enqueue_many([found.s(*each) for each in calls]))

    def left(self) -> int:
        """Jobs that are not settled."""
        return int(self.redis.scard(self.keys.jobs))

    def until(self, holds: Callable[[], bool], poll_s: float = POLL_S) -> float:
        """The moment at which something held; looks again and again, since Redis does not tell."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline_s:
                raise TimeoutError("what was waited for did not come")
            time.sleep(poll_s)
        return time.monotonic()

    def spans(self, task: str, calls: Sequence[tuple[Any, ...]]) -> list[fleet_tasks.Span]:
        """Have the calls run, and return what they say of themselves, by their start."""
        jobs = self.enqueue(task, calls)
        self.until(lambda: self.left() == 0)

        async def values() -> list[fleet_tasks.Span]:
            return [await job.result(timeout=PATIENCE_S) for job in jobs]

        return sorted(self._runner.run(values()), key=lambda span: span[1])

    def close(self) -> None:
        self._runner.run(self._app.close())
        self.redis.close()


# The figures


def cpu_bound(bench: Bench) -> None:
    """Two processes beside one, with jobs that hold the interpreter; and the same of a multiprocessing.Pool."""
    calls = [(_loops(),)] * bench.sizes.spins
    rates, floors = [], []
    for processes in (1, 2):
        with bench.fleet("--pool", "prefork", "-c", str(processes)) as fleet:
            fleet.ready(processes)
            bench.spans("spin", calls[: 5 * processes])
            before = _cpu_s(fleet.pid), bench.cpu_s(fleet)
            spans = bench.spans("spin", calls)
            supervisor_s, all_s = _cpu_s(fleet.pid) - before[0], bench.cpu_s(fleet) - before[1]
        floor = _pool_spans(processes, calls)
        rates.append(len(spans) / _length_s(spans))
        floors.append(len(floor) / _length_s(floor))
        own_s, wall_s = sum(cpu_s for *_, cpu_s in spans), sum(end - start for _, start, end, _ in spans)
        bench.note(f"CPU-bound, -c {processes}: rate (jobs/s)", rates[-1])
        bench.note(f"CPU-bound, -c {processes}: floor, a Pool of {processes} (jobs/s)", floors[-1])
        bench.note(f"CPU-bound, -c {processes}: between two jobs of a process (ms)", 1e3 * _median_idle_s(spans))
        bench.note(f"CPU-bound, -c {processes}: CPU of a job (ms)", 1e3 * own_s / len(spans))
        bench.note(
            f"CPU-bound, -c {processes}: CPU beside it, server included (ms)", 1e3 * (all_s - own_s) / len(spans)
        )
        bench.note(f"CPU-bound, -c {processes}: of that the supervisor's (ms)", 1e3 * supervisor_s / len(spans))
        bench.note(f"CPU-bound, -c {processes}: share of a core that jobs got (%)", 100 * own_s / wall_s)
    bench.note("CPU-bound: -c 2 over -c 1", rates[1] / rates[0])
    bench.note("CPU-bound: floor, a Pool of 2 over one of 1", floors[1] / floors[0])


def memory(bench: Bench) -> None:
    """What a worker process and its supervisor need, idle and after many jobs."""
    sizes = bench.sizes
    with bench.fleet() as fleet:
        fleet.ready()
        [pid] = fleet.pids()
        time.sleep(1.0)  # it settles down: the first blocks, beats and looks around
        bench.note("memory: idle worker process (MB)", _rss(pid) / MB)
        bench.note("memory: idle supervisor (MB)", _rss(fleet.pid) / MB)
        before = _after_jobs(bench, pid, sizes.warm)
        after = _after_jobs(bench, pid, sizes.noops)
        bench.note(f"memory: worker process after {sizes.warm:,} jobs (MB)", before / MB)
        bench.note(f"memory: worker process after {sizes.noops:,} more (MB)", after / MB)
        bench.note("memory: grown in the jobs after that (MB)", (after - before) / MB)
        bench.note("memory: supervisor at the end (MB)", _rss(fleet.pid) / MB)


def kills(bench: Bench) -> None:
    """How soon the jobs of a process that was killed can be claimed by others, with the default lease."""
    each, victims = 5, bench.sizes.victims
    size = ("--processes", str(victims), "-c", str(each), "--prefetch-multiplier", "1")
    with bench.fleet(*size, "--shutdown-timeout", "0") as fleet:
        fleet.ready(victims)
        bench.enqueue("hang", [()] * victims * each)
        for number in range(victims):
            lists = [bench.keys.processing(worker) for worker in fleet.workers()]
            bench.until(lambda lists=lists: _held(bench, lists) == victims * each)
            killed_s = time.monotonic()
            os.kill(fleet.pids()[number], signal.SIGKILL)
            back_s = bench.until(lambda: bench.redis.llen(bench.keys.main) == each, 0.001)
            bench.note("SIGKILL until its jobs can be claimed (ms)", 1e3 * (back_s - killed_s))
            fleet.ready(victims + number + 1)


def recycling(bench: Bench) -> None:
    """What it costs that processes are replaced, with four processes of one job and with one of four."""
    calls = [(PAUSE_S,)] * bench.sizes.pauses
    for name, arguments in (("prefork -c 4", ("--pool", "prefork")), ("async -c 4", ())):
        rates = []
        for limit in ((), ("--max-tasks-per-child", "50")):
            with bench.fleet("-c", "4", *arguments, *limit) as fleet:
                fleet.ready(4 if arguments else 1)
                spans = bench.spans("pause", calls)
                startups = _startups_s(fleet)
            rates.append(len(spans) / _length_s(spans))
            gap = max(after[1] - before[1] for before, after in pairwise(spans))
            how = "with" if limit else "without"
            bench.note(f"recycling, {name}: {how} (jobs/s)", rates[-1])
            bench.note(f"recycling, {name}: longest between two starts, {how} (ms)", 1e3 * gap)
            bench.note(f"recycling, {name}: start of a process, {how} (s)", statistics.median(startups))
        bench.note(f"recycling, {name}: with over without", rates[1] / rates[0])


def limits(bench: Bench) -> None:
    """What a time limit costs a job that does nothing."""
    jobs = bench.sizes.drained
    kinds = {"none": (), "--time-limit 60": ("--time-limit", "60"), "--soft-time-limit 50": ("--soft-time-limit", "50")}
    taken = {}
    for name, arguments in kinds.items():
        bench.redis.flushall()
        bench.enqueue("noop", [(number,) for number in range(jobs)])
        with Fleet(bench.url, *arguments) as fleet:
            fleet.ready()
            bench.until(lambda: bench.left() < 0.9 * jobs, 0.001)
            [pid] = fleet.pids()
            left, began_s, cpu_s = bench.left(), time.monotonic(), _cpu_s(pid)
            ended_s = bench.until(lambda: bench.left() == 0)
            taken[name] = left / (ended_s - began_s), 1e6 * (_cpu_s(pid) - cpu_s) / left
        rate, cpu_us = taken[name]
        bench.note(f"limits: drain, {name} (jobs/s)", rate)
        bench.note(f"limits: CPU of the process a job, {name} (µs)", cpu_us)
        if arguments:
            bench.note(f"limits: drain, {name} over none", rate / taken["none"][0])


def start(bench: Bench) -> None:
    """From the command until a worker claims."""
    for _ in range(bench.sizes.starts):
        with bench.fleet() as fleet:
            fleet.ready()
            [(supervisor_s, _)] = fleet.of("supervisor started")
            bench.note("start: until the supervisor has started (s)", supervisor_s - fleet.began_s)
            bench.note("start: until the first worker has started (s)", fleet.ready() - fleet.began_s)


FIGURES: Final = {each.__name__: each for each in (cpu_bound, memory, kills, recycling, limits, start)}


# What they are made of


def _loops() -> int:
    """How many turns of the loop take SPIN_S here, when nobody disturbs."""
    turns = 100_000
    return int(turns * SPIN_S / min(fleet_tasks.spin(turns)[3] for _ in range(10)))


def _length_s(spans: Sequence[fleet_tasks.Span]) -> float:
    """From the first start to the last end."""
    return max(end for _, _, end, _ in spans) - min(start for _, start, _, _ in spans)


def _pool_spans(processes: int, calls: Sequence[tuple[int]]) -> list[fleet_tasks.Span]:
    """What the same calls say of themselves in a pool that does nothing else."""
    loops = [each for (each,) in calls]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(fleet_tasks.spin, loops[: 5 * processes], chunksize=1)
        return pool.map(fleet_tasks.spin, loops, chunksize=1)


def _median_idle_s(spans: Sequence[fleet_tasks.Span]) -> float:
    """How long a process had nothing to do between two jobs."""
    by_pid = defaultdict(list)
    for span in spans:
        by_pid[span[0]].append(span)
    gaps = [after[1] - before[2] for each in by_pid.values() for before, after in pairwise(each)]
    return statistics.median(gaps)


def _startups_s(fleet: Fleet) -> list[float]:
    """How long each process took until it could work."""
    born = {line["pid"]: moment for moment, line in fleet.of("process started")}
    return [moment - born[int(line["worker"].split(":")[1])] for moment, line in fleet.of("worker started")]


def _held(bench: Bench, lists: Sequence[bytes]) -> int:
    """Jobs that are claimed; what was a dead worker's list is a string now."""
    return sum(bench.redis.llen(name) for name in lists if bench.redis.type(name) == b"list")


def _after_jobs(bench: Bench, pid: int, jobs: int) -> int:
    """The memory of a process when it has done so many jobs more."""
    for first in range(0, jobs, 10_000):
        bench.enqueue("noop", [(number,) for number in range(first, min(first + 10_000, jobs))])
        bench.until(lambda: bench.left() == 0)
    time.sleep(0.5)  # the last batch's replies
    return _rss(pid)


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


# The table


def show(samples: Samples) -> None:
    """A row for each figure: median, spread, number of samples, and what we aim at."""
    width = max(map(len, samples))
    print(f"{'figure':{width}} {'median':>9} {'from':>9} {'to':>9} {'n':>4}  aim")
    for name, values in samples.items():
        cells = [f"{number:>9,.4g}" for number in (statistics.median(values), min(values), max(values))]
        print(f"{name:{width}} {' '.join(cells)} {len(values):>4}  {AIMS.get(name, '')}".rstrip())


def main() -> None:
    """Run the rounds and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("figures", nargs="*", metavar="figure", help=f"of {', '.join(FIGURES)}; default: all")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--quick", action="store_true", help="one round, with fewer jobs")
    chosen = options.parse_args()
    if unknown := set(chosen.figures) - set(FIGURES):
        options.error(f"no such figure: {', '.join(unknown)}")
    rounds, sizes = (1, QUICK) if chosen.quick else (chosen.rounds, Sizes())
    load_before = os.getloadavg()[0]
    with EmbeddedServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bench = Bench(server, runner, sizes)
        try:
            for number in range(rounds):
                for name in chosen.figures or FIGURES:
                    print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                    FIGURES[name](bench)
        finally:
            bench.close()
    versions = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "uvloop"))
    print(f"Python {platform.python_version()}, {versions}; {platform.machine()}, {os.cpu_count()} cores")
    print(f"{rounds} rounds, {sizes}")
    print(f"load {load_before:.2f} before, {os.getloadavg()[0]:.2f} at the end, our own included")
    show(bench.samples)


if __name__ == "__main__":
    main()
