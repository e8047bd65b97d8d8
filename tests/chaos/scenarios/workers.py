"""What befalls workers."""

import asyncio
import signal
import time

from tests.chaos.clock import CLOCK, set_clock
from tests.chaos.fault import SETTLE_S
from tests.chaos.producer import MIX, Load
from tests.chaos.scenario import Scenario
from tests.chaos.stage import Group, Stage, end

PAIR = ("--processes", "2", "-c", "10")
SHORT_LEASE_S = 2.0
HOUR_S = 3600.0
YOUNG_S = 0.3
LONG_S = (0.0, 0.2)
"""Jobs that a kill hits: of shorter ones hardly any runs in a process at a given moment. What a kill has cut is started
one after the other, lest one of them is a poison pill: longer ones would make that the time of recovery."""
FEW = 30


async def kill_child(stage: Stage, group: Group, used: set[int], settle_s: float = SETTLE_S) -> None:
    """SIGKILL one process of the group that was not aimed at yet, soon after its first job."""
    fresh = await stage.until(lambda: [pid for pid in stage.busy(group) if pid not in used], what="a process at work")
    young = [pid for pid in fresh if time.monotonic() - stage.oracle.first[pid] < YOUNG_S]
    pid = stage.pick(young or fresh)
    used.add(pid)
    await stage.age(pid, stage.chance.uniform(0.02, 0.3))
    if not group.has(pid):  # it was recycled meanwhile
        return
    with stage.fault("kill", pids={pid}, heals="again", settle_s=settle_s):
        end([pid])
        await stage.until(lambda: not group.has(pid), what="the end of a killed process")


async def keep_killing(stage: Stage, seconds: float) -> None:
    """Kill processes of all groups until the time is up, some in the first moment of their work, some later.

    A supervisor waits up to a second before it starts one that dies again and again: with more kills nobody would be
    left to work, and recovery would be that pause and a start.
    """
    over, used = time.monotonic() + seconds, set[int]()
    while time.monotonic() < over:
        await kill_child(stage, stage.pick(stage.groups), used)
        await asyncio.sleep(stage.chance.uniform(0.5, 2.5))


async def settle_in(stage: Stage, count: int, seconds: float) -> None:
    """Return when so many processes work and have done the backlog of the start, but after so many seconds anyway.

    What is cut off before that has to wait, for a process or behind the backlog; that is no matter of its recovery.
    """
    assert stage.store is not None
    over, store = time.monotonic() + seconds, stage.store

    def is_caught_up() -> bool:
        return time.monotonic() > over or (len(stage.busy()) >= count and store.unsettled() < FEW)

    await stage.first_jobs()
    await stage.until(is_caught_up, seconds + 1.0)


async def kills(stage: Stage, seconds: float) -> None:
    stage.server()
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(rate=25, seconds=LONG_S)
    await settle_in(stage, 4, seconds)
    await keep_killing(stage, seconds)


async def freezes(stage: Stage, seconds: float) -> None:
    """In each group in turn one process, or the group as a whole, stands still until others have done its jobs."""
    stage.server()
    groups = [stage.work(*PAIR, "--lease", str(SHORT_LEASE_S)) for _ in range(3)]
    stage.produce(seconds=(0.0, 0.3), rate=40)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        group = stage.pick(groups)
        with stage.fault("freeze", heals="again") as fault:
            if stage.chance.random() < 0.5:
                fault.pids = group.hold()
            else:
                fault.pids = [stage.pick(stage.busy(group))]
                end(fault.pids, signal.SIGSTOP)
            await asyncio.sleep(2.5 * SHORT_LEASE_S)
        end(fault.pids, signal.SIGCONT)
        await asyncio.sleep(stage.chance.uniform(0.2, 1.0))


async def lost_host(stage: Stage, seconds: float) -> None:
    """One group after the other is lost with all its processes, and another comes in its place."""
    stage.server()
    groups = [stage.work(*PAIR) for _ in range(2)]
    stage.produce(seconds=(0.0, 0.3), rate=40)
    over = time.monotonic() + seconds
    while True:
        await stage.first_jobs(*groups)
        await asyncio.sleep(stage.chance.uniform(0.02, 2.0))
        with stage.fault("lost host", heals="again") as fault:
            lost = groups.pop(0)
            fault.pids = lost.kill()
            await stage.until(lambda lost=lost: not lost.pids, what="a lost host's end")
        cut = stage.cut_by(fault)
        groups.append(stage.work(*PAIR))
        await stage.until(lambda cut=cut: stage.ran_again(cut), what="a lost host's jobs")
        if time.monotonic() > over:
            return


