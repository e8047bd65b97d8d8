"""The figures of runs with result stores as Markdown. ``python -m benchmarks.results_store_report <file.json>``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import about, cell, settings, table
from benchmarks.results import DIRECTORY, Results, Spread

DRAIN = {
    "rate": "jobs/s until settled",
    "bodies": "bodies/s",
    "cpu_us": "worker CPU µs",
    "store_cpu_us": "store CPU µs",
    "redis_cpu_us": "Redis CPU µs",
    "round_trips": "Redis reads",
}
TRIP = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms"}
AWAY = {
    "before": "bodies/s before",
    "while": "while it is away",
    "after": "after",
    "wait_before_ms": "wait p99 before, ms",
    "wait_while_ms": "while away",
    "wait_after_ms": "after",
    "spooled": "spooled, most",
    "spool_mb": "spool, MB",
    "redis_mb": "Redis, MB",
    "back_s": "spool empty after, s",
    "jobs": "jobs",
    "rows": "rows",
}
RATIOS = (
    ("rqueue-asyncpg", "rqueue", 0.5),
    ("rqueue-psycopg", "rqueue", 0.5),
    ("rqueue-sqlite", "rqueue", None),
    ("rqueue-redis", "rqueue", None),
    ("celery-postgres", "celery-prefork", None),
    ("rqueue-asyncpg", "celery-postgres", None),
    ("rqueue-psycopg", "celery-postgres", None),
)
WORDS = """
A drain counts from the first body to the moment when all jobs are settled; then each job must have its row, else the
run is marked. CPU is of the worker's whole process tree, of the store's and of Redis, for each job. A round trip is
enqueue, run and result on a worker with nothing else to do: with a store the row is written before the result is
announced. Each figure is the median of the rounds, with the least and the greatest; ratios are of runs of the same
round.
"""


def text(results: Results) -> str:
    """The whole report."""
    parts = ["# Result stores: what they cost", about(results), f"{results.machine.get('database', '')}."]
    if results.names("drain"):
        parts += [WORDS.strip(), *_section(results, "drain", "Drain of no-ops, one worker", DRAIN)]
        parts += _section(results, "round-trip", "Round trip on an idle worker", TRIP)
        parts += ["## Ratios of drains", _ratios(results)]
    for workload in sorted({run.workload for run in results.runs if run.workload.startswith("away")}):
        parts += _section(results, workload, results.machine.get(workload, workload), AWAY)
    return "\n\n".join([*parts, "## Settings", settings(results)]) + "\n"


def write(path: Path) -> Path:
    """Write the report beside the results; its path."""
    written = path.with_suffix(".md")
    written.write_text(text(Results.load(path)), encoding="utf-8")
    return written


def _section(results: Results, workload: str, title: str, columns: dict[str, str]) -> list[str]:
    names = results.names(workload)
    columns = {key: shown for key, shown in columns.items() if any(results.by_round(n, workload, key) for n in names)}
    rows = [[name, *(cell(results.spread(name, workload, value)) for value in columns)] for name in names]
    marks = [f"- {name}: {mark}" for name in names for mark in results.marks(name, workload)]
    return [f"## {title}", table(["", *columns.values()], rows), *(["\n".join(marks)] if marks else [])]


def _ratios(results: Results) -> str:
    rows = []
    for ours, theirs, goal in RATIOS:
        first, second = results.by_round(ours, "drain"), results.by_round(theirs, "drain")
        found = Spread.of([first[number] / second[number] for number in sorted(first.keys() & second.keys())])
        if found is not None:
            reached = "" if goal is None else f"≥ {goal:g}: {'reached' if found.median >= goal else 'missed'}"
            rows.append([f"{ours} / {theirs}", cell(found), str(found.count), reached])
    return table(["", "ratio", "rounds", "goal"], rows)


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(DIRECTORY / "results-store.json")]:
        print(write(Path(name)))
