"""fetcher: claims what there is room for, waits at the server when there is nothing, and finds what was lost on the
way.

What the invariants ask of it is in tests/invariants/test_02, 07 and 11.
"""

import asyncio

import pytest

from rqueue import Queue, RQueue
from rqueue.broker.broker import ReplyLost
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable
from rqueue.worker.fetcher import AUDIT_BEATS, register
from rqueue.worker.inflight import Phase
from rqueue.worker.outcome import Ack


@pytest.fixture
async def worker(parts, broker):
    """A registered worker's parts; its waits at the server end with the test."""
    made = []

    async def build(*queues, **config):
        worker = parts(*queues, **config)
        for keys in worker.queues:
            assert await broker.register(keys, worker.lease.worker, 60)
        worker.lease.renewed(1e12)
        made.append(worker)
        return worker

    yield build
    for worker in made:
        await worker.fetcher._end_blocks()


def held(worker):
    return sorted(job.id for job in worker.inflight.of(Phase.HELD))


async def test_it_claims_as_much_as_there_is_room_for(worker, message):
    worker = await worker(concurrency=3)
    await worker.push(*(message(f"j{number}") for number in range(10)))
    await worker.fetcher.tick()
    assert held(worker) == ["j0", "j1", "j2"]
    assert worker.fetcher._blocks == {}


async def test_a_claim_that_found_less_is_followed_by_a_wait_at_each_queue(worker, message):
    worker = await worker("a", "b", concurrency=3)
    await worker.push(message("j"))
    await worker.fetcher.tick()
    assert held(worker) == ["j"]
    assert [keys.name for keys in worker.fetcher._blocks] == [keys.name for keys in worker.queues]


async def test_what_a_wait_brings_is_taken_in(worker, message):
    worker = await worker(concurrency=3, block_s=2)
    await worker.fetcher.tick()
    await worker.push(message("j"))
    async with asyncio.timeout(5):
        while held(worker) != ["j"]:
            await worker.fetcher.tick()


async def test_a_wait_is_always_preceded_and_followed_by_a_claim(worker, broker, message):
    """Also one that timed out: a token is a hint, and a lost hint costs one block."""
    order, claim, block = [], broker.claim, broker.block

    async def claiming(*arguments):
        order.append("claim")
        return await claim(*arguments)

    def blocking(*arguments):
        order.append("block")
        return block(*arguments)

    broker.claim, broker.block = claiming, blocking
    worker = await worker(concurrency=1, block_s=0.05)
    async with asyncio.timeout(5):
        while order.count("block") < 4:
            await worker.fetcher.tick()
    assert order[:7] == ["claim", "block"] * 3 + ["claim"]


async def test_a_slot_that_came_free_is_followed_by_a_claim_before_a_wait(worker, broker, message):
    """What came into a priority's list meanwhile left its token long ago."""
    order, claim, block = [], broker.claim, broker.block

    async def claiming(*arguments):
        order.append("claim")
        return await claim(*arguments)

    def blocking(*arguments):
        order.append("block")
        return block(*arguments)

    worker = await worker(concurrency=1, block_s=2)
    await worker.fetcher.tick()
    await worker.push(message("j"))
    async with asyncio.timeout(4):
        while held(worker) != ["j"] or worker.fetcher._blocks:
            await worker.fetcher.tick()
    job = worker.take()
    worker.fetcher._is_more = False
    broker.claim, broker.block = claiming, blocking
    worker.inflight.end(job, Ack(b'{"state":"SUCCESS"}', "60"))
    async with asyncio.timeout(4):
        while "block" not in order:
            await worker.fetcher.tick()
    assert order == ["claim", "block"]


async def test_an_idle_worker_says_so(worker):
    worker = await worker(concurrency=1, block_s=0.05)
    idle = worker.inflight.signals.idle
    assert not idle.is_set()
    async with asyncio.timeout(5):
        while not idle.is_set():
            await worker.fetcher.tick()


