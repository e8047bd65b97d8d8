"""unspool: what was written to the result store leaves the spool, and what is next in it is told."""

SPOOL = {"spool": [b"1", b"22", b"333"], "spool:bytes": b"6"}
MARK = {"recorded": ("ttl", b"100")}


async def unspool(broker, keys, *written, worker="w", most=10, most_bytes=1000):
    return await broker.unspool(keys, worker, written, bound=100, most=most, most_bytes=most_bytes, lock_s=10)


async def test_the_oldest_are_told_and_stay(broker, keys, seed, dump):
    """Breaks when something leaves before it was written, or the order is another."""
    await seed(SPOOL)
    assert await unspool(broker, keys, most=2) == [b"1", b"22"]
    assert await dump() == {**SPOOL, **MARK, "spool:lock": ("ttl", b"w")}
    assert await unspool(broker, keys, most=2) == [b"1", b"22"]


async def test_what_is_told_is_bounded_in_bytes(broker, keys, seed):
    """But one is told in any case. Breaks when a worker gets all of a large spool at once."""
    await seed(SPOOL)
    assert await unspool(broker, keys, most_bytes=3) == [b"1", b"22"]
    assert await unspool(broker, keys, most_bytes=0) == [b"1"]


async def test_what_was_written_leaves_and_nothing_is_left_at_the_end(broker, keys, seed, dump):
    """Breaks when the length is not counted down, or a key stays."""
    await seed(SPOOL)
    assert await unspool(broker, keys, b"1", b"22") == [b"333"]
    assert await dump() == {**MARK, "spool": [b"333"], "spool:bytes": b"3", "spool:lock": ("ttl", b"w")}
    assert await unspool(broker, keys, b"333") == []
    assert await dump() == MARK


async def test_sent_again_it_takes_nothing_else(broker, keys, seed, dump):
    """A reply was lost. Breaks when it takes as many as it names, whatever they are."""
    await seed(SPOOL)
    for _ in range(2):
        assert await unspool(broker, keys, b"1") == [b"22", b"333"]
    assert (await dump())["spool:bytes"] == b"5"


async def test_two_at_once_take_each_entry_once(broker, keys, seed, dump):
    """The lock had run out. Breaks when the second takes what it has not written."""
    await seed({**SPOOL, "spool": [b"1", b"22", b"333", b"4444"], "spool:bytes": b"10"})
    assert await unspool(broker, keys, b"1", b"22", worker="v", most=0) == []
    assert await unspool(broker, keys, b"1", b"22", b"333", worker="w", most=0) == []
    stored = await dump()
    assert (stored["spool"], stored["spool:bytes"]) == ([b"4444"], b"4")


async def test_one_worker_at_a_time(broker, keys, seed, dump, raw):
    """Breaks when all workers write the same; or what one has written stays since another is at it by now."""
    await seed(SPOOL)
    assert await unspool(broker, keys, worker="v", most=1) == [b"1"]
    assert await unspool(broker, keys, worker="w") is None
    assert await unspool(broker, keys, b"1", worker="w") is None
    assert (await dump())["spool"] == [b"22", b"333"]
    assert 9000 < await raw("PTTL", keys.spool_lock) <= 10_000
    await raw("DEL", keys.spool_lock)
    assert await unspool(broker, keys, worker="w") == [b"22", b"333"]


async def test_asked_for_none_it_only_says_that_there_is_a_store(broker, keys, seed, dump):
    """Breaks when a worker whose store is away keeps the others from theirs."""
    assert await unspool(broker, keys, most=0) == []
    assert await dump() == MARK
    await seed(SPOOL)
    assert await unspool(broker, keys, most=0) == []
    assert await dump() == {**SPOOL, **MARK}
