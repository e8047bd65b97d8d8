"""What task queues lose and double when workers and Redis are killed, and when a worker is frozen: side by side.

``make bench-faults``, or ``make bench-faults ARGS="--contenders rqueue,celery --scenarios workers --grace 30"``. All
contenders are supervised alike: a worker that has ended is started again. Each task notes its start and its end in a
log that is not in Redis (`benchmarks.oracle`), and from that log, not from what a queue says of itself, the figures
come. It needs Linux.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from subprocess import Popen
from typing import Any

import redis

from benchmarks import environments, faults_report
from benchmarks.__main__ import describe, pick
from benchmarks.contender import Contender, Setup
from benchmarks.contenders import find_contenders
from benchmarks.measure import send, tree
from benchmarks.oracle import Oracle, whereabouts
from benchmarks.results import DIRECTORY, Run
from benchmarks.stage import RunFailed, Stage, kill_whole
from rqueue.embedded import EmbeddedServerError

AIM_S = (0.02, 0.3)
DOWN_S = (0.2, 2.0)
RESTART_S = 0.1
JUST_S = 1.0
ON_ITS_WAY_S = 10.0  # as a peer takes a job off all lists, and puts it back seconds later
STANDSTILL_S = 60.0
LOOK_S, REST_S = 0.002, 0.05  # nobody tells
ASKING_S = 600.0
THAWED_S = 15.0
FROZEN_S, LONG_S = 2.0, 20.0
KEPT = {"appendonly": "yes", "appendfsync": "always"}

Values = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is done in a run."""

    seed: str
    jobs: int = 3000
    kills: int = 30
    child_kills: int = 10  # fewer: rqueue takes its time with a process that dies at once, again and again
    outages: int = 4
    per_s: float = 100.0  # enqueued while Redis is killed
    grace_s: float = 120.0
    settle_s: float = 2.0  # after the last end, for what is run again
    workers: int = 2
    concurrency: int = 4  # few enough that the jobs last until the last kill
    frozen: int = 4
    held: int = 4

    def names(self, count: int) -> list[str]:
        """Jobs, as the oracle knows them."""
        return [f"job-{number:06}" for number in range(count)]


@dataclass
class Fleet:
    """Workers that are started again when they have ended, whoever's they are."""

    stage: Stage
    roots: list[Popen[bytes]] = field(default_factory=list)
    exits: int = 0
    """How many ended although nobody had killed them."""
    _killed: set[int] = field(default_factory=set)
    _ended: dict[int, float] = field(default_factory=dict)

    def start(self, workers: int) -> None:
        """Start so many more."""
        self.roots += [self.stage.start_worker() for _ in range(workers)]

    def supervise(self) -> None:
        """Replace those that have ended a moment ago."""
        for place, root in enumerate(self.roots):
            if root.poll() is None:
                continue
            ended = self._ended.setdefault(root.pid, time.monotonic())
            if time.monotonic() > ended + RESTART_S:
                self.exits += root.pid not in self._killed
                self.roots[place] = self.stage.start_worker()

    def root_of(self, pid: int) -> Popen[bytes] | None:
        """The worker that a process belongs to; None if it has ended."""
        return next((root for root in self.roots if pid in tree([root.pid])), None)

    def kill(self, root: Popen[bytes], pid: int | None) -> list[int]:
        """Kill a worker with all its processes, or one process of it; who they were."""
        if pid is None or pid == root.pid:
            self._killed.add(root.pid)
            return kill_whole(root)
        send([pid], signal.SIGKILL)
        return [pid]


@dataclass
class Hit:
    """The jobs that a fault can have had to do with."""

    in_flight: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)

    def note(self, oracle: Oracle, pids: Iterable[int]) -> None:
        """Something was killed on which jobs of these processes depended."""
        oracle.read()
        self.in_flight.update(oracle.open_in(pids))
        self.touched.update(oracle.touched_in(pids, time.monotonic() - JUST_S))