async def test_a_poke_makes_it_look_at_once(worker, message):
    """In a priority's list, without a token: nobody would have been woken."""
    worker = await worker(concurrency=2, block_s=4)
    await worker.fetcher.tick()
    waiting = asyncio.create_task(worker.fetcher.tick())
    await asyncio.sleep(0)
    await worker.push(message("j", level=4), level=4)
    worker.fetcher.poke()
    await waiting
    async with asyncio.timeout(2):
        while held(worker) != ["j"]:
            await worker.fetcher.tick()


async def test_the_waits_end_when_every_slot_is_taken(worker, message):
    """So that another worker gets what comes next."""
    worker = await worker("a", "b", concurrency=1, block_s=4)
    await worker.fetcher.tick()
    await worker.push(message("j"))
    async with asyncio.timeout(2):
        while held(worker) != ["j"]:
            await worker.fetcher.tick()
        while worker.fetcher._blocks:
            await worker.fetcher.tick()


async def test_what_arrived_beyond_the_slots_goes_back_uncharged(worker, broker, message):
    worker = await worker("a", "b", concurrency=1, prefetch_multiplier=1, block_s=4)
    await worker.fetcher.tick()
    for keys in worker.queues:
        await broker._link.call(b"LPUSH", keys.main, message(keys.name))
    async with asyncio.timeout(4):
        while not held(worker) or worker.fetcher._blocks:
            await worker.fetcher.tick()
    waiting = [await broker._link.call(b"LRANGE", keys.main, 0, -1) for keys in worker.queues]
    assert len(held(worker)) == 1
    assert [message(keys.name) for keys in worker.queues if keys.name not in held(worker)] == sum(waiting, [])


async def test_ranks_of_the_queues_order_what_has_no_priority(url, broker, message):
    app = RQueue(url, queues=[Queue("a", 2), Queue("b", 9)])
    seen = []

    @app.task(name="t", bind=True)
    async def t(self):
        seen.append(self.request.queue)

    async with app:
        for name in "ab":
            await t.options(queue=name).enqueue()
        async with app.worker(concurrency=1) as one:
            await one.drain()
    assert seen == ["b", "a"]


async def test_the_due_time_of_a_claim_is_passed_on(worker, broker, message):
    worker = await worker(concurrency=1)
    await broker._link.call(b"ZADD", worker.keys.scheduled, broker.clock.now_ms() + 60_000, "x")
    await worker.fetcher.tick()
    assert 50 < worker.schedule.left_s() <= 61


async def test_a_lost_lease_drops_what_has_not_started(worker, broker, message, log):
    worker = await worker(concurrency=3)
    await worker.push(*(message(f"j{number}") for number in range(3)))
    await worker.fetcher.tick()
    running = worker.take()
    old = worker.lease.worker
    await broker._link.call(b"ZREM", worker.keys.workers, old)
    worker.lease.is_lost = True
    await worker.fetcher.tick()
    assert worker.lease.worker != old
    assert not worker.lease.is_lost
    assert all(job.worker == worker.lease.worker for job in worker.inflight.of(Phase.HELD)), "claimed anew, if at all"
    assert running.phase is Phase.RUNNING
    assert await broker._link.call(b"TYPE", worker.keys.processing(old)) == b"string", "its end is refused"
    assert {name for name, _, _ in await broker.workers(worker.keys)} == {worker.lease.worker}
    assert log.of("lease lost, going on under a new id", was=old)


@pytest.mark.parametrize("how", ["while it waits", "and the reply is lost"])
async def test_what_a_wait_popped_after_a_flush_is_not_left_behind(worker, broker, message, how):
    """A flush ends no wait: what it pops then stands in the list of a worker that nobody knows, without an owner.

    Breaks when that is left to the search for such lists, which takes minutes where there are many keys; or when the
    old list stays open, so that a wait which is still on its way pops into it.
    """
    worker = await worker(concurrency=3)
    await worker.fetcher.tick()
    old = worker.lease.worker
    await broker._link.call(b"FLUSHALL")
    raws = [message("a"), message("b", level=3), b'{"task":"t"}']
    if how == "while it waits":
        await worker.push(raws[0])
        async with asyncio.timeout(5):
            await asyncio.wait(worker.fetcher._blocks.values())
    else:
        await broker._link.call(b"RPUSH", worker.keys.processing(old), *raws)
    async with asyncio.timeout(5):
        while worker.lease.worker == old:
            await worker.fetcher.tick()
    assert await broker._link.call(b"TYPE", worker.keys.processing(old)) == b"string", "the tombstone"
    async with asyncio.timeout(5):
        while len(held(worker)) < (1 if how == "while it waits" else 3):
            await worker.fetcher.tick()


