"""The workloads: how each is set up, what is done in a run, and what is measured in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bodies import BURN_S, NAP_S
from benchmarks.contender import Contender, Left, Setup
from benchmarks.environments import ROOT
from benchmarks.measure import (
    RedisUse,
    cpu_s,
    memory_mb,
    peak_mb,
    quantiles_ms,
    redis_use,
    steady_rate,
)
from benchmarks.stage import FIRST_POLL_S, POLL_S, START_S, Stage

Values = dict[str, Any]
MB = 1_000_000
MOST_BYTES = 100 * MB  # of payloads in one run
FEWEST, MOST_JOBS = 200, 200_000
BACKLOG_SAMPLE = 50_000
CLEAN_S = 5.0
WARM_S = 0.5
FIRST_CALLS = 500  # not measured: connections are made, code is warm
LATE_S = 25.0  # beyond that a drain is marked as not finished


@dataclass
class Pace:
    """How long the measured part of a run takes, and what is known of the contender's speed from earlier rounds."""

    seconds: float = 1.5
    idle_s: float = 10.0
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note(self, contender: str, workload: str, rate: float) -> None:
        """Remember a measured rate."""
        self.rates.setdefault((contender, workload), []).append(rate)

    def expected(self, contender: str, workload: str) -> float | None:
        """The latest measured rate."""
        return self.rates.get((contender, workload), [None])[-1]


@dataclass(frozen=True)
class Workload:
    """One line of the report, or some that come from one run.

    Attributes:
        name: as in the results.
        title: as in the report.
        needs: what a contender must have among its workloads, one of them.
        run: does it, and returns values for each line.
        setup: what is asked of the workers.
        rounds: how often; ``peer_rounds`` for contenders other than rqueue, Celery's prefork and the floors.
    """

    name: str
    title: str
    needs: frozenset[str]
    run: Callable[[Stage, Pace], dict[str, Values]]
    setup: Setup
    rounds: int = 3
    peer_rounds: int = 3

    def suits(self, contender: Contender) -> bool:
        """Whether the contender can do it."""
        return bool(self.needs & contender.workloads)


def enqueue(stage: Stage, pace: Pace) -> dict[str, Values]:
    """One at a time; 100 callers; in bulk: each for two thirds of the time of a run."""
    found = {}
    for how in ("one", "100", "bulk"):
        if f"enqueue-{how}" not in stage.contender.workloads:
            continue
        stage.ask("enqueue", how=how, count=FIRST_CALLS)  # a hundred threads may connect a hundred times
        stage.ask("enqueue", how=how, seconds=0.1)
        before = redis_use(stage.redis)
        done = stage.ask("enqueue", how=how, seconds=pace.seconds * 2 / 3)
        use = redis_use(stage.redis).per_task(before, done["count"])
        found[f"enqueue-{how}"] = {
            "rate": done["count"] / done["seconds"],
            "cpu_us": 1e6 * done["cpu"] / done["count"],
            **use,
        }
    return found


def drain_of(task: str, most: Callable[[Setup], float] | None = None) -> Callable[[Stage, Pace], dict[str, Values]]:
    """A drain of jobs of one task; `most` is the highest rate that its setup allows."""

    def run(stage: Stage, pace: Pace) -> dict[str, Values]:
        ideal = most(stage.setup) if most else None
        values = drain(stage, pace, task, _jobs(stage, pace, ideal))
        if task == "nap":  # they begin in waves, so the time goes from the first beginning to the last end
            runs = stage.records.read()
            values["rate"] = len(runs) / (max(run.at for run in runs) + NAP_S - min(run.at for run in runs))
        if ideal:
            values["of_ideal"] = values["rate"] / ideal
        return {stage.setup.workload: values}

    return run


def drain(stage: Stage, pace: Pace, task: str, jobs: int) -> Values:
    """Jobs wait; a worker starts; all are run."""
    stage.ask("fill", task=task, count=jobs)
    stage.start_worker()
    return finish(stage, pace, jobs)


def drain_together(stage: Stage, pace: Pace) -> dict[str, Values]:
    """As a drain, by several workers that have begun before: frozen while the jobs are enqueued, then let go."""
    workers = stage.setup.workers
    stage.start_ready(workers)
    already = stage.records.count()
    jobs = _jobs(stage, pace)
    stage.freeze()
    stage.ask("fill", task="noop", count=jobs)
    stage.thaw()
    return {stage.setup.workload: finish(stage, pace, jobs, already)}


