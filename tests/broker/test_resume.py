"""resume: a queue, or a task in it, runs again."""

WORKERS = {"workers": {"v": "future", "w": "future"}}


async def test_it_leaves_what_was_there_before_the_pause(broker, keys, seed, dump, message):
    """Nothing leaks, and nothing is lost. Breaks when the tokens stay, or a message goes with them."""
    await seed({"main": [message("b"), message("a")], **WORKERS})
    stored = await dump()
    await broker.pause(keys, "queue")
    assert await broker.resume(keys, "queue")
    assert await dump() == stored


async def test_a_token_in_an_empty_main_list(broker, keys, seed, dump, message):
    """No wake-up is missed: jobs may wait in a priority's list. Breaks when nobody is woken."""
    await seed({"p3": [message("a", 3)], **WORKERS})
    await broker.pause(keys, "all")
    assert await broker.resume(keys, "all")
    assert await dump() == {"main": [b""], "p3": [message("a", 3)], **WORKERS}


async def test_without_workers_nothing_is_left(broker, keys, dump):
    await broker.pause(keys, "queue")
    await broker.resume(keys, "queue")
    assert await dump() == {}


async def test_it_stays_paused_by_another_stop(broker, keys, seed, dump, message):
    """Strict: the tokens are still needed. Breaks when the first resume takes them."""
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "queue")
    await broker.pause(keys, "all")
    assert await broker.resume(keys, "queue")
    assert await dump() == {"main": [message("a"), b"", b""], "stops": {"all": "past"}, **WORKERS}


async def test_the_same_step_again_changes_nothing(broker, keys, seed, dump, message):
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "queue")
    await broker.resume(keys, "queue")
    stored = await dump()
    assert await broker.resume(keys, "queue") is False
    assert await dump() == stored


async def test_a_revoked_job_stays_revoked(broker, keys, raw, dump):
    """Other stops are others'. Breaks when all of them go."""
    await raw("ZADD", keys.stops, 0, "job:a", 0, "queue", 0, "task:t")
    await broker.resume(keys, "queue")
    assert await dump() == {"stops": {"job:a": "past", "task:t": "past"}}


async def test_a_main_list_that_is_none_is_left_alone(broker, keys, seed, dump):
    await seed({"main": b"somebody's", **WORKERS})
    await broker.pause(keys, "queue")
    assert await broker.resume(keys, "queue")
    assert await dump() == {"main": b"somebody's", **WORKERS}
