"""record: the end of a job that was settled before it started (acks_late=False) is kept and announced."""

import pytest

RECORD = b'{"state":"SUCCESS","result":1}'
FAILED = b'{"state":"FAILURE"}'
LETTER = b'{"id":"a"}\n\x00raw'
DAY_S = 86_400


async def test_the_result_is_kept_announced_and_counted_and_the_id_is_free(broker, keys, seed, dump, listen):
    """acks_late=False has its result recorded by a verb of its own. Breaks when one of record, announcement, count,
    jobs or started is left out, or a neighbour's goes along.
    """
    await seed(
        {
            "counts": ("ttl", {"SUCCESS": b"1"}),
            "result:a": ("ttl", b'{"state":"STARTED"}'),
            "jobs": {"a", "b"},
            "started:w": {"a", "b"},
            "workers": {"w": "future"},
        }
    )
    heard = await listen("result:a")
    assert await broker.record(keys, "a", RECORD, "60", worker="w")
    assert await heard() == RECORD
    assert await dump() == {
        "result:a": ("ttl", RECORD),
        "counts": ("ttl", {"SUCCESS": b"2"}),
        "jobs": {"b"},
        "started:w": {"b"},
        "workers": {"w": "future"},
    }


@pytest.mark.parametrize("ttl", ["", "0", "77"])
async def test_it_is_kept_as_long_as_was_asked(broker, keys, raw, seed, dump, ttl):
    """Breaks when '0' reaches SET … EX 0, or an earlier record or its TTL stays."""
    await seed({"result:a": ("ttl", b'{"state":"STARTED"}'), "jobs": {"a"}})
    assert await broker.record(keys, "a", RECORD, ttl)
    stored = await dump()
    assert stored.get("result:a") == {"": RECORD, "0": None, "77": ("ttl", RECORD)}[ttl]
    assert "jobs" not in stored
    if ttl == "77":
        assert 75 <= await raw("TTL", keys.result("a")) <= 77


async def test_a_result_that_is_not_kept_is_announced(broker, keys, listen):
    """A waiting caller gets the value. Breaks when only what is stored is announced."""
    heard = await listen("result:a")
    await broker.record(keys, "a", RECORD, "0")
    assert await heard() == RECORD


@pytest.mark.parametrize("letter", [b"", LETTER])
async def test_the_same_record_again_changes_nothing(broker, keys, dump, letter):
    """May be repeated. Breaks when a record that is sent again after a lost reply is counted again."""
    assert await broker.record(keys, "a", FAILED, "60", letter, 100, DAY_S)
    stored = await dump()
    assert await broker.record(keys, "a", FAILED, "60", letter, 100, DAY_S)
    assert await dump() == stored


# The owner


async def test_a_worker_that_is_not_registered_any_more_changes_nothing(broker, keys, seed, dump):
    """A reaper has spoken: only the owner settles. Breaks when a late worker overwrites `WorkerLost`, or frees an id
    that another job has taken meanwhile.
    """
    state = {
        "result:a": ("ttl", FAILED),
        "jobs": {"a"},
        "started:w": {"a"},
        "workers": {"v": "future"},
        "processing:w": ("ttl", b"reaped"),
    }
    await seed(state)
    assert not await broker.record(keys, "a", RECORD, "60", LETTER, 100, DAY_S, worker="w")
    assert await dump() == state


async def test_a_lease_that_ran_out_does_not_stop_a_worker_that_nobody_has_reaped(broker, keys, seed, dump):
    """As for `ack`. Breaks when a worker's own end is thrown away though nobody has spoken for it."""
    await seed({"jobs": {"a"}, "started:w": {"a"}, "workers": {"w": "past"}})
    assert await broker.record(keys, "a", RECORD, "60", worker="w")
    stored = await dump()
    assert stored["result:a"] == ("ttl", RECORD)
    assert "jobs" not in stored


async def test_a_reaper_speaks_for_the_worker_in_whose_name_it_started(broker, keys, seed, dump, listen):
    """Breaks when the reaper needs a registration that its worker no longer has, or unmarks nobody's or all jobs."""
    await seed({"result:a": ("ttl", b'{"state":"STARTED"}'), "jobs": {"a", "b"}, "started:w": {"a", "b"}})
    heard = await listen("result:a")
    assert await broker.record(keys, "a", FAILED, "60", started_by="w")
    assert await heard() == FAILED
    assert await dump() == {
        "result:a": ("ttl", FAILED),
        "jobs": {"b"},
        "started:w": {"b"},
        "counts": ("ttl", {"FAILURE": b"1"}),
    }


# Its dead letter


async def test_a_job_that_failed_for_good_is_a_dead_letter_too(broker, keys, seed, dump):
    """Breaks when the letter is left out: an operator could not retry the job."""
    await seed({"jobs": {"a"}, "started:w": {"a"}, "workers": {"w": "future"}})
    assert await broker.record(keys, "a", FAILED, "60", LETTER, 100, DAY_S, worker="w")
    assert await dump() == {
        "result:a": ("ttl", FAILED),
        "counts": ("ttl", {"FAILURE": b"1"}),
        "dead": {"a": "past"},
        "dead:letters": {"a": LETTER},
        "workers": {"w": "future"},
    }


async def test_letters_are_bounded_in_number_and_age(broker, keys, seed, dump):
    """Breaks when the newest go, or a letter stays in the hash for ever."""
    await seed(
        {
            "dead": {"ancient": 1, "older": "past", "old": 4_000_000_000_001, "new": 4_000_000_000_002},
            "dead:letters": dict.fromkeys(["ancient", "older", "old", "new"], b"letter"),
        }
    )
    await broker.record(keys, "a", FAILED, "60", LETTER, 2, DAY_S)
    stored = await dump()
    assert set(stored["dead"]) == set(stored["dead:letters"]) == {"old", "new"}
    await broker.record(keys, "b", FAILED, "60", LETTER, 100, DAY_S)
    assert set((await dump())["dead"]) == {"old", "new", "b"}


async def test_without_a_letter_the_queues_letters_stay(broker, keys, seed, dump):
    """Breaks when an empty letter is kept, or "keep none" empties the queue's dead letters."""
    letters = {"dead": {"x": "past"}, "dead:letters": {"x": b"letter"}}
    await seed(letters)
    await broker.record(keys, "a", FAILED, "60")
    assert {name: value for name, value in (await dump()).items() if name.startswith("dead")} == letters
