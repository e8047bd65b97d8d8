"""revoke: a claimed job that was cancelled is settled, with its stop."""

import pytest

from rqueue.broker.broker import Done

RECORD = b'{"state":"REVOKED","error":{"type":"JobRevoked","message":"it was cancelled"}}'
ALIVE = {"workers": {"w": "future"}}
COUNTED = {"counts": ("ttl", {"REVOKED": b"1"})}
ONE = {"settled:w": ("ttl", {"0": b"1 1"})}


async def revoke(broker, keys, message, number=1, *, ttl="60", early=False):
    return await broker.revoke(keys, "w", 0, number, Done(message("a"), "a", RECORD, ttl), is_settled_early=early)


async def test_it_leaves_the_list_and_its_stop_goes(broker, keys, seed, dump, message, listen):
    """Nothing leaks. Breaks when the stop stays (a later job of this id would not run), or another's goes."""
    await seed({"processing:w": [message("b"), message("a")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **ALIVE})
    await seed({"stops": {"job:a": 0, "job:b": 0}})
    heard = await listen("result:a")
    assert await revoke(broker, keys, message) == b"1"
    assert await heard() == RECORD
    state = {
        "processing:w": [message("b")],
        "started:w": {"b"},
        "jobs": {"b"},
        "stops": {"job:b": "past"},
        "result:a": ("ttl", RECORD),
        **COUNTED,
        **ONE,
        **ALIVE,
    }
    assert await dump() == state
    assert await revoke(broker, keys, message) == b"1"  # sent again
    assert await dump() == state


async def test_without_a_stop(broker, keys, seed, dump, message):
    """One that an operator had interrupted in its worker alone."""
    await seed({"processing:w": [message("a")], "started:w": {"a"}, "jobs": {"a"}, **ALIVE})
    assert await revoke(broker, keys, message) == b"1"
    assert await dump() == {"result:a": ("ttl", RECORD), **COUNTED, **ONE, **ALIVE}


async def test_what_a_cancel_left_only_goes(broker, keys, seed, dump, message):
    """It was recorded and counted when it was cancelled. Breaks when it is counted twice, or told twice."""
    await seed({"processing:w": [message("a")], "stops": {"job:a": 0}, "result:a": b"first", **ALIVE})
    assert await revoke(broker, keys, message) == b"1"
    assert await dump() == {"result:a": b"first", **ONE, **ALIVE}


async def test_a_job_that_was_settled_before_it_started(broker, keys, seed, dump, message):
    """It is in no list. Breaks when it is lost for that, or when one that has ended is ended again."""
    await seed({"started:w": {"a"}, "jobs": {"a"}, "stops": {"job:a": 0}, "result:a": b"STARTED", **ALIVE})
    assert await revoke(broker, keys, message, early=True) == b"1"
    state = {"result:a": ("ttl", RECORD), **COUNTED, **ONE, **ALIVE}
    assert await dump() == state
    assert await revoke(broker, keys, message, 2, early=True) == b"0"


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles. Breaks when the stop goes first: the new owner's job would run on."""
    state = {"processing:v": [message("a")], "jobs": {"a"}, "stops": {"job:a": "past"}, **ALIVE}
    await seed({**state, "stops": {"job:a": 0}})
    assert await revoke(broker, keys, message) == b"0"
    assert await dump() == {**state, "settled:w": ("ttl", {"0": b"1 0"})}


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message):
    """Settle of an unregistered id says so. Breaks when a tombstone is an error."""
    for state in ({"processing:w": [message("a")], "jobs": {"a"}}, {"processing:w": ("ttl", b"reaped")}):
        await broker._link.call("FLUSHALL")
        await seed(state)
        assert await revoke(broker, keys, message) is None
        assert await dump() == state


async def test_an_older_step_that_comes_late_changes_nothing(broker, keys, seed, dump, message):
    """A batch is run once, whatever its verb. Breaks when only equal numbers are refused."""
    state = {"processing:w": [message("a")], "settled:w": ("ttl", {"0": b"6 1"}), **ALIVE}
    await seed(state)
    assert await revoke(broker, keys, message, 5) == b"1"
    assert await dump() == state


@pytest.mark.parametrize(("ttl", "kept"), [("", RECORD), ("0", None), ("5", ("ttl", RECORD))])
async def test_its_record_is_kept_as_long_as_asked(broker, keys, seed, dump, message, ttl, kept):
    await seed({"processing:w": [message("a")], "jobs": {"a"}, "result:a": b"old", **ALIVE})
    assert await revoke(broker, keys, message, ttl=ttl) == b"1"
    assert (await dump()).get("result:a") == kept