class Killer:
    """Kills each worker, or each process that runs jobs, a moment after the first job of its life."""

    def __init__(self, fleet: Fleet, oracle: Oracle, dice: random.Random, *, whole: bool) -> None:
        self._fleet, self._oracle, self._dice, self._whole = fleet, oracle, dice, whole
        self._known: set[int] = set()
        self._aimed: dict[int, float] = {}
        self.kills = 0
        self.hit = Hit()
        self.last = time.monotonic()

    def step(self) -> None:
        """Aim at who has begun to run jobs; kill who is due."""
        self._oracle.read()
        for pid in [each for each in self._oracle.lives if each not in self._known]:
            self._known.add(pid)
            if root := self._fleet.root_of(pid):
                target = root.pid if self._whole else pid
                self._aimed.setdefault(target, self._oracle.lives[pid] + self._dice.uniform(*AIM_S))
        now = time.monotonic()
        for target in [each for each, due in self._aimed.items() if due <= now]:
            self._aimed[target] = float("inf")
            if root := self._fleet.root_of(target):
                self._kill(root, target)

    def _kill(self, root: Popen[bytes], target: int) -> None:
        gone = self._fleet.kill(root, None if self._whole else target)
        self.hit.note(self._oracle, gone)
        self.kills, self.last = self.kills + 1, time.monotonic()


def kill_workers(stage: Stage, plan: Plan, dice: random.Random) -> Values:
    """Workers are killed with all their processes, as when a container or a host goes."""
    return _kills(stage, plan, dice, whole=True, kills=plan.kills)


def kill_processes(stage: Stage, plan: Plan, dice: random.Random) -> Values:
    """The processes that run jobs are killed, as by the kernel when memory is short; what supervises them stays."""
    return _kills(stage, plan, dice, whole=False, kills=plan.child_kills)


def _kills(stage: Stage, plan: Plan, dice: random.Random, *, whole: bool, kills: int) -> Values:
    told = stage.ask("works", patience_s=ASKING_S, task="work", jobs=plan.names(plan.jobs))
    fleet = Fleet(stage)
    with closing(Oracle(stage.records.path)) as oracle:
        fleet.start(plan.workers)
        killer = Killer(fleet, oracle, dice, whole=whole)
        while killer.kills < kills and time.monotonic() < killer.last + STANDSTILL_S:
            killer.step()
            fleet.supervise()
            if len(oracle.ends) == len(told["confirmed"]):
                break
            time.sleep(LOOK_S)
        values = _outcome(stage, plan, fleet, oracle, told, killer.hit)
    return {"faults": killer.kills, **values}


def kill_redis(stage: Stage, plan: Plan, dice: random.Random) -> Values:
    """Redis, with each write on its disk, is killed and started again while jobs are enqueued and run."""
    fleet, seconds = Fleet(stage), plan.jobs / plan.per_s
    span = (seconds - 4) / plan.outages
    moments = [3 + span * (number + dice.random() * 0.8) for number in range(plan.outages)]
    with closing(Oracle(stage.records.path)) as oracle, ThreadPoolExecutor(1) as asking:
        fleet.start(plan.workers)
        begun, hit = time.monotonic(), Hit()
        jobs = plan.names(plan.jobs)
        telling = asking.submit(stage.ask, "works", patience_s=ASKING_S, task="work", jobs=jobs, per_s=plan.per_s)
        while moments or not telling.done():
            if moments and time.monotonic() > begun + moments[0]:
                del moments[0]
                stage.server.kill()
                hit.note(oracle, oracle.lives)
                _rest(dice.uniform(*DOWN_S), fleet)
                stage.server.start()
            fleet.supervise()
            oracle.read()
            time.sleep(REST_S)
        values = _outcome(stage, plan, fleet, oracle, telling.result(), hit)
    return {"faults": plan.outages, **values}


