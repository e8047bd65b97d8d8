"""supervisor: real processes on a real server, and every way in which they can end."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from rqueue import Cancelled, JobFailed, JobRevoked
from rqueue.client.inspector import Inspector

from .fleet import is_alive


async def failure(job):
    with pytest.raises(JobFailed) as caught:
        await job.result(30)
    return caught.value


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "segfault"])
async def test_a_poison_pill_runs_three_times_and_its_neighbours_once_more(scene, how):
    """Its first death charges those that had started beside it, the later ones it alone; none of them is lost.

    The lease is five minutes: what comes back, the supervisor has taken back.
    """
    fleet = scene.start("-c", "10")
    await fleet.ready()
    beside = await scene.enqueue_many(2, "nap", 1.2)
    for job in beside:
        await scene.started_in(job)
    poison = await scene.enqueue("die", how)
    error = await failure(poison)
    assert error.error_type == "WorkerLost"
    assert len(scene.starts()[poison.id]) == 3
    await scene.until(lambda: [run.id for run in scene.runs() if run.what == "dead"] == [poison.id])
    for job in beside:
        await job.result(30)
        assert (await job.info()).losses == 1
        assert len(scene.starts()[job.id]) <= 4
    assert [letter.decode().count('"worker lost"') for letter in scene.redis.hvals(scene.keys.letters)] == [1]
    died = fleet.of("process died")
    assert len(died) == 3
    assert all(each.get("code") == 3 for each in died) or {each["signal"] for each in died} <= {"SIGSEGV", "SIGKILL"}
    await fleet.stop()
    processes = [run for run in scene.runs() if run.what == "process"]
    assert [run.id for run in processes].count("begins") == 4
    assert [run.id for run in processes if run.pid == processes[-1].pid] == ["begins", "ends:0"]
    assert scene.leaks() == set()


async def test_what_had_not_started_goes_back_uncharged_and_another_process_goes_on(scene):
    fleet = scene.start("--processes", "2", "-c", "1")
    await fleet.ready(2)
    first = await scene.enqueue("nap", 60)
    victim = await scene.started_in(first)
    jobs = await scene.enqueue_many(20, "pid")
    os.kill(victim, signal.SIGKILL)
    await fleet.event("process died", pid=victim, signal="SIGKILL")
    assert victim not in {await job.result(30) for job in jobs}
    assert {(await job.info()).losses for job in jobs} == {0}
    assert await scene.started_in(first, 2) != victim
    await fleet.ready(3)
    assert len(fleet.pids) == 2
    fleet.signal(signal.SIGQUIT)
    assert await fleet.end() == 0
    assert scene.redis.llen(scene.keys.main) == 1, "what ran goes back"


async def test_a_job_that_ends_its_process_in_peace_is_a_poison_pill_too(scene):
    """Exit code 0, but nobody had asked it to end: what it held is back at once, and what ran is charged."""
    fleet = scene.start("-c", "2")
    await fleet.ready()
    poison = await scene.enqueue("die", "leave")
    assert (await failure(poison)).error_type == "WorkerLost"
    assert len(scene.starts()[poison.id]) == 3
    await fleet.stop()
    assert scene.leaks() == set()


@pytest.mark.parametrize("code", [9, 0])
async def test_a_process_that_dies_at_once_each_time_is_started_again_later_and_later(scene, code):
    (scene.directory / "jobs.py").write_text(f"import os\nos._exit({code})\n")
    fleet = scene.start()
    pauses = [(await fleet.event("process dies at once", times))["restart_in_s"] for times in (1, 2)]
    assert pauses == [0.5, 1.0]
    fleet.signal(signal.SIGTERM)
    assert await fleet.end() == 0


async def test_a_process_that_is_killed_again_and_again_at_work_is_soon_back(scene):
    """Else a few crashes in a row leave a host without a worker for half a minute."""
    fleet = scene.start()
    for number in range(1, 5):
        pid = await (await scene.enqueue("pid")).result(30)
        os.kill(pid, signal.SIGKILL)
        await fleet.event("process died", number)
    pauses = [(await fleet.event("process dies at once", times))["restart_in_s"] for times in (1, 2, 3)]
    assert pauses == [0.5, 1.0, 1.0]


async def test_what_is_told_wrong_is_said_once_and_ends_everything(scene):
    fleet = scene.start("-A", "jobs:nothing", "--processes", "2")
    assert await fleet.end() == 2
    assert any("'jobs' has no 'nothing'" in line for line in fleet.plain)
    assert fleet.pids == []


async def test_when_the_supervisor_dies_its_processes_drain_and_leave(scene):
    fleet = scene.start("--processes", "2")
    await fleet.ready(2)
    jobs = await scene.enqueue_many(6, "nap", 1)
    for job in jobs:
        await scene.started_in(job)
    pids = fleet.pids
    os.kill(fleet.pid, signal.SIGKILL)
    for job in jobs:
        assert await job.result(30) in pids
    await scene.until(lambda: not any(map(is_alive, pids)))
    assert set(map(len, scene.starts().values())) == {1}
    assert scene.registered() == set()
    assert scene.leaks() == set()


async def test_when_both_die_the_lease_brings_the_jobs_back(scene):
    fleet = scene.start("--lease", "1")
    await fleet.ready()
    job = await scene.enqueue("nap", 0.5)
    pid = await scene.started_in(job)
    os.kill(fleet.pid, signal.SIGSTOP)  # it must not see its child's death before its own
    os.kill(pid, signal.SIGKILL)
    os.kill(fleet.pid, signal.SIGKILL)
    heir = scene.start("--lease", "1")
    assert await job.result(30) != pid
    assert (await job.info()).losses == 1
    await heir.stop()


async def test_what_a_crashed_process_has_started_is_ended_with_it(scene):
    """A fork bomb, kept small; what a process leaves that ends in peace, is its own affair."""
    fleet = scene.start("-c", "2")
    await fleet.ready()
    job = await scene.enqueue("descend", 5)
    left = await job.result(30)
    assert all(map(is_alive, left))
    os.kill(await scene.started_in(job), signal.SIGKILL)
    await scene.until(lambda: not any(map(is_alive, left)))
    await fleet.stop()


def namespaces() -> bool:
    command = ["unshare", "-Urpf", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


@pytest.mark.skipif(not namespaces(), reason="this machine gives no pid namespace")
async def test_as_pid_1_it_waits_for_orphans_and_ends_at_a_sigterm(scene):
    wrapper = ["unshare", "-Urpf", "--mount-proc", "--kill-child"]
    fleet = scene.start(before=wrapper)
    started = await fleet.event("supervisor started")
    assert started["pid"] == 1
    await fleet.ready()
    job = await scene.enqueue("orphan")
    orphan = await job.result(30)
    inside = inner_pid(fleet.pid)
    # Seen from outside: no zombie among the supervisor's children.
    await scene.until(lambda: "Z" not in states_of_children(inside))
    assert orphan > 1
    os.kill(inside, signal.SIGTERM)
    await fleet.event("supervisor stopped")
    assert await fleet.end() == 0


def inner_pid(outer: int) -> int:
    """The pid, seen from here, of what `unshare` has forked."""
    return children_of(outer)[0]


def states_of_children(pid: int) -> list[str]:
    found = []
    for child in children_of(pid):
        with suppress(OSError):  # it has ended meanwhile
            found.append(Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0])
    return found


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- stops ------------------------------------------------------------------------------------------------------------


async def test_a_sigterm_lets_jobs_end_and_gives_back_what_has_not_started(scene):
    fleet = scene.start("--processes", "2", "-c", "2")
    await fleet.ready(2)
    running = await scene.enqueue_many(4, "nap", 1)
    for job in running:
        await scene.started_in(job)
    waiting = await scene.enqueue_many(10, "pid")
    await fleet.stop()
    assert [await job.result(5) for job in running]
    assert scene.redis.llen(scene.keys.main) == 10
    other = scene.start()
    assert {await job.result(30) for job in waiting} == set(scene.registered())
    assert {(await job.info()).losses for job in waiting} == {0}
    await other.stop()


@pytest.mark.parametrize("how", ["twice", "SIGQUIT", "killed"])
async def test_what_is_stopped_at_once_runs_elsewhere_and_is_not_charged(scene, how):
    """SIGTERM twice, SIGQUIT; SIGTERM and then SIGKILL of everything: what had started is charged, after a lease."""
    lease = ("--lease", "1") if how == "killed" else ()
    fleet = scene.start("-c", "3", *lease)
    await fleet.ready()
    jobs = await scene.enqueue_many(3, "block", 2)
    for job in jobs:
        await scene.started_in(job)
    waiting = await scene.enqueue_many(5, "pid")
    fleet.signal(signal.SIGQUIT if how == "SIGQUIT" else signal.SIGTERM)
    await fleet.event("worker stopping")
    if how == "killed":
        os.kill(fleet.pid, signal.SIGSTOP)  # or one of them has the time to see the other's death, and to give all back
        for pid in (*fleet.pids, fleet.pid):
            os.kill(pid, signal.SIGKILL)
        await fleet.end()
    else:
        if how == "twice":
            fleet.signal(signal.SIGTERM)
        assert await fleet.end() == 0
    heir = scene.start("-c", "10", *lease)
    for job in [*jobs, *waiting]:
        await job.result(30)
    assert {(await job.info()).losses for job in waiting} == {0}
    assert {(await job.info()).losses for job in jobs} == ({1} if how == "killed" else {0})
    await heir.stop()
    assert scene.leaks() == set()


async def test_a_third_signal_waits_for_nothing_and_takes_the_jobs_back_all_the_same(scene):
    fleet = scene.start("--pool", "prefork", "-c", "1")
    await fleet.ready()
    job = await scene.enqueue("hold", 30)
    await scene.started_in(job)
    for times in (1, 2, 3):
        fleet.signal(signal.SIGTERM)
        await fleet.event("signal received", times)
    assert await fleet.end() == 0
    assert scene.redis.llen(scene.keys.main) == 1
    assert b"1 - 0 " in scene.redis.lindex(scene.keys.main, 0), "uncharged"


# --- renewal ----------------------------------------------------------------------------------------------------------


async def test_recycling_loses_doubles_and_exceeds_nothing(scene):
    """The limit is hard. The successor is there before the old one stops, and nothing is started twice."""
    fleet = scene.start("-c", "5", "--max-tasks-per-child", "50")
    await fleet.ready()
    jobs = await scene.enqueue_many(200, "nap", 0.02)
    pids = Counter([await job.result(60) for job in jobs])
    assert set(pids.values()) == {50}
    assert len(pids) == 4
    assert set(map(len, scene.starts().values())) == {1}
    assert len(fleet.of("process started", standby=True)) >= 3
    await fleet.stop()
    assert scene.leaks() == set()


async def test_a_successor_is_ready_before_the_old_process_is_spent(scene):
    """When processes live longer than a start takes, there is always one that claims."""
    fleet = scene.start("-c", "2", "--max-tasks-per-child", "50")
    await fleet.ready()
    jobs = await scene.enqueue_many(130, "nap", 0.1)
    for job in jobs:
        await job.result(60)
    names = [
        (each["event"], each.get("pid") or int(each["worker"].split(":")[1]))
        for each in fleet.lines
        if each["event"] in ("worker started", "worker stopping")
    ]
    starts = [pid for event, pid in names if event == "worker started"]
    for index, pid in enumerate(starts[:-2]):
        assert names.index(("worker started", starts[index + 1])) < names.index(("worker stopping", pid))
    await fleet.stop()


async def test_a_sigterm_in_the_middle_of_a_replacement_loses_nothing(scene):
    fleet = scene.start("-c", "5", "--max-tasks-per-child", "50")
    await fleet.ready()
    jobs = await scene.enqueue_many(300, "nap", 0.05)
    await fleet.event("process started", standby=True)
    await fleet.stop()
    heir = scene.start()
    for job in jobs:
        await job.result(30)
    assert set(map(len, scene.starts().values())) == {1}
    assert {(await job.info()).losses for job in jobs} == {0}
    await heir.stop()
    assert scene.leaks() == set()


async def test_a_process_that_has_grown_is_replaced(scene):
    fleet = scene.start("-c", "1", "--max-memory-per-child", "150MB")
    await fleet.ready()
    jobs = await scene.enqueue_many(12, "grow", 30)
    pids = Counter([await job.result(60) for job in jobs])
    assert len(pids) >= 3
    assert all("MB" in each["why"] or "share" in each["why"] for each in fleet.of("process ended"))
    assert fleet.of("process died") == []
    await fleet.stop()


async def test_a_sighup_renews_every_process_without_a_gap(scene):
    fleet = scene.start("--processes", "2")
    await fleet.ready(2)
    before = set(fleet.pids)
    job = await scene.enqueue("nap", 1.5)
    await scene.started_in(job)
    fleet.signal(signal.SIGHUP)
    for pid in before:
        await fleet.event("process ended", pid=pid, why="SIGHUP")
    assert len(fleet.pids) == 2
    assert await job.result(5) in before
    await fleet.stop()


async def test_a_sighup_with_broken_code_leaves_those_that_work(scene):
    """What cannot be loaded now could be when the fleet was started: that is no reason to end it."""
    fleet = scene.start("--app", "jobs:app")
    await fleet.ready()
    source = (scene.directory / "jobs.py").read_text()
    (scene.directory / "jobs.py").write_text(source.replace("app = RQueue", "other = RQueue").replace("@app", "@other"))
    fleet.signal(signal.SIGHUP)
    await fleet.event("process died", code=2)
    assert await (await scene.enqueue("pid")).result(30) in fleet.pids
    (scene.directory / "jobs.py").write_text(source)
    await fleet.event("process ended", why="SIGHUP")
    assert await (await scene.enqueue("pid")).result(30) in fleet.pids
    await fleet.stop()


async def test_a_process_that_is_spent_lets_its_last_job_end(scene):
    """However long it runs: were it interrupted, it would be again in the next process, and never end."""
    fleet = scene.start("-c", "1", "--max-tasks-per-child", "1", "--shutdown-timeout", "0.2")
    await fleet.ready()
    job = await scene.enqueue("until", str(scene.directory / "enough"))
    first = await scene.started_in(job)
    for _ in range(2):
        assert await (await scene.enqueue("pid")).result(30) != first, "its place is taken meanwhile"
    assert len(scene.starts()[job.id]) == 1
    (scene.directory / "enough").touch()
    assert await job.result(30) == first
    await fleet.event("process ended", pid=first)
    await fleet.stop()
    assert scene.leaks() == set()


async def test_what_old_processes_held_is_taken_back_where_it_was(scene):
    """The new code serves another queue, while the old process still runs."""
    fleet = scene.start()
    await fleet.ready()
    job = await scene.enqueue("nap", 60)
    first = await scene.started_in(job)
    source = (scene.directory / "jobs.py").read_text()
    (scene.directory / "jobs.py").write_text(source.replace('Queue("default"), ', ""))
    fleet.signal(signal.SIGHUP)
    await fleet.ready(2)
    os.kill(first, signal.SIGKILL)
    await scene.until(lambda: scene.redis.llen(scene.keys.main))
    await fleet.stop()


async def test_a_sighup_renews_a_successor_in_waiting_too(scene):
    """It has loaded the code from before."""
    fleet = scene.start("--max-tasks-per-child", "50")
    await fleet.ready()
    for job in await scene.enqueue_many(46, "pid"):
        await job.result(30)
    waiting = (await fleet.event("process started", standby=True))["pid"]
    await fleet.ready(2)
    before = set(fleet.pids)
    fleet.signal(signal.SIGHUP)
    for pid in before:
        await fleet.event("process ended", pid=pid, why="SIGHUP")
    assert waiting in before
    assert await (await scene.enqueue("pid")).result(30) not in before
    await fleet.stop()


async def test_a_change_of_code_starts_everything_again(scene):
    fleet = scene.start("--reload")
    await fleet.ready()
    assert await (await scene.enqueue("pid")).result(30) in fleet.pids
    source = (scene.directory / "jobs.py").read_text()
    (scene.directory / "jobs.py").write_text(source.replace("return os.getpid()", "return 'new'"))
    await fleet.event("reloading")
    await fleet.ready(2)
    assert await (await scene.enqueue("pid")).result(30) == "new"
    (scene.directory / "jobs.py").write_text("broken (")
    await fleet.event("process ended", 2)
    await scene.until(lambda: any("SyntaxError" in line for line in fleet.plain))
    (scene.directory / "jobs.py").write_text(source)
    await fleet.ready(3)
    await fleet.stop()


# --- scale ------------------------------------------------------------------------------------------------------------


async def test_prefork_processes_follow_the_backlog(scene):
    fleet = scene.start("--pool", "prefork", "--autoscale", "3,1")
    await fleet.ready()
    assert len(fleet.pids) == 1
    jobs = await scene.enqueue_many(8, "block", 1)
    change = await fleet.event("autoscale", processes=3)
    assert "wait and all" in change["why"]
    assert len({await job.result(60) for job in jobs}) >= 2
    await fleet.stop()
    assert set(map(len, scene.starts().values())) == {1}


async def test_a_number_of_processes_that_is_none_is_refused(scene):
    fleet = scene.start("--pool", "prefork", "-c", "1")
    await fleet.ready()
    await scene.until(lambda: scene.redis.pubsub_numsub("rqueue:control")[0][1])
    for times, n in enumerate([0.5, "1", -3, None, True], 1):
        scene.control("pool_grow", n=n)
        await fleet.event("control request", times, verb="pool_grow")
        assert len(fleet.pids) == 1
    scene.control("pool_grow", n=1)
    await fleet.ready(2)
    await fleet.stop()


async def test_what_is_too_much_is_what_is_idle(scene):
    """The oldest process is busy: the other one goes, and nothing is interrupted."""
    fleet = scene.start("--pool", "prefork", "-c", "2", "--shutdown-timeout", "0.2")
    await fleet.ready(2)
    job = await scene.enqueue("nap", 3)
    busy = await scene.started_in(job)
    second = await scene.enqueue("nap", 3)
    await scene.started_in(second)
    oldest = fleet.of("process started")[0]["pid"]
    long = job if busy == oldest else second
    await scene.until(lambda: scene.redis.pubsub_numsub("rqueue:control")[0][1] == 2)
    scene.control("pool_grow", n=1)
    await fleet.ready(3)
    scene.control("pool_shrink", n=1)
    await fleet.event("process ended", why="there are too many")
    assert await long.result(30) == oldest
    assert len(scene.starts()[long.id]) == 1
    await fleet.stop()


# --- prefork ----------------------------------------------------------------------------------------------------------


async def test_a_task_that_holds_the_interpreter_for_twice_the_lease_runs_once(scene):
    fleet = scene.start("--pool", "prefork", "-c", "1", "--lease", "1.5")
    other = scene.start("--lease", "1.5", "-c", "1")
    await fleet.ready()
    await other.ready()
    jobs = await scene.enqueue_many(2, "hold", 4)
    await asyncio.gather(*(job.result(30) for job in jobs), return_exceptions=True)
    inside = [job for job in jobs if scene.starts()[job.id][0] in fleet.pids]
    for job in inside:
        assert len(scene.starts()[job.id]) == 1
        assert (await job.info()).losses == 0
    assert inside
    await fleet.stop()


async def test_a_queue_that_one_process_serves_costs_no_other_its_lease(scene):
    """Neither those that were not asked, nor those that are started later, nor the one that registers just now."""
    fleet = scene.start("--pool", "prefork", "-c", "2", "-Q", "default", "--lease", "1.5")
    await fleet.ready(2)
    jobs = await scene.enqueue_many(2, "nap", 3)
    for job in jobs:
        await scene.started_in(job)
    to = [each["worker"] for each in fleet.of("worker started")][:1]
    await scene.until(lambda: scene.redis.pubsub_numsub("rqueue:control")[0][1] == 2)
    scene.control("add_consumer", to, queue="other")
    for job in jobs:
        await job.result(30)
    assert set(map(len, scene.starts().values())) == {1}
    os.kill(next(pid for pid in fleet.pids if f":{pid}:" not in to[0]), signal.SIGKILL)
    await fleet.ready(3)
    job = await scene.enqueue("nap", 2)
    await job.result(30)
    assert fleet.of("lease lost, going on under a new id") == []
    await fleet.stop()


async def test_when_the_supervisor_stands_still_its_processes_keep_their_leases(scene):
    """It may be stopped, or wait for a full pipe: as long as they can, they renew for themselves."""
    fleet = scene.start("--pool", "prefork", "-c", "1", "--lease", "1.5")
    await fleet.ready()
    job = await scene.enqueue("until", str(scene.directory / "enough"))
    pid = await scene.started_in(job)
    other = scene.start("--lease", "1.5", "-c", "1")
    await other.ready()
    os.kill(fleet.pid, signal.SIGSTOP)
    await asyncio.sleep(4)  # a lease and two looks of a reaper: the time that it takes is what is tested
    (scene.directory / "enough").touch()
    assert await job.result(30) == pid
    assert len(scene.starts()[job.id]) == 1
    os.kill(fleet.pid, signal.SIGCONT)
    await fleet.stop()
    await other.stop()


async def test_in_prefork_nothing_waits_behind_a_long_job(scene):
    fleet = scene.start("--pool", "prefork", "-c", "2")
    await fleet.ready(2)
    long = await scene.enqueue("hold", 3)
    await scene.started_in(long)
    jobs = await scene.enqueue_many(10, "pid")
    assert {await job.result(30) for job in jobs} == set(fleet.pids) - set(scene.starts()[long.id])
    assert [run.what for run in scene.runs() if run.id == long.id] == ["start"], "it still ran"
    await fleet.stop()


# --- time limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["async", "prefork"])
async def test_a_call_that_never_returns_is_ended_with_its_process(scene, pool):
    """It holds the interpreter's lock: nothing in the process can end it. The others go back uncharged."""
    fleet = scene.start("--pool", pool, *(("-c", "3") if pool == "async" else ("-c", "1")))
    await fleet.ready()
    beside = await scene.enqueue_many(2, "nap", 5) if pool == "async" else []
    for job in beside:
        await scene.started_in(job)
    error = await failure(await scene.enqueue("hold_limited", 60))
    assert error.error_type == "TimeLimitExceeded"
    await fleet.event("process ended", why="a job outran its time limit", signal="SIGKILL")
    for job in beside:
        await scene.started_in(job, 2)
        assert await job.result(30) in fleet.pids
        assert (await job.info()).losses == 0
    await fleet.stop()
    assert scene.leaks() == set()


