"""Workers that are killed at random times for as long as there is work: `RQUEUE_LONG=1` for the full form."""

import asyncio
import os
import random
from collections import Counter

import pytest

from .fleet import Fleet, Member

IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
JOBS, KILLS = (10_000, 100) if IS_LONG else (2_000, 20)
SLOTS = 2  # workers that are killed; one more lives on, so that what they leave is reaped meanwhile
SEED = int(os.environ.get("RQUEUE_SEED", "7"))


async def kill_at_random(fleet: Fleet, chance: random.Random, kills: int, in_flight: dict[int, set[str]]) -> None:
    """Start a worker, let it work for 20 to 300 ms, kill it; as often as that."""
    following: Member | None = fleet.start(loglevel="WARNING")
    while following is not None:
        member = following
        await member.at("first job")
        kills -= 1
        # The next one starts meanwhile: its start takes longer than this one's life.
        following = fleet.start(loglevel="WARNING") if kills else None
        await asyncio.sleep(chance.uniform(0.02, 0.3))  # a random time of death, not a guess
        await member.kill()
        in_flight[member.pid] = fleet.held_ids(member)


@pytest.mark.timeout(300 if IS_LONG else 90)
async def test_a_hundred_kills_in_ten_thousand_jobs_lose_nothing(fleet: Fleet) -> None:
    """Invariants 1, 3, 4, 6: lost 0; started again only what was in flight at a kill; a third kill is a dead letter.

    Nothing is leaked at the end. Fails when a reaper pushes without having removed, or an ack does not look for its
    message.
    """
    chance = random.Random(SEED)
    in_flight: dict[int, set[str]] = {}
    expected: dict[str, int] = {}
    await fleet.ready(loglevel="WARNING", concurrency=2)
    killers = [
        asyncio.create_task(kill_at_random(fleet, random.Random(chance.random()), KILLS // SLOTS, in_flight))
        for _ in range(SLOTS)
    ]
    # There is always work, so that every worker that starts finds a first job, however long its start takes.
    portion = JOBS // (KILLS + 1)
    while len(expected) < JOBS or not all(killer.done() for killer in killers):
        if fleet.redis.llen(fleet.keys.main) < portion:
            expected |= await fleet.enqueue(portion, "double", 0.015, first=len(expected))
        for killer in killers:
            if killer.done():
                killer.result()
        await asyncio.sleep(0.01)
    await asyncio.gather(*killers)
    assert len(in_flight) == KILLS

    await fleet.ready(loglevel="WARNING", concurrency=100)
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(
            *(fleet.app.job(job_id, "default").result() for job_id in expected), return_exceptions=True
        )
    await fleet.stop()

    dead = fleet.dead()
    wrong = {
        job_id: outcome
        for (job_id, value), outcome in zip(expected.items(), outcomes, strict=True)
        if outcome != value and job_id not in dead
    }
    assert wrong == {}, "lost, or a wrong result"
    hits = Counter(job_id for ids in in_flight.values() for job_id in ids)
    assert all(hits[job_id] >= 3 and b'"worker lost"' in letter for job_id, letter in dead.items())
    starts = fleet.starts()
    assert set(starts) == set(expected)
    twice = {job_id: pids for job_id, pids in starts.items() if len(pids) > 1}
    for job_id, pids in twice.items():
        assert len(set(pids)) == len(pids), "started twice by one worker"
        assert all(job_id in in_flight.get(pid, ()) for pid in pids[:-1]), "its first worker was not killed with it"
    extra = sum(len(pids) - 1 for pids in twice.values())
    assert extra <= sum(hits.values())
    assert fleet.leaks() == {}
    said = f"{JOBS} jobs, {KILLS} kills, dead {len(dead)}, started again {extra}, in flight {sum(hits.values())}"
    print(said)  # noqa: T201 - shown with -s
