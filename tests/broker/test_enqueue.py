"""enqueue: a producer's batch becomes waiting or scheduled jobs, once."""

import pytest

from rqueue.broker.broker import Enqueued
from rqueue.errors import BrokerError

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


async def test_a_batch_waits_in_the_order_in_which_it_was_given(broker, keys, dump, message, job):
    """Never nowhere. Breaks when a message, its id or the batch's outcome is not written, or the order turns."""
    assert await broker.enqueue(keys, "p", 3, 1, [job("a"), job("b"), job("c")]) == [True, True, True]
    assert await dump() == {
        "main": [message("c"), message("b"), message("a")],
        "jobs": {"a", "b", "c"},
        "sent:p": ("ttl", {"3": b"1 111"}),
    }


async def test_the_bytes_arrive_as_they_are(broker, keys, dump):
    """No payload is ever decoded. Breaks when a script or the link touches the bytes of a message."""
    raw = bytes(range(256)) + b"\r\n$-1\r\n"
    await broker.enqueue(keys, "p", 0, 1, [Enqueued("a", False, 0, "", raw)])
    assert (await dump())["main"] == [raw]


@pytest.mark.parametrize("level", [1, 5, 10])
async def test_a_priority_leaves_a_token_in_an_empty_main_list(broker, keys, dump, message, job, level):
    """No wake-up is missed. Breaks when the token is not left, or the job goes to another priority's list."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", level), job("b", level)])
    assert await dump() == {
        "main": [b""],
        f"p{level}": [message("b", level), message("a", level)],
        "jobs": {"a", "b"},
        "sent:p": ("ttl", {"0": b"1 11"}),
    }


async def test_a_second_token_is_never_left(broker, keys, dump, job):
    """No wake-up is missed, and one job wakes one worker. Breaks when the main list is not looked at."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", 5)])
    await broker.enqueue(keys, "p", 0, 2, [job("b", 6)])
    assert (await dump())["main"] == [b""]


async def test_no_token_beside_a_waiting_message(broker, keys, dump, message, job):
    """Counts do not see tokens: one under a message could not be told apart. Breaks when it is left always."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", 5), job("b"), job("c", 10)])
    assert await dump() == {
        "main": [message("b")],
        "p5": [message("a", 5)],
        "p10": [message("c", 10)],
        "jobs": {"a", "b", "c"},
        "sent:p": ("ttl", {"0": b"1 111"}),
    }


async def test_a_due_time_makes_it_scheduled(broker, keys, dump, message, job):
    """No wake-up is missed: the earliest due time is new. Breaks when zset, hash or token is not written."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", due="+60000"), job("b", 7, due="1000")])
    assert await dump() == {
        "main": [b""],
        "scheduled": {"a": "future", "b": "past"},
        "scheduled:messages": {"a": message("a"), "b": message("b", 7)},
        "jobs": {"a", "b"},
        "sent:p": ("ttl", {"0": b"1 11"}),
    }


async def test_due_times_are_on_redis_clock_to_the_millisecond(broker, keys, raw, job):
    """Time is Redis's. Breaks when '+ms' is taken as absolute, or a number loses digits on its way through Lua."""
    before = await raw("TIME")
    await broker.enqueue(keys, "p", 0, 1, [job("a", due="+61234"), job("b", due="1999999999999")])
    after = await raw("TIME")
    assert await raw("ZSCORE", keys.scheduled, "b") == b"1999999999999"
    due = int(await raw("ZSCORE", keys.scheduled, "a")) - 61234
    assert _ms(before) <= due <= _ms(after)


async def test_a_later_due_time_wakes_nobody(broker, keys, seed, dump, job):
    """One job wakes one worker. Breaks when every scheduled job leaves a token."""
    await seed({"scheduled": {"x": "future"}, "scheduled:messages": {"x": b"x"}})
    await broker.enqueue(keys, "p", 0, 1, [job("a", due="+120000")])
    assert "main" not in await dump()
    await broker.enqueue(keys, "p", 0, 2, [job("b", due="+5000")])
    assert (await dump())["main"] == [b""]


async def test_the_same_batch_again_gets_the_first_answer(broker, keys, dump, job):
    """A repeated enqueue is harmless. Breaks when the number is not compared, or the answer is not kept."""
    first = [job("a", custom=True), job("a", custom=True), job("b", 5), job("c", due="+60000")]
    assert await broker.enqueue(keys, "p", 0, 7, first) == [True, False, True, True]
    stored = await dump()
    assert await broker.enqueue(keys, "p", 0, 7, first) == [True, False, True, True]
    assert await dump() == stored


