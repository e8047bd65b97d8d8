"""For tests of programs that use rqueue: the app moves into memory as a whole, and back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import ConfigError, JobExpired, JobFailed, JobNotFound, MessageTooLarge, RQueue, State, current_request
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.scripts import SCRIPTS
from rqueue.testing import eager, in_memory, moving_clock, working


@pytest.fixture
def app(redis_url: str) -> RQueue:
    return RQueue(redis_url)


def task_of(app: RQueue):
    @app.task(name="echo")
    async def echo(value: object) -> object:
        return value

    return echo


# --- in memory --------------------------------------------------------------------------------------------------------


async def test_an_app_in_memory_leaves_its_store_of_results_alone(redis_url):
    """Breaks when a program's tests write into the database that its settings name."""
    app = RQueue(redis_url, results="redis://127.0.0.1:1/0")
    kept = app.config
    echo = task_of(app)
    with in_memory(app):
        async with working(app):
            assert await (await echo.enqueue(1)).result(timeout=10) == 1
        with pytest.raises(JobNotFound):
            await app.job("unknown").info()
    assert app.config is kept


async def test_an_app_in_memory_leaves_its_redis_alone(app):
    echo = task_of(app)
    with in_memory(app):
        job = await echo.enqueue(1)
        assert (await job.info()).state is State.PENDING
    with pytest.raises(JobNotFound):
        await job.info()
    await app.close()


async def test_an_open_app_moves_as_well(app):
    """What was open before must not be used inside, nor what was opened inside afterwards."""
    echo = task_of(app)
    async with app:
        outside = await echo.enqueue(1)
        with in_memory(app):
            with pytest.raises(JobNotFound):
                await app.job(outside.id, "default").info()
            inside = await echo.enqueue(2)
            assert (await inside.info()).state is State.PENDING
        assert (await outside.info()).state is State.PENDING
        with pytest.raises(JobNotFound):
            await inside.info()


def test_synchronous_code_moves_as_well(app):
    echo = task_of(app)
    outside = echo.delay(1)
    for _ in range(2):
        with in_memory(app):
            with pytest.raises(JobNotFound):
                outside.info()
            inside = echo.options(job_id="same").delay(2)
            assert not inside.duplicate
    assert outside.info().state is State.PENDING
    asyncio.run(app.close())


async def test_each_block_is_empty_at_first(app):
    echo = task_of(app)
    for _ in range(2):
        with in_memory(app):
            assert not (await echo.options(job_id="same").enqueue(1)).duplicate
            assert (await echo.options(job_id="same").enqueue(1)).duplicate
            await app.close()


async def test_after_an_error_the_app_is_back(app):
    endpoint = app.endpoint
    with pytest.raises(LookupError), in_memory(app):
        raise LookupError
    with pytest.raises(LookupError), eager(app):
        raise LookupError
    assert app.endpoint is endpoint
    assert app.eager is None


async def test_a_worker_works_while_the_block_lasts(app):
    echo = task_of(app)
    with in_memory(app):
        async with working(app, concurrency=2) as worker:
            jobs = [await echo.enqueue(n) for n in range(10)]
            await worker.drain()
            assert [await job.result(timeout=1) for job in jobs] == list(range(10))
        assert not app._sessions


# --- eager ------------------------------------------------------------------------------------------------------------


async def test_an_eager_job_has_ended_when_enqueue_returns(app):
    ran: list[object] = []

    @app.task
    async def job(value: object) -> object:
        ran.append(value)
        return value

    with eager(app):
        handle = await job.options(countdown=3600, priority=9).enqueue("a")
        assert ran == ["a"]
        assert await handle.result(timeout=1) == "a"
        info = await handle.info()
        assert (info.state, info.task, info.attempts) == (State.SUCCESS, job.name, 1)
        many = await app.enqueue_many([job.s("b"), job.options(queue="other").s("c")])
        assert ran == ["a", "b", "c"]
        assert [await each.result(timeout=1) for each in many] == ["b", "c"]


async def test_eager_arguments_and_results_go_through_the_encoding(app):
    kinds: list[object] = []

    @app.task
    async def job(value: object) -> object:
        kinds.append(value)
        return value

    with eager(app):
        assert await (await job.enqueue((1, b"\xff"))).result(timeout=1) == [1, b"\xff"]
        assert kinds == [[1, b"\xff"]]
        with pytest.raises(TypeError, match="argument 1 cannot be sent as JSON"):
            await job.enqueue({1})
        with pytest.raises(TypeError, match="missing a required argument"):
            await job.enqueue()
        with pytest.raises(MessageTooLarge):
            await job.enqueue("x" * 2_000_000)
        assert len(kinds) == 1


async def test_an_eager_result_that_is_not_json_fails_the_job(app):
    @app.task
    async def job() -> set:
        return {1}

    with eager(app), pytest.raises(JobFailed, match="ResultError"):
        await (await job.enqueue()).result(timeout=1)


async def test_an_eager_failure_is_raised_by_result_and_not_by_enqueue(app):
    @app.task
    def job() -> None:
        raise LookupError("no such book")

    with eager(app):
        handle = await job.enqueue()
        with pytest.raises(JobFailed, match="LookupError: no such book"):
            await handle.result(timeout=1)
        assert (await handle.info()).state is State.FAILURE


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_an_eager_job_ends_itself_and_not_the_test(app, kind):
    @app.task
    async def job() -> None:
        raise kind("stop")

    with eager(app), pytest.raises(JobFailed, match=kind.__name__):
        await (await job.enqueue()).result(timeout=1)


