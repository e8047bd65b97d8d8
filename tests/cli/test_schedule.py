"""``schedule list|show|add|edit|pause|resume|trigger|remove``: what an operator sees and does, with its exit codes."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


@pytest.fixture
def stored(command):
    """One schedule, added from the shell."""
    words = (
        "--cron",
        "*/5 9-17 * * 1-5",
        "--tz",
        "Europe/Berlin",
        "--args",
        "[1]",
        "--queue",
        "email",
        "--priority",
        "3",
    )
    done = command("schedule", "add", "s", "shop.mail", *words)
    assert done.exit_code == 0, done.stderr
    return done


def document(command, *arguments):
    shown = command("schedule", *arguments, "--json")
    assert shown.exit_code == 0, shown.stderr
    return json.loads(shown.stdout)


def test_add_says_when_it_ticks(stored):
    assert stored.stdout.startswith("s: cron */5 9-17 * * 1-5 Europe/Berlin, next 20")


def test_list_and_show(command, stored):
    (row,) = [line for line in command("schedule", "list").stdout.splitlines() if "shop.mail" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:4] == ["s", "email", "shop.mail", "cron */5 9-17 * * 1-5 Europe/Berlin"]
    assert cells[5:] == ["", "skip", "allow", "added"]
    (listed,) = document(command, "list")
    assert (listed["name"], listed["args"], listed["priority"], listed["schedule"]) == ("s", [1], 3, cells[3])
    assert document(command, "list", "--queue", "other") == []
    shown = document(command, "show", "s")
    assert len(shown["next"]) == 5
    assert shown["next"][0] == shown["due"]
    lines = command("schedule", "show", "s").stdout.splitlines()
    assert {"task: shop.mail", "args: [1]", "kwargs: {}", "last_id:"} <= set(lines)


def test_edit_pause_resume(command, stored):
    words = ("--every", "60", "--kwargs", '{"a": 1}', "--misfire", "all", "--misfire-grace", "5", "--overlap", "queue")
    edited = document(command, "edit", "s", *words)
    assert (edited["schedule"], edited["kwargs"], edited["args"]) == ("every 60 s", {"a": 1}, [1])
    assert (edited["misfire"], edited["misfire_grace_s"], edited["overlap"]) == ("all", 5, "queue")
    assert command("schedule", "pause", "s").stdout == "s: every 60 s, paused\n"
    assert document(command, "show", "s")["next"] == []
    assert "│ paused" in command("schedule", "list").stdout
    assert document(command, "resume", "s")["due"] is not None


def test_trigger_prints_the_jobs_id(command, store, stored):
    job_id = command("schedule", "trigger", "s").stdout.strip()
    assert job_id in store.lindex("rqueue:{email}:p3", 0)
    assert document(command, "trigger", "s")["queue"] == "email"


def test_remove(command, stored):
    assert command("schedule", "remove", "s").stdout == "s is removed\n"
    assert document(command, "list") == []
    again = command("schedule", "remove", "s")
    assert (again.exit_code, again.stderr) == (4, "rqueue: there is no periodic schedule 's'\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "n", "t"), "give --cron"),
        (("add", "n", "t", "--cron", "nonsense"), "write 'minute hour day month weekday'"),
        (("add", "n", "t", "--cron", "@daily", "--every", "5"), "not both"),
        (("add", "n", "t", "--every", "5", "--tz", "UTC"), "--tz"),
        (("add", "n", "t", "--every", "0.1"), "at least 1 second"),
        (("add", "n", "t", "--cron", "@daily", "--tz", "Mars"), "IANA name"),
        (("add", "n", "t", "--every", "5", "--args", "{}"), "a JSON list"),
        (("add", "n", "t", "--every", "5", "--overlap", "no"), "one of allow, skip, queue"),
        (("add", "s", "t", "--every", "5"), "there is one in the queue 'email'"),
        (("add", "n", "t", "--every", "5", "--args", "[99999999999999999999]"), "cannot be sent as JSON"),
        (("add", "n", "t", "--every", "5", "--args", "[NaN]"), "cannot be sent as JSON"),
        (("edit", "s", "--args", "[99999999999999999999]"), "cannot be sent as JSON"),
        (("edit", "s"), "give what is to be changed"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(command, stored, words, says):
    done = command("schedule", *words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_arguments_that_the_task_does_not_take(command, project, redis_url, monkeypatch):
    """Where the app is found, its tasks are known: what does not fit is refused, an unknown name is told."""
    monkeypatch.delenv("RQUEUE_URL")
    monkeypatch.setenv("RQUEUE_APP", "tasks:app")
    add = ("schedule", "add", "n", "--every", "60", "--url", redis_url)
    done = command(*add, "tasks.add", "--args", "[1, 2, 3]")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "tasks.add(a: int, b: int) -> int: too many positional arguments" in done.stderr
    done = command(*add, "tasks.ad", "--args", "[1, 2]")
    assert (done.exit_code, done.stderr) == (0, "rqueue: the app has no task 'tasks.ad'; did you mean tasks.add?\n")
