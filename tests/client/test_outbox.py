"""outbox: a call in a transaction of the caller's is a row there, of what `enqueue` would have sent."""

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from rqueue import ConfigError, MessageTooLarge, MissingDependency, RQueue, SchemaMismatch
from rqueue.policy.clock import local_ms
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.tables import outbox
from rqueue.testing import eager
from rqueue.wire.message import Call, Message

NOWHERE = "redis://127.0.0.1:1/0"

in_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def app() -> RQueue:
    """An app whose Redis is away."""
    return RQueue(NOWHERE, routes={"mail.*": "email"}, namespace="shop", max_message_bytes=1000)


@pytest.fixture
def send(app: RQueue) -> Any:
    @app.task(name="mail.send")
    async def send(to: str, *, copies: int = 1) -> str:
        return to * copies

    return send


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(database)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@pytest.fixture
def sync_url(database: str) -> str:
    return database.replace("+aiosqlite", "").replace("+asyncpg", "+psycopg")


@pytest.fixture
def sync_session(sync_url: str) -> Iterator[Session]:
    engine = create_engine(sync_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


async def rows(session: Any) -> list[Any]:
    return list(await session.execute(select(outbox).order_by(outbox.c.seq)))


def call_of(row: Any) -> Call:
    return Call.decode(Message.parse(bytes(row.message)).body)


async def test_a_call_is_a_row_of_what_would_have_been_sent(session, send):
    """With Redis away. Breaks when anything of the message or of its place differs, or Redis is asked."""
    before = local_ms()
    job = await send.options(priority=7, headers={"tenant": "acme"}).enqueue_in(session, "ann", copies=2)
    (row,) = await rows(session)
    assert (row.namespace, row.job_id, row.queue, row.level) == ("shop", job.id, "email", 7)
    assert (row.due, row.lock, row.batch, row.marked) == ("", "", None, None)
    assert before <= round(row.created.timestamp() * 1000) <= local_ms()
    call = call_of(row)
    assert (call.task, call.args, call.kwargs, call.headers) == (
        "mail.send",
        ["ann"],
        {"copies": 2},
        {"tenant": "acme"},
    )
    assert Message.id_of(bytes(row.message)) == job.id
    assert (job.queue, job.duplicate) == ("email", False)


@in_sqlite
async def test_delays_count_from_the_call(session, send):
    """Whenever it is sent. Breaks when a relative time stands in the row."""
    before = local_ms()
    await send.options(countdown=60).enqueue_in(session, "a")
    await send.options(expires=30).enqueue_in(session, "b")
    await send.options(debounce=5, unique_key="b").enqueue_in(session, "b")
    late, expiring, debounced = await rows(session)
    assert before + 60_000 <= int(late.due) <= local_ms() + 60_000
    assert before + 30_000 <= call_of(expiring).expires <= local_ms() + 30_000
    assert before + 5_000 <= int(debounced.due) <= local_ms() + 5_000
    assert debounced.lock.startswith("debounce 0 ")


async def test_many_calls_are_written_in_their_order(session, app, send):
    """Breaks when their rows are not in the order of the calls, or one is written though another cannot be."""
    jobs = await app.enqueue_many_in(session, [send.s(str(n)) for n in range(20)])
    assert [row.job_id for row in await rows(session)] == [job.id for job in jobs]
    with pytest.raises(TypeError, match="JSON"):
        await app.enqueue_many_in(session, [send.s("fine"), send.s(object())])
    assert len(await rows(session)) == 20
    assert await app.enqueue_many_in(session, []) == []


async def test_the_transaction_stays_the_callers(engine, send):
    """Breaks when it is committed, rolled back, or begun elsewhere."""
    async with engine.connect() as connection:
        await send.enqueue_in(connection, "a")
        assert connection.in_transaction()
        await connection.rollback()
        assert (await connection.execute(select(func.count()).select_from(outbox))).scalar() == 0


@in_sqlite
async def test_scoped_sessions_are_sessions(engine, sync_session, send):
    """Breaks when web frameworks' sessions are refused."""
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    await send.enqueue_in(scoped, "a")
    await scoped.remove()
    sync_scoped = scoped_session(sessionmaker(sync_session.get_bind()))
    send.delay_in(sync_scoped, "a")
    sync_scoped.remove()


def test_synchronous_code(sync_session, send):
    """Breaks when it needs an event loop, or Redis."""
    job = send.delay_in(sync_session, "a")
    later = send.options(countdown=60).delay_in(sync_session, "b", copies=3)
    sync_session.commit()
    found = sync_session.execute(select(outbox.c.job_id).order_by(outbox.c.seq)).scalars().all()
    assert found == [job.id, later.id]
    assert repr(job) == f"SyncJob({job.id!r}, queue='email')"


@in_sqlite
async def test_a_synchronous_session_in_an_event_loop(session, send):
    """`run_sync` gives one. Breaks when a running loop is refused though nothing waits for Redis."""
    job = await session.run_sync(lambda sync: send.delay_in(sync, "a"))
    assert [row.job_id for row in await rows(session)] == [job.id]


@in_sqlite
async def test_the_wrong_kind_of_session_is_refused(session, sync_session, app, send):
    """Breaks when a coroutine is thrown away, or the text does not say what to call."""
    with pytest.raises(TypeError, match=r"enqueue_in: Session given; .*task\.delay_in"):
        await send.enqueue_in(sync_session, "a")
    with pytest.raises(TypeError, match=r"delay_in: AsyncSession given; .*await task\.enqueue_in"):
        send.delay_in(session, "a")
    with pytest.raises(TypeError, match="str given; it takes SQLAlchemy's AsyncSession"):
        await app.enqueue_many_in("session", [])


@in_sqlite
async def test_what_enqueue_refuses_is_refused_before_anything_is_written(session, sync_session, send):
    """Breaks when a call is not checked."""
    with pytest.raises(TypeError, match="copied"):
        await send.enqueue_in(session, "a", copied=1)
    with pytest.raises(MessageTooLarge):
        await send.options(priority=1).enqueue_in(session, "a" * 1000)
    with pytest.raises(TypeError, match="missing"):
        send.delay_in(sync_session)
    assert await rows(session) == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_without_the_table_the_command_is_named(postgres_url, driver, send):
    """Breaks when a driver's error is not told from others."""
    engine = engine_for(postgres_url.replace("asyncpg", driver))
    async with AsyncSession(engine) as session:
        with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
            await send.enqueue_in(session, "a")
    await engine.dispose()


def test_without_the_table_synchronous_code_is_told_too(tmp_path, send):
    """Breaks when SQLite's error is not told from others."""
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with Session(engine) as session, pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
        send.delay_in(session, "a")
    engine.dispose()


@in_sqlite
async def test_a_job_of_a_job_says_so(session, app, redis_url, database):
    """Breaks when the parent is not known within a transaction."""
    app = RQueue(redis_url)
    engine = engine_for(database)

    @app.task(name="child")
    async def child() -> None: ...

    @app.task(name="parent")
    async def parent() -> None:
        async with AsyncSession(engine) as session:
            await child.enqueue_in(session)
            await session.commit()

    async with app, app.worker() as worker:
        job = await parent.enqueue()
        await worker.drain()
    (row,) = await rows(session)
    assert (call_of(row).parent_id, call_of(row).root_id) == (job.id, job.id)
    await engine.dispose()


@in_sqlite
async def test_sealed_messages_are_sealed_in_the_table(session):
    """Breaks when the table shows what Redis would not."""
    app = RQueue(NOWHERE, encryption_keys=[b"k" * 32])

    @app.task(name="secret")
    async def secret(text: str) -> None: ...

    await secret.enqueue_in(session, "of great importance")
    (row,) = await rows(session)
    assert b"importance" not in bytes(row.message)


@in_sqlite
async def test_the_signal_before_is_sent_and_the_one_after_is_not(session, app, send):
    """Nobody here knows whether it will be committed. Breaks when tracing by signals does not see the call."""
    seen: list[tuple[str, str]] = []
    before = lambda sender=None, **given: seen.append((sender, given["headers"]["id"]))  # noqa: E731
    after = lambda **_: seen.append(("after", ""))  # noqa: E731
    app.signals.before_task_publish.connect(before)
    app.signals.after_task_publish.connect(after)
    job = await send.enqueue_in(session, "a")
    assert seen == [("mail.send", job.id)]


@in_sqlite
async def test_in_eager_mode_it_is_refused(session, app, send):
    """It would run before the commit, or never. Breaks when it does either."""
    with eager(app), pytest.raises(ConfigError, match=r"worker\.drain\(\)"):
        await send.enqueue_in(session, "a")
    assert await rows(session) == []


async def test_without_sqlalchemy_the_extra_is_named(send, monkeypatch):
    """Breaks when the text does not say what to install."""
    monkeypatch.delitem(sys.modules, "rqueue.results.sql.outbox", raising=False)
    # Not by its name: a test before this one may have loaded the package anew.
    monkeypatch.delattr(sys.modules["rqueue.results.sql"], "outbox", raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingDependency, match=r"rqueue\[sql\]"):
        await send.enqueue_in(None, "a")
