"""SIGKILL in each window of a job's way to another queue: it ends there, once, and nothing of it is left here."""

from functools import partial

from rqueue.wire.record import moved_to

from .conftest import SideBySide
from .fleet import Fleet
from .proxy import Proxy

# Where the victim dies: at a point of its own, or while the proxy keeps the reply to a command. How a retry gets into
# the schedule is killed in test_kills.
WINDOWS = {
    "claimed to move, before it is enqueued there": ("before enqueue", ""),
    "enqueued there, before the reply": ("", "enqueue"),
    "enqueued there, not let go here": ("before move", ""),
    "let go, before the reply": ("", "move"),
}


async def test_a_worker_killed_while_it_moves_a_job(side_by_side: SideBySide) -> None:
    """Never in neither queue, and never run in both. Fails when the job is let go first (it is lost between the two),
    or when the enqueue is a new one each time (it runs there twice).
    """
    await side_by_side({name: partial(kill_in_window, number) for number, name in enumerate(WINDOWS)})


async def kill_in_window(number: int, fleet: Fleet) -> None:
    halt, hold = list(WINDOWS.values())[number]
    mover = fleet.task("mover")
    # Announcements pass between databases: ids differ.
    job = await mover.options(job_id=f"moves-{number}", priority=3).enqueue(7)
    async with Proxy(fleet.url) as proxy:
        rule = proxy.on(hold, "hold") if hold else None
        victim = fleet.start([halt] if halt else [], url=proxy.url, queues=["default"])
        await (rule.applied() if rule else victim.at(halt))
        # There it runs, and ends, as soon as it is there: also while the dead worker's claim still stands here.
        there = await fleet.ready(queues=["other"])
        if halt != "before enqueue":
            await fleet.until(lambda: [run for run in fleet.runs() if run.what == "start:other"])
        await victim.kill()
        await fleet.ready(queues=["default"])
        assert await job.result(timeout=25) == 14
        default = fleet.keys
        await fleet.until(lambda: not fleet.redis.exists(default.jobs, default.scheduled, default.messages))
    await fleet.stop()
    starts = [run for run in fleet.runs() if run.what.startswith("start")]
    assert [run.pid for run in starts if run.what == "start:other"] == [there.pid], "once, and only there"
    assert len([run for run in starts if run.what == "start:default"]) == 1
    assert moved_to(fleet.redis.get(default.result(job.id))) == "other"
    assert (await job.info()).queue == "other"
    assert fleet.leaks() == {}
    assert fleet.dead() == {}
