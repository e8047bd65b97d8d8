"""unpark: parked jobs of a task that was paused are due at once, in the order in which they are named."""

import pytest

ALIVE = {"workers": {"w": "future"}}


@pytest.fixture
def park(broker, keys, raw, message):
    """Claim and park jobs, in this order."""

    async def put_off(*ids):
        await raw("LPUSH", keys.main, *(message(job_id) for job_id in ids))
        claimed = await broker.claim([keys], [5], "w", 30, len(ids), 1_000_000)
        for number, (job_id, each) in enumerate(zip(ids, claimed.messages, strict=True)):
            assert await broker.retry(keys, "w", 0, number, each.raw, job_id, each.raw, 60, is_parked=True) == b"1"

    return put_off


async def test_a_parked_job_is_known_by_its_due_time(broker, keys, seed, park, message, raw):
    """Breaks when another due time has a fraction, or the order of parking is not the order of coming back: many are
    parked within one millisecond, and ids say nothing.
    """
    await seed({"scheduled": {"later": 4_000_000_000_000, "soon": 5}, **ALIVE})
    ids = [f"j{number * 7 % 100:02}" for number in range(100)]
    await park(*ids)
    assert await broker.parked(keys) == ids
    due = dict(await broker.scheduled(keys, 1_000))
    assert all(50_000 < due[job_id] - broker.clock.now_ms() < 61_000 for job_id in ids)


async def test_they_come_back_at_once_in_their_order(broker, keys, seed, park, dump, message):
    """The order survives over several steps. Breaks when all are due at the same time."""
    await seed({"scheduled": {"later": "future"}, "scheduled:messages": {"later": message("later")}, **ALIVE})
    ids = [f"j{number * 7 % 100:02}" for number in range(100)]
    await park(*ids)
    parked = await broker.parked(keys)
    assert await broker.unpark(keys, [(job_id, 100 - n) for n, job_id in enumerate(parked[:50])]) == 50
    assert await broker.unpark(keys, [(job_id, 50 - n) for n, job_id in enumerate(parked[50:])]) == 50
    assert await broker.parked(keys) == []
    assert (await dump())["main"] == [b""], "a claim learns that something is due"
    assert (await broker.promote(keys))[0] == 100
    assert (await dump())["main"][:-1] == [message(job_id) for job_id in reversed(ids)]


async def test_what_is_not_parked_keeps_its_time(broker, keys, seed, dump, message):
    """Breaks when a retry or a countdown of that id comes early, or a job that has gone comes back."""
    await seed({"scheduled": {"later": "future"}, "scheduled:messages": {"later": message("later")}})
    stored = await dump()
    assert await broker.unpark(keys, [("later", 1), ("gone", 2)]) == 0
    assert await dump() == stored


async def test_the_same_step_again_changes_nothing(broker, keys, seed, park, dump, raw):
    await seed(ALIVE)
    await park("a", "b")
    assert await broker.unpark(keys, [("a", 2), ("b", 1)]) == 2
    stored, due = await dump(), await broker.scheduled(keys, 10)
    assert await broker.unpark(keys, [("a", 2), ("b", 1)]) == 0
    assert (await dump(), await broker.scheduled(keys, 10)) == (stored, due)


async def test_parked_jobs_are_told_from_others_by_the_thousand(broker, keys, seed, raw):
    """Breaks when only the first page of a large set is looked at."""
    await raw("ZADD", keys.scheduled, *(part for n in range(3_000) for part in (f"{n + (n % 3 == 0) / 2}", f"j{n}")))
    assert await broker.parked(keys) == [f"j{n}" for n in range(0, 3_000, 3)]
