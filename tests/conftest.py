"""What tests share: a real server for the session, a fresh store for each test, and servers of a test's own."""

import asyncio
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from rqueue.broker.calls import every
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.router import Router
from rqueue.embedded import EmbeddedServer

from .cluster import Cluster, is_on_a_cluster_always, unlike_a_cluster
from .postgres import NoPostgres, Postgres

NewServer = Callable[..., EmbeddedServer]

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_memory_names = itertools.count(1)
_database_names = itertools.count(1)


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


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    """Six servers for the whole session; whoever changes them puts them back."""
    with Cluster() as running:
        yield running


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster, with nothing stored in it."""
    running_cluster.flush()
    return running_cluster


# `make test-cluster` asks for the cluster alone, and then for all of it.
STORES = os.environ.get("RQUEUE_TEST_STORES", "memory,redis,cluster").split(",")
_OF_ALL_NODES = (b"DBSIZE", b"FLUSHALL", b"FLUSHDB", b"KEYS", b"MSET", b"SCRIPT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside the other stores only some files are run on the cluster: its servers are many, and start slowly."""
    if "RQUEUE_TEST_STORES" not in os.environ:
        items[:] = [item for item in items if not is_on(item, "cluster") or is_on_a_cluster_always(item)]


def is_on(item: pytest.Item, store: str) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("url") == store


@pytest.fixture
def whole_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests say to a whole server, past the verbs, is said to every master, and their answers are one."""
    if why := unlike_a_cluster(request.node):
        pytest.skip(why)
    call = Router.call

    def call_all(router: Router, *command: bytes | str | int) -> asyncio.Future[Any]:
        name = command[0] if isinstance(command[0], bytes) else str(command[0]).encode()
        if name not in _OF_ALL_NODES:
            return call(router, *command)
        return asyncio.ensure_future(ask_all(router, name, command))

    async def ask_all(router: Router, name: bytes, command: tuple[bytes | str | int, ...]) -> Any:
        await call(router, b"PING")
        if name == b"MSET":
            return await every([call(router, b"SET", *command[at : at + 2]) for at in range(1, len(command), 2)])
        links = [router._link(node) for node in router._topology.masters()]
        replies = [await link.call(*command) for link in links]
        if name == b"DBSIZE":
            return sum(replies)
        if command[:2] == ("SCRIPT", "EXISTS"):
            return [all(known) for known in zip(*replies, strict=True)]
        return [key for keys in replies for key in keys] if name == b"KEYS" else replies[0]

    monkeypatch.setattr(Router, "call", call_all)
    monkeypatch.setattr(Endpoint, "move_clock", lambda *_: pytest.skip("the clock of a cluster cannot be moved"))


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of broker in turn, with nothing stored in it: a suite that takes this holds for all of them."""
    if request.param == "cluster":
        request.getfixturevalue("whole_cluster")
        running: Cluster = request.getfixturevalue("cluster")
        return running.url
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for the whole session; a test that ends or changes it asks for `new_postgres` instead."""
    with start_postgres(Postgres()) as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own, without tables."""
    name = f"test_{next(_database_names)}"
    postgres.run(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_postgres() -> Iterator[Callable[..., Postgres]]:
    """Start servers of the test's own, with settings; all are stopped at its end."""
    with ExitStack() as running:
        yield lambda options=None: running.enter_context(start_postgres(Postgres(options)))


@pytest.fixture(scope="session")
def postgres_with_tables(postgres: Postgres) -> str:
    """The name of a database with rqueue's tables."""
    postgres.run("CREATE DATABASE with_tables")
    _upgrade(postgres.url("with_tables"))
    return "with_tables"


@pytest.fixture(scope="session")
def file_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "history.db"
    _upgrade(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture(params=["asyncpg", "psycopg", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with rqueue's tables and nothing in them, by each driver in turn."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("file_with_tables"), tmp_path / "history.db")
        return f"sqlite+aiosqlite:///{tmp_path / 'history.db'}"
    running: Postgres = request.getfixturevalue("postgres")
    name: str = request.getfixturevalue("postgres_with_tables")
    running.run("TRUNCATE rqueue_outbox, rqueue_jobs, rqueue_hours, rqueue_marks RESTART IDENTITY", name)
    return running.url(name, request.param)


def _upgrade(url: str) -> None:
    from rqueue.results.sql.engine import engine_for
    from rqueue.results.sql.schema import upgrade

    async def go() -> None:
        engine = engine_for(url)
        await upgrade(engine)
        await engine.dispose()

    asyncio.run(go())


def start_postgres(server: Postgres) -> Postgres:
    """Where there is none the test is skipped; never where one is required, as in CI: a package carries one."""
    try:
        return server.start()
    except NoPostgres as exc:
        if os.environ.get("RQUEUE_TEST_POSTGRES") == "required":
            raise
        pytest.skip(str(exc))
