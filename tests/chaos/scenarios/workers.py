"""What befalls workers."""

import asyncio
import os
import signal
import time

from tests.chaos.scenario import Scenario
from tests.chaos.stage import Group, Stage, is_alive

PAIR = ("--processes", "2", "-c", "10")


async def kill_child(stage: Stage, group: Group, aged: float, used: set[int]) -> None:
    """SIGKILL one process of the group that was not aimed at yet, so long after its first job."""
    fresh = await stage.until(lambda: [pid for pid in stage.busy(group) if pid not in used], what="a process at work")
    pid = stage.chance.choice(fresh)
    used.add(pid)
    await stage.age(pid, aged)
    with stage.fault("kill", pids={pid}, heals="again"):
        os.kill(pid, signal.SIGKILL)
        await stage.until(lambda: not is_alive(pid), what="the end of a killed process")


async def kills(stage: Stage, seconds: float) -> None:
    stage.server()
    groups = [stage.work(*PAIR) for _ in range(2)]
    stage.produce()
    await stage.first_jobs()
    used: set[int] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await kill_child(stage, stage.chance.choice(groups), stage.chance.uniform(0.02, 0.3), used)
        await asyncio.sleep(stage.chance.uniform(0.1, 0.5))


SCENARIOS = [
    Scenario(
        "kills",
        "worker processes are killed by SIGKILL all the time, 20 to 300 ms after their first job",
        "nothing is lost; only what was in flight in a killed process runs again",
        kills,
        goal_s=1.0,
    ),
]
