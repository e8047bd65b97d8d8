"""housekeeper: a worker keeps the result store in order, and nothing that happens to the store ends it."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import RQueue
from rqueue.config import Results
from rqueue.errors import StoreUnavailable
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.tables import jobs
from rqueue.worker import housekeeper
from rqueue.worker.housekeeper import Housekeeper

URL = "sqlite:///history.db"


class Shelf:
    """A store that only says how it was asked."""

    shown = URL

    def __init__(self, *answers):
        self.asked, self.answers, self.done = [], list(answers), asyncio.Event()

    async def tidy(self, retention_s, *, keep_failures=False):
        self.asked.append((retention_s, keep_failures))
        answer = self.answers.pop(0)
        if not self.answers:
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_says_for_how_long_rows_are_kept(log):
    for results, wanted in [
        (Results(URL), (None, False)),
        (Results(URL, retention="30d", keep_failures=True), (30 * 86_400, True)),
        (Results(URL, retention=timedelta(hours=2)), (7200, False)),
    ]:
        shelf = Shelf(7, 0)
        keeper = Housekeeper(shelf, results)
        assert await keeper.tick() == 7
        assert await keeper.tick() == 0
        assert shelf.asked == [wanted] * 2
    assert [each["rows"] for each in log.of("old results removed")] == [7, 7, 7]


async def test_what_goes_wrong_is_logged_and_tried_again(monkeypatch, log):
    monkeypatch.setattr(housekeeper, "LOOK_S", 0)
    shelf = Shelf(StoreUnavailable("the database is away"), RuntimeError(), 0)
    running = asyncio.create_task(Housekeeper(shelf, Results(URL)).run())
    await shelf.done.wait()
    running.cancel()
    errors = [each["error"] for each in log.of("result store is not kept in order")]
    assert errors == ["the database is away", "RuntimeError()"]


@pytest.fixture
def url(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/history.db"

    async def make():
        engine = engine_for(url)
        await upgrade(engine)
        old = datetime.now(UTC) - timedelta(days=40)
        row = {"queue": "q", "state": "SUCCESS", "attempts": 1, "losses": 0, "recorded": old}
        async with engine.begin() as connection:
            await connection.execute(jobs.insert(), [{"id": "old", "enqueued": old, "finished": old} | row])
        await engine.dispose()

    asyncio.run(make())
    return url


async def test_a_worker_removes_old_rows_and_stops_while_it_waits(url, tmp_path, until):
    app = RQueue("memory://housekeeper", results=Results(url, retention="30d"))
    async with app, app.worker():
        with closing(sqlite3.connect(tmp_path / "history.db")) as file:
            await until(lambda: not file.execute("SELECT 1 FROM rqueue_jobs").fetchall())
            assert file.execute("SELECT sum(succeeded) FROM rqueue_hours WHERE span = 1").fetchone() == (1,)


async def test_a_worker_without_a_store_has_none():
    app = RQueue("memory://nothing")
    async with app, app.worker() as worker:
        assert not [each for each in worker._inbound() if isinstance(each, Housekeeper)]
