"""The running job as its own code sees it: what it is, who enqueued it, and how it asks for another run."""

import asyncio
import contextlib
import math
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import ConfigError, Context, JobFailed, Request, Retry, State, current_request

REQUEST = Request(
    id="a",
    task="t",
    args=(),
    kwargs={},
    queue="default",
    priority=None,
    retries=0,
    losses=0,
    worker="w",
    parent_id=None,
    root_id="a",
)


@pytest.fixture
def context() -> Context:
    return Context(REQUEST)


# --- retry ------------------------------------------------------------------------------------------------------------


def test_retry_raises_by_itself(context):
    with pytest.raises(Retry) as caught:
        context.retry()
    assert (caught.value.defer, caught.value.exc, caught.value.max_retries) == (None, None, ...)


@pytest.mark.parametrize(("countdown", "defer"), [(0, 0.0), (60, 60.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)])
def test_a_countdown_is_seconds(context, countdown, defer):
    with pytest.raises(Retry) as caught:
        context.retry(countdown=countdown, max_retries=None)
    assert caught.value.defer == defer
    assert caught.value.max_retries is None


def test_an_eta_is_a_moment(context):
    before = datetime.now(UTC)
    with pytest.raises(Retry) as caught:
        context.retry(eta=before + timedelta(hours=1))
    passed = (datetime.now(UTC) - before).total_seconds()
    assert 3600 - passed - 0.01 <= caught.value.defer <= 3600.01
    with pytest.raises(Retry) as caught:
        context.retry(eta=before - timedelta(hours=1))
    assert caught.value.defer == 0


def test_the_error_is_its_cause(context):
    error = OSError("away")
    with pytest.raises(Retry) as caught:
        context.retry(exc=error)
    assert caught.value.exc is error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("countdown", [-1, math.nan, math.inf, timedelta(-1), "10", True])
def test_a_wrong_countdown_is_refused(context, countdown):
    with pytest.raises(ConfigError, match="seconds"):
        context.retry(countdown=countdown)


def test_a_wrong_eta_is_refused(context):
    with pytest.raises(ConfigError, match="needs a time zone"):
        context.retry(eta=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="countdown and eta"):
        context.retry(countdown=1, eta=datetime.now(UTC))


@pytest.mark.parametrize("max_retries", [-1, True, "3"])
def test_a_wrong_max_retries_is_refused(context, max_retries):
    with pytest.raises(ConfigError, match="max_retries"):
        context.retry(max_retries=max_retries)


async def test_a_retry_carries_its_error_to_the_end(app):
    """With no retry left the job fails with the error that was given."""

    @app.task(bind=True, max_retries=2)
    async def flaky(self: Context) -> None:
        try:
            raise OSError(f"away {self.request.retries}")  # noqa: TRY301
        except OSError as exc:
            self.retry(exc=exc, countdown=0.001)

    async with app, app.worker():
        job = await flaky.enqueue()
        with pytest.raises(JobFailed, match="OSError: away 2") as caught:
            await job.result(timeout=10)
        assert "OSError: away 2" in caught.value.traceback
        info = await job.info()
        assert (info.state, info.attempts) == (State.FAILURE, 3)


async def test_a_retry_without_an_error_ends_with_what_was_being_handled_as_its_cause(memory_app):
    @memory_app.task(bind=True, max_retries=1)
    async def flaky(self: Context) -> None:
        try:
            raise OSError("away")  # noqa: TRY301
        except OSError:
            self.retry(countdown=0.001)

    async with memory_app, memory_app.worker():
        job = await flaky.enqueue()
        with pytest.raises(JobFailed, match="MaxRetriesExceeded: no retry left after 1: OSError: away") as caught:
            await job.result(timeout=10)
        assert "The above exception was the direct cause" in caught.value.traceback
        (past,) = (await job.info()).history
        assert past.error == "OSError: away"
        assert abs((datetime.now(UTC) - past.at).total_seconds()) < 60


async def test_a_retry_may_change_the_arguments(app):
    """Of all next runs. What is not named stays as it is."""

    @app.task(bind=True)
    async def grow(self: Context, *sizes: int, by: bytes = b"") -> list:
        if self.request.retries == 0:
            self.retry(countdown=0.001, args=(5, 6))
        if self.request.retries == 1:
            self.retry(countdown=0.001, kwargs={"by": b"\xff"}, exc=OSError("again"))
        if self.request.retries == 2:
            self.retry(countdown=0.001)
        return [sizes, by, [past.error for past in self.request.history]]

    async with app, app.worker():
        job = await grow.options(priority=4).enqueue(1, by=b"old")
        assert await job.result(timeout=10) == [[5, 6], b"\xff", ["OSError: again"]]
        assert (await job.info()).history[0].error == "OSError: again"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"args": (1, 2)}, "TypeError: pick(number: object) -> None: too many positional arguments"),
        ({"kwargs": {"other": 1}}, "TypeError"),
        ({"args": 5}, "ConfigError"),
        ({"args": ({1},)}, "TypeError: pick: argument 1 cannot be sent as JSON"),
        ({"args": ("x" * 2_000_000,)}, "MessageTooLarge: pick: the message of the retry has 2,000,1"),
        ({"queue": "no queue"}, "ConfigError: queue 'no queue'"),
    ],
)
async def test_a_retry_that_cannot_be_sent_fails_the_job(memory_app, change, error):
    """As enqueue would. Breaks when the message is stored, and every next run fails, or no worker can read it."""

    @memory_app.task(bind=True, name="pick")
    async def pick(self: Context, number: object) -> None:
        self.retry(countdown=0.001, exc=OSError("away"), **change)

    async with memory_app, memory_app.worker():
        job = await pick.enqueue(1)
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout=10)
        assert error in str(caught.value)
        assert (await job.info()).attempts == 1


