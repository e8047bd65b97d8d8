"""A full Redis drains: at maxmemory workers go on, results lose their value, and enqueue fails before any change."""

import contextlib

import pytest

from rqueue.broker.broker import Done
from rqueue.broker.pulse import Pulse
from rqueue.errors import BrokerFull

BIG = b'{"state":"SUCCESS","result":"' + b"x" * 100 + b'"}'
SMALL = b'{"state":"SUCCESS","result":1}'
ALIVE = {"workers": {"w": "future"}}


@pytest.fixture
def url(new_server):
    """A server of the test's own, that stores nothing more once `fill` was awaited."""
    return new_server({"maxmemory-policy": "noeviction"}).url


@pytest.fixture
def fill(raw):
    async def one_byte_is_enough() -> None:
        await raw("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerFull):
            await raw("SET", "more", "x")

    return one_byte_is_enough


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize(("level", "due"), [(0, ""), (5, ""), (0, "+60000")])
async def test_enqueue_fails_and_has_changed_nothing(broker, keys, seed, dump, fill, message, job, level, due, custom):
    """Enqueue fails with a clear error before it has changed anything. Breaks when its first write is never refused:
    the id would be alive, and the job nowhere.
    """
    await seed({"main": [message("x")], "jobs": {"x"}, "result:a": b"an earlier job's"})
    await fill()
    stored = await dump()
    with pytest.raises(BrokerFull):
        await broker.enqueue(keys, "p", 0, 1, [job("a", level, due, custom=custom)])
    assert await dump() == stored


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("lock", ["unique 60000 k", "unique 0 free", "debounce 0 k", "throttle 9 k"])
async def test_admit_fails_and_has_changed_nothing(broker, keys, seed, dump, fill, message, job, lock, custom):
    """As enqueue. Breaks when a lock, a throttle's key or a scheduled message is written by a write that is let in."""
    await seed(
        {
            "jobs": {"x"},
            "unique": {"k": b"x", "free": b"gone"},
            "result:a": b"an earlier job's",
            "scheduled": {"x": "future"},
            "scheduled:messages": {"x": message("x")},
        }
    )
    await fill()
    stored = await dump()
    with pytest.raises(BrokerFull):
        await broker.admit(keys, "p", 0, 1, [job("a", due="+9", custom=custom)._replace(lock=lock)])
    assert await dump() == stored


async def test_unlock_and_prune(broker, keys, seed, dump, fill):
    """A full Redis drains of locks too. Breaks when they write anything but what frees."""
    await seed({"jobs": {"x"}, "unique": {"a": b"gone", "b": b"gone", "c": b"x"}})
    await fill()
    assert await broker.unlock(keys, [("a", "gone")], if_ended=True) == 1
    assert await broker.prune(keys) == 0
    assert await dump() == {"jobs": {"x"}, "unique": {"c": b"x"}}


async def test_a_batch_that_was_answered_is_answered_again(broker, keys, dump, fill, job):
    """A repeated enqueue is harmless, also when Redis has become full meanwhile. Breaks when a write comes first."""
    await broker.enqueue(keys, "p", 0, 1, [job("a")])
    await fill()
    stored = await dump()
    assert await broker.enqueue(keys, "p", 0, 1, [job("a")]) == [True]
    assert await dump() == stored


async def test_claim(broker, keys, reports, seed, dump, fill, message):
    """The worker claims by script. Breaks when its first write may grow memory."""
    a, b = message("a", 5), message("b")
    await seed({"p5": [b, a], "reports/main": [b], "workers": {"w": "past"}, "reports/workers": {"w": "past"}})
    await fill()
    claimed = await broker.claim([keys, reports], [1, 1], "w", 30, 1, 1_000)
    assert [each.raw for each in claimed.messages] == [a]
    assert await dump() == {
        "main": [b""],
        "p5": [b],
        "processing:w": [a],
        "reports/main": [b],
        "reports/workers": {"w": "future"},
        **ALIVE,
    }


async def test_block_is_refused_and_takes_nothing(broker, keys, seed, dump, fill, message):
    """Redis refuses BRPOPLPUSH: the worker hears it. Breaks when this is not told from an empty list."""
    await seed({"main": [message("a")], **ALIVE})
    await fill()
    with pytest.raises(BrokerFull):
        await broker.block(keys, "w", 1)
    assert await dump() == {"main": [message("a")], **ALIVE}


async def test_adopt(broker, keys, seed, dump, fill, message):
    """A full Redis drains also of messages without an id. Breaks when the id is written before the list shrinks."""
    await seed({"processing:w": [b"{}"], **ALIVE})
    await fill()
    assert await broker.adopt(keys, "w", [(b"{}", message("a"), "a")]) == b"1"
    assert await dump() == {"processing:w": [message("a")], "jobs": {"a"}, **ALIVE}


async def test_start(broker, keys, seed, dump, fill):
    """A full Redis drains. Breaks when SADD comes first."""
    await seed(ALIVE)
    await fill()
    assert await broker.start(keys, "w", ["a"])
    assert await dump() == {"started:w": {"a"}, **ALIVE}


@pytest.mark.parametrize("ttl", ["", "60"])
async def test_ack_keeps_that_it_was_done_and_drops_a_large_value(broker, keys, seed, dump, fill, message, listen, ttl):
    """Results lose their value, are marked and counted; waiting callers get them all the same. Breaks when the first
    write may grow memory, or a value is kept, or a small one is dropped.
    """
    a, b, c = (message(name) for name in "abc")
    await seed({"processing:w": [c, b, a], "jobs": set("abc"), "started:w": set("abc"), **ALIVE})
    heard = await listen("result:a")
    await fill()
    batch = [Done(a, "a", BIG, ttl), Done(b, "b", SMALL, ttl), Done(message("lost"), "lost", BIG, ttl)]
    assert await broker.ack(keys, "w", 0, 1, batch) == b"210"
    assert await heard() == BIG
    dropped = b'{"state":"SUCCESS","dropped":true}'
    stored = await dump()
    assert stored == {
        "processing:w": [c],
        "jobs": {"c"},
        "started:w": {"c"},
        "result:a": ("ttl", dropped) if ttl else dropped,
        "result:b": ("ttl", SMALL) if ttl else SMALL,
        "counts": ("ttl", {"SUCCESS": b"2"}),
        "settled:w": ("ttl", {"0": b"1 210"}),
        **ALIVE,
    }
    assert await broker.ack(keys, "w", 0, 1, batch) == b"210"
    assert await dump() == stored


async def test_ack_keeps_a_large_value_where_there_is_room(broker, keys, seed, dump, message):
    """Breaks when a value is dropped without need."""
    await seed({"processing:w": [message("a")], **ALIVE})
    assert await broker.ack(keys, "w", 0, 1, [Done(message("a"), "a", BIG, "60")]) == b"1"
    assert (await dump())["result:a"] == ("ttl", BIG)


async def test_ack_of_a_lost_claim(broker, keys, seed, dump, fill, done):
    """The late worker is told. Breaks when a batch that removes nothing is refused: it would be sent for ever."""
    await seed(ALIVE)
    await fill()
    assert await broker.ack(keys, "w", 0, 1, [done("a")]) == b"0"
    assert await dump() == {"settled:w": ("ttl", {"0": b"1 0"}), **ALIVE}


async def test_record(broker, keys, dump, fill):
    """A full Redis drains. Breaks when an early settled job's record is refused for ever."""
    await fill()
    await broker.record(keys, "a", SMALL, "60")
    assert await dump() == {"result:a": ("ttl", SMALL), "counts": ("ttl", {"SUCCESS": b"1"})}


async def test_record_drops_a_large_value(broker, keys, dump, fill):
    """At maxmemory results lose their value and are marked: acks_late=False must not fill what is full. Breaks when
    only ack looks whether there is room.
    """
    await fill()
    await broker.record(keys, "a", BIG, "60")
    assert (await dump())["result:a"] == ("ttl", b'{"state":"SUCCESS","dropped":true}')


async def test_retry(broker, keys, seed, dump, fill, message):
    """A full Redis drains; the reason is not kept, only the job. Breaks when the schedule is written first."""
    await seed({"processing:w": [message("a")], "jobs": {"a"}, "started:w": {"a"}, **ALIVE})
    await fill()
    again = message("a", retries=1)
    assert await broker.retry(keys, "w", 0, 1, message("a"), "a", again, 60, b'{"state":"RETRY"}', 60) == b"1"
    assert await dump() == {
        "scheduled": {"a": "future"},
        "scheduled:messages": {"a": again},
        "jobs": {"a"},
        "settled:w": ("ttl", {"0": b"1 1"}),
        "main": [b""],
        **ALIVE,
    }


async def test_move(broker, keys, seed, dump, fill, message, listen):
    """A full Redis drains; whoever waits is still told where the job went. Breaks when the record comes first."""
    await seed({"processing:w": [message("a")], "jobs": {"a"}, "started:w": {"a"}, **ALIVE})
    heard = await listen("result:a")
    await fill()
    record = b'{"state":"RETRY","task":"t","moved":"reports","error":{"type":"E","message":"%s"}}' % (b"x" * 1000)
    assert await broker.move(keys, "w", 0, 1, message("a"), "a", record, 60, "reports") == b"1"
    assert await heard() == record
    assert await dump() == {
        "result:a": ("ttl", b'{"state":"RETRY","moved":"reports"}'),
        "settled:w": ("ttl", {"0": b"1 1"}),
        **ALIVE,
    }


async def test_bury(broker, keys, seed, dump, fill, message, done):
    """A full Redis drains also of what fails. Breaks when the letter is written before the list shrinks."""
    await seed({"processing:w": [message("a")], "jobs": {"a"}, **ALIVE})
    await fill()
    letter = b'{"id":"a","reason":"worker lost","traceback":"' + b"x" * 1000 + b'"}\nraw\nbytes'
    assert await broker.bury(keys, "w", 0, 1, done("a", "FAILURE"), letter, 10, 60) == b"1"
    stored = await dump()
    assert stored["dead:letters"] == {"a": b'{"id":"a","reason":"worker lost"}\nraw\nbytes'}
    assert stored["result:a"] == ("ttl", b'{"state":"FAILURE","dropped":true}')
    assert "processing:w" not in stored


async def test_release(broker, keys, seed, dump, fill, message):
    """A worker can give back what it holds. Breaks when the push comes before the removal."""
    await seed({"processing:w": [message("a", 5)], **ALIVE})
    await fill()
    assert await broker.release(keys, "w", [(message("a", 5), "a", 5)]) == 1
    assert await dump() == {"main": [b""], "p5": [message("a", 5)], **ALIVE}


async def test_promote(broker, keys, seed, dump, fill, message):
    """What is due runs. Breaks when the push comes before the removal."""
    await seed({"scheduled": {"a": 1}, "scheduled:messages": {"a": message("a", 5)}})
    await fill()
    assert await broker.promote(keys) == (1, None)
    assert await dump() == {"main": [b""], "p5": [message("a", 5)]}


async def test_register_and_leave(broker, keys, dump, fill):
    """Help can come. Breaks when a worker cannot join a full Redis, or not leave it."""
    await fill()
    assert await broker.register(keys, "w", 30)
    assert await dump() == ALIVE
    assert await broker.leave(keys, "w")
    assert await dump() == {"processing:w": ("ttl", b"left")}


async def test_renew(broker, keys, seed, dump, fill):
    """A full Redis must not condemn its workers. Breaks when ZADD or SET comes first, in loop or thread."""
    await seed({"workers": {"w": "past"}})
    await fill()
    assert await broker.renew([keys], "w", 30, b"card")
    pulse = Pulse(broker.endpoint, 5)
    assert pulse.renew([keys], "w", 30, b"card")
    pulse.close()
    assert await dump() == {"worker:w": ("ttl", b"card"), **ALIVE}


async def test_reap(broker, keys, seed, dump, fill, message):
    """A dead worker's jobs go back. Breaks when the push comes before the removal, or the tombstone is refused."""
    await seed({"processing:w": [message("a", 5)], "processing:v": [b""], "workers": {"w": "past", "v": "past"}})
    await fill()
    assert await broker.reap(keys, "w", [(message("a", 5), 5, message("a", 5, losses=1))]) == 1
    assert await broker.reap(keys, "v", []) == 1
    assert await dump() == {
        "main": [b""],
        "p5": [message("a", 5, losses=1)],
        "processing:w": ("ttl", b"reaped"),
        "processing:v": ("ttl", b"reaped"),
    }


async def test_room_can_be_made(broker, keys, seed, dump, fill, message):
    """An operator can throw away. Breaks when purge or discard is refused; revive may be, and changes nothing then."""
    await seed({"dead": {"x": 1, "y": 2}, "dead:letters": {"x": b"X", "y": b"Y"}})
    await seed({"main": [message("a")], "jobs": {"a"}})
    await fill()
    stored = await dump()
    with pytest.raises(BrokerFull):
        await broker.revive(keys, "x", b"X", "x", message("x"), 0)
    assert await dump() == stored
    assert await broker.purge(keys) == 1
    assert await broker.discard(keys, ["x", "y"]) == 2
    assert await dump() == {}


async def test_a_backlog_that_filled_redis_is_worked_off(broker, keys, raw, dump, message, job):
    """A full Redis drains, and then takes jobs again. Breaks when what the worker writes is more than it frees."""
    used = int(bytes(await raw("INFO", "memory")).decode().partition("used_memory:")[2].split()[0])
    await raw("CONFIG", "SET", "maxmemory", used + 2_000_000)
    sent = 0
    with contextlib.suppress(BrokerFull):
        while sent < 10_000:
            ids = [f"j{sent + number}" for number in range(100)]
            jobs = [job(job_id)._replace(message=message(job_id, pad=1_000)) for job_id in ids]
            await broker.enqueue(keys, "p", 0, sent + 1, jobs)
            sent += 100
    assert 500 < sent < 10_000
    assert sum((await broker.sizes(keys)).waiting) == sent
    assert await broker.register(keys, "w", 30)
    settled, number = 0, 0
    while settled < sent:
        number += 1
        claimed = [each.raw for each in (await broker.claim([keys], [5], "w", 30, 50, 1_000_000)).messages]
        ids = [raw.split()[5].decode() for raw in claimed]
        assert await broker.start(keys, "w", ids)
        assert await broker.renew([keys], "w", 30, b"card")
        batch = [Done(raw, job_id, BIG, "60") for raw, job_id in zip(claimed, ids, strict=True)]
        outcome = await broker.ack(keys, "w", 0, number, batch)
        assert set(outcome) <= set(b"12")
        settled += len(outcome)
    assert await broker.enqueue(keys, "p", 0, sent + 200, [job("after")]) == [True]
    stored = await dump()
    assert sum(name.startswith("result:") for name in stored) == sent
    assert stored["counts"] == ("ttl", {"SUCCESS": b"%d" % sent})
    assert (stored["main"], stored["jobs"]) == ([message("after")], {"after"})


async def test_cancelling(broker, keys, seed, dump, fill, message):
    """An operator can stop what fills it. Breaks when a cancel, or its settle, begins with a write that grows."""
    record = b'{"state":"REVOKED","error":{"type":"JobRevoked","message":"it was cancelled"}}'
    small = ("ttl", b'{"state":"REVOKED","dropped":true}')
    await seed({"main": [message("a")], "processing:w": [message("b")], "jobs": {"a", "b", "c"}, **ALIVE})
    await seed({"started:w": {"c"}})
    await fill()
    assert await broker.cancel(keys, Done(b"", "c", record, "60"), ["w"]) == (2, "w")
    assert await broker.cancel(keys, Done(b"", "a", record, "60"), ["w"]) == (1, None)
    assert await broker.cancel(keys, Done(b"", "b", record, "60"), ["w"]) == (2, "w")
    assert await broker.revoke(keys, "w", 0, 1, Done(message("b"), "b", record, "60")) == b"1"
    assert await broker.forget(keys, "b", ["w"]) == 0
    assert await dump() == {
        "result:a": small,
        "result:b": small,
        "counts": ("ttl", {"REVOKED": b"2"}),
        "settled:w": ("ttl", {"0": b"1 1"}),
        "started:w": {"c"},
        "jobs": {"c"},
        "stops": {"job:c": "past"},
        **ALIVE,
    }


async def test_pause_and_resume(broker, keys, seed, dump, fill):
    """What fills a Redis can be stopped. Breaks when the stop is refused, or what is declared."""
    await seed(ALIVE)
    await fill()
    assert await broker.declare("queue:email")
    assert await broker.pause(keys, "queue")
    assert (await dump())["stops"] == {"queue": "past"}
    assert await broker.resume(keys, "queue")
    assert await broker.withdraw("queue:email")
    assert await dump() == {"main": [b""], **ALIVE}


async def test_nothing_more_waits_for_the_result_store(broker, keys, dump, fill):
    """Breaks when a part is written, or the length does not fit the list."""
    await fill()
    with pytest.raises(BrokerFull):
        await broker.spool(keys, [b"one"], 1000)
    assert await dump() == {}


async def test_what_the_result_store_has_leaves(broker, keys, dump, fill):
    """Breaks when the first write may grow memory: a spool that has filled Redis would stay."""
    await broker.spool(keys, [b"one", b"three"], 1000)
    await fill()
    left = await broker.unspool(keys, "w", [b"one"], bound=1000, most=9, most_bytes=99, lock_s=9)
    assert left == [b"three"]
    assert (await dump())["spool"] == [b"three"]


async def test_who_ends_a_job_without_its_worker_fills_nothing(broker, keys, seed, dump, fill, message, done):
    """It is counted that the result store will not hear of it. Breaks when the entry is written all the same."""
    await seed({"recorded": ("ttl", b"1000"), "jobs": {"a", "b", "c"}, "main": [message("a")]})
    await seed({"workers": {"w": "past"}, "processing:w": [message("b")], "result:c": ("ttl", b'{"state":"STARTED"}')})
    await fill()
    assert (await broker.cancel(keys, done("a", "REVOKED", raw=b""), ["w"]))[0] == 1
    assert await broker.bury(keys, "w", "l", 1, done("b", "FAILURE"), b"letter", 9, 99, by_reaper=True) == b"1"
    assert await broker.record(keys, "c", b'{"state":"FAILURE"}', "60", started_by="w")
    stored = await dump()
    assert "spool" not in stored
    assert stored["unrecorded"] == ("ttl", b"3")
