"""The database goes away under load, and comes back: do the workers notice, and is every row there in the end?

For each kind of fault (frozen by SIGSTOP, killed by SIGKILL, with all the server's processes) two loads: `full`, where
jobs wait all the time, and `steady`, a Poisson stream of a part of that. What is counted comes from the bodies' own
file, and the rows are counted in the database. ``make bench-results ARGS=--away``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import redis
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.contender import Contender, Setup
from benchmarks.databases import Database, Databases
from benchmarks.measure import MB, Ran, quantiles_ms
from benchmarks.results import DIRECTORY, Results, Run
from benchmarks.stage import FIRST_POLL_S, START_S, RunFailed, Stage
from rqueue.embedded import EmbeddedServerError
from tests.postgres import NoPostgres

SHARE = 0.3
"""Of the rate of a drain, as a steady load: the producer needs its own part of the cores."""
PHASE_S, QUICK_PHASE_S = 10.0, 4.0
AMPLE = 1.3  # so many more jobs than a drain at the measured rate needs, so that they last until the end
SAMPLE_JOBS = 20_000
LOOK_S = 0.2
END_S = 300.0
SPOOL = "rqueue:{default}:spool"
TITLES = {
    "full": "jobs wait all the time",
    "steady": f"a steady load of {100 * SHARE:.0f} % of what it drains",
}


@dataclass
class Watch:
    """Looks at Redis now and then: the most that it saw."""

    server: redis.Redis
    entries: int = 0
    spool_bytes: int = 0
    used_bytes: int = 0
    emptied: float = 0.0
    """When the spool was seen to be empty after it had not been."""

    def look(self) -> int:
        """How many entries the spool has now."""
        entries = int(self.server.llen(SPOOL))
        if entries > self.entries:
            self.spool_bytes = int(self.server.memory_usage(SPOOL) or 0)
        if entries or not self.emptied:
            self.emptied = 0.0 if entries else time.time()
        self.entries = max(self.entries, entries)
        self.used_bytes = max(self.used_bytes, int(self.server.info("memory")["used_memory"]))
        return entries


@dataclass(frozen=True)
class Trouble:
    """What is done to the database, and for how long; before and after it is looked at for `phase_s`."""

    strike: Callable[[], None]
    heal: Callable[[], None]
    away_s: float
    phase_s: float


def measure(
    chosen: argparse.Namespace, contenders: Sequence[Contender], results: Results, databases: Databases
) -> None:
    """Each fault with each load."""
    path, start = DIRECTORY / f"{chosen.name}.json", time.monotonic()
    times = chosen.away_seconds, QUICK_PHASE_S if chosen.quick else PHASE_S
    faults = {
        "frozen": Trouble(databases.freeze, databases.thaw, *times),
        "killed": Trouble(databases.kill, databases.restart, *times),
    }
    capacities = {contender.name: capacity_of(contender, databases) for contender in contenders}
    for number in range(1, chosen.rounds + 1):
        for fault, trouble in faults.items():
            for load, title in TITLES.items():
                workload = f"away-{fault}-{load}"
                results.machine[workload] = f"PostgreSQL {fault} for {chosen.away_seconds:g} s, {title}"
                for contender in contenders:
                    run = run_one(contender, workload, number, capacities[contender.name], trouble, databases)
                    results.runs.append(run)
                    print(run.workload, run.contender, run.error or run.values, flush=True)
                results.took_minutes = round((time.monotonic() - start) / 60, 1)
                results.save(path)
    results.is_complete = True
    results.save(path)


def run_one(
    contender: Contender, workload: str, number: int, capacity: float, trouble: Trouble, databases: Databases
) -> Run:
    """One run, with a database of its own."""
    play = _full if workload.endswith("full") else _steady
    try:
        with _stage(contender, workload, databases) as (stage, database):
            return Run(contender.name, workload, number, play(stage, database, capacity, trouble))
    except (RunFailed, EmbeddedServerError, NoPostgres, redis.RedisError, SQLAlchemyError) as failure:
        return Run(contender.name, workload, number, {}, str(failure))


def capacity_of(contender: Contender, databases: Databases) -> float:
    """Jobs a second that a worker drains, by a short drain."""
    with _stage(contender, "capacity", databases) as (stage, _):
        stage.ask("fill", task="noop", count=SAMPLE_JOBS)
        stage.start_worker()
        if not stage.wait(lambda: stage.records.count() >= SAMPLE_JOBS, START_S, FIRST_POLL_S):
            raise stage.failed("the first jobs were not done")
        if not stage.wait(lambda: stage.contender.unsettled(stage.redis) == 0, START_S, FIRST_POLL_S):
            raise stage.failed("the first jobs were not settled")
        return SAMPLE_JOBS / (time.time() - stage.records.read()[0].at)


@contextmanager
def _stage(contender: Contender, workload: str, databases: Databases) -> Iterator[tuple[Stage, Database]]:
    setup = Setup(url="", workload=workload)
    with databases.fresh(contender) as database, Stage(contender, replace(setup, results=database.url)) as stage:
        yield stage, database


def _full(stage: Stage, database: Database, capacity: float, trouble: Trouble) -> dict[str, Any]:
    jobs = int(capacity * AMPLE * (2 * trouble.phase_s + trouble.away_s))
    stage.ask("fill", task="noop", count=jobs, patience_s=END_S)
    stage.start_worker()
    if not stage.wait(lambda: stage.records.count() > 0, START_S, FIRST_POLL_S):
        raise stage.failed("no job ran")
    return _away(stage, database, trouble, lambda: jobs)


def _steady(stage: Stage, database: Database, capacity: float, trouble: Trouble) -> dict[str, Any]:
    stage.start_ready(1)
    already = stage.records.count()
    seconds, rate = 2 * trouble.phase_s + trouble.away_s + 2, SHARE * capacity
    with ThreadPoolExecutor(1) as asking:
        load = asking.submit(stage.ask, "load", rate=rate, seconds=seconds, seed=1, patience_s=seconds + END_S)
        values = _away(stage, database, trouble, lambda: already + load.result(END_S)["count"], waits=True)
    return {"offered": rate, **values}


def _away(
    stage: Stage, database: Database, trouble: Trouble, count: Callable[[], int], *, waits: bool = False
) -> dict[str, Any]:
    """It goes away after a while, stays away, comes back; then all is done. `count` says how many jobs that is."""
    watch = Watch(stage.redis)
    began = time.time()
    _watch(stage, watch, trouble.phase_s)
    struck = time.time()
    trouble.strike()
    try:
        _watch(stage, watch, trouble.away_s)
    finally:
        trouble.heal()
    healed = time.time()
    jobs = count()
    stage.wait(lambda: watch.look() >= 0 and stage.records.count() >= jobs, END_S, LOOK_S)
    is_settled = stage.wait(lambda: watch.look() == 0 and stage.contender.unsettled(stage.redis) == 0, END_S, LOOK_S)
    runs = stage.records.read()
    rows, ids = database.kept()
    values: dict[str, Any] = {
        "jobs": jobs,
        "rows": rows,
        "spooled": watch.entries,
        "spool_mb": watch.spool_bytes / MB,
        "redis_mb": watch.used_bytes / MB,
        "back_s": max(0.0, watch.emptied - healed),
    }
    for phase, start, end in (
        ("before", began + 1, struck),
        ("while", struck, healed),
        ("after", healed, healed + trouble.phase_s),
    ):
        found = _phase(phase, runs, start, end)
        values |= found if waits else {phase: found[phase]}
    if not (rows == ids == jobs and is_settled):
        values["mark"] = f"{rows} rows of {ids} jobs, and {stage.records.count()} of {jobs} ran"
    return values


def _phase(name: str, runs: Sequence[Ran], start: float, end: float) -> dict[str, float]:
    """Bodies a second in that time, and how long their jobs had waited."""
    inside = [run for run in runs if start <= run.at < min(end, runs[-1].at)]
    if len(inside) < 2:
        return {name: 0.0}
    waits = quantiles_ms([run.at - run.sent for run in inside])
    return {name: len(inside) / (min(end, runs[-1].at) - start), f"wait_{name}_ms": waits["p99_ms"]}


def _watch(stage: Stage, watch: Watch, seconds: float) -> None:
    over = time.monotonic() + seconds
    stage.wait(lambda: watch.look() >= 0 and time.monotonic() > over, seconds + LOOK_S, LOOK_S)
