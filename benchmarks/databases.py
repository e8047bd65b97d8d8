"""The databases that keep results in a run: a fresh one for each, whose rows are counted afterwards."""

from __future__ import annotations

import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import redis
from sqlalchemy import create_engine, make_url, text

from benchmarks.contender import Contender
from benchmarks.environments import ROOT, python_of
from benchmarks.measure import send, tree
from benchmarks.stage import RunFailed
from rqueue.embedded import EmbeddedServer
from tests.postgres import Postgres

SETTINGS = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "128MB", "max_connections": "100"}
"""PostgreSQL's own defaults: what is committed is on the disk."""
SYNC_DRIVERS = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite"}
COMMITS = 200
PREPARE_S = 60.0


@dataclass(frozen=True)
class Database:
    """Where one run's results go.

    Attributes:
        url: as the contender takes it; empty where there is none.
        rows: SQL that counts the rows, and the distinct ids in them; without it, all keys of a Redis are counted.
        server: the server's first process; None where it is no server's, or Redis's.
    """

    url: str = ""
    rows: str = ""
    server: int | None = None

    @property
    def pids(self) -> list[int]:
        """The server's processes."""
        return tree([self.server]) if self.server is not None else []

    def kept(self) -> tuple[int, int]:
        """How many rows there are, and of how many jobs."""
        if not self.rows:
            with redis.Redis.from_url(self.url) as client:
                return (client.dbsize(),) * 2
        parsed = make_url(self.url)
        engine = create_engine(parsed.set(drivername=SYNC_DRIVERS[parsed.get_backend_name()]))
        try:
            with engine.connect() as connection:
                rows, ids = connection.execute(text(self.rows)).one()
        finally:
            engine.dispose()
        return rows, ids


class Databases:
    """Makes them. PostgreSQL is started once, when the first run needs it, and has a database for each."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._numbers = count(1)
        self._postgres: Postgres | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def postgres(self) -> Postgres:
        """The server."""
        if self._postgres is None:
            self._postgres = self._stack.enter_context(Postgres(SETTINGS))
        return self._postgres

    @contextmanager
    def fresh(self, contender: Contender) -> Iterator[Database]:
        """An empty one, with the tables that the contender wants, gone afterwards."""
        with ExitStack() as stack:
            made = self._make(contender, stack)
            if made.url and (command := contender.prepare(made.url)):
                _prepare(contender, command)
            yield made

    def freeze(self) -> None:
        """PostgreSQL stands still, with all its processes: it takes connections and answers nothing."""
        send(tree([self.postgres.pid]), signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        send(tree([self.postgres.pid]), signal.SIGCONT)

    def kill(self) -> None:
        """PostgreSQL is gone at once, with all its processes."""
        send(tree([self.postgres.pid])[1:], signal.SIGKILL)
        self.postgres.kill()

    def restart(self) -> None:
        """It comes back with what it had committed."""
        self.postgres.start()

    def described(self) -> str:
        """The server, its settings, and how long one commit takes on this disk."""
        engine = create_engine(self.postgres.url("postgres", "psycopg"))
        took = []
        with engine.connect() as connection:
            version = connection.execute(text("SHOW server_version")).scalar_one().partition(" ")[0]
            connection.execute(text("CREATE TABLE commits (number integer)"))
            connection.commit()
            for number in range(COMMITS):
                began = time.perf_counter()
                connection.execute(text("INSERT INTO commits VALUES (:number)"), {"number": number})
                connection.commit()
                took.append(1000 * (time.perf_counter() - began))
            connection.execute(text("DROP TABLE commits"))
            connection.commit()
        engine.dispose()
        settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
        return f"PostgreSQL {version} ({settings}; one row and its commit take {statistics.median(took):.2f} ms here)"

    def _make(self, contender: Contender, stack: ExitStack) -> Database:
        kind = contender.store.partition("+")[0]
        if not kind:
            return Database()
        if kind == "redis":
            server = stack.enter_context(EmbeddedServer())
            return Database(server.url, server=server.pid)
        if kind == "sqlite":
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rqueue-bench-"))
            return Database(f"{contender.store}:///{Path(directory)}/results.db", contender.rows)
        name = f"run_{next(self._numbers)}"
        self.postgres.run(f"CREATE DATABASE {name}")
        stack.callback(self.postgres.run, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.postgres.run("CHECKPOINT")  # what the last run wrote is no matter of this one
        return Database(self.postgres.url(name, contender.store.partition("+")[2]), contender.rows, self.postgres.pid)


def _prepare(contender: Contender, command: list[str]) -> None:
    done = subprocess.run(
        [str(python_of(contender.environment)), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PREPARE_S,
    )
    if done.returncode:
        raise RunFailed(f"{contender.name}: its tables were not made: {done.stderr or done.stdout}")
