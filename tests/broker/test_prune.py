"""prune: locks whose jobs have ended are thrown away."""

import pytest


async def all_of_it(broker, keys):
    pages, cursor = 1, await broker.prune(keys)
    while cursor:
        pages, cursor = pages + 1, await broker.prune(keys, cursor)
    return pages


async def test_the_locks_of_living_jobs_stay(broker, keys, seed, dump):
    """Breaks when a living job's lock goes, or a limit beside the id hides its end."""
    alive = {"a": b"j1", "b": b"j2 1000"}
    await seed({"jobs": {"j1", "j2"}, "unique": {**alive, "c": b"j3", "d": b"j4 9999999999999"}})
    for _ in range(2):
        await all_of_it(broker, keys)
        assert await dump() == {"jobs": {"j1", "j2"}, "unique": alive}


async def test_nothing_is_left_where_nothing_lives(broker, keys, seed, dump):
    """Nothing leaks. Breaks when the hash, or something else, stays."""
    await seed({"unique": {"c": b"j3"}})
    await all_of_it(broker, keys)
    assert await dump() == {}
    await all_of_it(broker, keys)
    assert await dump() == {}


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_page_at_a_time(broker, keys, seed, raw):
    """Redis is never held for long. Breaks when the whole hash is one step, or the cursor is not given back."""
    await seed({"jobs": {"j7"}, "unique": {f"l{number}": b"j%d" % number for number in range(5_000)}})
    assert await all_of_it(broker, keys) > 2
    assert await raw("HKEYS", keys.unique) == [b"l7"]
