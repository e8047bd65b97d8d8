"""unlock: locks are given up, by those who hold them."""

import asyncio

import pytest


async def test_only_the_holders_own_lock_goes(broker, keys, seed, dump):
    """Breaks when a lock that another job has taken meanwhile goes, or the limit beside the id is in the way."""
    await seed({"unique": {"a": b"j1", "b": b"j2 9999999999999", "c": b"other", "d": b"j11"}})
    locks = [("a", "j1"), ("b", "j2"), ("c", "j3"), ("d", "j1"), ("missing", "j1")]
    assert await broker.unlock(keys, locks, if_ended=True) == 2
    assert await dump() == {"unique": {"c": b"other", "d": b"j11"}}
    assert await broker.unlock(keys, locks, if_ended=True) == 0, "may be repeated"


@pytest.mark.parametrize("if_ended", [False, True])
async def test_a_job_that_is_alive_again_under_its_id_keeps_its_lock(broker, keys, seed, dump, if_ended):
    """The end of the first job is told late: its id and its lock are the second one's. Breaks without `jobs`."""
    await seed({"jobs": {"j"}, "unique": {"a": b"j"}})
    assert await broker.unlock(keys, [("a", "j")], if_ended=if_ended) == (not if_ended)
    assert await dump() == {"jobs": {"j"}, **({"unique": {"a": b"j"}} if if_ended else {})}


async def test_two_at_once(broker, other, keys, seed, dump):
    """Each lock goes once."""
    locks = [(f"l{number}", f"j{number}") for number in range(100)]
    await seed({"unique": {name: job.encode() for name, job in locks}})
    gone = await asyncio.gather(*(each.unlock(keys, locks, if_ended=True) for each in (broker, other)))
    assert sum(gone) == 100
    assert await dump() == {}
