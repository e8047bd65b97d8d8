"""``history``, ``history show``, ``history export``: what an operator sees, and files that are whole or not there."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from rqueue.client.export import COLUMNS
from rqueue.results.row import Row
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.store import SqlStore

pytestmark = pytest.mark.usefixtures("directory")

NOW = datetime.now(UTC).replace(microsecond=0)


def row(job_id, ended_ago_s, **more):
    """A row of a job that ended so long ago."""
    finished = int((NOW - timedelta(seconds=ended_ago_s)).timestamp() * 1000)
    fields = dict.fromkeys(Row._fields)
    fields |= {"id": job_id, "task": "shop.send", "queue": "email", "state": "SUCCESS", "attempts": 1, "losses": 0}
    fields |= {"enqueued": finished - 1500, "started": finished - 1250, "finished": finished}
    return Row(**(fields | more))


ROWS = [
    row("good", 10, args='["ann"]', result='{"password":"hunter2","sum":3}', worker="host:1:a"),
    row("bad", 20, state="FAILURE", error="ValueError: no\x1b[31m good\nat all", traceback="Traceback:\n  here\n",
        attempts=2, history=f'[[{int(NOW.timestamp() - 30) * 1000},"OSError: away"]]', parent_id="good"),
    row("other", 7200, task="shop.report", queue="reports", error="=1+1", state="REVOKED", started=None),
]  # fmt: skip


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A database with three rows, named by RQUEUE_RESULTS."""
    url = f"sqlite:///{tmp_path}/history.db"

    async def fill():
        store = SqlStore(url)
        await upgrade(store.engine)
        await store.save(ROWS)
        await store.close()

    asyncio.run(fill())
    monkeypatch.setenv("RQUEUE_RESULTS", url)
    return url


@pytest.fixture
def listed(command, database):
    """The ids that a command lists."""

    def ids(*arguments):
        shown = command("history", "--json", *arguments)
        assert shown.exit_code == 0, shown.stderr
        return [each["id"] for each in json.loads(shown.stdout)["jobs"]]

    return ids


