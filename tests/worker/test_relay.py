"""relay: what was committed is enqueued, each job once, whoever dies where; what was rolled back never is."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rqueue import JobNotFound, Queue, Results, RQueue, SchemaMismatch, StoreUnavailable
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.client import outbox as outboxing
from rqueue.client.listener import Listener
from rqueue.errors import BrokerUnavailable, ReplyLost
from rqueue.results.sql import outbox as module
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.outbox import Outbox
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.tables import outbox as table
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import Message
from rqueue.worker import relay as relaying
from rqueue.worker.relay import REMEMBER_S, Relay

from ..postgres import Postgres  # noqa: TID252 - tests are no installed package

RELAYER = Path(__file__).with_name("relayer.py")
IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
WINDOWS = [(when, verb) for verb in ("mark", "enqueue", "sent") for when in ("before", "during", "after")]

by_asyncpg = pytest.mark.parametrize("database", ["asyncpg"], indirect=True)
on_postgres = pytest.mark.parametrize("database", ["asyncpg", "psycopg"], indirect=True)
in_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Killed(BaseException):
    """A relay's process ends here."""


class Office:
    """A producer with its database, and relays that send what it commits.

    Attributes:
        app: the producer.
        engine: its database.
        task: a task.
        gone: ids of the jobs that were enqueued and have ended meanwhile, once for each time.
    """

    def __init__(self, redis_url: str, database: str) -> None:
        self.app = RQueue(redis_url, queues=[Queue("default"), Queue("other")])
        self.engine: AsyncEngine = engine_for(database)
        if self.engine.dialect.name == "sqlite":  # without this its driver's savepoints are none
            event.listen(self.engine.sync_engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
            event.listen(self.engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        self.gone: Counter[str] = Counter()
        self._database = database
        self._closing: list[Callable[[], Awaitable[None]]] = [self.engine.dispose, self.app.close]

        @self.app.task(name="note")
        async def note(number: int = 0) -> int:
            return number

        self.task = note

    @property
    def keys(self) -> QueueKeys:
        return self.app.keys.queue("default")

    async def call(self, *command: Any) -> Any:
        return await self.app.session().broker._link.call(*command)

    async def commit(self, count: int = 1, **options: Any) -> list[str]:
        """Enqueue so many in one transaction."""
        async with AsyncSession(self.engine) as session:
            jobs = await self.app.enqueue_many_in(session, [self.task.options(**options).s(n) for n in range(count)])
            await session.commit()
        return [job.id for job in jobs]

    async def relay(self, broker: Broker | None = None) -> Relay:
        """A relay, as in a process of its own."""
        broker = broker or Broker(Endpoint(self.app.endpoint.url), self.app.keys)
        outbox = Outbox(self._database, "rqueue")
        self._closing += [outbox.close, broker.close]
        return Relay(broker, outbox, 1_000_000)

    async def enqueued(self, queue: str = "default") -> list[str]:
        """The ids of what waits, the first first."""
        raw = await self.call("LRANGE", self.app.keys.queue(queue).main, 0, -1)
        return [Message.id_of(bytes(each)) for each in reversed(raw) if each]

    async def run_all(self) -> None:
        """All that waits or is scheduled runs, and ends."""
        self.gone.update(await self.enqueued())
        self.gone.update(bytes(each).decode() for each in await self.call("ZRANGE", self.keys.scheduled, 0, -1))
        await self.call("DEL", self.keys.main, self.keys.jobs, self.keys.scheduled, self.keys.messages)

    async def sql(self, statement: str) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement))
            return list(result.all()) if result.returns_rows else []

    async def left(self) -> int:
        return int((await self.sql("SELECT count(*) FROM rqueue_outbox"))[0][0])

    async def time_passes(self) -> None:
        """What is marked was marked a minute ago."""
        earlier = "marked - interval '1 minute'"
        if self.engine.dialect.name == "sqlite":
            earlier = "strftime('%Y-%m-%d %H:%M:%f000', marked, '-1 minute')"
        await self.sql(f"UPDATE rqueue_outbox SET marked = {earlier} WHERE marked IS NOT NULL")

    async def close(self) -> None:
        for close in reversed(self._closing):
            await close()


