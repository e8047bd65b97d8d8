"""One look at a queue: what is read, how much of it, and what two looks have in common."""

from dataclasses import replace

import pytest

from rqueue.client.checkup.census import Found
from rqueue.client.checkup.look import COUNTED, SAMPLE, Look, Registered, Seen, look_at
from rqueue.errors import BrokerError
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header

KEYS = Keys().queue("email")


def message(job_id: str | None, level: int = 0, pad: int = 0) -> bytes:
    return Header(level, id=job_id).encode() + b'{"task":"t","args":["%b"]}' % (b"x" * pad)


@pytest.fixture
def look(app):
    async def at(**found):
        return await look_at(app.session().broker, KEYS, Found(**found))

    return at


async def test_a_job_is_in_a_list_wherever_it_is(look, call):
    """Breaks when a place is forgotten in which a job is alive: each such job would be told as lost."""
    await call(b"LPUSH", KEYS.main, message("main"), b"", message(None))
    await call(b"LPUSH", KEYS.lists[7], message("p7", 7))
    await call(b"ZADD", KEYS.scheduled, 1, "later")
    await call(b"HSET", KEYS.messages, "later", message("later"))
    await call(b"LPUSH", KEYS.processing("w"), message("held"))
    await call(b"LPUSH", KEYS.processing("ghost"), message("orphan"))
    await call(b"SADD", KEYS.started("w"), "early")
    await call(b"ZADD", KEYS.workers, 10**15, "w")
    await call(b"SADD", KEYS.jobs, "main", "p7", "later", "held", "orphan", "early", "lost")
    seen = await look(holders={"ghost", "w"}, starters={"w"})
    assert seen.adrift == {"lost"}
    assert seen.orphans == {"ghost": 1}
    assert seen.unmarked == []
    assert [(worker.id, worker.held) for worker in seen.workers] == [("w", 1)]
    assert (seen.waiting, seen.sizes.scheduled, seen.sizes.running) == (3, 1, 1)


async def test_too_many_jobs_are_not_all_read(look, call):
    await call(b"LPUSH", KEYS.main, *(message(f"{number}") for number in range(COUNTED + 1)))
    await call(b"SADD", KEYS.jobs, "lost")
    seen = await look()
    assert seen.adrift is None
    assert len(seen.sample) <= 2 * SAMPLE + 1


async def test_of_large_messages_few_are_read(redis_url):
    """Breaks when a sample is counted in messages only: 25 megabytes would hold Redis for long."""
    from rqueue import RQueue

    async with RQueue(redis_url) as app:
        broker = app.session().broker
        for number in range(30):
            await broker._link.call(b"LPUSH", KEYS.main, message(f"{number}", pad=300_000))
        seen = await look_at(broker, KEYS, Found())
    assert len(seen.sample) == 2
    assert seen.largest > 300_000
    assert seen.memory is not None
    assert seen.memory > 9_000_000


async def test_where_redis_does_not_say_how_large_they_are_few_are_read(redis_url, monkeypatch):
    """An ACL may forbid MEMORY: then each message may have a megabyte."""
    from rqueue import RQueue

    async with RQueue(redis_url) as app:
        broker = app.session().broker
        await broker._link.call(b"LPUSH", KEYS.main, *(message(f"{number}") for number in range(40)))
        await broker._link.call(b"SADD", KEYS.jobs, "lost")
        assert (await look_at(broker, KEYS, Found())).adrift == {"lost"}

        async def refuse(*_: object) -> int:
            raise BrokerError("this user has no permissions")

        monkeypatch.setattr(type(broker), "memory", refuse)
        seen = await look_at(broker, KEYS, Found())
    assert (seen.memory, seen.adrift, len(seen.sample)) == (None, None, 6)


async def test_the_next_job_is_the_one_before_the_tokens(look, call):
    await call(b"RPUSH", KEYS.main, message("b"), message("a"), b"", b"", b"")
    await call(b"ZADD", KEYS.stops, 0, "queue")
    assert [each.raw for each in (await look()).sample if each.is_next] == [message("a")]


