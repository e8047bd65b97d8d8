"""tick: a periodic schedule that is due enqueues its jobs, once however many workers look at it."""

import asyncio

import pytest

from rqueue.broker.broker import Tick
from rqueue.errors import BrokerError, BrokerFull

PAST, FUTURE = "past", "future"
DUE = {"periodic": {"s": PAST}, "periodic:entries": {"s": b"read"}}


@pytest.fixture
def tick(broker, message):
    """A tick of the schedule `s`, which was read as `read`, with jobs of these ids."""

    def build(*ids, level=0, last_id="", read=b"read", early_ms=0):
        now = broker.clock.now_ms()
        jobs = [(each, message(each, level)) for each in ids]
        return Tick(
            "s", read, now + early_ms, level, b"after", now + 60_000, last_id, b"held", now + 60_000, jobs
        )  # fmt: skip

    return build


async def test_a_tick_enqueues_its_jobs_and_goes_on(broker, keys, seed, dump, tick, message):
    """Never nowhere: the job is there, and known, in the step that moves the schedule on. Breaks when one of the
    writes is left out, or goes to the other end of the list.
    """
    await seed({**DUE, "main": [message("x")], "jobs": {"x"}})
    assert await broker.tick(keys, tick("s@1", "s@2")) == 1
    assert await dump() == {
        "main": [message("s@2"), message("s@1"), message("x")],
        "jobs": {"x", "s@1", "s@2"},
        "periodic": {"s": FUTURE},
        "periodic:entries": {"s": b"after"},
    }


async def test_a_priority_leaves_a_token_in_an_empty_main_list(broker, keys, seed, dump, tick, message):
    """No wake-up is missed. Breaks without the token."""
    await seed(DUE)
    assert await broker.tick(keys, tick("s@1", level=7)) == 1
    stored = await dump()
    assert (stored["main"], stored["p7"]) == ([b""], [message("s@1", 7)])


async def test_the_same_step_again_changes_nothing(broker, other, keys, seed, dump, tick):
    """The reply was lost, or a second worker had read the same. Breaks when what was read is not compared."""
    await seed(DUE)
    step = tick("s@1")
    assert await broker.tick(keys, step) == 1
    stored = await dump()
    assert await broker.tick(keys, step) == await other.tick(keys, step) == 0
    assert await dump() == stored


async def test_many_at_once_tick_once(broker, other, keys, seed, dump, tick, message):
    """Raced. Breaks when the comparison and the writes are two steps."""
    await seed(DUE)
    step = tick("s@1")
    outcomes = await asyncio.gather(*(each.tick(keys, step) for each in (broker, other) * 10))
    assert sorted(outcomes) == [0] * 19 + [1]
    assert (await dump())["main"] == [message("s@1")]


@pytest.mark.parametrize("state", [{}, {"periodic:entries": {"s": b"read"}}, {**DUE, "periodic:entries": {"s": b"x"}}])
async def test_a_schedule_that_was_removed_paused_or_edited_does_not_tick(broker, keys, seed, dump, tick, state):
    """Breaks when an operator's change is overwritten by a tick that was decided before it."""
    await seed(state)
    assert await broker.tick(keys, tick("s@1")) == 0
    assert await dump() == state


@pytest.mark.parametrize(("score", "early_ms"), [(FUTURE, 0), (PAST, 30_000), (PAST, -30_000)])
async def test_what_redis_clock_does_not_say_is_not_due(broker, keys, seed, dump, tick, score, early_ms):
    """Time is Redis's. Breaks when a worker whose clock is wrong, or that stood still meanwhile, ticks."""
    state = {**DUE, "periodic": {"s": score}}
    await seed(state)
    assert await broker.tick(keys, tick("s@1", early_ms=early_ms)) == -1
    assert await dump() == state


async def test_a_last_job_that_is_alive_holds_the_tick(broker, keys, seed, dump, tick):
    """Overlap. Breaks when the jobs are enqueued all the same, or the schedule does not go on."""
    await seed({**DUE, "jobs": {"s@0"}})
    assert await broker.tick(keys, tick("s@1", last_id="s@0")) == 2
    assert await dump() == {"jobs": {"s@0"}, "periodic": {"s": FUTURE}, "periodic:entries": {"s": b"held"}}


async def test_a_last_job_that_has_ended_holds_nothing(broker, keys, seed, dump, tick, message):
    await seed({**DUE, "jobs": {"x"}, "dead": {"s@0": PAST}})
    assert await broker.tick(keys, tick("s@1", last_id="s@0")) == 1
    assert (await dump())["main"] == [message("s@1")]


async def test_an_id_that_is_alive_is_not_enqueued_again_and_an_old_record_goes(
    broker, keys, seed, dump, tick, message
):
    """Breaks when a schedule that was removed and added again doubles a job, or answers with an old result."""
    await seed({**DUE, "jobs": {"s@1"}, "result:s@2": b"an earlier job's", "result:s@1": b"its own"})
    assert await broker.tick(keys, tick("s@1", "s@2")) == 1
    stored = await dump()
    assert stored["main"] == [message("s@2")]
    assert stored["result:s@1"] == b"its own"
    assert "result:s@2" not in stored


@pytest.mark.parametrize("place", ["main", "p5"])
async def test_a_list_that_is_none_is_refused_before_any_change(broker, keys, seed, dump, tick, place):
    """Scripts do not roll back. Breaks when the schedule has gone on before the push is refused: the tick is lost."""
    state = {**DUE, place: b"somebody's"}
    await seed(state)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.tick(keys, tick("s@1", level=5))
    assert await dump() == state


async def test_a_step_without_jobs_leaves_no_token(broker, keys, seed, dump, tick):
    """A missed tick. Breaks when it wakes everybody."""
    await seed(DUE)
    assert await broker.tick(keys, tick(level=5)) == 1
    assert await dump() == {"periodic": {"s": FUTURE}, "periodic:entries": {"s": b"after"}}


async def test_a_full_redis_refuses_before_any_change(new_server, new_broker, keys, seed_of, dump_of, message):
    """The tick is late, and not lost. Breaks when the first write is one that Redis allows."""
    broker = await new_broker(new_server({"maxmemory-policy": "noeviction"}).url)
    await seed_of(broker, DUE)
    await broker._link.call(b"CONFIG", b"SET", b"maxmemory", b"1")
    stored = await dump_of(broker)
    now = broker.clock.now_ms()
    with pytest.raises(BrokerFull):
        await broker.tick(keys, Tick("s", b"read", now, 0, b"a", now, "", b"h", now, [("s@1", message("s@1"))]))
    assert await dump_of(broker) == stored


async def test_what_is_due_is_read_in_one_look(broker, keys, seed):
    assert await broker.next_look(keys) is None
    assert await broker.ticking(keys, broker.clock.now_ms()) == {}
    await seed({"periodic": {"b": 2, "a": 1, "c": FUTURE}, "periodic:entries": {"a": b"A", "c": b"C"}})
    assert await broker.next_look(keys) == 1
    assert await broker.ticking(keys, broker.clock.now_ms()) == {"a": b"A", "b": b""}
    assert await broker.schedules(keys) == {"a": b"A", "c": b"C"}
    assert (await broker.schedule(keys, "a"), await broker.schedule(keys, "b")) == (b"A", b"")