@pytest.fixture
async def office(redis_url: str, database: str) -> AsyncIterator[Office]:
    opened = Office(redis_url, database)
    yield opened
    await opened.close()


def dies(owner: Any, verb: str, when: str) -> None:
    """The process ends before that verb's next call, or with it done and not answered."""
    real = getattr(owner, verb)

    async def run(*args: Any, **kwargs: Any) -> Any:
        setattr(owner, verb, real)
        if when == "after":
            await real(*args, **kwargs)
        raise Killed

    setattr(owner, verb, run)


def owner_of(relay: Relay, verb: str) -> Any:
    return relay._broker if verb == "enqueue" else relay._outbox


# What is sent


async def test_what_is_committed_is_enqueued_in_order_and_leaves_the_table(office):
    """More than one batch. Breaks when a batch is not sorted, or its rows stay."""
    ids = await office.commit(1200)
    relay = await office.relay()
    await relay.drained()
    assert await office.enqueued() == ids
    assert await office.left() == 0
    assert relay.sent == 1200


async def test_what_is_rolled_back_is_never_enqueued(office):
    """Breaks when the insert goes past the caller's transaction, or commits it."""
    async with AsyncSession(office.engine) as session:
        await office.task.enqueue_in(session, 1)
        await session.rollback()
    async with AsyncSession(office.engine) as session:
        kept = await office.task.enqueue_in(session, 2)
        nested = await session.begin_nested()
        await office.task.enqueue_in(session, 3)
        await nested.rollback()
        await session.commit()
    async with office.engine.connect() as connection:
        await office.task.enqueue_in(connection, 4)
    await (await office.relay()).drained()
    assert await office.enqueued() == [kept.id]


async def test_nothing_is_seen_before_the_commit(office):
    """Breaks when the relay reads what is not committed, or a row that it passed over is lost."""
    relay = await office.relay()
    async with AsyncSession(office.engine) as session:
        first = await office.task.enqueue_in(session, 1)
        assert await relay.tick() == 0
        await session.commit()
    second = await office.commit()
    await relay.drained()
    assert await office.enqueued() == [first.id, *second]


@pytest.mark.timeout(3600 if IS_LONG else 60)
@settings(
    max_examples=100 if IS_LONG else 12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=3)), max_size=5),
    st.data(),
)
@in_sqlite
async def test_any_mix_of_commits_and_rollbacks(redis_url, database, transactions, data):
    """Exactly what was committed, whatever dies on the way. Breaks when any window doubles or loses a job."""
    office = Office(redis_url, database)
    await office.call("FLUSHDB")
    committed: set[str] = set()
    try:
        for is_committed, points in transactions:
            async with AsyncSession(office.engine) as session:
                ids: set[str] = set()
                for is_kept, count in points:
                    nested = await session.begin_nested()
                    jobs = await office.app.enqueue_many_in(session, [office.task.s(n) for n in range(count)])
                    await (nested.commit() if is_kept else nested.rollback())
                    ids |= {job.id for job in jobs} if is_kept else set()
                await (session.commit() if is_committed else session.rollback())
                committed |= ids if is_committed else set()
            when, verb = data.draw(st.sampled_from(WINDOWS), "window")
            relay = await office.relay()
            dies(owner_of(relay, verb), verb, "before" if when == "before" else "after")
            with pytest.raises(Killed) if verb == "mark" or await office.left() else nullcontext():
                await relay.tick()
            await office.run_all()
            await office.time_passes()
        await (await office.relay()).drained()
        await office.run_all()
        assert office.gone == Counter(committed)
        assert await office.left() == 0
    finally:
        await office.close()


