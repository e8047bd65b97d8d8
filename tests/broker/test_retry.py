"""retry: a claimed job goes to the scheduled ones, to run again later."""

import pytest

ALIVE = {"workers": {"w": "future"}}
RECORD = b'{"state":"RETRY"}'


def again(message):
    return message("a", retries=1)


async def retry(broker, keys, message, number=1, delay_s=60.0, **options):
    return await broker.retry(keys, "w", 0, number, message("a"), "a", again(message), delay_s, **options)


async def test_a_claimed_job_is_put_off(broker, keys, seed, dump, message, listen):
    """Never nowhere: one step from the list to the schedule. Breaks when the job is in both, in none, or goes on as
    the bytes that were claimed.
    """
    state = {"processing:w": [message("b"), message("a")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **ALIVE}
    await seed(state)
    heard = await listen("result:a")
    assert await retry(broker, keys, message, record=RECORD, ttl_s=60) == b"1"
    assert await heard() == RECORD
    assert await dump() == {
        "processing:w": [message("b")],
        "started:w": {"b"},
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": again(message)},
        "jobs": {"a", "b"},
        "result:a": ("ttl", RECORD),
        "settled:w": ("ttl", {"0": b"1 1"}),
        "main": [b""],
        **ALIVE,
    }


async def test_without_a_record_none_is_touched(broker, keys, seed, dump, message):
    """A released or deferred job keeps its record. Breaks when an empty one is written over it."""
    await seed({"processing:w": [message("a")], "result:a": ("ttl", b"kept"), **ALIVE})
    await retry(broker, keys, message)
    assert (await dump())["result:a"] == ("ttl", b"kept")


async def test_a_job_that_was_not_known_is_from_now_on(broker, keys, seed, dump, message):
    """An id that lives is known. Breaks when an id is not added: a custom id could be enqueued a second time."""
    await seed({"processing:w": [message("a")], **ALIVE})
    await retry(broker, keys, message)
    assert (await dump())["jobs"] == {"a"}


@pytest.mark.parametrize(("waits", "token"), [(5.0, True), (600.0, False)])
async def test_a_token_only_for_what_is_due_first(broker, keys, seed, dump, message, waits, token):
    """No wake-up is missed, and nobody is woken for nothing. Breaks when the due times are not compared."""
    await seed({"scheduled": {"x": "future"}, "scheduled:messages": {"x": b"x"}})
    await seed({"processing:w": [message("a")], **ALIVE})
    await retry(broker, keys, message, delay_s=waits)
    assert (await dump()).get("main") == ([b""] if token else None)


async def test_no_token_beside_a_waiting_message(broker, keys, seed, dump, message):
    """Counts do not see tokens. Breaks when it is pushed into a list that has something."""
    await seed({"processing:w": [message("a")], "main": [message("b")], **ALIVE})
    await retry(broker, keys, message)
    assert (await dump())["main"] == [message("b")]


async def test_the_due_time_is_on_redis_clock(broker, keys, raw, seed, message):
    """Time is Redis's. Breaks when a delay is rounded to seconds, or counted from this machine's clock."""
    await seed({"processing:w": [message("a")], **ALIVE})
    broker.clock.observe(0)
    before = _ms(await raw("TIME"))
    await retry(broker, keys, message, delay_s=1.25)
    due = int(await raw("ZSCORE", keys.scheduled, "a"))
    assert before <= due - 1250 <= _ms(await raw("TIME"))


async def test_the_same_step_again_gets_the_first_answer(broker, keys, seed, dump, message):
    """Sent again after a lost reply it changes nothing. Breaks when the outcome is not kept, or the job is put off
    once more.
    """
    await seed({"processing:w": [message("a")], **ALIVE})
    assert await retry(broker, keys, message, 5) == b"1"
    stored = await dump()
    assert await retry(broker, keys, message, 5, 10) == b"1"
    assert await dump() == stored


async def test_an_older_step_that_comes_late_changes_nothing(broker, keys, seed, dump, message):
    """A batch is run once. Breaks when only equal numbers are refused."""
    state = {"processing:w": [message("a")], "settled:w": ("ttl", {"0": b"6 1"}), **ALIVE}
    await seed(state)
    await retry(broker, keys, message, 5)
    assert await dump() == state


async def test_retry_and_ack_count_in_the_same_lanes(broker, keys, seed, dump, message, done):
    """A batch is told by its lane and number, whatever its verb. Breaks when verbs keep outcomes apart."""
    await seed({"processing:w": [message("a")], **ALIVE})
    await broker.ack(keys, "w", 0, 5, [done("a")])
    stored = await dump()
    await retry(broker, keys, message, 5)
    assert await dump() == stored


async def test_a_lost_claim_changes_nothing(broker, keys, seed, dump, message):
    """Only the owner settles. Breaks when the schedule is written first: the job would run twice."""
    state = {"processing:v": [message("a")], "started:w": {"a"}, "jobs": {"a"}, **ALIVE}
    await seed(state)
    assert await retry(broker, keys, message, record=RECORD, ttl_s=60) == b"0"
    assert await dump() == {**state, "settled:w": ("ttl", {"0": b"1 0"})}


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message):
    """Settle of an unregistered id says so and changes nothing. Breaks when a tombstone is an error."""
    for state in ({"processing:w": [message("a")], "jobs": {"a"}}, {"processing:w": ("ttl", b"reaped")}):
        await broker._link.call("FLUSHALL")
        await seed(state)
        assert await retry(broker, keys, message, record=RECORD, ttl_s=60) is None
        assert await dump() == state


