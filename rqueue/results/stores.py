"""Which store a URL means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rqueue.config import Results
from rqueue.errors import MissingDependency
from rqueue.results.redis_store import RedisStore
from rqueue.results.store import ResultStore

if TYPE_CHECKING:
    from rqueue.results.sql.outbox import Outbox

_REDIS: Final = ("redis", "unix:", "valkey", "memory:")


def store_for(results: Results, namespace: str, result_ttl_s: float | None) -> ResultStore:
    """The store of these settings, not open yet.

    Args:
        results: the settings.
        namespace: the first part of every key, in a Redis.
        result_ttl_s: seconds for which a Redis keeps rows; None for ever.

    Raises:
        ConfigError: the URL is none of a store.
        MissingDependency: the extra ``sql`` is not installed.
    """
    if is_redis(results.url):
        return RedisStore(results.url, namespace, result_ttl_s)
    try:
        from rqueue.results.sql.store import SqlStore
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("sqlalchemy", "alembic"):
            raise
        raise MissingDependency("a database of results needs SQLAlchemy: pip install 'rqueue[sql]'") from None
    return SqlStore(results.url)


def is_redis(url: str) -> bool:
    """Whether results are kept in another Redis by this URL, and in no database."""
    return url.lower().startswith(_REDIS)


def outbox_for(results: Results | None, namespace: str) -> Outbox | None:
    """The outbox of these settings; None where they name no database.

    Args:
        results: the settings.
        namespace: whose jobs.

    Raises:
        ConfigError: the URL is none of a database that is supported.
        MissingDependency: the extra ``sql`` is not installed.
    """
    url = None if results is None else results.outbox or results.url
    if url is None or is_redis(url):
        return None
    try:
        from rqueue.results.sql.outbox import Outbox
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise MissingDependency("a database of results needs SQLAlchemy: pip install 'rqueue[sql]'") from None
    return Outbox(url, namespace)