# Who dies


@pytest.mark.parametrize(("when", "verb"), [window for window in WINDOWS if window[0] != "during"])
async def test_a_relay_dies_and_another_sends_its_batch_once(office, when, verb):
    """Also when the jobs have run and ended meanwhile. Breaks when a batch is sent under another name the second time,
    when Redis is not asked to remember it, or when the rows are deleted before they are sent.
    """
    ids = await office.commit(3)
    first = await office.relay()
    dies(owner_of(first, verb), verb, when)
    with pytest.raises(Killed):
        await first.tick()
    await office.run_all()
    await office.time_passes()
    await (await office.relay()).drained()
    await office.run_all()
    assert office.gone == Counter(ids)
    assert await office.left() == 0


@by_asyncpg
async def test_a_batch_is_left_to_its_relay_for_a_time(office):
    """Breaks when any other relay sends it at once, or none ever does."""
    ids = await office.commit(1)
    first = await office.relay()
    dies(first._broker, "enqueue", "before")
    with pytest.raises(Killed):
        await first.tick()
    second = await office.relay()
    await second.drained()
    assert await office.enqueued() == []
    await office.time_passes()
    await (await office.relay()).drained()
    assert await office.enqueued() == ids


@by_asyncpg
async def test_a_relay_that_was_frozen_changes_nothing(office):
    """Another has taken its batch over, and has gone on; then it wakes. Breaks when a token is used after a batch that
    was not seen to its end, or the rows of another relay's batch are deleted.
    """
    await office.commit(3)
    frozen = await office.relay()
    batch = "token 1"
    entries = await frozen._outbox.mark(batch)
    await office.time_passes()
    other = await office.relay()
    await other.drained()
    await office.run_all()
    later = await office.commit(2)
    frozen._left.append(batch)
    await frozen._send(frozen._outbox, batch, entries)
    assert await office.enqueued() == []
    assert set(office.gone.values()) == {1}
    await frozen.drained()
    assert await office.enqueued() == later


@by_asyncpg
async def test_a_number_is_not_used_after_one_that_is_in_doubt(office):
    """Redis refuses all numbers below the last: the batch before would be lost. Breaks when the token goes on."""
    first = await office.commit(1)
    relay = await office.relay()
    real, lost = relay._broker.enqueue, BrokerUnavailable("away")

    async def away(*_: Any) -> None:
        relay._broker.enqueue = real
        raise lost

    relay._broker.enqueue = away
    with pytest.raises(BrokerUnavailable):
        await relay.tick()
    left, relay._left = relay._left, []  # somebody else's from now on
    second = await office.commit(1)
    await relay.drained()
    assert await office.enqueued() == second
    assert left
    await office.time_passes()
    await (await office.relay()).drained()
    assert await office.enqueued() == second + first


@by_asyncpg
async def test_the_statement_that_marks_is_not_tried_again_on_another_connection(office, monkeypatch):
    """The first may have come through: other rows would get the same name, and be deleted unsent. Breaks without the
    refusal.
    """
    ids = await office.commit(2)
    relay = await office.relay()
    outbox = relay._outbox
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    real, tried = module.call, []

    async def twice(engine: Any, work: Any, **options: Any) -> Any:
        if work.__name__ == "mark" and not tried:
            tried.append(await real(engine, work, **options))
            return await real(engine, work, **options)  # as `call` does when the connection broke before the reply
        return await real(engine, work, **options)

    monkeypatch.setattr(module, "call", twice)
    with pytest.raises(StoreUnavailable):
        await relay.tick()
    await relay.drained()
    assert await office.enqueued() == ids
    assert outbox is relay._outbox


@by_asyncpg
async def test_redis_remembers_a_batch_for_a_day_and_of_a_relay_one(office):
    """Breaks when each batch leaves a key behind, or it is forgotten too soon."""
    relay = await office.relay()
    for _ in range(3):
        await office.commit(2)
        await relay.drained()
    (key,) = await office.call("KEYS", "*:sent:*")
    assert REMEMBER_S - 60 < await office.call("TTL", key) <= REMEMBER_S


