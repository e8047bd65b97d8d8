"""leave: a worker that holds nothing goes, and its list refuses what may still be on its way."""

import pytest

from rqueue.errors import BrokerError

LEFT = ("ttl", b"left")


async def test_a_worker_that_holds_nothing_is_gone(broker, keys, seed, dump):
    """Nothing leaks, and a dead worker's list refuses messages. Breaks when one of its keys stays."""
    await seed(
        {
            "workers": {"w": "future", "v": "future"},
            "started:w": {"stale"},
            "settled:w": ("ttl", {"0": b"1 1"}),
            "worker:w": ("ttl", b"card"),
            "worker:v": ("ttl", b"card"),
        }
    )
    assert await broker.leave(keys, "w")
    assert await dump() == {"workers": {"v": "future"}, "worker:v": ("ttl", b"card"), "processing:w": LEFT}


async def test_a_worker_that_holds_a_message_stays(broker, keys, seed, dump, message):
    """Never nowhere. Breaks when the tombstone is put over a list with messages."""
    state = {
        "workers": {"w": "future"},
        "processing:w": [message("a")],
        "started:w": {"a"},
        "settled:w": ("ttl", {"0": b"1 1"}),
        "worker:w": ("ttl", b"card"),
    }
    await seed(state)
    assert not await broker.leave(keys, "w")
    assert await dump() == state


async def test_a_token_is_nothing_to_hold(broker, keys, seed, dump, message):
    """A token is a hint. Breaks when the token that the last block took keeps the worker from leaving."""
    await seed({"workers": {"w": "future"}, "processing:w": [b""]})
    assert await broker.leave(keys, "w")
    assert await dump() == {"processing:w": LEFT}
    await seed({"workers": {"v": "future"}, "processing:v": [b"", message("a")]})
    assert not await broker.leave(keys, "v")
    assert (await dump())["processing:v"] == [message("a")]


async def test_the_same_step_again_is_the_same(broker, keys, seed, dump):
    """May be repeated. Breaks when the tombstone is taken for a list, or for something that is held."""
    await seed({"workers": {"w": "future"}})
    assert await broker.leave(keys, "w")
    assert await broker.leave(keys, "w")
    assert await dump() == {"processing:w": LEFT}


async def test_the_tombstone_stays_for_a_day(broker, keys, raw, seed):
    """A dead worker's list refuses messages for a day. Breaks when the TTL is in other units."""
    await seed({"workers": {"w": "future"}})
    await broker.leave(keys, "w")
    assert 86_390 <= await raw("TTL", keys.processing("w")) <= 86_400


async def test_what_was_left_is_refused_from_then_on(broker, keys, seed, dump, message, done):
    """A dead worker's list refuses messages. Breaks when a verb makes the list, or the worker, anew."""
    await seed({"workers": {"w": "future"}, "main": [message("a")]})
    await broker.leave(keys, "w")
    stored = await dump()
    assert not await broker.register(keys, "w", 30)
    assert not await broker.renew([keys], "w", 30, b"card")
    assert not await broker.start(keys, "w", ["a"])
    assert await broker.claim([keys], [5], "w", 30, 1, 1_000) is None
    assert await broker.ack(keys, "w", 0, 1, [done("a")]) is None
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.block(keys, "w", 1)
    assert await dump() == stored
