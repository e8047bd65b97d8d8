"""settler: the only service that writes how jobs ended; batches, lanes, lost replies, and one bad item alone."""

import asyncio

import orjson
import pytest

from rqueue.broker.broker import ReplyLost
from rqueue.client.registry import Registry
from rqueue.errors import BrokerError, BrokerForbidden, BrokerUnavailable
from rqueue.wire.message import Call, Header, Message
from rqueue.wire.record import Failure
from rqueue.worker.inflight import ClaimedJob, Phase
from rqueue.worker.outcome import Ack, Bury, Defer, Release, Track, Unknown
from rqueue.worker.perform import prepare
from rqueue.worker.settler import BATCH_JOBS, LANES

SUCCESS = b'{"state":"SUCCESS","result":1}'


@pytest.fixture
async def worker(parts, broker):
    """A registered worker's parts, with nothing running."""
    worker = parts(concurrency=1000)
    assert await broker.register(worker.keys, worker.lease.worker, 60)
    return worker


@pytest.fixture
def running(worker, message):
    """Jobs that were claimed and run."""

    async def start(count, **header):
        await worker.push(*(message(f"j{number}", **header) for number in range(count)))
        claim = await worker.broker.claim(worker.queues, [5], worker.lease.worker, 60, count, 10**9)
        await worker.fetcher._accept([(worker.keys, each.level, each.raw) for each in claim.messages])
        return [worker.take() for _ in range(count)]

    return start


def ended(worker, jobs, settlement):
    for job in jobs:
        worker.inflight.end(job, settlement)


async def test_what_gathers_leaves_together(worker, running, broker, held_in):
    jobs = await running(150)
    ended(worker, jobs, Ack(SUCCESS, "60"))
    assert worker.settler.tick() == 1
    await worker.settler.drained()
    assert len(worker.inflight) == 0
    assert {job.phase for job in jobs} == {Phase.GONE}
    assert await held_in(broker, worker.keys, worker.lease.worker) == []
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": 150}
    assert (worker.settler.lost, worker.settler.dropped) == (0, 0)


async def test_a_batch_is_bounded_and_so_are_the_lanes(worker, running, broker):
    jobs = await running(BATCH_JOBS * (LANES + 1))
    ended(worker, jobs, Ack(SUCCESS, "60"))
    assert worker.settler.tick() == LANES
    assert worker.settler.tick() == 0, "no lane is free"
    await worker.settler.drained()
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": len(jobs)}


async def test_a_batch_is_bounded_in_bytes(worker, running):
    jobs = await running(4)
    ended(worker, jobs, Ack(b'{"state":"SUCCESS","result":"%s"}' % (b"x" * 600_000), "60"))
    assert worker.settler.tick() == 4
    await worker.settler.drained()
    assert len(worker.inflight) == 0


async def test_a_lane_after_its_batch_takes_the_next(worker, running):
    for _ in range(LANES * 3):
        jobs = await running(2)
        ended(worker, jobs, Ack(SUCCESS, "60"))
        assert worker.settler.tick() == 1
        await worker.settler.drained()
    assert worker.settler.lost == 0


async def test_each_kind_of_settlement(worker, running, broker, stored, letters, held_in):
    """Acks that stand together go together; anything else goes alone, in its turn."""
    a, b, c, d, e = await running(5)
    keys = worker.keys
    worker.inflight.end(a, Ack(SUCCESS, "60"))
    worker.inflight.end(b, Bury(b'{"state":"FAILURE"}', "60", b'{"id":"j1","reason":"failed"}\n' + b.message.raw))
    worker.inflight.end(c, Defer(c.message.changed(retries=1), 60, b'{"state":"RETRY"}'))
    worker.inflight.end(d, Release())
    told = worker.inflight.note(e, Track(b'{"state":"STARTED"}'))
    while worker.settler._tasks or worker.inflight.outbox or worker.settler._waiting:
        worker.settler.tick()
        await worker.settler.drained()
    assert await told is True
    assert await held_in(broker, keys, worker.lease.worker) == [e.message.raw]
    records = [await broker._link.call(b"GET", keys.result(f"j{number}")) for number in range(5)]
    assert records == [SUCCESS, b'{"state":"FAILURE"}', b'{"state":"RETRY"}', None, b'{"state":"STARTED"}']
    assert await broker._link.call(b"HGET", keys.messages, "j2") == c.message.changed(retries=1).raw
    assert await broker._link.call(b"LRANGE", keys.main, 0, -1) == [b"", d.message.raw], "and the token of the retry"
    assert [letter.id for letter in await letters(broker)] == ["j1"]
    assert [job.phase for job in (a, b, c, d, e)] == [Phase.GONE] * 4 + [Phase.RUNNING]


