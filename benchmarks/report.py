"""The report: tables of a results file in Markdown. ``python -m benchmarks.report <file.json>`` writes it anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import environments
from benchmarks.goals import goals
from benchmarks.results import DIRECTORY, Results, Spread

Row = Sequence[str]

RATES = {
    "enqueue-one": "Enqueue, one at a time",
    "enqueue-100": "Enqueue, 100 callers",
    "enqueue-bulk": "Enqueue, in bulk",
    "drain": "Drain of no-ops, one worker",
    "drain-2": "Drain of no-ops, two workers",
    "sleep-100": "Tasks that wait 50 ms, 100 at once",
    "sleep-1000": "Tasks that wait 50 ms, 1,000 at once",
    "threads": "Plain functions in threads",
    "burn": "Tasks that compute for 5 ms, two processes",
    "payload-200": "Payloads of 200 B, drain",
    "payload-10k": "Payloads of 10 kB, drain",
    "payload-100k": "Payloads of 100 kB, drain",
    "priorities": "Four queues with ten priorities, drain",
    "latency": "Drain, Redis 1 ms further away (0.5 ms each way)",
    "workers-1": "Drain, one worker that was running before",
    "workers-4": "Drain, four workers",
    "workers-8": "Drain, eight workers",
    "backlog-10k": "The first jobs of 10 thousand",
    "backlog-100k": "The first jobs of 100 thousand",
    "backlog-1M": "The first jobs of a million",
}
COSTS = {
    "cpu_us": "CPU µs",
    "redis_cpu_us": "Redis CPU µs",
    "commands": "commands",
    "round_trips": "round trips",
    "bytes": "bytes",
    "peak_mb": "peak MB",
}
TRIPS = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "cpu_us": "CPU µs", "commands": "commands", "round_trips": "reads"}
IDLE = {
    "requests_per_s": "requests/s",
    "commands_per_s": "commands/s, those in scripts too",
    "cpu_percent": "CPU %",
    "redis_cpu_percent": "Redis CPU %",
    "rss_mb": "RSS MB",
    "pss_mb": "PSS MB",
    "processes": "processes",
}
LOAD = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p999_ms": "p99.9 ms",
    "offered": "offered/s",
    "sent": "sent/s",
    "late_p99_ms": "producer late, p99 ms",
}
TITLES = {
    "round-trip": ("Round trip on an idle worker: enqueue, run, result", TRIPS),
    "load-50": ("Poisson load at 50 % of the drain's rate: from enqueue to the body", LOAD),
    "load-90": ("Poisson load at 90 % of the drain's rate: from enqueue to the body", LOAD),
    "idle": ("An idle worker, all its processes", IDLE),
}


ANALYSIS = DIRECTORY / "analysis.md"
"""What stands in the way of goals that are missed: written by hand, for the full report."""

EACH = (
    "Each figure is the median of the rounds, with the least and the greatest. Costs are for each task: CPU of the "
    "producer's process where jobs are enqueued, else of the worker's whole process tree."
)


def number(value: float) -> str:
    """A figure with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def cell(found: Spread | None) -> str:
    """Median and spread."""
    if found is None:
        return "-"
    if found.count == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.greatest)})"


def table(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:" for _ in head[1:]]], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(results: Results, pictures: Sequence[str] = (), analysis: str = "") -> str:
    """The whole report; the analysis is what somebody wrote of the figures."""
    parts = [
        "# Benchmark report",
        about(results),
        *[f"![{name}]({name})" for name in pictures],
        EACH,
    ]
    for workload in (*list(RATES)[:3], "round-trip", *list(RATES)[3:], "load-50", "load-90", "idle"):
        if results.names(workload):
            parts += _section(results, workload)
    parts += ["## Goals", _goals(results), *([analysis.strip()] if analysis else []), "## Settings", settings(results)]
    return "\n\n".join(parts) + "\n"


def write(path: Path) -> Path:
    """Draw the plots and write the report beside the results; its path. The full one is ``report.md``."""
    results, report = Results.load(path), path.with_name("report.md" if path.stem == "full" else f"{path.stem}.md")
    environments.make("plots")
    drawn = subprocess.run(
        [environments.python_of("plots"), "-m", "benchmarks.plots", str(path)],
        cwd=environments.ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    analysis = ANALYSIS.read_text(encoding="utf-8") if path.stem == "full" and ANALYSIS.exists() else ""
    report.write_text(text(results, drawn.stdout.split(), analysis), encoding="utf-8")
    return report


def about(results: Results) -> str:
    """The machine, the server and the time."""
    machine = results.machine
    parts = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']} of memory, {machine['system']}",
        f"{machine['server']}, Python {machine['python']}",
        f"begun {results.begun} with a load average of {machine['load']}, {results.took_minutes:g} minutes",
    ]
    if not results.is_complete:
        parts.append("**not all rounds were run in the time given**")
    return "; ".join(parts) + "."


def _section(results: Results, workload: str) -> list[str]:
    title, columns = TITLES.get(workload) or (RATES[workload], {"rate": "tasks/s", **COSTS})
    if workload.startswith("sleep"):
        columns = {"rate": "tasks/s", "of_ideal": "of ideal", **COSTS}
    if workload.startswith("payload"):
        columns = {"rate": "tasks/s", "enqueue_rate": "enqueued/s", **COSTS}
    names = results.names(workload)
    columns = {
        value: shown
        for value, shown in columns.items()
        if any(results.by_round(each, workload, value) for each in names)
    }
    rows = [[name, *_figures(results, name, workload, columns), _rounds(results, name, workload)] for name in names]
    marks = [f"- {name}: {mark}" for name in names for mark in results.marks(name, workload)]
    return [f"## {title}", table(["", *columns.values(), "rounds"], rows), *(["\n".join(marks)] if marks else [])]


def _figures(results: Results, name: str, workload: str, columns: Iterable[str]) -> Iterable[str]:
    return [cell(results.spread(name, workload, value)) for value in columns]


def _rounds(results: Results, name: str, workload: str) -> str:
    return str(len({run.round for run in results.runs if (run.contender, run.workload) == (name, workload)}))


def _goals(results: Results) -> str:
    rows = [
        [
            goal.text,
            f"{'≥' if goal.is_least else '≤'} {goal.bound:.3g}",
            cell(goal.found),
            str(goal.found.count) if goal.found else "0",
            goal.verdict,
        ]
        for goal in goals(results)
    ]
    return table(["", "goal", "found", "rounds", ""], rows)


def settings(results: Results) -> str:
    """Who took part, with which package and settings."""
    rows = [
        [name, f"{told['package']} {told['version']}", told["settings"]] for name, told in results.contenders.items()
    ]
    lines = [["contender", "package", "settings"], ["---", "---", "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(DIRECTORY / "full.json")]:
        print(write(Path(name)))
