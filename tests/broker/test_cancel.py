"""cancel: what waits is taken away, what a worker has is marked."""

import asyncio

import pytest

from rqueue.broker.ack import Done
from rqueue.broker.cancel import CANCEL_LOOKS_AT, CANCEL_LOOKS_AT_BYTES

RECORD = b'{"state":"REVOKED","error":{"type":"JobRevoked","message":"it was cancelled"}}'
ALIVE = {"workers": {"w": "future"}}
COUNTED = {"counts": ("ttl", {"REVOKED": b"1"})}
ENDED = {"result:a": ("ttl", RECORD), **COUNTED}
NOT_ALIVE, REMOVED, MARKED, OTHERS = (0, None), (1, None), 2, (3, None)


async def cancel(broker, keys, job_id="a", workers=("w",), *, raw=b"", level=0, ttl="60"):
    return await broker.cancel(keys, Done(raw, job_id, RECORD, ttl), workers, level)


@pytest.mark.parametrize("level", [0, 1, 10])
async def test_a_waiting_job_is_taken_away_and_told(broker, keys, seed, dump, message, listen, level):
    """One step from the list to its record. Breaks when a list is left out, or another job's message goes too."""
    name = f"p{level}" if level else "main"
    others = [message("x", level), message("aa", level)]
    await seed({name: [others[0], message("a", level), others[1]], "jobs": {"a", "aa", "x"}, **ALIVE})
    await seed({"result:a": b"what it left at its last retry"})
    heard = await listen("result:a")
    assert await cancel(broker, keys) == REMOVED
    assert await heard() == RECORD
    state = {name: others, "jobs": {"aa", "x"}, **ENDED, **ALIVE}
    assert await dump() == state
    assert await cancel(broker, keys) == NOT_ALIVE  # after a lost reply
    assert await dump() == state


async def test_a_scheduled_job_is_taken_away(broker, keys, seed, dump, message):
    """A retry that was marked while it ran too. Breaks when its message, or its stop, stays."""
    await seed({"scheduled": {"a": "future", "b": "past"}, "scheduled:messages": {"a": message("a"), "b": b"b"}})
    await seed({"jobs": {"a", "b"}, "stops": {"job:a": 0, "queue": 0}, **ALIVE})
    assert await cancel(broker, keys) == REMOVED
    rest = {"scheduled": {"b": "past"}, "scheduled:messages": {"b": b"b"}, "jobs": {"b"}, "stops": {"queue": "past"}}
    state = {**rest, **ENDED, **ALIVE}
    assert await dump() == state
    assert await cancel(broker, keys) == NOT_ALIVE
    assert await dump() == state


@pytest.mark.parametrize("place", ["processing:v", "started:v"])
async def test_what_a_worker_has_is_marked(broker, keys, seed, dump, message, place):
    """Held, running, or settled before it started: only its worker ends it. Breaks when it is recorded here."""
    content = [message("b"), message("a")] if place == "processing:v" else {"a"}
    state = {place: content, "jobs": {"a", "b"}, "workers": {"v": "past", "w": "future"}}
    await seed(state)
    for _ in range(2):
        assert await cancel(broker, keys, workers=["w", "v"]) == (MARKED, "v")
        assert await dump() == {**state, "stops": {"job:a": "past"}}


async def test_other_workers_by_now(broker, keys, seed, dump, message):
    """A claim in between must be seen. Breaks when the workers are not compared: a running job would be recorded."""
    state = {"processing:v": [message("a")], "jobs": {"a"}, "workers": {"v": "future", "w": "future"}}
    await seed(state)
    assert await cancel(broker, keys) == OTHERS
    assert await dump() == state
    assert await cancel(broker, keys, workers=["w", "v", "gone"]) == (MARKED, "v")


async def test_nobody_knows_it(broker, keys, seed, dump, message):
    """Its record says why. Breaks when an unknown id is recorded, or leaves a stop."""
    state = {"main": [message("b")], "jobs": {"b"}, "result:a": ("ttl", b'{"state":"SUCCESS"}'), **ALIVE}
    await seed(state)
    assert await cancel(broker, keys) == NOT_ALIVE
    assert await dump() == state


async def test_what_is_far_back_is_marked_and_ends_at_once(broker, keys, raw, seed, dump, message):
    """Redis is never held for long. Breaks without a budget, or when the marked message's job stays alive."""
    backlog = [message(f"j{n}") for n in range(CANCEL_LOOKS_AT + 100)]
    await seed({"main": [message("a"), *backlog], "jobs": {"a"}, **ALIVE})
    assert await cancel(broker, keys) == REMOVED
    stored = await dump()
    assert stored.pop("main") == [message("a"), *backlog]
    assert stored == {"stops": {"job:a": "past"}, **ENDED, **ALIVE}


