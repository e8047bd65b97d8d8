"""Asks workers for a command, prints what each answered, and names each that did not."""

from __future__ import annotations

import json as stdlib_json
from typing import Annotated, Any

import typer

from rqueue.app import RQueue
from rqueue.cli.exits import Code
from rqueue.cli.output import fail, printable, run, show_json
from rqueue.client.inspector import TIMEOUT_S, Inspector, Replies
from rqueue.wire.control import Answer

Destination = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--destination",
        envvar="RQUEUE_DESTINATION",
        metavar="ID,…",
        help="Only these workers: an id, the beginning of one, or a host with one worker. Default: all.",
    ),
]
AnswerTimeout = Annotated[
    float,
    typer.Option(
        "--timeout", envvar="RQUEUE_TIMEOUT", min=0.01, metavar="SECONDS", help="How long answers are waited for."
    ),
]
DEFAULT_TIMEOUT = TIMEOUT_S


def ask(
    client: RQueue, verb: str, args: dict[str, Any], destination: str | None, timeout: float, *, json: bool
) -> None:
    """Ask, print the answers, and end with the code that fits.

    Raises:
        typer.Exit: a worker refused, was silent, or there is none.
    """
    replies = run(client, lambda: _ask(client, verb, args, destination, timeout))
    if json:
        show_json({"answers": [_document(each) for each in replies.answers], "silent": list(replies.silent)})
    else:
        for answer in replies.answers:
            for line in f"{answer.worker}: {_text(answer)}".split("\n"):
                typer.echo(printable(line))  # anybody may have answered
    _end(client, replies, timeout)


async def _ask(client: RQueue, verb: str, args: dict[str, Any], destination: str | None, timeout: float) -> Replies:
    inspector, to = Inspector(client), None
    if destination is not None:
        parts = [name for part in destination.split(",") if (name := part.strip())]
        found = await inspector.find(parts)
        for part, worker in found.items():
            if part != worker:
                typer.echo(f"rqueue: {part} is {worker}", err=True)
        to = list(found.values())
    return await inspector.ask(verb, to=to, timeout=timeout, **args)


def _end(client: RQueue, replies: Replies, timeout: float) -> None:
    for worker in replies.silent:
        typer.echo(f"rqueue: {worker} did not answer within {timeout:g} s", err=True)
    if not replies.answers and not replies.silent:
        fail(f"there are no workers at {client.endpoint.shown}", Code.NOT_FOUND)
    if any(answer.error is not None for answer in replies.answers):
        raise typer.Exit(Code.FAILED)
    if replies.silent:
        raise typer.Exit(Code.TIMEOUT)


def _document(answer: Answer) -> dict[str, Any]:
    about = {"ok": answer.ok} if answer.error is None else {"error": answer.error}
    return {"worker": answer.worker, **about}


def _text(answer: Answer) -> str:
    """One line where it fits in one, else the lines below, indented."""
    if answer.error is not None:
        return f"error: {answer.error}"
    return shown(answer.ok)


def shown(value: Any) -> str:
    """A value for people: a text as it is, each of a list's items in a line of its own, an object by its fields."""
    if isinstance(value, str):
        return _below(value.splitlines()) if "\n" in value else value
    if isinstance(value, list):
        return _below([_line(each) for each in value]) if value else "none"
    if isinstance(value, dict) and any(isinstance(each, dict | list) for each in value.values()):
        return _below([f"{name}: {_line(each)}" for name, each in value.items()])
    return _line(value)


def _below(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_line(each)}" for name, each in value.items() if each is not None) or "-"
    return value if isinstance(value, str) else stdlib_json.dumps(value, ensure_ascii=False)