async def test_a_lost_lease_that_cannot_be_renewed_yet_is_tried_again(worker, broker):
    worker = await worker(concurrency=1)
    real, calls = broker.register, []

    async def unlucky(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise BrokerUnavailable("away")
        return await real(*arguments)

    broker.register = unlucky
    worker.lease.is_lost = True
    with pytest.raises(BrokerUnavailable):
        await worker.fetcher.tick()
    async with asyncio.timeout(5):
        while worker.lease.worker not in {name for name, _, _ in await broker.workers(worker.keys)}:
            await worker.fetcher.tick()
    assert not worker.lease.is_lost


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ReplyLost("lost"), BrokerFull("full"), BrokerError("no")])
async def test_whatever_redis_says_it_goes_on(app, log, error):
    @app.task(name="t")
    async def t():
        return 1

    async with app, app.worker() as worker:
        real, calls = worker._broker.claim, []

        async def unlucky(*arguments):
            calls.append(arguments)
            if len(calls) <= 3:
                raise error
            return await real(*arguments)

        worker._broker.claim = unlucky
        worker._fetcher.poke()
        job = await t.enqueue()
        assert await job.result(5) == 1
        await log.heard("fetching waits for redis", 3)


async def test_the_audit_is_due_after_a_break_and_from_time_to_time(worker, broker):
    worker = await worker(concurrency=1, lease_s=60)
    assert not worker.fetcher._is_audit_due()
    broker._link.resets += 1
    worker.fetcher._audited_s -= 1  # not again and again while connections break
    assert worker.fetcher._is_audit_due()
    await worker.fetcher.audit()
    assert not worker.fetcher._is_audit_due()
    worker.fetcher._audited_s -= AUDIT_BEATS * 20 + 1
    assert worker.fetcher._is_audit_due()


async def test_an_audit_does_not_know_what_another_worker_holds(worker, broker, message, ghost, held_in):
    one, other = await worker(concurrency=5), await ghost(broker)
    await one.push(message("a"))
    await other.claim()
    await one.fetcher.audit()
    assert held(one) == []
    assert await held_in(broker, one.keys, other.id) == [message("a")]


async def test_stopping_waits_for_what_is_under_way_and_ends_the_waits(worker, broker, message):
    worker = await worker("a", "b", concurrency=5, block_s=4)
    running = asyncio.create_task(worker.fetcher.run())
    while len(worker.fetcher._blocks) < 2:
        await asyncio.sleep(0)
    await asyncio.wait_for(worker.fetcher.stop(), 2)
    await asyncio.wait_for(running, 1)
    assert worker.fetcher._blocks == {}
    await worker.push(message("late"))
    assert await broker._link.call(b"LLEN", worker.keys.main) == 1, "nobody waits for it any more"


async def test_what_is_held_too_long_goes_back(worker, broker, message, until):
    """Short jobs were followed by long ones: what cannot start soon is for those who can."""
    worker = await worker(concurrency=1, prefetch_multiplier=10)
    worker.inflight.pace.allowance = lambda now_s: 5
    await worker.push(*(message(f"j{number}") for number in range(4)))
    await worker.fetcher.tick()
    worker.take()
    assert len(held(worker)) == 3
    for job in worker.inflight.of(Phase.HELD):
        job.held_s -= 2
    worker.inflight.pace.allowance = lambda now_s: 0
    await worker.fetcher.tick()
    assert held(worker) == []
    ids = await broker._link.call(b"LRANGE", worker.keys.main, 0, -1)
    assert ids == [message("j3"), message("j2"), message("j1")]


