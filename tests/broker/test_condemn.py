"""condemn: a worker whose process is known to be dead has no lease any more, and can be reaped at once."""

from .test_reap import TOMBSTONE, items


async def test_a_condemned_worker_is_reaped_at_once(broker, keys, seed, dump, message):
    """Breaks when the lease is left as it was, or another worker's is ended."""
    await seed({"processing:w": [message("a")], "workers": {"w": "future", "v": "future"}})
    assert await broker.reap(keys, "w", items(message("a"))) == -1
    assert await broker.condemn(keys, "w")
    assert set(await broker.overdue(keys)) == {"w"}
    assert await broker.reap(keys, "w", items(message("a"))) == 1
    assert await dump() == {"main": [message("a")], "processing:w": TOMBSTONE, "workers": {"v": "future"}}


async def test_what_the_dead_had_still_sent_is_answered_by_condemning_again(broker, keys, seed):
    """May be repeated. Breaks when a claim that was on its way keeps the worker alive."""
    await seed({"workers": {"w": "future"}})
    assert await broker.condemn(keys, "w")
    assert await broker.claim([keys], [5], "w", 60, 1, 1000) is not None
    assert set(await broker.overdue(keys)) == set()
    assert await broker.condemn(keys, "w")
    assert set(await broker.overdue(keys)) == {"w"}


async def test_who_is_not_registered_is_not_added(broker, keys, seed, dump):
    """`register` is the only verb that adds a worker. Breaks without the look at what ZREM said."""
    await seed({"processing:w": TOMBSTONE, "workers": {"v": "future"}})
    assert not await broker.condemn(keys, "w")
    assert await dump() == {"processing:w": TOMBSTONE, "workers": {"v": "future"}}