def finish(stage: Stage, pace: Pace, jobs: int, already: int = 0, *, look_after: bool = True) -> Values:
    """Wait until so many have run beside those before, and measure from the first of them on."""
    if not stage.wait(lambda: stage.records.count() > already, START_S, FIRST_POLL_S):
        raise stage.failed("no job ran")
    before, cpu, first = redis_use(stage.redis), cpu_s(stage.workers), stage.records.count()
    in_time = stage.wait(lambda: stage.records.count() >= already + jobs, LATE_S)
    time.sleep(2 * POLL_S)  # the last are settled
    after, cpu, last = redis_use(stage.redis), cpu_s(stage.workers) - cpu, stage.records.count()
    runs = stage.records.read(already)
    if len(runs) < FEWEST:
        raise stage.failed(f"only {len(runs)} of {jobs} jobs ran")
    rate = steady_rate(runs[:jobs])
    pace.note(stage.contender.name, stage.setup.workload, rate)
    values: Values = {"rate": rate, "jobs": jobs, "peak_mb": peak_mb(stage.workers)}
    if last - first > jobs / 2:  # else nearly all had begun at the first look, and costs say nothing
        values |= _use(before, after, cpu, last - first)
    if not in_time:
        values["mark"] = f"{len(runs)} of {jobs} in {LATE_S:.0f} s"
    elif look_after and (mark := _mark(stage, len(runs), jobs, already)):
        values["mark"] = mark
    return values


def round_trip(stage: Stage, pace: Pace) -> dict[str, Values]:
    """One job after another on a worker that has nothing else to do."""
    stage.start_worker()
    stage.ask("trips", seconds=START_S, count=1)
    stage.ask("trips", seconds=0.2, count=200)
    before, cpu = redis_use(stage.redis), cpu_s(stage.workers)
    took = stage.ask("trips", seconds=pace.seconds, count=20_000)["took"]
    use = _use(before, redis_use(stage.redis), cpu_s(stage.workers) - cpu, len(took))
    return {stage.setup.workload: {**quantiles_ms(took), "jobs": len(took), "rate": len(took) / sum(took), **use}}


def idle(stage: Stage, pace: Pace) -> dict[str, Values]:
    """A worker that has run one job, and has no more."""
    stage.start_worker()
    stage.ask("trips", seconds=START_S, count=1)
    stage.dismiss_producer()
    time.sleep(1)  # what follows a start has been done
    before, cpu, start = redis_use(stage.redis), cpu_s(stage.workers), time.perf_counter()
    time.sleep(pace.idle_s)
    after, seconds = redis_use(stage.redis), time.perf_counter() - start
    cpu = cpu_s(stage.workers) - cpu
    resident, shared_once = memory_mb(stage.workers)
    return {
        stage.setup.workload: {
            "requests_per_s": (after.reads - before.reads) / seconds,
            "commands_per_s": (after.commands - before.commands) / seconds,
            "cpu_percent": 100 * cpu / seconds,
            "redis_cpu_percent": 100 * (after.cpu_s - before.cpu_s) / seconds,
            "rss_mb": resident,
            "pss_mb": shared_once,
            "processes": len(stage.workers),
        }
    }


def load_at(share: float) -> Callable[[Stage, Pace], dict[str, Values]]:
    """A Poisson stream of that share of the rate at which this contender drains: from the enqueue to the body."""

    def run(stage: Stage, pace: Pace) -> dict[str, Values]:
        capacity = pace.expected(stage.contender.name, "drain") or stage.contender.rate
        stage.start_ready(1)
        _warm(stage, int(capacity * share * WARM_S))
        already = stage.records.count()
        sent = stage.ask("load", rate=share * capacity, seconds=2 * pace.seconds, seed=already)
        jobs = sent["count"]
        in_time = stage.wait(lambda: stage.records.count() >= already + jobs, LATE_S)
        runs = stage.records.read(already)
        values: Values = quantiles_ms([max(0.0, run.at - run.sent) for run in runs])
        values |= {"offered": share * capacity, "sent": jobs / sent["seconds"], "late_p99_ms": 1e3 * sent["late"]}
        if not in_time:
            values["mark"] = f"{len(runs)} of {jobs} ran"
        return {stage.setup.workload: values}

    return run