async def test_large_messages_are_not_all_read(broker, keys, seed, dump, message):
    """A waiting message may have a megabyte. Breaks when only their number is bounded."""
    large = [message(f"j{n}", pad=CANCEL_LOOKS_AT_BYTES) for n in range(5)]
    await seed({"main": [message("a"), *large], "jobs": {"a"}, **ALIVE})
    assert await cancel(broker, keys) == REMOVED
    assert len((await dump())["main"]) == 6


async def test_the_end_where_blocks_take_is_looked_at_first(broker, keys, seed, dump, message):
    """A block does not know of stops. Breaks when long priority lists use up the budget of the main list."""
    high = [message(f"j{n}", 9) for n in range(CANCEL_LOOKS_AT)]
    await seed({"p9": high, "main": [message("a"), message("b")], "jobs": {"a"}, **ALIVE})
    assert await cancel(broker, keys) == REMOVED
    stored = await dump()
    assert stored["main"] == [message("b")]
    assert "stops" not in stored


async def test_a_message_that_was_read_is_removed_by_its_bytes(broker, keys, seed, dump, message):
    """Wherever it stands in a long list. Breaks when the bytes are not used, or used of another level."""
    backlog = [message(f"j{n}", 3) for n in range(CANCEL_LOOKS_AT + 100)]
    await seed({"p3": [message("a", 3), *backlog], "jobs": {"a"}, **ALIVE})
    assert await cancel(broker, keys, raw=message("a", 3), level=3) == REMOVED
    assert await dump() == {"p3": backlog, **ENDED, **ALIVE}


async def test_a_message_that_was_read_and_has_moved_on(broker, keys, seed, dump, message):
    """Claimed since it was read. Breaks when bytes that are not there are taken for removed."""
    await seed({"processing:w": [message("a", 3)], "jobs": {"a"}, **ALIVE})
    assert await cancel(broker, keys, raw=message("a", 3), level=3) == (MARKED, "w")
    assert await dump() == {"processing:w": [message("a", 3)], "jobs": {"a"}, "stops": {"job:a": "past"}, **ALIVE}


@pytest.mark.parametrize(("ttl", "kept"), [("", RECORD), ("0", None), ("5", ("ttl", RECORD))])
async def test_its_record_is_kept_as_long_as_asked(broker, keys, seed, dump, message, ttl, kept):
    await seed({"main": [message("a")], "jobs": {"a"}})
    assert await cancel(broker, keys, workers=[], ttl=ttl) == REMOVED
    assert (await dump()).get("result:a") == kept


async def test_a_tombstone_and_a_strange_list_are_passed_over(broker, keys, seed, dump, message):
    """Breaks when what is no list is an error in the middle of the script."""
    rest = {"processing:w": ("ttl", b"reaped"), "p4": b"somebody's string", **ALIVE}
    await seed({"main": [message("a")], "jobs": {"a"}, **rest})
    assert await cancel(broker, keys) == REMOVED
    assert await dump() == {**rest, **ENDED}


async def test_claims_and_cancels_race(broker, other, keys, message, raw):
    """Whoever comes first: it is removed and never claimed, or claimed and told to be revoked, or marked.

    Breaks when the two halves of a cancel are two steps.
    """
    ids = [f"j{n}" for n in range(60)]
    await raw("SADD", keys.jobs, *ids)
    await raw("LPUSH", keys.main, *(message(each) for each in ids))
    assert await broker.register(keys, "w", 60)
    claims = [broker.claim([keys], [5], "w", 60, 3, 1_000_000) for _ in range(30)]
    cancels = [cancel(other, keys, each) for each in ids]
    both = await asyncio.gather(*(task for pair in zip(claims, cancels[::2], strict=True) for task in pair))
    told = dict(zip(ids[::2], both[1::2], strict=True))
    claimed = {message_id(each.raw) for claim in both[::2] for each in claim.messages}
    assert {each for each, answer in told.items() if answer == REMOVED} == set(ids[::2]) - claimed
    assert {each for each, answer in told.items() if answer == (MARKED, "w")} == set(ids[::2]) & claimed
    await asyncio.gather(*cancels[1::2])


def message_id(raw):
    return raw.split(b" ")[5].decode()
