"""reap: messages of a dead worker go back to their lists; when none is left, the worker is no more."""

import asyncio
import contextlib

from rqueue.errors import BrokerError

DEAD = {"workers": {"w": "past"}}
TOMBSTONE = ("ttl", b"reaped")


def items(*messages: bytes, level: int = 0) -> list[tuple[bytes, int, bytes]]:
    return [(raw, level, raw) for raw in messages]


async def test_a_dead_workers_messages_are_next_in_their_order(broker, keys, seed, dump, message):
    """Never nowhere; a reaped job is next in its list. Breaks when one of the dead worker's keys stays."""
    a, b, c, d = (message(name) for name in "abcd")
    await seed(
        {
            "processing:w": [c, b, a],
            "main": [d],
            "started:w": {"a"},
            "settled:w": ("ttl", {"0": b"1 1"}),
            "worker:w": ("ttl", b"card"),
            "jobs": set("abcd"),
            "workers": {"w": "past", "v": "future"},
        }
    )
    assert await broker.reap(keys, "w", items(c, b, a)) == 1
    assert await dump() == {
        "main": [d, c, b, a],
        "jobs": set("abcd"),
        "processing:w": TOMBSTONE,
        "workers": {"v": "future"},
    }


async def test_they_go_on_as_the_reaper_says(broker, keys, seed, dump, message):
    """Worker losses are counted, and priority survives. Breaks when the old bytes go back, or a level is lost."""
    before = {level: message(f"j{level}", level) for level in range(11)}
    after = {level: message(f"j{level}", level, losses=1) for level in range(11)}
    await seed({"processing:w": list(before.values()), **DEAD})
    moves = [(before[level], level, after[level]) for level in range(11)]
    assert await broker.reap(keys, "w", moves) == 1
    lists = {f"p{level}": [after[level]] for level in range(1, 11)}
    assert await dump() == {"main": [after[0]], **lists, "processing:w": TOMBSTONE}


async def test_in_parts_the_order_is_the_same(broker, keys, seed, dump, message):
    """Reaping is repeatable: a reaper that dies half-way loses nothing. Breaks when the worker is gone while its list
    holds messages, or what comes later is put behind.
    """
    a, b, c, d = (message(name) for name in "abcd")
    await seed({"processing:w": [d, c, b, a], "started:w": {"a"}, "worker:w": ("ttl", b"card"), **DEAD})
    assert await broker.remains(keys, "w", 2) == ([d, c], {"a"})
    assert await broker.reap(keys, "w", items(d, c)) == 0
    assert await dump() == {
        "main": [d, c],
        "processing:w": [b, a],
        "started:w": {"a"},
        "worker:w": ("ttl", b"card"),
        **DEAD,
    }
    assert await broker.reap(keys, "w", items(b, a)) == 1
    assert await dump() == {"main": [d, c, b, a], "processing:w": TOMBSTONE}


async def test_a_worker_that_is_alive_is_left_alone(broker, keys, seed, dump, message):
    """The move checks the lease again. Breaks when a stalled Redis condemns a worker that has renewed meanwhile."""
    state = {
        "processing:w": [message("a")],
        "started:w": {"a"},
        "settled:w": ("ttl", {"0": b"1 1"}),
        "worker:w": ("ttl", b"card"),
        "workers": {"w": "future"},
    }
    await seed(state)
    assert await broker.reap(keys, "w", items(message("a"))) == -1
    assert await broker.reap(keys, "w", []) == -1
    assert await dump() == state


async def test_a_worker_without_messages_is_gone_at_once(broker, keys, seed, dump):
    """A dead worker's list refuses messages. Breaks when the tombstone is put only where there was a list."""
    await seed({"processing:w": [b""], "started:w": {"stale"}, **DEAD})
    assert await broker.reap(keys, "w", []) == 1
    assert await dump() == {"processing:w": TOMBSTONE}


async def test_an_orphans_list_is_reaped_too(broker, keys, seed, dump, message):
    """Every list is looked at. Breaks when only registered workers can be reaped."""
    await seed({"processing:w": [message("a")]})
    assert await broker.reap(keys, "w", items(message("a"))) == 1
    assert await dump() == {"main": [message("a")], "processing:w": TOMBSTONE}


async def test_the_tombstone_stays_for_a_day(broker, keys, raw, seed):
    """A dead worker's list refuses messages for a day. Breaks when the TTL is in other units."""
    await seed(DEAD)
    await broker.reap(keys, "w", [])
    assert 86_390 <= await raw("TTL", keys.processing("w")) <= 86_400


async def test_its_id_is_never_used_again(broker, keys, seed, dump):
    """A worker's id is never reused. Breaks when register does not see the tombstone."""
    await seed(DEAD)
    await broker.reap(keys, "w", [])
    stored = await dump()
    assert not await broker.register(keys, "w", 30)
    assert not await broker.renew([keys], "w", 30, b"card")
    assert await broker.claim([keys], [5], "w", 30, 1, 1_000) is None
    assert await dump() == stored


async def test_the_same_step_again_moves_nothing(broker, keys, seed, dump, message):
    """Reaping is repeatable. Breaks when the push does not depend on the removal."""
    await seed({"processing:w": [message("a")], **DEAD})
    assert await broker.reap(keys, "w", items(message("a"))) == 1
    stored = await dump()
    assert await broker.reap(keys, "w", items(message("a"))) == 1
    assert await dump() == stored


