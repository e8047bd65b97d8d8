"""edit: a dead letter's message is changed, and stays a dead letter of the same age."""

LETTERS = {"dead": {"a": 7, "b": 8}, "dead:letters": {"a": b"letter", "b": b"other"}}


async def test_the_letter_is_another_and_as_old(broker, keys, seed, dump, raw):
    await seed(LETTERS)
    assert await broker.edit(keys, "a", b"letter", b"changed")
    assert (await dump())["dead:letters"] == {"a": b"changed", "b": b"other"}
    assert float(await raw("ZSCORE", keys.dead, "a")) == 7


async def test_a_letter_that_has_gone_or_changed_is_left_alone(broker, keys, seed, dump):
    """Breaks when two operators overwrite one another, or a letter comes back that was retried."""
    await seed(LETTERS)
    stored = await dump()
    assert not await broker.edit(keys, "a", b"read", b"changed")
    assert not await broker.edit(keys, "gone", b"letter", b"changed")
    assert await dump() == stored


async def test_the_same_step_again_says_that_it_is_done(broker, keys, seed, dump):
    """Its reply may be lost."""
    await seed(LETTERS)
    await broker.edit(keys, "a", b"letter", b"changed")
    stored = await dump()
    assert await broker.edit(keys, "a", b"letter", b"changed")
    assert await dump() == stored
