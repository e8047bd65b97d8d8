"""``rqueue stats``: as a table, as JSON and as CSV."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.tables import jobs

pytestmark = pytest.mark.usefixtures("directory")

NOW = datetime.now(UTC)


def ended(name, task, state, ago, wait_ms=20, run_ms=30):
    finished = NOW - ago
    return {
        "id": name,
        "enqueued": finished,
        "task": task,
        "queue": "email",
        "state": state,
        "attempts": 1,
        "losses": 0,
        "finished": finished,
        "wait_ms": wait_ms,
        "run_ms": run_ms,
        "recorded": finished,
    }


HOUR = timedelta(hours=1)
ROWS = [
    ended("a", "mail.send", "SUCCESS", HOUR, run_ms=2000),
    ended("b", "mail.send", "SUCCESS", 2 * HOUR, run_ms=250_000),
    ended("c", "mail.send", "FAILURE", 3 * HOUR),
    ended("d", "=cmd()", "REVOKED", HOUR, wait_ms=None, run_ms=None),
    ended("e", "mail.send", "SUCCESS", 200 * HOUR),
]


@pytest.fixture
def database(directory, monkeypatch):
    """A database with jobs, named by RQUEUE_RESULTS."""
    url = f"sqlite:///{directory}/history.db"

    async def make():
        engine = engine_for(url)
        await upgrade(engine)
        async with engine.begin() as connection:
            await connection.execute(jobs.insert(), ROWS)
        await engine.dispose()

    asyncio.run(make())
    monkeypatch.setenv("RQUEUE_RESULTS", url)


def test_as_a_table(command, database):
    shown = command("stats")
    assert shown.exit_code == 0, shown.stderr
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.stdout.splitlines()]
    assert ["mail.send", "3", "1 (33.3%)", "0", "19.9 ms", "19.9 ms", "19.9 ms", "2.02 s", "250 s", "250 s"] in cells
    assert ["=cmd()", "1", "0", "1", "", "", "", "", "", ""] in cells


def test_as_json(command, database):
    send, other = json.loads(command("stats", "--since", "30d", "--json").stdout)
    assert (send["task"], send["count"], send["succeeded"], send["failed"], send["revoked"]) == (
        "mail.send",
        4,
        3,
        1,
        0,
    )
    assert send["failure_rate"] == 0.25
    assert send["run_p50"] == pytest.approx(0.03, rel=0.01)
    assert other == {
        "task": "=cmd()",
        "count": 1,
        "succeeded": 0,
        "failed": 0,
        "revoked": 1,
        "failure_rate": 0,
        **{f"{name}_p{percent}": None for name in ("wait", "run") for percent in (50, 95, 99)},
    }


def test_as_csv(command, database):
    shown = command("stats", "--csv")
    lines = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [(line["task"], line["count"]) for line in lines] == [("mail.send", "3"), ("'=cmd()", "1")]
    assert lines[1]["wait_p50"] == ""


def test_a_time_and_a_task(command, database):
    (send,) = json.loads(command("stats", "--since", "150m", "--until", "90m", "--json").stdout)
    assert send["count"] == 1
    (send,) = json.loads(command("stats", "--task", "mail.send", "--json").stdout)
    assert send["count"] == 3


def test_what_is_wrong(command, database, monkeypatch):
    assert command("stats", "--since", "soon").exit_code == 2
    assert command("stats", "--json", "--csv").exit_code == 2
    monkeypatch.setenv("RQUEUE_RESULTS", "redis://localhost/3")
    shown = command("stats")
    assert shown.exit_code == 2
    assert "is none" in shown.stderr
