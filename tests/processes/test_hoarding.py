"""Long jobs are shared out: no worker holds what an idle one could run."""

from .fleet import Fleet

JOBS, ROUND_S = 60, 2.0


async def test_sixty_jobs_of_two_seconds_keep_two_workers_of_ten_busy(fleet: Fleet) -> None:
    """Prefetch: what is held and not started is no more than is started in a moment, so both run ten at all times.

    Both workers come first, and the jobs at once. As an order: in each of the three rounds each worker starts ten.
    Fails when a worker claims up to its ceiling of forty whatever it can start, and keeps it.
    """
    workers = [fleet.start(), fleet.start(uvloop=True)]
    for worker in workers:
        await worker.at("ready")
    expected = await fleet.enqueue(JOBS, "double", ROUND_S)
    assert await fleet.results(expected) == expected

    runs = fleet.runs()
    begin = runs[0].at
    starts = [run for run in runs if run.what == "start"]
    assert len(starts) == JOBS, "each is started once"
    rounds = [starts[first : first + 20] for first in range(0, JOBS, 20)]
    for batch in rounds:
        assert [sum(run.pid == worker.pid for run in batch) for worker in workers] == [10, 10]
    for number, batch in enumerate(rounds):
        late = max(run.at for run in batch) - begin - number * ROUND_S
        assert late < 0.8, "a free slot waited while there was work"
    assert runs[-1].at - begin <= 8.5
    # The same, moment by moment: while anything has not started, nobody has a free slot for longer than a claim takes.
    last_start = starts[-1].at
    for worker in workers:
        running, idle_since = 0, begin
        for run in runs:
            if run.pid != worker.pid:
                continue
            if run.what == "start":
                assert running == 10 or run.at - idle_since < 0.8
                running += 1
            else:
                idle_since = run.at if running == 10 else idle_since
                running -= 1
            assert running <= 10
            if run.at > last_start:
                break
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_short_jobs_before_long_ones_promise_nothing(fleet: Fleet) -> None:
    """Prefetch: a pace that was measured on short jobs must not make a worker hoard the long ones that follow.

    Fails when neither the pace bounds what is held, nor what overstays is given back.
    """
    workers = [await fleet.ready(), await fleet.ready()]
    expected = await fleet.enqueue(2000, "double", 0.001)
    expected |= await fleet.enqueue(20, "double", 1.0, first=2000)
    assert await fleet.results(expected) == expected
    values = {job_id: value for job_id, value in expected.items() if value >= 4000}
    starts = [run for run in fleet.runs() if run.what == "start" and run.id in values]
    assert [sum(run.pid == worker.pid for run in starts) for worker in workers] == [10, 10]
    assert starts[-1].at - starts[0].at < 0.9, "some waited for a slot of the one, while the other had some free"
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_suspect_that_runs_alone_keeps_nobody_waiting(fleet: Fleet) -> None:
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
    more = await fleet.enqueue(20, "double", 0.5, first=100)
    assert await fleet.results(more) == more
    starts = fleet.starts()
    assert sum(starts[job_id] == [first.pid] for job_id in more) == 10
    await fleet.stop()
    assert fleet.leaks() == {}