@pytest.mark.parametrize("error", [ReplyLost("lost"), BrokerUnavailable("away")])
@pytest.mark.parametrize("done_first", [True, False], ids=["it was done", "it was not done"])
async def test_without_a_reply_it_is_sent_again_and_counts_once(worker, running, broker, error, done_first, log):
    """Under its number: the second sending gets the first answer. The jobs stay claimed until Redis has answered."""
    jobs = await running(10)
    real, calls = broker.ack, []

    async def unlucky(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            return await real(*arguments)
        if done_first:
            await real(*arguments)
        assert len(worker.inflight) == 10
        raise error

    broker.ack = unlucky
    ended(worker, jobs, Ack(SUCCESS, "60"))
    await worker.settler.drained()
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2], "the same lane and number, the same jobs"
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": 10}
    assert worker.settler.lost == 0
    assert len(log.of("settling waits for redis")) == 2


async def test_a_user_that_may_not_for_a_while_fails_no_job(worker, running, broker, log, letters):
    """An ACL that was changed says nothing of the jobs: they wait, and have ended as they did.

    Breaks when NOPERM counts as a refusal of the job: what has succeeded would be a dead letter.
    """
    jobs = await running(3)
    real, calls = broker.ack, []

    async def forbidden(*arguments):
        calls.append(arguments)
        if len(calls) <= 2:
            raise BrokerForbidden("User work has no permissions to run the 'evalsha' command")
        return await real(*arguments)

    broker.ack = forbidden
    ended(worker, jobs, Ack(SUCCESS, "60"))
    await worker.settler.drained()
    assert calls[0] == calls[1] == calls[2], "the same lane and number, the same jobs"
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": 3}
    assert await letters(broker) == []
    assert log.loud() == []


async def test_one_bad_item_fails_alone(worker, running, broker, log, letters):
    """The batch is halved until it is found; what Redis said is its error."""
    jobs = await running(33)
    real, sizes = broker.ack, []

    async def refuse(keys, name, lane, number, done):
        sizes.append(len(done))
        if any(each.id == "j20" for each in done):
            raise BrokerError("not this one")
        return await real(keys, name, lane, number, done)

    broker.ack = refuse
    ended(worker, jobs, Ack(SUCCESS, "60"))
    await worker.settler.drained()
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": 32, "FAILURE": 1}
    (letter,) = await letters(broker)
    assert letter.id == "j20"
    assert "not this one" in letter.failure.message
    assert len(worker.inflight) == 0
    assert max(sizes) == 33


@pytest.mark.parametrize("kind", ["bury", "defer", "release", "track", "ack"])
async def test_what_redis_refuses_is_about_that_job_alone(worker, running, broker, kind, log, until, monkeypatch):
    """The others are settled; what can be no failure either stays claimed until somebody has mended Redis."""
    monkeypatch.setattr("rqueue.worker.settler._REFUSED_PAUSE_S", 0.01)
    bad, good = await running(2)
    bad.seen["error"] = "ValueError: what the task raised"

    async def broken(*arguments, **more):
        raise BrokerError("refused")

    settlements = {
        "bury": Bury(b'{"state":"FAILURE"}', "60", b"{}\n"),
        "defer": Defer(bad.message.changed(retries=1), 60),
        "release": Release(),
        "track": Track(b'{"state":"STARTED"}'),
        "ack": Ack(SUCCESS, "60"),
    }
    verb = {"defer": "retry"}.get(kind, kind)
    real = getattr(broker, verb)
    setattr(broker, verb, broken)
    told = None
    if kind == "track":
        told = worker.inflight.note(bad, settlements[kind])
    else:
        worker.inflight.end(bad, settlements[kind])
    worker.settler.tick()
    await log.heard("redis refused to settle", id="j0")
    if kind in ("bury", "release"):
        await log.heard("redis refused to settle", 2, id="j0")
        assert bad.phase is Phase.SETTLING
    setattr(broker, verb, real)
    worker.inflight.end(good, Ack(SUCCESS, "60"))
    await asyncio.wait_for(worker.settler.drained(), 5)
    assert good.phase is Phase.GONE
    assert bad.phase is (Phase.RUNNING if kind == "track" else Phase.GONE)
    assert told is None or await asyncio.wait_for(told, 1) is False
    assert worker.settler.lost == 0


