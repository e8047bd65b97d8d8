"""Tables for people, one JSON document for machines."""

import io
import json
import sys

import pytest
import typer

from rqueue import RQueue
from rqueue.cli.exits import Code
from rqueue.cli.output import confirm, console, fail, run, show_json, show_table


def test_a_document_is_one_line_and_carries_bytes(capsys):
    show_json({"a": [1, None], "b": b"\x00"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": [1, None], "b": {"$bytes": "AA=="}}


def test_a_table_in_a_pipe_cuts_nothing(capsys):
    show_table("title", ("name", " count"), [("x" * 300, 5), ("[red]none[/]", None)])
    out = capsys.readouterr().out
    assert "x" * 300 in out
    assert "[red]none[/]" in out
    assert "None" not in out


def test_a_console_is_on_the_stream_of_now(capsys):
    console().print("out")
    console(stderr=True).print("err")
    assert capsys.readouterr() == ("out\n", "err\n")


def test_the_client_is_closed_whatever_happens():
    client = RQueue("memory://")

    async def open_and_fail():
        await client.open()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(client, open_and_fail)
    assert not client._sessions


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_a_yes_goes_on(monkeypatch, capsys, answer):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    confirm("really?")
    assert capsys.readouterr() == ("", "really? [y/N] ")


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yesterday\n"])
def test_anything_else_ends_the_command(monkeypatch, capsys, answer):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(typer.Exit) as caught:
        confirm("really?")
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err.endswith("rqueue: nothing was changed\n")


def test_failing_is_one_line_on_stderr(capsys):
    with pytest.raises(typer.Exit) as caught:
        fail("it is away", Code.REDIS)
    assert caught.value.exit_code == 3
    assert capsys.readouterr() == ("", "rqueue: it is away\n")
