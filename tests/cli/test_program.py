"""The program as a whole: errors without a traceback, its version, its two ways to be started."""

import subprocess
import sys

import pytest

import rqueue


def test_its_version(command):
    assert command("--version").stdout == f"rqueue {rqueue.__version__}\n"


def test_without_a_command_it_shows_help(command):
    assert "Usage: rqueue" in command().output


def test_an_unknown_command_is_wrong_usage(command):
    shown = command("worke")
    assert shown.exit_code == 2
    assert "worke" in shown.stderr


def test_it_is_a_module(directory):
    done = subprocess.run([sys.executable, "-m", "rqueue", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rqueue {rqueue.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["queues"], ["workers"], ["status"], ["top", "--once"], ["result", "1"], ["enqueue", "a.b"]),
        *(["purge", "x", "--yes"], ["dead", "list"], ["dead", "edit", "1", "--args", "[]"]),
        *(
            ["cancel", "1"],
            ["cancel", "--task", "a"],
            ["pause", "x"],
            ["resume", "--all"],
            ["events"],
            ["events", "1"],
            ["bench"],
        ),
        *(["schedule", "list"], ["schedule", "add", "n", "a.b", "--every", "5"], ["schedule", "trigger", "n"]),
        ["bench"],
        *(["doctor"], ["doctor", "--fix"]),
    ],
    ids=" ".join,
)
def test_without_redis_there_is_one_line_and_code_3(command, directory, new_server, arguments):
    server = new_server()
    url = server.url
    server.stop()
    shown = command(*arguments, "--url", url)
    assert shown.exit_code == 3
    assert shown.stdout == ""
    assert shown.stderr.startswith("rqueue: Redis cannot be reached")
    assert shown.stderr.count("\n") == 1


def test_a_warning_says_why(directory):
    """Of a command that sets up no logging; breaks when only the message is shown, which is constant."""
    done = subprocess.run(
        [sys.executable, "-m", "rqueue", "inspect", "ping", "--url", "redis://127.0.0.1:1"],
        capture_output=True,
        text=True,
        check=False,
    )
    warned, failed = done.stderr.splitlines()
    assert "listening for answers waits for redis error=" in warned
    assert failed.startswith("rqueue: Redis cannot be reached")


def test_a_wrong_url_is_wrong_usage(command, directory):
    shown = command("queues", "--url", "http://x")
    assert shown.exit_code == 2
    assert "needs one of redis://" in shown.stderr


def test_completion_is_offered(command):
    assert "--install-completion" in command("--help").stdout
