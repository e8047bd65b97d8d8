"""admit: a batch becomes jobs, as far as nothing that counts as the same job is there already."""

import asyncio

import pytest

from rqueue.errors import BrokerError
from rqueue.wire.message import Message

UNIQUE, DEBOUNCE, THROTTLE = "unique 0 k", "debounce 0 k", "throttle 60000 k"
FAR, GONE = b" 9999999999999", b" 1000"


@pytest.fixture
def locked(job):
    def build(job_id, lock, level=0, due="", *, custom=False):
        return job(job_id, level, "+60000" if lock == DEBOUNCE else due, custom=custom)._replace(lock=lock)

    return build


async def test_the_first_takes_the_lock_and_the_second_learns_its_id(broker, keys, dump, message, locked):
    """Breaks when the lock is not looked at, not written, or the answer is not the holder's id."""
    assert await broker.admit(keys, "p", 0, 1, [locked("a", UNIQUE)]) == [True]
    assert await broker.admit(keys, "p", 0, 2, [locked("b", UNIQUE, 5)]) == ["a"]
    assert await dump() == {
        "main": [message("a")],
        "jobs": {"a"},
        "unique": {"k": b"a"},
        "sent:p": ("ttl", {"locked 0": b"2 =a"}),
    }


async def test_plain_jobs_beside_it_are_enqueued_as_ever(broker, keys, dump, message, job, locked):
    """A batch is one step, whatever is in it. Breaks when order, token, levels or custom ids differ from `enqueue`."""
    batch = [job("a"), locked("b", UNIQUE), job("c", 5), job("d", due="+60000"), job("e", custom=True)]
    assert await broker.admit(keys, "p", 0, 1, [*batch, job("e", custom=True), locked("f", UNIQUE)]) == [
        *[True] * 5,
        False,
        "b",
    ]
    assert await dump() == {
        "main": [message("e"), message("b"), message("a")],
        "p5": [message("c", 5)],
        "scheduled": {"d": "future"},
        "scheduled:messages": {"d": message("d")},
        "jobs": set("abcde"),
        "unique": {"k": b"b"},
        "sent:p": ("ttl", {"locked 0": b"1 1 1 1 1 1 0 =b"}),
    }


async def test_a_priority_or_an_earlier_time_leaves_a_token(broker, keys, seed, dump, job, locked):
    """No wake-up is missed, and one job wakes one worker. Breaks when none is left, or for a later one."""
    await seed({"scheduled": {"x": "future"}, "scheduled:messages": {"x": b"x"}})
    await broker.admit(keys, "p", 0, 1, [locked("a", UNIQUE, due="+120000")])
    assert "main" not in await dump()
    await broker.admit(keys, "p", 0, 2, [locked("b", "unique 0 other", due="+100")])
    assert (await dump())["main"] == [b""]
    await broker.admit(keys, "p", 0, 3, [locked("c", "unique 0 third", 5)])
    assert (await dump())["main"] == [b""]


@pytest.mark.parametrize("entry", [b"gone", b"gone" + FAR, b"alive" + GONE])
async def test_a_lock_without_a_living_job_or_past_its_time_counts_for_nothing(
    broker, keys, seed, dump, message, locked, entry
):
    """Locks never outlive their job. Breaks when the entry alone decides."""
    await seed({"jobs": {"alive"}, "unique": {"k": entry}})
    assert await broker.admit(keys, "p", 0, 1, [locked("a", "unique 60000 k")]) == [True]
    stored = await dump()
    assert stored["main"] == [message("a")]
    holder, _, ends = stored["unique"]["k"].partition(b" ")
    assert holder == b"a"
    assert ends.isdigit()


async def test_a_lock_within_its_time_counts(broker, keys, seed, dump, locked):
    """Breaks when a limit is always past."""
    before = {"jobs": {"alive"}, "unique": {"k": b"alive" + FAR}}
    await seed(before)
    assert await broker.admit(keys, "p", 0, 1, [locked("a", UNIQUE)]) == ["alive"]
    assert await dump() == {**before, "sent:p": ("ttl", {"locked 0": b"1 =alive"})}


