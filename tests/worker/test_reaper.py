"""reaper: one look at the dead; what the invariants ask of it is in tests/invariants/test_06."""

import asyncio

import pytest

from rqueue.broker.broker import Done
from rqueue.client.registry import Registry
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.results.entry import Entry
from rqueue.results.reader import Reader
from rqueue.results.row import replaces
from rqueue.wire.record import decode_record
from rqueue.worker.reaper import for_operators


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def test_nobody_is_dead(parts, broker, keys):
    worker = parts("default", "other")
    assert await worker.reaper.tick() == 0
    assert worker.reaper._seen == set()


async def test_a_dead_worker_without_jobs_is_taken_off(parts, ghost, broker, keys, stored):
    """All of its keys go, and the tombstone stands in its list's place, for a day."""
    worker, dead = parts(), await ghost(broker)
    await broker.renew([keys], dead.id, 60, b"{}")
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 0]
    assert await stored(broker) == {"~rqueue:{default}:processing:ghost": b"reaped"}
    assert await broker._link.call(b"TTL", keys.processing(dead.id)) > 86_000


async def test_a_job_that_had_been_acknowledged_early_fails_with_its_worker(
    parts, ghost, broker, keys, message, leaked
):
    """It runs at most once: nobody runs it again, and whoever waits is told."""
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"SADD", keys.jobs, "early")
    await worker.push(message("early"))
    (raw,) = await dead.claim()
    await dead.start("early")
    done = Done(raw, "early", b'{"state":"STARTED"}', "60")
    assert await broker.ack(keys, dead.id, 1, 1, [done]) == b"1"
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 0]
    (known,) = await broker.known([(keys, "early")])
    assert not known.is_alive
    assert decode_record(known.record)["error"]["type"] == "WorkerLost"
    assert await leaked(broker) == {}


async def test_workers_of_several_queues_are_told_apart(parts, ghost, broker, message, held_in):
    """The same id in two queues, dead in one of them."""
    worker = parts("a", "b")
    in_a, in_b = await ghost(broker, "g", "a"), await ghost(broker, "g", "b")
    for each in (in_a, in_b):
        await broker._link.call(b"LPUSH", each.keys.main, message("j"))
        await each.claim()
    await in_a.die()
    assert [await worker.reaper.tick() for _ in range(3)] == [0, 1, 0]
    assert await held_in(broker, in_b.keys, "g") == [message("j")]


async def test_what_cannot_be_read_goes_back_too(parts, ghost, broker, keys):
    """Whoever claims it next buries it."""
    worker, dead = parts(), await ghost(broker)
    blob = b"\xff\x00"
    await broker._link.call(b"LPUSH", keys.processing(dead.id), blob, b'1 9 0 0 0 x {"task":"t"}')
    await dead.start("x")
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 2]
    assert await broker._link.call(b"LRANGE", keys.main, 0, -1) == [blob]
    assert await broker._link.call(b"LRANGE", keys.lists[9], 0, -1) == [b'1 9 1 0 0 x {"task":"t"}']


async def test_a_token_in_a_dead_workers_list_is_dropped(parts, ghost, broker, keys, message):
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"LPUSH", keys.processing(dead.id), b"", message("a"), b"")
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 1]
    assert await broker._link.call(b"LRANGE", keys.main, 0, -1) == [message("a")]


@pytest.mark.parametrize(("ttl_s", "expected"), [(None, -1), (0.4, 1), (60, 60)])
async def test_worker_lost_is_kept_as_long_as_results_are(parts, ghost, broker, keys, message, ttl_s, expected):
    worker, dead = parts(app={"result_ttl": ttl_s}), await ghost(broker)
    await worker.push(message("a", losses=2))
    await dead.claim()
    await dead.start("a")
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    left_ms = await broker._link.call(b"PTTL", keys.result("a"))
    assert left_ms == -1 if expected == -1 else 0 < left_ms <= expected * 1000


async def test_the_dead_letter_of_a_lost_job_says_what_it_was(parts, ghost, broker, keys, message, letters):
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a", task="poison", losses=2))
    await dead.claim()
    await dead.start("a")
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    (letter,) = await letters(broker)
    assert (letter.id, letter.reason, letter.losses, letter.task) == ("a", "worker lost", 3, "poison")
    assert "ghost" in letter.failure.message


