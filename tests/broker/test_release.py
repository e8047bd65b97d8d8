"""release: claimed jobs that have not started go back, uncharged and in their order."""

import contextlib

from rqueue.errors import BrokerError

ALIVE = {"workers": {"w": "future"}}


async def test_they_are_next_in_their_order(broker, keys, seed, dump, message):
    """What a process leaves goes back at once, in its order. Breaks when the list is filled at its other end."""
    a, b, c, d = (message(name) for name in "abcd")
    await seed({"processing:w": [c, b, a], "main": [d], "started:w": {"a", "b", "x"}, **ALIVE})
    assert await broker.release(keys, "w", [(c, "c", 0), (b, "b", 0), (a, "a", 0)]) == 3
    assert await dump() == {"main": [d, c, b, a], "started:w": {"x"}, **ALIVE}


async def test_they_go_back_unchanged_to_where_they_came_from(broker, keys, seed, dump, message):
    """Priority survives, uncharged. Breaks when a level is lost, or the bytes are changed."""
    lists = {level: message(f"j{level}", level, losses=2, retries=3) for level in range(11)}
    await seed({"processing:w": list(lists.values()), **ALIVE})
    assert await broker.release(keys, "w", [(raw, f"j{level}", level) for level, raw in lists.items()]) == 11
    assert await dump() == {"main": [lists[0]], **{f"p{level}": [lists[level]] for level in range(1, 11)}, **ALIVE}


async def test_a_priority_leaves_a_token_in_an_empty_main_list(broker, keys, seed, dump, message):
    """No wake-up is missed. Breaks when what one worker gives back is waited for by another on the main list."""
    await seed({"processing:w": [message("a", 5)], **ALIVE})
    assert await broker.release(keys, "w", [(message("a", 5), "a", 5)]) == 1
    assert await dump() == {"main": [b""], "p5": [message("a", 5)], **ALIVE}


async def test_no_token_beside_a_waiting_message(broker, keys, seed, dump, message):
    """Counts do not see tokens. Breaks when the token is pushed into a list that has something."""
    await seed({"processing:w": [message("b"), message("a", 5)], **ALIVE})
    assert await broker.release(keys, "w", [(message("b"), "b", 0), (message("a", 5), "a", 5)]) == 2
    assert await dump() == {"main": [message("b")], "p5": [message("a", 5)], **ALIVE}


async def test_a_message_without_an_id(broker, keys, seed, dump):
    """What could not be read goes back too. Breaks when a message without an id is left in the list."""
    await seed({"processing:w": [b"{}"], **ALIVE})
    assert await broker.release(keys, "w", [(b"{}", "", 0)]) == 1
    assert await dump() == {"main": [b"{}"], **ALIVE}


async def test_the_same_step_again_moves_nothing(broker, keys, seed, dump, message):
    """May be repeated: never in two places. Breaks when the push does not depend on the removal."""
    await seed({"processing:w": [message("b"), message("a")], **ALIVE})
    assert await broker.release(keys, "w", [(message("a"), "a", 0)]) == 1
    stored = await dump()
    assert await broker.release(keys, "w", [(message("a"), "a", 0)]) == 0
    assert await dump() == stored == {"main": [message("a")], "processing:w": [message("b")], **ALIVE}


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles. Breaks when a message that another worker runs is given back by the late one."""
    state = {"processing:v": [message("a", 5)], "started:w": {"a"}, "workers": {"v": "future", "w": "future"}}
    await seed(state)
    assert await broker.release(keys, "w", [(message("a", 5), "a", 5)]) == 0
    assert await dump() == state


async def test_of_equal_messages_as_many_go_back_as_were_given(broker, keys, seed, dump):
    """Never nowhere. Breaks when LREM takes all copies and one is pushed."""
    await seed({"processing:w": [b"{}", b"{}", b"{}"], **ALIVE})
    assert await broker.release(keys, "w", [(b"{}", "", 0), (b"{}", "", 0)]) == 2
    assert await dump() == {"main": [b"{}", b"{}"], "processing:w": [b"{}"], **ALIVE}


async def test_a_worker_that_was_reaped_gives_nothing_back(broker, keys, seed, dump, message):
    """Those that are not in the list any more are another's. Breaks when the tombstone is an error: the late worker
    cannot shut down in order.
    """
    state = {"processing:w": ("ttl", b"reaped"), "main": [message("a")]}
    await seed(state)
    assert await broker.release(keys, "w", [(message("a"), "a", 0)]) == 0
    assert await dump() == state


async def test_a_list_that_is_none_loses_no_message(broker, keys, seed, dump, message):
    """Never nowhere (types before any write). Breaks when a job has left its list before its push is refused."""
    await seed({"p5": b"somebody's", "processing:w": [message("a", 5)], **ALIVE})
    with contextlib.suppress(BrokerError):
        await broker.release(keys, "w", [(message("a", 5), "a", 5)])
    assert (await dump()).get("processing:w") == [message("a", 5)]


async def test_a_cancelled_job_goes_where_no_block_takes_it(broker, keys, seed, dump, message):
    """A block does not know of stops. Breaks when it goes back to the main list."""
    await seed({"processing:w": [message("b"), message("a")], "stops": {"job:a": 0}, **ALIVE})
    assert await broker.release(keys, "w", [(message("b"), "b", 0), (message("a"), "a", 0)]) == 2
    assert await dump() == {"main": [message("b")], "p10": [message("a")], "stops": {"job:a": "past"}, **ALIVE}
