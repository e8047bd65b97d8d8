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
    [["queues"], ["workers"], ["result", "1"], ["enqueue", "a.b"], ["purge", "x", "--yes"], ["dead", "list"]],
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


def test_a_wrong_url_is_wrong_usage(command, directory):
    shown = command("queues", "--url", "http://x")
    assert shown.exit_code == 2
    assert "needs one of redis://" in shown.stderr


def test_completion_is_offered(command):
    assert "--install-completion" in command("--help").stdout
