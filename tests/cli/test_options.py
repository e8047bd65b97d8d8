"""Every option of every command has its variable: the option's name, and no command's."""

import pytest
import typer

from rqueue.cli.program import program

OF_THE_PROGRAM = {"--help", "--version", "--install-completion", "--show-completion"}


def walk(command, path=()):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


ALL_COMMANDS = [(path, command) for path, command in walk(typer.main.get_command(program)) if path]
COMMANDS = [
    (path, command)
    for path, command in ALL_COMMANDS
    if not getattr(command, "commands", None) or command.invoke_without_command
]


def options_of(command):
    for parameter in command.params:
        names = [name for name in parameter.opts if name.startswith("--")]
        if names and not OF_THE_PROGRAM & set(names):
            yield max(names, key=len), parameter


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_each_option_has_its_variable(path, command):
    for name, parameter in options_of(command):
        assert parameter.envvar == "RQUEUE_" + name.removeprefix("--").replace("-", "_").upper(), (path, name)
        assert parameter.help, (path, name)


def test_there_are_the_commands_of_the_design():
    assert {path for path, _ in COMMANDS} == {
        ("worker",),
        ("enqueue",),
        ("result",),
        ("queues",),
        ("workers",),
        ("purge",),
        ("demo",),
        ("bench",),
        ("status",),
        ("top",),
        ("inspect",),
        ("cancel",),
        ("control",),
        ("pause",),
        ("resume",),
        ("events",),
        ("health",),
        ("doctor",),
        ("dead", "list"),
        ("dead", "show"),
        ("dead", "edit"),
        ("dead", "retry"),
        ("dead", "purge"),
        ("stats",),
        ("history",),
        *(("history", name) for name in ["show", "export", "prune"]),
        *(("db", name) for name in ["upgrade", "current", "check"]),
        *(("schedule", name) for name in ["list", "show", "add", "edit", "pause", "resume", "trigger", "remove"]),
    }


def test_all_but_the_worker_and_the_screen_print_json():
    without = {path for path, command in COMMANDS if "--json" not in dict(options_of(command))}
    assert without == {("worker",), ("top",)}


@pytest.mark.parametrize("path", [(), *(path for path, _ in ALL_COMMANDS)], ids=" ".join)
def test_help_renders(command, path):
    for flag in ("--help", "-h"):
        shown = command(*path, flag)
        assert shown.exit_code == 0
        assert "Usage: " in shown.stdout
        has_its_own = path in {("dead",), ("db",), ("schedule",), ("doctor",)}
        assert "Exit codes: 0 success" in shown.stdout or has_its_own
