"""What a scenario is, and how one is played."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from .stage import NoRest, Stage
from .verdict import Verdict

MUCH = 5.0
"""Recovery that takes so many times its goal is another way of recovery: the lease's end, say."""
ENOUGH = 5


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble.

    Attributes:
        name: as `--only` takes it.
        about: what is done, in a sentence.
        keeps: what is guaranteed meanwhile, in a sentence.
        run: sets the stage and does it, for about so many seconds; the frame does the rest (`Stage.rest`).
        least_s: it shows nothing in less.
        goal_s: what recovery should take at most. A median far above it breaks the run.
        lacks: says what this machine lacks for it, or nothing.
    """

    name: str
    about: str
    keeps: str
    run: Callable[[Stage, float], Awaitable[None]]
    least_s: float = 10.0
    goal_s: float | None = None
    lacks: Callable[[], str] = lambda: ""


@dataclass
class Outcome:
    """A scenario that was played, or was not, for want of something."""

    scenario: Scenario
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    server: str = ""
    lacks: str = ""

    @property
    def has_passed(self) -> bool:
        return not self.verdict.broken


def too_slow(verdict: Verdict, goal_s: float | None) -> list[str]:
    """What is to be said of the recovery: a busy machine makes it slow, but not so slow most times."""
    if goal_s is None or len(verdict.recovered_s) < ENOUGH or (verdict.median_s or 0.0) <= MUCH * goal_s:
        return []
    return [f"recovery: a median of {verdict.median_s:.1f} s, and the goal is {goal_s:g} s"]


async def play(scenario: Scenario, seconds: float, seed: str, directory: Path) -> Outcome:
    """Play it; its chances come from the seed and its name, so that it is the same alone and among others."""
    if lacks := scenario.lacks():
        return Outcome(scenario, lacks=lacks)
    began = time.monotonic()
    async with Stage(directory, f"{seed}:{scenario.name}") as stage:
        verdict, problems = Verdict(), []
        try:
            try:
                await scenario.run(stage, seconds)
            except Exception as error:  # noqa: BLE001 - what the scenario itself did not expect ends it, and is broken
                problems.append(described(error))
            verdict = await stage.rest()
        except Exception as error:  # noqa: BLE001 - likewise; the others are played all the same
            problems.append(described(error))
        verdict.broken += [*problems, *too_slow(verdict, scenario.goal_s)]
        return Outcome(scenario, time.monotonic() - began, verdict, stage.server_version)


def described(error: Exception) -> str:
    return str(error) if isinstance(error, NoRest) else f"{type(error).__name__}: {error}"


def run_one(scenario: Scenario, seconds: float, seed: str, directory: Path) -> Outcome:
    """The same, from where no event loop runs."""
    return asyncio.run(play(scenario, seconds, seed, directory))