async def test_a_retry_without_an_error_says_so_at_the_end(memory_app):
    @memory_app.task(bind=True, max_retries=1)
    def flaky(self: Context) -> None:
        self.retry(countdown=0.001)

    async with memory_app, memory_app.worker():
        with pytest.raises(JobFailed, match="MaxRetriesExceeded"):
            await (await flaky.enqueue()).result(timeout=10)


# --- request ----------------------------------------------------------------------------------------------------------


async def test_the_job_knows_what_it_is(app):
    @app.task(bind=True, max_retries=1)
    async def about(self: Context, a: int, *, b: str) -> dict:
        if not self.request.retries:
            self.retry(countdown=0.001)
        request = self.request
        assert current_request() is request
        return {name: getattr(request, name) for name in Request.__slots__}

    async with app, app.worker(queues=["email"]) as worker:
        job = await about.options(queue="email", priority=7).enqueue(1, b="x")
        assert await job.result(timeout=10) == {
            "id": job.id,
            "task": about.name,
            "args": [1],
            "kwargs": {"b": "x"},
            "queue": "email",
            "priority": 7,
            "retries": 1,
            "losses": 0,
            "worker": worker.id,
            "parent_id": None,
            "root_id": job.id,
            "history": [],
            "headers": {},
        }


async def test_a_plain_function_knows_it_in_its_thread(app):
    @app.task
    def about() -> str | None:
        request = current_request()
        return request.id if request else None

    async with app, app.worker():
        job = await about.enqueue()
        assert await job.result(timeout=10) == job.id


async def test_outside_a_job_there_is_none(memory_app):
    @memory_app.task
    async def nothing() -> None: ...

    assert current_request() is None
    async with memory_app, memory_app.worker():
        await (await nothing.enqueue()).result(timeout=10)
    assert current_request() is None


async def test_jobs_side_by_side_know_each_its_own(memory_app):
    both = asyncio.Barrier(2)

    @memory_app.task
    async def who() -> list[str]:
        await both.wait()
        first = current_request().id
        await both.wait()
        return [first, current_request().id]

    async with memory_app, memory_app.worker():
        jobs = [await who.enqueue(), await who.enqueue()]
        assert [await job.result(timeout=10) for job in jobs] == [[job.id] * 2 for job in jobs]


async def test_a_line_of_jobs_carries_its_parent_and_root(app):
    @app.task(bind=True)
    async def child(self: Context) -> list:
        return [self.request.parent_id, self.request.root_id]

    @app.task(bind=True)
    async def middle(self: Context) -> list:
        job = await child.enqueue()
        return [self.request.parent_id, self.request.root_id, *await job.result(timeout=10)]

    @app.task(bind=True)
    async def first(self: Context) -> list:
        job = await middle.enqueue()
        return [self.request.parent_id, self.request.root_id, job.id, *await job.result(timeout=10)]

    async with app, app.worker():
        job = await first.enqueue()
        parent, root, middle_id, *below = await job.result(timeout=10)
        assert (parent, root) == (None, job.id)
        assert below == [job.id, job.id, middle_id, job.id]
        info = await app.job(middle_id).info()
        assert (info.parent_id, info.root_id) == (job.id, job.id)


async def test_what_a_finished_job_left_running_still_names_it(memory_app):
    """A coroutine task may start asyncio tasks of its own: they run in its context."""
    kept: list[asyncio.Task] = []

    @memory_app.task
    async def starts() -> None:
        async def later() -> str:
            return current_request().id

        kept.append(asyncio.create_task(later()))

    async with memory_app, memory_app.worker():
        job = await starts.enqueue()
        with contextlib.suppress(TimeoutError):
            await job.result(timeout=10)
        assert await kept[0] == job.id


async def test_a_job_reads_its_headers_and_its_children_have_none(app):
    """They are what one call is given. Breaks when they are inherited, or cost a message without them a byte."""

    @app.task(bind=True)
    async def child(self):
        return dict(self.request.headers)

    @app.task(bind=True)
    async def parent(self):
        return [dict(self.request.headers), (await child.enqueue()).id]

    async with app, app.worker():
        given = {"tenant": "acme", "raw": b"\0", "n": [1, None]}
        mine, child_id = await (await parent.options(headers=given).enqueue()).result(10)
        assert mine == given
        assert await app.job(child_id).result(10) == {}
        assert await (await child.options(headers={}).enqueue()).result(10) == {}
        with pytest.raises(TypeError, match="header 'x' cannot be sent as JSON"):
            await child.options(headers={"x": {1, 2}}).enqueue()
