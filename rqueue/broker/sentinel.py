"""Where the master is, by its sentinels: connections that follow it through failovers.

A connection asks all sentinels at once, goes where the newest configuration says, and does not count before the server
there has called itself a master. While an event loop has such connections it also listens to the sentinels: at a
failover those to another server are broken at once, also where that server is frozen and would leave them waiting.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

import redis
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from rqueue.broker.link import pack
from rqueue.broker.subscription import Subscription

SCHEMES: Final = {
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
    "valkey+sentinel": "redis",
    "valkeys+sentinel": "rediss",
}
"""A URL's scheme -> the one by which its servers are spoken to."""

FORM: Final = "redis+sentinel://user:password@sentinel1:26379,sentinel2:26379,sentinel3:26379/master/db"
DEFAULT_PORT: Final = 26379
MAJORITY_S: Final = 0.5
"""How long dead or frozen sentinels hold up a connection: after that the newest of what the others said counts."""

STRAGGLERS_S: Final = 0.05
"""The same once a majority has answered: the one that led the election is ahead of the others for a moment."""

CONNECT_S: Final = 2.0
"""How long each of finding the master and connecting to it may take: a frozen server takes connections for ever."""

_PING_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 10.0  # of listening to a sentinel that is away: the others tell of failovers meanwhile
_MOVED: Final = b"+switch-master"
_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")

Address = tuple[str, int]


class _Word(NamedTuple):
    """What one sentinel says; the highest epoch is the newest configuration."""

    epoch: int
    address: Address


