"""What tests of result stores share: each kind of store in turn, databases with and without tables, and rows."""

import asyncio
import itertools
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rqueue.results.redis_store import RedisStore
from rqueue.results.row import Row
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import upgrade
from rqueue.results.sql.store import SqlStore
from rqueue.results.store import ResultStore

from ..postgres import Postgres  # noqa: TID252 - tests are no installed package

NOW = 1_763_841_234_567  # as a float of seconds times 1000 it is another number

_numbers = itertools.count(1)


def make_row(**fields: Any) -> Row:
    """A job that succeeded, with an id that no other row has, and with these fields."""
    plain: dict[str, Any] = {
        "id": f"job-{next(_numbers)}",
        "enqueued": NOW,
        "task": "mail.send",
        "queue": "email",
        "priority": None,
        "state": "SUCCESS",
        "args": '["fir-1"]',
        "kwargs": "{}",
        "result": '{"sent":true}',
        "error": None,
        "traceback": None,
        "attempts": 1,
        "losses": 0,
        "worker": "host:1:abc",
        "parent_id": None,
        "root_id": None,
        "started": NOW + 100,
        "finished": NOW + 150,
        "history": None,
    }
    return Row(**plain | fields)


async def bring_up(url: str) -> None:
    """Make the tables."""
    engine = engine_for(url)
    try:
        await upgrade(engine)
    finally:
        await engine.dispose()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> str:
    """The name of a database with empty tables, to be copied: nobody connects to it, since then it could not be."""
    postgres.run("CREATE DATABASE migrated")
    asyncio.run(bring_up(postgres.url("migrated")))
    return "migrated"


@pytest.fixture(scope="session")
def shared_postgres(postgres: Postgres, migrated_postgres: str) -> str:
    """The name of a database with tables, for tests that need no empty ones."""
    postgres.run(f"CREATE DATABASE shared TEMPLATE {migrated_postgres}")
    return "shared"


@pytest.fixture
def own_postgres(postgres: Postgres, migrated_postgres: str) -> Iterator[str]:
    """The URL of a database of the test's own, with empty tables."""
    name = f"own_{next(_numbers)}"
    postgres.run(f"CREATE DATABASE {name} TEMPLATE {migrated_postgres}")
    yield postgres.url(name)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(bring_up(f"sqlite:///{path}"))
    return path


@pytest.fixture
def own_sqlite(migrated_sqlite: Path, tmp_path: Path) -> str:
    """The URL of a file of the test's own, with empty tables."""
    path = tmp_path / "history.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(params=["postgres", "sqlite"])
def own_database(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn, with empty tables."""
    url: str = request.getfixturevalue(f"own_{request.param}")
    return url


@pytest.fixture(params=["redis", "asyncpg", "psycopg", "sqlite"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Each kind of store in turn, PostgreSQL with other tests' rows: a suite that takes this holds for all of them."""
    if request.param == "redis":
        address: str = request.getfixturevalue("redis_url")
        return address.removesuffix("/0") + "/2"
    if request.param == "sqlite":
        file: str = request.getfixturevalue("own_sqlite")
        return file
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(request.getfixturevalue("shared_postgres"), request.param)


NewStore = Callable[..., ResultStore]


@pytest.fixture
async def new_store() -> AsyncIterator[NewStore]:
    """Make stores; all are closed at the end."""
    made: list[ResultStore] = []

    def make(url: str, **options: Any) -> ResultStore:
        kind = RedisStore if url.startswith("redis") else SqlStore
        made.append(kind(url, **options))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def store(store_url: str, new_store: NewStore) -> ResultStore:
    """Each kind of store in turn, open."""
    opened = new_store(store_url)
    await opened.open()
    return opened


class Away:
    """Within it, the store at `url` does not answer."""

    def __init__(self, url: str, leave: Callable[[], None], come_back: Callable[[], None]) -> None:
        self.url, self._leave, self._come_back = url, leave, come_back

    def __enter__(self) -> None:
        self._leave()

    def __exit__(self, *_: object) -> None:
        self._come_back()


@pytest.fixture(params=["redis", "asyncpg", "psycopg", "sqlite"])
def away(request: pytest.FixtureRequest) -> Away:
    """A store of each kind in turn that can be made to hang: servers by SIGSTOP, SQLite by another that writes."""
    if request.param == "redis":
        server = request.getfixturevalue("new_server")()
        return Away(
            server.url, lambda: os.kill(server.pid, signal.SIGSTOP), lambda: os.kill(server.pid, signal.SIGCONT)
        )
    if request.param == "sqlite":
        file: str = request.getfixturevalue("own_sqlite")
        other = sqlite3.connect(file.removeprefix("sqlite:///"), isolation_level=None)
        request.addfinalizer(other.close)  # noqa: PT021 - of one kind alone
        return Away(file, lambda: other.execute("BEGIN IMMEDIATE") and None, lambda: other.execute("COMMIT") and None)
    postgres: Postgres = request.getfixturevalue("postgres")
    url: str = request.getfixturevalue("own_postgres")
    stopped: list[int] = []

    def leave() -> None:
        # Those that serve this database, and who would start more.
        with psycopg.connect(url.replace("+asyncpg", "")) as connection:
            asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            stopped[:] = [postgres.pid, *(pid for (pid,) in connection.execute(asked))]
        postgres.freeze(stopped)

    return Away(url.replace("asyncpg", request.param), leave, lambda: postgres.thaw(stopped))
