"""``rqueue stats``: how the jobs of each task went, from the database that keeps them."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from typing import Annotated, Any, Final

import typer

from rqueue.cli import options
from rqueue.cli.history import Csv, Until
from rqueue.cli.lookup import find_keeper, warn_of_unknown_task
from rqueue.cli.output import run, show_json, show_table
from rqueue.client.export import csv_lines, safe
from rqueue.results.tally import TaskStats

Since = Annotated[
    str,
    typer.Option(
        "--since",
        envvar="RQUEUE_SINCE",
        metavar="WHEN",
        help="Jobs that ended then or later: an age (90s, 15m, 24h, 7d) or a time (2026-11-01, 2026-11-01T12:00Z).",
    ),
]

_COLUMNS: Final = ("task", " jobs", " failed", " revoked", " wait p50", " p95", " p99", " run p50", " p95", " p99")


def stats(
    since: Since = "7d",
    until: Until = None,
    task: options.TaskFilter = None,
    csv: Csv = False,
    app: options.App = None,
    results: options.Results = None,
    json: options.Json = False,
) -> None:
    """Show how many jobs of each task ended, how many failed, and how long they waited and ran: the busiest first."""
    if csv and json:
        raise typer.BadParameter("give --json or --csv, and not both", param_hint="--csv")
    client = find_keeper(app, results)
    warn_of_unknown_task(client, task)
    found = run(client, lambda: client.history.stats(since=since, until=until, task=task))
    if json:
        show_json([asdict(each) for each in found])
    elif csv:
        names = [field.name for field in fields(TaskStats)]
        sys.stdout.buffer.write(csv_lines([names, *([safe(cell) for cell in asdict(each).values()] for each in found)]))
    else:
        show_table("jobs that ended", _COLUMNS, map(_row, found))


def _row(each: TaskStats) -> tuple[Any, ...]:
    failed = f"{each.failed} ({each.failure_rate:.1%})" if each.failed else "0"
    waits = (each.wait_p50, each.wait_p95, each.wait_p99)
    runs = (each.run_p50, each.run_p95, each.run_p99)
    return each.task, each.count, failed, each.revoked, *map(_seconds, waits + runs)


def _seconds(value: float | None) -> str | None:
    """Three digits, which is what is known of it."""
    if value is None:
        return None
    return f"{value:.0f} s" if value >= 100 else f"{value:#.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
