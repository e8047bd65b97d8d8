"""``status``: every worker in a line, and the sums."""

import json

import pytest

from rqueue.cli.status import row, state_of, summary, totals
from rqueue.client.admin import WorkerStatus

SAID = {"concurrency": 4, "running": 1, "held": 2, "state": "running", "serves": ("a",), "done": 9, "stalls": 1}
WORKERS = [
    WorkerStatus("w:1:a", ("a", "b"), 9.0, beat_age_s=1.26, **SAID),
    WorkerStatus("w:2:b", ("a",), 9.0, beat_age_s=0.0, **{**SAID, "state": "stopping", "running": 3}),
    WorkerStatus("w:3:c", ("a",), 9.0),
    WorkerStatus("w:4:d", ("a",), -1.0, **SAID),
]


def test_states():
    assert [state_of(worker) for worker in WORKERS] == ["running", "stopping", "silent", "lost"]


def test_a_line_for_each():
    assert row(WORKERS[0]) == ("w:1:a", "running", "1/4", "a", 9, 1, "1.3 s ago")
    assert row(WORKERS[2]) == ("w:3:c", "silent", None, "a", None, None, None)


def test_the_lost_are_not_counted():
    assert totals(WORKERS) == {"workers": 3, "running": 4, "slots": 8, "done": 18, "stalls": 2}
    assert summary(WORKERS) == "3 worker(s), 4/8 running, 18 done, 2 stall(s)"


@pytest.mark.usefixtures("on_redis", "directory")
def test_a_real_worker(command, working):
    name = working(concurrency=3).worker.id
    shown = command("status")
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stdout.splitlines() if name in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:-1] == [name, "running", "0/3", "default", "0", "0"]
    assert cells[-1].endswith(" s ago")
    assert shown.stdout.splitlines()[-1] == "1 worker(s), 0/3 running, 0 done, 0 stall(s)"
    document = json.loads(command("status", "--json").stdout)
    assert document["total"] == {"workers": 1, "running": 0, "slots": 3, "done": 0, "stalls": 0}
    assert (document["workers"][0]["id"], document["workers"][0]["state"]) == (name, "running")


@pytest.mark.usefixtures("on_redis", "directory")
def test_nobody(command):
    assert command("status").stdout.splitlines()[-1] == "0 worker(s), 0/0 running, 0 done, 0 stall(s)"
