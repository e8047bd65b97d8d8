"""``pause`` and ``resume``, and where it is shown what is paused."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


def test_a_queue_and_back(command, store):
    assert command("enqueue", "a.b", "--queue", "email").exit_code == 0
    assert command("pause", "email").stdout == "queue email: paused\n"
    assert command("pause", "email").stdout == "queue email: was paused already\n"
    assert store.zrange("rqueue:{email}:stops", 0, -1) == ["queue"]
    assert "email (paused)" in command("queues").stdout
    assert "email (paused)" in command("top", "--once").stdout
    assert "paused: queue email since 20" in command("status").stdout
    (_, email) = json.loads(command("queues", "--json").stdout)
    assert (email["name"], email["is_paused"], email["paused_tasks"]) == ("email", True, [])
    (paused,) = json.loads(command("status", "--json").stdout)["paused"]
    assert (paused["kind"], paused["name"]) == ("queue", "email")
    assert command("resume", "email").stdout == "queue email: resumed\n"
    assert command("resume", "email").stdout == "queue email: was not paused\n"
    assert not {"rqueue:paused", "rqueue:{email}:stops"} & set(store.keys("*"))


def test_a_task(command, store):
    assert command("enqueue", "a.b", "--queue", "email").exit_code == 0
    shown = command("pause", "--task", "a.b", "--json")
    assert json.loads(shown.stdout) == {"paused": "task a.b", "was_paused": False}
    assert store.zrange("rqueue:{email}:stops", 0, -1) == ["task:a.b"]
    assert json.loads(command("queues", "--json").stdout)[1]["paused_tasks"] == ["a.b"]
    shown = command("resume", "--task", "a.b", "--json")
    assert json.loads(shown.stdout) == {"resumed": "task a.b", "was_paused": True, "still": []}


def test_a_queue_that_was_paused_by_name_and_with_everything(command):
    assert command("enqueue", "a.b", "--queue", "email").exit_code == 0
    command("pause", "email")
    assert command("pause", "--all").stdout == "everything: paused\n"
    assert command("resume", "email").stdout == "queue email: resumed\nstill paused: everything\n"
    command("pause", "email")
    assert command("resume", "--all").stdout == "everything: resumed\nstill paused: queue email\n"
    (still,) = json.loads(command("resume", "--all", "--json").stdout)["still"]
    assert (still["kind"], still["name"]) == ("queue", "email")


def test_a_queue_that_nobody_knows(command):
    """It may come into use later; it may also be misspelled."""
    shown = command("pause", "emial")
    assert (shown.exit_code, shown.stderr) == (0, "rqueue: nobody has used a queue emial yet\n")


@pytest.mark.parametrize("arguments", [[], ["email", "--all"], ["--task", "a", "--all"], ["email", "--task", "a"]])
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_one_of_them(command, verb, arguments):
    shown = command(verb, *arguments)
    assert (shown.exit_code, shown.stderr) == (2, "rqueue: name a queue, or a task, or all: one of them\n")


def test_a_worker_says_that_its_queue_is_paused(command, working):
    worker = working(queues=["email"])
    command("pause", "email")
    while "true" not in (shown := command("inspect", "active_queues", "--json").stdout):
        pass
    assert '"paused":true' in shown
    assert command("health").exit_code == 0
    command("resume", "email")
    assert worker.worker.id


def test_a_task_of_the_app_by_its_last_name(command, project, monkeypatch):
    """What is printed is what is paused; a name that the app does not know is probably misspelled."""
    monkeypatch.setenv("RQUEUE_APP", "tasks:app")
    assert command("pause", "--task", "add").stdout == "task tasks.add: paused\n"
    assert command("resume", "--task", "add").stdout == "task tasks.add: resumed\n"
    shown = command("pause", "--task", "tasks.sedn")
    assert (shown.exit_code, shown.stdout) == (0, "task tasks.sedn: paused\n")
    assert shown.stderr == "rqueue: the app has no task 'tasks.sedn'; did you mean tasks.send?\n"
