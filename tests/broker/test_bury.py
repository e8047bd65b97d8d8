"""bury: a claimed job that failed for good, or cannot be read, goes to the dead letters, with its result."""

import pytest

DAY_S = 86_400
ALIVE = {"workers": {"w": "future"}}
LETTER = b'{"id":"a"}\n\x00raw'


async def bury(broker, keys, done, number=1, keep=100, keep_s=DAY_S, job_id="a", lane=0, **options):
    return await broker.bury(keys, "w", lane, number, done(job_id, "FAILURE"), LETTER, keep, keep_s, **options)


async def test_a_claimed_job_becomes_a_dead_letter(broker, keys, seed, dump, message, done, listen):
    """Never nowhere: one step from the list to the letters. Breaks when one of list, started, jobs, letters, result
    or counts is left out.
    """
    state = {"processing:w": [message("b"), message("a")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **ALIVE}
    await seed(state)
    heard = await listen("result:a")
    assert await bury(broker, keys, done) == b"1"
    assert await heard() == done("a", "FAILURE").record
    assert await dump() == {
        "processing:w": [message("b")],
        "started:w": {"b"},
        "jobs": {"b"},
        "dead": {"a": "past"},
        "dead:letters": {"a": LETTER},
        "result:a": ("ttl", done("a", "FAILURE").record),
        "counts": ("ttl", {"FAILURE": b"1"}),
        "settled:w": ("ttl", {"0": b"1 1"}),
        **ALIVE,
    }


async def test_the_time_of_death_is_redis_time(broker, keys, raw, seed, message, done):
    """Time is Redis's. Breaks when a letter's age is counted in seconds, or from another clock."""
    await seed({"processing:w": [message("a")], **ALIVE})
    before = _ms(await raw("TIME"))
    await bury(broker, keys, done)
    assert before <= int(await raw("ZSCORE", keys.dead, "a")) <= _ms(await raw("TIME"))


@pytest.mark.parametrize("ttl", ["", "0", "77"])
async def test_the_record_is_kept_as_long_as_was_asked(broker, keys, raw, seed, dump, message, done, ttl):
    """Breaks when '0' reaches SET … EX 0 after the move, or an earlier record or its TTL stays."""
    await seed({"processing:w": [message("a")], "result:a": ("ttl", b'{"state":"STARTED"}'), **ALIVE})
    dying = done("a", "FAILURE", ttl)
    assert await broker.bury(keys, "w", 0, 1, dying, LETTER, 100, DAY_S) == b"1"
    assert (await dump()).get("result:a") == {"": dying.record, "0": None, "77": ("ttl", dying.record)}[ttl]
    if ttl == "77":
        assert 75 <= await raw("TTL", keys.result("a")) <= 77


async def test_letters_are_bounded_in_number(broker, keys, seed, dump, message, done):
    """Dead letters are bounded: the oldest go. Breaks when the newest go, or a letter stays in the hash for ever."""
    await seed(
        {
            "processing:w": [message("a")],
            "dead": {"old1": 4_000_000_000_001, "old2": 4_000_000_000_002, "older": "past", "oldest": 1},
            "dead:letters": dict.fromkeys(("old1", "old2", "older", "oldest"), b"x"),
            **ALIVE,
        }
    )
    await bury(broker, keys, done, keep=3, keep_s=10 * 365 * DAY_S * 10)
    stored = await dump()
    assert set(stored["dead"]) == set(stored["dead:letters"]) == {"a", "old1", "old2"}


async def test_letters_are_bounded_in_age(broker, keys, seed, dump, message, done):
    """Dead letters are bounded. Breaks when an old letter stays in zset or hash, or one that is in time goes."""
    await seed(
        {
            "processing:w": [message("a")],
            "dead": {"ancient": 1, "minute": "past"},
            "dead:letters": {"ancient": b"x", "minute": b"y"},
            **ALIVE,
        }
    )
    await bury(broker, keys, done, keep_s=120)
    stored = await dump()
    assert set(stored["dead"]) == set(stored["dead:letters"]) == {"a", "minute"}
    await seed({"processing:w": [message("b")]})
    await bury(broker, keys, done, 2, keep_s=30, job_id="b")
    stored = await dump()
    assert set(stored["dead"]) == set(stored["dead:letters"]) == {"a", "b"}


async def test_the_same_step_again_gets_the_first_answer(broker, keys, seed, dump, message, done):
    """Sent again after a lost reply it changes nothing. Breaks when it is counted again, or dies later."""
    await seed({"processing:w": [message("a")], **ALIVE})
    assert await bury(broker, keys, done, 5) == b"1"
    await seed({"processing:w": [message("a")]})
    stored = await dump()
    assert await bury(broker, keys, done, 5) == b"1"
    assert await dump() == stored


async def test_an_older_step_that_comes_late_changes_nothing(broker, keys, seed, dump, message, done):
    """A batch is run once. Breaks when only equal numbers are refused."""
    state = {"processing:w": [message("a")], "settled:w": ("ttl", {"0": b"6 1"}), **ALIVE}
    await seed(state)
    await bury(broker, keys, done, 5)
    assert await dump() == state


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message, done):
    """Only the owner settles. Breaks when the letter is written first: a job would be dead and alive."""
    state = {"processing:v": [message("a")], "jobs": {"a"}, "dead": {"x": "past"}, "dead:letters": {"x": b"x"}, **ALIVE}
    await seed(state)
    assert await bury(broker, keys, done, keep=0) == b"0"
    assert await dump() == {**state, "settled:w": ("ttl", {"0": b"1 0"})}


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, raw, message, done):
    """Settle of an unregistered id says so and changes nothing. Breaks when a tombstone is an error."""
    for state in ({"processing:w": [message("a")], "jobs": {"a"}}, {"processing:w": ("ttl", b"reaped")}):
        await raw("FLUSHALL")
        await seed(state)
        assert await bury(broker, keys, done) is None
        assert await dump() == state


