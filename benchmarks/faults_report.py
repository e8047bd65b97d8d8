"""The figures of runs with faults as tables. ``python -m benchmarks.faults_report <file.json>`` writes them anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import table
from benchmarks.results import DIRECTORY, Results, Run

COUNTS = {
    "faults": "kills",
    "in_flight": "in flight then",
    "confirmed": "confirmed",
    "done": "done",
    "lost": "**lost**",
    "held": "**held**",
    "doubled": "doubled",
    "doubled_untouched": "of them untouched",
    "back_s": "all done after, s",
    "exits": "workers that ended",
}
FROZEN = {
    "frozen": "jobs frozen",
    "taken": "run by another",
    "taken_s": "after, s",
    "late": "ended again by the first",
    "overwritten": "**result overwritten**",
    "exits": "workers that ended",
}
HELD = {
    "confirmed": "jobs",
    "done": "done",
    "again": "**started again**",
    "most": "starts of one job, at most",
    "exits": "workers that ended",
}
TITLES = {
    "workers": (
        "Workers killed",
        "SIGKILL to a worker with all its processes, 20 to 300 ms after the first job of its life.",
        COUNTS,
    ),
    "processes": (
        "Processes killed",
        (
            "SIGKILL to the process that runs the jobs, 20 to 300 ms after the first job of its life; what "
            "supervises it stays. Only for those whose workers have such a process. With fewer kills: "
            "when this was first measured, rqueue waited longer each time before it replaced "
            "a process that died at once."
        ),
        COUNTS,
    ),
    "redis": (
        "Redis killed",
        (
            "SIGKILL to Redis, which writes each command to its disk first (`appendfsync always`), and a start 0.2 "
            "to 2 s later, while a hundred jobs a second are enqueued, each tried once. What was refused "
            "does not count."
        ),
        COUNTS,
    ),
    "freeze": (
        "A worker frozen",
        (
            "SIGSTOP to a worker with jobs that take two seconds, until another has done them or the grace is over; "
            "then SIGCONT. Last column: jobs whose stored result is the first worker's in the end."
        ),
        FROZEN,
    ),
    "hold": (
        "Nothing killed, long tasks",
        (
            "Healthy workers run jobs that take 20 s, with the settings as above: what it costs to give back soon "
            "what a dead worker held. saq wants a longer timeout for such tasks (here it is the default, 10 s); that "
            "is then also how long a dead worker's jobs stay where they are."
        ),
        HELD,
    ),
}
WORDS = """\
**lost**: confirmed, not done, and in no place from which it would be run. **held**: not done when the grace was over,
but still somewhere; the notes say where. In flight: started and not ended when something was killed. Those, and those
that had ended just before, may run twice with any queue that promises at least once. **doubled**: ended more than once;
*untouched* are those of them that no kill explains: in what was killed they had not started, or had ended more than a
second before. All done after: from the last kill until the last job's end. Workers that ended: by themselves; they
were started again, as all are."""


def text(results: Results) -> str:
    """The whole report."""
    machine = results.machine
    about = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {machine['server']}, Python "
        f"{machine['python']}; begun {results.begun} with a load average of {machine['load']}, "
        f"{results.took_minutes:g} minutes; {machine['plan']}."
    )
    parts = ["# Faults, side by side", about, *([] if results.is_complete else ["**Not all runs were made.**"]), WORDS]
    settings = [
        [name, f"{told['package']} {told['version']}", told["settings"]] for name, told in results.contenders.items()
    ]
    lines = [["contender", "package", "settings"], ["---"] * 3, *settings]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([*parts, tables(results), "## Settings", shown]) + "\n"


def tables(results: Results) -> str:
    """A table for each scenario, and what there is to say of single runs."""
    parts = []
    for scenario, (title, about, columns) in TITLES.items():
        if names := results.names(scenario):
            rows = [[name, *(_cell(results, name, scenario, value) for value in columns)] for name in names]
            parts += [f"## {title}", about, table(["", *columns.values()], rows)]
            runs = [run for run in results.runs if run.workload == scenario]
            notes = [f"- {run.contender}: {note}" for run in runs for note in _notes(run)]
            parts += ["\n".join(notes)] if notes else []
    return "\n\n".join(parts)


def line_of(run: Run) -> str:
    """A run as one line."""
    columns = TITLES[run.workload][2]
    shown = [
        f"{name.strip('*')} {_figure(value, run.values[value])}"
        for value, name in columns.items()
        if value in run.values
    ]
    return f"{run.round} {run.workload:10} {run.contender:14} {'; '.join([', '.join(shown), *_notes(run)])}"


def _cell(results: Results, name: str, scenario: str, value: str) -> str:
    found = results.spread(name, scenario, value)
    if found is None:
        return "-"
    median, least, greatest = (_figure(value, each) for each in (found.median, found.least, found.greatest))
    return median if least == greatest else f"{median} ({least} to {greatest})"


def _figure(value: str, found: float) -> str:
    return f"{found:.1f}" if value.endswith("_s") else f"{found:,.0f}"


def _notes(run: Run) -> Iterator[str]:
    if run.error:
        yield f"failed: {run.error.partition(chr(10))[0]}"
    if where := run.values.get("where"):
        yield "held: " + ", ".join(f"{count} {place}" for place, count in where.items())
    if refused := run.values.get("refused"):
        errors = ", ".join(f"{kind} {count}" for kind, count in run.values["errors"].items())
        yield f"{refused} calls of enqueue failed ({errors})"


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(DIRECTORY / "faults.json")]:
        Path(name).with_suffix(".md").write_text(text(Results.load(Path(name))), encoding="utf-8")
