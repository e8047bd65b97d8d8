"""Where Redis is: a URL becomes connections, for an event loop or for a thread.

redis-py's silent retries are off: it would run a command twice when only the reply was lost.
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection as SyncConnection
from redis.retry import Retry as SyncRetry

from rqueue.errors import ConfigError, MissingDependency

CONNECT_TIMEOUT_S = 5.0
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "memory": "memory",
}
_memory_servers: dict[str, Any] = {}
_memory_lock = threading.Lock()


class Endpoint:
    """One Redis, by its URL.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` (``valkey://`` alike) or ``memory://``. Every ``memory://`` is a
            server of its own, ``memory://name`` one for each name in the process.

    Raises:
        ConfigError: the URL is of another kind, or malformed.
        MissingDependency: ``memory://`` without fakeredis.
    """

    def __init__(self, url: str) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise ConfigError(
                f"url {redacted(url)!r}: needs one of redis://, rediss://, unix://, valkey://, valkeys://, memory://"
            )
        self.shown = redacted(url)
        self.is_memory = scheme == "memory"
        url = _SCHEMES[scheme] + url[len(scheme) :]
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0}
        try:
            if self.is_memory:
                self._async_pool, self._sync_pool = _memory_pools(url, options)
            else:
                options["socket_connect_timeout"] = CONNECT_TIMEOUT_S
                self._async_pool = redis.asyncio.ConnectionPool.from_url(
                    url, retry=AsyncRetry(NoBackoff(), 0), **options
                )
                self._sync_pool = redis.ConnectionPool.from_url(url, retry=SyncRetry(NoBackoff(), 0), **options)
        except ValueError as exc:
            raise ConfigError(f"url {self.shown!r}: {exc}") from None

    def connection(self) -> AsyncConnection:
        """A new, unconnected connection for an event loop."""
        connection: AsyncConnection = self._async_pool.make_connection()
        return connection

    def sync_connection(self, timeout_s: float) -> SyncConnection:
        """A new, unconnected connection for a thread, whose reads and writes may take so many seconds."""
        connection: SyncConnection = self._sync_pool.make_connection()
        connection.socket_timeout = timeout_s
        connection.socket_connect_timeout = timeout_s
        return connection


def redacted(url: str) -> str:
    """The URL without its password and without its query, for logs and errors."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.port is not None:
            host += f":{parts.port}"
    except ValueError:
        return url.partition(":")[0] + "://…"
    if parts.username or parts.password:
        host = f"{parts.username or ''}:***@{host}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _memory_pools(url: str, options: dict[str, Any]) -> tuple[Any, Any]:
    try:
        import fakeredis
    except ImportError:
        raise MissingDependency("memory:// needs fakeredis: pip install 'rqueue[memory]'") from None
    name = url.partition("://")[2].strip("/")
    with _memory_lock:
        server = (name and _memory_servers.get(name)) or fakeredis.FakeServer(version=(7,))
        if name:
            _memory_servers[name] = server
    options = {"protocol": 2, "server": server}
    return (
        fakeredis.FakeAsyncRedis(**options).connection_pool,
        fakeredis.FakeStrictRedis(**options).connection_pool,
    )