class Sentinels:
    """The sentinels of one master.

    Args:
        addresses: where they are.
        service: the master's name.
        options: of connections to them: credentials, TLS.
        kind: the class of connections to them.

    Attributes:
        known: what the last one who asked was told, in whichever thread.
    """

    def __init__(
        self, addresses: Sequence[Address], service: str, options: dict[str, Any], kind: type[redis.asyncio.Connection]
    ) -> None:
        self.addresses, self.service = tuple(addresses), service
        self.known: Address | None = None
        self._options = {"protocol": 2, "socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S, **options}
        self._kind = kind
        self._watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = weakref.WeakKeyDictionary()

    def connection(self, address: Address) -> redis.asyncio.Connection:
        """A new, unconnected connection to one of them."""
        host, port = address
        return self._kind(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **self._options)

    async def master(self) -> Address:
        """Where the master is, by the newest configuration of which those know who answer in time, mostly all.

        Raises:
            ConnectionError: none of them knows.
        """
        now = asyncio.get_running_loop().time
        asked = [asyncio.create_task(self._ask(each), name="rqueue sentinel") for each in self.addresses]
        left, words, troubles, patient_s = set(asked), list[_Word](), list[str](), now() + MAJORITY_S
        try:
            while left and not (words and now() > patient_s):
                within_s = max(0, patient_s - now()) if words else None
                done, left = await asyncio.wait(left, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        words.append(task.result())
                    else:
                        troubles.append(str(error))
                if len(words) > len(asked) // 2:
                    patient_s = min(patient_s, now() + STRAGGLERS_S)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not words:
            raise redis.exceptions.ConnectionError(f"no sentinel says where {self.service!r} is: {'; '.join(troubles)}")
        self.known = max(words).address
        return self.known

    def watch(self) -> _Watch:
        """This event loop's ear at them."""
        loop = asyncio.get_running_loop()
        found = self._watches.get(loop)
        if found is None:
            found = self._watches[loop] = _Watch(self)
        return found

    async def leave(self) -> None:
        """Listen to them no more in this event loop, unless it still has connections that follow."""
        loop = asyncio.get_running_loop()
        found = self._watches.get(loop)
        if found is not None and not found.connections:
            del self._watches[loop]
            await found.close()

    async def _ask(self, address: Address) -> _Word:
        connection = self.connection(address)
        name = self.service.encode()
        commands = ((b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name), (b"SENTINEL", b"MASTER", name))
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(map(pack, commands), check_health=False)
            place = await connection.read_response()
            if place is None:
                raise redis.exceptions.ConnectionError(f"{address[0]}:{address[1]} knows no such master")
            try:
                flat = await connection.read_response()
                epoch = int(dict(zip(flat[::2], flat[1::2], strict=True))[b"config-epoch"])
            except redis.exceptions.ResponseError:
                epoch = -1  # an ACL that allows the first question only
        finally:
            await connection.disconnect(nowait=True)
        return _Word(epoch, (place[0].decode(), int(place[1])))


class _Watch:
    """Breaks an event loop's connections to what is no longer the master, as soon as a sentinel says so."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self.connections: set[_Following] = set()
        self._subscriptions = [
            Subscription(
                partial(sentinels.connection, address),
                self._hear,
                lambda _: self._look(),  # what was said before is not heard
                "failovers",
                _PING_S,
                longest_pause_s=_LONGEST_PAUSE_S,
            )
            for address in sentinels.addresses
        ]
        for subscription in self._subscriptions:
            subscription.add(_MOVED)
        self._looking: asyncio.Task[None] | None = None
        self._is_due = False

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _hear(self, _channel: bytes, payload: bytes) -> None:
        if payload.partition(b" ")[0] == self._sentinels.service.encode():
            self._look()

    def _look(self) -> None:
        self._is_due = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._break_stale(), name="rqueue failover")

    async def _break_stale(self) -> None:
        while self._is_due:
            self._is_due = False
            try:
                async with asyncio.timeout(CONNECT_S):
                    master = await self._sentinels.master()
            except (redis.exceptions.RedisError, OSError):
                continue  # they are away; once one of them is listened to again, there is another look
            for connection in tuple(self.connections):
                if connection.address not in (None, master):
                    connection.abort()


class _Following(redis.asyncio.Connection):
    """A connection to whatever is the master when it connects.

    Attributes:
        address: the server that it found.
    """

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels
        self._watch: _Watch | None = None
        self._limit: asyncio.Timeout | None = None
        self.address: Address | None = None

    async def connect(self) -> None:
        self._watch = self._sentinels.watch()
        self._watch.connections.add(self)
        try:
            async with asyncio.timeout(2 * CONNECT_S) as self._limit:
                self.address = self.host, self.port = await self._sentinels.master()
                self._limit.reschedule(asyncio.get_running_loop().time() + CONNECT_S)
                await super().connect()  # type: ignore[no-untyped-call]
                await self._check_role()
        except TimeoutError:
            raise redis.exceptions.TimeoutError(f"no answer of {self._sentinels.service!r} in time") from None
        finally:
            self._limit = None

    async def disconnect(self, *args: Any, **options: Any) -> None:
        if self._watch is not None:
            self._watch.connections.discard(self)
        await super().disconnect(*args, **options)

    def abort(self) -> None:
        """Break it at once, whatever it waits for."""
        if self._limit is not None:
            if not self._limit.expired():
                self._limit.reschedule(asyncio.get_running_loop().time())
        elif self._writer is not None:
            self._writer.transport.abort()

    async def _check_role(self) -> None:
        await self.send_packed_command([pack((b"ROLE",))], check_health=False)
        try:
            role = await self.read_response()
        except redis.exceptions.ResponseError:
            return  # an ACL without it: the sentinels' word must do
        _check_master(role)


class _FollowingTLS(_Following, redis.asyncio.SSLConnection):
    """The same over TLS."""


class _ThreadFollowing(redis.Connection):
    """The same for a thread that runs no event loop. Nobody breaks it: whoever uses it asks it whether it is behind."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._sentinels = sentinels

    def connect(self) -> None:
        timeout_s, self.socket_timeout = self.socket_timeout, CONNECT_S
        try:
            self.host, self.port = asyncio.run(self._find())
            super().connect()  # type: ignore[no-untyped-call]
            self._check_role()
            self._sock.settimeout(timeout_s)  # type: ignore[attr-defined]
        finally:
            self.socket_timeout = timeout_s

    @property
    def is_behind(self) -> bool:
        """True when an event loop of this process was told of another master."""
        return self._sentinels.known != (self.host, self.port)

    async def _find(self) -> Address:
        async with asyncio.timeout(CONNECT_S):
            return await self._sentinels.master()

    def _check_role(self) -> None:
        self.send_command("ROLE")  # type: ignore[no-untyped-call]
        try:
            role = self.read_response()
        except redis.exceptions.ResponseError:
            return
        _check_master(role)


class _ThreadFollowingTLS(_ThreadFollowing, redis.SSLConnection):
    """The same over TLS."""


def _check_master(role: Any) -> None:
    if role[0] not in (b"master", "master"):
        raise redis.exceptions.ConnectionError("it is no master (any more, or not yet)")


def pools(url: str, options: dict[str, Any]) -> tuple[Sentinels, Any, Any]:
    """A URL's sentinels, and what makes connections that follow its master: for an event loop, and for a thread.

    Args:
        url: as :data:`FORM` says.
        options: of all connections to the master.

    Raises:
        ValueError: the URL is malformed.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    service, _, db = path.partition("/")
    if not service or not (db or "0").isdecimal():
        raise ValueError("no master's name, or no database's number")
    given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    own = {name.removeprefix("sentinel_"): value for name, value in given if name.startswith("sentinel_")}
    if not own.keys() <= {"username", "password"}:
        raise ValueError("unknown option")
    others = urlencode([pair for pair in given if not pair[0].startswith("sentinel_")])
    master = f"{SCHEMES[scheme.lower()]}://{login}{at}master/{db or 0}?{others}"
    loops = redis.asyncio.ConnectionPool.from_url(master, retry=AsyncRetry(NoBackoff(), 0), **options)
    threads = redis.ConnectionPool.from_url(master, retry=SyncRetry(NoBackoff(), 0), **options)
    is_tls = issubclass(loops.connection_class, redis.asyncio.SSLConnection)
    kind = redis.asyncio.SSLConnection if is_tls else redis.asyncio.Connection
    own |= {name: value for name, value in loops.connection_kwargs.items() if name.startswith("ssl_")}
    sentinels = Sentinels([_address(host) for host in hosts.split(",")], unquote(service), own, kind)
    loops.connection_class = _FollowingTLS if is_tls else _Following
    threads.connection_class = _ThreadFollowingTLS if is_tls else _ThreadFollowing
    for pool in (loops, threads):
        pool.connection_kwargs["sentinels"] = sentinels
        try:
            pool.make_connection()
        except TypeError:  # what redis-py says of it may quote a password
            raise ValueError("unknown option") from None
    return sentinels, loops, threads


def _address(text: str) -> Address:
    found = _PLACE.fullmatch(text)
    if found is None or (port := int(found[2] or DEFAULT_PORT)) > 65535:
        raise ValueError("not a host and its port")
    return found[1].strip("[]"), port
