"""keep: a job's row of history, in a Redis that keeps it."""

import asyncio

KEY = "rqueue:row:j"


async def test_it_is_kept_for_as_long_as_asked(broker, dump):
    """Breaks when a row has no TTL, or one that was asked to stay has."""
    assert await broker.keep("j", 5, (1, 100), b"row of j", 60)
    assert await dump() == {KEY: ("ttl", {"5": b"1 100 row of j"})}
    assert await broker.keep("k", 5, (1, 100), b"", None)
    assert (await dump())["rqueue:row:k"] == {"5": b"1 100 "}
    assert await broker.kept("j") == {5: b"row of j"}
    assert await broker.kept("none") == {}


async def test_a_late_row_changes_nothing(broker, dump):
    """Breaks when a worker that was frozen overwrites its successor's row, or a repeated call is not harmless."""
    assert await broker.keep("j", 5, (2, 200), b"second", None)
    assert not await broker.keep("j", 5, (1, 100), b"first", 60)
    assert await broker.keep("j", 5, (2, 200), b"second", None)
    assert await dump() == {KEY: {"5": b"2 200 second"}}
    assert await broker.keep("j", 5, (1, 900), b"revived, and counted anew", None)
    assert await broker.keep("j", 5, (3, 1), b"more runs", None, 900)
    assert not await broker.keep("j", 5, (4, 0), b"more runs, long ago", None, 1)
    assert await broker.kept("j") == {5: b"more runs"}


async def test_times_from_before_all_times(broker):
    assert await broker.keep("j", -5, (0, -7), b"x", None)
    assert not await broker.keep("j", -5, (0, -8), b"y", None)
    assert await broker.kept("j") == {-5: b"x"}


async def test_an_id_that_is_used_again_is_another_job(broker):
    await broker.keep("j", 5, (9, 900), b"first", None)
    await broker.keep("j", 6, (1, 100), b"second", None)
    assert await broker.kept("j") == {5: b"first", 6: b"second"}


async def test_two_at_once(broker, other):
    """Whatever comes first, the later row is what stays."""
    orders = [(runs, 100 * runs) for runs in range(1, 50)]
    await asyncio.gather(
        *(
            each.keep("j", 5, order, b"%d" % order[0], None)
            for each, way in ((broker, orders), (other, orders[::-1]))
            for order in way
        )
    )
    assert await broker.kept("j") == {5: b"49"}
