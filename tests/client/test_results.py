"""What became of a job: Redis goes first, and the store knows what Redis does not (any more)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rqueue import (
    JobExpired,
    JobFailed,
    JobNotFound,
    JobRevoked,
    ResultNotKept,
    RQueue,
    State,
    StoreUnavailable,
    WaitTimeout,
)
from rqueue.client.job import JobInfo, value_of
from rqueue.client.results import info_of, record_of
from rqueue.results.row import Row
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.store import SqlStore
from rqueue.wire.ids import new_id

ROW = Row(
    id="a",
    enqueued=1_000,
    task="tasks.add",
    queue="default",
    priority=None,
    state="SUCCESS",
    args="[1, 2]",
    kwargs="{}",
    result="3",
    error=None,
    traceback=None,
    attempts=1,
    losses=0,
    worker="host:1:x",
    parent_id=None,
    root_id=None,
    started=2_000,
    finished=3_000,
    history=None,
)
FAILED = ROW._replace(state="FAILURE", result=None, error="KeyError: 'a: b'", traceback="Traceback …", attempts=3)


@dataclass
class Kept:
    """A store with these rows.

    Attributes:
        asked: the ids that were asked for, each with its queue.
        error: what it raises, or None.
        hangs: it does not answer.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    error: Exception | None = None
    hangs: bool = False
    shown: str = "kept://"

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        self.asked.append((job_id, queue))
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        row = self.rows.get(job_id)
        return row if row is not None and queue in (None, row.queue) else None

    async def open(self) -> None: ...

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        if self.error is not None:
            raise self.error
        return ()

    async def tidy(self, retention_s: float | None, *, keep_failures: bool = False) -> int:
        return 0

    async def close(self) -> None: ...


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The store of every app that has one."""
    kept = Kept()
    monkeypatch.setattr("rqueue.client.session.store_for", lambda *_: kept)
    return kept


@pytest.fixture
async def app(url, new_app, kept) -> RQueue:
    return new_app(url, results="redis://127.0.0.1:1/0")


async def write_record(app: RQueue, job_id: str, record: bytes) -> None:
    await app.session().broker._link.call(b"SET", app.keys.queue("default").result(job_id), record)


# --- what Redis does not know -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [None, "default"])
@pytest.mark.parametrize("timeout", [None, 0, 10])
async def test_the_value_is_the_stores(app, kept, queue, timeout):
    kept.rows["a"] = ROW
    job = app.job("a", queue)
    assert await job.result(timeout) == 3
    assert (await job.info()).state is State.SUCCESS
    assert set(kept.asked) == {("a", queue)}


async def test_a_failure_carries_its_cause(app, kept):
    kept.rows["a"] = FAILED
    with pytest.raises(JobFailed) as caught:
        await app.job("a").result(timeout=5)
    error = caught.value
    assert (error.job_id, error.error_type, error.message) == ("a", "KeyError", "'a: b'")
    assert error.traceback == "Traceback …"
    info = await app.job("a").info()
    assert (info.state, info.error, info.attempts, info.traceback) == (
        State.FAILURE,
        "KeyError: 'a: b'",
        3,
        "Traceback …",
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("JobExpired: it could not be started in time", JobExpired),
        ("JobRevoked: cancelled", JobRevoked),
        (None, JobRevoked),
    ],
)
async def test_a_revoked_job_is_one_as_from_redis(app, kept, error, kind):
    kept.rows["a"] = ROW._replace(state="REVOKED", result=None, error=error, started=None, attempts=0)
    with pytest.raises(JobRevoked) as caught:
        await app.job("a").result(timeout=5)
    assert type(caught.value) is kind
    assert (await app.job("a").info()).attempts == 0


async def test_what_was_to_be_retried_and_is_not_in_redis_is_lost(app, kept):
    """Breaks when a RETRY counts as an end, or is waited for."""
    kept.rows["a"] = ROW._replace(state="RETRY", result=None, error="OSError: away")
    for ask in (app.job("a").result(timeout=5), app.job("a").result(timeout=0), app.job("a").info()):
        with pytest.raises(JobNotFound):
            await ask


async def test_a_job_that_nobody_knows(app, kept):
    for ask in (app.job("a").result(timeout=5), app.job("a").result(timeout=0), app.job("a").info()):
        with pytest.raises(JobNotFound):
            await ask
    assert len(kept.asked) == 3


async def test_an_info_from_the_store_is_the_one_that_redis_had(app, kept):
    """Breaks when a field is told by one of them only."""

    @app.task(max_retries=1, default_retry_delay=0, autoretry_for=(OSError,))
    async def job() -> None:
        raise OSError("away")

    @app.task
    async def parent() -> str:
        return (await job.enqueue()).id

    async with app.worker():
        child = app.job(await (await parent.enqueue()).result(timeout=10))
        with pytest.raises(JobFailed):
            await child.result(timeout=10)
    info = await child.info()

    def ms(moment):
        assert moment is not None
        return round(moment.timestamp() * 1000)

    (past,) = info.history
    kept.rows[child.id] = Row(
        id=child.id,
        enqueued=ms(info.enqueued),
        task=info.task,
        queue=info.queue,
        priority=None,
        state="FAILURE",
        args=None,
        kwargs=None,
        result=None,
        error=info.error,
        traceback=info.traceback,
        attempts=info.attempts,
        losses=info.losses,
        worker=info.worker,
        parent_id=info.parent_id,
        root_id=info.root_id,
        started=ms(info.started),
        finished=ms(info.finished),
        history=f'[[{ms(past.at)}, "{past.error}"]]',
    )
    assert info.attempts == 2
    assert info.parent_id is not None
    assert {**_fields(info_of(kept.rows[child.id])), "is_dead": True} == _fields(info)


def _fields(info: JobInfo) -> dict[str, object]:
    return {name: getattr(info, name) for name in JobInfo.__slots__}


async def test_a_dead_letter_without_its_record_tells_its_cause(app, kept):
    """Dead letters outlive their records by days. Breaks when the letter alone answers, or a row of another end."""

    @app.task
    async def job() -> None:
        raise KeyError("a: b")

    async with app.worker():
        handle = await job.enqueue()
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
    await app.session().broker._link.call(b"DEL", app.keys.queue("default").result(handle.id))
    kept.rows[handle.id] = FAILED._replace(id=handle.id)
    info = await app.job(handle.id).info()
    assert (info.state, info.error, info.attempts, info.is_dead) == (State.FAILURE, "KeyError: 'a: b'", 3, True)
    kept.rows[handle.id] = ROW._replace(id=handle.id)
    info = await app.job(handle.id).info()
    assert (info.state, info.result, info.error, info.is_dead) == (State.FAILURE, None, None, True)


# --- Redis goes first -------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_is_not_what_its_id_was_before(app, kept):
    """Breaks when an id's earlier job answers for the one that is alive."""
    kept.rows["a"] = ROW

    @app.task
    async def job() -> str:
        return "new"

    handle = await job.options(job_id="a").enqueue()
    assert (await app.job("a").info()).state is State.PENDING
    with pytest.raises(WaitTimeout):
        await handle.result(timeout=0)
    async with app.worker():
        assert await app.job("a").result(timeout=10) == "new"
    assert kept.asked == []


