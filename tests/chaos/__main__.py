"""`make chaos`: play the scenarios, say what came out, write the report, fail for what is against the guarantees."""

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from . import report
from .scenario import Outcome, Scenario, run_one
from .scenarios import SCENARIOS

REPORT = Path(__file__).resolve().parents[2] / "docs" / "chaos-report.md"
REST_S = 5.0  # what a scenario takes beside its trouble: start, drain, stop


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 when all guarantees were kept."""
    given = parse(arguments)
    if given.list:
        for scenario in SCENARIOS:
            say(f"{scenario.name}: {scenario.about}")
        return 0
    chosen = [scenario for scenario in SCENARIOS if not given.only or scenario.name in given.only]
    share_s = given.minutes * 60 / len(chosen) - REST_S
    minutes = sum(max(share_s, scenario.least_s) + REST_S for scenario in chosen) / 60
    say(f"seed {given.seed}: repeat it with CHAOS_SEED={given.seed}")
    say(f"{len(chosen)} scenarios, about {minutes:.0f} minutes")
    load = os.getloadavg()[0]  # on a machine that has much else to do, recovery takes as long as that lets it
    outcomes = [play(scenario, share_s, given.seed) for scenario in chosen]
    if given.report or not given.only:
        report.write(given.report or REPORT, outcomes, given.seed, load)
    say(report.table([report.HEAD, *map(report.row, outcomes)]))
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


def play(scenario: Scenario, share_s: float, seed: str) -> Outcome:
    """Play one in a directory of its own, which stays when something is broken."""
    directory = Path(tempfile.mkdtemp(prefix="rqueue-chaos-"))
    try:
        outcome = run_one(scenario, max(share_s, scenario.least_s), seed, directory / "stage")
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(directory, ignore_errors=True)
        raise
    say(report.line(outcome))
    if outcome.has_passed:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        say(f"  its logs: {directory}")
    return outcome


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="for all scenarios together; each has a minimum, 7 minutes in all"
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="only these scenarios")
    parser.add_argument("--seed", default=os.environ.get("CHAOS_SEED") or secrets.token_hex(4))
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--report", type=Path, help="where the report goes; default, for a run over all: docs/")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program of its own


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also then no process is left behind
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # all processes are ended, and what is half done says nothing
        sys.exit(128 + signal.SIGINT)
