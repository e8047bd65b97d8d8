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

from rqueue.broker import sentinel
from rqueue.broker.cluster import Node, Topology, nodes_of
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
    **sentinel.SCHEMES,
}
_CLUSTER = "+cluster"
_WITH_CLUSTERS = ("redis", "rediss", "valkey", "valkeys")
# A place without credentials: hosts and ports, path and options, or a socket's path.
_HOST = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*)(:\d{1,5})?"
_PLAIN = re.compile(rf"{_HOST}(,{_HOST})*(/[^?#@:]*)?(\?[^#@]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9]*(\+[A-Za-z]+)?")
_USER = re.compile(r"[A-Za-z0-9._-]*:")
_memory_servers: dict[str, Any] = {}
_memory_lock = threading.Lock()


class Endpoint:
    """One Redis, by its URL.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` (``valkey…`` alike) or ``memory://``. Every ``memory://`` is a
            server of its own, ``memory://name`` one for each name in the process. ``redis+sentinel://`` and
            ``redis+cluster://`` name sentinels, and their master's name, or some nodes of a cluster, which name the
            others: ``redis+cluster://host:port,host:port``.

    Raises:
        ConfigError: the URL is of another kind, or malformed.
        MissingDependency: ``memory://`` without fakeredis.

    Attributes:
        scripts: verb -> the script that is run there.
        clock: the key that says by how many ms Redis's clock is moved, in tests; None: it is not.
        cluster: which node serves what, where the URL is a cluster's.
    """

    def __init__(self, url: str) -> None:
        self.scripts = SCRIPTS
        self.clock: bytes | None = None
        self.cluster: Topology | None = None
        scheme = url.partition("://")[0].lower()
        kind = scheme.removesuffix(_CLUSTER)
        if kind not in _SCHEMES or (kind != scheme and kind not in _WITH_CLUSTERS):
            raise ConfigError(
                f"url {redacted(url)!r}: needs one of redis://, rediss://, unix://, memory://, redis+sentinel://, "
                "rediss+sentinel://, redis+cluster://, rediss+cluster://, or the same with valkey"
            )
        self.url = url
        self.shown = redacted(url)
        self.is_memory = kind == "memory"
        self._sentinels: sentinel.Sentinels | None = None
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0}
        place = _SCHEMES[kind] + url[len(scheme) :]
        try:
            if kind != scheme:
                place, self.cluster = _cluster(place)
            if self.is_memory:
                self._async_pool, self._sync_pool = _memory_pools(place, options)
            elif scheme in sentinel.SCHEMES:
                self._sentinels, self._async_pool, self._sync_pool = sentinel.pools(url, options)
            else:
                options["socket_connect_timeout"] = CONNECT_TIMEOUT_S
                self._async_pool = redis.asyncio.ConnectionPool.from_url(
                    place, retry=AsyncRetry(NoBackoff(), 0), **options
                )
                self._sync_pool = redis.ConnectionPool.from_url(place, retry=SyncRetry(NoBackoff(), 0), **options)
                self._async_pool.make_connection()  # an option that it does not know is refused here, not by each use
        except (ValueError, TypeError, redis.exceptions.RedisError):
            # Its text is not shown: it may quote the password.
            raise ConfigError(
                f"url {self.shown!r}: malformed, or an option of it is none; write {_form(scheme)}, "
                "with / ? # and @ in the password percent-encoded"
            ) from None

    def move_clock(self, key: bytes | None) -> None:
        """Have scripts take the time from Redis's clock and, where a key is given, its value in ms; for tests.

        Raises:
            ConfigError: it is a cluster: no key is in all slots.
        """
        if self.cluster is not None and key is not None:
            raise ConfigError("the clock of a cluster cannot be moved: use one server, or memory://")
        self.clock = key
        self.scripts = SCRIPTS if key is None else {verb: moved(script, key) for verb, script in SCRIPTS.items()}

    def connection(self) -> AsyncConnection:
        """A new, unconnected connection for an event loop; of a cluster to any node, another one each time."""
        if self.cluster is not None:
            return self.connection_to(self.cluster.any())
        connection: AsyncConnection = self._async_pool.make_connection()
        return connection

    def connection_to(self, node: Node) -> AsyncConnection:
        """As :meth:`connection`, to that node of a cluster."""
        connection: Any = self._async_pool.make_connection()
        connection.host, connection.port = node
        return connection  # type: ignore[no-any-return]

    def sync_connection(self, timeout_s: float) -> SyncConnection:
        """A new, unconnected connection for a thread, whose reads and writes may take so many seconds."""
        connection: SyncConnection = self._sync_pool.make_connection()
        connection.socket_timeout = timeout_s
        connection.socket_connect_timeout = timeout_s
        return connection

    def sync_connection_to(self, node: Node, timeout_s: float) -> SyncConnection:
        """As :meth:`sync_connection`, to that node of a cluster."""
        connection: Any = self.sync_connection(timeout_s)
        connection.host, connection.port = node
        return connection  # type: ignore[no-any-return]

    async def leave(self) -> None:
        """Give up what this event loop had open beside its connections, once it has none of them left."""
        if self._sentinels is not None:
            await self._sentinels.leave()


def _form(scheme: str) -> str:
    if scheme in sentinel.SCHEMES:
        return sentinel.FORM
    if scheme.endswith(_CLUSTER):
        return "redis+cluster://user:password@host:port,host:port"
    return "redis://user:password@host:port/db"


def redacted(url: str) -> str:
    """The URL without password and query, for logs and errors, whatever is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "…"
    # A password may hold any of / ? # @ where somebody forgot to escape it: nothing before the last @ is shown, and
    # nothing after a ?, where it may be an option as well. What is left must look like a place.
    credentials, at, host = rest.rpartition("@")
    if not _PLAIN.fullmatch(host) or "?" in credentials or "#" in credentials:
        return f"{scheme}://…"
    user = rest.partition(":")[0] if _USER.match(rest) else ""
    return f"{scheme}://{user + ':***@' if at else ''}{host.partition('?')[0]}"


def _cluster(url: str) -> tuple[str, Topology]:
    """One node's URL, for what all nodes have in common, and the nodes.

    Raises:
        ConfigError: a database is chosen: a cluster has only 0.
        ValueError: malformed.
    """
    scheme, _, rest = url.partition("://")
    login, at, tail = rest.rpartition("@")
    places = re.split(r"[/?#]", tail, maxsplit=1)[0]
    if re.match(r"/0*[1-9]", path := tail[len(places) :]) or re.search(r"[?&]db=0*[1-9]", path):
        raise ConfigError(f"url {redacted(url)!r}: a cluster has only database 0")
    nodes = list(nodes_of(places, 6379))
    host = f"[{nodes[0].host}]" if ":" in nodes[0].host else nodes[0].host
    return f"{scheme}://{login}{at}{host}:{nodes[0].port}{path}", Topology(nodes)


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
