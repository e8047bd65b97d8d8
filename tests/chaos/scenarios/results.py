"""What befalls the database that keeps results, and the workers that write to it."""

import asyncio
import signal
import time

from tests.chaos.scenario import Scenario
from tests.chaos.scenarios.workers import LONG_S, PAIR, SHORT_LEASE_S, kill_child, settle_in
from tests.chaos.stage import Stage, descendants, end
from tests.postgres import NoPostgres, Postgres, binaries

WRITING_S = 3.0
"""A job's end goes to the store first: two seconds, if that does not answer, before it goes to Redis."""


def lacks() -> str:
    try:
        binaries()
    except NoPostgres as error:
        return str(error)
    return ""


def processes(postgres: Postgres) -> list[int]:
    return [postgres.pid, *descendants(postgres.pid)]


async def kills(stage: Stage, seconds: float) -> None:
    """The database is killed and started again; processes of workers are killed before, meanwhile and after."""
    stage.server()
    postgres = await asyncio.to_thread(stage.database)
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(rate=25, seconds=LONG_S)
    await settle_in(stage, 4, seconds)
    over, used = time.monotonic() + seconds, set[int]()
    while time.monotonic() < over:
        moment = stage.pick(("before", "meanwhile", "after"))
        if moment == "before":
            await kill_child(stage, stage.pick(stage.groups), used, settle_s=WRITING_S)
        with stage.fault("store killed", pids=()):
            gone = processes(postgres)
            postgres.kill()
            end(gone)
            await asyncio.sleep(stage.chance.uniform(0.0, 1.5))
            if moment == "meanwhile":
                await kill_child(stage, stage.pick(stage.groups), used, settle_s=WRITING_S)
            await asyncio.to_thread(postgres.start)
        if moment == "after":
            await kill_child(stage, stage.pick(stage.groups), used, settle_s=WRITING_S)
        await asyncio.sleep(stage.chance.uniform(0.1, 4.0))


async def freezes(stage: Stage, seconds: float) -> None:
    """The database, or a worker's process, or both, stand still: a worker for so long that others do its jobs."""
    stage.server()
    postgres = await asyncio.to_thread(stage.database)
    for _ in range(3):
        stage.work(*PAIR, "--lease", str(SHORT_LEASE_S))
    stage.produce(seconds=(0.0, 0.3), rate=40)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        what = stage.pick(("store", "worker", "both"))
        worker = [stage.pick(stage.busy(stage.pick(stage.groups)))] if what != "store" else []
        database = processes(postgres) if what != "worker" else []
        with stage.fault(f"{what} frozen", pids=worker, heals="again" if worker else None, settle_s=WRITING_S):
            end([*worker, *database], signal.SIGSTOP)
            await asyncio.sleep((2.5 if worker else stage.chance.uniform(0.1, 3.0)) * SHORT_LEASE_S)
        order = [*worker, *database] if stage.chance.random() < 0.5 else [*database, *worker]
        end(order, signal.SIGCONT)
        await asyncio.sleep(stage.chance.uniform(0.2, 3.0))


SCENARIOS = [
    Scenario(
        "store-kills",
        "results go to PostgreSQL, which is killed by SIGKILL and started again, while worker processes are killed too",
        "nothing is lost; each settled job has its row, once; only what was in flight in a killed worker process runs"
        " again",
        kills,
        lacks=lacks,
    ),
    Scenario(
        "store-freezes",
        "the same with a PostgreSQL that stands still (SIGSTOP), or a worker process that does so for two and a half"
        " leases of 2 s, or both at once",
        "as before; a worker that went on late overwrites no row",
        freezes,
        lacks=lacks,
    ),
]
