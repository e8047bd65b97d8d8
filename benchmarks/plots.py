"""The plots: ``python -m benchmarks.plots <file.json>`` draws them beside the file, and prints their names.

It runs in an environment of its own, which has matplotlib and nothing of rqueue's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Results

RATES = {
    "enqueue-one": "enqueue, one at a time",
    "enqueue-100": "enqueue, 100 callers",
    "enqueue-bulk": "enqueue, in bulk",
    "drain": "drain of no-ops",
}
OURS, FLOOR, PEER = "#c0392b", "#95a5a6", "#34495e"


def color(name: str) -> str:
    """rqueue, a floor or a peer."""
    return OURS if name == "rqueue" else FLOOR if name.startswith("floor-") else PEER


def shown(value: float) -> str:
    """A figure beside its dot."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def dots(axes: Axes, results: Results, workload: str, value: str, title: str, *, fewest_first: bool = False) -> None:
    """A dot for each contender, the best on top, with the spread; on a logarithmic axis, since orders differ."""
    found = {name: spread for name in results.names(workload) if (spread := results.spread(name, workload, value))}
    names = sorted(found, key=lambda name: found[name].median, reverse=fewest_first)
    middle = [found[name].median for name in names]
    low = [found[name].median - found[name].least for name in names]
    high = [found[name].greatest - found[name].median for name in names]
    for row, name in enumerate(names):
        spread = [[low[row]], [high[row]]]
        axes.errorbar(middle[row], row, xerr=spread, fmt="o", color=color(name), capsize=3)
        axes.annotate(shown(middle[row]), (middle[row], row), (0, 6), textcoords="offset points", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)


def draw_rates(results: Results) -> Figure:
    """How many tasks a second."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    for axes, (workload, title) in zip(figure.subplots(2, 2).flat, RATES.items(), strict=True):
        dots(axes, results, workload, "rate", f"{title} (tasks/s)")
    return figure


def draw_trips(results: Results) -> Figure:
    """How long a round trip takes, and what a task costs."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    first, second, third, fourth = figure.subplots(2, 2).flat
    dots(first, results, "round-trip", "p50_ms", "round trip, median (ms)", fewest_first=True)
    dots(second, results, "round-trip", "p99_ms", "round trip, p99 (ms)", fewest_first=True)
    dots(third, results, "drain", "cpu_us", "CPU of the worker for a no-op (µs)", fewest_first=True)
    dots(fourth, results, "drain", "redis_cpu_us", "CPU of Redis for a no-op (µs)", fewest_first=True)
    return figure


def main(path: Path) -> None:
    """Draw both."""
    mpl.use("agg")
    results = Results.load(path)
    for kind, draw in (("rates", draw_rates), ("costs", draw_trips)):
        name = f"{path.stem}-{kind}.png"
        draw(results).savefig(path.with_name(name), dpi=110)
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
