"""The broker beside its verbs: what it tells of a queue, of ids and of workers; and that nothing leaks."""

import pytest

from rqueue.broker.broker import Broker, Known, Sizes
from rqueue.broker.claim import fingerprint
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.enqueue import ANNOUNCE_EVERY_S
from rqueue.errors import BrokerError
from rqueue.wire.keys import Keys

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)

EMPTY = (0,) * 11


# Opening and closing


# Queues


async def test_announced_queues_are_known(broker, other, dump):
    """Every queue that was used is found, and again a minute after a flush. Breaks when each use is a round trip, or
    only the first ever is announced.
    """
    for name in ("reports", "email", "email"):
        await broker.announce(name)
    assert await other.queues() == ["email", "reports"]
    assert await dump() == {"rqueue:queues": {"email", "reports"}}
    await broker._link.call("FLUSHALL")
    await broker.announce("email")
    assert await other.queues() == []
    broker._announced["email"] -= ANNOUNCE_EVERY_S  # a second later
    await broker.announce("email")
    assert await other.queues() == ["email"]


async def test_an_announcement_that_failed_is_made_again(broker, keys, raw, seed):
    """Breaks when a queue is taken for announced before Redis has confirmed it."""
    await seed({"rqueue:queues": b"somebody's string"})
    for _ in range(2):
        with pytest.raises(Exception, match="WRONGTYPE"):
            await broker.announce("email")
    await raw("DEL", broker.keys.queues)
    await broker.announce("email")
    assert await broker.queues() == ["email"]


# Sizes


async def test_sizes_of_a_queue(broker, keys, seed, message):
    """Breaks when a list is left out, or another queue is counted."""
    await seed(
        {
            "main": [message("a"), message("b")],
            "p1": [message("c", 1)],
            "p10": [message("d", 10), message("e", 10), message("f", 10)],
            "scheduled": {"s": "future"},
            "processing:w": [message("g"), message("h")],
            "processing:v": [message("i")],
            "processing:gone": ("ttl", b"reaped"),
            "workers": {"w": "future", "v": "past", "idle": "future"},
            "dead": {"x": "past", "y": "past"},
            "counts": ("ttl", {"SUCCESS": b"7", "FAILURE": b"1"}),
            "reports/main": [message("z")],
        }
    )
    assert await broker.sizes(keys) == Sizes(
        waiting=(2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3),
        scheduled=1,
        running=3,
        dead=2,
        workers=3,
        counts={"SUCCESS": 7, "FAILURE": 1},
    )


async def test_sizes_of_an_empty_queue(broker, keys, dump):
    """Breaks when what is not there is an error, or looking writes."""
    assert await broker.sizes(keys) == Sizes(EMPTY, 0, 0, 0, 0, {})
    assert await dump() == {}


@pytest.mark.parametrize("main", [[b""], [b"a", b""], [b"b", b"a", b""]])
async def test_sizes_do_not_see_a_token(broker, keys, seed, main):
    """Counts do not see tokens. Breaks when a token in the main list or in a processing list counts as a job."""
    await seed({"main": main, "processing:w": [b"", b"x"], "processing:v": [b""], "workers": {"w": 1, "v": 2}})
    sizes = await broker.sizes(keys)
    assert (sizes.waiting[0], sizes.running) == (len(main) - 1, 1)


async def test_sizes_do_not_see_a_token_behind_what_came_back(broker, keys, seed, message):
    """Counts do not see tokens. Breaks when the token is looked for at the end from which lists are read only: what is
    released or reaped is put there, in front of it.
    """
    await seed({"p5": [message("a", 5)], "main": [b""], "processing:w": [message("b")], "workers": {"w": "future"}})
    assert await broker.release(keys, "w", [(message("b"), "b", 0)]) == 1
    assert (await broker.sizes(keys)).waiting == (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)


async def test_sizes_when_a_worker_goes_while_they_are_looked_at(broker, keys, seed):
    """Looking never fails. Breaks when a worker that was read a round trip ago has left a tombstone by now (stored
    here at once).
    """
    await seed({"workers": {"w": "future"}, "processing:w": ("ttl", b"left")})
    assert (await broker.sizes(keys)).running == 0


# Ids