async def test_two_reapers_at_once_move_each_message_once(broker, other, keys, seed, dump, message):
    """Two reapers lose and double nothing. Breaks when messages are read and moved in two steps of one reaper."""
    messages = [message(f"j{number}") for number in range(100)]
    await seed({"processing:w": messages, **DEAD})

    async def work(reaper, step: int) -> int:
        outcome = 0
        for start in range(0, 100, step):
            outcome = await reaper.reap(keys, "w", items(*messages[start : start + step]))
        return outcome

    assert await asyncio.gather(work(broker, 7), work(other, 11)) == [1, 1]
    assert await dump() == {"main": messages, "processing:w": TOMBSTONE}


async def test_a_second_reaper_finds_that_nothing_remains(broker, other, keys, seed, message):
    """Two reapers do no harm. Breaks when the second meets the first one's tombstone, and gets an error."""
    await seed({"processing:w": [message("a")], **DEAD})
    overdue = await other.overdue(keys)
    await broker.reap(keys, "w", items(message("a")))
    assert set(overdue) == {"w"}
    assert await other.remains(keys, "w", 100) == ([], set())


async def test_a_message_that_is_another_workers_now_is_not_moved(broker, keys, seed, dump, message):
    """Reaping is repeatable. Breaks when a reaper that comes back moves what has been claimed anew."""
    await seed({"processing:w": [message("b")], "processing:v": [message("a")], **DEAD})
    assert await broker.reap(keys, "w", items(message("a"))) == 0
    assert await dump() == {"processing:w": [message("b")], "processing:v": [message("a")], **DEAD}


async def test_of_equal_messages_as_many_go_back_as_there_were(broker, keys, seed, dump):
    """Never nowhere. Breaks when LREM takes all copies and one is pushed."""
    await seed({"processing:w": [b"{}", b"{}", b"{}"], **DEAD})
    assert await broker.reap(keys, "w", items(b"{}", b"{}")) == 0
    assert await dump() == {"main": [b"{}", b"{}"], "processing:w": [b"{}"], **DEAD}


async def test_a_token_only_where_nobody_would_wake(broker, keys, seed, dump, message):
    """No wake-up is missed. Breaks when a priority's job comes back unheard, or beside a message in the main list."""
    await seed({"processing:w": [message("a", 5)], **DEAD})
    await broker.reap(keys, "w", items(message("a", 5), level=5))
    assert await dump() == {"main": [b""], "p5": [message("a", 5)], "processing:w": TOMBSTONE}
    await seed({"processing:v": [message("c"), message("b", 5)], "workers": {"v": "past"}})
    await broker.reap(keys, "v", [*items(message("b", 5), level=5), *items(message("c"))])
    assert [raw for raw in (await dump())["main"] if raw] == [message("c")]


async def test_a_list_that_is_none_loses_no_message(broker, keys, seed, dump, message):
    """Never nowhere (types before any write). Breaks when a job has left its list before its push is refused."""
    await seed({"p5": b"somebody's", "processing:w": [message("a", 5)], **DEAD})
    with contextlib.suppress(BrokerError):
        await broker.reap(keys, "w", items(message("a", 5), level=5))
    assert (await dump()).get("processing:w") == [message("a", 5)]


# What has started


async def test_what_goes_back_is_not_marked_any_more(broker, keys, seed, dump, message):
    """Reaping is repeatable: a reaper that dies half-way leaves a job that waits. Breaks when it stays marked: the last
    part would take it for settled early, and free the id of a job that is alive.
    """
    a, b = message("a"), message("b", 5, losses=1)
    await seed({"processing:w": [b, a], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **DEAD})
    assert await broker.reap(keys, "w", [(b, 5, message("b", 5, losses=2))]) == 0
    stored = await dump()
    assert (stored["started:w"], stored["jobs"]) == ({"a"}, {"a", "b"})
    assert await broker.reap(keys, "w", items(a)) == 1
    stored = await dump()
    assert stored["jobs"] == {"a", "b"}
    assert "started:w" not in stored


async def test_a_job_that_was_settled_before_it_started_ends_with_its_worker(broker, keys, seed, dump, message):
    """acks_late=False: it runs at most once. Breaks when its id stays taken for ever, or that of another job goes."""
    state = {"processing:w": [message("a")], "jobs": {"a", "early", "other"}, "result:early": ("ttl", b"STARTED")}
    await seed({**state, "started:w": {"a", "early"}, **DEAD})
    assert await broker.reap(keys, "w", items(message("a"))) == 1
    assert await dump() == {
        "main": [message("a")],
        "jobs": {"a", "other"},
        "result:early": ("ttl", b"STARTED"),
        "processing:w": TOMBSTONE,
    }


async def test_a_message_that_somebody_else_moved_keeps_its_mark_and_its_id(broker, keys, seed, dump, message):
    """Two reapers. Breaks when the one that comes second unmarks, or frees, what it has not moved."""
    state = {"processing:w": [message("b")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **DEAD}
    await seed(state)
    assert await broker.reap(keys, "w", items(message("a"))) == 0
    assert await dump() == state


async def test_a_cancelled_job_goes_where_no_block_takes_it(broker, keys, seed, dump, message):
    """A block does not know of stops. Breaks when it goes back to the main list."""
    await seed({"processing:w": [message("a")], "workers": {"w": "past"}, "stops": {"job:a": 0}})
    assert await broker.reap(keys, "w", [(message("a"), 0, message("a"))]) == 1
    state = {"processing:w": ("ttl", b"reaped"), "main": [b""], "p10": [message("a")], "stops": {"job:a": "past"}}
    assert await dump() == state
