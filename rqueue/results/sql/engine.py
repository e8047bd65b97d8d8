"""The database's URL and its engine: which driver, and how long anything may take."""

from __future__ import annotations

from importlib.util import find_spec

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rqueue.errors import ConfigError, MissingDependency

_POSTGRES_DRIVERS = {"asyncpg": "asyncpg", "psycopg": "psycopg"}
INSTALL = "pip install rqueue[sql]"


def database_url(url: str) -> URL:
    """The URL as SQLAlchemy's asyncio takes it, whichever way it is commonly written.

    ``postgres://``, ``postgresql://`` and Celery's ``db+postgresql://`` take asyncpg, or psycopg where that alone is
    installed; ``sqlite://`` takes aiosqlite.

    Raises:
        ConfigError: it is none of a database that is supported.
        MissingDependency: there is no driver for it.
    """
    try:
        parsed = make_url(url.removeprefix("db+"))
    except ArgumentError:
        raise ConfigError(f"results {url!r}: not a database's URL") from None
    kind, _, driver = parsed.drivername.partition("+")
    if kind in ("postgres", "postgresql"):
        if driver not in _POSTGRES_DRIVERS:
            driver = next((each for each in _POSTGRES_DRIVERS if find_spec(each)), "")
        if not driver or not find_spec(driver):
            raise MissingDependency(INSTALL)
        return parsed.set(drivername=f"postgresql+{driver}")
    if kind == "sqlite":
        if not find_spec("aiosqlite"):
            raise MissingDependency(INSTALL)
        return parsed.set(drivername="sqlite+aiosqlite")
    raise ConfigError(
        f"results: {parsed.drivername!r} is not supported; postgresql+asyncpg, postgresql+psycopg, sqlite"
    )


def engine_for(url: str, *, pool_size: int = 2) -> AsyncEngine:
    """An engine with few connections, made when they are needed.

    Raises:
        ConfigError, MissingDependency: as :func:`database_url`.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        return create_async_engine(parsed, hide_parameters=True)
    return create_async_engine(
        parsed, pool_size=pool_size, max_overflow=0, pool_recycle=1800, pool_timeout=2, hide_parameters=True
    )
