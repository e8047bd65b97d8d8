"""Invariant 16, a settled job has its row: in the result store, or waiting for it in Redis; and no job has two.

Workers are killed at each moment between a run's end and its settle, and while they drain; so is the database. Seen to
fail with `Recorder` handing a batch on before it was written, with `Drainer` taking a page away before it was written,
with the store's upsert replacing whatever it finds, and with `Recorder` forgetting what the store did not take.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from rqueue import RQueue
from rqueue.broker.broker import Broker
from rqueue.results.entry import Entry
from rqueue.results.sql import schema
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.store import SqlStore
from rqueue.wire.record import state_of
from rqueue.wire.state import FINAL
from rqueue.worker.reaper import for_operators

from .doomed import make_app

LONG = "RQUEUE_LONG" in os.environ
JOBS = 25
WINDOWS = [
    ("write before", "there"),
    ("write sent", "there"),
    ("write after", "there"),
    ("settle sent", "there"),
    ("settle after", "there"),
    ("spool before", "away"),
    ("spool sent", "away"),
    ("spool after", "away"),
    ("drain before", "back"),
    ("drain sent", "back"),
    ("drain after", "back"),
]
ROUNDS = 10 if LONG else 1


async def upgrade(url: str) -> None:
    engine = engine_for(url)
    await schema.upgrade(engine)
    await engine.dispose()


@pytest.fixture(scope="module")
def database(postgres) -> Iterator[str]:
    postgres.run("CREATE DATABASE doomed")
    url = postgres.url("doomed")
    asyncio.run(upgrade(url))
    yield url
    postgres.run("DROP DATABASE doomed WITH (FORCE)")


class Doomed:
    """The process that forks workers."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("doomed.py")
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    async def start(self, **asked) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        return int(await self.heard())

    async def heard(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    running = Doomed()
    yield running
    running.close()


async def rows_in(url: str, ids: list[str]) -> list[tuple[str, str, str]]:
    """(id, state, worker) of these jobs' rows."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        found = await connection.fetch("SELECT id, state, worker FROM rqueue_jobs WHERE id = ANY($1)", ids)
    finally:
        await connection.close()
    return [tuple(each) for each in found]


async def waiting_in(app: RQueue) -> dict[str, str]:
    """The states that wait for the store, by id."""
    broker, keys = app.session().broker, app.keys.queue("default")
    entries = [Entry.decode(data) for data in await broker._link.call(b"LRANGE", keys.spool, 0, -1)]
    return {entry.id: state_of(entry.record) for entry in entries}


async def settled(app: RQueue, ids: list[str]) -> dict[str, str]:
    broker, keys = app.session().broker, app.keys.queue("default")
    known = await broker.known([(keys, job_id) for job_id in ids])
    found = {job_id: state_of(each.record) for job_id, each in zip(ids, known, strict=True) if each.record is not None}
    return {job_id: state for job_id, state in found.items() if state in FINAL}


async def has_its_row(app: RQueue, database: str, ids: list[str]) -> int:
    """No settled job is without one; how many are settled."""
    ended = await settled(app, ids)  # first: what ends meanwhile has its row before
    rows = await rows_in(database, ids)
    assert len({job_id for job_id, _, _ in rows}) == len(rows), "two rows of a job"
    known = {job_id: {state} for job_id, state, _ in rows}
    for job_id, state in (await waiting_in(app)).items():
        known.setdefault(job_id, set()).add(state)
    lacking = {job_id: state for job_id, state in ended.items() if state not in known.get(job_id, ())}
    assert not lacking, f"settled, and without their rows: {lacking}"
    return len(ended)


async def finish(app: RQueue, database: str, jobs: list) -> None:
    """Another worker goes on; then all jobs have ended as they must, each with one row that says so."""
    broker, keys = app.session().broker, app.keys.queue("default")
    for worker in await broker.worker_names(keys):  # as a supervisor does, which sees its process end
        await for_operators(app, [keys]).take_back(worker)
    await broker._link.call(b"DEL", keys.spool_lock)  # it would run out
    async with app.worker(concurrency=5, lease=1) as worker, asyncio.timeout(30):
        await worker.drain(scheduled=True)
        while (await broker.spooled(keys)).entries:
            await asyncio.sleep(0.01)
    expected = {job.id: "FAILURE" if number % 5 == 0 else "SUCCESS" for number, job in enumerate(jobs)}
    assert await settled(app, list(expected)) == expected
    rows = await rows_in(database, list(expected))
    assert len(rows) == len(expected)
    assert {job_id: state for job_id, state, _ in rows} == expected


async def enqueued(app: RQueue) -> list:
    task = app.tasks.find("t")
    return await app.enqueue_many([task.s(number) for number in range(JOBS)])


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(("window", "store"), WINDOWS)
async def test_a_worker_is_killed(doomed, redis_url, database, window, store, round_):
    """At the first, second or third time that it comes there."""
    random.seed(f"{window} {round_}" if LONG else None)
    nth = 1 if store == "back" else random.randint(1, 3)
    async with make_app(redis_url, database) as app:
        jobs = await enqueued(app)
        ids = [job.id for job in jobs]
        await doomed.start(redis=redis_url, results=database, window=window, nth=nth, store=store, lease=15, stop=False)
        assert await doomed.heard() == str(-signal.SIGKILL), "it did not come there"
        await has_its_row(app, database, ids)
        await finish(app, database, jobs)


async def test_a_frozen_worker_overwrites_nothing(doomed, redis_url, database):
    """It stands still with rows in its hands for longer than its lease, and writes them when all is over."""
    async with make_app(redis_url, database) as app:
        jobs = await enqueued(app)
        pid = await doomed.start(
            redis=redis_url, results=database, window="write before", nth=1, store="there", lease=1, stop=True
        )
        assert await doomed.heard() == "stopped"
        broker, keys = app.session().broker, app.keys.queue("default")
        (frozen,) = await broker.worker_names(keys)
        held = {Entry.decode(b"x\n\n" + raw).message for raw in await broker.claimed(keys, frozen)}
        assert held
        await finish(app, database, jobs)
        before = await rows_in(database, [job.id for job in jobs])
        assert frozen not in {worker for _, _, worker in before}
        os.kill(pid, signal.SIGCONT)
        assert await doomed.heard() == "0"
        assert sorted(await rows_in(database, [job.id for job in jobs])) == sorted(before)


DATABASE_WINDOWS = ["write before", "write sent", "write after", "drain before", "drain sent", "drain after"]


@pytest.mark.parametrize("round_", range(10 if LONG else 1))
async def test_the_database_is_killed(new_postgres, redis_url, monkeypatch, round_):
    """At each window, under jobs that go on. Workers do not stop for it; all rows are there once it is back."""
    random.seed(round_ if LONG else None)
    server = new_postgres()
    url = server.url()
    await upgrade(url)
    monkeypatch.setattr("rqueue.worker.archive.LONGEST_PAUSE_S", 0.1)
    strikes: list[str] = []

    async def strike(moment: str) -> None:
        if strikes == [moment]:
            strikes[:] = ["under way"]
            await asyncio.to_thread(server.kill)
            strikes.clear()

    def around(name: str, owner: type, only) -> None:
        real = getattr(owner, name)

        async def call(self, *arguments, **more):
            what = only(*arguments)
            await strike(f"{what} before")
            # Some turns of the loop: some milliseconds, or none, of the statement's way.
            task = asyncio.ensure_future(real(self, *arguments, **more))
            for _ in range(random.randint(1, 40)):
                await asyncio.sleep(0)
            await strike(f"{what} sent")
            answer = await task
            await strike(f"{what} after")
            return answer

        monkeypatch.setattr(owner, name, call)

    around("save", SqlStore, lambda _: "write")
    around("unspool", Broker, lambda _, __, written: "drain" if written else "look")
    async with make_app(redis_url, url) as app:
        broker, keys, ids, states = app.session().broker, app.keys.queue("default"), [], {}
        async with app.worker(concurrency=5, lease=1) as worker, asyncio.timeout(60):
            for window in DATABASE_WINDOWS:
                if window.startswith("drain"):
                    await asyncio.to_thread(server.kill)  # so that something waits
                else:
                    strikes.append(window)
                jobs = await enqueued(app)
                ids += [job.id for job in jobs]
                states |= {job.id: "FAILURE" if number % 5 == 0 else "SUCCESS" for number, job in enumerate(jobs)}
                while await settled(app, ids) != states or strikes == ["under way"]:
                    await asyncio.sleep(0.01)
                assert strikes == []
                if window.startswith("drain"):
                    strikes.append(window)
                await asyncio.to_thread(server.start)
                while strikes:
                    await asyncio.sleep(0.01)
                if window.startswith("drain"):
                    await asyncio.to_thread(server.start)
                await has_its_row(app, url, ids)
                while worker._archive.away_since is not None or (await broker.spooled(keys)).entries:
                    await asyncio.sleep(0.01)
        rows = await rows_in(url, ids)
        assert len(rows) == len(ids)
        assert {job_id: state for job_id, state, _ in rows} == states
