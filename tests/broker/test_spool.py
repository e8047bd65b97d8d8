"""spool: how jobs ended waits for the result store; and who else puts something there: cancel, bury, record."""

import pytest

from rqueue.broker.broker import Done
from rqueue.broker.spool import Spool

DAY_S, WEEK_S = 86_400, 604_800
REVOKED = b'{"state":"REVOKED","error":{"type":"JobRevoked","message":"it was cancelled"}}'
FAILED = b'{"state":"FAILURE"}'
STARTED = b'{"state":"STARTED"}'
STORE = {"recorded": ("ttl", b"1000")}


async def test_entries_wait_in_their_order(broker, keys, dump, raw):
    """Breaks when the order, the length or the mark of the store is lost."""
    assert await broker.spool(keys, [b"one", b"three"], 1000) == 2
    assert await broker.spool(keys, [b"two"], 1000) == 1
    assert await dump() == {**STORE, "spool": [b"one", b"three", b"two"], "spool:bytes": b"11"}
    assert DAY_S - 5 < await raw("TTL", keys.recorded) <= DAY_S
    assert await broker.spooled(keys) == Spool(3, 11, 0)


async def test_what_does_not_fit_is_not_kept_and_is_counted(broker, keys, dump, raw):
    """Breaks when the bound is passed, a later one takes the place of an earlier one, or nobody counts."""
    assert await broker.spool(keys, [b"four", b"5", b"six"], 6) == 2
    assert await broker.spool(keys, [b"1", b"2", b"3"], 6) == 1
    assert await dump() == {
        "recorded": ("ttl", b"6"),
        "spool": [b"four", b"5", b"1"],
        "spool:bytes": b"6",
        "unrecorded": ("ttl", b"3"),
    }
    assert WEEK_S - 5 < await raw("TTL", keys.unrecorded) <= WEEK_S
    assert await broker.spooled(keys) == Spool(3, 6, 3)


async def test_the_first_that_does_not_fit_is_the_end(broker, keys, dump):
    """Kept is a beginning: what is missing is missing from one moment on. Breaks when smaller ones slip in."""
    assert await broker.spool(keys, [b"12345", b"1"], 4) == 0
    assert await dump() == {"recorded": ("ttl", b"4"), "unrecorded": ("ttl", b"2")}


async def test_others_do_it_where_there_is_a_store(broker, keys, seed, dump):
    """Breaks when a job that ends without its worker fills a list that nobody reads, or ignores the bound."""
    assert await broker.spool(keys, [b"one"]) == -1
    assert await dump() == {}
    await seed({"recorded": ("ttl", b"4")})
    assert await broker.spool(keys, [b"one"]) == 1
    assert await broker.spool(keys, [b"two"]) == 0
    assert (await dump())["spool"] == [b"one"]


# Those who end a job without its worker


@pytest.mark.parametrize("place", ["waiting", "named", "scheduled"])
async def test_a_cancelled_job_waits_for_the_store(broker, keys, seed, dump, message, place):
    """In the step that removes it, with the message that was found. Breaks when that step forgets it."""
    at = {"scheduled": {"scheduled": {"a": "future"}, "scheduled:messages": {"a": message("a")}}}
    await seed({**STORE, "jobs": {"a"}, **at.get(place, {"p3": [message("a", 3)]})})
    raw, level = (message("a", 3), 3) if place == "named" else (b"", 0)
    assert await broker.cancel(keys, Done(raw, "a", REVOKED, "60"), [], level) == (1, None)
    entry = b"a\n" + REVOKED + b"\n" + (message("a") if place == "scheduled" else message("a", 3))
    stored = await dump()
    assert (stored["spool"], stored["spool:bytes"]) == ([entry], b"%d" % len(entry))
    assert await broker.cancel(keys, Done(b"", "a", REVOKED, "60"), []) == (0, None)
    assert (await dump())["spool"] == [entry]


