"""renew: a worker says that it is alive, for all its queues at once."""


async def test_lease_and_card_are_renewed_in_every_queue(broker, keys, reports, raw, seed, dump):
    """The heart beats for all queues in one step. Breaks when a queue is left out: its jobs would be reaped."""
    await seed(
        {
            "workers": {"w": "past", "v": "past"},
            "reports/workers": {"w": "past"},
            "worker:w": ("ttl", b"an old card"),
        }
    )
    assert await broker.renew([keys, reports], "w", 20, b"card")
    assert await dump() == {
        "workers": {"w": "future", "v": "past"},
        "reports/workers": {"w": "future"},
        "worker:w": ("ttl", b"card"),
        "reports/worker:w": ("ttl", b"card"),
    }
    seconds, micros = await raw("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    for queue in (keys, reports):
        assert now + 15_000 < int(await raw("ZSCORE", queue.workers, "w")) <= now + 20_000
        assert 55_000 < await raw("PTTL", queue.card("w")) <= 60_000


async def test_an_unregistered_worker_is_not_added(broker, keys, seed, dump):
    """Only register adds a worker, no other verb. Breaks when ZADD is sent without a look: a worker that was reaped
    would be alive again, with a tombstone for a list.
    """
    state = {"workers": {"v": "past"}, "processing:w": ("ttl", b"reaped")}
    await seed(state)
    assert not await broker.renew([keys], "w", 30, b"card")
    assert await dump() == state


async def test_registered_in_one_of_two_queues_is_not_registered(broker, keys, reports, seed, dump):
    """A new id is for all queues at once. Breaks when the check stands in the loop that already renews."""
    state = {"workers": {"w": "past"}, "reports/workers": {"v": "past"}}
    await seed(state)
    assert not await broker.renew([keys, reports], "w", 30, b"card")
    assert not await broker.renew([reports, keys], "w", 30, b"card")
    assert await dump() == state


async def test_the_same_step_again_is_the_same(broker, keys, seed, dump):
    """May be repeated."""
    await seed({"workers": {"w": "past"}})
    await broker.renew([keys], "w", 30, b"card")
    stored = await dump()
    assert await broker.renew([keys], "w", 30, b"card")
    assert await dump() == stored