def freeze(stage: Stage, plan: Plan, dice: random.Random) -> Values:  # noqa: ARG001  # nothing is left to chance
    """A worker is stopped (SIGSTOP) until another has its jobs and has ended them, then it goes on."""
    fleet, jobs = Fleet(stage), plan.names(plan.frozen)
    with closing(Oracle(stage.records.path)) as oracle:
        fleet.start(1)
        stage.ask("works", task="hold", jobs=jobs)
        _until(lambda: len(_read(oracle).starts) == len(jobs), STANDSTILL_S, fleet)
        victims = tree([fleet.roots[0].pid])
        send(victims, signal.SIGSTOP)
        begun = time.monotonic()
        held = oracle.open_in(victims)
        fleet.start(1)

        def taken() -> list[str]:
            oracle.read()
            return [job for job in held if set(oracle.enders(job)).difference(victims)]

        _until(lambda: len(taken()) == len(held), plan.grace_s, fleet)
        took_s, found = time.monotonic() - begun, taken()
        send(victims, signal.SIGCONT)
        _until(lambda: not _read(oracle).open_in(victims), THAWED_S, fleet)
        _rest(plan.settle_s, fleet)
        late = [job for job in found if set(oracle.enders(job)).intersection(victims)]
        results = stage.ask("values", patience_s=ASKING_S, jobs=found)
        overwritten = [job for job in found if results[job] in victims]
    values = {"frozen": len(held), "taken": len(found), "late": len(late), "overwritten": len(overwritten)}
    return {**values, "exits": fleet.exits, **({"taken_s": took_s} if found else {})}


def hold(stage: Stage, plan: Plan, dice: random.Random) -> Values:  # noqa: ARG001
    """Nothing is killed: healthy workers run jobs that take 20 s. What does giving back sooner cost those?"""
    fleet, jobs = Fleet(stage), plan.names(plan.held)
    with closing(Oracle(stage.records.path)) as oracle:
        fleet.start(plan.workers)
        told = stage.ask("works", task="hold", jobs=jobs)

        def is_over() -> bool:
            oracle.read()
            return len(oracle.ends) == len(jobs) and not oracle.open_in(oracle.lives)

        _until(is_over, LONG_S * 3, fleet)
        _rest(plan.settle_s, fleet)
        oracle.read()
        starts, ends = ([each.get(job, []) for job in jobs] for each in (oracle.starts, oracle.ends))
    values = {"confirmed": len(told["confirmed"]), "done": sum(map(bool, ends)), "exits": fleet.exits}
    return {**values, "again": sum(len(each) > 1 for each in starts), "most": max(map(len, starts))}


def _read(oracle: Oracle) -> Oracle:
    oracle.read()
    return oracle


def _until(holds: Callable[[], bool], seconds: float, fleet: Fleet) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        fleet.supervise()
        time.sleep(REST_S)


def _rest(seconds: float, fleet: Fleet) -> None:
    _until(lambda: False, seconds, fleet)


def _outcome(stage: Stage, plan: Plan, fleet: Fleet, oracle: Oracle, told: Values, hit: Hit) -> Values:
    """Give it time to recover, then count."""
    over, confirmed = time.monotonic(), told["confirmed"]

    def missing() -> list[str]:
        oracle.read()
        return [job for job in confirmed if job not in oracle.ends]

    _until(lambda: not missing(), plan.grace_s, fleet)
    _rest(plan.settle_s, fleet)
    held = _held(stage, missing())
    if set(missing()) - set(held):  # it may be on its way
        _until(lambda: not missing(), ON_ITS_WAY_S, fleet)
        held |= _held(stage, missing())
    left, doubled = missing(), oracle.doubled(confirmed)
    held = {job: place for job, place in held.items() if job in left}
    back = max((oracle.ends[job][0].at for job in confirmed if job in oracle.ends), default=over)
    return {
        "confirmed": len(confirmed),
        "refused": len(told["refused"]),
        "errors": told["errors"],
        "done": len(confirmed) - len(left),
        "in_flight": len(hit.in_flight),
        "lost": len(left) - len(held),
        "held": len(held),
        "where": dict(Counter(held.values())),
        "doubled": len(doubled),
        "doubled_untouched": len(set(doubled) - hit.touched),
        "exits": fleet.exits,
        "processes": len(oracle.lives),
        **({} if left else {"back_s": max(0.0, back - over)}),
    }