async def test_two_relays_share_the_work(office):
    """Breaks when one waits for the other's rows, or both send them."""
    ids = await office.commit(1500)
    relays = [await office.relay() for _ in range(2)]
    await asyncio.gather(*(relay.drained() for relay in relays))
    await (await office.relay()).drained()  # in SQLite one may have met the other's lock
    assert Counter(await office.enqueued()) == Counter(ids)
    assert await office.left() == 0


@pytest.fixture
async def relayer() -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Let relays in processes of their own be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, RELAYER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def kill(**where: Any) -> None:
        process.stdin.write(json.dumps(where).encode() + b"\n")
        assert await process.stdout.readline() == b"-9\n"

    yield kill
    process.stdin.close()
    await process.wait()


@pytest.mark.timeout(3600 if IS_LONG else 60)
@pytest.mark.parametrize("database", ["asyncpg", "psycopg", "sqlite"] if IS_LONG else ["asyncpg"], indirect=True)
async def test_relays_are_killed_at_each_window(office, database, relayer):
    """SIGKILL, also while a statement or a script is under way: a hundred times at each with `RQUEUE_LONG=1`."""
    chance = random.Random(7)
    committed: set[str] = set()
    for _ in range(100 if IS_LONG else 1):
        for when, verb in WINDOWS:
            committed.update(await office.commit(3))
            if chance.random() < 0.5:
                async with AsyncSession(office.engine) as session:
                    await office.task.enqueue_in(session, 0)
                    await session.rollback()
            place = {"when": when, "verb": verb, "after_s": chance.uniform(0, 0.006)}
            await relayer(redis=office.app.endpoint.url, database=database, **place)
            if chance.random() < 0.7:
                await office.run_all()
            await office.time_passes()
    await (await office.relay()).drained()
    await office.run_all()
    assert office.gone == Counter(committed)
    assert await office.left() == 0


# Redis and the database


@by_asyncpg
async def test_redis_is_killed_in_the_middle(new_server, database):
    """Its reply is lost, and it comes back with what it had stored. Breaks when the batch is sent as a new one."""
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    office = Office(server.url, database)
    try:
        ids = await office.commit(3)
        relay = await office.relay()
        real = relay._broker.enqueue

        async def killed(*args: Any) -> None:
            await real(*args)
            await asyncio.to_thread(server.kill)
            raise ReplyLost("the server was killed")

        relay._broker.enqueue = killed
        with pytest.raises(BrokerUnavailable):
            await relay.tick()
        relay._broker.enqueue = real
        with pytest.raises(BrokerUnavailable):
            await relay.tick()
        more = await office.commit(2)
        await asyncio.to_thread(server.start)
        await office.run_all()
        await relay.drained()
        assert await office.enqueued() == more
        assert office.gone == Counter(ids)
        assert await office.left() == 0
    finally:
        await office.close()


async def test_the_database_is_killed_in_the_middle(new_postgres, redis_url):
    """With a statement done and not answered, first the one that marks and then the one that deletes. Breaks when the
    relay gives up, or goes on as if nothing was done.
    """
    postgres = new_postgres()
    engine = engine_for(postgres.url())
    await upgrade(engine)
    await engine.dispose()
    office = Office(redis_url, postgres.url())
    relay = await office.relay()
    running = asyncio.create_task(relay.run())
    ids: list[str] = []
    try:
        for verb in ("mark", "sent"):
            is_down = asyncio.Event()
            dies_with(relay._outbox, verb, postgres, is_down)
            ids += await office.commit(3)
            await is_down.wait()
            await asyncio.to_thread(postgres.start)
            await office.engine.dispose()  # its connections are gone
            ids += await office.commit(2)
            async with asyncio.timeout(20):
                while await office.left():
                    await asyncio.sleep(0.02)
            assert await office.enqueued() == ids
        await relay.stop()
        await running
    finally:
        await office.close()


