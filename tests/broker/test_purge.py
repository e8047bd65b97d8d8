"""purge: waiting jobs are thrown away."""

import pytest


async def test_all_lists_are_emptied_and_nothing_else(broker, keys, seed, dump, message):
    """Nothing leaks: their ids are forgotten. Breaks when a list is left out, or claimed and scheduled jobs go too."""
    rest = {
        "processing:w": [message("claimed")],
        "scheduled": {"later": "future"},
        "scheduled:messages": {"later": message("later")},
        "workers": {"w": "future"},
        "reports/main": [message("elsewhere")],
    }
    ids = {f"j{level}" for level in range(11)}
    await seed(
        {
            "main": [message("j0"), b'{"task":"plain","id":"claimed"}'],
            **{f"p{level}": [message(f"j{level}", level)] for level in range(1, 11)},
            "jobs": ids | {"claimed", "later"},
            **rest,
        }
    )
    assert await broker.purge(keys) == 12
    assert await dump() == {**rest, "jobs": {"claimed", "later"}}


async def test_tokens_go_and_are_not_counted(broker, keys, seed, dump, message):
    """Counts do not see tokens. Breaks when a token ends the purge, or is taken for a job."""
    await seed({"main": [message("a"), b""], "p3": [message("b", 3)], "jobs": {"a", "b"}})
    assert await broker.purge(keys) == 2
    assert await dump() == {}
    await seed({"main": [b""]})
    assert await broker.purge(keys) == 0
    assert await dump() == {}


async def test_nothing_waits(broker, keys, seed, dump):
    """0 says that it is done. Breaks when an empty purge writes."""
    state = {"jobs": {"claimed"}}
    await seed(state)
    assert await broker.purge(keys) == 0
    assert await dump() == state


@pytest.mark.parametrize("level", [0, 4])
async def test_at_most_a_thousand_at_once(broker, keys, raw, seed, message, level):
    """Redis is never held for long. Breaks without the limit, or when it holds for each list alone."""
    name = f"p{level}" if level else "main"
    await seed({name: [message(f"j{number}", level) for number in range(1_500)], "p10": [b"{}"]})
    assert await broker.purge(keys) == 1_000
    assert sum((await broker.sizes(keys)).waiting) == 501
    assert await broker.purge(keys) == 501
    assert await broker.purge(keys) == 0


async def test_what_cannot_be_read_goes_too(broker, keys, seed, dump, message):
    """What cannot be read stops nothing. Breaks when a message without a header ends the purge."""
    await seed({"main": [b"1 nonsense", b"\xff\x00", b"1 - 0 0 0 - {}", message("a")], "jobs": {"a", "-"}})
    assert await broker.purge(keys) == 4
    assert "main" not in await dump()


async def test_stops_go_with_what_they_stopped(broker, keys, seed, dump, message):
    """Nothing leaks. Breaks when a stop stays, or a pause or another job's stop goes."""
    await seed({"main": [message("a")], "p10": [message("b")], "jobs": {"b"}, "stops": {"job:a": 0, "job:b": 0}})
    await seed({"stops": {"job:c": 0, "queue": 0}})
    assert await broker.purge(keys) == 2
    assert await dump() == {"stops": {"job:c": "past", "queue": "past"}}