def _held(stage: Stage, jobs: Iterable[str]) -> dict[str, str]:
    with redis.Redis.from_url(stage.setup.url) as server:
        return whereabouts(server, jobs, stage.contender.places)


SCENARIOS: dict[str, Callable[[Stage, Plan, random.Random], Values]] = {
    "workers": kill_workers,
    "processes": kill_processes,
    "redis": kill_redis,
    "freeze": freeze,
    "hold": hold,
}


def run(contender: Contender, scenario: str, plan: Plan, number: int = 1) -> Run:
    """One scenario with one contender, on a server of its own."""
    dice = random.Random(f"{plan.seed}/{scenario}/{number}")  # the same for all contenders
    setup = Setup(
        url="",
        workload=scenario,
        concurrency=plan.concurrency,
        workers=plan.workers,
        hold_s=LONG_S if scenario == "hold" else FROZEN_S,
    )
    try:
        with Stage(contender, setup, KEPT if scenario == "redis" else None) as stage:
            return Run(contender.name, scenario, number, SCENARIOS[scenario](stage, plan, dice))
    except (RunFailed, EmbeddedServerError, redis.RedisError) as error:
        return Run(contender.name, scenario, number, {}, str(error))


def chosen_options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    options.add_argument("--contenders", metavar="NAME,…", help="only these")
    options.add_argument("--scenarios", metavar="NAME,…", help=f"only these of {', '.join(SCENARIOS)}")
    options.add_argument("--rounds", type=int, default=1, help="of all (1)")
    options.add_argument("--minutes", type=float, default=90.0, help="begin no run after so long (90)")
    options.add_argument("--jobs", type=int, default=3000, help="of a run (3000)")
    options.add_argument("--kills", type=int, default=30, help="of workers in a run (30)")
    options.add_argument("--grace", type=float, default=120.0, help="seconds to recover in (120)")
    options.add_argument("--seed", default=secrets.token_hex(4), help="of the moments of faults")
    options.add_argument("--name", default="faults", help="of the files under benchmarks/results (faults)")
    return options.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Set up, run, report."""
    start, chosen = time.monotonic(), chosen_options(arguments)
    taking_part = {name: each for name, each in find_contenders().items() if each.places}
    contenders = pick(taking_part, chosen.contenders, "contender")
    scenarios = pick({name: name for name in SCENARIOS}, chosen.scenarios, "scenario")
    for environment in dict.fromkeys(each.environment for each in contenders):
        environments.make(environment)
    plan, path = (
        Plan(chosen.seed, jobs=chosen.jobs, kills=chosen.kills, grace_s=chosen.grace),
        DIRECTORY / f"{chosen.name}.json",
    )
    results = describe(contenders)
    results.machine["plan"] = (
        f"{plan.jobs:,} jobs of 10 ms, {plan.workers} workers of {plan.concurrency} at once, {plan.grace_s:g} s of "
        f"grace, seed {plan.seed}"
    )
    wanted = [
        (n, s, c)
        for n in range(1, chosen.rounds + 1)
        for s in scenarios
        for c in contenders
        if s != "processes" or c.is_supervised
    ]
    for number, scenario, contender in wanted:
        if time.monotonic() > start + 60 * chosen.minutes:
            break
        results.runs.append(run(contender, scenario, plan, number))
        print(faults_report.line_of(results.runs[-1]), flush=True)
        results.took_minutes = round((time.monotonic() - start) / 60, 1)
        results.is_complete = len(results.runs) == len(wanted)
        results.save(path)
    path.with_suffix(".md").write_text(faults_report.text(results), encoding="utf-8")
    print(f"\n{faults_report.tables(results)}\n{path}\n{path.with_suffix('.md')}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave nothing behind
    main(sys.argv[1:])
