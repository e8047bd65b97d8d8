"""revive: a dead letter becomes a waiting job again, under its id."""

import contextlib

from rqueue.errors import BrokerError

LETTERS = {"dead": {"a": "past", "b": "past"}, "dead:letters": {"a": b"letter", "b": b"other"}}
REST = {"dead": {"b": "past"}, "dead:letters": {"b": b"other"}}


async def test_a_letter_waits_again(broker, keys, seed, dump, message):
    """Never nowhere: one step. Breaks when the letter stays, its old result stays, or its id is not known again."""
    await seed({**LETTERS, "main": [message("x")], "result:a": ("ttl", b"old"), "result:b": ("ttl", b"kept")})
    assert await broker.revive(keys, "a", b"letter", "a", message("a"), 0) == 1
    assert await dump() == {**REST, "main": [message("a"), message("x")], "jobs": {"a"}, "result:b": ("ttl", b"kept")}


async def test_a_priority_leaves_a_token_in_an_empty_main_list(broker, keys, seed, dump, message):
    """No wake-up is missed, and priority survives. Breaks when the level or the token is forgotten."""
    await seed(LETTERS)
    assert await broker.revive(keys, "a", b"letter", "a", message("a", 7), 7) == 1
    assert await dump() == {**REST, "main": [b""], "p7": [message("a", 7)], "jobs": {"a"}}


async def test_a_letter_whose_message_had_no_id(broker, keys, seed, dump, message):
    """A letter's own id may not be the job's. Breaks when one is taken for the other."""
    await seed({**LETTERS, "result:new": ("ttl", b"old")})
    assert await broker.revive(keys, "a", b"letter", "new", message("new"), 0) == 1
    assert await dump() == {**REST, "main": [message("new")], "jobs": {"new"}}


async def test_a_letter_that_has_gone_or_changed_is_left_alone(broker, keys, seed, dump, message):
    """Never twice. Breaks when a letter is revived by its id: it may be another by now."""
    await seed({**LETTERS, "result:a": ("ttl", b"kept")})
    stored = await dump()
    assert await broker.revive(keys, "a", b"changed", "a", message("a"), 0) == 0
    assert await broker.revive(keys, "gone", b"letter", "gone", message("gone"), 0) == 0
    assert await dump() == stored


async def test_the_same_step_again_changes_nothing(broker, keys, seed, dump, message):
    """Never twice. Breaks when a job that was revived is pushed again."""
    await seed(LETTERS)
    await broker.revive(keys, "a", b"letter", "a", message("a"), 0)
    stored = await dump()
    assert await broker.revive(keys, "a", b"letter", "a", message("a"), 0) == 0
    assert await dump() == stored


async def test_a_job_that_is_alive_keeps_its_id(broker, keys, seed, dump, message):
    """An id is never alive twice. Breaks when the letter is removed before the id is asked for."""
    state = {**LETTERS, "jobs": {"a"}, "result:a": ("ttl", b"running")}
    await seed(state)
    assert await broker.revive(keys, "a", b"letter", "a", message("a"), 0) == 2
    assert await dump() == state


async def test_a_list_that_is_none_loses_no_letter(broker, keys, seed, dump, message):
    """Never nowhere (types before any write). Breaks when a letter has gone before its push is refused."""
    await seed({**LETTERS, "p5": b"somebody's"})
    with contextlib.suppress(BrokerError):
        await broker.revive(keys, "a", b"letter", "a", message("a", 5), 5)
    assert (await dump())["dead:letters"] == LETTERS["dead:letters"]


async def test_a_stop_of_an_earlier_job_is_forgotten_first(broker, keys, seed, dump, message):
    """It would be revoked in the earlier one's place. Breaks when the letter goes all the same."""
    state = {"dead": {"a": "past"}, "dead:letters": {"a": b"letter"}, "stops": {"job:a": "past"}}
    await seed({**state, "stops": {"job:a": 0}})
    assert await broker.revive(keys, "a", b"letter", "a", message("a"), 0) == 3
    assert await dump() == state
    assert await broker.forget(keys, "a", []) == 1
    assert await broker.revive(keys, "a", b"letter", "a", message("a"), 0) == 1