def payload_of(size: int) -> Callable[[Stage, Pace], dict[str, Values]]:
    """Jobs with a payload that comes back as the result: enqueued by 100 callers, then drained."""

    def run(stage: Stage, pace: Pace) -> dict[str, Values]:
        jobs = min(_jobs(stage, pace), max(FEWEST, MOST_BYTES // size))
        stage.ask("enqueue", how="100", count=FIRST_CALLS, payload=size)
        done = stage.ask("enqueue", how="100", count=jobs, payload=size)
        stage.start_worker()
        values = finish(stage, pace, jobs + FIRST_CALLS)
        return {stage.setup.workload: {**values, "enqueue_rate": done["count"] / done["seconds"]}}

    return run


def priorities(stage: Stage, pace: Pace) -> dict[str, Values]:
    """No-ops spread over four queues and ten priorities."""
    jobs = _jobs(stage, pace)
    stage.ask("fill", task="noop", count=jobs, spread=stage.setup.queues)
    stage.start_worker()
    return {stage.setup.workload: finish(stage, pace, jobs)}


def far_away(stage: Stage, pace: Pace) -> dict[str, Values]:
    """A drain by a worker to which Redis is a millisecond further away."""
    jobs = _jobs(stage, pace)
    stage.ask("fill", task="noop", count=jobs)
    with _proxy(stage.setup.url) as url:
        stage.start_worker(url)
        return {stage.setup.workload: finish(stage, pace, jobs)}


def backlog_of(waiting: int) -> Callable[[Stage, Pace], dict[str, Values]]:
    """The first of very many jobs: what they cost while all the others wait."""

    def run(stage: Stage, pace: Pace) -> dict[str, Values]:
        stage.ask("backlog", count=waiting)
        stage.start_worker()
        return {stage.setup.workload: finish(stage, pace, min(waiting, BACKLOG_SAMPLE), look_after=False)}

    return run


def _jobs(stage: Stage, pace: Pace, ideal: float | None = None) -> int:
    name = stage.contender.name
    rate = pace.expected(name, stage.setup.workload)
    if rate is None:
        at_once = min(stage.setup.workers, len(os.sched_getaffinity(0)))
        rate = at_once * (pace.expected(name, "drain") or stage.contender.rate)
    return min(MOST_JOBS, max(FEWEST, int(pace.seconds * (min(rate, ideal) if ideal else rate))))


def _warm(stage: Stage, jobs: int) -> None:
    """Have producer and worker do a while what will be measured."""
    already = stage.records.count()
    stage.ask("enqueue", how="100", count=jobs)
    if not stage.wait(lambda: stage.records.count() >= already + jobs, LATE_S):
        raise stage.failed("what came before the load was not done")


def _use(before: RedisUse, after: RedisUse, cpu: float, tasks: int) -> Values:
    return {"cpu_us": 1e6 * cpu / max(1, tasks), **after.per_task(before, max(1, tasks))}


def _mark(stage: Stage, ran: int, jobs: int, already: int) -> str:
    return f"{ran - jobs} ran twice" if ran > jobs else _left(stage, already + jobs)


def _left(stage: Stage, jobs: int) -> str:
    """What a contender left after a drain that it had time to clear up; nothing if all is as it should be."""
    found = Left(-1, -1, -1)

    def clean() -> bool:
        nonlocal found
        found = Left(**stage.ask("left"))
        return found.waiting == found.running == 0 and found.results >= jobs

    if stage.wait(clean, CLEAN_S, 5 * POLL_S):
        return ""
    return f"left: {found.waiting} waiting, {found.running} claimed, {found.results} of {jobs} results"


@contextmanager
def _proxy(url: str) -> Iterator[str]:
    address, _, database = url.rpartition("/")
    host, _, port = address.rpartition(":")
    proxy = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency", port], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert proxy.stdout is not None
        yield f"{host}:{proxy.stdout.readline().strip()}/{database}"
    finally:
        proxy.kill()
        proxy.wait()


def _setup(name: str, **asked: Any) -> Setup:
    return Setup(url="", workload=name, **asked)


def _burns(setup: Setup) -> float:
    return setup.concurrency / BURN_S


def _waits(setup: Setup) -> float:
    return setup.concurrency / NAP_S


def _workload(name: str, title: str, needs: str, run: Any, rounds: int = 3, peers: int = 3, **asked: Any) -> Workload:
    return Workload(name, title, frozenset(needs.split()), run, _setup(name, **asked), rounds, peers)


WORKLOADS = (
    _workload("enqueue", "enqueue", "enqueue-one enqueue-100 enqueue-bulk", enqueue, 5, 5),
    _workload("drain", "drain of no-ops, one worker", "drain", drain_of("noop"), 5, 5),
    _workload("round-trip", "round trip, idle worker", "round-trip", round_trip, 5, 5),
    _workload("sleep-100", "tasks of 50 ms, 100 at once", "sleep-100", drain_of("nap", _waits), 5),
    _workload(
        "sleep-1000", "tasks of 50 ms, 1,000 at once", "sleep-1000", drain_of("nap", _waits), 5, 2, concurrency=1000
    ),
    _workload("idle", "idle worker", "idle", idle, 5, 1),
    _workload("drain-2", "drain of no-ops, two workers", "drain-2", drain_together, 5, workers=2),
    _workload("load-50", "Poisson load, 50 % of capacity", "load", load_at(0.5)),
    _workload("load-90", "Poisson load, 90 % of capacity", "load", load_at(0.9), 5),
    _workload("threads", "plain functions in threads", "threads", drain_of("plain"), pool="threads", concurrency=10),
    _workload(
        "burn", "CPU-bound, 5 ms, two processes", "burn", drain_of("burn", _burns), pool="prefork", concurrency=2
    ),
    _workload("payload-200", "payload of 200 B", "payload", payload_of(200)),
    _workload("payload-10k", "payload of 10 kB", "payload", payload_of(10_000)),
    _workload("payload-100k", "payload of 100 kB", "payload", payload_of(100_000)),
    _workload(
        "priorities", "four queues, ten priorities", "priorities", priorities, queues=("one", "two", "three", "four")
    ),
    _workload("latency", "drain, Redis 1 ms further away", "latency", far_away),
    *(_workload(f"workers-{n}", f"drain, {n} workers", "workers", drain_together, workers=n) for n in (1, 4, 8)),
    _workload("backlog-10k", "10 thousand wait", "backlog", backlog_of(10_000), 5),
    _workload("backlog-100k", "100 thousand wait", "backlog", backlog_of(100_000)),
    _workload("backlog-1M", "a million wait", "backlog", backlog_of(1_000_000), 5),
)
