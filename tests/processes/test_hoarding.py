"""Long jobs are shared out: no worker holds what an idle one could run."""

from pathlib import Path

from .fleet import Fleet, Member
from .jobs import release

JOBS = 60


def share(fleet: Fleet, workers: list[Member], ids: set[str]) -> list[int]:
    """How many of these jobs each worker has started."""
    starts = fleet.starts()
    return [sum(starts.get(job_id) == [worker.pid] for job_id in ids) for worker in workers]


async def test_sixty_long_jobs_keep_two_workers_of_ten_busy(fleet: Fleet, tmp_path: Path) -> None:
    """Prefetch: what is held and not started is no more than is started in a moment, so both run ten at all times.

    No job ends before the test lets it: in each of the three rounds each worker must start ten, and a job that its
    holder cannot start must come to who can. The second round ends only what the one worker runs.
    Fails when a worker claims up to its ceiling of forty whatever it can start, and keeps it.
    """
    workers = [fleet.start(), fleet.start(uvloop=True)]
    for worker in workers:
        await worker.at("ready")
    expected = await fleet.enqueue(JOBS, "wait", str(tmp_path))
    await fleet.until(lambda: share(fleet, workers, set(expected)) == [10, 10])
    first = set(fleet.starts())
    release(str(tmp_path), (job_id for job_id in first if fleet.starts()[job_id] == [workers[0].pid]))
    await fleet.until(lambda: share(fleet, workers, set(expected)) == [20, 10])
    release(str(tmp_path), first)
    await fleet.until(lambda: share(fleet, workers, set(expected)) == [20, 20])
    release(str(tmp_path), expected)
    assert await fleet.results(expected) == expected
    assert sum(len(pids) for pids in fleet.starts().values()) == JOBS, "each is started once"
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_short_jobs_before_long_ones_promise_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Prefetch: a pace that was measured on short jobs must not make a worker hoard the long ones that follow.

    No long job ends before all have started, ten in each worker.
    Fails when neither the pace bounds what is held, nor what overstays is given back.
    """
    workers = [await fleet.ready(), await fleet.ready()]
    short = await fleet.enqueue(2000, "double", 0.001)
    long = await fleet.enqueue(20, "wait", str(tmp_path), first=2000)
    await fleet.until(lambda: share(fleet, workers, set(long)) == [10, 10])
    release(str(tmp_path), long)
    assert await fleet.results(short | long) == short | long
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_suspect_that_runs_alone_keeps_nobody_waiting(fleet: Fleet, tmp_path: Path) -> None:
    """Invariant 6 and prefetch: a job that has cost two workers runs alone, and what its worker held goes to the other.

    Fails when the worker of a suspect goes on claiming, or keeps what it had claimed before.
    """
    workers = [fleet.start(), fleet.start(uvloop=True)]
    for worker in workers:
        await worker.at("ready")
    fleet.redis.sadd(fleet.keys.jobs, "suspect")
    fleet.redis.rpush(fleet.keys.main, '1 - 2 0 0 suspect {"task":"double","args":[1, 2.0]}')
    await fleet.until(lambda: "suspect" in fleet.starts())
    first, second = sorted(workers, key=lambda worker: worker.pid != fleet.starts()["suspect"][0])
    expected = await fleet.enqueue(40, "double", 0.1)
    assert await fleet.results(expected) == expected
    assert await fleet.app.job("suspect", "default").result(10) == 2
    runs = fleet.runs()
    end = next(run.at for run in runs if run.what == "end" and run.id == "suspect")
    assert all(run.pid == second.pid and run.at < end for run in runs if run.id != "suspect")
    # Afterwards it takes part again.
    more = await fleet.enqueue(20, "wait", str(tmp_path), first=100)
    await fleet.until(lambda: share(fleet, [first, second], set(more)) == [10, 10])
    release(str(tmp_path), more)
    assert await fleet.results(more) == more
    await fleet.stop()
    assert fleet.leaks() == {}
