"""SIGKILL in each window of a job's life: no job is lost, each doubled run is explained, nothing is left behind.

Each test kills a worker where a hook or the proxy says that it stands, and lets another worker, its heir, finish.
"""

import asyncio
import json
import signal
from dataclasses import dataclass, field
from functools import partial

import pytest

from rqueue.worker.reaper import REAP_AT_ONCE

from .conftest import Scene, SideBySide
from .fleet import Fleet, Member
from .proxy import Proxy


@dataclass(frozen=True)
class Window:
    """Where the victim dies.

    Attributes:
        halts: points of the runner: where the process itself halts.
        hold: the command whose reply the proxy keeps.
        nth: which one.
        jobs, task, args: what is enqueued before the victim starts.
        concurrency: the victim's.
        started: how many jobs the victim has started by then; None: whatever the oracle says.
        is_charged: those that it held are marked as started, and cost a loss.
        uvloop: the victim's event loop, which hands bytes to the system at another time than asyncio's.
    """

    halts: dict[str, int] = field(default_factory=dict)
    hold: str = ""
    nth: int = 1
    jobs: int = 12
    task: str = "double"
    args: tuple[float, ...] = ()
    concurrency: int = 10
    started: int | None = 0
    is_charged: bool = False
    uvloop: bool = False


WINDOWS = {
    "after the claim and before its reply": Window(hold="claim"),
    "after the claim, before the start mark": Window({"before start": 1}),
    "after the start mark, before the task runs": Window({"marked": 1}, is_charged=True),
    "the same on uvloop": Window({"marked": 1}, is_charged=True, uvloop=True),
    "in the middle of the task": Window({"task": 1}, task="halt", started=1, is_charged=True),
    "in the middle of the third task": Window({"task": 3}, task="halt", started=3, is_charged=True),
    "after the work, before the ack is sent": Window({"before ack": 1}, started=None, is_charged=True),
    "after the ack was sent, before its reply": Window(hold="ack", started=None, is_charged=True),
    "in the middle of a thread's task": Window(
        {"first job": 1}, task="thread", args=(1.0,), jobs=4, concurrency=4, started=None, is_charged=True
    ),
    "between two batches of acks": Window(
        {"before ack": 3}, jobs=300, args=(0.01,), concurrency=100, started=None, is_charged=True
    ),
    "during a batch of acks": Window(
        hold="ack", nth=2, jobs=300, args=(0.01,), concurrency=100, started=None, is_charged=True
    ),
}


async def outlive(fleet: Fleet, victim: Member, heir: Member, expected: dict[str, int]) -> set[str]:
    """Kill the victim; the heir does the rest. The ids of what was in flight at the kill."""
    await heir.at("ready")
    await victim.kill()
    in_flight = fleet.held_ids(victim)
    assert await fleet.results(expected) == expected, "lost, or a wrong result"
    return in_flight


async def check(
    fleet: Fleet, victim: Member, heir: Member, expected: dict[str, int], in_flight: set[str], *, is_charged: bool
) -> None:
    """What holds after every kill."""
    losses = await fleet.losses(expected)
    await fleet.stop()
    starts = fleet.starts()
    assert set(starts) == set(expected)
    doubled = {job_id for job_id, pids in starts.items() if len(pids) > 1}
    assert doubled <= in_flight, "a job was started twice that was not in flight at the kill"
    assert all(starts[job_id] == [victim.pid, heir.pid] for job_id in doubled)
    assert {job_id for job_id, pids in starts.items() if victim.pid in pids} - doubled <= set(expected) - in_flight
    charged = {job_id for job_id, loss in losses.items() if loss}
    assert set(losses.values()) <= {0, 1}
    assert doubled <= charged, "the victim had started it: it costs a loss"
    assert charged <= (in_flight if is_charged else set()), "charged, and it had not started"
    assert fleet.leaks() == {}
    assert fleet.dead() == {}


def groups(size: int) -> list[list[str]]:
    names = list(WINDOWS)
    return [names[first : first + size] for first in range(0, len(names), size)]


@pytest.mark.parametrize("names", groups(6), ids="; ".join)
async def test_a_worker_killed_in_a_window_loses_nothing(side_by_side: SideBySide, names: list[str]) -> None:
    """Invariants 1, 3, 4, 6: one of its lists always has the job, a reaper returns it, only what started is charged.

    Fails when `claim` pops before it pushes, when the executor marks after the start, or when the reaper charges all.
    """
    await side_by_side({name: partial(kill_in_window, WINDOWS[name]) for name in names})


