"""discard: a dead letter is thrown away."""

STATE = {
    "dead": {"a": "past", "b": "past", "c": "past"},
    "dead:letters": {"a": b"A", "b": b"B", "c": b"C"},
    "result:a": ("ttl", b"kept"),
    "jobs": {"a"},
}


async def test_letters_are_gone(broker, keys, seed, dump):
    """Nothing leaks. Breaks when a letter stays in the zset or the hash, or something else goes with it."""
    await seed(STATE)
    assert await broker.discard(keys, ["a", "c", "unknown"]) == 2
    assert await dump() == {**STATE, "dead": {"b": "past"}, "dead:letters": {"b": b"B"}}


async def test_the_same_again_finds_none(broker, keys, seed, dump):
    """May be repeated. Breaks when what was asked for is counted, and not what was there."""
    await seed(STATE)
    await broker.discard(keys, ["a"])
    stored = await dump()
    assert await broker.discard(keys, ["a"]) == 0
    assert await dump() == stored


async def test_no_ids_are_no_error(broker, keys, seed, dump):
    """Breaks when ZREM is sent without a member."""
    await seed(STATE)
    assert await broker.discard(keys, []) == 0
    assert await dump() == STATE


async def test_the_last_letter_leaves_nothing(broker, keys, seed, dump):
    """Nothing leaks. Breaks when zset and hash do not go together."""
    await seed({"dead": {"a": "past"}, "dead:letters": {"a": b"A"}})
    assert await broker.discard(keys, ["a"]) == 1
    assert await dump() == {}