def dies_with(outbox: Any, verb: str, postgres: Postgres, is_down: asyncio.Event) -> None:
    """The database ends once it has found something for that verb to do."""
    real = getattr(outbox, verb)

    async def run(*args: Any) -> Any:
        answer = await real(*args)
        if verb == "mark" and not answer:
            return answer
        setattr(outbox, verb, real)
        await asyncio.to_thread(postgres.kill)
        is_down.set()
        raise StoreUnavailable("it was killed")

    setattr(outbox, verb, run)


@by_asyncpg
async def test_a_queue_that_redis_refuses_holds_up_no_other(office):
    """Breaks when one error ends the batch, when its queue's rows are marked on and on, or when it is never tried
    again.
    """
    other = office.app.keys.queue("other")
    await office.call("SET", other.main, "no list")
    stuck = await office.commit(2, queue="other")
    ids = await office.commit(2)
    relay = await office.relay()
    await relay.drained()
    assert await office.enqueued() == ids
    stuck += await office.commit(2, queue="other")
    ids += await office.commit(1)
    await relay.drained()
    assert await office.enqueued() == ids
    assert len(await office.sql("SELECT 1 FROM rqueue_outbox WHERE batch IS NULL")) == 2
    await office.call("DEL", other.main)
    relay._retry_s = 0.0
    await relay.drained()
    assert await office.enqueued("other") == stuck
    assert await office.left() == 0


# Rows


@by_asyncpg
async def test_a_bad_row_is_set_apart_and_holds_up_nothing(office, log):
    """Breaks when it goes to the script, which would stop there half-way, or is thrown away."""
    good = await office.commit(1)
    row: dict[str, Any] = dict(
        (await office.sql("SELECT namespace, queue, level, due, message, lock, created FROM rqueue_outbox"))[0]._mapping
    )
    row["message"], row["job_id"] = bytes(row["message"]), good[0]
    bad = [
        {"queue": "no such name!"},
        {"level": 11},
        {"due": "soon"},
        {"due": "+5"},
        {"lock": "unique until noon"},
        {"job_id": "another"},
        {"job_id": "two words"},
        {"message": b"{}"},
        {"message": row["message"] + b" " * 1_000_000},
    ]
    async with office.engine.begin() as connection:
        await connection.execute(insert(table), [row | change for change in bad])
    more = await office.commit(1)
    relay = await office.relay()
    await relay.drained()
    assert await office.enqueued() == good + more
    assert len(log.of("outbox row refused")) == len(bad)
    reasons = await office.sql("SELECT batch FROM rqueue_outbox ORDER BY seq")
    assert all(why.startswith("refused: ") for (why,) in reasons)
    await office.time_passes()
    await (await office.relay()).drained()
    assert await office.left() == len(bad), "they stay, for whoever looks"


@by_asyncpg
async def test_another_namespaces_rows_are_left_alone(office):
    """Breaks when two apps that share a database send each other's jobs."""
    await office.commit(1)
    await office.sql("UPDATE rqueue_outbox SET namespace = 'theirs'")
    await (await office.relay()).drained()
    assert (await office.enqueued(), await office.left()) == ([], 1)


@by_asyncpg
async def test_locks_are_taken_as_it_is_sent(office, log):
    """A duplicate is dropped, and said so. Breaks when a locked job goes past its lock."""
    first, second = await office.commit(2, unique="until_done", unique_key="same")
    plain = await office.commit(1)
    await (await office.relay()).drained()
    assert await office.enqueued() == [first, *plain]
    assert log.of("job not needed, one is there", job=second, first=first)
    assert await office.left() == 0


