"""What is printed of a run, and the page that is written."""

import datetime as dt
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import rqueue

from .scenario import Outcome

HEAD = (
    "scenario", "seconds", "confirmed", "done", "dead", "lost", "doubled", "in flight",
    "recovered, median", "worst", "keys left", "verdict",
)  # fmt: skip


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def row(outcome: Outcome) -> tuple[str, ...]:
    """One scenario's figures, under HEAD."""
    verdict = outcome.verdict
    if outcome.lacks:
        return (outcome.scenario.name, *[""] * (len(HEAD) - 2), f"not played: {outcome.lacks}")
    counts = (verdict.confirmed, verdict.done, verdict.dead, verdict.lost, verdict.doubled, verdict.in_flight)
    return (
        outcome.scenario.name,
        f"{outcome.seconds:.0f}",
        *(f"{count:,}" for count in counts),
        seconds(verdict.median_s),
        seconds(verdict.worst_s),
        str(len(verdict.left)),
        "kept" if outcome.has_passed else "**BROKEN**",
    )


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count} times" for what, count in sorted(counts.items()))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def line(outcome: Outcome) -> str:
    """What is printed when a scenario is over."""
    verdict = outcome.verdict
    cells = [f"{name} {cell}" for name, cell in zip(HEAD[1:], row(outcome)[1:], strict=True) if cell]
    return "\n".join(
        [
            f"{outcome.scenario.name}: {', '.join(cells)}; faults: {counted(verdict.faults) or 'none'}",
            *([f"  {verdict.struck} of {verdict.aimed} faults cut something off"] if verdict.aimed else []),
            *([f"  enqueueing raised {counted(verdict.errors)}"] if verdict.errors else []),
            *(f"  BROKEN: {text}" for text in verdict.broken),
        ]
    )


def page(outcomes: Sequence[Outcome], seed: str, load: float = 0.0) -> str:
    """The report; `load` is what the machine had to do before it began."""
    servers = sorted({outcome.server for outcome in outcomes if outcome.server})
    total = sum(outcome.seconds for outcome in outcomes)
    done = [
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"rqueue {rqueue.__version__}",
        ", ".join(servers),
        f"the machine's load before it began: {load:.1f}",
    ]
    today = dt.datetime.now(dt.UTC).date()
    parts = [
        "# What is lost, and what runs twice",
        INTRODUCTION,
        f"{today}, {total / 60:.0f} minutes, seed `{seed}`; {'; '.join(done)}.",
        table([HEAD, *map(row, outcomes)]),
        MEANING.strip(),
        "## The scenarios",
        *map(paragraph, outcomes),
    ]
    return "\n\n".join(parts) + "\n"


def paragraph(outcome: Outcome) -> str:
    """One scenario in words."""
    scenario, verdict = outcome.scenario, outcome.verdict
    faults = counted(verdict.faults)
    errors = counted(verdict.errors)
    parts = [f"**{scenario.name}**: {scenario.about}. Guaranteed: {scenario.keeps}."]
    parts += [f"Done to it: {faults}."] if faults else []
    parts += [f"{verdict.struck} of {verdict.aimed} cut something off."] if verdict.aimed else []
    parts += [f"Enqueueing raised: {errors}."] if errors else []
    parts += [f"Redis forgot {verdict.forgotten:,} jobs, as it may."] if verdict.forgotten else []
    parts += [f"Goal for recovery: {scenario.goal_s:g} s."] if scenario.goal_s else []
    parts += [f"Broken: {text}." for text in verdict.broken]
    return " ".join(parts)


INTRODUCTION = (
    "This page is written by `make chaos`: real servers, real producers and workers, and what is done to them. What the"
    " words mean stands below the table."
)

MEANING = """
Producers log each job before they send it and when the call has returned; each task logs its start and its end. The
logs are files, forced to disk line by line, and Redis has no part in them.

- **confirmed**: the call that enqueues it has returned. **done**: a run of it ended well. **dead**: it is a dead
  letter, as it should be: its task always fails, or it has cost three workers. **lost**: confirmed, and neither of the
  two; or a dead letter that should not be.
- **doubled**: more than one run of it ended. **in flight**: runs that were under way at a fault in the processes that
  it hit, or had ended at most 0.25 s before, so that Redis may not have had their end yet. That is what can double at
  all. Each doubled job must have had such a run, else the verdict is *broken*.
- **recovered**: from a fault until the last of the jobs that it cut off ran again; where a fault of Redis or of the
  network stopped everything: from its end until a job that was enqueued after it was done.
- **keys left**: keys without a time to live when all is done and the workers have stopped. Dead letters, and the set of
  the queues' names, are meant to stay.

The run fails for each loss, each doubled job and each further run that was not in flight, each key left over, each
result that is missing, not its job's, or that of a run that had lost its claim, each job that has ended well and is a
dead letter, each job that ran although its enqueue was refused, for a process that does not take up its work again, and
for workers that do not come to rest. Where results go to a database it fails as well for each settled job that has no
row there, or more than one, or one that says something else than Redis's record: another state, or the result of
another run. Rows are counted once nothing waits in Redis for the database. A recovery above its goal does not fail the
run, since it depends on what else the machine has to do; a median of five times the goal does.
"""


def write(path: Path, outcomes: Sequence[Outcome], seed: str, load: float) -> None:
    path.write_text(page(outcomes, seed, load), encoding="utf-8")