async def test_nobody_is_judged_right_after_a_sleep(scene):
    """All were frozen (a suspended machine, a paused container): the process may end the job itself."""
    fleet = scene.start("-c", "3")
    await fleet.ready()
    beside = await scene.enqueue("nap", 4)
    job = await scene.enqueue("nap", 60, time_limit=1)
    pid = await scene.started_in(job)
    await scene.started_in(beside)
    for each in (fleet.pid, pid):
        os.kill(each, signal.SIGSTOP)
    await asyncio.sleep(4)  # the time that it takes is what is tested
    for each in (fleet.pid, pid):
        os.kill(each, signal.SIGCONT)
    assert (await failure(job)).error_type == "TimeLimitExceeded"
    assert await beside.result(30) == pid
    assert len(scene.starts()[beside.id]) == 1
    await fleet.stop()


async def test_a_job_that_was_ended_so_is_retried_if_its_task_says_so(scene):
    fleet = scene.start("--pool", "prefork", "-c", "1")
    await fleet.ready()
    job = await scene.enqueue("hold_again", 60)
    await job.result(30)
    info = await job.info()
    assert (info.attempts, info.losses, len(scene.starts()[job.id])) == (2, 0, 2)
    await fleet.stop()


async def test_a_thread_that_does_not_end_is_ended_with_its_process(scene):
    """The worker itself settles the job and gives the others back; the process ends and another takes its place."""
    fleet = scene.start("-c", "3")
    await fleet.ready()
    beside = await scene.enqueue("nap", 4)
    await scene.started_in(beside)
    error = await failure(await scene.enqueue("block", 60, time_limit=0.5))
    assert error.error_type == "TimeLimitExceeded"
    await fleet.event("process ended", code=75)
    assert await beside.result(30) in fleet.pids
    assert (await beside.info()).losses == 0
    await fleet.stop()


