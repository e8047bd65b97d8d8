"""What the process tests share: a fleet of real worker processes, on the session's server or on one of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from .fleet import Fleet

NewFleet = Callable[[str], Fleet]
Scene = Callable[[Fleet], Awaitable[None]]
SideBySide = Callable[[Mapping[str, Scene]], Awaitable[None]]


@pytest.fixture
async def new_fleet(tmp_path: Path) -> AsyncIterator[NewFleet]:
    """Make fleets on servers of the test's own; all processes are ended with the test."""
    fleets: list[Fleet] = []

    def make(url: str) -> Fleet:
        directory = tmp_path / str(len(fleets))
        directory.mkdir()
        fleets.append(Fleet(url, directory))
        return fleets[-1]

    yield make
    for fleet in fleets:
        await fleet.close()


@pytest.fixture
def fleet(redis_url: str, new_fleet: NewFleet) -> Fleet:
    """A fleet on the session's server, with nothing stored in it."""
    return new_fleet(redis_url)


@pytest.fixture
def side_by_side(redis_url: str, new_fleet: NewFleet) -> SideBySide:
    """Play scenes at once, each in a database of its own: most of their time is a lease that runs out."""

    async def play(scenes: Mapping[str, Scene]) -> None:
        fleets = [new_fleet(f"{redis_url.rpartition('/')[0]}/{number}") for number in range(len(scenes))]
        ends = await asyncio.gather(
            *(scene(fleet) for scene, fleet in zip(scenes.values(), fleets, strict=True)), return_exceptions=True
        )
        errors = []
        for name, end in zip(scenes, ends, strict=True):
            if isinstance(end, BaseException):
                end.add_note(f"in the scene: {name}")
                errors.append(end)
        if errors:
            raise errors[0] if len(errors) == 1 else BaseExceptionGroup("scenes", errors)

    return play