async def test_what_is_known_of_an_id_in_each_place(broker, keys, reports, seed):
    """An id alone finds its job. Breaks when a place is left out, or the replies are counted wrong."""
    await seed(
        {
            "jobs": {"waiting", "scheduled", "running", "retrying"},
            "scheduled": {"scheduled": "future", "retrying": "future"},
            "result:running": ("ttl", b"started"),
            "result:retrying": ("ttl", b"retry"),
            "result:settled": b"success",
            "result:dead": ("ttl", b"failure"),
            "dead": {"dead": "past", "forgotten": "past"},
            "dead:letters": {"dead": b"letter", "forgotten": b"letter"},
            "reports/jobs": {"elsewhere"},
        }
    )
    expected = {
        "waiting": Known(None, True, False, False),
        "scheduled": Known(None, True, True, False),
        "running": Known(b"started", True, False, False),
        "retrying": Known(b"retry", True, True, False),
        "settled": Known(b"success", False, False, False),
        "dead": Known(b"failure", False, False, True),
        "forgotten": Known(None, False, False, True),
        "elsewhere": Known(None, False, False, False),
        "never": Known(None, False, False, False),
    }
    assert await broker.known([(keys, name) for name in expected]) == list(expected.values())
    assert await broker.known([(keys, "elsewhere"), (reports, "elsewhere")]) == [
        Known(None, False, False, False),
        Known(None, True, False, False),
    ]
    assert await broker.known([]) == []


@pytest.mark.parametrize("key", ["jobs", "scheduled", "result:broken", "dead:letters"])
async def test_an_id_that_redis_refuses_to_look_at_fails_alone(broker, keys, reports, raw, seed, key):
    """Breaks when a key of another type is an error for all who ask in the same round trip, or shifts their replies."""
    await seed({"reports/jobs": {"alive"}, "reports/result:ended": b"success"})
    await raw("LPUSH" if key != "scheduled" else "SET", f"rqueue:{{email}}:{key}", "somebody's")
    first, refused, last = await broker.known([(reports, "alive"), (keys, "broken"), (reports, "ended")])
    assert first == Known(None, True, False, False)
    assert isinstance(refused, BrokerError)
    assert "WRONGTYPE" in str(refused)
    assert last == Known(b"success", False, False, False)


@on_redis
async def test_all_ids_are_asked_for_in_one_round_trip(broker, keys, raw):
    """A lookup by id alone asks all known queues in one round trip. Breaks when each is waited for."""
    queues = [broker.keys.queue(f"q{number}") for number in range(50)]
    await raw("CONFIG", "RESETSTAT")
    await broker.known([(queue, "a") for queue in queues])
    stats = bytes(await raw("INFO", "stats")).decode()
    reads = int(stats.partition("total_reads_processed:")[2].split()[0])
    assert reads <= 5


# Dead letters


async def test_dead_letters_the_newest_first(broker, keys, seed):
    """Breaks when pages overlap, turn around, or a letter without content is an error."""
    await seed({"dead": {"a": 1, "b": 2, "c": 3, "ghost": 4}, "dead:letters": {"a": b"A", "b": b"B", "c": b"C"}})
    assert await broker.dead(keys, 10) == [b"C", b"B", b"A"]
    assert await broker.dead(keys, 2, 1) == [b"C", b"B"]
    assert await broker.dead(keys, 2, 3) == [b"A"]
    assert await broker.dead(keys, 2, 4) == []
    assert await broker.letter(keys, "b") == b"B"
    assert await broker.letter(keys, "ghost") is None


# Workers


async def test_workers_with_their_leases_and_cards(broker, keys, seed, raw):
    """Breaks when a lease is told in other units, or a card under another worker."""
    assert await broker.workers(keys) == []
    await seed({"workers": {"w": "future", "v": "past"}, "worker:w": ("ttl", b"card")})
    (v, v_left, v_card), (w, w_left, w_card) = await broker.workers(keys)
    assert (v, v_card, w, w_card) == ("v", None, "w", b"card")
    assert -70 < v_left < -50 < 50 < w_left < 70


async def test_a_held_message_is_read_by_its_place(broker, keys, seed):
    """The audit reads what it does not know. Breaks when tokens are left out, so that the places are others."""
    await seed({"processing:w": [b"", b"b", b"a"]})
    assert [await broker.held_at(keys, "w", index) for index in range(4)] == [b"", b"b", b"a", None]
    assert await broker.held_at(keys, "v", 0) is None


