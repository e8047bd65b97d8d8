"""The database's URL and its engine: which driver, and what each of them has to be told."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rqueue.broker.endpoint import redacted
from rqueue.errors import ConfigError, MissingDependency
from rqueue.results.sql.calls import note

INSTALL: Final = "a database of results needs a driver: pip install 'rqueue[sql]'"
_POSTGRES_DRIVERS: Final = ("asyncpg", "psycopg")
_LIBPQ: Final = ("application_name", "options")
_SQLITE_BUSY_S: Final = 1.0
"""Seconds to wait for another writer of the file; less than a call may take, so that the error says why."""
_FREE_S: Final = 60.0
"""Seconds to wait for a connection that others use: each call has its own bound, of which this is to be no part."""


def database_url(url: str) -> URL:
    """The URL as SQLAlchemy's asyncio takes it, whichever way it is commonly written.

    ``postgres://``, ``postgresql://``, ``postgresql+psycopg2://`` and Celery's ``db+postgresql://`` take asyncpg, or
    psycopg where that alone is installed; ``sqlite://`` takes aiosqlite.

    Raises:
        ConfigError: it is none of a database that is supported.
        MissingDependency: there is no driver for it.
    """
    shown = redacted(url)
    try:
        parsed = make_url(url.removeprefix("db+"))
    except (ArgumentError, ValueError):
        raise ConfigError(f"results {shown!r}: not a database's URL") from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind in ("postgres", "postgresql"):
        if driver not in _POSTGRES_DRIVERS:
            driver = next((each for each in _POSTGRES_DRIVERS if find_spec(each)), "")
        if not driver or not find_spec(driver):
            raise MissingDependency(
                INSTALL if driver != "psycopg" else "postgresql+psycopg:// needs psycopg: pip install 'psycopg[binary]'"
            )
        return parsed.set(drivername=f"postgresql+{driver}")
    if kind == "sqlite":
        if not find_spec("aiosqlite"):
            raise MissingDependency(INSTALL)
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(
                f"results {shown!r}: name a file, sqlite:///history.db; in memory each connection has its own"
            )
        if not Path(str(parsed.database)).absolute().parent.is_dir():
            raise ConfigError(f"results {shown!r}: there is no such folder; sqlite:////var/lib/x.db is from the root")
        return parsed.set(drivername="sqlite+aiosqlite")
    raise ConfigError(
        f"results {shown!r}: needs one of postgresql+asyncpg://, postgresql+psycopg://, sqlite:///, redis://"
    )


def shown(engine: AsyncEngine) -> str:
    """Its URL without password and options, of which one may be a password."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


def engine_for(url: str, *, pool_size: int = 3) -> AsyncEngine:
    """An engine with few connections, made when they are needed: one for each of a worker's services that uses it.

    Nothing is shown of what it is given as data.

    Raises:
        ConfigError, MissingDependency: as :func:`database_url`.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(parsed, connect_args={"timeout": _SQLITE_BUSY_S}, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        return engine
    parsed, options = _for_asyncpg(parsed) if parsed.drivername.endswith("asyncpg") else (parsed, {})
    engine = create_async_engine(
        parsed,
        connect_args=options,
        pool_size=pool_size,
        max_overflow=0,
        pool_recycle=1800,  # what stands between drops connections that are never new
        pool_timeout=_FREE_S,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", note, insert=True)
    if parsed.drivername.endswith("psycopg"):
        event.listen(engine.sync_engine, "connect", _set_up_psycopg)
    return engine


def _for_asyncpg(url: URL) -> tuple[URL, dict[str, Any]]:
    """Options of libpq, with which hosts of databases give their URLs, as asyncpg reads them: in a URL of its own."""
    libpq = {
        name: value for name, value in url.query.items() if (name.startswith("ssl") and name != "ssl") or name in _LIBPQ
    }
    if not libpq:
        return url, {}
    return url.difference_update_query(libpq), {"dsn": f"postgresql://?{urlencode(libpq, doseq=True)}"}


def _set_up_sqlite(connection: Any, _: object) -> None:
    # Readers do not keep the writer waiting, nor it them. It stays so in the file.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _set_up_psycopg(connection: Any, _: object) -> None:
    # It reads times in no other style, and a database or a user may have another one.
    if not connection.driver_connection.pgconn.parameter_status(b"DateStyle").startswith(b"ISO"):
        cursor = connection.cursor()
        cursor.execute("SET DateStyle = 'ISO'")
        cursor.close()
        connection.commit()


def autocommit(engine: AsyncEngine) -> AsyncEngine:
    """The engine for single statements, each its own transaction.

    It saves two round trips, and nothing stays locked while this process stands still, in a task that blocks its loop.
    """
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def read_committed(engine: AsyncEngine) -> AsyncEngine:
    """The engine for transactions that wait for a lock, and must then see what others have written before.

    A database may have another default. SQLite has one writer, and no such thing.
    """
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="READ COMMITTED")
