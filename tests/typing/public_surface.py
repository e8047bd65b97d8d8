"""The public face as a type checker sees it: each call has the types of the task's own function. Never run."""

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from rqueue import (
    Cancellations,
    Cancelled,
    Context,
    Depends,
    Event,
    Events,
    Job,
    JobInfo,
    JobOutcome,
    PastError,
    Pause,
    Queue,
    Reject,
    Request,
    Resumed,
    Retry,
    RQueue,
    ScheduleInfo,
    Signature,
    Snooze,
    State,
    SyncJob,
    Task,
    cron,
    current_request,
    every,
)

app = RQueue(
    "memory://",
    queues=[Queue("default", priority=5), "email"],
    routes={"*.email.*": "email"},
    result_ttl=timedelta(hours=1),
    enqueue_timeout=2,
    durability="replicated",
    replicas=2,
)


@app.task
async def plain_async(a: int, b: str = "") -> dict[str, int]:
    return {b: a}


@app.periodic(every(minutes=5), name="often", args=[1], misfire="once", overlap="skip")
@app.periodic(cron("@daily", tz="Europe/Berlin"), args=[1])
@app.task
async def ticking(a: int) -> str:
    return str(a)


app.add_periodic(every(seconds=30), ticking, name="by-task", args=[1], misfire_grace=timedelta(minutes=1))


@app.task
def plain_sync(a: int, *, flag: bool = False) -> str:
    return str(a) * flag


@app.task(queue="email", max_retries=5, autoretry_for=(ConnectionError,), retry_backoff=True)
async def with_options(fir_id: str) -> list[str]:
    return [fir_id]


@app.task(priority=3, expires=timedelta(minutes=1), default_retry_delay=0.5, result_ttl=None)
def with_options_sync(fir_id: str) -> bytes:
    return fir_id.encode()


@app.task(time_limit=30, soft_time_limit=timedelta(seconds=20))
async def with_limits(fir_id: str) -> str:
    return fir_id


@app.task(unique="until_start", unique_key="{fir_id}")
async def with_lock(fir_id: str) -> str:
    return fir_id


@app.task(bind=True, max_retries=3)
def bound_sync(self: Context, a: int, b: int) -> int:
    assert_type(self.request, Request)
    try:
        return a // b
    except OSError as exc:
        self.retry(exc=exc, countdown=60)


@app.task(bind=True)
async def bound_async(self: Context, name: str) -> float | None:
    if not name:
        self.retry(eta=datetime.now(UTC) + timedelta(hours=1), max_retries=None)
    return None


@app.task(bind=True, throws=(LookupError,), autoretry_for=(Exception,), dont_autoretry_for=(OSError,))
def signalling(self: Context, name: str) -> str:
    assert_type(self.request.history, tuple[PastError, ...])
    if name == "later":
        raise Snooze(timedelta(minutes=1))
    if name == "never":
        raise Reject(ValueError(name), requeue=False)
    if name == "again":
        raise Retry(timedelta(minutes=1), args=[name], kwargs={}, queue="email")
    self.retry(args=("again",), kwargs={"flag": True}, queue="email")


@app.task(bind=False, name="other.name")
async def not_bound(a: int) -> None: ...


@app.task
async def without_arguments() -> tuple[int, str]:
    return 1, "a"


@app.task
def gives_awaitable(a: int) -> Awaitable[bool]:
    raise NotImplementedError


@app.task
async def variadic(*numbers: int, **names: str) -> int:
    return len(numbers) + len(names)


class Client:
    """A class is a provider as well; one that is a context manager is still itself."""

    async def __aenter__(self) -> int:
        raise NotImplementedError

    async def __aexit__(self, *error: object) -> None: ...


def provides() -> Client:
    raise NotImplementedError


async def provides_later() -> Client:
    raise NotImplementedError


def yields() -> Iterator[Client]:
    raise NotImplementedError


async def yields_later() -> AsyncIterator[Client]:
    yield Client()


