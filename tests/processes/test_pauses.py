"""SIGKILL around a pause: what a dead worker leaves in a paused queue waits there, and nothing is lost."""

import asyncio

from .conftest import SideBySide
from .fleet import Fleet


async def killed_in_a_paused_queue(fleet: Fleet) -> None:
    """What it ran goes back, and nobody starts it until the queue is resumed; the tokens keep others from it."""
    victim = await fleet.ready(concurrency=4)
    gates = str(fleet.oracle.parent)
    expected = await fleet.enqueue(4, "wait", gates)
    await fleet.until(lambda: len(fleet.starts()) == 4)
    heir = await fleet.ready(concurrency=4)
    await fleet.app.pause("default")
    expected |= await fleet.enqueue(4, "wait", gates, first=4)
    await victim.kill()
    await fleet.until(lambda: fleet.registered() == {heir.pid})
    sizes = await fleet.app.session().broker.sizes(fleet.keys)
    assert (sum(sizes.waiting), sizes.running, sizes.is_paused) == (8, 0, True)
    assert {pid for pids in fleet.starts().values() for pid in pids} == {victim.pid}
    for job_id in expected:
        (fleet.oracle.parent / job_id).touch()
    await fleet.app.resume("default")
    assert await fleet.results(expected) == expected
    await fleet.stop()
    assert fleet.leaks() == {}


async def killed_while_it_parks(fleet: Fleet) -> None:
    """Before the step the job is claimed, and comes back; it is parked by the next worker."""
    await fleet.app.session().broker.announce("default")
    await fleet.app.pause(task="double")
    victim = await fleet.ready(["before retry"])
    expected = await fleet.enqueue(5)
    await victim.at("before retry")
    heir = await fleet.ready()
    await victim.kill()
    broker = fleet.app.session().broker
    async with asyncio.timeout(20):
        while len(await broker.parked(fleet.keys)) < 5:
            await asyncio.sleep(0.02)
    assert fleet.starts() == {}
    await fleet.app.resume(task="double")
    assert await fleet.results(expected) == expected
    assert {pid for pids in fleet.starts().values() for pid in pids} == {heir.pid}
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_worker_killed_around_a_pause(side_by_side: SideBySide) -> None:
    await side_by_side({each.__name__: each for each in (killed_in_a_paused_queue, killed_while_it_parks)})