async def test_a_store_that_is_away_is_said_and_holds_up_nothing_that_redis_knows(app, kept):
    kept.error = StoreUnavailable("away")

    @app.task
    async def job() -> int:
        return 1

    async with app.worker():
        handle = await job.enqueue()
        assert await handle.result(timeout=10) == 1
        assert (await handle.info()).state is State.SUCCESS
    for ask in (app.job("gone").result(), app.job("gone").result(timeout=0), app.job("gone").info()):
        with pytest.raises(StoreUnavailable):
            await ask


async def test_a_store_that_does_not_answer_is_not_waited_for_longer_than_asked(app, kept):
    kept.hangs = True
    with pytest.raises(WaitTimeout):
        await app.job("gone").result(timeout=0.1)


# --- what a full Redis did not keep -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 10])
async def test_what_redis_was_too_full_to_keep_is_the_stores(app, kept, timeout):
    kept.rows |= {"a": ROW, "b": FAILED._replace(id="b")}
    await write_record(app, "a", b'{"state":"SUCCESS","dropped":true}')
    await write_record(app, "b", b'{"state":"FAILURE","dropped":true}')
    assert await app.job("a", "default").result(timeout) == 3
    assert (await app.job("a", "default").info()).result == 3
    with pytest.raises(JobFailed, match="KeyError"):
        await app.job("b", "default").result(timeout)
    assert (await app.job("b", "default").info()).error == "KeyError: 'a: b'"