def test_a_table(command, database):
    shown = command("history")
    assert shown.exit_code == 0
    assert shown.stderr == ""
    (line,) = [line for line in shown.stdout.splitlines() if "bad" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    at = f"{NOW - timedelta(seconds=20):%Y-%m-%d %H:%M:%SZ}"
    times = ["0.250 s", "1.250 s", "2"]
    assert cells == ["bad", "FAILURE", "shop.send", "email", at, *times, "ValueError: no\\x1b[31m good"]


def test_filters(listed):
    assert listed() == ["good", "bad", "other"]
    assert listed("--state", "failure") == ["bad"]
    assert listed("--task", "shop.report") == ["other"]
    assert listed("--queue", "email", "--state", "SUCCESS") == ["good"]
    assert listed("--since", "1h") == ["good", "bad"]
    assert listed("--until", "1h") == ["other"]
    assert listed("--search", "valueerror good") == ["bad"]
    assert listed("--search", "nothing") == []


def test_pages(command, database):
    first = json.loads(command("history", "--json", "--limit", "2").stdout)
    assert [each["id"] for each in first["jobs"]] == ["good", "bad"]
    shown = command("history", "--json", "--limit", "2", "--after", first["after"])
    assert json.loads(shown.stdout)["after"] is None
    assert [each["id"] for each in json.loads(shown.stdout)["jobs"]] == ["other"]
    table = command("history", "--limit", "2")
    assert table.stderr == f"rqueue: there are more; go on with --after {first['after']}\n"
    assert "--after" not in table.stdout


def test_csv(command, database):
    names, *rows = csv.reader(io.StringIO(command("history", "--csv").stdout_bytes.decode(), newline=""))
    assert tuple(names) == COLUMNS
    found = [dict(zip(names, row, strict=True)) for row in rows]
    assert [each["id"] for each in found] == ["good", "bad", "other"]
    assert found[2]["error"] == "'=1+1"


def test_what_names_of_secrets_hide(command, database):
    for words in (["history", "--json"], ["history", "--csv"], ["history", "show", "good"]):
        assert "hunter2" not in command(*words).stdout
        assert "hunter2" in command(*words, "--show-sensitive").stdout


def test_a_story(command, database):
    shown = command("history", "show", "bad")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[:5] == ["id: bad", "task: shop.send", "queue: email", "state: FAILURE", "attempts: 2"]
    timeline = lines[lines.index("timeline:") + 1 : lines.index("timeline:") + 5]
    assert [line.split()[2] for line in timeline] == ["enqueued", "failed:", "started", "FAILURE:"]
    assert "parent: good shop.send SUCCESS" in lines
    assert lines[-3:] == ["traceback:", "Traceback:", "  here"]
    assert "\x1b" not in shown.stdout
    parent = command("history", "show", "good").stdout
    assert "\nchildren:\n  bad shop.send FAILURE" in parent


def test_a_story_as_json(command, database):
    told = json.loads(command("history", "show", "bad", "--json").stdout)
    assert (told["id"], told["attempts"], told["wait_s"], told["run_s"]) == ("bad", 2, 0.25, 1.25)
    assert [step["what"] for step in told["timeline"]] == ["enqueued", "failed", "started", "FAILURE"]
    assert told["parent"]["id"] == "good"
    assert told["children"] == told["earlier"] == []


def test_nobody_knows_it(command, database):
    shown = command("history", "show", "nobody")
    assert shown.exit_code == 4
    assert shown.stdout == ""


def test_an_export_to_stdout(command, database):
    shown = command("history", "export", "--state", "SUCCESS")
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == ["good"]
    assert json.loads(shown.stdout)["result"]["password"] == "hunter2"  # what is kept elsewhere is kept whole
    assert shown.stderr == "rqueue: 1 job(s) exported\n"


def test_an_export_to_a_file(command, database, tmp_path):
    shown = command("history", "export", "--format", "csv", "--output", "jobs.csv", "--json")
    assert json.loads(shown.stdout) == {"exported": 3, "file": "jobs.csv"}
    rows = csv.reader(io.StringIO((tmp_path / "jobs.csv").read_bytes().decode(), newline=""))
    assert [row[0] for row in rows] == ["id", "good", "bad", "other"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["export", "--output", "no/such/directory/x"], 1),
        (["export", "--output", "."], 1),
        (["export", "--format", "xml"], 2),
        (["export", "--json"], 2),
        (["--csv", "--json"], 2),
        (["--since", "yesterday"], 2),
        (["--state", "STARTED"], 2),
        (["--search", "*"], 2),
        (["--after", "x"], 2),
        (["--state", "FAILURE", "show", "bad"], 2),
        (["bad"], 2),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_a_line(command, database, words, code, tmp_path):
    before = sorted(tmp_path.iterdir())
    shown = command("history", *words)
    assert shown.exit_code == code
    assert shown.stdout == ""
    assert "Traceback" not in shown.stderr
    assert sorted(each for each in tmp_path.iterdir() if not each.name.startswith("history.db")) == [
        each for each in before if not each.name.startswith("history.db")
    ]


def test_without_a_database_it_says_where_one_is_named(command):
    shown = command("history")
    assert shown.exit_code == 2
    assert "--results" in shown.stderr


def test_a_task_by_its_last_name(command, database, project):
    """The app knows the whole name; the database is another one than the app's."""
    shown = command("history", "-A", "tasks:app", "--results", database, "--task", "nope", "--json")
    assert json.loads(shown.stdout)["jobs"] == []
    assert "nope" in shown.stderr


def test_a_reader_that_has_had_enough_is_no_error(database):
    """As `rqueue history export | head -1`: no traceback, and nothing is said of it."""
    words = [sys.executable, "-m", "rqueue", "history", "export"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(30) in (0, 1)
    process.stderr.close()
    assert "Traceback" not in said
    assert "Broken" not in said
