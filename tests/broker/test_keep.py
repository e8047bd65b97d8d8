"""keep: a job's row of history, in a Redis that keeps it."""

import asyncio

import pytest

from rqueue.broker.keep import Kept

KEY = "rqueue:row:j"


async def test_it_is_kept_for_as_long_as_asked(broker, dump):
    """Breaks when a row has no TTL, or one that was asked to stay has."""
    assert await broker.keep([Kept("j", 5, (1, 100), b"row of j")], 60) == [True]
    assert await dump() == {KEY: ("ttl", {"5": b"1 100 row of j"})}
    assert await broker.keep([Kept("k", 5, (1, 100), b"")], None) == [True]
    assert (await dump())["rqueue:row:k"] == {"5": b"1 100 "}
    assert await broker.kept("j") == {5: b"row of j"}
    assert await broker.kept("none") == {}


async def test_a_late_row_changes_nothing(broker, dump):
    """Breaks when a worker that was frozen overwrites its successor's row, or a repeated call is not harmless."""
    assert await broker.keep([Kept("j", 5, (2, 200), b"second")], None) == [True]
    assert await broker.keep([Kept("j", 5, (1, 100), b"first")], 60) == [False]
    assert await broker.keep([Kept("j", 5, (2, 200), b"second")], None) == [True]
    assert await dump() == {KEY: {"5": b"2 200 second"}}
    assert await broker.keep([Kept("j", 5, (1, 900), b"revived, and counted anew")], None) == [True]
    assert await broker.keep([Kept("j", 5, (3, 1), b"more runs")], None, 900) == [True]
    assert await broker.keep([Kept("j", 5, (4, 0), b"more runs, long ago")], None, 1) == [False]
    assert await broker.kept("j") == {5: b"more runs"}


async def test_times_from_before_all_times(broker):
    assert await broker.keep([Kept("j", -5, (0, -7), b"x")], None) == [True]
    assert await broker.keep([Kept("j", -5, (0, -8), b"y")], None) == [False]
    assert await broker.kept("j") == {-5: b"x"}


async def test_an_id_that_is_used_again_is_another_job(broker):
    await broker.keep([Kept("j", 5, (9, 900), b"first")], None)
    await broker.keep([Kept("j", 6, (1, 100), b"second")], None)
    assert await broker.kept("j") == {5: b"first", 6: b"second"}


async def test_two_at_once(broker, other):
    """Whatever comes first, the later row is what stays."""
    orders = [(runs, 100 * runs) for runs in range(1, 50)]
    await asyncio.gather(
        *(
            each.keep([Kept("j", 5, order, b"%d" % order[0])], None)
            for each, way in ((broker, orders), (other, orders[::-1]))
            for order in way
        )
    )
    assert await broker.kept("j") == {5: b"49"}


async def test_many_at_once(broker, dump):
    """Each on its own: what one of them meets changes nothing for the others."""
    assert await broker.keep([Kept("k", 5, (2, 200), b"second")], None) == [True]
    rows = [Kept("j", 5, (1, 100), b"one"), Kept("k", 5, (1, 100), b"first"), Kept("j", 6, (1, 100), b"two")]
    await broker.keep_all(rows, None)
    assert await dump() == {KEY: {"5": b"1 100 one", "6": b"1 100 two"}, "rqueue:row:k": {"5": b"2 200 second"}}
    await broker.keep_all([Kept(f"m{number}", 5, (1, number), b"%d" % number) for number in range(3000)], 60)
    assert await broker.kept("m2999") == {5: b"2999"}


async def test_many_are_one_step(broker):
    """Breaks when each row costs a round trip."""
    if broker.is_cluster:
        pytest.skip("ids lie in any slot")
    rows = [Kept("j", 5, (2, 200), b"one"), Kept("k", 5, (1, 100), b"two"), Kept("j", 5, (1, 100), b"late")]
    assert await broker.keep(rows, None) == [True, True, False]
