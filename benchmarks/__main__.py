"""``python -m benchmarks``: run contenders side by side, write the results, the report and the plots."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

import redis

from benchmarks import environments, report
from benchmarks.contender import Contender
from benchmarks.contenders import find_contenders
from benchmarks.results import DIRECTORY, Results, Run
from benchmarks.rounds import Plan, run_rounds
from benchmarks.stage import machine
from benchmarks.workloads import WORKLOADS, Pace
from rqueue.embedded import EmbeddedServer

T = TypeVar("T")

QUICK_CONTENDERS = "rqueue,floor-enqueue,floor-drain,floor-roundtrip,celery-prefork"
QUICK_WORKLOADS = "enqueue,drain,round-trip,sleep-100,sleep-1000,idle"


def chosen_options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--quick", action="store_true", help="rqueue, Celery and the floors, in two minutes")
    options.add_argument("--contenders", metavar="NAME,…", help="only these")
    options.add_argument("--workloads", metavar="NAME,…", help="only these")
    options.add_argument("--rounds", type=int, help="at most so many of each (5, quick 3)")
    options.add_argument("--minutes", type=float, help="begin no run after so long (38, quick 1.7)")
    options.add_argument("--seconds", type=float, help="of steady work in a run (1.5, quick 0.5)")
    options.add_argument("--name", help="of the files under benchmarks/results (full, or quick)")
    chosen = options.parse_args(arguments)
    chosen.name = chosen.name or ("quick" if chosen.quick else "full")
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 5)
    chosen.minutes = chosen.minutes or (1.7 if chosen.quick else 38.0)
    chosen.seconds = chosen.seconds or (0.5 if chosen.quick else 1.5)
    if chosen.quick:
        chosen.contenders, chosen.workloads = chosen.contenders or QUICK_CONTENDERS, chosen.workloads or QUICK_WORKLOADS
    return chosen


def pick(known: dict[str, T], names: str | None, what: str) -> list[T]:
    """Those that are named, in the order of what is known; all if none is."""
    wanted = names.split(",") if names else list(known)
    if unknown := set(wanted) - set(known):
        sys.exit(f"no such {what}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [each for name, each in known.items() if name in wanted]


def describe(contenders: Sequence[Contender]) -> Results:
    """Results without runs yet: the machine, the server, and who takes part with which settings."""
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        info = client.info("server")
    kind, number = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    told = {
        each.name: {
            "package": each.package,
            "version": environments.version_of(each.environment, each.package),
            "settings": each.settings,
        }
        for each in contenders
    }
    begun = datetime.now(UTC).isoformat(timespec="minutes")
    return Results(begun, {**machine(), "server": f"{kind} {number}"}, told)


def line_of(run: Run) -> str:
    """A run as one line."""
    if run.error:
        return f"{run.round} {run.workload:14} {run.contender:18} failed: {run.error}"
    shown = [f"{name} {value:,.4g}" for name, value in run.values.items() if isinstance(value, float)]
    return f"{run.round} {run.workload:14} {run.contender:18} {', '.join(shown[:6])}  {run.values.get('mark', '')}"


def main(arguments: Sequence[str]) -> None:
    """Set up, run, report."""
    start, chosen = time.monotonic(), chosen_options(arguments)
    measured = {name: each for name, each in find_contenders().items() if each.workloads and not each.store}
    contenders = pick(measured, chosen.contenders, "contender")
    workloads = pick({each.name: each for each in WORKLOADS}, chosen.workloads, "workload")
    for environment in dict.fromkeys([*(each.environment for each in contenders), "plots"]):
        environments.make(environment)
    results, path = describe(contenders), DIRECTORY / f"{chosen.name}.json"

    def note(run: Run) -> None:
        print(line_of(run), flush=True)
        results.runs.append(run)
        results.took_minutes = round((time.monotonic() - start) / 60, 1)
        results.save(path)

    plan = Plan(contenders, workloads, chosen.rounds, start + 60 * chosen.minutes)
    pace = Pace(seconds=chosen.seconds, idle_s=3.0 if chosen.quick else 10.0)
    results.is_complete = run_rounds(plan, pace, note)
    results.save(path)
    print(f"{path}\n{report.write(path)}")


if __name__ == "__main__":
    main(sys.argv[1:])
