"""ack: finished jobs leave their worker's list, exactly once, and their results are there."""

import contextlib

import pytest

from rqueue.broker.broker import Done

ALIVE = {"workers": {"w": "future"}}


async def test_a_settled_job_is_gone_and_its_result_is_there(broker, keys, seed, dump, message, done, listen):
    """A result means settled: written, announced and counted in one step. Breaks when one of them is left out."""
    a, b = message("a"), message("b")
    await seed({"processing:w": [b, a], "started:w": {"a", "b"}, "jobs": {"a", "b", "x"}, **ALIVE})
    heard = await listen("result:a")
    assert await broker.ack(keys, "w", 2, 1, [done("a")]) == b"1"
    assert await heard() == done("a").record
    assert await dump() == {
        "processing:w": [b],
        "started:w": {"b"},
        "jobs": {"b", "x"},
        "result:a": ("ttl", done("a").record),
        "counts": ("ttl", {"SUCCESS": b"1"}),
        "settled:w": ("ttl", {"2": b"1 1"}),
        **ALIVE,
    }


async def test_a_batch_settles_each_and_counts_by_state(broker, keys, seed, dump, message, done):
    """A result means settled. Breaks when a batch's results go under each other's keys, or counts start afresh."""
    await seed(
        {
            "processing:w": [message(name) for name in "dcba"],
            "jobs": set("abcd"),
            "started:w": set("abcd"),
            "counts": ("ttl", {"SUCCESS": b"10"}),
            **ALIVE,
        }
    )
    batch = [done("a"), done("b", "FAILURE"), done("c", "REVOKED"), done("d")]
    assert await broker.ack(keys, "w", 0, 1, batch) == b"1111"
    assert await dump() == {
        **{f"result:{each.id}": ("ttl", each.record) for each in batch},
        "counts": ("ttl", {"SUCCESS": b"12", "FAILURE": b"1", "REVOKED": b"1"}),
        "settled:w": ("ttl", {"0": b"1 1111"}),
        **ALIVE,
    }


async def test_a_lost_claim_changes_nothing_and_its_neighbours_are_settled(broker, keys, seed, dump, message, done):
    """Only the owner settles: the late worker overwrites nothing, and says so. Breaks when the result is written, the
    id removed or the end counted before the list is looked at.
    """
    await seed(
        {
            "processing:w": [message("c"), message("a")],
            "processing:v": [message("b")],
            "started:v": {"b"},
            "jobs": {"a", "b", "c"},
            "result:b": ("ttl", b"the new owner's"),
            "workers": {"w": "future", "v": "future"},
        }
    )
    assert await broker.ack(keys, "w", 0, 1, [done("a"), done("b"), done("c")]) == b"101"
    assert await dump() == {
        "processing:v": [message("b")],
        "started:v": {"b"},
        "jobs": {"b"},
        "result:a": ("ttl", done("a").record),
        "result:b": ("ttl", b"the new owner's"),
        "result:c": ("ttl", done("c").record),
        "counts": ("ttl", {"SUCCESS": b"2"}),
        "settled:w": ("ttl", {"0": b"1 101"}),
        "workers": {"w": "future", "v": "future"},
    }


async def test_the_same_batch_again_gets_the_first_answer(broker, keys, seed, dump, message, done):
    """Sent again after a lost reply it gets the first answer and changes nothing. Breaks when the outcome is not
    kept: a settled job would look like a lost claim.
    """
    await seed({"processing:w": [message("a")], "jobs": {"a", "b"}, **ALIVE})
    assert await broker.ack(keys, "w", 0, 4, [done("a"), done("b")]) == b"10"
    stored = await dump()
    assert await broker.ack(keys, "w", 0, 4, [done("a"), done("b")]) == b"10"
    assert await dump() == stored


async def test_an_older_batch_that_comes_late_changes_nothing(broker, keys, seed, dump, message, done):
    """A batch is run once, also when its first sending arrives after its second. Breaks when only equal numbers are
    refused: the job that was claimed anew would be settled by an old outcome.
    """
    await seed({"processing:w": [message("b"), message("a")], "jobs": {"a", "b"}, **ALIVE})
    await broker.ack(keys, "w", 0, 10, [done("b")])
    stored = await dump()
    await broker.ack(keys, "w", 0, 9, [done("a")])
    assert await dump() == stored


async def test_a_batch_is_not_run_again_after_its_message_came_back(broker, keys, seed, dump, message, done):
    """A batch is run once. Breaks when the repeat is told by the list and not by its number: the same bytes may be
    claimed again.
    """
    await seed({"processing:w": [message("a")], **ALIVE})
    await broker.ack(keys, "w", 0, 1, [done("a")])
    await seed({"processing:w": [message("a")]})
    stored = await dump()
    assert await broker.ack(keys, "w", 0, 1, [done("a")]) == b"1"
    assert await dump() == stored