async def test_it_looks_at_each_heartbeat_and_goes_on_after_an_error(parts, broker, log):
    worker = parts(lease_s=0.03)
    real, calls = broker.overdue, []

    async def unlucky(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise BrokerUnavailable("away")
        return await real(*arguments)

    broker.overdue = unlucky
    running = asyncio.create_task(worker.reaper.run())
    await log.heard("reaping waits for redis")
    async with asyncio.timeout(5):
        while len(calls) < 4:
            await asyncio.sleep(0)
    assert not running.done()
    running.cancel()


@pytest.mark.parametrize(
    ("left_s", "pause_s"),
    [
        ([60.0], 5.0),
        ([4.0], 4.0),
        ([3.0, 3.5, 12.0], 3.5),
        ([4.5, 5.5], 5.5),
        ([0.2], 1.0),
        ([-1.0], 5.0),
        ([-1.0, 3.0], 5.0),
    ],
    ids=[
        "all alive",
        "one ends before the next heartbeat",
        "two end then",
        "a second one ends just after it",
        "one ends very soon",
        "one has ended",
        "one has ended, and was seen: a heartbeat must lie between the looks",
    ],
)
async def test_it_looks_when_leases_end_that_end_before_its_next_heartbeat(parts, broker, keys, left_s, pause_s):
    """A lost host's jobs are back a heartbeat sooner: its first look need not come up to a heartbeat after the end.

    Breaks when it always waits for a heartbeat; the last case when it looks again within one.
    """
    worker = parts(lease_s=15)
    for number, each in enumerate(left_s):
        assert await broker.register(keys, f"w{number}", 60)
        await broker._link.call(b"ZADD", keys.workers, broker.clock.now_ms() + int(each * 1000), f"w{number}")
    await worker.reaper.tick()
    assert worker.reaper.pause_s == pytest.approx(pause_s, abs=0.2)


async def test_two_workers_started_and_one_jobs_loss(parts, ghost, broker, keys, message, log):
    worker = parts()
    for name in ("one", "two"):
        dead = await ghost(broker, name)
        await worker.push(message(name))
        await dead.claim()
        await dead.start(name)
        await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 2]
    assert {(fields["worker"], fields["jobs"]) for fields in log.of("worker reaped")} == {("one", 1), ("two", 1)}


async def test_a_queue_whose_list_is_none_does_not_keep_the_others_from_being_taken_back(parts, broker, message):
    worker = parts("default", "other")
    default, other = (broker.keys.queue(name) for name in ("default", "other"))
    for keys in (default, other):
        assert await broker.register(keys, "dead", 60)
        await broker._link.call(b"LPUSH", keys.processing("dead"), message("a"))
    await broker._link.call(b"SET", default.main, "somebody's")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await worker.reaper.take_back("dead")
    assert await broker._link.call(b"LRANGE", other.main, 0, -1) == [message("a")]
    await broker._link.call(b"DEL", default.main)
    assert await worker.reaper.take_back("dead") == 1


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_forgotten_locks_go_a_page_in_a_look(parts, broker, keys):
    """However many there are, a look is short; those of living jobs stay."""
    worker = parts()
    await broker._link.call(b"SADD", keys.jobs, "j7")
    await broker._link.call(b"HSET", keys.unique, *(word for n in range(3000) for word in (f"l{n}", f"j{n}")))
    worker.reaper._looks = 11
    left = []
    while not left or worker.reaper._pruned[keys.name]:
        await worker.reaper.tick()
        left.append(await broker._link.call(b"HLEN", keys.unique))
    assert 1000 < left[0] < 3000
    assert len(left) > 2
    assert await broker._link.call(b"HGETALL", keys.unique) == [b"l7", b"j7"]
    await worker.reaper.tick()
    assert worker.reaper._pruned == {keys.name: 0}, "not again before the next minute"


async def test_a_cancelled_job_is_not_charged_and_no_dead_letter(parts, ghost, broker, keys, message, letters):
    """It ends as REVOKED, however many workers it has cost. Breaks when its third loss buries it."""
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a", losses=2))
    await dead.claim()
    await dead.start("a")
    await broker._link.call(b"SADD", keys.jobs, "a")
    await broker._link.call(b"ZADD", keys.stops, 0, b"job:a")
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 1]
    assert await broker._link.call(b"LRANGE", keys.lists[10], 0, -1) == [message("a", losses=2)]
    assert await letters(broker) == []


async def test_a_cancelled_job_that_had_been_acknowledged_early_is_revoked(parts, ghost, broker, keys, message, leaked):
    """Nobody runs it again. Breaks when its end is WorkerLost, or its stop stays."""
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"SADD", keys.jobs, "early")
    await worker.push(message("early"))
    (raw,) = await dead.claim()
    await dead.start("early")
    assert await broker.ack(keys, dead.id, 1, 1, [Done(raw, "early", b'{"state":"STARTED"}', "60")]) == b"1"
    assert await broker.cancel(keys, Done(b"", "early", b'{"state":"REVOKED"}', "60"), [dead.id]) == (2, dead.id)
    await dead.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 0]
    (known,) = await broker.known([(keys, "early")])
    assert decode_record(known.record)["state"] == "REVOKED"
    assert await leaked(broker) == {}


async def test_stops_of_nobody_are_forgotten_once_a_minute(parts, broker, keys, leaked):
    """Who had set them died. Breaks when the keys grow for ever, or a running job's stop goes."""
    worker = parts()
    await broker._link.call(b"ZADD", keys.stops, 0, b"job:a", 0, b"job:b", 0, b"queue")
    await broker._link.call(b"SADD", keys.jobs, b"b")
    for _ in range(12):
        await worker.reaper.tick()
    assert set(await broker._link.call(b"ZRANGE", keys.stops, 0, -1)) == {b"job:b", b"queue"}


