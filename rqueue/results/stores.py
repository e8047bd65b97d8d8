"""Which store a URL means."""

from __future__ import annotations

from rqueue.config import Results
from rqueue.errors import ConfigError, MissingDependency
from rqueue.results.store import ResultStore


def store_for(results: Results) -> ResultStore:
    """The store of these settings, not open yet.

    Raises:
        ConfigError: the URL is none of a store.
        MissingDependency: the extra ``sql`` is not installed.
    """
    scheme = results.url.partition("://")[0]
    if scheme.startswith(("redis", "rediss", "unix", "valkey", "memory")):
        raise ConfigError("not yet")
    try:
        from rqueue.results.sql.store import SqlStore
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("sqlalchemy", "alembic"):
            raise
        raise MissingDependency("pip install rqueue[sql]") from None
    return SqlStore(results.url)
