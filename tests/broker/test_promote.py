"""promote: scheduled jobs that are due go to their lists."""


def _scheduled(message, **levels):
    return {job_id: message(job_id, level) for job_id, level in levels.items()}


async def test_due_jobs_go_to_their_lists_and_others_stay(broker, keys, seed, dump, message):
    """Never nowhere, and time is Redis's. Breaks when a job is left in the zset, lost, or moved before its time."""
    await seed(
        {
            "scheduled": {"a": 1, "b": 2, "c": 3, "d": "future"},
            "scheduled:messages": _scheduled(message, a=0, b=10, c=1, d=0),
            "jobs": {"a", "b", "c", "d"},
        }
    )
    moved, due_ms = await broker.promote(keys)
    assert moved == 3
    assert 0 < due_ms <= 60_000
    assert await dump() == {
        "main": [message("a")],
        "p10": [message("b", 10)],
        "p1": [message("c", 1)],
        "scheduled": {"d": "future"},
        "scheduled:messages": {"d": message("d")},
        "jobs": {"a", "b", "c", "d"},
    }


async def test_the_earliest_due_is_the_next_to_run(broker, keys, seed, dump, message):
    """Order. Breaks when the zset is read from its other end, or the list is filled at its other end."""
    await seed({"scheduled": {"a": 3, "b": 1, "c": 2}, "scheduled:messages": _scheduled(message, a=0, b=0, c=0)})
    assert await broker.promote(keys) == (3, None)
    assert await dump() == {"main": [message("a"), message("c"), message("b")]}


async def test_promoted_jobs_queue_up_behind_those_that_wait(broker, keys, seed, dump, message):
    """Order: first in, first out. Breaks when a promoted job is put in front."""
    await seed({"main": [message("x")], "scheduled": {"a": 1}, "scheduled:messages": _scheduled(message, a=0)})
    await broker.promote(keys)
    assert await dump() == {"main": [message("a"), message("x")]}


async def test_a_priority_leaves_a_token_in_an_empty_main_list(broker, keys, seed, dump, message):
    """No wake-up is missed. Breaks when whoever promotes leaves no token for the others."""
    await seed({"scheduled": {"a": 1}, "scheduled:messages": _scheduled(message, a=5)})
    assert await broker.promote(keys) == (1, None)
    assert await dump() == {"main": [b""], "p5": [message("a", 5)]}


async def test_no_token_beside_a_waiting_message(broker, keys, seed, dump, message):
    """Counts do not see tokens. Breaks when a token is left in a list that has something."""
    await seed({"scheduled": {"a": 1, "b": 2}, "scheduled:messages": _scheduled(message, a=5, b=0)})
    await broker.promote(keys)
    assert await dump() == {"main": [message("b")], "p5": [message("a", 5)]}


async def test_at_most_a_hundred_at_once(broker, keys, seed, dump, message):
    """Redis is never held for long. Breaks without the limit, or when the rest is not said to be due now."""
    names = [f"j{number:03}" for number in range(150)]
    await seed(
        {
            "scheduled": {name: number for number, name in enumerate(names)},
            "scheduled:messages": {name: message(name) for name in names},
        }
    )
    assert await broker.promote(keys) == (100, 0)
    stored = await dump()
    assert stored["main"] == [message(name) for name in reversed(names[:100])]
    assert set(stored["scheduled"]) == set(stored["scheduled:messages"]) == set(names[100:])
    assert await broker.promote(keys) == (50, None)
    assert await dump() == {"main": [message(name) for name in reversed(names)]}


async def test_nothing_due_changes_nothing(broker, keys, seed, dump, message):
    """May be repeated. Breaks when an idle step writes, or leaves a token: workers would wake one another for ever."""
    assert await broker.promote(keys) == (0, None)
    assert await dump() == {}
    state = {"scheduled": {"a": "future"}, "scheduled:messages": _scheduled(message, a=5)}
    await seed(state)
    assert (await broker.promote(keys))[0] == 0
    assert await dump() == state


async def test_the_same_step_again_moves_nothing_twice(broker, other, keys, seed, dump, message):
    """Never nowhere, and in exactly one place. Breaks when a message stays in the hash after its move."""
    await seed({"scheduled": {"a": 1}, "scheduled:messages": _scheduled(message, a=0)})
    assert await broker.promote(keys) == (1, None)
    assert await other.promote(keys) == (0, None)
    assert await dump() == {"main": [message("a")]}


async def test_an_entry_without_a_message_is_dropped(broker, keys, seed, dump, message):
    """What cannot be read stops nothing. Breaks when it stays the earliest for ever, or ends the step."""
    await seed({"scheduled": {"ghost": 1, "a": 2}, "scheduled:messages": _scheduled(message, a=0)})
    await broker.promote(keys)
    assert await dump() == {"main": [message("a")]}


async def test_a_list_that_is_none_keeps_its_jobs_scheduled_and_stops_no_other(broker, keys, seed, dump, message):
    """Never nowhere, and one bad key stops nobody else. Breaks when a job has left the schedule before its push is
    refused, or when the first refusal ends the step.
    """
    levels = {"a": 5, "b": 0, "c": 5, "d": 9, "e": 5}
    await seed(
        {
            "p5": b"somebody's",
            "scheduled": {"a": 1, "b": 2, "c": 3, "d": 4, "e": "future"},
            "scheduled:messages": _scheduled(message, **levels),
        }
    )
    moved, due_ms = await broker.promote(keys)
    assert (moved, due_ms) == (2, 0)
    stored = await dump()
    assert stored == {
        "p5": b"somebody's",
        "main": [message("b")],
        "p9": [message("d", 9)],
        "scheduled": {"a": "past", "c": "past", "e": "future"},
        "scheduled:messages": _scheduled(message, a=5, c=5, e=5),
    }
    assert await broker.promote(keys) == (0, 0)
    assert await dump() == stored


async def test_a_list_that_was_mended_gets_its_jobs(broker, keys, raw, seed, dump, message):
    """Breaks when a job whose list was none is promoted to nowhere, or left out for good."""
    await seed({"p5": b"somebody's", "scheduled": {"a": 1}, "scheduled:messages": _scheduled(message, a=5)})
    assert (await broker.promote(keys))[0] == 0
    await raw("DEL", keys.lists[5])
    assert await broker.promote(keys) == (1, None)
    assert await dump() == {"main": [b""], "p5": [message("a", 5)]}


async def test_a_cancelled_job_goes_where_no_block_takes_it(broker, keys, seed, dump, message):
    """A block does not know of stops. Breaks when a retry that was cancelled while it ran goes to the main list."""
    await seed({"scheduled": {"a": "past"}, "scheduled:messages": {"a": message("a")}, "stops": {"job:a": 0}})
    assert await broker.promote(keys) == (1, None)
    assert await dump() == {"main": [b""], "p10": [message("a")], "stops": {"job:a": "past"}}
