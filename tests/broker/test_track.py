"""track: a running job's record (STARTED, progress) is written while its worker owns it."""

RECORD = b'{"state":"STARTED"}'


async def test_the_record_is_written_and_announced(broker, keys, seed, dump, message, listen):
    """STARTED and progress are seen. Breaks when the record has no TTL, or is written and not announced."""
    await seed({"processing:w": [message("b"), message("a"), message("c")]})
    heard = await listen("result:a")
    assert await broker.track(keys, "w", "a", message("a"), RECORD, 60)
    assert await heard() == RECORD
    assert await dump() == {
        "processing:w": [message("b"), message("a"), message("c")],
        "result:a": ("ttl", RECORD),
    }


async def test_the_only_message_is_found_too(broker, keys, seed, dump, message):
    """Breaks when the position 0 that LPOS gives is taken for no position."""
    await seed({"processing:w": [message("a")]})
    assert await broker.track(keys, "w", "a", message("a"), RECORD, 60)
    assert (await dump())["result:a"] == ("ttl", RECORD)


async def test_a_later_record_takes_the_place_of_an_earlier_one(broker, keys, raw, seed, dump, message):
    """May be repeated. Breaks when the TTL is that of the first record."""
    await seed({"processing:w": [message("a")]})
    await broker.track(keys, "w", "a", message("a"), RECORD, 10)
    assert await broker.track(keys, "w", "a", message("a"), b'{"state":"STARTED","progress":1}', 600)
    assert 590 <= await raw("TTL", keys.result("a")) <= 600
    assert (await dump())["result:a"] == ("ttl", b'{"state":"STARTED","progress":1}')


async def test_a_lost_claim_writes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles: the new owner's record stays. Breaks when the list is not looked at."""
    state = {"processing:w": [message("b")], "processing:v": [message("a")], "result:a": ("ttl", b"the new owner's")}
    await seed(state)
    assert not await broker.track(keys, "w", "a", message("a"), RECORD, 60)
    assert not await broker.track(keys, "nobody", "a", message("a"), RECORD, 60)
    assert await dump() == state


async def test_a_worker_that_was_reaped_is_told_that_its_claim_is_lost(broker, keys, seed, dump, message):
    """The late worker says so, and goes on under a new id. Breaks when its list's tombstone is an error."""
    state = {"processing:w": ("ttl", b"reaped"), "result:a": ("ttl", b"the new owner's")}
    await seed(state)
    assert not await broker.track(keys, "w", "a", message("a"), RECORD, 60)
    assert await dump() == state


async def test_a_job_that_was_settled_before_it_started_is_known_by_its_mark(broker, keys, seed, dump, message):
    """It is in no list. Breaks when its record is refused, or written after its end or by a worker that was reaped."""
    state = {"workers": {"w": "future"}, "started:w": {"a"}}
    await seed(state)
    for _ in range(2):  # a lost reply: sent again
        assert await broker.track(keys, "w", "a", message("a"), RECORD, 60, is_settled_early=True)
    assert await dump() == {**state, "result:a": ("ttl", RECORD)}
    assert not await broker.track(keys, "w", "b", message("b"), RECORD, 60, is_settled_early=True)
    assert not await broker.track(keys, "v", "a", message("a"), RECORD, 60, is_settled_early=True)
    assert await dump() == {**state, "result:a": ("ttl", RECORD)}


async def test_its_record_stays_when_its_worker_was_reaped(broker, keys, seed, dump, message):
    """Breaks when the mark alone counts: a reaper has reported the job as lost."""
    state = {"started:w": {"a"}, "result:a": ("ttl", b"the reaper's")}
    await seed(state)
    assert not await broker.track(keys, "w", "a", message("a"), RECORD, 60, is_settled_early=True)
    assert await dump() == state