async def test_a_claim_that_was_lost_is_said_and_counted(worker, running, broker, log):
    jobs = await running(3)
    await broker._link.call(b"LREM", worker.keys.processing(worker.lease.worker), 1, jobs[1].message.raw)
    ended(worker, jobs, Ack(SUCCESS, "60"))
    await worker.settler.drained()
    assert worker.settler.lost == 1
    assert [fields["id"] for fields in log.of("claim lost")] == ["j1"]
    assert len(log.of("job done")) == 2
    assert await broker._link.call(b"EXISTS", worker.keys.result("j1")) == 0


async def test_an_unregistered_worker_settles_nothing(worker, running, broker, log, stored):
    jobs = await running(3)
    await broker._link.call(b"ZREM", worker.keys.workers, worker.lease.worker)
    before = await stored(broker)
    ended(worker, jobs[:1], Ack(SUCCESS, "60"))
    ended(worker, jobs[1:2], Defer(jobs[1].message, 1))
    ended(worker, jobs[2:], Bury(b'{"state":"FAILURE"}', "60", b"{}\n"))
    await worker.settler.drained()
    assert worker.settler.lost == 3
    assert len(worker.inflight) == 0
    assert await stored(broker) == before


async def test_a_note_about_a_lost_claim_says_no(worker, running, broker):
    (job,) = await running(1)
    await broker._link.call(b"DEL", worker.keys.processing(worker.lease.worker))
    told = worker.inflight.note(job, Track(b'{"state":"STARTED"}'))
    early = worker.inflight.note(job, Ack(b'{"state":"STARTED"}', "60"))
    await worker.settler.drained()
    assert (await told, await early) == (False, False)


async def test_drained_returns_at_once_when_there_is_nothing(worker):
    await asyncio.wait_for(worker.settler.drained(), 1)


async def test_old_and_new_id_have_lanes_of_their_own(worker, running, broker):
    """After a lost lease, what ran under the old id is settled under the old id."""
    (old,) = await running(1)
    worker.lease.renumber()
    assert await broker.register(worker.keys, worker.lease.worker, 60)
    (new,) = await running(1)
    ended(worker, [old, new], Ack(SUCCESS, "60"))
    assert worker.settler.tick() == 2
    await worker.settler.drained()
    assert (await broker.sizes(worker.keys)).counts == {"SUCCESS": 2}


async def test_dead_letters_are_bounded(parts, broker, message, letters):
    worker = parts(app={"dead_max": 3})
    assert await broker.register(worker.keys, worker.lease.worker, 60)
    for number in range(6):
        await worker.push(message(f"j{number}"))
        await worker.fetcher._claim(1)
        job = worker.take()
        worker.inflight.end(job, worker.judge.failed(job, Failure("E", "x"), "failed"))
        await worker.settler.drained()
    for task in worker.fetcher._blocks.values():
        task.cancel()
    assert sorted(letter.id for letter in await letters(broker)) == ["j3", "j4", "j5"]


def test_the_limits():
    assert (LANES, BATCH_JOBS) == (4, 200)


async def test_why_a_job_waits_is_told_for_as_long_as_it_waits(worker, running, broker):
    (job,) = await running(1)
    ended(worker, [job], Defer(job.message.changed(retries=1), 7 * 86_400, b'{"state":"RETRY"}'))
    await worker.settler.drained()
    assert await broker._link.call(b"TTL", worker.keys.result("j0")) > 7 * 86_400


# Transfer


def moving(to="other", token="t0k3n", **header):
    body = b'{"task":"t","args":[1],"x-mine":1,"history":[[5,"E: x"]],"move":{"queue":"%s","token":"%s"}}'
    return Header(3, retries=1, id="j", **header).encode() + body % (to.encode(), token.encode())


MOVED = b'1 3 0 1 0 j {"task":"t","args":[1],"x-mine":1,"history":[[5,"E: x"]]}'