async def test_a_reaper_buries_an_orphan(broker, keys, seed, dump, message, done):
    """Every list is looked at, also one whose worker is not registered. Breaks when the reaper needs a lease."""
    await seed({"processing:w": [message("b"), message("a")], "jobs": {"a", "b"}})
    assert await bury(broker, keys, done, lane="reaper", by_reaper=True) == b"1"
    assert await dump() == {
        "processing:w": [message("b")],
        "jobs": {"b"},
        "dead": {"a": "past"},
        "dead:letters": {"a": LETTER},
        "result:a": ("ttl", done("a", "FAILURE").record),
        "counts": ("ttl", {"FAILURE": b"1"}),
        "settled:w": ("ttl", {"reaper": b"1 1"}),
    }


async def test_a_reaper_that_comes_second_is_told_that_the_claim_is_lost(broker, keys, seed, dump, done):
    """Two reapers do no harm. Breaks when the second meets the first one's tombstone, and gets an error."""
    await seed({"processing:w": ("ttl", b"reaped"), "jobs": {"a"}})
    assert await bury(broker, keys, done, lane="reaper", by_reaper=True) in (b"0", None)
    stored = await dump()
    stored.pop("settled:w", None)
    assert stored == {"processing:w": ("ttl", b"reaped"), "jobs": {"a"}}


async def test_a_reaper_does_not_bury_for_a_worker_that_is_alive(broker, keys, seed, dump, message, done):
    """The move checks the lease again. Breaks when a worker that renewed meanwhile loses a running job."""
    state = {"processing:w": [message("a")], "jobs": {"a"}, **ALIVE}
    await seed(state)
    assert await bury(broker, keys, done, by_reaper=True) is None
    assert await dump() == state


@pytest.mark.parametrize("by_reaper", [False, True])
async def test_a_lease_that_ran_out_stops_the_reaper_no_more_and_the_worker_not_yet(
    broker, keys, seed, dump, message, done, by_reaper
):
    """A job at its third loss is a dead letter; a worker that is late and not yet reaped still owns its jobs. Breaks
    when the guard holds for the owner too, or the reaper's lane is no number.
    """
    await seed({"processing:w": [message("a")], "started:w": {"a"}, "jobs": {"a"}, "workers": {"w": "past"}})
    lane = "reaper" if by_reaper else 0
    assert await bury(broker, keys, done, lane=lane, by_reaper=by_reaper) == b"1"
    assert await dump() == {
        "dead": {"a": "past"},
        "dead:letters": {"a": LETTER},
        "result:a": ("ttl", done("a", "FAILURE").record),
        "counts": ("ttl", {"FAILURE": b"1"}),
        "settled:w": ("ttl", {str(lane): b"1 1"}),
        "workers": {"w": "past"},
    }


# No letter


async def test_an_empty_letter_is_none_and_the_queues_letters_stay(broker, keys, seed, dump, message, done, listen):
    """A task may want no dead letters. Breaks when an empty one is kept, or "keep none" wipes those of other jobs."""
    letters = {"dead": {"x": "past", "y": "past"}, "dead:letters": {"x": b"letter", "y": b"letter"}}
    await seed({"processing:w": [message("a")], "started:w": {"a"}, "jobs": {"a"}, **ALIVE, **letters})
    heard, dying = await listen("result:a"), done("a", "FAILURE")
    assert await broker.bury(keys, "w", 0, 1, dying, b"", 0, DAY_S) == b"1"
    assert await heard() == dying.record
    assert await dump() == {
        "result:a": ("ttl", dying.record),
        "counts": ("ttl", {"FAILURE": b"1"}),
        "settled:w": ("ttl", {"0": b"1 1"}),
        **ALIVE,
        **letters,
    }


async def test_without_a_letter_old_ones_still_go(broker, keys, seed, dump, message, done):
    """Letters are bounded in age. Breaks when a queue whose tasks want none keeps its old ones for ever."""
    await seed({"dead": {"x": 1, "y": "past"}, "dead:letters": {"x": b"letter", "y": b"letter"}})
    await seed({"processing:w": [message("a")], **ALIVE})
    await broker.bury(keys, "w", 0, 1, done("a", "FAILURE"), b"", 0, DAY_S)
    stored = await dump()
    assert (stored["dead"], stored["dead:letters"]) == ({"y": "past"}, {"y": b"letter"})


def _ms(time: list[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