@contextmanager
def manages(size: int = 5) -> Iterator[Client]:
    yield Client()


@asynccontextmanager
async def manages_later(client: Client = Depends(yields_later)) -> AsyncIterator[Client]:
    yield client


def depends() -> None:
    assert_type(Depends(Client), Client)
    assert_type(Depends(provides), Client)
    assert_type(Depends(provides_later), Client)
    assert_type(Depends(yields), Client)
    assert_type(Depends(yields_later), Client)
    assert_type(Depends(manages), Client)
    assert_type(Depends(manages_later), Client)
    assert_type(Depends(lambda: 5), int)


@app.task
async def with_resources(url: str, client: Client = Depends(manages_later)) -> int:
    raise NotImplementedError


@app.task(bind=True)
def bound_with_resources(self: Context, url: str, *, client: Client = Depends(yields)) -> int:
    raise NotImplementedError


@asynccontextmanager
async def lifespan(app: RQueue) -> AsyncIterator[None]:
    yield


async def bare_lifespan(app: RQueue) -> AsyncIterator[None]:
    yield


with_lifespan = RQueue("memory://", lifespan=lifespan)
with_bare_lifespan = RQueue("memory://", lifespan=bare_lifespan)


@app.on_startup
async def starts() -> None: ...


@app.on_shutdown
def ends() -> None: ...


async def resources() -> None:
    assert_type(await with_resources.enqueue("x"), Job[int])
    assert_type(await bound_with_resources.enqueue("x"), Job[int])
    app.dependency_overrides[manages_later] = Client
    await starts()
    ends()
    async with app.resources():
        await with_resources("x")


async def enqueue() -> None:
    assert_type(await plain_async.enqueue(1, b="x"), Job[dict[str, int]])
    assert_type(await plain_sync.enqueue(1, flag=True), Job[str])
    assert_type(await with_options.enqueue("fir-1"), Job[list[str]])
    assert_type(await with_options_sync.enqueue("fir-1"), Job[bytes])
    assert_type(await bound_sync.enqueue(1, b=2), Job[int])
    assert_type(await bound_async.enqueue("x"), Job[float | None])
    assert_type(await not_bound.enqueue(1), Job[None])
    assert_type(await without_arguments.enqueue(), Job[tuple[int, str]])
    assert_type(await gives_awaitable.enqueue(1), Job[bool])
    assert_type(await variadic.enqueue(1, 2, a="b"), Job[int])


async def options() -> None:
    prepared = plain_async.options(
        queue="email", priority=9, countdown=10, job_id="custom", max_retries=None, expires=timedelta(seconds=5)
    )
    assert_type(await prepared.enqueue(1, b="x"), Job[dict[str, int]])
    assert_type(await prepared.options(task_id="other", eta=datetime.now(UTC)).enqueue(1), Job[dict[str, int]])
    assert_type(await bound_sync.options(countdown=timedelta(seconds=1)).enqueue(1, 2), Job[int])
    assert_type(await with_limits.options(time_limit=timedelta(minutes=1)).enqueue("a"), Job[str])
    assert_type(with_limits.apply_async(("a",), time_limit=5, soft_time_limit=None), SyncJob[str])
    assert_type(await with_lock.options(unique=timedelta(minutes=1)).enqueue("a"), Job[str])
    assert_type(await with_lock.options(debounce=5, unique_key=lambda fir_id: fir_id).enqueue("a"), Job[str])
    assert_type(with_lock.apply_async(("a",), throttle=timedelta(hours=1)), SyncJob[str])
    assert_type(prepared.s(1), Signature[dict[str, int]])
    assert_type(prepared.delay(1), SyncJob[dict[str, int]])


async def many() -> None:
    assert_type(plain_async.s(1), Signature[dict[str, int]])
    assert_type(bound_async.s("x"), Signature[float | None])
    assert_type(await app.enqueue_many([plain_async.s(1), bound_sync.s(1, 2)]), list[Job[Any]])
    assert_type(await app.enqueue(plain_sync.s(1)), Job[str])