async def test_an_operators_reaper_buries_nobody(ghost, app, broker, keys, message, letters):
    """How many workers a job may cost, it does not know. Breaks when a fleet's own limit is another one."""
    dead = await ghost(broker)
    await broker._link.call(b"LPUSH", keys.main, message("a", losses=7))
    await dead.claim()
    await dead.start("a")
    await dead.die()
    reaper = for_operators(app, [keys])
    assert await reaper.reap([(keys, dead.id)]) == 1
    assert await broker._link.call(b"LRANGE", keys.main, 0, -1) == [message("a", losses=8)]
    assert await letters(broker) == []


async def test_an_operators_reaper_leaves_the_living_alone(ghost, app, broker, keys, message, held_in):
    alive = await ghost(broker)
    await broker._link.call(b"LPUSH", keys.main, message("a"))
    await alive.claim()
    assert await for_operators(app, [keys]).reap([(keys, alive.id)]) == 0
    assert await held_in(broker, keys, alive.id) == [message("a")]


async def test_a_node_that_is_away_keeps_no_other_queues_jobs_of_a_dead_process(
    parts, broker, ghost, message, monkeypatch
):
    """Of a cluster. Breaks when the first queue that cannot be asked ends it: the others' wait for the lease's end."""
    worker = parts("away", "there")
    dead = {queue: await ghost(broker, queue=queue) for queue in ("away", "there")}
    for each in dead.values():
        await broker._link.call(b"LPUSH", each.keys.processing(each.id), message("j"))
    monkeypatch.setattr(type(broker), "is_cluster", True)
    condemn = broker.condemn

    async def unlucky(keys, name):
        if keys.name == "away":
            raise BrokerUnavailable("away")
        return await condemn(keys, name)

    broker.condemn = unlucky
    with pytest.raises(BrokerUnavailable):
        await worker.reaper.take_back("ghost")
    assert await broker.length(dead["there"].keys, 0) == 1
    assert await broker.length(dead["away"].keys, 0) == 0
    broker.condemn = condemn
    assert await worker.reaper.take_back("ghost") == 1


# What waits for a result store


@pytest.fixture
async def store_known(broker, keys):
    """A worker with a result store serves the queue."""
    await broker.spool(keys, [], 10_000)


async def waiting_for_the_store(broker, keys):
    return [Entry.decode(data) for data in await broker._link.call(b"LRANGE", keys.spool, 0, -1)]


async def test_how_a_lost_job_ended_waits_for_the_store(parts, ghost, broker, keys, message, store_known):
    """Breaks when a poison pill has no row."""
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"SADD", keys.jobs, "pill")
    await worker.push(message("pill", losses=2))
    (raw,) = await dead.claim()
    await dead.start("pill")
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    (entry,) = await waiting_for_the_store(broker, keys)
    assert (entry.id, entry.message) == ("pill", raw)
    assert decode_record(entry.record)["error"]["type"] == "WorkerLost"


async def test_a_frozen_worker_does_not_say_otherwise_of_an_early_job(parts, ghost, broker, keys, message, store_known):
    """It goes on, and writes its row. Breaks when history says SUCCESS of what has failed for everybody else."""
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"SADD", keys.jobs, "early")
    await worker.push(message("early", retries=2))
    (raw,) = await dead.claim()
    await dead.start("early")
    about = b'"task":"t","retries":2,"enqueued":5,"started":6'
    await broker.ack(keys, dead.id, 1, 1, [Done(raw, "early", b'{"state":"STARTED",%b}' % about, "60")])
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    reader = Reader(Registry().shown, None, 100, lambda: 9)
    (entry,) = await waiting_for_the_store(broker, keys)
    failed = reader.row(keys, entry)
    late = reader.row(keys, Entry("early", b'{"state":"SUCCESS",%b}' % about, raw))
    assert None not in (failed, late)
    assert (failed.enqueued, failed.started) == (late.enqueued, late.started)
    assert not replaces(late, failed)
    assert replaces(failed, late)


async def test_what_is_known_of_an_early_job_waits_for_the_store(parts, ghost, broker, keys, message, store_known):
    """Its message is gone; its record has said what it is since it started. Breaks when its row is another job's."""
    worker, dead = parts(), await ghost(broker)
    await broker._link.call(b"SADD", keys.jobs, "early")
    await worker.push(message("early"))
    (raw,) = await dead.claim()
    await dead.start("early")
    told = b'{"state":"STARTED","task":"t","worker":"ghost","enqueued":5,"started":6,"parent_id":"p"}'
    await broker.ack(keys, dead.id, 1, 1, [Done(raw, "early", told, "60")])
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    (entry,) = await waiting_for_the_store(broker, keys)
    fields = decode_record(entry.record)
    assert (fields["state"], fields["task"], fields["enqueued"], fields["started"]) == ("FAILURE", "t", 5, 6)
    assert (fields["parent_id"], fields["error"]["type"]) == ("p", "WorkerLost")