async def test_what_neither_has_kept_is_said(app, kept):
    await write_record(app, "a", b'{"state":"SUCCESS","dropped":true}')
    for row in (None, FAILED):  # of an earlier job of the id
        kept.rows = {} if row is None else {"a": row}
        with pytest.raises(ResultNotKept):
            await app.job("a", "default").result(timeout=10)


# --- the stores themselves --------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of store in turn."""
    if request.param == "redis":
        broker: str = request.getfixturevalue("redis_url")
        return f"{broker.rpartition('/')[0]}/1"
    return (
        request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/history.db"
    )


async def make_tables(app: RQueue) -> None:
    store = app.session().store()
    if isinstance(store, SqlStore):
        await upgrade(store.engine)


async def test_what_a_store_has_kept_is_found_again(store_url, redis_url, new_app):
    app = new_app(redis_url, results=store_url, result_ttl=None)
    await make_tables(app)
    rows = [ROW._replace(id="a", result='"é"'), FAILED._replace(id="b"), ROW._replace(id="c", state="RETRY")]
    await app.session().store().save(rows)
    assert await app.job("a").result(timeout=5) == "é"
    assert await app.job("a", "default").result(timeout=0) == "é"
    assert await app.job("a").info() == info_of(rows[0])
    with pytest.raises(JobFailed, match="KeyError: 'a: b'"):
        await app.job("b").result(timeout=5)
    for unknown in (app.job("c"), app.job("d"), app.job("a", "other")):
        with pytest.raises(JobNotFound):
            await unknown.result(timeout=5)


async def test_a_store_that_is_not_there_is_said(redis_url, new_app):
    app = new_app(redis_url, results="redis://127.0.0.1:1/0")
    for ask in (app.job("a").result(timeout=5), app.job("a").info()):
        with pytest.raises(StoreUnavailable):
            await ask


# --- without a store --------------------------------------------------------------------------------------------------


async def test_without_a_store_nobody_is_asked(url, new_app, kept):
    app = new_app(url)
    kept.rows["a"] = ROW
    for ask in (app.job("a").result(timeout=5), app.job("a").result(timeout=0), app.job("a").info()):
        with pytest.raises(JobNotFound):
            await ask
    await write_record(app, "a", b'{"state":"SUCCESS","dropped":true}')
    with pytest.raises(ResultNotKept):
        await app.job("a", "default").result(timeout=5)
    assert kept.asked == []


# --- from synchronous code, and by itself -----------------------------------------------------------------------------


def test_synchronous_code_asks_the_store_as_well(kept):
    app = RQueue("memory://", results="redis://127.0.0.1:1/0")

    @app.task
    def job() -> int:
        return 1

    handle = job.delay()
    kept.rows[handle.id] = ROW._replace(id=handle.id)

    async def lose() -> None:
        await app.session().broker._link.call(b"FLUSHALL")

    app.portal().call(lose)
    assert handle.get(timeout=5) == 3
    assert handle.state is State.SUCCESS
    asyncio.run(app.close())


def test_a_row_is_a_record_as_redis_has_it():
    job_id = new_id()
    assert value_of(job_id, record_of(ROW._replace(result='{"__bytes__":"AA=="}'))) is not None
    assert value_of(job_id, record_of(ROW._replace(result=None))) is None
    assert record_of(ROW).startswith(b'{"state":"SUCCESS"')
