"""move: a claimed job that was enqueued in another queue leaves this one."""

import pytest

from rqueue.errors import BrokerError

ALIVE = {"workers": {"w": "future"}}
RECORD = b'{"state":"RETRY","task":"t","moved":"reports"}'


async def move(broker, keys, message, number=1, record=RECORD):
    return await broker.move(keys, "w", 0, number, message("a"), "a", record, 60, "reports")


async def test_a_job_leaves_and_says_where_it_went(broker, keys, seed, dump, message, listen):
    """Breaks when the id stays taken, when a mark stays, or when nobody is told."""
    state = {"processing:w": [message("b"), message("a")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **ALIVE}
    await seed({**state, "result:a": ("ttl", b'{"state":"RETRY"}')})
    heard = await listen("result:a")
    assert await move(broker, keys, message) == b"1"
    assert await heard() == RECORD
    assert await dump() == {
        "processing:w": [message("b")],
        "started:w": {"b"},
        "jobs": {"b"},
        "result:a": ("ttl", RECORD),
        "settled:w": ("ttl", {"0": b"1 1"}),
        **ALIVE,
    }


async def test_the_same_step_again_gets_the_first_answer(broker, keys, seed, dump, message):
    """Sent again after a lost reply it changes nothing, also when the job has come back meanwhile. Breaks when the
    outcome is not kept: it would let go of the new claim.
    """
    await seed({"processing:w": [message("a")], "jobs": {"a"}, **ALIVE})
    assert await move(broker, keys, message, 5) == b"1"
    await broker._link.call("LPUSH", keys.processing("w"), message("a"))
    stored = await dump()
    assert await move(broker, keys, message, 5) == b"1"
    assert await move(broker, keys, message, 4) == b"1"
    assert await dump() == stored


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles. Breaks when the id is freed first: the job is claimed by another worker."""
    state = {"processing:v": [message("a")], "started:w": {"a"}, "jobs": {"a"}, "result:a": ("ttl", b"kept"), **ALIVE}
    await seed(state)
    assert await move(broker, keys, message) == b"0"
    assert await dump() == {**state, "settled:w": ("ttl", {"0": b"1 0"})}


@pytest.mark.parametrize("left", [{"processing:w": [b"x"]}, {"processing:w": ("ttl", b"reaped")}])
async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message, left):
    """Breaks when a tombstone is an error, or a late worker speaks for a job that it has lost."""
    state = {**left, "jobs": {"a"}}
    await seed(state)
    assert await move(broker, keys, message) is None
    assert await dump() == state


async def test_two_that_move_the_same_job_let_go_once(broker, other, keys, seed, dump, message):
    """Breaks when the list is not asked."""
    await seed({"processing:w": [message("a")], "jobs": {"a"}, **ALIVE})
    assert await broker.move(keys, "w", 0, 1, message("a"), "a", RECORD, 60, "reports") == b"1"
    assert await other.move(keys, "w", 1, 2, message("a"), "a", RECORD, 60, "reports") == b"0"


async def test_what_is_no_record_is_refused_before_anything_is_written(broker, keys, seed, dump, message):
    """Scripts do not roll back."""
    state = {"processing:w": [message("a")], **ALIVE}
    await seed(state)
    with pytest.raises(BrokerError):
        await move(broker, keys, message, record=b"no record")
    assert await dump() == state


async def test_a_cancelled_job_stays_until_it_is_cancelled_there(broker, keys, seed, dump, message):
    """Breaks when it is let go with its stop: it would run in the other queue."""
    state = {"processing:w": [message("a")], "jobs": {"a"}, "stops": {"job:a": 0, "job:b": 0}, **ALIVE}
    await seed(state)
    stored = await dump()
    assert await move(broker, keys, message, 5) == b"4"
    assert await dump() == stored
    done = broker.move(keys, "w", 0, 5, message("a"), "a", RECORD, 60, "reports", is_cancelled_there=True)
    assert await done == b"1"
    assert await move(broker, keys, message, 5) == b"1", "sent again"
    assert await dump() == {
        "stops": {"job:b": "past"},
        "result:a": ("ttl", RECORD),
        "settled:w": ("ttl", {"0": b"5 1"}),
        **ALIVE,
    }
