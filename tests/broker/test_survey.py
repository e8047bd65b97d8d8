"""A checkup's reads: pages, samples and lengths, whatever somebody has put there."""

import pytest

from rqueue.broker.survey import FORGOTTEN_S, PAGE
from rqueue.errors import BrokerError, BrokerUnavailable


async def test_what_info_says(redis_url, new_broker):
    broker = await new_broker(redis_url)
    info = await broker.info()
    assert {"redis_version", "used_memory", "aof_enabled", "role", "connected_clients"} <= info.keys()
    with pytest.raises(BrokerError, match="cluster support disabled"):
        await broker.cluster_info()


async def test_the_servers_time(broker):
    before = broker.clock.now_ms()
    assert before - 1000 < await broker.time_ms() < before + 60_000


async def test_what_fails_for_another_reason_is_not_refused(broker, raw):
    await raw("SET", "s", "x")
    assert await broker.refused((b"LPUSH", b"s", b"x")) is None
    assert await broker.refused((b"PING",)) is None


async def test_a_walk_meets_each_key_of_the_namespace_and_no_other(broker, raw):
    names = [b"rqueue:{q}:result:%d" % number for number in range(3 * PAGE)]
    await raw("MSET", *(part for name in [*names, b"other:1"] for part in (name, "x")))
    met, cursor, steps = [], 0, 0
    while True:
        cursor, page = await broker.keys_step(cursor)
        met += page
        steps += 1
        if not cursor:
            break
    assert sorted({*met}) == sorted(names)
    assert steps > 1
    assert await broker.database_size() == len(names) + 1


async def test_kinds_and_ttls(broker, raw):
    await raw("SET", "a", "x", "EX", 60)
    await raw("LPUSH", "b", "x")
    assert await broker.kinds([b"a", b"b", b"c"]) == ["string", "list", "none"]
    assert await broker.without_ttl([b"a", b"b", b"c"]) == [b"b"]
    assert await broker.kinds([]) == await broker.without_ttl([]) == []


async def test_only_what_has_no_ttl_gets_one(broker, raw):
    """Breaks when a key's own TTL is replaced: a producer's memory, or a pause of a throttle, would last for a day."""
    await raw("SET", "a", "x", "EX", 60)
    await raw("SET", "b", "x")
    assert await broker.expire_forgotten([b"a", b"b", b"gone"]) == 1
    assert await raw("TTL", "a") <= 60
    assert FORGOTTEN_S - 60 < await raw("TTL", "b") <= FORGOTTEN_S
    assert await broker.expire_forgotten([b"a", b"b", b"gone"]) == 0


async def test_memory(redis_url, new_broker, keys):
    broker = await new_broker(redis_url)
    await broker._link.call(b"LPUSH", keys.main, b"x" * 10_000)
    assert 10_000 <= await broker.memory([keys.main, b"none"]) < 30_000
    memory = await new_broker("memory://")
    with pytest.raises(BrokerError):
        await memory.memory([keys.main])


async def test_misplaced(broker, keys, raw):
    assert await broker.misplaced(keys) == []
    await raw("SET", keys.main, "x")
    await raw("LPUSH", keys.jobs, "x")
    await raw("ZADD", keys.scheduled, 1, "x")
    assert await broker.misplaced(keys) == [(keys.main, "string", "list"), (keys.jobs, "list", "set")]


async def test_queue_names_that_are_none_are_told_too(broker, raw):
    await raw("SADD", broker.keys.queues, "email", "a b", b"\xff")
    assert await broker.queue_names() == ["a b", "email", "\udcff"]


async def test_stops(broker, keys, raw):
    await raw("ZADD", keys.stops, 0, "queue", 0, "task:a", 0, "job:1", 0, "job:2")
    assert await broker.stops(keys) == (["queue", "task:a"], ["1", "2"])


async def test_counts(broker, keys, raw):
    await raw("SADD", keys.jobs, "a", "b")
    await raw("ZADD", keys.scheduled, 10, "a", 40, "b", 100, "c")
    await raw("HSET", keys.messages, "a", "x")
    await raw("ZADD", keys.dead, 40, "d", 60, "e")
    await raw("HSET", keys.letters, "d", "x")
    await raw("ZADD", keys.periodic, -59_900, "p", -59_899, "q")
    await raw("HSET", keys.unique, "l", "a")
    assert await broker.counted(keys, now_ms=100, overdue_ms=60, recent_ms=50) == {
        "jobs": 2,
        "scheduled": 3,
        "messages": 1,
        "overdue": 2,
        "periodic": 2,
        "unticked": 1,
        "dead": 2,
        "letters": 1,
        "died": 1,
        "locks": 1,
    }


async def test_what_a_worker_holds(broker, keys, raw):
    await raw("LPUSH", keys.processing("w"), "x", "y")
    await raw("SET", keys.processing("t"), "reaped")
    assert await broker.held(keys, "w") == ("list", 2)
    assert await broker.held(keys, "t") == ("string", 0)
    assert await broker.held(keys, "n") == ("none", 0)
    await raw("ZADD", keys.workers, 1, "w", 1, b"\xff")
    assert await broker.registered(keys, ["w", "t", "\udcff"]) == {"w", "\udcff"}
    assert await broker.registered(keys, []) == set()
    await raw("SADD", keys.started("w"), "a", b"\xff")
    assert await broker.marks(keys, "w") == {"a", "\udcff"}
    await raw("SET", keys.started("s"), "x")
    assert await broker.marks(keys, "s") == set()


async def test_ids(broker, keys, raw):
    many = [f"id{number}" for number in range(2 * PAGE)]
    await raw("SADD", keys.jobs, *many)
    assert await broker.job_ids(keys, 10 * PAGE) == {*many}
    assert PAGE <= len(await broker.job_ids(keys, PAGE)) <= 2 * PAGE
    assert await broker.alive(keys, ["id1", "no"]) == {"id1"}
    assert await broker.alive(keys, []) == set()


async def test_locks_without_a_living_job(broker, keys, raw):
    await raw("SADD", keys.jobs, "a")
    await raw("HSET", keys.unique, "held", "a 99", "left", "b", "late", "c 99")
    assert await broker.dead_locks(keys, 100) == {"left": "b", "late": "c"}


async def test_scheduled_jobs_of_which_half_is_missing(broker, keys, raw):
    await raw("ZADD", keys.scheduled, 1, "whole", 1, "timed")
    await raw("HSET", keys.messages, "whole", "x", "told", "x")
    assert await broker.half_scheduled(keys, 100) == ({"timed"}, {"told"})


async def test_a_large_message_is_measured_and_not_read(broker, keys, raw):
    assert await broker.sampled_scheduled(keys, 10, 100) == (0, [])
    await raw("HSET", keys.messages, "large", "x" * 101, "small", "y" * 100)
    assert await broker.sampled_scheduled(keys, 10, 100) == (101, [b"y" * 100])
    await raw("ZADD", keys.dead, 1, "old", 2, "large", 3, "new", 4, "none")
    await raw("HSET", keys.letters, "old", "o", "large", "x" * 101, "new", "n")
    assert await broker.newest_letters(keys, 3, 100) == [b"n"]
    assert await broker.newest_letters(keys, 4, 100) == [b"n", b"o"]


async def test_a_server_that_is_gone(new_server, new_broker, keys):
    server = new_server()
    broker = await new_broker(server.url)
    server.stop()
    for verb in (broker.info(), broker.keys_step(0), broker.misplaced(keys), broker.queue_names()):
        with pytest.raises(BrokerUnavailable):
            await verb
