"""A cancelled job ends as REVOKED and never runs again, whoever dies meanwhile."""

import pytest

from rqueue import Cancelled, JobRevoked

from .fleet import Fleet


async def test_a_worker_killed_before_it_hears(fleet: Fleet) -> None:
    """It stands still, has not heard of the cancel, and is killed: its heir knows.

    Fails when the stop is only announced, or a reaper or a promoter puts the job where a block takes it.
    """
    victim = fleet.start({"task": 1}, concurrency=1)
    (job_id,) = await fleet.enqueue(1, "halt")
    await victim.at("task")
    assert await fleet.app.job(job_id).cancel() is Cancelled.REQUESTED
    heir = await fleet.ready()
    await victim.kill()
    with pytest.raises(JobRevoked):
        await fleet.app.job(job_id).result(25)
    expected = await fleet.enqueue(1)
    assert await fleet.results(expected) == expected
    await fleet.stop()
    assert fleet.starts()[job_id] == [victim.pid]
    assert heir.pid not in fleet.starts()[job_id]
    assert fleet.leaks() == {}
    assert fleet.dead() == {}
