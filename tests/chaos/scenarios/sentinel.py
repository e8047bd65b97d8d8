"""What befalls a master that sentinels watch."""

import asyncio
import itertools
import os
import signal
import time

from redis.sentinel import Sentinel

from tests.broker.sentinels import SERVICE, Fleet
from tests.chaos.scenario import Scenario
from tests.chaos.stage import Stage
from tests.chaos.store import Store
from tests.chaos.tasks import make_app

DOWN_AFTER_MS = 2000
"""A busy machine keeps a healthy master silent for half a second; a failover that nobody meant leads back to a server
that has just been frozen, and what ended meanwhile runs again."""

LAG_S = 1.0
"""What ended so long before a failover may not have reached the replica: Redis answers before it has."""


class Probe:
    """Enqueues a job as soon as it can, without `durability`: a new master has no replica at first.

    It keeps a producer's log, so that its jobs count like any others.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage, self._app = stage, make_app(stage.url)
        self._log = stage.logs / "producer-probe.log"
        self._numbers = itertools.count(1)

    async def see_one_done(self) -> None:
        """Enqueue a job, and return when it has ended."""
        mark = f"m.probe.{next(self._numbers)}"
        task = self._app.tasks.find("quick")
        assert task is not None
        self._note("intent", mark, "quick default 0.0")
        job = await task.options(queue="default", priority=10).enqueue(mark, 0.0)
        self._note("confirmed", mark, f"default {job.id}")
        await self._stage.until(lambda: self._has_ended(mark), what=f"the end of {mark}")

    async def close(self) -> None:
        await self._app.close()

    def _has_ended(self, mark: str) -> bool:
        self._stage.oracle.read()
        return bool(self._stage.oracle.ends(mark))

    def _note(self, what: str, mark: str, more: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what} {mark} {os.getpid()} {time.monotonic():.6f} {more}\n")


def watched(stage: Stage) -> Fleet:
    """A master, a replica and three sentinels: the stage's store."""
    fleet = Fleet(down_after_ms=DOWN_AFTER_MS).__enter__()
    stage.closes(fleet.__exit__)
    places = [("127.0.0.1", sentinel.port) for sentinel in fleet.sentinels]
    stage.url, stage.store = fleet.url, Store(lambda: Sentinel(places).master_for(SERVICE))
    return fleet


async def failovers(stage: Stage, seconds: float, *, is_frozen: bool) -> None:
    fleet = watched(stage)
    stage.work("--processes", "2", "-c", "10")
    stage.work("--processes", "2", "-c", "10")
    stage.produce(app={"durability": "replicated", "enqueue_timeout": 20})
    await stage.first_jobs()
    probe, over = Probe(stage), time.monotonic() + seconds
    await probe.see_one_done()
    while time.monotonic() < over:
        await asyncio.sleep(stage.chance.uniform(0.5, 1.5))
        old = await asyncio.to_thread(fleet.master)
        what = "the master frozen" if is_frozen else "the master killed"
        with stage.fault(what, heals="working", charges=False, settle_s=LAG_S):
            os.kill(old.pid, signal.SIGSTOP if is_frozen else signal.SIGKILL)
            await asyncio.to_thread(fleet.elected, old)
        await probe.see_one_done()
        if is_frozen:
            os.kill(old.pid, signal.SIGCONT)  # for some seconds it takes itself for the master
        else:
            old.kill()
            await asyncio.to_thread(fleet.follow, old)
        await asyncio.to_thread(fleet.settle)
    await probe.close()


async def kills(stage: Stage, seconds: float) -> None:
    await failovers(stage, seconds, is_frozen=False)


async def freezes(stage: Stage, seconds: float) -> None:
    await failovers(stage, seconds, is_frozen=True)


SCENARIOS = [
    Scenario(
        "sentinel",
        "the master of a pair that three sentinels watch is killed again and again, and comes back as a replica, under"
        ' producers with `durability="replicated"`; recovery counts from the election of the new master until a job'
        " that was enqueued there is done",
        "nothing that was confirmed is lost; only what was in flight, or had ended within a second before, runs again",
        kills,
        least_s=15.0,
        goal_s=2.0,
    ),
    Scenario(
        "sentinel-frozen",
        "the same with a master that stands still (SIGSTOP), and still takes itself for the master when it goes on",
        "as before; nobody goes back to the old master",
        freezes,
        least_s=20.0,
        goal_s=2.0,
    ),
]
