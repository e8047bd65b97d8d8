"""forget: the stop of a job that has ended goes, with what its cancel left."""

import pytest


async def test_the_stop_goes_and_what_is_left_in_any_list(broker, keys, seed, dump, message):
    """The id is free. Breaks when a list is left out: the old message would be taken for the next job's."""
    left = {f"p{level}": [message("b", level), message("a", level)] for level in range(1, 11)}
    await seed({"main": [message("aa"), message("a"), b"", b"\xff"], "processing:w": [message("a")], **left})
    await seed({"stops": {"job:a": 0, "job:aa": 0}, "jobs": {"aa", "b"}, "workers": {"w": "future"}})
    state = {
        "main": [message("aa"), b"", b"\xff"],
        **{f"p{level}": [message("b", level)] for level in range(1, 11)},
        "stops": {"job:aa": "past"},
        "jobs": {"aa", "b"},
        "workers": {"w": "future"},
    }
    assert await broker.forget(keys, "a", ["w"]) == 1
    assert await dump() == state
    assert await broker.forget(keys, "a", ["w"]) == 0  # after a lost reply
    assert await dump() == state


async def test_it_is_found_wherever_it_stands(broker, keys, seed, dump, message):
    """Read in pages. Breaks when a page's edge is left out."""
    backlog = [message(f"j{n}") for n in range(70)]
    for at in (0, 15, 16, 17, 69, 70):
        await broker._link.call("FLUSHALL")
        await seed({"main": [*backlog[:at], message("a"), *backlog[at:]], "stops": {"job:a": 0}})
        assert await broker.forget(keys, "a", []) == 1
        assert await dump() == {"main": backlog}


async def test_a_job_of_that_id_is_alive(broker, keys, seed, dump, message):
    """It was cancelled, and is to be stopped. Breaks when the stop of a running job is forgotten."""
    state = {"processing:w": [message("a")], "jobs": {"a"}, "workers": {"w": "future"}, "stops": {"job:a": "past"}}
    await seed({**state, "stops": {"job:a": 0}})
    assert await broker.forget(keys, "a", ["w"]) == 0
    assert await dump() == state


async def test_without_a_stop_nothing_is_touched(broker, keys, seed, dump, message):
    """A message that somebody pushed under an id of his own is no cancelled one's."""
    state = {"main": [message("a")]}
    await seed(state)
    assert await broker.forget(keys, "a", []) == 0
    assert await dump() == state


async def test_other_workers_by_now(broker, keys, seed, dump, message):
    """One may have claimed what is left. Breaks when it is not looked for there, and is settled under the new job."""
    state = {"processing:w": [message("a")], "workers": {"w": "future"}, "stops": {"job:a": "past"}}
    await seed({**state, "stops": {"job:a": 0}})
    assert await broker.forget(keys, "a", ["v"]) == -1
    assert await dump() == state


@pytest.mark.parametrize("name", ["p4", "processing:w"])
async def test_what_is_no_list_is_passed_over(broker, keys, seed, dump, name):
    await seed({name: b"x", "stops": {"job:a": 0}})
    assert await broker.forget(keys, "a", ["w"]) == 1
    assert await dump() == {name: b"x"}


async def test_stale_stops_are_those_of_nobody_while_nothing_waits(broker, keys, seed, raw, message):
    """What a canceller that died has left. Breaks when it names a job that runs, or a pause."""
    await seed({"stops": {"job:a": 0, "job:b": 0, "queue": 0, "task:job": 0}, "jobs": {"b"}, "main": [message("x")]})
    assert await broker.stale_stops(keys, 100) == []
    await raw("DEL", keys.main)
    assert await broker.stale_stops(keys, 100) == ["a"]
    await raw("DEL", keys.stops)
    assert await broker.stale_stops(keys, 100) == []
