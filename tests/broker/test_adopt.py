"""adopt: a claimed message without an id gets one, before anything is written under it."""

PLAIN, OTHER = b'{"task":"a"}', b'{"task":"b"}'


async def test_a_message_gets_its_id(broker, keys, seed, dump, message):
    """Never nowhere: old bytes out and new bytes in, in one step. Breaks when the id is not made known."""
    await seed({"processing:w": [PLAIN], "workers": {"w": "future"}, "jobs": {"x"}})
    assert await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")]) == b"1"
    assert await dump() == {"processing:w": [message("a")], "workers": {"w": "future"}, "jobs": {"a", "x"}}


async def test_a_batch_keeps_its_order(broker, keys, seed, dump, message):
    """Order: what is given back later is in the order of its claim. Breaks when adopted messages turn around."""
    await seed({"processing:w": [OTHER, PLAIN], "workers": {"w": "future"}})
    items = [(PLAIN, message("a"), "a"), (OTHER, message("b"), "b")]
    assert await broker.adopt(keys, "w", items) == b"11"
    assert (await dump())["processing:w"] == [message("b"), message("a")]


async def test_an_adopted_message_keeps_its_place(broker, keys, seed, dump, message):
    """Order: the list stands in the order of the claims, the last first, and reap trusts it. Breaks when an adopted
    message moves in front of what was claimed after it.
    """
    await seed({"processing:w": [message("c"), PLAIN, message("x")], "workers": {"w": "future"}})
    assert await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")]) == b"1"
    assert (await dump())["processing:w"] == [message("c"), message("a"), message("x")]


async def test_the_same_bytes_twice_are_two_jobs(broker, keys, seed, dump, message):
    """Never nowhere. Breaks when LREM takes all copies: a simple producer sends the same bytes again and again."""
    await seed({"processing:w": [PLAIN, PLAIN, PLAIN], "workers": {"w": "future"}})
    items = [(PLAIN, message("a"), "a"), (PLAIN, message("b"), "b")]
    assert await broker.adopt(keys, "w", items) == b"11"
    stored = await dump()
    assert sorted(stored["processing:w"]) == sorted([message("a"), message("b"), PLAIN])
    assert stored["jobs"] == {"a", "b"}


async def test_a_job_whose_id_is_alive_is_dropped(broker, keys, seed, dump, message):
    """A repeated enqueue is harmless, also by a simple producer. Breaks when the same id runs twice at once."""
    await seed({"processing:w": [OTHER, PLAIN], "workers": {"w": "future"}, "jobs": {"a"}})
    items = [(PLAIN, message("a"), "a"), (OTHER, message("b"), "b")]
    assert await broker.adopt(keys, "w", items) == b"21"
    assert await dump() == {"processing:w": [message("b")], "workers": {"w": "future"}, "jobs": {"a", "b"}}


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles. Breaks when the id is made known before the list is looked at: it would never end."""
    state = {"processing:w": [OTHER], "processing:v": [PLAIN], "workers": {"w": "future", "v": "future"}}
    await seed(state)
    assert await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")]) == b"0"
    assert await dump() == state


async def test_the_same_step_again_changes_nothing(broker, keys, seed, dump, message):
    """Never twice. Breaks when a repeat takes its own message for another's of the same id, and drops it."""
    await seed({"processing:w": [PLAIN], "workers": {"w": "future"}})
    await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")])
    stored = await dump()
    assert await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")]) == b"0"
    assert await dump() == stored


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message):
    """Every claim has an owner. Breaks when a worker that was reaped still writes."""
    state = {"processing:w": [PLAIN], "processing:gone": ("ttl", b"reaped")}
    await seed(state)
    assert await broker.adopt(keys, "w", [(PLAIN, message("a"), "a")]) is None
    assert await broker.adopt(keys, "gone", [(PLAIN, message("a"), "a")]) is None
    assert await dump() == state