async def test_lanes_do_not_see_each_other(broker, keys, seed, dump, message, done):
    """A batch is told from others by its lane. Breaks when two in flight would hide each other."""
    await seed({"processing:w": [message("b"), message("a")], **ALIVE})
    assert await broker.ack(keys, "w", 0, 10, [done("a")]) == b"1"
    assert await broker.ack(keys, "w", 1, 1, [done("b")]) == b"1"
    assert (await dump())["settled:w"] == ("ttl", {"0": b"10 1", "1": b"1 1"})


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message, done):
    """Settle of an unregistered id says so and changes nothing. Breaks when a reaped worker settles an orphan."""
    state = {"processing:w": [message("a")], "processing:gone": ("ttl", b"reaped"), "jobs": {"a"}}
    await seed(state)
    assert await broker.ack(keys, "w", 0, 1, [done("a")]) is None
    assert await broker.ack(keys, "gone", 0, 1, [done("a")]) is None
    assert await dump() == state


@pytest.mark.parametrize("earlier", [None, b'{"state":"STARTED"}'])
@pytest.mark.parametrize("ttl", ["", "0", "77"])
async def test_the_result_is_kept_as_long_as_was_asked(broker, keys, raw, seed, dump, message, done, ttl, earlier):
    """A settled job has its result. Breaks when '0' reaches SET … EX 0: the job would be settled without one, and
    every later item of the batch with it; or when an earlier record outlives a result that is not kept.
    """
    await seed({"processing:w": [message("b"), message("a")], **ALIVE})
    await seed({"result:a": ("ttl", earlier)} if earlier else {})
    heard = [done("a", ttl=ttl), done("b")]
    assert await broker.ack(keys, "w", 0, 1, heard) == b"11"
    stored = await dump()
    kept = {"": done("a").record, "0": None, "77": ("ttl", done("a").record)}[ttl]
    assert stored.get("result:a") == kept
    assert stored["result:b"] == ("ttl", done("b").record)
    if ttl == "77":
        assert 75 <= await raw("TTL", keys.result("a")) <= 77


async def test_a_result_that_is_not_kept_is_announced(broker, keys, seed, message, done, listen):
    """A waiting caller gets the value. Breaks when only what is stored is announced."""
    await seed({"processing:w": [message("a")], **ALIVE})
    heard = await listen("result:a")
    await broker.ack(keys, "w", 0, 1, [done("a", ttl="0")])
    assert await heard() == done("a").record


async def test_each_message_takes_its_started_mark_along_and_no_other(broker, keys, seed, dump, message, done):
    """Nothing leaks. Breaks when an ended job stays marked; or when an empty list takes along the marks of jobs that
    were settled before they started: they still run, and their worker's death would go unheard.
    """
    await seed({"processing:w": [message("b"), message("a")], "started:w": {"a", "b", "early"}, **ALIVE})
    await broker.ack(keys, "w", 0, 1, [done("a")])
    assert (await dump())["started:w"] == {"b", "early"}
    await broker.ack(keys, "w", 0, 2, [done("b")])
    assert (await dump())["started:w"] == {"early"}


async def test_a_job_that_is_settled_before_it_runs_keeps_its_id_and_its_mark(
    broker, keys, seed, dump, message, done, listen
):
    """acks_late=False. Breaks when its id is free while it runs (a repeated enqueue would run it twice), when its
    worker's death leaves no trace of it, or when it counts as ended.
    """
    await seed({"processing:w": [message("a")], "started:w": {"a"}, "jobs": {"a"}, **ALIVE})
    heard, begun = await listen("result:a"), done("a", "STARTED")
    assert await broker.ack(keys, "w", 0, 1, [begun]) == b"1"
    assert await heard() == begun.record
    assert await dump() == {
        "started:w": {"a"},
        "jobs": {"a"},
        "result:a": ("ttl", begun.record),
        "settled:w": ("ttl", {"0": b"1 1"}),
        **ALIVE,
    }


async def test_of_equal_messages_one_is_settled(broker, keys, seed, dump, message, done):
    """Never nowhere. Breaks when LREM takes all copies."""
    await seed({"processing:w": [message("a"), message("b"), message("a")], **ALIVE})
    assert await broker.ack(keys, "w", 0, 1, [done("a")]) == b"1"
    assert (await dump())["processing:w"] == [message("a"), message("b")]


async def test_a_message_is_found_by_its_exact_bytes(broker, keys, seed, dump, done):
    """No payload is decoded. Breaks when bytes that are not text are changed on their way."""
    raw = b"1 - 0 0 0 a {" + bytes(range(256)) + b"}"
    await seed({"processing:w": [raw], **ALIVE})
    record = b'{"state":"SUCCESS","result":"' + bytes(range(128, 256)) + b'"}'
    assert await broker.ack(keys, "w", 0, 1, [Done(raw, "a", record, "60")]) == b"1"
    stored = await dump()
    assert "processing:w" not in stored
    assert stored["result:a"] == ("ttl", record)


@pytest.mark.parametrize(("record", "ttl"), [(b'{"state":"SUCCESS"}', "-1"), (b"not a record", "60")])
async def test_a_bad_item_fails_alone(broker, keys, seed, dump, message, done, record, ttl):
    """One bad item fails alone: what can be checked is checked before any write. Breaks when an error in the middle of
    the script leaves a settled job without its result, its neighbours unsettled, and no answer for the repeat.
    """
    await seed({"processing:w": [message("b"), message("a")], "jobs": {"a", "b"}, **ALIVE})
    before = await dump()
    with contextlib.suppress(Exception):
        await broker.ack(keys, "w", 0, 1, [Done(message("a"), "a", record, ttl), done("b")])
    stored = await dump()
    assert stored == before or stored.get("result:b") == ("ttl", done("b").record)
