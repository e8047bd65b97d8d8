"""SIGKILL of a worker that runs a unique job: while the job is there the lock holds, and no end leaves it held."""

from functools import partial

from rqueue.wire.message import Message

from .conftest import SideBySide
from .fleet import Fleet


async def test_a_worker_killed_with_a_unique_job_leaves_no_lock(side_by_side: SideBySide) -> None:
    """Invariant 14. Fails when the lock is a key of its own that the worker frees, and when a dead letter keeps it."""
    await side_by_side(
        {
            "it is run again": run_again,
            "it was its third loss": third_loss,
            "it had been settled, and its lock not been taken away": partial(run_again, point="before unlock"),
        }
    )


async def run_again(fleet: Fleet, point: str = "task") -> None:
    once = fleet.task("halt").options(unique="until_done")
    first = await once.enqueue(1)
    victim = fleet.start([point])
    await victim.at(point)
    is_settled = point != "task"
    if not is_settled:
        assert (await once.enqueue(1)).id == first.id, "it runs"
    await victim.kill()
    second = await once.enqueue(1)
    assert second.duplicate == (not is_settled), "the dead worker has it, unless it had been settled"
    await fleet.ready()
    assert await fleet.results([first.id, second.id]) == {first.id: 2, second.id: 2}
    third = await once.enqueue(1)
    assert not third.duplicate
    assert await fleet.results([third.id]) == {third.id: 2}
    await fleet.stop()
    assert fleet.leaks() == {}


async def third_loss(fleet: Fleet) -> None:
    once = fleet.task("halt").options(unique="until_done")
    first = await once.enqueue(1)
    raw = fleet.redis.lindex(fleet.keys.main, 0)
    fleet.redis.lset(fleet.keys.main, 0, Message.parse(raw).changed(losses=2).raw)
    victim = fleet.start(["task"])
    await victim.at("task")
    await victim.kill()
    assert (await once.enqueue(1)).id == first.id
    await fleet.ready()
    await fleet.until(lambda: first.id in fleet.dead())
    second = await once.enqueue(1)
    assert not second.duplicate
    assert await fleet.results([second.id]) == {second.id: 2}
    await fleet.stop()
    assert fleet.leaks() == {}