async def kill_in_window(window: Window, fleet: Fleet) -> None:
    expected = await fleet.enqueue(window.jobs, window.task, *window.args)
    async with Proxy(fleet.url) as proxy:
        if window.hold:
            rule = proxy.on(window.hold, "hold", window.nth)
            victim = fleet.start(url=proxy.url, concurrency=window.concurrency, uvloop=window.uvloop)
            await rule.applied()
        else:
            victim = fleet.start(window.halts, concurrency=window.concurrency, uvloop=window.uvloop)
            await victim.at(next(iter(window.halts)))
        in_flight = await outlive(fleet, victim, heir := fleet.start(concurrency=100), expected)
    if window.started is not None:
        assert len([run for run in fleet.runs() if run.pid == victim.pid and run.what == "start"]) == window.started
        assert len(in_flight) == window.concurrency
    await check(fleet, victim, heir, expected, in_flight, is_charged=window.is_charged)
    if window.is_charged and window.started is not None:
        losses = [int(raw.partition(b'"losses":')[2][:1] or 0) for raw in stored_records(fleet, in_flight)]
        assert losses == [1] * window.concurrency, "marked as started, and not charged"


def stored_records(fleet: Fleet, ids: set[str]) -> list[bytes]:
    return [bytes(fleet.redis.get(fleet.keys.result(job_id)) or b"") for job_id in ids]


async def a_message_that_a_block_took_and_whose_reply_died_is_returned(fleet: Fleet) -> None:
    """Invariants 1, 2, 3: BRPOPLPUSH moved it into the dead worker's list, whose owner is known to the reapers.

    Fails with BRPOP in place of BRPOPLPUSH.
    """
    async with Proxy(fleet.url) as proxy:
        victim = await fleet.ready(url=proxy.url)
        rule = proxy.on("BRPOPLPUSH", "hold")
        expected = await fleet.enqueue(3)
        await rule.applied()
        in_flight = await outlive(fleet, victim, heir := fleet.start(), expected)
    assert len(in_flight) == 1
    await check(fleet, victim, heir, expected, in_flight, is_charged=False)


async def test_a_worker_killed_in_a_retry_loses_neither_the_job_nor_the_count(side_by_side: SideBySide) -> None:
    """Invariants 1, 4: a job is in its worker's list or scheduled with one retry more, never both and never neither.

    Fails when `retry` schedules without having removed, or charges the loss as a retry.
    """
    await side_by_side(
        {"before it is sent": partial(kill_in_retry, False), "before its reply": partial(kill_in_retry, True)}
    )


async def kill_in_retry(is_answered: bool, fleet: Fleet) -> None:
    expected = await fleet.enqueue(3, "flaky")
    async with Proxy(fleet.url) as proxy:
        rule = proxy.on("retry", "hold")
        victim = fleet.start([] if is_answered else ["before retry"], url=proxy.url)
        await (rule.applied() if is_answered else victim.at("before retry"))
        in_flight = await outlive(fleet, victim, heir := fleet.start(), expected)
    for job_id, pids in fleet.starts().items():
        again = job_id in in_flight
        assert pids == [victim.pid, *[heir.pid] * (2 if again else 1)], "first run, its repetition if it was hit, retry"
        info = await fleet.app.job(job_id, "default").info()
        assert (info.attempts, info.losses) == (2, int(again))
    await fleet.stop()
    assert fleet.leaks() == {}


async def a_worker_killed_in_a_promotion_promotes_each_job_once(fleet: Fleet) -> None:
    """Invariant 1: a due job is scheduled or in its list. Fails when `promote` is two steps."""
    double = fleet.task("double")
    handles = [await double.options(countdown=0.3).enqueue(number) for number in range(5)]
    expected = {handle.id: 2 * number for number, handle in enumerate(handles)}
    async with Proxy(fleet.url) as proxy:
        rule = proxy.on("promote", "hold")
        victim = fleet.start(url=proxy.url)
        await rule.applied()
        in_flight = await outlive(fleet, victim, heir := fleet.start(), expected)
    await check(fleet, victim, heir, expected, in_flight, is_charged=True)


