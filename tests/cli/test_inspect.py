"""``inspect``: each verb in text and in JSON, and the code that tells whether all have answered."""

import json

import pytest

from rqueue.cli.inspect import Look
from rqueue.wire.control import INSPECT

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


def test_it_asks_what_workers_know():
    assert [look.value for look in Look] == list(INSPECT)


@pytest.mark.parametrize("verb", INSPECT)
def test_each_verb_is_answered(command, working, verb):
    name = working().worker.id
    shown = command("inspect", verb, "--timeout", "10")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"{name}: ")
    document = json.loads(command("inspect", verb, "--timeout", "10", "--json").stdout)
    ((answer,), silent) = document["answers"], document["silent"]
    assert (answer["worker"], silent) == (name, [])
    assert "ok" in answer


def test_a_running_job_is_shown(command, working):
    worker = working()
    worker.call(lambda: worker.app.tasks.find("hang").options(job_id="j1").enqueue("dora"))
    while not worker.worker.running:
        pass
    shown = command("inspect", "active", "--timeout", "10")
    assert "id=j1, task=shop.hang, queue=default, retries=0, args='dora', started=" in shown.stdout


def test_without_workers(command):
    shown = command("inspect", "ping")
    assert shown.exit_code == 4
    assert shown.stdout == ""
    assert shown.stderr.startswith("rqueue: there are no workers at redis://")
    assert json.loads(command("inspect", "ping", "--json").stdout) == {"answers": [], "silent": []}


def test_a_verb_that_is_none_is_wrong_usage(command):
    assert command("inspect", "pong").exit_code == 2
