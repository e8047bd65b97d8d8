"""What a scenario is, and how one is played."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from .stage import NoRest, Stage
from .verdict import Verdict


@dataclass(frozen=True)
class Scenario:
    """One kind of trouble.

    Attributes:
        name: as `--only` takes it.
        about: what is done, in a sentence.
        keeps: what is guaranteed meanwhile, in a sentence.
        run: sets the stage and does it, for about so many seconds; the frame does the rest (`Stage.rest`).
        least_s: it shows nothing in less.
        goal_s: what recovery should take at most.
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


async def play(scenario: Scenario, seconds: float, seed: str, directory: Path) -> Outcome:
    """Play it; its chances come from the seed and its name, so that it is the same alone and among others."""
    if lacks := scenario.lacks():
        return Outcome(scenario, lacks=lacks)
    began = time.monotonic()
    async with Stage(directory, f"{seed}:{scenario.name}") as stage:
        problem = ""
        try:
            await scenario.run(stage, seconds)
        except (NoRest, TimeoutError) as error:
            problem = str(error) or "timed out"
        verdict = await stage.rest()
        if problem:
            verdict.broken.append(problem)
        return Outcome(scenario, time.monotonic() - began, verdict, stage.server_version)


def run_one(scenario: Scenario, seconds: float, seed: str, directory: Path) -> Outcome:
    """The same, from where no event loop runs."""
    return asyncio.run(play(scenario, seconds, seed, directory))