@by_asyncpg
async def test_a_debounced_job_is_sent_once_with_the_last_call(office):
    """Breaks when due times stay relative to the sending, or the lock is not the script's."""
    first, _ = await office.commit(2, debounce=3600, unique_key="same")
    await (await office.relay()).drained()
    assert await office.call("ZRANGE", office.keys.scheduled, 0, -1) == [first.encode()]
    (message,) = await office.call("HVALS", office.keys.messages)
    assert b'"args":[1]' in bytes(message)


@by_asyncpg
async def test_an_id_of_ones_own_that_is_alive_is_not_doubled(office, log):
    """Breaks when the ids are not looked at."""
    await office.task.options(job_id="mine").enqueue(1)
    await office.commit(1, job_id="mine")
    await (await office.relay()).drained()
    assert await office.enqueued() == ["mine"]
    assert log.of("job not needed, one is there", job="mine")


@by_asyncpg
async def test_a_stop_of_an_earlier_job_is_forgotten_first(office):
    """Breaks when the job that met it is deleted with its batch, or the stop stays and stops it."""
    await office.call("ZADD", office.keys.stops, 9_999_999_999_999, "job:mine")
    others = await office.commit(1)
    await office.commit(1, job_id="mine")
    relay = await office.relay()
    await relay.tick()
    assert (await office.enqueued(), await office.left()) == (others, 1)
    await relay.drained()
    assert await office.enqueued() == [*others, "mine"]
    assert await office.left() == 0


# The service


@pytest.fixture
async def run(office) -> AsyncIterator[Callable[[Relay], Awaitable[None]]]:
    tasks: list[tuple[Relay, asyncio.Task[None]]] = []

    async def start(relay: Relay) -> None:
        tasks.append((relay, asyncio.create_task(relay.run())))

    yield start
    for relay, task in tasks:
        await relay.stop()
        task.cancel()
        await asyncio.wait([task])


