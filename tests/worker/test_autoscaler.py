"""autoscaler: a worker's slots follow the backlog; when they do is the policy's affair, in tests/policy."""

import pytest

from rqueue.policy.autoscale import Autoscale
from rqueue.worker.autoscaler import Autoscaler


async def test_slots_grow_while_all_are_busy_and_something_waits(app, gate, until, log):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=1, autoscale=(5, 1)) as worker:
        await app.enqueue_many([t.s() for _ in range(9)])
        grown = []
        for busy in (1, 2, 4):
            await until(lambda busy=busy: worker.running == busy)
            grown.append(await worker._autoscaler.tick())
        await gate.reached(5)
        assert grown == [1, 2, 1]
        assert await worker._autoscaler.tick() == 0
        assert log.of("autoscale", slots=2, before=1)[0]["why"] == "8 wait and all 1 are busy"
        gate.open()
        await worker.drain()


async def test_they_shrink_when_they_were_idle_for_long(app, log):
    async with app, app.worker(concurrency=8, autoscale=(8, 2)) as worker:
        worker._autoscaler._scale = Autoscale(8, 2, settle_s=0.0)
        shrunk = [await worker._autoscaler.tick() for _ in range(5)]
        assert shrunk == [-2, -1, -1, -1, -1]
        assert worker._inflight.slots == 2
        assert await worker._autoscaler.tick() == 0


async def test_a_worker_without_bounds_asks_for_nothing(app):
    async with app, app.worker(concurrency=1) as worker:
        await worker._autoscaler.run()
        assert await worker._autoscaler.tick() == 0


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_without_redis_it_changes_nothing(app, new_server, log):
    from rqueue.broker.broker import Broker
    from rqueue.broker.endpoint import Endpoint
    from rqueue.wire.keys import Keys
    from rqueue.worker.inflight import Inflight

    server = new_server()
    broker, inflight = Broker(Endpoint(server.url), Keys()), Inflight(1, 4)
    inflight.running = 1
    scaler = Autoscaler(broker, [Keys().queue("q")], inflight, Autoscale(4, 1), lambda _: pytest.fail("resized"))
    server.stop()
    assert await scaler.tick() == 0
    assert len(log.of("backlog not known")) == 1
    await broker.close()
