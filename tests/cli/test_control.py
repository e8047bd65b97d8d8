"""``control``: what it has workers do, and what is refused before any is asked."""

import json

import pytest

from rqueue.cli.control import Action, read_arguments
from rqueue.errors import ConfigError
from rqueue.wire.control import CONTROL

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


def test_it_does_what_workers_can():
    assert [action.value for action in Action] == list(CONTROL)


def test_the_help_names_each(command):
    text = " ".join(command("control", "--help").stdout.split())
    assert all(f"{action.value}" in text for action in Action)


@pytest.mark.parametrize(
    ("action", "given", "args"),
    [
        ("shutdown", [], {}),
        ("pool_grow", [], {}),
        ("pool_grow", ["3"], {"n": 3}),
        ("add_consumer", ["email"], {"queue": "email"}),
        ("rate_limit", ["a.b", "10/m"], {"task": "a.b", "rate": "10/m"}),
        ("time_limit", ["a.b", "1.5", "3"], {"task": "a.b", "soft": 1.5, "hard": 3.0}),
        ("time_limit", ["a.b", "none", "3"], {"task": "a.b", "soft": None, "hard": 3.0}),
        ("time_limit", ["a.b", "2"], {"task": "a.b", "soft": 2.0}),
        ("cancel", ["j1"], {"id": "j1"}),
    ],
)
def test_arguments_by_name(action, given, args):
    assert read_arguments(action, given) == args


@pytest.mark.parametrize(
    ("action", "given"),
    [
        ("shutdown", ["now"]),
        ("pool_grow", ["0"]),
        ("pool_grow", ["two"]),
        ("add_consumer", []),
        ("add_consumer", ["a b"]),
        ("rate_limit", ["a.b"]),
        ("rate_limit", ["a.b", "often"]),
        ("time_limit", ["a.b", "3", "2"]),
        ("time_limit", ["a.b", "x"]),
        ("cancel", ["a b"]),
        ("cancel", ["a", "b"]),
    ],
)
def test_what_is_wrong_is_refused_before_any_worker_is_asked(command, action, given):
    with pytest.raises(ConfigError):
        read_arguments(action, given)
    shown = command("control", action, *given)
    assert (shown.exit_code, shown.stderr.count("\n")) == (2, 1)


def test_the_usage_is_in_the_refusal():
    with pytest.raises(ConfigError, match=r"^write: rqueue control time_limit TASK SOFT \[HARD\]$"):
        read_arguments("time_limit", ["a"])


def test_workers_do_it(command, working):
    """One worker, one after the other what it can do; at last it stops."""
    worker = working(concurrency=2)
    name = worker.worker.id

    def control(*words):
        shown = command("control", *words, "--timeout", "10")
        assert shown.exit_code == 0, shown.output
        return shown.stdout.removeprefix(f"{name}: ").rstrip("\n")

    assert control("pool_grow", "3") == "slots=5, was=2"
    assert control("pool_shrink") == "slots=4, was=5"
    assert control("add_consumer", "email") == '\n  changed: true\n  queues: ["default", "email"]'
    assert control("cancel_consumer", "email") == '\n  changed: true\n  queues: ["default"]'
    assert control("rate_limit", "hang", "5/m") == "task=shop.hang, rate_limit=5/m"
    assert control("time_limit", "hang", "1", "2") == "task=shop.hang, soft_time_limit=1.0, time_limit=2.0"
    document = json.loads(command("control", "shutdown", "--timeout", "10", "--json").stdout)
    assert document["answers"] == [{"worker": name, "ok": {"stopping": True, "running": 0}}]
    worker._thread.join(10)
    assert not worker._thread.is_alive()


def test_a_worker_process_stops(command, start_worker, project):
    process = start_worker("-A", "tasks:app")
    started = process.event("worker started")
    while command("inspect", "ping").exit_code:  # it may not hear yet
        pass
    assert command("control", "shutdown", "-d", started["worker"]).exit_code == 0
    assert process.end() == 0
