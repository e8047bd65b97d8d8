"""``rqueue db``: the tables are made, and it is said what differs."""

import asyncio
import json
import sqlite3

import pytest

from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import downgrade
from rqueue.results.sql.version import VERSION

pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "history.db"


def test_from_nothing_to_the_newest(command, file):
    url = f"sqlite:///{file}"
    shown = command("db", "check", "--results", url)
    assert (shown.exit_code, shown.stdout) == (
        1,
        f"sqlite+aiosqlite:///{file}: there are no tables yet; run `rqueue db upgrade`\n",
    )
    assert "version none" in command("db", "current", "--results", url).stdout
    made = "tables made: rqueue_jobs, rqueue_hours, rqueue_marks, rqueue_outbox"
    for done in (made, "as before"):
        shown = command("db", "upgrade", "--results", url)
        assert (shown.exit_code, shown.stdout) == (0, f"sqlite+aiosqlite:///{file}: version {VERSION}, {done}\n")

    async def go_back() -> None:
        engine = engine_for(url)
        await downgrade(engine, "0002")
        await engine.dispose()

    asyncio.run(go_back())
    assert command("db", "upgrade", "--results", url).stdout.endswith(f"version {VERSION}, brought up from 0002\n")
    assert f"version {VERSION}, the newest" in command("db", "current", "--results", url).stdout
    shown = command("db", "check", "--results", url)
    assert (shown.exit_code, shown.stdout) == (0, f"sqlite+aiosqlite:///{file}: nothing differs\n")


def test_for_machines(command, file, monkeypatch):
    monkeypatch.setenv("RQUEUE_RESULTS", f"sqlite:///{file}")
    shown = f"sqlite+aiosqlite:///{file}"
    assert json.loads(command("db", "current", "--json").stdout) == {"version": VERSION, "databases": {shown: None}}
    assert json.loads(command("db", "upgrade", "--json").stdout) == {"version": VERSION, "databases": {shown: []}}
    with sqlite3.connect(file) as connection:
        connection.execute("DROP INDEX rqueue_jobs_task")
    connection.close()
    checked = command("db", "check", "--json")
    assert checked.exit_code == 1
    assert json.loads(checked.stdout)["databases"] == {shown: ["index rqueue_jobs_task is missing"]}


def test_celerys_own_table_is_left_and_named(command, file):
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE celery_taskmeta (task_id text)")
    connection.close()
    shown = command("db", "upgrade", "--results", f"sqlite:///{file}")
    assert shown.exit_code == 0
    assert "ALTER TABLE celery_taskmeta RENAME TO celery_taskmeta_old" in shown.stderr


def test_the_outbox_in_a_database_of_its_own_has_its_tables_too(command, directory, tmp_path, monkeypatch):
    (directory / "kept.py").write_text(
        "from rqueue import RQueue, Results\n"
        f"app = RQueue(results=Results('sqlite:///{tmp_path}/one.db', outbox='sqlite:///{tmp_path}/two.db'))\n"
    )
    shown = command("db", "upgrade", "-A", "kept:app")
    assert shown.exit_code == 0
    assert [line.partition(": ")[0][-6:] for line in shown.stdout.splitlines()] == ["one.db", "two.db"]


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://user:secret@127.0.0.1:1/app", 6, "rqueue: the result store cannot be used: "),
        ("mysql://user:secret@127.0.0.1:1/app", 2, "needs one of postgresql+asyncpg://"),
        ("redis://127.0.0.1:1/2", 2, "a Redis has no tables"),
    ],
)
@pytest.mark.parametrize("verb", ["upgrade", "current", "check"])
def test_what_cannot_be_asked_is_said_in_one_line(command, verb, url, code, said):
    shown = command("db", verb, "--results", url)
    assert (shown.exit_code, shown.stdout) == (code, "")
    assert said in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert "secret" not in shown.stderr


def test_an_app_without_a_database(command, directory):
    (directory / "plain.py").write_text("from rqueue import RQueue\napp = RQueue()\n")
    shown = command("db", "check", "-A", "plain:app")
    assert shown.exit_code == 2
    assert "no database keeps history" in shown.stderr
