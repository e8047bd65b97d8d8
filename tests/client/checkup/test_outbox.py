"""The outbox in a checkup: what was committed and is not sent, or cannot be."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from rqueue import Results, RQueue
from rqueue.client.checkup.finding import Level
from rqueue.client.checkup.outbox import LATE_S, STUCK_S, examine_outbox, unsent
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.tables import outbox

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


@pytest.mark.parametrize("results", [None, "redis://127.0.0.1:1/0"])
async def test_an_app_without_one_has_nothing_to_look_at(url, new_app, results):
    assert await examine_outbox(new_app(url, results=results)) == []


@pytest.mark.parametrize(
    ("age_s", "level"),
    [(LATE_S - 1, None), (LATE_S, Level.WARNING), (STUCK_S - 1, Level.WARNING), (STUCK_S, Level.PROBLEM)],
)
def test_how_long_a_job_may_wait(age_s, level):
    found = list(unsent(3, NOW - timedelta(seconds=age_s), NOW))
    assert [each.level for each in found] == ([] if level is None else [level])
    assert not list(unsent(0, None, NOW))


async def test_what_no_worker_sends_is_told(url, new_app, database):
    """Beside a store in another Redis. Breaks when a marked batch, or another namespace's rows, count wrong."""
    app: RQueue = new_app(url, results=Results("redis://127.0.0.1:1/0", outbox=database))
    other: RQueue = new_app(url, namespace="other")
    engine = engine_for(database)
    async with engine.begin() as connection:
        for each in (app, other):
            await each.enqueue_many_in(connection, [each.task(lambda: None, name="job").s() for _ in range(3)])
    assert await examine_outbox(app) == []
    async with engine.begin() as connection:
        await connection.execute(update(outbox).values(created=datetime.now(UTC) - timedelta(hours=1)))
        await connection.execute(text("UPDATE rqueue_outbox SET batch = 'token 1', marked = created WHERE seq = 1"))
        await connection.execute(text("UPDATE rqueue_outbox SET batch = 'refused: no priority' WHERE seq = 2"))
    late, refused = await examine_outbox(app)
    assert (late.check, late.level) == ("outbox", Level.PROBLEM)
    assert late.text.startswith("2 committed job(s) are not sent, the first for 3,")
    assert (refused.level, refused.text) == (Level.PROBLEM, "1 committed job(s) cannot be sent")
    await engine.dispose()


async def test_one_that_cannot_be_asked(url, new_app, tmp_path: Path):
    for results in ("postgresql+asyncpg://user:secret@127.0.0.1:1/app", f"sqlite:///{tmp_path}/empty.db"):
        (found,) = await examine_outbox(new_app(url, results=results))
        assert (found.level, found.text.startswith("the outbox cannot be asked: ")) == (Level.PROBLEM, True)
        assert "secret" not in found.text