async def test_a_change_of_queues_that_meets_the_stop_is_refused(app):
    """Whoever asked for it is told: breaks when it waits for ever, and with it the control listener."""
    async with app, app.worker() as worker:
        fetcher = worker._fetcher
        asking = asyncio.ensure_future(fetcher.serve(app.keys.queue("more")))
        stopping = asyncio.ensure_future(fetcher.stop())
        async with asyncio.timeout(5):
            await stopping
            with pytest.raises(BrokerError, match="the worker stops"):
                await asking
            with pytest.raises(BrokerError, match="the worker stops"):
                await fetcher.drop(app.keys.queue("default"))


async def test_it_notes_when_it_last_had_an_answer_or_no_room(worker, broker):
    worker = await worker(concurrency=1)
    fetcher = worker.fetcher
    await fetcher.tick()
    assert abs(fetcher.fetched_ms - broker.clock.now_ms()) < 30_000
    fetcher.fetched_ms = 0
    worker.inflight.resize(0, 0)
    worker.inflight.signals.fetch.set()
    await fetcher.tick()
    assert fetcher.fetched_ms > 0


async def test_a_cancelled_job_is_settled_and_not_held(parts, broker, stored, message):
    """What a claim says is revoked does not start; the rest does. Breaks when its stop stays, or is not asked for."""
    worker = parts("default", "other")
    await register(broker, worker.queues, worker.lease)
    await worker.push(message("a"), message("b"))
    other = worker.queues[1]
    await broker._link.call(b"LPUSH", other.main, message("a"))
    await broker._link.call(b"SADD", worker.keys.jobs, "a", "b")
    await broker._link.call(b"ZADD", worker.keys.stops, 0, b"job:a")
    await worker.fetcher._claim(10)
    await worker.fetcher._end_blocks()
    assert sorted((job.keys.name, job.id) for job in worker.inflight.of(Phase.HELD)) == [
        ("default", "b"),
        ("other", "a"),
    ]
    await worker.settler.drained()
    found = await stored(broker)
    assert found["rqueue:{default}:jobs"] == {b"b"}
    assert "rqueue:{default}:stops" not in found
    assert found["~rqueue:{default}:result:a"].startswith(b'{"state":"REVOKED"')
    assert found[f"rqueue:{{default}}:processing:{worker.lease.worker}"] == [message("b")]


async def test_what_an_audit_finds_may_be_cancelled_too(parts, broker, stored, message):
    """Its claim's reply was lost, and the stop with it. Breaks when what is found is started unasked."""
    worker = parts()
    await register(broker, worker.queues, worker.lease)
    await worker.push(message("a"), message("b"))
    await broker._link.call(b"ZADD", worker.keys.stops, 0, b"job:a")
    assert await broker.claim(worker.queues, [5], worker.lease.worker, 60, 10, 1_000_000)
    await worker.fetcher.audit()
    assert [job.id for job in worker.inflight.of(Phase.HELD)] == ["b"]
    await worker.settler.drained()
    assert "rqueue:{default}:stops" not in await stored(broker)


async def test_a_claim_that_renews_an_old_lease_wakes_whoever_starts_jobs(worker, message):
    """Of a cluster the heart may not reach all nodes, and then it says nothing. Breaks when only the heart wakes."""
    worker = await worker(concurrency=3)
    await worker.push(message("j"))
    await worker.fetcher.tick()
    worker.inflight.signals.execute.clear()
    await worker.fetcher._claim(1)
    assert not worker.inflight.signals.execute.is_set()
    worker.lease._renewed_s = worker.lease.starts_until_s = -1e9
    await worker.fetcher._claim(1)
    assert worker.lease.may_start()
    assert worker.inflight.signals.execute.is_set()


async def test_a_queue_that_claims_do_not_reach_is_looked_at_only_after_one(worker, message):
    """Its lease may have run out, and what an audit finds is started at once. Breaks when the audit comes first."""
    worker = await worker(concurrency=3)
    await worker.push(message("j"))
    await worker.fetcher.tick()
    (keys,) = worker.queues
    worker.fetcher._note_missed([keys], BrokerUnavailable("away"))
    assert held(worker) == []
    await worker.fetcher.audit()
    assert held(worker) == []
    await worker.fetcher._claim(1)
    assert worker.fetcher._is_unsure
    await worker.fetcher.audit()
    assert held(worker) == ["j"]
