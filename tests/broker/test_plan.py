"""plan: a periodic schedule is added, changed, paused or removed, if nobody else has changed it meanwhile."""

import asyncio

import pytest

from rqueue.errors import BrokerFull

STORED = {"periodic": {"s": "future"}, "periodic:entries": {"s": b"old"}}


@pytest.fixture
def soon(broker):
    return broker.clock.now_ms() + 60_000


async def test_it_is_added_changed_paused_and_removed(broker, keys, dump, soon):
    """The index and the schedule are one. Breaks when one of the two is forgotten."""
    assert await broker.plan(keys, "s", b"", b"old", soon)
    assert await dump() == STORED
    assert await broker.plan(keys, "s", b"old", b"new", 1)
    assert await dump() == {"periodic": {"s": "past"}, "periodic:entries": {"s": b"new"}}
    assert await broker.plan(keys, "s", b"new", b"paused", None)
    assert await dump() == {"periodic:entries": {"s": b"paused"}}
    assert await broker.plan(keys, "s", b"paused", b"", None)
    assert await dump() == {}


@pytest.mark.parametrize(("read", "entry"), [(b"", b"new"), (b"older", b"new"), (b"older", b"")])
async def test_what_was_changed_meanwhile_stays(broker, keys, seed, dump, soon, read, entry):
    """Breaks when nothing is compared: of two edits, or an edit and a tick, one would be lost."""
    await seed(STORED)
    assert not await broker.plan(keys, "s", read, entry, soon if entry else None)
    assert await dump() == STORED


async def test_the_same_step_again_is_done_too(broker, keys, seed, dump, soon):
    """The reply was lost. Breaks when the repetition says that somebody else was there."""
    for read, entry, look in ((b"", b"old", soon), (b"old", b"new", soon), (b"new", b"", None)):
        assert await broker.plan(keys, "s", read, entry, look)
        stored = await dump()
        assert await broker.plan(keys, "s", read, entry, look)
        assert await dump() == stored


async def test_of_many_at_once_one_is_first(broker, other, keys, seed, soon):
    await seed(STORED)
    edits = [each.plan(keys, "s", b"old", b"new %d" % number, soon) for number, each in enumerate((broker, other) * 5)]
    assert sorted(await asyncio.gather(*edits)) == [False] * 9 + [True]


async def test_a_name_without_its_schedule_is_dropped(broker, keys, seed, dump):
    """What was half deleted by hand is not looked at for ever."""
    await seed({"periodic": {"s": "past"}})
    assert await broker.plan(keys, "s", b"", b"", None)
    assert await dump() == {}


async def test_a_full_redis_refuses_to_add_and_lets_pause_and_remove(new_server, new_broker, keys, seed_of, dump_of):
    """Breaks when the first write of a pause may grow memory, or that of an addition may not."""
    broker = await new_broker(new_server({"maxmemory-policy": "noeviction"}).url)
    await seed_of(broker, STORED)
    await broker._link.call(b"CONFIG", b"SET", b"maxmemory", b"1")
    with pytest.raises(BrokerFull):
        await broker.plan(keys, "t", b"", b"new", 1)
    assert await dump_of(broker) == STORED
    assert await broker.plan(keys, "s", b"old", b"paused", None)
    assert await broker.plan(keys, "s", b"paused", b"", None)
    assert await dump_of(broker) == {}