async def test_a_thread_that_is_to_be_terminated_is_ended_with_its_process(scene):
    """A cancelled job that cannot be interrupted. The others in its process run again, uncharged."""
    fleet = scene.start("-c", "3")
    await fleet.ready()
    beside = await scene.enqueue("nap", 2)
    await scene.started_in(beside)
    job = await scene.enqueue("block", 60)
    await scene.started_in(job)
    assert await job.cancel(terminate=True) is Cancelled.INTERRUPTED
    with pytest.raises(JobRevoked):
        await job.result(30)
    await fleet.event("process ended", code=75)
    assert await beside.result(30) in fleet.pids
    assert (await beside.info()).losses == 0
    assert len(scene.starts()[job.id]) == 1
    await fleet.stop()
    assert scene.leaks() == set()


# --- a hostile world --------------------------------------------------------------------------------------------------


async def test_an_allocation_past_the_limit_fails_its_job_only(scene):
    fleet = scene.start("-c", "2")
    await fleet.ready()
    beside = await scene.enqueue("nap", 1)
    error = await failure(await scene.enqueue("too_much"))
    assert error.error_type == "MemoryError"
    await beside.result(30)
    assert (await (await scene.enqueue("pid")).result(30)) in fleet.pids
    await fleet.stop()


async def test_without_descriptors_it_goes_on(scene):
    fleet = scene.start("-c", "4")
    await fleet.ready()
    job = await scene.enqueue("files")
    assert await job.result(30) == 24
    assert len([await each.result(30) for each in await scene.enqueue_many(5, "pid")]) == 5
    await fleet.stop()


