"""The rounds: round 1 of all workloads and contenders, then round 2, one run at a time, within the time given."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import redis

from benchmarks.contender import Contender
from benchmarks.results import Run
from benchmarks.stage import RunFailed, Stage
from benchmarks.workloads import Pace, Workload
from rqueue import RQueueError

OURS = ("rqueue", "floor-enqueue", "floor-drain", "floor-roundtrip", "celery-prefork")
"""What goals compare, and so runs as often as the workload says; the others are peers."""
MOST_FAILURES = 2


@dataclass(frozen=True)
class Plan:
    """What is run: at most `rounds` of each pair, nothing begun after `deadline` (on the monotonic clock)."""

    contenders: Sequence[Contender]
    workloads: Sequence[Workload]
    rounds: int
    deadline: float

    def of_round(self, number: int) -> Iterator[tuple[Workload, Contender]]:
        """The pairs of that round; every other one in the other order, so that nobody always follows the same."""
        order = self.contenders if number % 2 else self.contenders[::-1]
        for workload in self.workloads:
            for contender in order:
                rounds = workload.rounds if contender.name in OURS else workload.peer_rounds
                if workload.suits(contender) and number <= min(rounds, self.rounds):
                    yield workload, contender


def run_rounds(plan: Plan, pace: Pace, note: Callable[[Run], None]) -> bool:
    """Run the plan, and note each line as it comes. False if time ran out before all was done."""
    failures: Counter[tuple[str, str]] = Counter()
    for number in range(1, plan.rounds + 1):
        for workload, contender in plan.of_round(number):
            if time.monotonic() > plan.deadline:
                return False
            pair = (contender.name, workload.name)
            if failures[pair] < MOST_FAILURES:
                failures[pair] += not _run_once(workload, contender, number, pace, note)
    return True


def _run_once(workload: Workload, contender: Contender, number: int, pace: Pace, note: Callable[[Run], None]) -> bool:
    try:
        with Stage(contender, workload.setup) as stage:
            found = workload.run(stage, pace)
    except (RunFailed, RQueueError, redis.RedisError, subprocess.SubprocessError, OSError) as failure:
        note(Run(contender.name, workload.name, number, {}, str(failure)))  # the others go on
        return False
    for line, values in found.items():
        note(Run(contender.name, line, number, values))
    return True
