"""Invariant 8, the heart beats by itself: a task that blocks the event loop does not cost the worker its jobs, and is
named; the heart stops when the loop has not moved for `max_loop_stall`; an old lease starts nothing.

Seen to fail with a heart that stands still while the loop does (the lease runs out), without `_name_blocker`, without
its look at `max_loop_stall`, and with a `Lease.starts_until_s` that never comes. `renewed` counting from the reply fails in
tests/worker/test_heart.py.
"""

import asyncio
import threading
import time

import pytest

from rqueue.policy.clock import elapsed_s


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


def lease_left_s(url_broker, keys, worker):
    """Asked from a thread: the loop is blocked."""
    connection = url_broker.endpoint.sync_connection(2)
    connection.connect()
    connection.send_command("ZSCORE", keys.workers, worker)
    end_ms = float(connection.read_response())
    connection.send_command("TIME")
    seconds, micros = connection.read_response()
    connection.disconnect()
    return (end_ms - int(seconds) * 1000 - int(micros) / 1000) / 1000


async def test_a_blocked_loop_is_named_and_costs_no_job(app, broker, keys, parts, log):
    """1.2 s in a coroutine, with a lease of half of that: it is still the worker's when it ends."""
    left = []

    @app.task(name="blocks")
    async def blocks():
        looking = threading.Timer(1.1, lambda: left.append(lease_left_s(broker, keys, worker.id)))
        looking.start()
        time.sleep(1.2)  # noqa: ASYNC251 - what is tested
        looking.join()
        return "done"

    async with app, app.worker(lease=0.6) as worker:
        before = worker.id
        job = await blocks.enqueue()
        assert await job.result(5) == "done"
        assert left[0] > 0
        assert worker.id == before
        assert (await job.info()).losses == 0
        said = await log.heard("event loop blocked")
        assert said["worker"] == before
        assert said["seconds"] >= 1.0
        assert "time.sleep(1.2)" in said["stack"], "the line that blocks"
        assert len(log.of("event loop blocked")) == 1, "once for each block"


async def test_a_loop_that_moves_is_not_named(app, log):
    @app.task(name="t")
    async def t():
        time.sleep(0.2)  # noqa: ASYNC251 - shorter than a second

    async with app, app.worker(lease=0.6):
        for _ in range(3):
            await (await t.enqueue()).result(5)
    assert log.of("event loop blocked") == []


async def test_after_max_loop_stall_the_lease_runs_out(app, broker, keys, parts, log, leaked):
    """The jobs go elsewhere; when the loop moves again, the worker goes on under a new id, and settles nothing old."""
    runs, states = [], []

    @app.task(name="stalls", bind=True)
    async def stalls(self):
        runs.append(self.request.losses)
        if len(runs) == 1:
            looking = threading.Timer(1.3, lambda: states.append(lease_left_s(broker, keys, old)))
            looking.start()
            time.sleep(1.4)  # noqa: ASYNC251 - what is tested
            looking.join()
        return self.request.losses

    async with app:
        async with app.worker(lease=0.5, max_loop_stall_s=0.3) as worker:
            old = worker.id
            job = await stalls.enqueue()
            while not runs:
                await asyncio.sleep(0)
            assert states[0] < 0
            assert await job.result(5) == 0
        assert await leaked(broker) == {}


async def test_a_stalled_heart_does_not_spin(app, monkeypatch):
    """It waits for the loop to move, and does not burn a core until then."""
    waits = []

    class Counting(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return super().wait(timeout)

    @app.task(name="stalls")
    async def stalls():
        waits.clear()
        time.sleep(1.0)  # noqa: ASYNC251 - what is tested
        return len(waits)

    async with app:
        worker = app.worker(lease=0.6, max_loop_stall_s=0.1)
        await worker.__aenter__()
        worker._heart._stop, old = Counting(), worker._heart._stop
        assert not old.is_set()
        try:
            assert await (await stalls.enqueue()).result(5) <= 50
        finally:
            await worker.__aexit__(None, None, None)


async def test_at_two_thirds_without_a_reply_nothing_is_started(app, broker, keys, gate, until):
    """What is held waits, and starts when the lease was renewed."""

    @app.task(name="t")
    async def t():
        await gate()
        return "ran"

    async with app, app.worker(lease=60) as worker:
        worker._lease.renewed = lambda sent_s: None  # no reply comes any more
        worker._lease.starts_until_s = elapsed_s() - 0.1
        job = await t.enqueue()
        await until(lambda: worker.held == 1)
        for _ in range(20):
            await broker._link.call(b"PING")
        assert gate.came == []
        del worker._lease.renewed
        worker._lease.renewed(elapsed_s() - 39)
        worker._inflight.signals.execute.set()
        gate.open()
        assert await job.result(5) == "ran"


async def test_a_lost_lease_is_noticed_by_the_heart(app, broker, keys, log):
    """Also by a worker that is full and claims nothing."""

    @app.task(name="t")
    async def t():
        return 1

    async with app, app.worker(lease=0.3) as worker:
        old = worker.id
        await broker._link.call(b"ZREM", keys.workers, old)
        said = await log.heard("lease lost, going on under a new id", was=old)
        assert said["worker"] == worker.id != old
        assert await (await t.enqueue()).result(5) == 1