@pytest.mark.parametrize("place", ["full disk", "closed"])
async def test_a_log_that_cannot_be_written_stops_nothing(scene, place):
    if place == "closed":
        read, end = os.pipe()
        os.close(read)
    else:
        end = os.open("/dev/full", os.O_WRONLY)
    fleet = scene.start("--processes", "2", stderr=end, stdout=end)
    os.close(end)
    pids = {await job.result(30) for job in await scene.enqueue_many(50, "block", 0.05)}
    poison = await scene.enqueue("die", "exit")
    assert (await failure(poison)).error_type == "WorkerLost"
    assert await (await scene.enqueue("pid")).result(30) != fleet.pid
    fleet.signal(signal.SIGTERM)
    assert await fleet.end() == 0
    assert pids


# --- remote control ---------------------------------------------------------------------------------------------------


async def listening(scene, count):
    """Who asks the workers, when so many answer: they begin to listen a moment after they have started."""
    control = Inspector(scene.app)
    while len((await control.ask("ping")).answers) < count:
        pass
    return control


async def test_a_process_that_is_shut_down_is_not_replaced_and_after_the_last_one_the_supervisor_ends(scene):
    fleet = scene.start("--processes", "2")
    await fleet.ready(2)
    control = await listening(scene, 2)
    first, second = (await control.ask("ping")).answers
    await control.ask("shutdown", to=[first.worker])
    await fleet.event("process ended", why="shutdown by remote control")
    assert [answer.worker for answer in (await control.ask("ping")).answers] == [second.worker]
    assert len(fleet.of("process started")) == 2
    await control.ask("shutdown")
    assert await fleet.end() == 0


