"""What commands print: tables for people or one JSON document for machines on stdout, and on stderr why they failed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from rqueue.app import RQueue
from rqueue.cli.exits import Code
from rqueue.wire import codec

T = TypeVar("T")
_WIDE = 1000
"""Columns of a table that goes to a file or a pipe: nothing is cut or wrapped there."""


def run(client: RQueue, function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in an event loop of its own, and close the client after it."""

    async def main() -> T:
        try:
            return await function()
        finally:
            await client.close()

    return asyncio.run(main())


def show_json(document: Any) -> None:
    """Print one JSON document, in one line; bytes in it are tagged base64 as in a message."""
    typer.echo(codec.dumps(document).decode())


def printable(text: str) -> str:
    """The text in one line that a terminal only shows: names in Redis, and those that are typed, may have any bytes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table; None is shown as nothing."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        # The first columns name things, the others count: a header that begins with a space is a number's.
        table.add_column(column.strip(), justify="right" if column.startswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    console().print(table)


def confirm(question: str) -> None:
    """Ask on stderr, since stdout is for the answer's document; no answer is a no.

    Raises:
        typer.Exit: the answer is no.
    """
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        fail("nothing was changed", Code.FAILED)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr as they are now."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, markup=False, highlight=False, emoji=False)


def fail(text: str, code: Code) -> NoReturn:
    """Say in one line on stderr what went wrong, and end the command.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"rqueue: {printable(text)}", err=True)
    raise typer.Exit(code)
