"""Invariant 4, only the owner settles: a worker that was reaped while it was frozen overwrites nothing, and says so.

Seen to fail with ack.lua, bury.lua and retry.lua without their look at LREM's answer, with ack.lua without its look at
`workers`, with track.lua without its LPOS, with a `Settler` that does not say what it lost, and with
`Settler._refused` giving up the whole batch (the neighbours of a bad item are not settled). Ack.lua without its
`settled` record (a resent batch is called lost) fails in test_11.
"""

import pytest

from rqueue import JobFailed
from rqueue.errors import BrokerError
from rqueue.wire.state import State


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.mark.parametrize("end", ["returns", "fails", "retries", "is given back"])
async def test_a_late_settle_is_refused_and_overwrites_nothing(
    app, broker, keys, gate, end, stored, log, leaked, faint
):
    """The first worker is frozen past its lease, the job runs elsewhere and is settled, then the first goes on."""

    @app.task(name="t", bind=True, track_started=True)
    async def t(self):
        if self.request.worker == first.id:
            await gate()
            if end == "fails":
                raise ValueError("too late")
            if end == "retries":
                self.retry(countdown=3600)
        return "late" if self.request.losses == 0 else "in time"

    async with app:
        first = app.worker(concurrency=1, lease=60, shutdown_timeout=0)
        async with first:
            old = first.id
            job = await t.enqueue()
            await gate.reached()
            # Frozen: its heart does not beat, and its lease runs out.
            await faint(first)
            await broker._link.call(b"ZADD", keys.workers, 1, old)
            async with app.worker(concurrency=1) as second:
                for _ in range(2):
                    await second._reaper.tick()
                assert await job.result(5) == "in time"
                await second._settler.drained()
                before = {
                    k: v for k, v in (await stored(broker)).items() if "worker" not in k and "processing" not in k
                }
                if end == "is given back":
                    first.stop()
                    first.stop()
                else:
                    gate.open()
                assert (await log.heard("claim lost", id=job.id))["worker"] == old
                after = {k: v for k, v in (await stored(broker)).items() if "worker" not in k and "processing" not in k}
                assert after == before, "the late worker changed nothing"
                info = await job.info()
                assert (info.state, info.result, info.losses, info.is_dead) == (State.SUCCESS, "in time", 1, False)
        assert first._settler.lost == 1
        assert await leaked(broker) == {}


@pytest.mark.parametrize("end", ["returns", "fails", "retries"])
@pytest.mark.parametrize("how", ["moved", "unregistered"])
async def test_each_of_the_two_checks_is_enough(app, broker, keys, gate, end, how, stored, log, faint):
    """The message is in the list no more, though its worker is registered; or the other way round."""

    @app.task(name="t", bind=True)
    async def t(self):
        await gate()
        if end == "fails":
            raise ValueError
        if end == "retries":
            self.retry(countdown=3600)

    async with app:
        worker = app.worker(concurrency=1, lease=60, shutdown_timeout=0)
        async with worker:
            await t.options(job_id="j").enqueue()
            await gate.reached()
            await faint(worker)
            await worker._fetcher.stop()
            if how == "moved":
                await broker._link.call(b"LMOVE", keys.processing(worker.id), b"elsewhere", b"LEFT", b"RIGHT")
            else:
                await broker._link.call(b"ZREM", keys.workers, worker.id)
            # The worker's own keys go when it has left, which it may have by then.
            before = {name: value for name, value in (await stored(broker)).items() if worker.id not in name}
            gate.open()
            await log.heard("claim lost", id="j")
            after = {name: value for name, value in (await stored(broker)).items() if worker.id not in name}
            after.pop("rqueue:{default}:workers", None)
            before.pop("rqueue:{default}:workers", None)
            assert after == before


async def test_started_is_written_only_while_the_message_is_owned(app, broker, keys, ghost, message, stored):
    """A worker that lost the claim writes no STARTED over what became of the job."""
    dead = await ghost(broker)
    await broker._link.call(b"LPUSH", keys.main, message("a"))
    (raw,) = await dead.claim()
    await broker.release(keys, dead.id, [(raw, "a", 0)])
    before = await stored(broker)
    assert not await broker.track(keys, dead.id, "a", raw, b'{"state":"STARTED"}', 60)
    assert await stored(broker) == before


@pytest.mark.parametrize("verb", ["ack", "bury", "retry"])
async def test_one_bad_item_fails_alone(app, broker, verb, log, monkeypatch):
    """What Redis refuses of one job is that job's failure; its batch is settled."""
    batch, mended = 20, []

    @app.task(name="t", bind=True)
    async def t(self, number):
        if verb == "bury" and number != batch:
            raise ValueError
        if verb == "retry" and not self.request.retries:
            self.retry(countdown=0)
        return number

    async with app, app.worker() as worker:
        real = getattr(worker._broker, verb)

        monkeypatch.setattr("rqueue.worker.settler._REFUSED_PAUSE_S", 0.01)

        async def refuse(keys_, worker_, lane, number, *rest, **more):
            """A server that refuses one job: its own error, as a script raises it."""
            ids = [done.id for done in rest[0]] if verb == "ack" else [rest[0].id] if verb == "bury" else [rest[1]]
            if "bad" in ids and not mended:
                raise BrokerError("this one cannot be stored")
            return await real(keys_, worker_, lane, number, *rest, **more)

        monkeypatch.setattr(worker._broker, verb, refuse)
        signatures = [t.options(job_id="bad" if n == 7 else f"j{n}").s(n) for n in range(batch)]
        jobs = await app.enqueue_many(signatures)
        for number, job in enumerate(jobs):
            if number == 7 and verb != "bury":
                with pytest.raises(JobFailed, match="cannot be stored"):
                    await job.result(5)
            elif verb == "bury":
                if number != 7:
                    with pytest.raises(JobFailed, match="ValueError"):
                        await job.result(5)
            else:
                assert await job.result(5) == number
        await log.heard("redis refused to settle", id="bad")
        assert {fields["id"] for fields in log.of("redis refused to settle")} == {"bad"}
        mended.append(1)
        if verb == "bury":
            with pytest.raises(JobFailed, match="ValueError"):
                await jobs[7].result(5)