@on_postgres
async def test_a_commit_wakes_it(office, run, until, monkeypatch):
    """Breaks when the trigger does not tell, nobody listens, or what is told does not wake it."""
    monkeypatch.setattr(relaying, "_EVERY_S", 3600)
    monkeypatch.setattr(relaying, "_TOLD_EVERY_S", 3600)
    await run(await office.relay())
    await until(lambda: office.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"))
    for _ in range(2):
        (job_id,) = await office.commit()
        await until(office.enqueued)
        assert await office.enqueued() == [job_id]
        await office.run_all()


@by_asyncpg
async def test_without_a_word_it_looks_every_second(office, run, until, monkeypatch, log):
    """Behind a pooler nobody is told. Breaks when it relies on being told once it was."""
    monkeypatch.setattr(relaying, "_EVERY_S", 0.01)
    monkeypatch.setattr(relaying, "_TOLD_EVERY_S", 0.02)
    relay = await office.relay()

    async def deaf(_: object) -> None:
        raise StoreUnavailable("a pooler")

    monkeypatch.setattr(relay._outbox, "listen", deaf)
    relay._told()
    await run(relay)
    await office.commit()
    await until(office.enqueued)
    assert not relay._is_told
    assert log.of("outbox is not told of commits")


@by_asyncpg
async def test_it_listens_again_once_its_connection_was_lost(office, run, until, monkeypatch):
    """Breaks when the end of the connection is not noticed, or it is not made again."""
    monkeypatch.setattr(relaying, "_LONGEST_PAUSE_S", 0.01)
    listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"
    await run(await office.relay())
    ((pid,),) = await until(lambda: office.sql(f"SELECT pid {listening}"))
    await office.sql(f"SELECT pg_terminate_backend({pid})")
    await until(lambda: office.sql(f"SELECT pid {listening} AND pid <> {pid}"))


@by_asyncpg
async def test_stopping_sees_the_batch_under_way_to_its_end(office, run):
    """Others would have to wait until it counts as abandoned. Breaks when it is cancelled between its steps."""
    await office.commit(1)
    relay = await office.relay()
    real, is_sent, go_on = relay._broker.enqueue, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        answer = await real(*args)
        is_sent.set()
        await go_on.wait()
        return answer

    relay._broker.enqueue = slow
    await run(relay)
    await is_sent.wait()
    stopping = asyncio.create_task(relay.stop())
    assert await office.left() == 1
    assert not stopping.done()
    go_on.set()
    await stopping
    assert await office.left() == 0


async def test_a_worker_runs_what_was_committed_and_drains_it(redis_url, database):
    """Breaks when the worker has no relay, or `drain` does not wait for what is in the table."""
    app, engine = RQueue(redis_url, results=database), engine_for(database)
    ran: list[int] = []

    @app.task(name="run")
    async def run(number: int) -> int:
        ran.append(number)
        return number

    async with app, app.worker() as worker:
        async with AsyncSession(engine) as session:
            job = await run.enqueue_in(session, 1)
            await session.commit()
            await run.enqueue_in(session, 2)
        await worker.drain()
        assert ran == [1]
        assert await job.result(timeout=5) == 1
    await engine.dispose()


@by_asyncpg
@pytest.mark.parametrize("ttl", [3600, 0])
async def test_a_result_is_waited_for_before_the_job_is_sent(office, ttl):
    """As a web process does right after its commit. Breaks when what Redis does not know yet is not found, or the
    second look ends the wait, or its end is heard only by those that found a record.
    """
    app = office.app

    @app.task(name="late", result_ttl=ttl)
    async def late() -> str:
        return "sent"

    app.session().listener = listener = Listener(app.session().broker, look_again_s=0.01)
    async with AsyncSession(office.engine) as session:
        job = await late.enqueue_in(session)
        await session.commit()
    looks, real, looked = [], listener._look, asyncio.Event()

    async def look(channels: list[bytes]) -> None:
        await real(channels)
        looks.append(channels)
        if len(looks) > 2:
            looked.set()

    listener._look = look  # type: ignore[method-assign]
    waiting = asyncio.create_task(job.result(timeout=20))
    await asyncio.wait([waiting, asyncio.create_task(looked.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not waiting.done()
    await (await office.relay()).drained()
    async with app.worker():
        assert await waiting == "sent"


@by_asyncpg
async def test_what_was_rolled_back_is_not_waited_for_for_ever(office, monkeypatch):
    """Breaks when a wait without a timeout has no end."""
    monkeypatch.setattr(outboxing, "UNSENT_S", 0.05)
    office.app.session().listener = Listener(office.app.session().broker, look_again_s=0.01)
    async with AsyncSession(office.engine) as session:
        job = await office.task.enqueue_in(session)
    with pytest.raises(JobNotFound):
        await job.result()


async def test_a_worker_does_not_start_beside_an_outbox_that_it_does_not_know(redis_url, tmp_path):
    """In a database of its own, which the store does not look at. Breaks when it starts, and nothing is ever sent."""
    results = Results(f"{redis_url.rpartition('/')[0]}/1", outbox=f"sqlite:///{tmp_path}/empty.db")
    app = RQueue(redis_url, results=results)
    async with app:
        with pytest.raises(SchemaMismatch, match=r"empty\.db: there are no tables yet; run `rqueue db upgrade`"):
            async with app.worker():
                pass


async def test_a_worker_starts_while_the_outboxs_database_is_away(redis_url):
    """Breaks when a database that is away counts as one that is wrong."""
    results = Results(f"{redis_url.rpartition('/')[0]}/1", outbox="postgresql+asyncpg://127.0.0.1:1/app")
    app = RQueue(redis_url, results=results)
    async with app, app.worker() as worker:
        assert worker.has_started


async def test_without_a_database_there_is_nothing_to_do():
    """Breaks when a worker without results pays for the outbox."""
    relay = Relay(None, None, 1)  # type: ignore[arg-type]
    await relay.run()
    await relay.drained()
