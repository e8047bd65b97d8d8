"""What workers answered, for people: who is meant, who is silent, and the exit code."""

import json
import re

import pytest

from rqueue.cli.replies import shown

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


@pytest.fixture
def silent(store):
    """Two workers with a lease, which hear nothing."""
    names = ["frozen:1:a", "frozen:2:b"]
    store.sadd("rqueue:queues", "default")
    store.zadd("rqueue:{default}:workers", dict.fromkeys(names, 9e15))
    return names


def test_who_is_silent_is_named_one_line_each_and_the_code_says_so(command, silent):
    result = command("inspect", "ping", "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.splitlines() == [f"rqueue: {name} did not answer within 0.1 s" for name in silent]
    assert json.loads(command("inspect", "ping", "--timeout", "0.1", "--json").stdout)["silent"] == silent


def test_what_a_part_of_an_id_matched_is_said(command, silent, working):
    name = working().worker.id
    host, process, _ = name.split(":")
    for part in (host, f"{host}:{process}"):
        result = command("inspect", "ping", "-d", part, "--timeout", "10")
        assert (result.exit_code, result.stdout) == (0, f"{name}: pong\n")
        assert result.stderr == f"rqueue: {part} is {name}\n"
    assert command("inspect", "ping", "-d", name, "--timeout", "10").stderr == ""
    both = command("inspect", "ping", "-d", f"{name}, frozen:1", "--timeout", "0.1")
    assert both.exit_code == 5
    assert "frozen:1:a did not answer" in both.stderr
    assert "frozen:2:b" not in both.stderr


def test_a_part_that_is_not_clear_is_wrong_usage(command, silent):
    result = command("inspect", "ping", "-d", "frozen")
    assert result.exit_code == 2
    assert re.search("there are 2: frozen:1:a, frozen:2:b", result.stderr)


def test_a_refusal_is_code_1(command, working):
    name = working().worker.id
    result = command("control", "rate_limit", "nobody", "1/s", "--timeout", "10")
    assert result.exit_code == 1
    assert result.stdout == f"{name}: error: task 'nobody': no task of that name is known here\n"
    document = json.loads(command("control", "rate_limit", "nobody", "1/s", "--timeout", "10", "--json").stdout)
    assert document["answers"][0]["error"].startswith("task 'nobody'")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("pong", "pong"),
        ([], "none"),
        ({"slots": 3, "was": 1}, "slots=3, was=1"),
        ([{"id": "a", "priority": None, "args": ""}], "\n  id=a, args="),
        ({"name": "x", "total": {"t": 1}}, "\n  name: x\n  total: t=1"),
        ("one\ntwo", "\n  one\n  two"),
    ],
)
def test_values_for_people(value, text):
    assert shown(value) == text
