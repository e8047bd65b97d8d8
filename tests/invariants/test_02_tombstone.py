"""Invariant 2, a dead worker's list refuses messages; only `register` adds a worker; a worker whose lease was lost
drops what it has not started and goes on under a new id.

Seen to fail with reap.lua without its SET (the blocked pop takes the job into a list of nobody), with claim.lua
without its check of `workers` (the frozen worker claims on), with renew.lua without its own, and with
`Fetcher._begin_anew` keeping the held jobs (they run twice), or keeping the id (it never works again).
"""

import asyncio

import pytest

from rqueue.errors import BrokerError


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def test_a_block_of_a_reaped_worker_takes_nothing(app, broker, keys, parts, ghost, until):
    """It waits at the server while its list becomes a tombstone; the next job goes to the worker that waits behind
    it.
    """

    @app.task(name="t")
    async def t():
        return "ran"

    dead = await ghost(broker)
    frozen = asyncio.create_task(broker.block(keys, dead.id, 30))
    await asyncio.sleep(0)
    while broker._blocks[keys.name]._outbox:
        await broker._link.call(b"PING")
    await broker._link.call(b"PING")
    async with app:
        await dead.die()
        worker = parts()
        assert [await worker.reaper.tick() for _ in range(2)] == [0, 0]
        async with app.worker() as other:
            job = await t.enqueue()
            assert await job.result(5) == "ran"
            if app.endpoint.is_memory:
                assert await frozen is None  # fakeredis keeps the error to itself
            else:
                with pytest.raises(BrokerError, match="WRONGTYPE"):
                    await frozen
            assert (await job.info()).worker == other.id
        assert await broker._link.call(b"GET", keys.processing(dead.id)) == b"reaped"


async def test_nothing_can_be_claimed_renewed_or_settled_under_an_unregistered_id(
    app, broker, keys, ghost, parts, stored
):
    """Each says so, and changes nothing."""
    dead = await ghost(broker)
    await dead.die()
    for _ in range(2):
        await parts().reaper.tick()
    reaper = parts().reaper
    assert [await reaper.tick() for _ in range(2)] == [0, 0]
    async with app:
        await broker._link.call(b"LPUSH", keys.main, b'{"task":"t"}')
        before = await stored(broker)
        assert await broker.claim([keys], [5], dead.id, 60, 10, 1000) is None
        assert not await broker.renew([keys], dead.id, 60, b"{}")
        assert not await broker.start(keys, dead.id, ["x"])
        assert await broker.adopt(keys, dead.id, [(b"a", b"b", "x")]) is None
        assert await broker.retry(keys, dead.id, 1, 1, b"a", "x", b"b", 1) is None
        assert not await broker.register(keys, dead.id, 60), "an id is never used again"
        assert await stored(broker) == before


@pytest.mark.parametrize("how", ["reaped", "entry deleted", "list replaced"])
async def test_a_worker_that_lost_its_lease_goes_on_under_a_new_id(
    app, broker, keys, new_gate, how, log, leaked, until, faint
):
    """It drops what it has not started; what ran there runs again elsewhere, and its own late settle is refused."""
    blocked, free = new_gate(), new_gate()
    runs = []

    @app.task(name="t", bind=True)
    async def t(self, number):
        runs.append((number, self.request.worker))
        await (blocked if self.request.worker == first else free)(number)
        return [number, self.request.worker]

    @app.task(name="short")
    async def short():
        pass

    free.open()
    async with app:
        async with app.worker(concurrency=2, prefetch_multiplier=10, lease=60) as worker:
            await app.enqueue_many([short.s() for _ in range(200)])
            await worker.drain()
            first = worker.id
            worker._inflight.pace.allowance = lambda now_s: 6
            jobs = await app.enqueue_many([t.s(number) for number in range(8)])
            worker._fetcher.poke()
            await blocked.reached(2)
            await until(lambda: worker.held == 6)
            started = set(blocked.came)
            await faint(worker)  # the fetcher's claim will notice
            if how == "reaped":
                await broker._link.call(b"ZADD", keys.workers, 1, first)
                for _ in range(2):
                    await worker._reaper.tick()
            else:
                await broker._link.call(b"ZREM", keys.workers, first)
                if how == "list replaced":
                    for _ in range(2):
                        await worker._reaper.tick()
            worker._inflight.pace.allowance = lambda now_s: 7
            worker._fetcher.poke()
            await until(lambda: worker.id != first)
            blocked.open()
            if how == "entry deleted":
                await worker._reaper.tick()
            assert [(await job.result(5))[0] for job in jobs] == list(range(8))
            await worker.drain()
            assert worker.id != first
            assert len(log.of("lease lost, going on under a new id", was=first)) == 1
            for job in jobs:
                assert (await job.info()).worker == worker.id
            twice = {number for number, by in runs if by == first}
            assert twice == started, "what was held was not started any more"
            assert len(runs) == 8 + len(twice)
            assert len(log.of("claim lost", worker=first)) >= len(twice) >= 2
        assert await leaked(broker) == {}