@pytest.fixture
def transferring(worker, broker):
    """A job that goes on in another queue was claimed, and is to be settled so."""

    async def start(raw=None):
        raw = raw or moving()
        await worker.push(raw, level=3)
        await broker._link.call(b"SADD", worker.keys.jobs, "j")
        claim = await broker.claim(worker.queues, [5], worker.lease.worker, 60, 1, 10**9)
        await worker.fetcher._accept([(worker.keys, each.level, each.raw) for each in claim.messages])
        job = worker.take()
        prepared = prepare(job, Registry(), 0)
        worker.inflight.end(job, worker.judge.decide(job, prepared))
        return job

    return start


async def waiting_in(broker, queue):
    return [raw for name in broker.keys.queue(queue).lists for raw in await broker._link.call(b"LRANGE", name, 0, -1)]


async def test_a_job_that_moves_is_in_the_other_queue_and_no_longer_here(worker, transferring, broker, stored, log):
    """With its id, priority, retries and history, and what nobody here knows; its task need not be known here."""
    await transferring(moving(since=7, losses=1))
    await worker.settler.drained()
    found = await stored(broker)
    record = orjson.loads(found.pop("~rqueue:{default}:result:j"))
    assert (record["state"], record["moved"], record["history"]) == ("RETRY", "other", [[5, "E: x"]])
    assert record["error"] == {"type": "E", "message": "x"}
    del found["rqueue:{default}:workers"], found[f"~rqueue:{{default}}:settled:{worker.lease.worker}"]
    assert found == {
        "rqueue:queues": {b"other"},
        "rqueue:{other}": [b""],
        "rqueue:{other}:p3": [MOVED.replace(b"1 3 0", b"1 3 1")],
        "rqueue:{other}:jobs": {b"j"},
        "~rqueue:{other}:sent:t0k3n": {b"0": b"1 1"},
    }
    assert log.of("job moved", id="j")
    assert worker.settler.ended == {}