async def test_prefork_grows_once_for_a_word_that_all_its_processes_hear_and_shrinks_without_a_loss(scene):
    fleet = scene.start("--pool", "prefork", "-c", "2")
    await fleet.ready(2)
    control = await listening(scene, 2)
    grown = await control.ask("pool_grow", n=1)
    assert [answer.ok for answer in grown.answers] == [{"processes": 3}] * 2
    await fleet.ready(3)
    jobs = await scene.enqueue_many(6, "block", 0.7)
    for job in jobs[:3]:
        await scene.started_in(job)
    await control.ask("pool_shrink", n=2)
    await fleet.event("worker stopping", 2)
    await fleet.stop()  # a SIGTERM in the middle of it
    heir = scene.start()
    for job in jobs:
        await job.result(30)
    assert set(map(len, scene.starts().values())) == {1}
    assert {(await job.info()).losses for job in jobs} == {0}
    await heir.stop()
    assert scene.leaks() == set()


async def test_slots_follow_the_backlog_in_the_pool_async(scene):
    fleet = scene.start("--autoscale", "4,1")
    await fleet.ready()
    jobs = await scene.enqueue_many(8, "nap", 0.8)
    await fleet.event("autoscale", slots=4)
    assert len({await job.result(30) for job in jobs}) == 1
    await fleet.stop()


# --- what is stuck, and what only takes its time ----------------------------------------------------------------------


async def test_a_process_whose_event_loop_stands_still_is_replaced(scene):
    fleet = scene.start("--max-loop-stall", "1")
    await fleet.ready()
    job = await scene.enqueue("stand_still", 60)
    pid = await scene.started_in(job)
    await fleet.event("event loop stalled", pid=pid)
    assert await job.result(30) != pid
    assert (await job.info()).losses == 1
    await fleet.stop()


async def test_a_process_that_is_replaced_lets_its_long_jobs_end(scene):
    """However short the shutdown timeout is: nobody is in a hurry, since another process has its place."""
    fleet = scene.start("--shutdown-timeout", "0")
    await fleet.ready()
    job = await scene.enqueue("nap", 2)
    pid = await scene.started_in(job)
    fleet.signal(signal.SIGHUP)
    await fleet.event("worker stopping")
    assert await job.result(30) == pid
    await fleet.event("process ended", pid=pid, why="SIGHUP", code=0)
    await fleet.stop()
    assert len(scene.starts()[job.id]) == 1
