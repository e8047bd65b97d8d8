"""The README's table, made of the full results: ``python -m benchmarks.readme`` writes it between its markers."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import number, table
from benchmarks.results import DIRECTORY, Results

README = Path(__file__).parent.parent / "README.md"
FULL = DIRECTORY / "full.json"
BLOCK = re.compile(r"(?<=<!-- benchmark -->\n).*?(?=<!-- /benchmark -->)", re.DOTALL)
NO_FIGURES = "No figures are kept in this repository yet: `make bench` takes them.\n"
ENQUEUE, DRAIN, TRIP = "floor-enqueue", "floor-drain", "floor-roundtrip"
CELERY = "celery-prefork"

# Title, workload, value, the floor's contender and workload; least is best where it is a time or a cost.
ROWS = (
    ("enqueue, one at a time: tasks/s", "enqueue-one", "rate", (ENQUEUE, "enqueue-one"), False),
    ("enqueue, 100 callers: tasks/s", "enqueue-100", "rate", (ENQUEUE, "enqueue-bulk"), False),
    ("enqueue, in bulk: tasks/s", "enqueue-bulk", "rate", (ENQUEUE, "enqueue-bulk"), False),
    ("no-ops, one worker: tasks/s", "drain", "rate", (DRAIN, "drain"), False),
    ("waits of 50 ms, 100 at once: tasks/s", "sleep-100", "rate", None, False),
    ("waits of 50 ms, 1,000 at once: tasks/s", "sleep-1000", "rate", None, False),
    ("round trip, median: ms", "round-trip", "p50_ms", (TRIP, "round-trip"), True),
    ("round trip, p99: ms", "round-trip", "p99_ms", (TRIP, "round-trip"), True),
    ("CPU for a no-op: µs", "drain", "cpu_us", (DRAIN, "drain"), True),
    ("Redis's CPU for a no-op: µs", "drain", "redis_cpu_us", (DRAIN, "drain"), True),
)


def block(path: Path = FULL) -> str:
    """What stands between the markers."""
    return NO_FIGURES if not path.exists() else _figures(Results.load(path))


def _figures(results: Results) -> str:
    machine = results.machine
    rounds = max((run.round for run in results.runs), default=0)
    about = (
        f"{machine['processor']}, {machine['cores']} cores; {machine['server']}, Python {machine['python']}; medians, "
        f"of {rounds} rounds at most; [all figures, spreads and settings](benchmarks/results/report.md)."
    )
    told = results.contenders.get(CELERY)
    head = ["", "rqueue", "floor", f"Celery {told['version']}, prefork" if told else "Celery", "best of the others"]
    return f"{about}\n\n{table(head, [_row(results, *each) for each in ROWS])}\n"


def _row(
    results: Results, title: str, workload: str, value: str, floor: tuple[str, str] | None, is_least: bool
) -> list[str]:
    others = {
        name: found
        for name in results.peers()
        if name != CELERY and (found := results.median(name, workload, value)) is not None
    }
    best = (min if is_least else max)(others, key=lambda name: others[name], default=None)
    cells = [
        results.median("rqueue", workload, value),
        results.median(*floor, value) if floor else None,
        results.median(CELERY, workload, value),
    ]
    shown = ["-" if each is None else number(each) for each in cells]
    return [title, *shown, f"{number(others[best])} ({best})" if best else "-"]


def write() -> bool:
    """Put the block in its place; whether that changed anything."""
    text = README.read_text(encoding="utf-8")
    fresh = BLOCK.sub(lambda _: block(), text)
    README.write_text(fresh, encoding="utf-8")
    return fresh != text


if __name__ == "__main__":
    print(f"{README.name}: {'the table is new' if write() else 'nothing changed'}")
