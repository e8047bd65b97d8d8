"""Invariant 3, every claim has an owner: a non-empty processing list belongs to a worker in `workers`, or is looked at
by every reap round; a claim renews the lease in its step.

That it belongs to one is observed all the time in test_01. Seen to fail with `Broker.orphans` giving nothing back, with
the cursor never moving on, and with claim.lua without its ZADD.
"""

import pytest

from rqueue.worker.reaper import LOOKS_PER_SEARCH


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.mark.parametrize("started", [False, True])
async def test_an_orphaned_list_is_taken_back(app, broker, keys, parts, ghost, message, started):
    """Its worker's entry has gone, by whatever accident: its jobs are found all the same, and charged if they ran."""
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a"), message("b", level=3))
    await dead.claim()
    if started:
        await dead.start("a")
    await broker._link.call(b"ZREM", keys.workers, dead.id)
    assert await worker.reaper.tick() == 2
    waiting = await broker._link.call(b"LRANGE", keys.main, 0, -1)
    assert waiting == [message("a", losses=int(started))]
    assert await broker._link.call(b"LRANGE", keys.lists[3], 0, -1) == [message("b", level=3)]


@pytest.mark.parametrize("others", [2_000])
async def test_an_orphaned_list_is_found_among_many_keys(broker, keys, parts, ghost, message, others):
    """A queue with results in it is no excuse: the search goes through all keys, a step every few looks."""
    worker, dead = parts(), await ghost(broker)
    for number in range(others):
        await broker._link.call(b"SET", keys.result(f"r{number}"), b"{}")
    for round_ in range(3):
        await worker.push(message(f"a{round_}"))
        ghost_ = dead if round_ == 0 else await ghost(broker, f"ghost{round_}")
        await ghost_.claim()
        await broker._link.call(b"ZREM", keys.workers, ghost_.id)
        sweep = LOOKS_PER_SEARCH * (others // 500 + 3)
        moved = [await worker.reaper.tick() for _ in range(2 * sweep)]
        assert sum(moved) == round_ + 1, f"round {round_}: what came back before was claimed as well"


async def test_a_claim_renews_the_lease_in_its_step(broker, keys, ghost, message):
    dead = await ghost(broker)
    await dead.die()
    await broker._link.call(b"LPUSH", keys.main, message("a"))
    await dead.claim()
    ((name, left_s, _),) = await broker.workers(keys)
    assert name == dead.id
    assert 55 < left_s <= 60


async def test_another_apps_lists_are_left_alone(url, broker, parts, message):
    """Another namespace, another queue: not this worker's."""
    worker = parts("default")
    for name in ("other:{default}:processing:x", "rqueue:{other}:processing:x", "rqueue:{default}extra:processing:x"):
        await broker._link.call(b"LPUSH", name, message("a"))
    for _ in range(3):
        assert await worker.reaper.tick() == 0