async def test_an_older_batch_that_comes_late_changes_nothing(broker, keys, dump, job):
    """A repeated enqueue is harmless: the first sending may arrive after the second. Breaks when only equal numbers
    are refused.
    """
    await broker.enqueue(keys, "p", 0, 10, [job("b")])
    stored = await dump()
    await broker.enqueue(keys, "p", 0, 9, [job("a")])
    assert await dump() == stored


async def test_the_same_batch_is_not_run_again_after_its_jobs_were_settled(broker, keys, raw, dump, job):
    """A repeated enqueue is harmless. Breaks when the repeat is found by the ids in `jobs` and not by its number."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", custom=True)])
    await raw("DEL", keys.main, keys.jobs)
    assert await broker.enqueue(keys, "p", 0, 1, [job("a", custom=True)]) == [True]
    assert await dump() == {"sent:p": ("ttl", {"0": b"1 1"})}


async def test_lanes_and_producers_do_not_see_each_other(broker, keys, dump, message, job):
    """A repeated enqueue is harmless, and nothing else is one. Breaks when lanes or producers share a number."""
    await broker.enqueue(keys, "p", 0, 5, [job("a")])
    await broker.enqueue(keys, "p", 1, 5, [job("b")])
    await broker.enqueue(keys, "q", 0, 5, [job("c")])
    await broker.enqueue(keys, "p", 0, 6, [job("d")])
    assert await dump() == {
        "main": [message(name) for name in "dcba"],
        "jobs": {"a", "b", "c", "d"},
        "sent:p": ("ttl", {"0": b"6 1", "1": b"5 1"}),
        "sent:q": ("ttl", {"0": b"5 1"}),
    }


async def test_numbers_beyond_what_lua_prints_are_compared_exactly(broker, keys, dump, message, job):
    """A repeated enqueue is harmless. Breaks when a number is stored as 1e+15 and can not be read again."""
    await broker.enqueue(keys, "p", 0, 10**15, [job("a")])
    assert await broker.enqueue(keys, "p", 0, 10**15, [job("b")]) == [True]
    assert await broker.enqueue(keys, "p", 0, 10**15 + 1, [job("c")]) == [True]
    assert (await dump())["main"] == [message("c"), message("a")]


async def test_a_batch_is_remembered_for_two_minutes(broker, keys, raw, job):
    """A repeated enqueue is harmless within that time, twice the longest that a caller waits. Breaks when the TTL is
    short, or forgotten.
    """
    await broker.enqueue(keys, "p", 0, 1, [job("a")])
    assert 115 <= await raw("TTL", keys.sent("p")) <= 120
    await broker.enqueue(keys, "q", 0, 1, [job("b")], 86_400)
    assert 86_395 <= await raw("TTL", keys.sent("q")) <= 86_400


async def test_a_chosen_id_that_is_alive_is_left_alone(broker, keys, seed, dump, message, job):
    """A custom job_id that is alive gives the existing job. Breaks when the id is not asked for before the write."""
    before = {"main": [message("a")], "jobs": {"a"}, "scheduled": {"s": "future"}, "scheduled:messages": {"s": b"s"}}
    await seed(before)
    again = [job("a", custom=True), job("a", 9, custom=True), job("a", due="+1", custom=True)]
    assert await broker.enqueue(keys, "p", 0, 1, again) == [False, False, False]
    assert await dump() == {**before, "sent:p": ("ttl", {"0": b"1 000"})}


async def test_a_chosen_id_starts_afresh(broker, keys, seed, dump, message, job):
    """A custom id that is not alive is a new job. Breaks when an earlier job's result stays and is taken for its own,
    or when the results' keys are counted wrong beside taken ids and ids that rqueue made.
    """
    old = b'{"state":"SUCCESS"}'
    await seed({f"result:{name}": ("ttl", old) for name in "abcd"} | {"jobs": {"a"}})
    batch = [job("a", custom=True), job("x"), job("b", custom=True), job("c", due="+60000", custom=True)]
    assert await broker.enqueue(keys, "p", 0, 1, batch) == [False, True, True, True]
    assert await dump() == {
        "main": [message("b"), message("x")],
        "scheduled": {"c": "future"},
        "scheduled:messages": {"c": message("c")},
        "jobs": {"a", "b", "c", "x"},
        "result:a": ("ttl", old),
        "result:d": ("ttl", old),
        "sent:p": ("ttl", {"0": b"1 0111"}),
    }


async def test_a_taken_id_does_not_stop_its_neighbours(broker, keys, seed, dump, message, job):
    """A batch reports per item. Breaks when one taken id refuses the batch."""
    await seed({"jobs": {"a"}})
    batch = [job("b"), job("a", custom=True), job("c", custom=True)]
    assert await broker.enqueue(keys, "p", 0, 1, batch) == [True, False, True]
    assert await dump() == {
        "main": [message("c"), message("b")],
        "jobs": {"a", "b", "c"},
        "sent:p": ("ttl", {"0": b"1 101"}),
    }


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("level", [0, 5])
async def test_a_main_list_that_is_none_is_refused_before_any_change(broker, keys, seed, dump, job, level, custom):
    """An enqueue fails before it has changed anything (types before any write). Breaks when an id is written first: the
    job is nowhere, and its id is alive for ever; or when the job is there although the answer is an error.
    """
    await seed({"main": b"somebody's string"})
    with pytest.raises(BrokerError):
        await broker.enqueue(keys, "p", 0, 1, [job("a", level, custom=custom)])
    assert await dump() == {"main": b"somebody's string"}


@pytest.mark.parametrize("custom", [False, True])
async def test_a_priority_that_is_no_list_is_refused_before_any_change(broker, keys, seed, dump, message, job, custom):
    """As for the main list, which stays without a token. Breaks when ids are written before messages, unasked.

    Plain jobs of another list need not know; those of a batch with other jobs are refused with them.
    """
    await seed({"p5": b"somebody's string"})
    with pytest.raises(BrokerError):
        await broker.enqueue(keys, "p", 0, 1, [job("a", 5, custom=custom)])
    with pytest.raises(BrokerError):
        await broker.enqueue(keys, "p", 0, 2, [job("b"), job("c", 7)])
    assert await dump() == {"p5": b"somebody's string"}
    await broker.enqueue(keys, "p", 0, 3, [job("d")])
    assert (await dump())["main"] == [message("d")]


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_batch_whose_ids_cannot_be_written_changes_nothing(
    broker, keys, seed, dump, message, job, custom, waits
):
    """Breaks when its messages stay: the job is there although the answer is an error, and once more for each half in
    which a refused batch is sent again; or when more than they are taken back.
    """
    before = {"jobs": b"somebody's string"} | ({"main": [message("x")], "p5": [message("y", 5)]} if waits else {})
    await seed(before)
    for level in (0, 5):
        with pytest.raises(BrokerError):
            await broker.enqueue(keys, "p", 0, 1, [job("a", level, custom=custom), job("b", level, custom=custom)])
    assert await dump() == before


async def test_a_batch_of_several_lists_keeps_each_lists_order(broker, keys, dump, message, job):
    """FIFO in a list, however a batch is mixed. Breaks when a batch of two lists is taken for one of one."""
    await broker.enqueue(keys, "p", 0, 1, [job("a", 5), job("b"), job("c", 5), job("d", due="+60000"), job("e")])
    stored = await dump()
    assert stored["main"] == [message("e"), message("b")]
    assert stored["p5"] == [message("c", 5), message("a", 5)]
    assert stored["jobs"] == {*"abcde"}


@on_redis
@pytest.mark.parametrize("custom", [False, True])
async def test_a_batch_beyond_luas_stack_is_taken_or_refused_whole(broker, keys, raw, job, custom):
    """A batch is atomic per queue. Breaks when ids are written, and then `unpack` fails: jobs that are nowhere."""
    batch = [job(f"j{number}", custom=custom) for number in range(12_001)]
    try:
        taken = sum(await broker.enqueue(keys, "p", 0, 1, batch))
    except BrokerError:
        taken = 0
    assert [await raw("LLEN", keys.main), await raw("SCARD", keys.jobs)] == [taken, taken]


def _ms(time: list[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


async def test_an_id_with_a_stop_of_an_earlier_job_is_not_enqueued(broker, keys, seed, dump, message, job):
    """It would be revoked in the earlier one's place. Breaks when it is alive, or its earlier record goes.

    The others of the batch are not kept from it, and the same batch again gets the first answer.
    """
    await seed({"stops": {"job:a": 0}, "jobs": {"c"}, "result:a": b"kept"})
    batch = [job("a", custom=True), job("b", custom=True), job("c", custom=True), job("d")]
    for _ in range(2):
        assert await broker.enqueue(keys, "p", 0, 1, batch) == [None, True, False, True]
        assert await dump() == {
            "main": [message("d"), message("b")],
            "jobs": {"b", "c", "d"},
            "stops": {"job:a": "past"},
            "result:a": b"kept",
            "sent:p": ("ttl", {"0": b"1 2101"}),
        }
