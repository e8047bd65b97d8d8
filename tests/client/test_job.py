"""A handle on a job: its result or the error that it stands for, and what is known of it in each state."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import (
    JobError,
    JobExpired,
    JobFailed,
    JobInfo,
    JobNotFound,
    JobRevoked,
    Queue,
    ResultNotKept,
    State,
    WaitTimeout,
)
from rqueue.client.job import value_of
from rqueue.client.options import TaskOptions

PAST = datetime(2020, 1, 1, tzinfo=UTC)


# --- result -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": [1.5, None]}, b"\x00", True])
async def test_the_value_comes_back_as_it_is(app, value):
    @app.task
    async def job() -> object:
        return value

    async with app, app.worker():
        assert await (await job.enqueue()).result(timeout=10) == value


async def test_a_failure_carries_its_cause(app):
    @app.task
    def job() -> None:
        raise LookupError("no such book")

    async with app, app.worker():
        handle = await job.enqueue()
        with pytest.raises(JobFailed) as caught:
            await handle.result(timeout=10)
    error = caught.value
    assert (error.job_id, error.error_type, error.message) == (handle.id, "LookupError", "no such book")
    assert 'raise LookupError("no such book")' in error.traceback
    assert str(error) == f"job {handle.id} failed: LookupError: no such book"


async def test_an_expired_job_is_never_started(app):
    @app.task
    async def job() -> None:
        raise AssertionError("it must not start")

    async with app, app.worker():
        handle = await job.options(expires=PAST).enqueue()
        with pytest.raises(JobExpired, match=handle.id) as caught:
            await handle.result(timeout=10)
        assert isinstance(caught.value, JobRevoked)
        info = await handle.info()
        assert (info.state, info.error, info.is_dead) == (
            State.REVOKED,
            "JobExpired: it could not be started in time",
            False,
        )


async def test_a_wait_that_is_over_can_be_taken_up_again(app):
    go_on = asyncio.Event()

    @app.task
    async def job() -> int:
        await go_on.wait()
        return 1

    async with app, app.worker():
        handle = await job.enqueue()
        for _ in range(2):
            with pytest.raises(WaitTimeout) as caught:
                await handle.result(timeout=0.05)
            assert isinstance(caught.value, TimeoutError)
            assert str(caught.value) == f"job {handle.id} had not ended after 0.05 s; it goes on"
        go_on.set()
        assert await handle.result(timeout=10) == 1


async def test_a_job_that_has_ended_needs_no_time(app):
    """`timeout=0` asks and does not wait; any time is enough for what is there already."""

    @app.task
    async def job() -> int:
        return 1

    async with app, app.worker() as worker:
        handle = await job.enqueue()
        await worker.drain()
        assert await handle.result(timeout=0) == 1


async def test_a_surrounding_timeout_stays_its_own(app):
    @app.task
    async def job() -> None: ...

    async with app:
        handle = await job.enqueue()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await handle.result()
        assert not isinstance(caught.value, WaitTimeout)


async def test_an_unknown_id_is_not_found(app):
    async with app:
        for handle in (app.job("nobody"), app.job("nobody", "default")):
            with pytest.raises(JobNotFound) as caught:
                await handle.result(timeout=10)
            assert isinstance(caught.value, LookupError)
            assert caught.value.job_id == "nobody"
            with pytest.raises(JobNotFound):
                await handle.info()


async def test_a_result_lives_as_long_as_it_should(url, new_app, store):
    app = new_app(url, result_ttl=100)

    @app.task
    async def apps() -> int:
        return 1

    @app.task(result_ttl=timedelta(seconds=30))
    async def own() -> int:
        return 2

    @app.task(result_ttl=None)
    async def for_ever() -> int:
        return 3

    @app.task(result_ttl=0)
    async def not_at_all() -> int:
        return 4

    @app.task(ignore_result=True)
    async def ignored() -> int:
        return 5

    async with app, app.worker() as worker:
        handles = [await task.enqueue() for task in (apps, own, for_ever, not_at_all, ignored)]
        await worker.drain()
        look = store(app).redis
        ttls = [look.ttl(f"rqueue:{{default}}:result:{handle.id}") for handle in handles]
        assert 90 < ttls[0] <= 100
        assert 20 < ttls[1] <= 30
        assert ttls[2:] == [-1, -2, -2]
        assert [await handle.result(timeout=10) for handle in handles[:3]] == [1, 2, 3]
        for handle in handles[3:]:
            with pytest.raises(JobNotFound):
                await handle.result(timeout=10)


@pytest.mark.parametrize(("option", "value"), [({"result_ttl": 0}, 1), ({"ignore_result": True}, None)])
async def test_who_waits_in_time_hears_of_a_result_that_is_not_kept(app, option, value):
    go_on = asyncio.Event()

    @app.task(**option)
    async def job() -> int:
        await go_on.wait()
        return 1

    async with app, app.worker():
        handle = await job.enqueue()
        waiter = asyncio.create_task(handle.result(timeout=10))
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.1)
        go_on.set()
        assert await waiter == value


# --- info -------------------------------------------------------------------------------------------------------------


async def test_what_is_known_of_a_waiting_or_scheduled_job(app):
    @app.task
    async def job() -> None: ...

    async with app:
        for handle in (await job.enqueue(), await job.options(countdown=60).enqueue()):
            assert await handle.info() == JobInfo(handle.id, "default", State.PENDING)


async def test_what_is_known_of_a_running_job(app):
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.task(track_started=True)
    async def tracked() -> None:
        started.set()
        await go_on.wait()

    @app.task
    async def untracked() -> None:
        await go_on.wait()

    async with app, app.worker() as worker:
        handle, silent = await tracked.enqueue(), await untracked.enqueue()
        await started.wait()
        async with asyncio.timeout(5):
            while (info := await handle.info()).state is State.PENDING:
                pass
        assert (info.state, info.task, info.worker, info.attempts) == (State.STARTED, tracked.name, worker.id, 1)
        assert info.started is not None
        assert info.enqueued <= info.started
        assert info.finished is None
        assert (await silent.info()).state is State.PENDING
        go_on.set()
        await handle.result(timeout=10)


async def test_what_is_known_of_a_job_that_runs_again(app):
    @app.task(bind=True, max_retries=3)
    async def job(self) -> None:
        self.retry(exc=OSError("away"), countdown=60)

    async with app, app.worker() as worker:
        handle = await job.enqueue()
        await worker.drain()
        info = await handle.info()
        assert (info.state, info.error, info.task) == (State.RETRY, "OSError: away", job.name)
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.05)


async def test_what_is_known_of_a_job_that_succeeded(app):
    @app.task
    async def job() -> dict:
        return {"a": b"b"}

    async with app, app.worker() as worker:
        before = datetime.now(UTC) - timedelta(seconds=1)
        handle = await job.enqueue()
        await handle.result(timeout=10)
        info = await handle.info()
        assert (info.id, info.queue, info.state, info.task) == (handle.id, "default", State.SUCCESS, job.name)
        assert (info.result, info.error, info.traceback) == ({"a": b"b"}, None, None)
        assert (info.attempts, info.losses, info.worker, info.is_dead) == (1, 0, worker.id, False)
        assert before <= info.enqueued <= info.started <= info.finished <= datetime.now(UTC) + timedelta(seconds=1)


async def test_what_is_known_of_a_job_that_failed(app):
    @app.task
    async def buried() -> None:
        raise ValueError("no")

    @app.task(dead_letter=False)
    async def forgotten() -> None:
        raise ValueError("no")

    async with app, app.worker() as worker:
        handles = [await buried.enqueue(), await forgotten.enqueue()]
        await worker.drain()
        infos = [await handle.info() for handle in handles]
        assert [(info.state, info.error, info.is_dead) for info in infos] == [
            (State.FAILURE, "ValueError: no", True),
            (State.FAILURE, "ValueError: no", False),
        ]
        assert "raise ValueError" in infos[0].traceback


async def test_a_dead_letter_is_known_after_its_record_is_gone(app, store):
    @app.task
    async def job() -> None:
        raise ValueError("no")

    async with app, app.worker() as worker:
        handle = await job.enqueue()
        await worker.drain()
        store(app).redis.delete(f"rqueue:{{default}}:result:{handle.id}")
        info = await handle.info()
        assert (info.state, info.is_dead) == (State.FAILURE, True)


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_value_that_redis_had_no_room_for_says_so():
    with pytest.raises(ResultNotKept, match="job a succeeded"):
        value_of("a", b'{"state":"SUCCESS","dropped":true}')


def test_an_error_that_redis_had_no_room_for_is_still_a_failure():
    with pytest.raises(JobFailed, match="too full"):
        value_of("a", b'{"state":"FAILURE","dropped":true}')


def test_a_revoked_job_is_told_from_an_expired_one():
    with pytest.raises(JobRevoked) as caught:
        value_of("a", b'{"state":"REVOKED"}')
    assert type(caught.value) is JobRevoked
    with pytest.raises(JobExpired):
        value_of("a", b'{"state":"REVOKED","error":{"type":"JobExpired","message":""}}')


def test_each_end_is_a_job_error():
    for kind in (JobFailed, JobRevoked, JobExpired, JobNotFound, ResultNotKept):
        assert issubclass(kind, JobError)
    assert not issubclass(WaitTimeout, JobError)


async def test_a_handle_shows_what_it_is(memory_app):
    job = memory_app.job("a", "email")
    assert repr(job) == "Job('a', queue='email')"


# --- a job that goes on in another queue ------------------------------------------------------------------------------


def wanderer(app, **options):
    """A task that goes to the queues that it is given, one after the other, and tells where it ran."""

    @app.task(bind=True, name="wander", max_retries=None, default_retry_delay=0.001, **options)
    async def wander(self, *queues: str, been: tuple[str, ...] = ()) -> list:
        been = [*been, self.request.queue]
        if queues:
            self.retry(queue=queues[0], args=queues[1:], kwargs={"been": been}, exc=OSError(f"not in {been[-1]}"))
        return [been, self.request.id, self.request.priority, [past.error for past in self.request.history]]

    return wander


@pytest.mark.parametrize("way", [["b"], ["b", "c"], ["b", "a"], ["b", "a", "b", "a"], ["a", "b", "b"]])
async def test_a_job_is_followed_from_queue_to_queue(url, new_app, way):
    """By the handle of its first queue, from before it moves and afterwards, and by its id alone. It keeps its id, its
    priority and its history. Breaks when a record that says RETRY is waited for, or is taken for an abandoned job's.
    """
    app = new_app(url, queues=[Queue("a"), Queue("b"), Queue("c")])
    wander = wanderer(app)
    async with app, app.worker(["a"]), app.worker(["b", "c"]) as other:
        job = await wander.options(queue="a", priority=4).enqueue(*way)
        value = await job.result(timeout=10)
        errors = [f"OSError: not in {queue}" for queue in ["a", *way][:-1]]
        assert value == [["a", *way], job.id, 4, errors]
        for handle in (job, app.job(job.id)):
            assert await handle.result(timeout=10) == await handle.result(timeout=0) == value
            assert [event.state for event in [each async for each in handle.events(timeout=10)]][-1:] == ["SUCCESS"]
            info = await handle.info()
            assert (info.queue, info.state, info.attempts) == (way[-1], State.SUCCESS, 1 + len(way))
            assert [past.error for past in info.history] == errors
        await other.drain(scheduled=True)


async def test_a_job_that_was_settled_before_it_started_moves_too(app):
    wander = wanderer(app, acks_late=False)
    async with app, app.worker(["default", "other"]) as worker:
        job = await wander.enqueue("other")
        assert (await job.result(timeout=10))[0] == ["default", "other"]
        await worker.drain(scheduled=True)


async def test_while_a_job_waits_to_move_its_error_is_told(app):
    wander = wanderer(app)
    wander.defaults = TaskOptions(name="wander", default_retry_delay=600)
    async with app, app.worker(["default"]):
        job = await wander.enqueue("other")
        async with asyncio.timeout(10):
            while (info := await job.info()).state is not State.RETRY:
                await asyncio.sleep(0)
        assert (info.queue, info.error) == ("default", "OSError: not in default")


async def test_records_that_point_in_a_circle_have_an_end(memory_app, monkeypatch):
    """Only somebody else can have written them. Breaks when a look never ends."""
    monkeypatch.setattr("rqueue.client.results.MOST_MOVES", 10)
    async with memory_app:
        call = memory_app.session().broker._link.call
        for here, there in (("a", "b"), ("b", "a")):
            record = b'{"state":"RETRY","moved":"%s"}' % there.encode()
            await call(b"SET", memory_app.keys.queue(here).result("j"), record)
        for queue in ("a", None):
            with pytest.raises(JobNotFound):
                await memory_app.job("j", queue).info()
        with pytest.raises(JobNotFound):
            await memory_app.job("j", "a").result(timeout=10)