async def test_a_record_that_is_not_kept_does_not_stop_the_retry(broker, keys, seed, dump, message):
    """Types before any write. Breaks when no seconds reach SET … EX 0: the job is scheduled, and the worker gets an
    error and no kept answer.
    """
    await seed({"processing:w": [message("a")], "jobs": {"a"}, **ALIVE})
    assert await retry(broker, keys, message, record=RECORD, ttl_s=0) == b"1"
    assert await dump() == {
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": again(message)},
        "jobs": {"a"},
        "settled:w": ("ttl", {"0": b"1 1"}),
        "main": [b""],
        **ALIVE,
    }


# acks_late=False


async def test_a_job_that_was_settled_before_it_started_is_scheduled_from_nowhere(
    broker, keys, seed, dump, message, listen
):
    """It is in no list. Breaks when it is lost because no list holds it, or when its mark stays: its worker's death
    would then end a job that is alive.
    """
    await seed({"processing:w": [message("b")], "started:w": {"a", "b"}, "jobs": {"a", "b"}, **ALIVE})
    heard = await listen("result:a")
    assert await retry(broker, keys, message, record=RECORD, ttl_s=60, is_settled_early=True) == b"1"
    assert await heard() == RECORD
    stored = await dump()
    assert stored == {
        "processing:w": [message("b")],
        "started:w": {"b"},
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": again(message)},
        "jobs": {"a", "b"},
        "result:a": ("ttl", RECORD),
        "settled:w": ("ttl", {"0": b"1 1"}),
        "main": [b""],
        **ALIVE,
    }
    assert await retry(broker, keys, message, record=RECORD, ttl_s=60, is_settled_early=True) == b"1"
    assert await dump() == stored


async def test_its_second_sending_does_not_schedule_it_after_its_next_run(broker, keys, raw, seed, dump, message):
    """Repeatable: here no list tells a second time from the first. Breaks when the number is not asked first."""
    await seed({"jobs": {"a"}, "started:w": {"a"}, **ALIVE})
    assert await retry(broker, keys, message, delay_s=0, is_settled_early=True) == b"1"
    assert await raw("DEL", keys.scheduled, keys.messages, keys.main) == 3  # it ran, and ended
    stored = await dump()
    assert await retry(broker, keys, message, delay_s=0, is_settled_early=True) == b"1"
    assert await dump() == stored


async def test_an_unregistered_worker_does_not_schedule_it(broker, keys, seed, dump, message):
    """A reaper has spoken: the job failed. Breaks when a late worker makes a job that has ended run again."""
    state = {"result:a": ("ttl", b'{"state":"FAILURE"}'), "workers": {"v": "future"}}
    await seed(state)
    assert await retry(broker, keys, message, record=RECORD, ttl_s=60, is_settled_early=True) is None
    assert await dump() == state


def _ms(time: list[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
