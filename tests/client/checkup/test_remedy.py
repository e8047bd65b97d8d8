"""``--fix``: the whole stored state after it, and after doing it twice, or by two at once."""

import asyncio

import pytest

from rqueue.client.checkup.doctor import Doctor
from rqueue.client.checkup.finding import Finding, Level, Remedy
from rqueue.client.checkup.remedy import mend
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header
from rqueue.worker.reaper import for_operators

KEYS = Keys().queue("email")


def message(job_id: str, losses: int = 0, level: int = 0) -> bytes:
    return Header(level, losses, id=job_id).encode() + b'{"task":"t"}'


def remedy(kind: str, *names: str | bytes) -> Finding:
    return Finding("locks", Level.NOTE, "text", "email", "", Remedy(kind, "email", names))


@pytest.fixture
def fix(app):
    """Do it, with a real reaper; give back what was done about each."""

    async def run(*findings: Finding) -> list[Finding]:
        return await mend(app.session().broker, findings, for_operators(app, [KEYS]).reap)

    return run


async def plant(call):
    """One of each that can be fixed."""
    await call(
        b"LPUSH", KEYS.processing("ghost"), message("waited"), message("ran", losses=5), message("high", level=9)
    )
    await call(b"SADD", KEYS.started("ghost"), "ran")
    await call(b"LPUSH", KEYS.processing("lost"), message("b"), b"")
    await call(b"ZADD", KEYS.workers, 1, "lost")
    await call(b"SADD", KEYS.jobs, "waited", "ran", "high", "b")
    await call(b"HSET", KEYS.unique, "kept", "b", "left", "nobody")
    await call(b"HSET", KEYS.sent("p"), "0", "1 1")
    await call(b"SADD", KEYS.started("nobody"), "x")


FIXED = {
    "rqueue:queues": [b"email"],
    # The job that had started is charged, and goes back though it has cost six workers: whether that is too many,
    # workers say. Those of the worker that is reaped last are read first.
    "rqueue:{email}": [message("ran", losses=6), message("waited"), message("b")],
    "rqueue:{email}:p9": [message("high", level=9)],
    "rqueue:{email}:jobs": [b"b", b"high", b"ran", b"waited"],
    "rqueue:{email}:unique": [b"kept", b"b"],
    "~rqueue:{email}:processing:ghost": b"reaped",
    "~rqueue:{email}:processing:lost": b"reaped",
    "~rqueue:{email}:sent:p": [b"0", b"1 1"],
    "~rqueue:{email}:started:nobody": [b"x"],
}


async def fixed(app) -> list[Finding]:
    doctor = Doctor(app, heartbeat_s=0.01)
    findings = await doctor.examine()
    return [each for each in await doctor.fix(findings, for_operators(app, doctor.queues).reap) if each.remedy]


async def test_all_that_can_be_fixed(app, call, state):
    """From the checkup to the stored state; a second time there is nothing to do."""
    await plant(call)
    done = await fixed(app)
    assert sorted(each.check for each in done) == ["expiry", "locks", "lost workers", "orphans", "unknown queues"]
    assert all(each.fixed for each in done), done
    assert await state() == FIXED
    assert await fixed(app) == []
    assert await state() == FIXED


async def test_two_at_once(app, call, state):
    """Breaks when a message is moved by anything but a step that finds it."""
    await plant(call)
    await asyncio.gather(fixed(app), fixed(app))
    found = await state()
    assert sorted(found.pop("rqueue:{email}")) == sorted(FIXED["rqueue:{email}"])  # in whichever order
    assert found == {name: value for name, value in FIXED.items() if name != "rqueue:{email}"}


async def test_what_came_back_to_life_is_left_alone(call, fix, state):
    """Between the checkup and the fix a worker has renewed its lease, and a job was enqueued again."""
    await call(b"LPUSH", KEYS.processing("w"), message("a"))
    await call(b"ZADD", KEYS.workers, 10**15, "w")
    await call(b"HSET", KEYS.unique, "lock", "a")
    await call(b"SADD", KEYS.jobs, "a", "c")
    await call(b"ZADD", KEYS.stops, 0, "job:c")
    await call(b"SET", KEYS.counts, "x", "EX", 60)
    before = await state()
    done = await fix(remedy("reap", "w"), remedy("prune"), remedy("forget", "c"), remedy("expire", KEYS.counts))
    assert await state() == before
    assert [each.fixed for each in done] == ["pruned"]
    assert await call(b"TTL", KEYS.counts) <= 60


async def test_a_mark_is_forgotten_only_where_nothing_waits(call, fix, state):
    """The message of a cancelled job may be in a list; without its mark it would run."""
    await call(b"ZADD", KEYS.stops, 0, "job:a", 0, "job:other", 0, "task:t")
    await call(b"LPUSH", KEYS.lists[3], message("a", level=3))
    before = await state()
    assert await fix(remedy("forget", "a")) == []
    assert await state() == before
    await call(b"DEL", KEYS.lists[3])
    assert [each.fixed for each in await fix(remedy("forget", "a"))] == ["1 forgotten"]
    assert await state() == {"rqueue:{email}:stops": [b"job:other", b"0", b"task:t", b"0"]}


async def test_what_redis_refuses_is_said_and_the_rest_is_done(call, fix, state):
    await call(b"SET", KEYS.unique, "x")
    await call(b"HSET", KEYS.sent("p"), "0", "1 1")
    refused, done = await fix(remedy("prune"), remedy("expire", KEYS.sent("p")))
    assert "it could not be fixed" in refused.text
    assert not refused.fixed
    assert done.fixed == "1 will be gone in a day"


async def test_many_locks(call, fix, state):
    """More than are in one step."""
    await call(b"HSET", KEYS.unique, *(part for number in range(3000) for part in (f"l{number}", "nobody")))
    await fix(remedy("prune"))
    assert await state() == {}


async def test_nothing_is_done_about_what_has_no_remedy(fix, state):
    assert await fix(Finding("overdue", Level.PROBLEM, "late")) == []
    assert await state() == {}
