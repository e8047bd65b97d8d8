"""Where Redis is: a URL becomes connections, for an event loop or for a thread.

redis-py's silent retries are off: it would run a command twice when only the reply was lost.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection as SyncConnection
from redis.retry import Retry as SyncRetry

from rqueue.broker.scripts import SCRIPTS, moved
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
# A place without credentials: host, port, path and options, or a socket's path.
_PLAIN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*)(:\d{1,5})?(/[^?#@:]*)?(\?[^#@]*)?")
_USER = re.compile(r"[A-Za-z0-9._-]*:")
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

    Attributes:
        scripts: verb -> the script that is run there.
        clock: the key that says by how many ms Redis's clock is moved, in tests; None: it is not.
    """

    def __init__(self, url: str) -> None:
        self.scripts = SCRIPTS
        self.clock: bytes | None = None
        scheme = url.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            raise ConfigError(
                f"url {redacted(url)!r}: needs one of redis://, rediss://, unix://, valkey://, valkeys://, memory://"
            )
        self.url = url
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
                self._sync_pool.make_connection()  # opens nothing; an option that there is not is refused here
        except (ValueError, TypeError, redis.exceptions.RedisError):
            # Its text is not shown: it may quote the password.
            raise ConfigError(
                f"url {self.shown!r}: malformed, or with an option that there is not; write "
                "redis://user:password@host:port/db, with / ? # and @ in the password percent-encoded"
            ) from None

    def move_clock(self, key: bytes | None) -> None:
        """Have scripts take the time from Redis's clock and, where a key is given, its value in ms; for tests."""
        self.clock = key
        self.scripts = SCRIPTS if key is None else {verb: moved(script, key) for verb, script in SCRIPTS.items()}

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
    """The URL without password and query, for logs and errors, whatever is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.isalnum():
        return "…"
    # A password may hold any of / ? # @ where somebody forgot to escape it: nothing before the last @ is shown.
    _, at, host = rest.rpartition("@")
    if not at and any(mark in rest for mark in ":?#") and not _PLAIN.fullmatch(rest):
        return f"{scheme}://…"
    user = rest.partition(":")[0] if _USER.match(rest) else ""
    return f"{scheme}://{user + ':***@' if at else ''}{host.partition('?')[0]}"


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