async def test_eager_retries_follow_each_other_at_once(app):
    runs: list[int] = []

    @app.task(bind=True, max_retries=2, default_retry_delay=3600)
    async def by_hand(self) -> int:
        runs.append(self.request.retries)
        if self.request.retries < 2:
            self.retry()
        return self.request.retries

    @app.task(autoretry_for=(OSError,), max_retries=3, retry_backoff=3600)
    async def by_itself() -> None:
        runs.append(-1)
        raise OSError("away")

    with eager(app):
        assert await (await by_hand.enqueue()).result(timeout=1) == 2
        assert runs == [0, 1, 2]
        with pytest.raises(JobFailed, match="OSError: away"):
            await (await by_itself.enqueue()).result(timeout=1)
        assert runs == [0, 1, 2, -1, -1, -1, -1]


async def test_an_eager_job_that_expired_is_not_run(app):
    with eager(app):
        handle = await task_of(app).options(expires=datetime(2020, 1, 1, tzinfo=UTC)).enqueue(1)
        with pytest.raises(JobExpired):
            await handle.result(timeout=1)


async def test_eager_jobs_enqueue_eager_jobs(app):
    @app.task(bind=True)
    async def inner(self) -> list:
        return [self.request.parent_id, self.request.root_id, self.request.priority]

    @app.task(bind=True)
    async def outer(self) -> list:
        handle = await inner.enqueue()
        return [self.request.id, *await handle.result(timeout=1)]

    with eager(app):
        handle = await outer.options(priority=4).enqueue()
        assert await handle.result(timeout=1) == [handle.id, handle.id, handle.id, 4]
        assert current_request() is None


def test_eager_jobs_from_synchronous_code(app):
    echo = task_of(app)

    @app.task
    def fails() -> None:
        raise LookupError("no")

    with eager(app):
        job = echo.delay((1, b"a"))
        assert job.state is State.SUCCESS
        assert job.get(timeout=1) == [1, b"a"]
        assert echo.apply_async((2,), countdown=60).get(timeout=1) == 2
        with pytest.raises(TypeError, match="argument 1"):
            echo.delay({1})
        with pytest.raises(JobFailed, match="LookupError: no"):
            fails.delay().get(timeout=1)


def test_a_plain_eager_function_may_enqueue_with_delay(app):
    """In a worker it runs in a thread, where `delay` is right; what is right there must not fail in a test."""
    echo = task_of(app)

    @app.task
    def outer() -> str:
        return echo.delay(1).id

    with eager(app):
        job_id = outer.delay().get(timeout=1)
        info = echo.delay(0)._call(app.job(job_id).info)
        assert (info.state, info.result) == (State.SUCCESS, 1)


async def test_a_plain_eager_function_runs_off_the_loop(app):
    """As in a worker: what needs a thread without a loop (`asyncio.run`, `delay`) works in a test too."""

    @app.task
    def job() -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return "in a thread"
        return "on the loop"

    with eager(app):
        assert await (await job.enqueue()).result(timeout=1) == "in a thread"


async def test_an_app_can_be_eager_from_its_beginning():
    app = RQueue("memory://", eager=True)
    echo = task_of(app)
    async with app:
        assert await (await echo.enqueue(1)).result(timeout=1) == 1


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_moved_makes_jobs_due(url):
    """An hour passes at once; the worker keeps its lease, though by the clock it has run out."""
    app = RQueue(url)
    echo = task_of(app)
    async with moving_clock(app) as clock, working(app) as worker:
        before = clock.now()
        late = await echo.options(countdown=3600).enqueue(1)
        later = await echo.options(eta=before + timedelta(hours=2)).enqueue(2)
        assert await (await echo.enqueue(0)).result(10) == 0
        assert (await late.info()).state is State.PENDING
        name = worker.id
        await clock.move(timedelta(minutes=61))
        assert await late.result(10) == 1
        assert (await later.info()).state is State.PENDING
        assert timedelta(minutes=61) <= clock.now() - before < timedelta(minutes=62)
        await clock.move_to(before + timedelta(hours=2, seconds=1))
        assert await later.result(10) == 2
        assert worker.id == name
    async with app:
        info = await later.info()
        assert info.finished is not None
        assert info.finished - before >= timedelta(hours=2), "what is stored has that time too"


async def test_a_clock_is_given_back(url):
    app = RQueue(url)
    echo = task_of(app)
    async with app:
        async with moving_clock(app) as clock:
            await clock.move(3600)
            stale = await echo.options(expires=60).enqueue(1)
            with pytest.raises(ConfigError, match="needs a time zone"):
                await clock.move_to(datetime(2030, 1, 1))  # noqa: DTZ001 - that is what is refused
        async with working(app), moving_clock(app) as clock:
            assert clock.now() - datetime.now(UTC) < timedelta(minutes=1)
            assert await stale.result(10) == 1, "by the clock of now it has an hour left"
            late = await echo.options(expires=60, countdown=61).enqueue(2)
            await clock.move(62)
            with pytest.raises(JobExpired):
                await late.result(10)


async def test_scripts_without_a_moved_clock_are_what_they_were():
    """Nobody who does not move the clock pays for it."""
    assert Endpoint("redis://localhost").scripts is SCRIPTS
    assert not any(b"rqueue_time" in script.source for script in SCRIPTS.values())
