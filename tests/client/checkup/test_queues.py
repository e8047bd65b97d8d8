"""The checks of queues, workers and keys: each fault is planted, and found; and told as what it is."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from rqueue.client.checkup.census import Census, Found
from rqueue.client.checkup.finding import CHECKS, Level
from rqueue.client.checkup.look import Look, Registered, Seen
from rqueue.client.checkup.queues import (
    QUEUE_CHECKS,
    Surroundings,
    examine_census,
    examine_queue,
    examine_workers,
)
from rqueue.wire.keys import Keys

KEYS = Keys().queue("email")
MESSAGE = b'1 - 0 0 0 a {"task":"t","enqueued":%d}'


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def a_worker(call: Callable[..., Awaitable[Any]], lease_s: float = 60, **card: Any) -> None:
    """A worker of the queue, by what it has left in Redis."""
    said = {"queues": ["email"], "state": "running", "heartbeat": 5, "block": 4, "fetched": now_ms(), **card}
    await call(b"ZADD", KEYS.workers, now_ms() + round(lease_s * 1000), b"w")
    await call(b"SET", KEYS.card("w"), orjson.dumps(said), b"EX", 60)


async def a_job(call: Callable[..., Awaitable[Any]], name: str = "a", age_s: float = 0) -> None:
    raw = b'1 - 0 0 0 %b {"task":"t","enqueued":%d}' % (name.encode(), now_ms() - round(age_s * 1000))
    await call(b"LPUSH", KEYS.main, raw)
    await call(b"SADD", KEYS.jobs, name)


async def keyspace(call):
    await call(b"SET", KEYS.lists[3], b"x")
    return Level.PROBLEM, "it holds a string, and should be a list"


async def expiry(call):
    await call(b"HSET", KEYS.sent("p"), b"0", b"1 1")
    return Level.WARNING, r"1 key\(s\) are without an owner"


async def orphans(call):
    await call(b"SADD", b"rqueue:queues", b"email")
    await call(b"LPUSH", KEYS.processing("ghost"), MESSAGE % 0)
    return Level.PROBLEM, r"1 job\(s\) in the list of a worker that is not registered, and no worker serves the queue"


async def lost_workers(call):
    await a_worker(call, lease_s=-100, heartbeat=0.01)
    await call(b"LPUSH", KEYS.processing("w"), MESSAGE % 0)
    return Level.PROBLEM, r"its lease ran out 1\d\d s ago; it holds 1 job\(s\), and no worker serves the queue"


async def hung_workers(call):
    await a_worker(call, fetched=now_ms() - 60_000)
    return Level.WARNING, "it renews its lease, and has fetched nothing for"


async def clocks(call):
    await a_worker(call, clock=-40_000)
    return Level.WARNING, "its machine's clock is 40.0 s behind Redis's"


async def unserved(call):
    await call(b"SADD", b"rqueue:queues", b"email")
    await a_job(call)
    return Level.PROBLEM, r"1 job\(s\) wait, 0 are scheduled, 0 schedule\(s\) tick, and no live worker"


async def unknown_queues(call):
    await a_worker(call)
    await a_job(call)
    return Level.NOTE, "it is not in the list of queues"


async def paused(call):
    await a_worker(call)
    await a_job(call)
    await call(b"SADD", b"rqueue:queues", b"email")
    await call(b"ZADD", KEYS.stops, 0, b"queue")
    await call(b"HSET", b"rqueue:paused", b"queue:email", now_ms())
    return Level.WARNING, r"it is paused, and 1 job\(s\) wait"


async def waiting(call):
    await a_worker(call)
    await a_job(call, age_s=7200)
    await call(b"SADD", b"rqueue:queues", b"email")
    return Level.WARNING, "the next job was enqueued 2 h ago"


async def overdue(call):
    await a_worker(call)
    await call(b"ZADD", KEYS.scheduled, now_ms() - 11_000, b"a")
    await call(b"HSET", KEYS.messages, b"a", MESSAGE % 0)
    await call(b"SADD", b"rqueue:queues", b"email")
    return Level.PROBLEM, r"1 scheduled job\(s\) are late, the first \(a\) by \d\d s"


async def scheduled(call):
    await a_worker(call)
    await call(b"HSET", KEYS.messages, b"a", MESSAGE % 0)
    return Level.PROBLEM, r"1 scheduled job\(s\) have no time, and will never run: a"


async def lost_jobs(call):
    await call(b"SADD", KEYS.jobs, b"gone")
    return Level.WARNING, r"1 job\(s\) count as alive and are in no list: they are lost: gone"


async def dead_letters(call):
    await call(b"SADD", b"rqueue:queues", b"email")
    letter = b'{"id":"d","reason":"failed","task":"t","died":1,"retries":0,"losses":0}\n' + MESSAGE % 0
    await call(b"ZADD", KEYS.dead, now_ms(), b"d")
    await call(b"HSET", KEYS.letters, b"d", letter)
    return Level.NOTE, r"1 dead letter\(s\), 1 of the last hour; the newest: 1 of t: failed"


async def unreadable(call):
    await a_worker(call)
    await call(b"SADD", b"rqueue:queues", b"email")
    await call(b"LPUSH", KEYS.main, b"\xff\x00")
    return Level.WARNING, "1 of 1 messages cannot be read"


async def payloads(call):
    await a_worker(call)
    await call(b"SADD", b"rqueue:queues", b"email")
    await call(b"LPUSH", KEYS.main, b'{"task":"t","args":["' + b"x" * 100_000 + b'"]}')
    return Level.NOTE, "a message of 100,024 bytes"


async def locks(call):
    await call(b"HSET", KEYS.unique, b"lock", b"nobody 99")
    return Level.NOTE, r"1 lock\(s\) of jobs that have ended"


async def stops(call):
    await call(b"ZADD", KEYS.stops, 0, b"job:ended")
    return Level.NOTE, r"1 mark\(s\) of cancelled jobs that have ended: ended"


PLANTED = {
    function.__name__.replace("_", " "): function
    for function in (
        *(keyspace, expiry, orphans, lost_workers, hung_workers, clocks, unserved, unknown_queues, paused, waiting),
        *(overdue, scheduled, lost_jobs, dead_letters, unreadable, payloads, locks, stops),
    )
}


def test_each_check_has_its_fault():
    assert {*QUEUE_CHECKS, "hung workers"} <= {*PLANTED}
    assert {*PLANTED} <= {check.name for check in CHECKS}


@pytest.mark.parametrize("check", PLANTED)
async def test_a_planted_fault_is_found(check, call, checkup):
    """And nothing else is said: one fault is one finding."""
    level, text = await PLANTED[check](call)
    (finding,) = await checkup()
    assert (finding.check, finding.level) == (check, level)
    assert re.match(text, finding.text)
    assert finding.advice


async def test_nothing_is_found_where_nothing_is_wrong(call, checkup):
    assert await checkup() == []
    await a_worker(call)
    await a_job(call)
    await call(b"SADD", b"rqueue:queues", b"email")
    assert await checkup() == []


# What is told of what was seen


def told(check: str, look: Look, around: Surroundings | None = None) -> list[tuple[Level, str]]:
    found = examine_queue(look, around or Surroundings())
    return [(each.level, each.text) for each in found if each.check == check and each.level]


def test_what_is_fine_is_told_with_its_figures():
    seen = look(sample=[Seen(MESSAGE % 0)], largest=42, memory=1234)
    fine = {each.check: each.text for each in examine_queue(seen, Surroundings()) if not each.level}
    assert fine == {
        "unreadable": "1 message(s) looked at, all of version 1",
        "payloads": "about 1,234 bytes; the largest message that was looked at has 42",
    }


def look(**more: Any) -> Look:
    return Look(KEYS, 1_000_000_000, **more)


LIVE = Registered("w", 10.0, card={"queues": ["email"]})


def test_who_serves_a_queue():
    assert Registered("w", 1).serves("email")
    assert not Registered("w", 0).serves("email")
    assert not Registered("w", 1, card={"queues": ["other"]}).serves("email")
    assert Registered("w", 1, card={"queues": "odd"}).serves("email")


def test_scheduled_jobs_and_schedules_want_a_worker_too():
    ((level, _),) = told("unserved", look(counts={"periodic": 1}))
    assert level is Level.WARNING
    ((level, _),) = told("unserved", look(counts={"scheduled": 1, "overdue": 1}))
    assert level is Level.PROBLEM
    assert told("unserved", look(counts={"scheduled": 1}, workers=[LIVE])) == []
    assert told("unserved", look(counts={"scheduled": 1}, was_served=True)) == []


def test_a_lost_worker_beside_others_is_theirs_for_a_while():
    for ago_s, level in ((1, Level.NOTE), (19, Level.NOTE), (21, Level.WARNING)):
        lost = Registered("x", -ago_s, held=2)
        ((found, _),) = told("lost workers", look(workers=[LIVE, lost]))
        assert found is level
    slow = Registered("x", -21, card={"heartbeat": 10})
    assert told("lost workers", look(workers=[LIVE, slow]))[0][0] is Level.NOTE
    assert told("lost workers", look(workers=[Registered("x", -1)]))[0][0] is Level.WARNING


def test_an_old_job_that_moved_is_a_note():
    raw = MESSAGE % (1_000_000_000 - 7_200_000)
    ((level, _),) = told("waiting", look(workers=[LIVE], sample=[Seen(raw, is_next=True)]))
    assert level is Level.NOTE
    young = MESSAGE % (1_000_000_000 - 599_000)
    assert told("waiting", look(workers=[LIVE], sample=[Seen(young, is_next=True, is_still=True), Seen(raw)])) == []


def test_a_paused_task():
    from rqueue.broker.broker import Sizes

    sizes = Sizes((0,) * 11, 0, 0, 0, 0, {}, paused_tasks=("t",))
    assert told("paused", look(sizes=sizes)) == [(Level.NOTE, "the task t is paused")]
    ((level, text),) = told("paused", look(sizes=sizes, sample=[Seen(MESSAGE % 0)]))
    assert level is Level.WARNING
    assert text.endswith("1 of the jobs that were looked at are its")


@pytest.mark.parametrize(("what", "words"), [("all", "--all"), ("queue:email", "email"), ("task:a.b", "--task a.b")])
def test_a_pause_that_is_half_done(what: str, words: str):
    (finding,) = examine_queue(look(half_paused=frozenset({what})), Surroundings())
    assert (finding.check, finding.level) == ("paused", Level.WARNING)
    assert finding.advice == f"rqueue pause {words}, or rqueue resume {words}"


def test_a_schedule_that_does_not_tick():
    ((level, text),) = told("overdue", look(counts={"unticked": 2}, workers=[LIVE]))
    assert level is Level.PROBLEM
    assert text.startswith("2 periodic schedule(s) should have ticked")
    assert told("overdue", look(counts={"unticked": 2})) == []


def test_many_ids_are_compared_by_their_number():
    assert told("lost jobs", look(counts={"jobs": 3000, "scheduled": 2950})) == []
    ((level, text),) = told("lost jobs", look(counts={"jobs": 3000, "scheduled": 2000}))
    assert level is Level.WARNING
    assert text.startswith("about 1,000 more")


def test_what_half_is_missing_is_not_said_twice():
    assert told("lost jobs", look(adrift=frozenset("ab"), timeless=frozenset("a"), bodiless=frozenset("b"))) == []
    ((_, text),) = told("scheduled", look(bodiless=frozenset("b")))
    assert "have no message" in text
    ((_, text),) = told("scheduled", look(gap=-7))
    assert text.startswith("7 scheduled job(s) or more have no message")


def test_many_dead_letters():
    from rqueue.broker.broker import Sizes

    sizes = Sizes((0,) * 11, 0, 0, 90, 0, {})
    assert told("dead letters", look(sizes=sizes), Surroundings(dead_max=101))[0][0] is Level.NOTE
    assert told("dead letters", look(sizes=sizes), Surroundings(dead_max=100))[0][0] is Level.WARNING
    assert told("dead letters", look(sizes=sizes, counts={"died": 100}))[0][0] is Level.WARNING


def test_a_newer_message_and_a_task_of_nobody():
    newer = Seen(b'2 - 0 0 0 a extra {"task":"t"}')
    ((_, text),) = told("unreadable", look(sample=[newer]))
    assert text == "1 of 1 messages are of version 2 of the wire format"
    around = Surroundings(tasks={"tasks.known"})
    sample = [Seen(b'{"task":"known"}'), Seen(b'{"task":"tasks.known"}'), Seen(b'{"task":"strange"}')]
    assert told("unreadable", look(sample=sample), around) == [
        (Level.NOTE, "jobs of tasks that this app does not have: strange")
    ]
    assert told("unreadable", look(sample=sample)) == []


def test_a_queue_that_takes_much_of_the_memory():
    assert told("payloads", look(memory=25), Surroundings(maxmemory=100)) == []
    ((level, _),) = told("payloads", look(memory=26), Surroundings(maxmemory=100))
    assert level is Level.WARNING


def test_keys_of_another_program_and_names_are_cut_short():
    found = Found(unknown=[b"k%d" % number for number in range(7)])
    ((level, text),) = told("keyspace", look(found=found))
    assert level is Level.NOTE
    assert text == "7 key(s) that rqueue does not know: k0, k1, k2, k3, k4, …"


def test_a_worker_is_told_once_for_all_its_queues():
    card = {"state": "running", "fetched": 0, "heartbeat": 5, "block": 4}
    looks = [Look(Keys().queue(name), 100_000, workers=[Registered("w", 1, card=card)]) for name in ("a", "b")]
    assert [each.check for each in examine_workers(looks)] == ["hung workers"]
    for odd in ({"state": "standby"}, {"state": "stopping"}, {"fetched": 84_000}, {"fetched": None}, {"block": "x"}):
        assert examine_workers([Look(KEYS, 100_000, workers=[Registered("w", 1, card={**card, **odd})])]) == []
    fresh = Registered("w", 1, card={**card, "fetched": 100_000 - 17_000})
    assert examine_workers([Look(KEYS, 100_000, workers=[fresh])]) == []
    late = Registered("w", 1, card={**card, "fetched": 100_000 - 17_001})
    assert len(examine_workers([Look(KEYS, 100_000, workers=[late])])) == 1


def test_results_for_ever_and_a_walk_that_was_cut_short():
    (kept,) = examine_census(Census(records=10, kept=2, records_seen=30))
    assert (kept.check, kept.level) == ("expiry", Level.NOTE)
    assert kept.text.startswith("2 of 10 results are kept for ever (of 30")
    (part,) = examine_census(Census(walked=0.25))
    assert part.text.startswith("only 25% of the keys")
    assert examine_census(Census(records=5, records_seen=5)) == []
