"""One round of ``rqueue bench``: what it says of itself, and what it leaves between its workloads."""

import asyncio

import pytest

from rqueue import RQueue
from rqueue.cli.bench_workloads import NAPS, TRIPS, BenchFailed, Plan, Workloads
from rqueue.errors import MessageTooLarge


def workloads(redis_url, plan, said=None):
    app = RQueue(redis_url, namespace="trial")
    return app, Workloads(app, plan, (said if said is not None else []).append)


async def test_a_round(redis_url, store):
    """Breaks when a workload has other jobs than it says, or leaves its jobs or results to the next one."""
    said: list[str] = []
    app, trial = workloads(redis_url, Plan(jobs=110, concurrency=3, payload=10), said)
    async with app:
        found = await trial.round()
    assert [(each.workload, each.unit, each.jobs) for each in found] == [
        ("enqueue, one at a time", "jobs/s", 6),
        ("enqueue, 100 callers", "jobs/s", 110),
        ("enqueue_many, 1,000 a call", "jobs/s", 110),
        ("drain, no-ops", "jobs/s", 110),
        ("drain, 50 ms sleeps", "% of ideal", 3 * NAPS),
        ("round trip, p50", "ms", TRIPS),
        ("round trip, p99", "ms", TRIPS),
    ]
    assert len(said) == 6
    assert all(each.value > 0 for each in found)
    assert found[4].value <= 100
    assert found[5].value <= found[6].value
    assert [each.cpu_us is None for each in found] == [False] * 6 + [True]
    kinds = {key.replace("trial:{default}", "").split(":")[1] if "{" in key else key for key in store.scan_iter()}
    assert kinds <= {"trial:queues", "counts", "processing", "sent"}  # no job, and no result


async def test_one_job_is_enough(redis_url):
    app, trial = workloads(redis_url, Plan(jobs=1, concurrency=1, payload=0))
    async with app:
        found = await trial.round()
    assert [each.jobs for each in found[:4]] == [1, 1, 1, 1]
    assert found[1].workload == "enqueue, 1 callers"


async def test_lost_jobs_make_no_figure(redis_url, store):
    """Breaks when a queue that was evicted counts as worked off in no time."""
    app, trial = workloads(redis_url, Plan(jobs=10, concurrency=1, payload=0))
    async with app:
        await trial._enqueue(trial._noop, 10, "")
        store.delete("trial:{default}")
        with pytest.raises(BenchFailed, match="0 of 10 jobs ran"):
            await trial._work_off(10)


async def test_a_caller_that_fails_ends_the_others(redis_url):
    """Breaks when they go on, and enqueue what nobody removes."""
    app, trial = workloads(redis_url, Plan(jobs=1000, concurrency=1, payload=0))
    enqueue, calls = trial._noop.enqueue, []

    async def enqueue_or_fail(text: str) -> None:
        calls.append(text)
        if len(calls) == 150:
            raise MessageTooLarge("as it may happen")
        await enqueue(text)

    trial._noop.enqueue = enqueue_or_fail
    async with app:
        with pytest.raises(MessageTooLarge):
            await trial._callers()
        assert not [task for task in asyncio.all_tasks() if task.get_coro().__qualname__.endswith(".caller")]
        assert len(calls) < 500