async def poison(stage: Stage, seconds: float) -> None:
    stage.server()
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(count=1, rate=80)
    stage.produce(Load(rate=0.12, mix={"poison": 1.0}, seconds=(0.0, 0.05)), count=1)
    await stage.first_jobs()
    await asyncio.sleep(seconds)


async def recycling(stage: Stage, seconds: float) -> None:
    """Processes that come and go by themselves are killed beside."""
    stage.server()
    stage.work(*PAIR, "--max-tasks-per-child", "150")
    stage.work("--autoscale", "16,2")
    stage.work("--pool", "prefork", "--autoscale", "3,1", "--max-tasks-per-child", "100")
    stage.produce(rate=25, seconds=LONG_S)
    await settle_in(stage, 4, seconds)
    await keep_killing(stage, seconds)


async def renew(stage: Stage, group: Group) -> None:
    """SIGHUP: return when all its processes are others."""
    before = set(group.pids)
    with stage.fault("SIGHUP", pids=()):
        group.send(signal.SIGHUP)
        await stage.until(lambda: not before & set(group.pids), what="the processes' renewal")


async def upgrade(stage: Stage, seconds: float) -> None:
    """Groups are replaced, and their processes renewed, one after the other."""
    stage.server()
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(count=1)
    stage.produce(count=1, module="foreign")
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        group = stage.groups[0]
        if stage.chance.random() < 0.5:
            await renew(stage, group)
            stage.groups.append(stage.groups.pop(0))
        else:
            await stage.first_jobs(stage.work(*PAIR))
            with stage.fault("SIGTERM", pids=()):
                await group.stop()
            stage.groups.remove(group)


async def clocks(stage: Stage, seconds: float) -> None:
    stage.server()
    faces = [stage.directory / f"clock-{number}" for number in range(2)]
    for face in faces:
        set_clock(face, 0.0)
        stage.work(*PAIR, env={CLOCK: str(face)})
    stage.produce(count=1, mix={**MIX, "later": 0.2, "expiring": 0.2})
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        with stage.fault("clock jump", pids=()):
            set_clock(stage.pick(faces), stage.pick([-HOUR_S, 0.0, HOUR_S]))
        await asyncio.sleep(stage.chance.uniform(0.3, 2.0))


async def blocked(stage: Stage, seconds: float) -> None:
    stage.server()
    for _ in range(2):
        stage.work(*PAIR, "--lease", str(SHORT_LEASE_S))
    stage.produce(count=1)
    stage.produce(Load(rate=0.4, mix={"blocking": 1.0}, seconds=(2 * SHORT_LEASE_S, 2 * SHORT_LEASE_S)), count=1)
    await stage.first_jobs()
    await asyncio.sleep(seconds)


SCENARIOS = [
    Scenario(
        "kills",
        "worker processes are killed by SIGKILL all the time, the new ones 20 to 300 ms after their first job",
        "nothing is lost; only what was in flight in a killed process runs again",
        kills,
        goal_s=1.0,
    ),
    Scenario(
        "freezes",
        f"a process, or a host with all its processes, stands still (SIGSTOP) for two and a half leases of"
        f" {SHORT_LEASE_S:g} s, and goes on",
        "nothing is lost; only what was in flight in it runs again, and its own late end overwrites no result",
        freezes,
        least_s=15.0,
    ),
    Scenario(
        "lost-host",
        "a supervisor is killed with all its processes, while another host goes on; the lease is the default, 15 s",
        "nothing is lost; what the host ran, runs elsewhere",
        lost_host,
        least_s=30.0,
        goal_s=25.0,
    ),
    Scenario(
        "poison",
        "some jobs kill the process that runs them, each time",
        "they are dead letters at their third run, and their neighbours are all done",
        poison,
    ),
    Scenario(
        "recycling",
        "processes are killed while others are recycled, autoscaled, and work in the pool prefork",
        "nothing is lost; only what was in flight in a killed process runs again",
        recycling,
        goal_s=1.0,
    ),
    Scenario(
        "upgrade",
        "hosts are replaced (SIGTERM) and processes renewed (SIGHUP) one after the other, while a program that is not"
        " rqueue pushes the golden messages of the wire format, some with fields that nobody knows yet",
        "nothing is lost, and nothing runs twice",
        upgrade,
    ),
    Scenario(
        "clocks",
        "the workers' wall clocks jump by an hour, back and forth, while jobs wait for their time or may expire",
        "nothing is lost, runs twice, starts before its time, or expires",
        clocks,
    ),
    Scenario(
        "blocked",
        f"jobs block their process's event loop for twice the lease of {SHORT_LEASE_S:g} s",
        "nobody's jobs are taken away, and nothing runs twice",
        blocked,
    ),
]