async def test_a_worker_that_was_reaped_holds_nothing(broker, keys, seed):
    """The audit of a late worker. Breaks when its list's tombstone is an error."""
    await seed({"processing:w": ("ttl", b"reaped")})
    assert await broker.audit(keys, "w") == []
    assert await broker.held_at(keys, "w", 0) is None


async def test_overdue_are_those_whose_lease_ran_out(broker, keys, seed):
    """Every claim has an owner, or is looked at. Breaks when a worker that is alive is named."""
    await seed({"workers": {"late": "past", "alive": "future", "later": 1}})
    assert set(await broker.overdue(keys)) == {"late", "later"}


async def test_overdue_is_told_on_redis_clock(broker, keys, seed):
    """Time is Redis's. Breaks when this machine's clock condemns a worker, or saves one."""
    await seed({"workers": {"w": "past"}})
    broker.clock.observe(1)
    assert set(await broker.overdue(keys)) == set()
    await broker.open()
    assert set(await broker.overdue(keys)) == {"w"}


async def test_what_remains_of_a_worker(broker, keys, seed):
    """Breaks when the limit cuts the wrong end, a token is a message, or the started are another worker's."""
    await seed({"processing:w": [b"", b"c", b"b", b"a"], "started:w": {"a", "b"}, "started:v": {"x"}})
    assert await broker.remains(keys, "w", 100) == ([b"c", b"b", b"a"], {"a", "b"})
    assert await broker.remains(keys, "w", 3) == ([b"c", b"b"], {"a", "b"})
    assert await broker.remains(keys, "nobody", 3) == ([], set())


async def find_orphans(broker, queues):
    found, cursor = set(), 0
    while True:
        cursor, step = await broker.orphans(queues, cursor)
        found |= {(queue.name, worker) for queue, worker in step}
        if cursor == 0:
            return found


async def test_orphans_are_lists_whose_worker_is_not_registered(broker, keys, reports, seed, message):
    """Every claim has an owner, or is looked at by every reap round. Breaks when a list is not found, one of a living
    worker or another queue is named, or a tombstone is taken for a list.
    """
    rest = {f"result:r{number}": b"x" for number in range(1_200)}  # more than one step
    await seed(
        {
            **rest,
            "processing:orphan:1:a": [message("a")],
            "processing:alive": [message("b")],
            "processing:late": [message("c")],
            "processing:gone": ("ttl", b"reaped"),
            "workers": {"alive": "future", "late": "past"},
            "reports/processing:alive": [message("d")],
            "else/processing:orphan": [message("e")],
        }
    )
    assert await find_orphans(broker, [keys]) == {("email", "orphan:1:a")}
    assert await find_orphans(broker, [keys, reports]) == {("email", "orphan:1:a"), ("reports", "alive")}
    assert await find_orphans(broker, []) == set()


async def test_a_namespace_may_hold_what_a_pattern_would_take_for_its_own(url):
    """Breaks when the namespace is not escaped in the search."""
    broker = Broker(Endpoint(url), Keys("a*[b]?\\"))
    await broker.open()
    keys = broker.keys.queue("email")
    await broker._link.call("LPUSH", keys.processing("w"), "x")
    await broker._link.call("LPUSH", Keys("aXb]c\\").queue("email").processing("v"), "x")
    assert await find_orphans(broker, [keys]) == {("email", "w")}
    await broker.close()


# The server


# Nothing leaks