@pytest.mark.parametrize("verb", ["enqueue", "move"])
@pytest.mark.parametrize("done_first", [True, False], ids=["it was done", "it was not done"])
async def test_a_move_whose_reply_is_lost_is_one_move(worker, transferring, broker, stored, verb, done_first):
    """Also when the job has run and ended in the other queue by then. Breaks when the enqueue there is a new one."""
    real, calls = getattr(broker, verb), []

    async def unlucky(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            return await real(*arguments)
        if done_first:
            await real(*arguments)
            await broker._link.call(b"DEL", *broker.keys.queue("other").lists, broker.keys.queue("other").jobs)
        raise ReplyLost("lost")

    setattr(broker, verb, unlucky)
    await transferring()
    await worker.settler.drained()
    assert len(calls) == 2
    there = [raw for raw in await waiting_in(broker, "other") if raw]
    assert there == ([] if done_first else [MOVED])
    assert b"j" not in (await stored(broker)).get("rqueue:{default}:jobs", set())


async def test_a_job_whose_other_queue_is_away_waits_here_and_holds_up_nobody(worker, transferring, broker, stored):
    """Its node is away, or nobody there confirms what is stored. Breaks when it keeps its lane until that ends: a few
    such jobs, and nothing of this queue is settled. It goes on under its token: it may be there already.
    """

    async def away(*_):
        raise BrokerUnavailable("away")

    real, broker.enqueue = broker.enqueue, away
    job = await transferring()
    async with asyncio.timeout(10):
        await worker.settler.drained()
    found = await stored(broker)
    assert found[worker.keys.messages.decode()] == {b"j": job.message.raw}
    assert b"t0k3n" in job.message.raw
    assert found["rqueue:{default}:jobs"] == {b"j"}
    broker.enqueue = real


async def test_a_move_that_another_worker_repeats_is_one_move(worker, transferring, broker, held_in, log):
    """The first died, or stood still, between the two steps."""
    real = broker.move

    async def dies(*_):
        raise asyncio.CancelledError

    broker.move = dies
    job = await transferring()
    worker.settler.tick()
    await asyncio.wait(worker.settler._tasks)
    broker.move = real
    assert await waiting_in(broker, "other") == [b"", MOVED]
    assert await held_in(broker, worker.keys, worker.lease.worker) == [job.message.raw], "nowhere is it lost"
    await broker._link.call(b"DEL", worker.keys.processing(worker.lease.worker))  # reaped, and claimed again
    await transferring(moving(losses=1))
    await worker.settler.drained()
    assert await waiting_in(broker, "other") == [b"", MOVED]
    assert await broker._link.call(b"EXISTS", worker.keys.jobs, worker.keys.scheduled) == 0
    assert len(log.of("job moved")) == 1


async def test_while_its_id_is_alive_there_a_job_waits_here(worker, transferring, broker, stored, log):
    """Another job of that id, or this one on its way back before it was let go. Breaks when it is dropped as a
    duplicate, or when it asks again in the old words and hears the old answer for ever.
    """
    other = broker.keys.queue("other")
    await broker._link.call(b"SADD", other.jobs, "j")
    await transferring()
    await worker.settler.drained()
    assert await waiting_in(broker, "other") == []
    again = Message.parse(await broker._link.call(b"HGET", worker.keys.messages, "j"))
    assert again.header == Header(3, retries=1, id="j")
    assert Call.decode(again.body).move.token != "t0k3n"
    assert b"j" in (await stored(broker))["rqueue:{default}:jobs"]
    assert len(log.of("job waits to move, its id is alive there")) == 1
    assert log.of("job moved") == []
    await broker._link.call(b"DEL", other.jobs, worker.keys.scheduled, worker.keys.messages)
    await transferring(again.raw)
    await worker.settler.drained()
    assert await waiting_in(broker, "other") == [b"", MOVED]


async def test_a_job_that_is_cancelled_while_it_moves_is_cancelled_there(worker, transferring, broker, stored):
    """Its stop is here, and it is there already. Breaks when it is let go all the same: it would run there."""
    await broker._link.call(b"ZADD", worker.keys.stops, 0, "job:j")
    await transferring()
    await worker.settler.drained()
    found = await stored(broker)
    assert orjson.loads(found["~rqueue:{other}:result:j"])["state"] == "REVOKED"
    assert orjson.loads(found["~rqueue:{default}:result:j"])["moved"] == "other"
    assert [name for name in found if name.endswith((":jobs", ":stops", ":p3")) or ":processing" in name] == []


@pytest.mark.parametrize("verb", ["cancel", "move"])
async def test_a_reply_that_is_lost_while_a_cancelled_job_moves(worker, transferring, broker, stored, verb):
    real, calls = getattr(broker, verb), []

    async def unlucky(*arguments, **more):
        calls.append(more)
        answer = await real(*arguments, **more)
        if len(calls) == (1 if verb == "cancel" else 2):
            raise ReplyLost("lost")
        return answer

    setattr(broker, verb, unlucky)
    await broker._link.call(b"ZADD", worker.keys.stops, 0, "job:j")
    await transferring()
    await worker.settler.drained()
    found = await stored(broker)
    assert orjson.loads(found["~rqueue:{other}:result:j"])["state"] == "REVOKED"
    assert [name for name in found if name.endswith((":jobs", ":stops", ":p3")) or ":processing" in name] == []


async def test_a_cancelled_job_whose_id_is_alive_there_ends_here(worker, transferring, broker, stored, log):
    """Breaks when it waits for the other one: each second it would be claimed, and put off again."""
    await broker._link.call(b"SADD", broker.keys.queue("other").jobs, "j")
    await broker._link.call(b"ZADD", worker.keys.stops, 0, "job:j")
    await transferring()
    await worker.settler.drained()
    found = await stored(broker)
    assert orjson.loads(found["~rqueue:{default}:result:j"])["state"] == "REVOKED"
    assert [name for name in found if "{default}" in name and name.endswith((":jobs", ":stops", ":scheduled"))] == []
    assert found["rqueue:{other}:jobs"] == {b"j"}
    assert log.of("job revoked", id="j")


async def test_what_the_other_queue_refuses_stays_here_and_is_tried_again(worker, transferring, broker, log):
    """A full Redis, or no list in the list's place. Breaks when the job fails over it, or holds a lane until then."""
    await broker._link.call(b"SET", broker.keys.queue("other").lists[3], "no list")
    job = await transferring()
    await worker.settler.drained()
    assert await broker._link.call(b"HGET", worker.keys.messages, "j") == job.message.raw
    assert log.of("redis refused to settle", id="j")


async def test_a_job_that_is_where_it_should_go_runs(worker, message):
    """Breaks when it is enqueued as a duplicate of itself, and let go."""
    raw = Message.parse(moving("default"))
    job = ClaimedJob(worker.keys, "w", raw, "j", 5)
    assert prepare(job, Registry(), 0) == Unknown("t")
