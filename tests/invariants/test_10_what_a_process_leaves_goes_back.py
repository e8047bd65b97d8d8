"""Invariant 10, what a process leaves goes back at once: on shutdown, claimed and unstarted jobs first, uncharged and
in their order. (What a killed process leaves is shown with real processes.)

Seen to fail with `Worker._finish` waiting for what runs before it gives back, with `take_held` in the other order, and
with release.lua pushing to the other end. `Fetcher.stop` not waiting for a claim that is under way fails in
tests/worker/test_worker.py.
"""

import pytest

from rqueue import RQueue
from rqueue.wire.message import Message


async def waiting(broker, name):
    return [Message.parse(raw).header for raw in reversed(await broker._link.call(b"LRANGE", name, 0, -1)) if raw]


async def test_what_has_not_started_goes_back_before_what_runs_has_ended(app, broker, gate, until, log):
    """While a long job is given its time, another worker may run the others."""

    @app.task(name="t")
    async def t(number):
        await gate(number)
        return number

    @app.task(name="quick")
    async def quick(number):
        return number

    keys = broker.keys.queue("default")
    async with app:
        worker = app.worker(concurrency=1, prefetch_multiplier=100)
        async with worker:
            await app.enqueue_many([quick.s(number) for number in range(300)])
            await worker.drain()
            worker._inflight.pace.allowance = lambda now_s: 50
            jobs = [await t.enqueue(0)]
            jobs += [await quick.options(**({"priority": 3} if n > 20 else {})).enqueue(n) for n in range(1, 31)]
            await gate.reached()
            worker._fetcher.poke()
            await until(lambda: worker.held >= 20)
            worker.stop()

            async def one_left():
                return (await broker.sizes(keys)).running == 1

            await until(one_left)
            assert not worker._main.done()
            assert [header.id for header in await waiting(broker, keys.main)] == [job.id for job in jobs[1:21]]
            assert [header.id for header in await waiting(broker, keys.lists[3])] == [job.id for job in jobs[21:]]
            async with app.worker() as other:
                assert [await job.result(5) for job in jobs[1:]] == list(range(1, 31))
                assert {(await job.info()).losses for job in jobs[1:]} == {0}
                gate.open()
                assert await jobs[0].result(5) == 0
                assert other.id != worker.id
    assert len(log.of("job released")) >= 20


@pytest.mark.parametrize("queues", [1, 3])
async def test_nothing_of_a_stopped_worker_is_left_registered(url, broker, leaked, queues):
    names = [f"q{number}" for number in range(queues)]
    app = RQueue(url, queues=names)

    @app.task(name="t")
    async def t():
        pass

    async with app:
        async with app.worker() as worker:
            await app.enqueue_many([t.options(queue=name).s() for name in names for _ in range(20)])
            await worker.drain()
        for name in names:
            sizes = await broker.sizes(broker.keys.queue(name))
            assert (sizes.running, sizes.workers, sum(sizes.waiting)) == (0, 0, 0)
    assert await leaked(broker) == {}


async def test_a_worker_that_stops_while_redis_is_away_ends_and_leaves_its_jobs_to_the_reapers(
    new_server, gate, log, monkeypatch
):
    """It does not wait for ever; its lease runs out, and another worker runs what it held."""
    from rqueue.worker import worker as module

    monkeypatch.setattr(module, "_LEAVE_S", 0.3)
    monkeypatch.setattr(module, "_CANCEL_GRACE_S", 0.1)
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    app = RQueue(server.url)

    @app.task(name="t")
    async def t():
        if not again:
            await gate()
        return "second"

    again = []
    async with app:
        worker = app.worker(concurrency=1, shutdown_timeout=0, lease=0.9)
        async with worker:
            job = await t.enqueue()
            await gate.reached()
            server.kill()
        assert log.of("stopped without settling") or log.of("left without saying so")
        again.append(1)
        server.start()
        async with app.worker(lease=0.9):
            assert await job.result(10) == "second"