async def enqueue_in(session: AsyncSession, connection: AsyncConnection, sync: Session, other: Connection) -> None:
    assert_type(await plain_async.enqueue_in(session, 1, b="x"), Job[dict[str, int]])
    assert_type(await bound_sync.enqueue_in(connection, 1, b=2), Job[int])
    assert_type(await plain_async.options(priority=9).enqueue_in(session, 1), Job[dict[str, int]])
    assert_type(await app.enqueue_many_in(session, [plain_async.s(1), bound_sync.s(1, 2)]), list[Job[Any]])
    assert_type(plain_sync.delay_in(sync, 1, flag=True), SyncJob[str])
    assert_type(plain_async.options(countdown=1).delay_in(other, 1), SyncJob[dict[str, int]])


async def results() -> None:
    job = await plain_async.enqueue(1)
    assert_type(await job.result(), dict[str, int])
    assert_type(await job.result(timeout=30), dict[str, int])
    assert_type((await bound_async.enqueue("x")).id, str)
    info = await job.info()
    assert_type(info, JobInfo)
    assert_type(await job.cancel(terminate=True), Cancelled)
    assert_type(info.state, State)
    assert_type(info.finished, datetime | None)
    assert_type(app.job("some-id"), Job[Any])
    wider: Job[object] = job
    assert_type(await wider.result(), object)


def synchronous() -> None:
    job = plain_sync.delay(1, flag=True)
    assert_type(job, SyncJob[str])
    assert_type(job.get(timeout=1), str)
    assert_type(job.state, State)
    assert_type(job.info(), JobInfo)
    assert_type(job.cancel(), Cancelled)
    assert_type(bound_async.delay("x").get(), float | None)
    assert_type(plain_async.apply_async((1,), {"b": "x"}, countdown=1), SyncJob[dict[str, int]])


async def schedules() -> None:
    assert_type(await ticking.enqueue(1), Job[str])
    assert_type(await app.schedules.add(every(hours=1), ticking, name="x", args=[1]), ScheduleInfo)
    assert_type((await app.schedules.edit("x", schedule=cron("@daily"), priority=None)).due, datetime | None)
    assert_type(await app.schedules.trigger("x"), Job[Any])


async def watched() -> None:
    job = await plain_async.enqueue(1)
    async for event in job.events(timeout=1):
        assert_type(event, Event)
        assert_type(event.state, State)
    async with app.events(task=plain_async) as events:
        assert_type(events, Events)
        async for event in events:
            assert_type(event.info, JobInfo)
    assert_type((await job.info()).progress, dict[str, Any] | None)


@plain_async.on_success
async def hooked(outcome: JobOutcome) -> None: ...


@app.on_dead
def buried(outcome: JobOutcome) -> int:
    return outcome.retries


async def the_rest() -> None:
    assert_type(buried(JobOutcome("1", None, (), {}, "default", State.FAILURE)), int)
    assert_type(plain_async.name, str)
    task: Task[[str], list[str]] = with_options
    assert_type(await task.enqueue("fir-1"), Job[list[str]])
    assert_type(current_request(), Request | None)
    async with app as opened, opened.worker(queues=["email"], concurrency=10) as worker:
        assert_type(opened, RQueue)
        assert_type(worker.id, str)
        await worker.drain(scheduled=True)


async def pausing() -> None:
    assert_type(await app.pause("email"), bool)
    assert_type(await app.pause(task=plain_async), bool)
    assert_type(await app.resume(all=True), Resumed)
    assert_type(await app.paused(), list[Pause])
    assert_type([pause.since for pause in await app.paused()], list[datetime])


async def cancelling() -> None:
    assert_type(await app.cancel(task=plain_async, header=("tenant", "acme")), Cancellations)
    assert_type(await app.cancel(task="a.b", queue="email", terminate=True, dry_run=True), Cancellations)
    assert_type(await plain_async.options(headers={"tenant": "acme"}).enqueue(1), Job[dict[str, int]])
