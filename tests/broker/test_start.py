"""start: claimed jobs are marked as started, so that only they are charged if the worker dies."""

import asyncio

from rqueue.broker.scripts import SCRIPTS


async def test_started_jobs_are_marked(broker, keys, seed, dump):
    """Worker losses are counted only for jobs that had started. Breaks when the mark is not written."""
    await seed({"workers": {"w": "future"}})
    assert await broker.start(keys, "w", ["a"])
    assert await broker.start(keys, "w", ["b", "c"])
    assert await dump() == {"workers": {"w": "future"}, "started:w": {"a", "b", "c"}}


async def test_the_same_mark_again_changes_nothing(broker, keys, seed, dump):
    """May be repeated. Breaks when starts are counted."""
    await seed({"workers": {"w": "future"}, "started:w": {"a"}})
    assert await broker.start(keys, "w", ["a"])
    assert await dump() == {"workers": {"w": "future"}, "started:w": {"a"}}


async def test_an_unregistered_worker_marks_nothing(broker, keys, seed, dump):
    """A dead worker changes nothing, and nothing leaks. Breaks when the set of a reaped worker is made again: nobody
    would ever delete it.
    """
    state = {"workers": {"v": "future"}, "processing:w": ("ttl", b"reaped")}
    await seed(state)
    assert not await broker.start(keys, "w", ["a"])
    assert await dump() == state


async def test_it_leaves_in_front_of_what_is_asked_for_later(broker, keys, raw, seed):
    """What the kernel has, it delivers even if the process dies. Breaks when the command waits for its awaitable: a
    job would run before its mark is on its way.
    """
    await seed({"workers": {"w": "future"}})
    marked = broker.start(keys, "w", ["a"])
    assert await raw("SMEMBERS", keys.started("w")) == [b"a"]
    assert await marked


async def test_a_server_that_forgot_the_script_marks_all_the_same(broker, keys, raw, seed, dump):
    """Breaks when the NOSCRIPT of a command that nobody waits for is dropped."""
    await seed({"workers": {"w": "future"}})
    await raw("SCRIPT", "FLUSH")
    assert [bool(known) for known in await raw("SCRIPT", "EXISTS", SCRIPTS["start"].sha)] == [False]
    assert await asyncio.gather(broker.start(keys, "w", ["a"]), broker.start(keys, "w", ["b"])) == [True, True]
    assert (await dump())["started:w"] == {"a", "b"}


async def test_no_ids_are_no_error(broker, keys, seed, dump):
    """Breaks when SADD is sent without a member."""
    await seed({"workers": {"w": "future"}})
    assert await broker.start(keys, "w", [])
    assert await dump() == {"workers": {"w": "future"}}