async def a_task_that_blocks_the_event_loop_beyond_the_lease_keeps_its_jobs(fleet: Fleet) -> None:
    """Invariant 8: the heart beats from a thread; the loop is named as blocked and nobody takes the jobs away.

    Fails when the lease is renewed from the event loop.
    """
    expected = await fleet.enqueue(1, "stubborn", 3.0)
    worker = fleet.start(concurrency=2, uvloop=True)
    other = fleet.start(concurrency=2)
    await fleet.until(lambda: len(fleet.starts()) == 1)
    assert await fleet.results(expected) == expected
    ((pid,),) = fleet.starts().values()
    owner = worker if pid == worker.pid else other
    assert "event loop blocked" in owner.log()
    assert "stubborn" in owner.log()
    assert not any("reaped" in member.log() for member in (worker, other))
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_worker_killed_in_adopt_loses_no_message_without_an_id(side_by_side: SideBySide) -> None:
    """Invariants 1, 3: the message has its old bytes or its new ones in the list, never neither and never both.

    Fails when `adopt` is two steps, or when the reaper drops what has no header.
    """
    await side_by_side(
        {"before it is sent": partial(kill_in_adopt, False), "before its reply": partial(kill_in_adopt, True)}
    )


async def kill_in_adopt(is_answered: bool, fleet: Fleet) -> None:
    # Announcements pass between databases: ids differ.
    expected = {f"raw-{is_answered}-{number}": 2 * number for number in range(12)}
    body = [json.dumps({"task": "double", "args": [value // 2], "id": job_id}) for job_id, value in expected.items()]
    fleet.redis.lpush("rqueue:{default}", *body)
    fleet.redis.sadd("rqueue:queues", "default")
    async with Proxy(fleet.url) as proxy:
        if is_answered:
            rule = proxy.on("adopt", "hold")
            victim = fleet.start(url=proxy.url)
            await rule.applied()
            assert all(raw.startswith(b"1 ") for raw in fleet.held(victim))
        else:
            victim = fleet.start(["before adopt"])
            await victim.at("before adopt")
            assert all(raw.startswith(b"{") for raw in fleet.held(victim))
        assert len(fleet.held(victim)) == 10
        heir = await fleet.ready()
        await victim.kill()
        # The two that were left tell when the heir has looked; a raw job is known by its id only once it was adopted.
        await fleet.until(lambda: len(fleet.starts()) == 12)
        assert await fleet.results(expected) == expected
    await check(fleet, victim, heir, expected, set(), is_charged=False)


async def test_a_worker_killed_while_it_gives_back_what_it_has_no_slot_for(side_by_side: SideBySide) -> None:
    """Invariants 1, 7: what two blocks brought for one slot goes back uncharged, also when the worker dies over it.

    Fails when `release` pushes without having removed, or removes in a step of its own.
    """
    await side_by_side(
        {"before it is sent": partial(kill_in_release, False), "before its reply": partial(kill_in_release, True)}
    )


async def kill_in_release(is_answered: bool, fleet: Fleet) -> None:
    ids = {1: f"first-{is_answered}", 2: f"second-{is_answered}"}
    other = fleet.app.keys.queue("other")
    async with Proxy(fleet.url) as proxy:
        halts = [] if is_answered else ["before release"]
        rule = proxy.on("release", "hold")
        victim = await fleet.ready(
            halts, url=proxy.url if is_answered else None, queues=["default", "other"], concurrency=1
        )
        await fleet.until(lambda: fleet.blocked() == 2)
        # In one step to both queues, so that both blocks end with a job.
        with fleet.redis.pipeline(transaction=True) as both:
            for queue, number in (("default", 1), ("other", 2)):
                message = json.dumps({"task": "double", "args": [number, 0.5]})  # the slot stays busy
                both.lpush(f"rqueue:{{{queue}}}", f"1 - 0 0 0 {ids[number]} {message}")
                both.sadd(f"rqueue:{{{queue}}}:jobs", ids[number])
            both.execute()
        await (rule.applied() if is_answered else victim.at("before release"))
        if is_answered:
            assert fleet.redis.llen(other.main) + fleet.redis.llen(fleet.keys.main) == 1
        heir = await fleet.ready(queues=["default", "other"])
        await victim.kill()
        values = await asyncio.gather(
            fleet.app.job(ids[1], "default").result(20), fleet.app.job(ids[2], "other").result(20)
        )
    assert values == [2, 4]
    await fleet.stop()
    starts = fleet.starts()
    assert sorted(starts) == sorted(ids.values())
    assert sum(len(pids) for pids in starts.values()) <= 3, "only the one with a slot may have started before"
    assert heir.pid in {pids[-1] for pids in starts.values()}
    assert fleet.leaks() == {}


async def a_worker_killed_half_way_through_giving_back_at_its_shutdown(fleet: Fleet) -> None:
    """Invariants 1, 10: what went back is uncharged and starts at once; what had not is the reaper's, and is charged.

    Fails when `release` charges, or when shutdown drops a job from the table before Redis has answered.
    """
    expected = await fleet.enqueue(6, "double", 1.5)
    # Four are sent at once; the fifth waits for the reply to one of them.
    victim = await fleet.ready({"before release": 5}, concurrency=6, shutdown_timeout=0)
    await fleet.until(lambda: len(fleet.starts()) == 6)
    victim.send(signal.SIGTERM)
    await victim.at("before release")
    in_flight = await outlive(fleet, victim, heir := fleet.start(), expected)
    assert 2 <= len(in_flight) <= 5
    losses = await fleet.losses(expected)
    assert {job_id for job_id, loss in losses.items() if loss} == in_flight
    await fleet.stop()
    assert all(pids == [victim.pid, heir.pid] for pids in fleet.starts().values())
    assert fleet.leaks() == {}


async def a_reaper_killed_between_two_chunks_is_followed_by_another(fleet: Fleet) -> None:
    """Invariant 6: reaping is repeatable; what the first reaper moved is not moved twice, the rest is found again.

    Fails when `reap` takes the dead worker out of `workers` with its first chunk, or does not look before it pushes.
    """
    expected = await fleet.enqueue(250, "double", 0.0)
    victim = fleet.start({"marked": 1}, concurrency=250)
    await victim.at("marked")
    reaper = await fleet.ready({"after reap": 1})
    await victim.kill()
    in_flight = fleet.held_ids(victim)
    await reaper.at("after reap")
    left = fleet.held_ids(victim)
    assert len(in_flight) - len(left) == REAP_AT_ONCE
    await fleet.ready(concurrency=100)
    await reaper.kill()
    in_flight |= fleet.held_ids(reaper)
    assert await fleet.results(expected) == expected
    losses = await fleet.losses(expected)
    await fleet.stop()
    assert max(losses.values()) <= 2
    assert all(losses[job_id] == 1 for job_id in left), "of the second chunk: charged once, by the second reaper"
    starts = fleet.starts()
    assert set(starts) == set(expected)
    assert {job_id for job_id, pids in starts.items() if len(pids) > 1} <= in_flight
    assert fleet.leaks() == {}


async def a_reaper_killed_between_bury_and_reap_buries_once(fleet: Fleet) -> None:
    """Invariant 6: a third loss is one dead letter with WorkerLost and one result, whoever comes to finish the reaping.

    Fails when the reaper buries in the step that moves nothing else, without looking whether the message is there.
    """
    expected = await fleet.enqueue(3)
    # A job that has cost two workers, as its header says.
    message = '1 - 2 0 0 poison {"task":"halt","args":[7]}'
    fleet.redis.sadd(fleet.keys.jobs, "poison")
    fleet.redis.rpush(fleet.keys.main, message)
    victim = fleet.start(["task"], concurrency=4)  # the suspect is first, and runs alone
    await victim.at("task")
    reaper = await fleet.ready(["after bury"])
    await victim.kill()
    await reaper.at("after bury")
    heir = await fleet.ready()
    await reaper.kill()
    assert await fleet.results(expected) == expected
    info = await fleet.app.job("poison", "default").info()
    await fleet.stop()
    assert (info.state.value, info.losses, info.is_dead) == ("FAILURE", 3, True)
    assert info.error is not None
    assert info.error.startswith("WorkerLost")
    assert list(fleet.dead()) == ["poison"]
    assert fleet.redis.hget(fleet.keys.counts, "FAILURE") == b"1"
    assert fleet.starts()["poison"] == [victim.pid]
    assert heir.pid not in fleet.starts()["poison"]
    assert fleet.leaks() == {}


async def a_frozen_worker_is_replaced_and_its_late_result_is_refused(fleet: Fleet) -> None:
    """Invariants 2, 4, 8: after SIGSTOP past the lease the other's result stands, the late one is refused and said so.

    The frozen worker goes on under a new id and runs new jobs. Fails when `ack` looks for neither worker nor message.
    """
    expected = await fleet.enqueue(4, "halt")
    frozen = fleet.start(["task"], concurrency=4)
    await frozen.at("task")
    frozen_id = str((await fleet.app.session().broker.workers(fleet.keys))[0][0])
    await frozen.freeze()
    other = await fleet.ready()
    assert await fleet.results(expected) == expected
    before = {job_id: fleet.redis.get(fleet.keys.result(job_id)) for job_id in expected}
    frozen.let_go()
    frozen.thaw()
    # It ends the job that it was in, and is refused; it must not have started the others while its lease was old.
    await fleet.until(lambda: "claim lost" in frozen.log() and "going on under a new id" in frozen.log())
    assert before == {job_id: fleet.redis.get(fleet.keys.result(job_id)) for job_id in expected}
    await other.stop()
    more = await fleet.enqueue(5, first=100)
    assert await fleet.results(more) == more
    workers = [name for name, _, _ in await fleet.app.session().broker.workers(fleet.keys)]
    assert len(workers) == 1
    assert workers[0] != frozen_id
    assert f":{frozen.pid}:" in workers[0]
    starts = fleet.starts()
    assert all(starts[job_id] == [frozen.pid] for job_id in more)
    assert all(starts[job_id][-1] == other.pid or frozen.pid in starts[job_id] for job_id in expected)
    await fleet.stop()
    assert fleet.leaks() == {}


async def a_dead_workers_block_that_is_still_on_its_way_pops_nothing(fleet: Fleet) -> None:
    """Invariant 2: the bytes of a killed worker arrive after it was reaped; its list is a tombstone and refuses them.

    Fails when `reap` deletes the list in place of putting a string there: the job waits in a dead worker's list.
    """
    async with Proxy(fleet.url) as proxy:
        rule = proxy.on("BRPOPLPUSH", "keep request")
        victim = fleet.start(url=proxy.url)
        await rule.applied()
        await victim.kill()
        other = await fleet.ready()
        await fleet.until(lambda: "worker reaped" in other.log())
        # Nobody else is there when the bytes arrive: whoever takes the job now is the dead worker.
        await other.kill()
        expected = await fleet.enqueue(1)
        rule.go_on.set()
        await rule.answered.wait()
        assert fleet.held(victim) == []
        assert fleet.redis.llen(fleet.keys.main) == 1
    await fleet.ready()
    assert await fleet.results(expected) == expected
    await fleet.stop()
    assert fleet.leaks() == {}


async def a_frozen_idle_worker_gets_nothing_once_it_was_reaped(fleet: Fleet) -> None:
    """Invariant 2: what comes after it was reaped goes to the next worker, and it goes on under a new id.

    Fails when a worker that is not registered may claim.
    """
    frozen = await fleet.ready()
    await fleet.until(lambda: fleet.blocked() == 1)
    await frozen.freeze()
    other = await fleet.ready()
    await fleet.until(lambda: "worker reaped" in other.log())
    expected = await fleet.enqueue(20)
    assert await fleet.results(expected) == expected
    assert all(pids == [other.pid] for pids in fleet.starts().values())
    frozen.thaw()
    await fleet.until(lambda: "going on under a new id" in frozen.log())
    await other.stop()
    more = await fleet.enqueue(5, first=100)
    assert await fleet.results(more) == more
    await fleet.stop()
    assert fleet.leaks() == {}


# Each scene is a test; three are played at once, since most of their time is a lease that runs out.
SCENES = [
    [
        a_message_that_a_block_took_and_whose_reply_died_is_returned,
        a_worker_killed_half_way_through_giving_back_at_its_shutdown,
        a_frozen_worker_is_replaced_and_its_late_result_is_refused,
    ],
    [
        a_worker_killed_in_a_promotion_promotes_each_job_once,
        a_reaper_killed_between_two_chunks_is_followed_by_another,
        a_dead_workers_block_that_is_still_on_its_way_pops_nothing,
    ],
    [
        a_task_that_blocks_the_event_loop_beyond_the_lease_keeps_its_jobs,
        a_reaper_killed_between_bury_and_reap_buries_once,
        a_frozen_idle_worker_gets_nothing_once_it_was_reaped,
    ],
]


@pytest.mark.parametrize("scenes", SCENES, ids=lambda scenes: "; ".join(scene.__name__ for scene in scenes))
async def test_scene(side_by_side: SideBySide, scenes: list[Scene]) -> None:
    """The docstring of each scene says which invariant it keeps."""
    await side_by_side({scene.__name__: scene for scene in scenes})