async def test_nothing_leaks(broker, keys, raw, dump, job, done, message):
    """When nothing is queued or running, every key but `rqueue:queues` has a TTL. Breaks when a verb leaves something
    behind, or makes a key that nothing ends.
    """
    await broker.announce("email")
    await broker.enqueue(keys, "p", 0, 1, [job(f"j{number}", number % 11) for number in range(22)])
    await broker.enqueue(keys, "p", 0, 2, [job("later", due="1"), job("custom", custom=True)])
    await raw("LPUSH", keys.main, '{"task":"plain"}')
    await broker.promote(keys)
    assert await broker.register(keys, "w", 30)
    await broker.renew([keys], "w", 30, b"card")
    taken = (await broker.claim([keys], [5], "w", 30, 100, 1_000_000)).messages
    assert len(taken) == 25
    raws = [each.raw for each in taken]
    raws[raws.index(b'{"task":"plain"}')] = message("plain")
    await broker.adopt(keys, "w", [(b'{"task":"plain"}', message("plain"), "plain")])
    ids = {raw: raw.split()[5].decode() for raw in raws}
    await broker.start(keys, "w", list(ids.values()))
    released, retried, tracked = raws[:3]
    await broker.release(keys, "w", [(released, ids[released], 0)])
    await broker.retry(keys, "w", 1, 1, retried, ids[retried], retried, 0)
    await broker.track(keys, "w", ids[tracked], tracked, b'{"state":"STARTED"}', 60)
    finished = [done(ids[raw], raw=raw, ttl="60" if number % 2 else "0") for number, raw in enumerate(raws[2:])]
    assert await broker.ack(keys, "w", 0, 1, finished) == b"1" * 23
    await broker.block(keys, "w", 0.01)
    await broker.promote(keys)
    await broker.claim([keys], [5], "w", 30, 100, 1_000_000)
    assert sorted(await broker.audit(keys, "w")) == sorted(fingerprint(raw) for raw in (released, retried))
    held = [released, retried]
    await broker.start(keys, "w", [ids[raw] for raw in held])
    assert await broker.ack(keys, "w", 0, 2, [done(ids[raw], raw=raw) for raw in held]) == b"11"
    assert await broker.claim([keys], [5], "w", 30, 100, 1_000_000)
    assert await broker.leave(keys, "w")
    stored = await dump()
    assert {name for name, value in stored.items() if not isinstance(value, tuple)} == {"rqueue:queues"}
    names = {name.partition(":")[0] for name in stored}
    assert names == {"rqueue", "sent", "counts", "result", "processing"}


# An ACL without channels


@on_redis
@pytest.mark.parametrize("verb", ["ack", "bury", "retry", "record", "track"])
async def test_an_acl_may_forbid_channels(new_broker, broker, server, keys, raw, seed, dump, message, done, verb):
    """The result is there, and waiters find it when they look. Breaks when a refused PUBLISH ends a step half-way: the
    job would be in no list, and its batch neither answered nor remembered.
    """
    name = f"quiet-{verb}"
    await raw("ACL", "SETUSER", name, "reset", "on", ">pw", "~*", "+@all", "resetchannels")
    try:
        quiet = await new_broker(server.url.replace("redis://", f"redis://{name}:pw@"))
        with pytest.raises(BrokerError, match="permission"):
            await quiet._link.call("PUBLISH", keys.result("a"), "x")
        # All of it, in the same state, by one who may publish and by one who may not.
        stored = []
        for each in (broker, quiet):
            await raw("FLUSHALL")
            await seed({"processing:w": [message("b"), message("a")], "started:w": {"a", "b"}, "jobs": {"a", "b"}})
            await seed({"workers": {"w": "future"}})
            answers = [await settle(each, keys, message, done, verb) for _ in range(2)]
            assert answers[0] == answers[1]
            stored.append((answers, await dump()))
        assert stored[0] == stored[1]
        assert "result:a" in stored[1][1]
    finally:
        await raw("ACL", "DELUSER", name)


async def settle(broker, keys, message, done, verb):
    letter = b'{"id":"a"}\nraw'
    match verb:
        case "ack":
            return await broker.ack(keys, "w", 0, 1, [done("a"), done("b")])
        case "bury":
            return await broker.bury(keys, "w", 0, 1, done("a", "FAILURE"), letter, 100, 86_400)
        case "retry":
            record = b'{"state":"RETRY"}'
            return await broker.retry(keys, "w", 0, 1, message("a"), "a", message("a", retries=1), 60, record, 60)
        case "record":
            return await broker.record(keys, "a", done("a").record, "60", letter, 100, 86_400, worker="w")
        case _:
            return await broker.track(keys, "w", "a", message("a"), b'{"state":"STARTED"}', 60)


# For operators


async def test_the_next_scheduled_jobs(broker, raw):
    keys = broker.keys.queue("email")
    await raw("ZADD", keys.scheduled, 3000, "c", 1000, "a", 2000, "b")
    assert await broker.scheduled(keys, 2) == [("a", 1000), ("b", 2000)]
    assert await broker.scheduled(broker.keys.queue("none"), 2) == []