async def test_a_chosen_id_is_checked_too(broker, keys, seed, dump, message, locked):
    """Both checks hold. Breaks when a living id takes the lock, or a held lock frees the id's record."""
    before = {"jobs": {"a"}, "result:b": ("ttl", b"old"), "result:c": ("ttl", b"old")}
    await seed(before)
    batch = [locked(name, UNIQUE, custom=True) for name in "abc"]
    assert await broker.admit(keys, "p", 0, 1, batch) == [False, True, "b"]
    assert await dump() == {
        "main": [message("b")],
        "jobs": {"a", "b"},
        "result:c": ("ttl", b"old"),
        "unique": {"k": b"b"},
        "sent:p": ("ttl", {"locked 0": b"1 0 1 =b"}),
    }


async def test_a_debounced_job_goes_on_under_its_id_with_the_last_message(broker, keys, raw, dump, message, locked):
    """Breaks when a second job is scheduled, the message is not the last one's, or names another id than its own."""
    assert await broker.admit(keys, "p", 0, 1, [locked("a", DEBOUNCE)]) == [True]
    await raw("ZADD", keys.scheduled, 5, "a")
    last = locked("c", DEBOUNCE, 7)._replace(message=message("c", 7, pad=3))
    assert await broker.admit(keys, "p", 0, 2, [locked("b", DEBOUNCE), last]) == ["a", "a"]
    assert await dump() == {
        "main": [b""],
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": Message.parse(last.message).changed(id="a").raw},
        "jobs": {"a"},
        "unique": {"k": b"a"},
        "sent:p": ("ttl", {"locked 0": b"2 =a =a"}),
    }


async def test_the_first_of_a_batch_is_debounced_by_the_next(broker, keys, dump, message, locked):
    """Breaks when what the batch itself schedules is not seen."""
    assert await broker.admit(keys, "p", 0, 1, [locked("a%", DEBOUNCE), locked("b", DEBOUNCE, 3)]) == [True, "a%"]
    stored = await dump()
    assert stored["scheduled"] == {"a%": "future"}
    assert stored["scheduled:messages"] == {"a%": message("a%", 3)}
    assert stored["jobs"] == {"a%"}


async def test_a_debounced_job_that_waits_or_runs_is_left_alone(broker, keys, seed, dump, message, locked):
    """The call may have come after it read what it needs. Breaks when a living job is enough."""
    await seed({"jobs": {"a"}, "unique": {"k": b"a"}, "main": [message("a")]})
    assert await broker.admit(keys, "p", 0, 1, [locked("b", DEBOUNCE)]) == [True]
    stored = await dump()
    assert (stored["main"], stored["unique"]) == ([message("a")], {"k": b"b"})
    assert (stored["scheduled"], stored["jobs"]) == ({"b": "future"}, {"a", "b"})


async def test_the_first_of_a_period_is_remembered_after_its_end(broker, keys, raw, dump, locked):
    """Breaks when a throttled job must be alive, or its key has no TTL."""
    assert await broker.admit(keys, "p", 0, 1, [locked("a", THROTTLE), locked("b", THROTTLE)]) == [True, "a"]
    await raw("DEL", keys.main, keys.jobs)
    assert await broker.admit(keys, "p", 0, 2, [locked("c", THROTTLE, custom=True)]) == ["a"]
    stored = await dump()
    assert set(stored) == {"throttle:k", "sent:p"}
    assert 0 < await raw("PTTL", keys.throttle("k")) <= 60_000
    await raw("SET", keys.throttle("k"), b"a" + GONE)
    assert await broker.admit(keys, "p", 0, 3, [locked("d", THROTTLE, custom=True)]) == [True]


