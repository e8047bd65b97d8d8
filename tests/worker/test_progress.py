"""Progress: seen while the job runs and after it, written seldom however often it is said, never the job's trouble."""

import asyncio
import threading

import pytest

from rqueue import MessageTooLarge, RQueue, State
from rqueue.broker.broker import Broker
from rqueue.errors import BrokerUnavailable

PATIENCE_S = 5


async def shown(job, until, **progress):
    """Wait until the job's progress says so."""

    async def looks():
        found = (await job.info()).progress or {}
        return found if progress.items() <= found.items() else None

    return await until(looks)


@pytest.fixture
def tracked(monkeypatch):
    """Every record that was sent by `track`."""
    sent: list[bytes] = []
    track = Broker.track

    async def count(self, keys, worker, job_id, raw, record, ttl_s, **more):
        sent.append(record)
        return await track(self, keys, worker, job_id, raw, record, ttl_s, **more)

    monkeypatch.setattr(Broker, "track", count)
    return sent


async def test_a_coroutines_progress_is_seen_while_it_runs_and_after_it(app, gate, until):
    """Breaks when it is written only at the end, or when the end's record forgets it."""

    @app.task(bind=True)
    async def job(self) -> str:
        await self.progress(3, 10, file="a.pdf")
        await gate()
        return "done"

    async with app, app.worker():
        handle = await job.enqueue()
        await gate.reached()
        found = await shown(handle, until, done=3, total=10, data={"file": "a.pdf"})
        assert found["at"].tzinfo is not None
        assert (await handle.info()).state is State.STARTED
        gate.open()
        assert await handle.result(timeout=PATIENCE_S) == "done"
        info = await handle.info()
        assert (info.state, info.progress) == (State.SUCCESS, found)


@pytest.mark.parametrize("pool", ["threads", "solo"])
async def test_a_functions_progress_is_seen_while_it_runs(pool, redis_url):
    """In solo the event loop stands still meanwhile. Breaks when the write waits for that loop."""
    app = RQueue(redis_url)
    seen = threading.Event()

    @app.task(bind=True)
    def job(self) -> bool:
        self.progress(1)
        return seen.wait(PATIENCE_S)

    def look(job_id: str) -> None:
        other = RQueue(redis_url)

        async def wait() -> None:
            async with other, asyncio.timeout(PATIENCE_S):
                while not ((await other.job(job_id).info()).progress or {}).get("done"):
                    await asyncio.sleep(0)
            seen.set()

        asyncio.run(wait())

    async with app:
        handle = await job.enqueue()
        looking = asyncio.create_task(asyncio.to_thread(look, handle.id))
        async with app.worker(concurrency=1, pool=pool):
            assert await handle.result(timeout=2 * PATIENCE_S) is True
        await looking


async def test_a_job_that_settled_before_it_started_shows_its_progress(app, gate, until):
    """Breaks when only what stands in the worker's list may be written."""

    @app.task(bind=True, acks_late=False)
    async def job(self) -> None:
        await self.progress(1, 2)
        await gate()

    async with app, app.worker():
        handle = await job.enqueue()
        await shown(handle, until, done=1, total=2)
        gate.open()
        await handle.result(timeout=PATIENCE_S)


async def test_much_is_said_and_little_is_written(app, tracked):
    """The last word is in the end's record. Breaks when each report is sent, or when each waits for its write."""

    @app.task(bind=True)
    async def job(self) -> None:
        for done in range(100_000):
            pending = self.progress(done)
            if done % 1000 == 0:
                await pending

    async with app, app.worker():
        handle = await job.enqueue()
        await handle.result(timeout=30)
        assert (await handle.info()).progress["done"] == 99_999
        assert 1 <= len(tracked) <= 1000


async def test_a_retry_shows_the_progress_of_the_run_before(app, log):
    """Breaks when the record of the retry forgets it."""

    @app.task(bind=True)
    async def job(self) -> None:
        await self.progress(7)
        self.retry(countdown=3600)

    async with app, app.worker():
        handle = await job.enqueue()
        await log.heard("job deferred")
        info = await handle.info()
        assert (info.state, info.progress["done"]) == (State.RETRY, 7)


async def test_update_state_is_celerys_and_leaves_the_jobs_state_alone(app, gate, until):
    """Breaks when a state of one's own takes the place of rqueue's: nobody would know whether the job has ended."""

    @app.task(bind=True)
    async def job(self) -> None:
        self.update_state(state="PROGRESS", meta={"current": 1, "raw": b"\x00"})
        await gate()

    async with app, app.worker():
        handle = await job.enqueue()
        await shown(handle, until, state="PROGRESS", data={"current": 1, "raw": b"\x00"})
        assert (await handle.info()).state is State.STARTED
        gate.open()
        await handle.result(timeout=PATIENCE_S)


async def test_what_is_no_progress_is_refused_where_it_is_said(app):
    """Breaks when it is found out only when it is written, where nobody can be told."""
    errors: list[BaseException] = []

    @app.task(bind=True)
    async def job(self) -> None:
        for say in (
            lambda: self.progress("3"),
            lambda: self.progress(True),
            lambda: self.progress(1, total="2"),
            lambda: self.progress(1, bad={1, 2}),
            lambda: self.update_state(state=1),
            lambda: self.progress(1, much="x" * 2_000_000),
        ):
            with pytest.raises((TypeError, MessageTooLarge)) as caught:
                say()
            errors.append(caught.value)

    async with app, app.worker():
        handle = await job.enqueue()
        await handle.result(timeout=PATIENCE_S)
    assert [type(error) for error in errors] == [TypeError] * 5 + [MessageTooLarge]


async def test_redis_away_is_said_once_and_the_newest_is_written_when_it_is_back(app, gate, monkeypatch, log, until):
    """Breaks when a failed write fails the job, floods the log, or is the last."""
    away, track = True, Broker.track

    async def sometimes(self, *arguments, **more):
        if away:
            raise BrokerUnavailable("away")
        return await track(self, *arguments, **more)

    monkeypatch.setattr(Broker, "track", sometimes)

    @app.task(bind=True)
    async def job(self) -> None:
        for done in range(3):
            await self.progress(done)
            await asyncio.sleep(0)
        await gate()

    async with app, app.worker():
        handle = await job.enqueue()
        await gate.reached()
        await log.heard("progress is not written")
        away = False
        await shown(handle, until, done=2)
        gate.open()
        await handle.result(timeout=PATIENCE_S)
    assert len(log.of("progress is not written")) == 1