async def test_who_left_is_no_orphan(look, call):
    """What the walk has met is asked for again: a tombstone, a registered worker and nothing at all."""
    await call(b"SET", KEYS.processing("left"), "left")
    await call(b"LPUSH", KEYS.processing("there"), message("a"))
    await call(b"ZADD", KEYS.workers, 10**15, "there")
    await call(b"SADD", KEYS.started("marked"), "x")
    seen = await look(holders={"left", "there", "gone"}, starters={"marked", "gone"})
    assert seen.orphans == {}
    assert seen.unmarked == ["marked"]


async def test_what_cannot_be_read_is_part_of_the_sample(look, call):
    await call(b"LPUSH", KEYS.main, b"\xff", b'{"task":1}')
    await call(b"SET", KEYS.card("w"), b"not json")
    await call(b"ZADD", KEYS.workers, 10**15, "w")
    await call(b"ZADD", KEYS.dead, 1, "d")
    await call(b"HSET", KEYS.letters, "d", b"no letter")
    seen = await look()
    assert [each.call for each in seen.sample] == [None, None]
    assert seen.workers[0].card == {}
    assert [letter.reason for letter in seen.letters] == ["unreadable letter"]


async def test_where_a_key_is_none_of_ours_nothing_more_is_read(look, call):
    await call(b"SET", KEYS.main, "x")
    seen = await look()
    assert seen.misplaced == [(KEYS.main, "string", "list")]
    assert seen.counts == {}


@pytest.mark.parametrize(
    ("stops", "declared", "workers", "half"),
    [
        (["queue"], ["queue:email"], 1, set()),
        (["all", "task:t"], ["all", "task:t", "queue:other"], 1, set()),
        (["queue"], [], 1, {"queue:email"}),
        (["queue"], [], 0, {"queue:email"}),
        ([], ["queue:email", "all"], 1, {"queue:email", "all"}),
        ([], ["queue:email", "all"], 0, set()),  # the first worker that comes completes it
    ],
)
async def test_a_half_pause(look, call, stops, declared, workers, half):
    for stop in stops:
        await call(b"ZADD", KEYS.stops, 0, stop)
    for each in declared:
        await call(b"HSET", b"rqueue:paused", each, 1)
    if workers:
        await call(b"ZADD", KEYS.workers, 10**15, "w")
    assert (await look()).half_paused == half


# What two looks have in common


def test_only_what_was_there_both_times_is_left():
    """Each doubt by itself. Breaks when one look is enough to condemn a worker, or to call a job lost."""
    job = message("a")
    doubts = {
        "misplaced": [(b"k", "string", "list")],
        "orphans": {"g": 1},
        "unmarked": ["m"],
        "half_paused": frozenset({"all"}),
        "stale_stops": ["s"],
        "first_due": ("a", 11_000),
        "timeless": frozenset("t"),
        "bodiless": frozenset("b"),
        "adrift": frozenset("d"),
        "locks": {"l": "j"},
        "gap": 3,
    }
    sick, well = Look(KEYS, 1, **doubts), Look(KEYS, 1, adrift=frozenset())
    for name, value in doubts.items():
        assert getattr(sick.since(sick), name) == value
        assert not getattr(sick.since(well), name)
        assert not getattr(well.since(sick), name)
    assert replace(sick, first_due=("b", 1)).since(sick).first_due is None
    assert replace(sick, gap=-1).since(sick).gap == 0
    assert replace(sick, adrift=None).since(sick).adrift is None
    moving, still = Look(KEYS, 1, sample=[Seen(b"x", is_next=True)]), Look(KEYS, 1, sample=[Seen(job, is_next=True)])
    assert [each.is_still for each in still.since(moving).sample] == [False]
    assert [each.is_still for each in still.since(still).sample] == [True]


def test_a_worker_is_lost_only_if_it_was_lost_before():
    lost, alive, nobody = (
        Look(KEYS, 1, workers=workers) for workers in ([Registered("w", -1)], [Registered("w", 1)], [])
    )
    assert [each.lease_s for each in lost.since(lost).workers] == [-1]
    assert [each.lease_s > 0 for each in lost.since(alive).workers] == [True]
    assert [each.lease_s > 0 for each in lost.since(nobody).workers] == [True]
    assert not lost.since(lost).is_served
    assert lost.since(alive).is_served
    assert alive.since(lost).is_served