@pytest.mark.parametrize("lock", [UNIQUE, DEBOUNCE, THROTTLE])
async def test_the_same_batch_again_gets_the_first_answer(broker, keys, dump, raw, locked, job, lock):
    """A repeated enqueue is harmless. Breaks when the repeat finds its own lock, and takes itself for a duplicate."""
    batch = [locked("a", lock), locked("b", lock), job("c", custom=True)]
    assert await broker.admit(keys, "p", 0, 7, batch) == [True, "a", True]
    stored = await dump()
    assert await broker.admit(keys, "p", 0, 7, batch) == [True, "a", True]
    assert await broker.admit(keys, "p", 0, 6, [locked("z", "unique 0 z")]) == [True, "a", True], "late"
    assert await dump() == stored


async def test_it_takes_turns_with_enqueue_on_the_same_lane(broker, keys, dump, job, locked):
    """Neither verb reads the other's answers. Breaks when they share a field, and `enqueue` cannot read it."""
    assert await broker.admit(keys, "p", 0, 1, [locked("a", UNIQUE)]) == [True]
    assert await broker.enqueue(keys, "p", 0, 2, [job("b")]) == [True]
    assert await broker.admit(keys, "p", 0, 3, [locked("c", UNIQUE)]) == ["a"]
    assert (await dump())["sent:p"] == ("ttl", {"0": b"2 1", "locked 0": b"3 =a"})


@pytest.mark.parametrize("key", ["jobs", "scheduled", "scheduled:messages", "unique", "main", "p7", "throttle:t"])
async def test_what_is_something_else_is_refused_before_any_change(broker, keys, seed, dump, locked, key):
    """Scripts do not roll back. Breaks when a type is not looked at before the first write."""
    before = {key: {"somebody": b"else's"} if key in ("jobs", "throttle:t") else b"somebody's string"}
    await seed(before)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.admit(keys, "p", 0, 1, [locked("a", UNIQUE), locked("b", "throttle 9 t"), locked("c", DEBOUNCE)])
    assert await dump() == before


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_of_many_at_once_one_is_first(broker, other, keys, raw, locked):
    """One step. Breaks when the lock is read in another step than it is written."""
    answers = await asyncio.gather(
        *(
            each.admit(keys, f"p{number}", 0, 1, [locked(f"j{number}", UNIQUE)])
            for number, each in enumerate([broker, other] * 50)
        )
    )
    (first,) = [f"j{number}" for number, answer in enumerate(answers) if answer == [True]]
    assert [answer for answer in answers if answer != [True]] == [[first]] * 99
    assert await raw("LLEN", keys.main) == 1


async def test_a_stop_of_an_earlier_job_of_the_id_is_said_and_changes_nothing(broker, keys, seed, dump, locked):
    """Breaks when the new job meets the stop: it would be revoked for the old one."""
    state = {"stops": {"job:a": 0}, "main": [b"old"]}
    await seed(state)
    stored = await dump()
    batch = [locked("a", UNIQUE, custom=True), locked("a", THROTTLE, custom=True)]
    assert await broker.admit(keys, "p", 0, 1, batch) == [None, None]
    assert await broker.admit(keys, "p", 0, 1, batch) == [None, None]
    assert await dump() == {**stored, "sent:p": ("ttl", {"locked 0": b"1 2 2"})}


@pytest.mark.parametrize("lock", [UNIQUE, DEBOUNCE])
async def test_a_scheduled_job_that_was_cancelled_holds_no_lock(broker, keys, seed, dump, message, locked, lock):
    """It never runs again. Breaks when the call goes into it, or gets its id."""
    state = {
        "stops": {"job:a": 0},
        "jobs": {"a"},
        "unique": {"k": b"a"},
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": message("a")},
    }
    await seed(state)
    assert await broker.admit(keys, "p", 0, 1, [locked("b", lock)]) == [True]
    stored = await dump()
    assert (stored["unique"], stored["jobs"]) == ({"k": b"b"}, {"a", "b"})
    assert stored["scheduled:messages"]["a"] == message("a")
