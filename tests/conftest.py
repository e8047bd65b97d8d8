"""What tests share: a real server for the session, a fresh store for each test, and servers of a test's own."""

import itertools
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from rqueue.embedded import EmbeddedServer

NewServer = Callable[..., EmbeddedServer]

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_memory_names = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One real server for the whole session; a test that ends or changes it asks for `new_server` instead."""
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def redis_url(server: EmbeddedServer) -> str:
    """The real server's URL, with nothing stored in it."""
    with redis.Redis.from_url(server.url) as connection:
        connection.flushall()
    return server.url


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of broker in turn, with nothing stored in it: a suite that takes this holds for all of them."""
    if request.param == "redis":
        address: str = request.getfixturevalue("redis_url")
        return address
    return f"memory://test-{next(_memory_names)}"


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Start servers of the test's own, with options; all are stopped at its end."""
    with ExitStack() as running:

        def start(
            options: Mapping[str, str] | None = None, *, directory: Path | None = None, port: int | None = None
        ) -> EmbeddedServer:
            return running.enter_context(EmbeddedServer(options=options, directory=directory, port=port))

        yield start