async def test_a_cancelled_job_whose_message_is_not_found_is_written_by_whoever_meets_it(
    broker, keys, seed, dump, message, monkeypatch
):
    """Its time of enqueue, which is a part of its identity, is in the message. Breaks when it is written twice."""
    monkeypatch.setattr("rqueue.broker.cancel.CANCEL_LOOKS_AT", 0)
    await seed({**STORE, "jobs": {"a"}, "p3": [message("a", 3)]})
    assert await broker.cancel(keys, Done(b"", "a", REVOKED, "60"), []) == (1, None)
    assert "spool" not in await dump()


async def test_a_cancel_that_marks_says_nothing(broker, keys, seed, dump, message):
    """The job has not ended. Breaks when a running job gets a row that says it has."""
    await seed({**STORE, "jobs": {"a"}, "workers": {"w": "future"}, "processing:w": [message("a")]})
    assert await broker.cancel(keys, Done(b"", "a", REVOKED, "60"), ["w"]) == (2, "w")
    assert "spool" not in await dump()


async def test_a_cancel_past_the_bound_is_counted(broker, keys, seed, dump, message):
    """Breaks when a cancel passes the bound, or fails for it."""
    await seed({"recorded": ("ttl", b"10"), "jobs": {"a"}, "main": [message("a")]})
    assert await broker.cancel(keys, Done(b"", "a", REVOKED, "60"), []) == (1, None)
    stored = await dump()
    assert "spool" not in stored
    assert stored["unrecorded"] == ("ttl", b"1")


async def bury(broker, keys, message, *, by_reaper):
    done = Done(message("a"), "a", FAILED, "60")
    return await broker.bury(keys, "w", "lane", 1, done, b"letter", 10, DAY_S, by_reaper=by_reaper)


async def test_what_a_reaper_buries_waits_for_the_store_once(broker, keys, seed, dump, message):
    """Sent again it changes nothing. Breaks when a lost worker's job has no row, or two."""
    await seed({**STORE, "jobs": {"a"}, "workers": {"w": "past"}, "processing:w": [message("a")]})
    for _ in range(2):
        assert await bury(broker, keys, message, by_reaper=True) == b"1"
    assert (await dump())["spool"] == [b"a\n" + FAILED + b"\n" + message("a")]


async def test_what_a_reaper_may_not_bury_does_not_wait(broker, keys, seed, dump, message):
    """Its worker is alive. Breaks when the entry is put there before the lease is looked at."""
    await seed({**STORE, "jobs": {"a"}, "workers": {"w": "future"}, "processing:w": [message("a")]})
    assert await bury(broker, keys, message, by_reaper=True) is None
    assert "spool" not in await dump()


async def test_what_its_worker_buries_is_in_the_store_already(broker, keys, seed, dump, message):
    """Breaks when it is written by two."""
    await seed({**STORE, "jobs": {"a"}, "workers": {"w": "future"}, "processing:w": [message("a")]})
    assert await bury(broker, keys, message, by_reaper=False) == b"1"
    assert "spool" not in await dump()


@pytest.mark.parametrize("before", [STARTED, b'{"state":"SUCCESS"}'])
async def test_what_a_reaper_records_waits_for_the_store(broker, keys, seed, dump, before):
    """Of a job with acks_late=False that its worker has not ended itself. Breaks when its own end is overwritten."""
    await seed({**STORE, "jobs": {"a"}, "result:a": ("ttl", before)})
    told = [await broker.record(keys, "a", FAILED, "60", started_by="w") for _ in range(2)]
    assert told == [before is STARTED, False]
    assert (await dump()).get("spool") == ([b"a\n" + FAILED + b"\n"] if before is STARTED else None)


async def test_without_a_store_nobody_leaves_anything(broker, keys, seed, dump, message):
    """Breaks when a Redis without a result store fills with what nobody reads."""
    await seed({"jobs": {"a", "b"}, "workers": {"w": "past"}, "processing:w": [message("a")], "main": [message("b")]})
    await bury(broker, keys, message, by_reaper=True)
    await broker.cancel(keys, Done(b"", "b", REVOKED, "60"), ["w"])
    assert not {name for name in await dump() if name.startswith(("spool", "unrecorded", "recorded"))}
