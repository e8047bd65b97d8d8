"""Invariant 5, a result means settled: written, announced and counted in the step that settles.

The observer of test_01 sees that no job has a final record and is still claimed or alive. Here: whoever hears of the
end finds it settled. Seen to fail with ack.lua publishing nothing, with bury.lua and record.lua alike, with ack.lua
counting nothing, and with `Executor` starting an early job before its note was answered.
"""

import pytest

from rqueue import JobFailed
from rqueue.wire.state import State


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.mark.parametrize("kind", ["success", "failure", "early", "early failure", "expired"])
async def test_whoever_hears_of_the_end_finds_it_settled(app, broker, keys, kind, until, held_in):
    """Heard on the channel, and looked at from another connection at once."""

    @app.task(name="t", acks_late="early" not in kind)
    async def t():
        if "failure" in kind:
            raise ValueError
        return 1

    listening = broker.endpoint.connection()
    await listening.connect()
    async with app, app.worker() as worker:
        options = {"job_id": "j"}
        if kind == "expired":
            from datetime import UTC, datetime

            options["expires"] = datetime(2000, 1, 1, tzinfo=UTC)
        await listening.send_command("SUBSCRIBE", keys.result("j"))
        await listening.read_response()
        await t.options(**options).enqueue()
        said = b""
        while b'"STARTED"' in said or not said:
            _, _, said = await listening.read_response()
        (known,) = await broker.known([(keys, "j")])
        assert known.record == said
        assert not known.is_alive
        assert await held_in(broker, keys, worker.id) == []
        state = {"expired": "REVOKED"}.get(kind, "FAILURE" if "failure" in kind else "SUCCESS")
        assert (await broker.sizes(keys)).counts.get(state) == 1
        assert (await app.job("j").info()).state == state
    await listening.disconnect()


async def test_a_job_is_not_found_settled_before_its_result_is_there(app, broker, keys):
    """Asked in any order, alive or final: never neither."""

    @app.task(name="t")
    async def t(number):
        if number % 2:
            raise ValueError
        return number

    async with app, app.worker() as worker:
        jobs = await app.enqueue_many([t.s(number) for number in range(100)])
        seen = set()
        while True:
            known = await broker.known([(keys, job.id) for job in jobs])
            states = {(each.is_alive, each.record is not None) for each in known}
            seen |= states
            assert (False, False) not in states
            if states == {(False, True)}:
                break
        await worker.drain()
        assert (True, False) in seen


async def test_an_early_job_is_settled_before_it_starts_or_does_not_start(app, broker, keys, log, faint, held_in):
    """The claim was lost before the early ack: another worker owns the job now, and it does not start here."""
    runs = []

    @app.task(name="t", acks_late=False, bind=True)
    async def t(self):
        runs.append(self.request.worker)
        return len(await held_in(broker, keys, self.request.worker))

    async with app, app.worker(lease=60, shutdown_timeout=0) as first:
        ack = first._broker.ack

        async def lose_first(*arguments):
            first._broker.ack = ack
            await faint(first)
            await broker._link.call(b"ZADD", keys.workers, 1, first.id)
            async with app.worker(lease=60) as second:
                for _ in range(2):
                    await second._reaper.tick()
                assert await job.result(5) == 0, "settled before it started"
                await second.drain()
            return await ack(*arguments)

        first._broker.ack = lose_first
        job = await t.options(job_id="j").enqueue()
        old = first.id
        await log.heard("worker reaped")
        assert await job.result(5) == 0
        await first.drain()
        assert old not in runs
        assert len(runs) == 1
        assert first.running == 0


async def test_an_early_jobs_error_is_its_result(app):
    @app.task(name="t", acks_late=False)
    async def t():
        raise ValueError("early")

    async with app, app.worker():
        job = await t.enqueue()
        with pytest.raises(JobFailed, match="early"):
            await job.result(5)
        assert (await job.info()).state is State.FAILURE
