"""The short form of what befalls the database that keeps results."""

import asyncio
import os
import signal

import pytest

from . import report
from .scenario import Scenario, play
from .scenarios import results
from .scenarios.workers import kill_child
from .stage import Stage, end


async def some_of_all(stage: Stage, seconds: float) -> None:
    """The database stands still, and is killed; a worker's process is killed while it is away."""
    stage.server()
    postgres = await asyncio.to_thread(stage.database)
    store, group = stage.store, stage.work("-c", "10", "--lease", "2")
    assert store is not None
    stage.produce(count=1, rate=40, mix={"quick": 0.7, "flaky": 0.2, "failing": 0.1})
    await stage.first_jobs()
    database = results.processes(postgres)
    with stage.fault("store frozen", pids=()):
        end(database, signal.SIGSTOP)
        await stage.until(store.spooled, what="a result that waits in Redis")
    end(database, signal.SIGCONT)
    await stage.until(lambda: not store.spooled(), what="an empty spool")
    with stage.fault("store killed", pids=()):
        postgres.kill()
        end(database)
        await stage.until(store.spooled, what="a result that waits in Redis")
        await kill_child(stage, group, set(), settle_s=results.WRITING_S)
        await asyncio.to_thread(postgres.start)
    await asyncio.sleep(seconds)


@pytest.mark.timeout(120)  # four processes start one after the other
async def test_what_befalls_the_database_costs_no_row(tmp_path):
    """Fails when what ended while it was away is not written later, or is written twice, or not as it ended."""
    scenario = Scenario("some of all", "", "", some_of_all, lacks=results.lacks)
    outcome = await play(scenario, 0.5, "7", tmp_path / "stage")
    if outcome.lacks and os.environ.get("RQUEUE_TEST_POSTGRES") != "required":
        pytest.skip(outcome.lacks)
    assert outcome.verdict.broken == [], report.line(outcome)
    assert outcome.verdict.done > 0
