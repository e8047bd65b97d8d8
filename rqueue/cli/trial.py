"""What ``rqueue demo`` and ``rqueue bench`` share: they try rqueue out, and leave nothing behind.

Where no Redis is named they start a server of their own: a trial never runs against one that nobody has named.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Annotated

import typer

from rqueue.errors import MissingDependency

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="RQUEUE_URL", help="Use this Redis. Default: an embedded server of its own."),
]


def start_server(stack: ExitStack) -> tuple[str, str]:
    """Start an embedded server, which ends with the stack: its URL, and what to call it.

    Raises:
        MissingDependency: there is none to start.
    """
    from rqueue.embedded import EmbeddedServer, find_server

    try:
        name = find_server().name
    except MissingDependency as exc:
        raise MissingDependency(f"no Redis is named by --url or RQUEUE_URL, and none is installed: {exc}") from None
    url = stack.enter_context(EmbeddedServer()).url
    return url, f"embedded {name} at {url}"


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Do what a Ctrl-C would do now: an event loop's runner cancels its main task, and anything else is interrupted.

    A process in a shell's background ignores SIGINT: SIGTERM ends it all the same.
    """
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)
