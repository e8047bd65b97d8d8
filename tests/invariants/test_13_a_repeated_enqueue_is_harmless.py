"""Invariant 13, a repeated enqueue is harmless: a batch whose reply was lost is sent again and is there once; after
that `EnqueueUnknown` names the ids; a custom id that is alive gives the existing job's handle; cancelling withdraws
what was not sent.

Seen to fail with enqueue.lua without its `sent` record (doubled), without its SADD's answer (a custom id runs twice),
without its DEL of what the id's earlier job left, and with `Producer` taking a new number for the second sending.
"""

import asyncio
from collections import Counter

import pytest

from rqueue import BrokerUnavailable, EnqueueUnknown, RQueue


@pytest.fixture
def keys(redis_broker):
    return redis_broker.keys.queue("default")


def tasks_of(app, runs):
    @app.task(name="t")
    async def t(number):
        runs[number] += 1
        return number

    return t


@pytest.mark.parametrize("options", [{}, {"job_id": "mine"}, {"priority": 3}, {"countdown": 0.01}])
async def test_a_lost_reply_enqueues_once(redis_url, redis_broker, proxy, keys, options):
    runs: Counter = Counter()
    app, other = RQueue(await proxy.start()), RQueue(redis_url)
    t = tasks_of(app, runs)
    tasks_of(other, runs)
    async with app, other, other.worker() as worker:
        proxy.lose("enqueue")
        job = await t.options(**options).enqueue(1)
        assert proxy.lost
        assert not job.duplicate, "it is this call's job, though it was sent twice"
        assert await job.result(5) == 1
        await worker.drain(scheduled=True)
        assert runs == {1: 1}


async def test_a_batch_with_a_lost_reply_is_there_once(redis_url, redis_broker, proxy, keys):
    runs: Counter = Counter()
    app, other = RQueue(await proxy.start()), RQueue(redis_url)
    t = tasks_of(app, runs)
    tasks_of(other, runs)
    async with app, other, other.worker() as worker:
        proxy.lose("enqueue", "enqueue")
        await asyncio.gather(*(t.enqueue(number) for number in range(300)))
        jobs = await app.enqueue_many([t.s(number) for number in range(300, 400)])
        assert [await job.result(5) for job in jobs] == list(range(300, 400))
        await worker.drain()
        assert runs == dict.fromkeys(range(400), 1)


async def test_when_nobody_knows_the_ids_are_named(redis_url, redis_broker, proxy, keys):
    """The reply is lost, and the network with it, for longer than is tried."""
    app = RQueue(await proxy.start(), enqueue_timeout=0.2)
    t = tasks_of(app, Counter())
    async with app:
        proxy.lose("enqueue")
        proxy.on_lost = proxy.close
        with pytest.raises(EnqueueUnknown) as caught:
            await app.enqueue_many([t.options(job_id=f"j{number}").s(number) for number in range(3)])
        assert caught.value.ids == ("j0", "j1", "j2")
        assert await redis_broker._link.call(b"SMEMBERS", keys.jobs) is not None
        assert await redis_broker._link.call(b"LLEN", keys.main) == 3


async def test_when_it_was_not_sent_nothing_was_enqueued(redis_url, redis_broker, proxy, keys):
    app = RQueue(await proxy.start(), enqueue_timeout=0.2)
    t = tasks_of(app, Counter())
    async with app:
        await proxy.close()
        with pytest.raises(BrokerUnavailable) as caught:
            await t.enqueue(1)
        assert not isinstance(caught.value, EnqueueUnknown)
        assert await redis_broker._link.call(b"EXISTS", keys.main) == 0


async def test_a_custom_id_that_is_alive_gives_the_existing_jobs_handle(app, gate):
    """Waiting, scheduled or running; once it has ended the id is free."""

    @app.task(name="t")
    async def t(number):
        await gate(number)
        return number

    async with app:
        first = await t.options(job_id="same").enqueue(1)
        again = await t.options(job_id="same").enqueue(2)
        assert (first.duplicate, again.duplicate, again.id) == (False, True, "same")
        later = await t.options(job_id="later", countdown=0.05).enqueue(3)
        assert (await t.options(job_id="later").enqueue(4)).duplicate
        many = await app.enqueue_many([t.options(job_id=name).s(9) for name in ("same", "new", "new", "later")])
        assert [job.duplicate for job in many] == [True, False, True, True]
        async with app.worker() as worker:
            await gate.reached(3)
            assert (await t.options(job_id="same").enqueue(5)).duplicate
            gate.open()
            assert [await job.result(5) for job in (first, again, later, many[1])] == [1, 1, 3, 9]
            await worker.drain()
            assert not (await t.options(job_id="same").enqueue(6)).duplicate
            assert await first.result(5) == 6
        assert not (await t.options(job_id="same").enqueue(7)).duplicate
        info = await first.info()
        assert (info.state, info.result) == ("PENDING", None), "what the earlier job of that id left has gone"


async def test_a_thousand_enqueues_of_few_ids_run_each_once(app):
    runs: Counter = Counter()

    @app.task(name="t")
    async def t(number):
        runs[number] += 1

    async with app:
        jobs = await asyncio.gather(
            *(t.options(job_id=f"j{number % 10}").enqueue(number % 10) for number in range(1000))
        )
        assert sum(not job.duplicate for job in jobs) == 10
        async with app.worker() as worker:
            await worker.drain()
    assert runs == dict.fromkeys(range(10), 1)


async def test_cancelling_before_it_was_sent_withdraws_it(redis_url, redis_broker, proxy, keys):
    app = RQueue(redis_url)
    t = tasks_of(app, Counter())
    async with app:
        sending = asyncio.create_task(t.enqueue(1))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        await t.enqueue(2)
        waiting = await redis_broker._link.call(b"LRANGE", keys.main, 0, -1)
        assert len(waiting) == 1
        assert b'"args":[2]' in waiting[0]
