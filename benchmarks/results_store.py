"""What a result store costs: drains and round trips with results in Redis, in PostgreSQL, in SQLite, in another Redis.

``make bench-results``, in short ``make bench-results ARGS=--quick``; ``ARGS=--away`` takes the database away under load
instead (`benchmarks.away`). A drain counts until all jobs are settled, and then every job must have its row. Settled
means for rqueue that its row is written; Celery acknowledges after it has written its own. It needs Linux.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import redis
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import away, environments, results_store_report
from benchmarks.__main__ import describe, line_of, pick
from benchmarks.contender import Contender, Setup
from benchmarks.contenders import find_contenders
from benchmarks.databases import Database, Databases
from benchmarks.measure import cpu_s, redis_use, steady_rate
from benchmarks.results import DIRECTORY, Results, Run
from benchmarks.rounds import MOST_FAILURES
from benchmarks.stage import FIRST_POLL_S, START_S, RunFailed, Stage
from benchmarks.workloads import CLEAN_S, FEWEST, Pace, round_trip
from rqueue.embedded import EmbeddedServerError
from tests.postgres import NoPostgres

WITHOUT_STORE = ("rqueue", "celery-prefork")
"""What those with a store are compared with: the same with results in Redis."""
QUICK = "rqueue,rqueue-asyncpg,celery-prefork,celery-postgres"
MOST_JOBS = 60_000
LATE_S = 60.0
FILL_S = 120.0
LOOK_S = 0.01
ENDINGS = (RunFailed, EmbeddedServerError, NoPostgres, redis.RedisError, SQLAlchemyError, subprocess.SubprocessError)


def drain(stage: Stage, database: Database, jobs: int) -> dict[str, Any]:
    """Jobs wait; a worker starts; all are run and settled; each has its row."""
    stage.ask("fill", task="noop", count=jobs, patience_s=FILL_S)
    stage.start_worker()
    if not stage.wait(lambda: stage.records.count() > 0, START_S, FIRST_POLL_S):
        raise stage.failed("no job ran")
    before, cpu, stored = redis_use(stage.redis), cpu_s(stage.workers), cpu_s(database.pids)
    first = min(stage.records.count(), jobs - 1)  # all may have begun before the first look
    stage.wait(lambda: stage.records.count() >= jobs, LATE_S, LOOK_S)
    in_time = stage.wait(lambda: stage.contender.unsettled(stage.redis) == 0, CLEAN_S, LOOK_S)
    ended = time.time()
    used, runs = redis_use(stage.redis).per_task(before, jobs - first), stage.records.read()
    values: dict[str, Any] = {
        "rate": len(runs) / (ended - min(run.at for run in runs)),
        "bodies": steady_rate(runs),
        "jobs": jobs,
        "cpu_us": 1e6 * (cpu_s(stage.workers) - cpu) / (jobs - first),
        **({"store_cpu_us": 1e6 * (cpu_s(database.pids) - stored) / (jobs - first)} if database.server else {}),
        **used,
    }
    if mark := _mark(stage, database, len(runs), jobs, is_settled=in_time):
        values["mark"] = mark
    return values


def _mark(stage: Stage, database: Database, ran: int, jobs: int, *, is_settled: bool) -> str:
    """What is not as it should be; nothing if all is."""
    if ran != jobs or not is_settled:
        return f"{ran} of {jobs} ran, {stage.contender.unsettled(stage.redis)} not settled"
    if not database.url:
        stored = stage.ask("left", patience_s=FILL_S)["results"]
        return "" if stored == jobs else f"{stored} results of {jobs} jobs"
    rows, ids = database.kept()
    return "" if rows == ids == jobs else f"{rows} rows of {ids} jobs, and {jobs} were settled"


def run_one(contender: Contender, workload: str, number: int, pace: Pace, databases: Databases) -> Run:
    """One run, with servers and a database of its own."""
    setup = Setup(url="", workload=workload)
    try:
        with (
            databases.fresh(contender) as database,
            Stage(contender, replace(setup, results=database.url)) as stage,
        ):
            if workload == "round-trip":
                return Run(contender.name, workload, number, round_trip(stage, pace)[workload])
            rate = pace.expected(contender.name, workload) or contender.rate
            values = drain(stage, database, min(MOST_JOBS, max(FEWEST, int(rate * pace.seconds))))
            if "mark" not in values:
                pace.note(contender.name, workload, values["rate"])
            return Run(contender.name, workload, number, values)
    except ENDINGS as failure:  # the others go on
        return Run(contender.name, workload, number, {}, str(failure))


def chosen_options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.results_store", description=__doc__)
    options.add_argument("--quick", action="store_true", help="PostgreSQL by asyncpg alone, in two minutes")
    options.add_argument("--contenders", metavar="NAME,…", help="only these")
    options.add_argument("--rounds", type=int, help="of all (5, quick 3, away 1)")
    options.add_argument("--seconds", type=float, default=2.0, help="of steady work in a run (2)")
    options.add_argument("--minutes", type=float, default=10.0, help="begin no run after so long (10)")
    options.add_argument("--away", action="store_true", help="take the database away under load instead")
    options.add_argument("--away-seconds", type=float, help="how long it is away (60, quick 5)")
    options.add_argument("--name", help="of the files under benchmarks/results (results-store, or results-away)")
    chosen = options.parse_args(arguments)
    chosen.name = chosen.name or ("results-away" if chosen.away else "results-store")
    chosen.rounds = chosen.rounds or (1 if chosen.away else 3 if chosen.quick else 5)
    chosen.away_seconds = chosen.away_seconds or (5.0 if chosen.quick else 60.0)
    return chosen


def taking_part(names: str | None) -> list[Contender]:
    """Those with a store, and what they are compared with."""
    known = {name: each for name, each in find_contenders().items() if each.store or name in WITHOUT_STORE}
    return pick(known, names, "contender")


def measure(chosen: argparse.Namespace, results: Results, databases: Databases) -> None:
    """All rounds, each other one in the opposite order."""
    start, pace = time.monotonic(), Pace(seconds=chosen.seconds)
    contenders, path = taking_part(chosen.contenders), DIRECTORY / f"{chosen.name}.json"
    failures: Counter[tuple[str, str]] = Counter()
    for number in range(1, chosen.rounds + 1):
        for contender in contenders if number % 2 else contenders[::-1]:
            for workload in ("drain", "round-trip"):
                if time.monotonic() > start + 60 * chosen.minutes:
                    return
                if failures[contender.name, workload] >= MOST_FAILURES:
                    continue
                results.runs.append(run := run_one(contender, workload, number, pace, databases))
                failures[contender.name, workload] += bool(run.error)
                print(line_of(run), flush=True)
                results.took_minutes = round((time.monotonic() - start) / 60, 1)
                results.save(path)
    results.is_complete = True
    results.save(path)


def main(arguments: Sequence[str]) -> None:
    """Set up, run, report."""
    chosen = chosen_options(arguments)
    chosen.contenders = chosen.contenders or ("rqueue-asyncpg" if chosen.away else QUICK if chosen.quick else None)
    contenders, path = taking_part(chosen.contenders), DIRECTORY / f"{chosen.name}.json"
    for environment in dict.fromkeys(each.environment for each in contenders):
        environments.make(environment)
    results = describe(contenders)
    with Databases() as databases:
        results.machine["database"] = databases.described()
        if chosen.away:
            away.measure(chosen, contenders, results, databases)
        else:
            measure(chosen, results, databases)
    written = results_store_report.write(path)
    print(f"\n{written.read_text(encoding='utf-8')}\n{path}\n{written}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave nothing behind
    main(sys.argv[1:])
