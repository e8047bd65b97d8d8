"""The connections to one Redis, its clock and its scripts: what every verb is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Argument, Link, NoScript, Reply
from rqueue.broker.router import Router
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.policy.clock import RedisClock
from rqueue.wire.keys import Keys

REPLY_TIMEOUT_S: Final = 10.0
_END_OF_TIME_MS: Final = 253_402_300_799_999


class Calls:
    """One Redis, for one event loop.

    Args:
        endpoint: where Redis is.
        keys: the keys' namespace.
        reply_timeout_s: a reply that takes longer breaks the connection, and what was asked is asked on another one.
    """

    def __init__(self, endpoint: Endpoint, keys: Keys, reply_timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.clock = RedisClock()
        self._reply_timeout_s = reply_timeout_s
        self._link = self._producing = self._new_link()
        self._router = self._link if isinstance(self._link, Router) else None
        self._blocks: dict[str, Link] = {}
        self._announced: dict[str, float] = {}

    @property
    def resets(self) -> int:
        """How often a connection broke: after each, a claim's reply may have been lost."""
        return self._link.resets + sum(link.resets for link in self._blocks.values())

    @property
    def is_cluster(self) -> bool:
        """Whether a part of the queues may be away while others are there."""
        return self._router is not None

    async def open(self) -> None:
        """Connect, and learn Redis's time.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        await self.sync_clock()

    async def sync_clock(self, key: bytes | None = None) -> None:
        """Ask Redis for its time; claims keep it up to date from then on.

        Args:
            key: of a cluster, the node that serves it is asked: their clocks may differ.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        if key is None or self._router is None:
            seconds, micros = await self._link.call(b"TIME")
        else:
            seconds, micros = await self._router.call_at(key, b"TIME")
        more = 0 if self.endpoint.clock is None else int(await self._link.call(b"GET", self.endpoint.clock) or 0)
        self.clock.observe(int(seconds) * 1000 + int(micros) // 1000 + more)

    async def add_to_clock(self, ms: int) -> None:
        """Move the clock of :meth:`Endpoint.move_clock`."""
        await self._link.call(b"INCRBY", self._moved_clock(), ms)

    async def reset_clock(self) -> None:
        """Forget by how much the clock was moved."""
        await self._link.call(b"DEL", self._moved_clock())

    def _moved_clock(self) -> bytes:
        if self.endpoint.clock is None:
            raise BrokerError("the clock cannot be moved: rqueue.testing.moving_clock() makes one that can")
        return self.endpoint.clock

    async def close(self) -> None:
        """Close all connections."""
        for link in (*self._blocks.values(), self._link):
            await link.close()
        await self.endpoint.leave()

    async def ready(self) -> None:
        """Return when there is a connection.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        if not self._link.is_open:
            await self._link.call(b"PING")

    async def written(self) -> None:
        """Return when all that was asked for so far is in the operating system's hands.

        Raises:
            BrokerUnavailable: it could not be sent.
        """
        await self._link.written()

    def changes(
        self,
        queue: str | None,
        on_message: Callable[[bytes, bytes], None],
        on_listening: Callable[[list[bytes]], None],
        ping_s: float,
    ) -> Subscription:
        """Listen to the records of all jobs of a queue, or of all queues; the arguments are the subscription's."""
        prefix = escape_glob(self.keys.namespace.encode())
        pattern = prefix + b":{%b}:result:*" % (b"*" if queue is None else queue.encode())
        connect = self.endpoint.connection
        subscription = Subscription(connect, on_message, on_listening, "events", ping_s, patterns=True)
        subscription.add(pattern)
        return subscription

    async def publish(self, channel: bytes, data: bytes) -> int:
        """Say something on a channel; how many heard it."""
        return int(await self._link.call(b"PUBLISH", channel, data))

    async def server_version(self) -> str:
        """Which server it is, for a bug report."""
        try:
            found = await self._info(b"server")
        except BrokerUnavailable:
            raise
        except BrokerError as exc:
            return f"it does not say ({exc})"
        if "valkey_version" in found:
            return f"Valkey {found['valkey_version']}"
        return f"Redis {found.get('redis_version', '?')}"

    async def eviction_policy(self) -> str | None:
        """Redis's ``maxmemory-policy``, or None where it does not say.

        Where the configuration may not be read, as at most hosting providers, INFO tells it.
        """
        if (policy := await self.setting("maxmemory-policy")) is not None:
            return policy
        try:
            return (await self._info(b"memory")).get("maxmemory_policy")
        except BrokerUnavailable:
            raise
        except BrokerError:
            return None

    async def setting(self, name: str) -> str | None:
        """A line of Redis's configuration, or None where it does not say."""
        try:
            reply = await self._link.call(b"CONFIG", b"GET", name)
        except BrokerUnavailable:
            raise
        except BrokerError:
            return None
        return reply[1].decode() if reply else None

    async def _info(self, section: bytes) -> dict[str, str]:
        text = bytes(await self._link.call(b"INFO", section)).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def _scan(self, cursor: int, *options: Argument) -> tuple[int, list[bytes]]:
        """One step of a SCAN, of a cluster over one master after the other; the next cursor, 0 at the end."""
        if self._router is not None:
            return await self._router.scan(cursor, *options)
        after, found = await self._link.call(b"SCAN", cursor, *options)
        return int(after), found

    def _new_link(self) -> Link | Router:
        topology = self.endpoint.cluster
        if topology is None:
            return Link(self.endpoint.connection, self._reply_timeout_s)
        return Router(self.endpoint, topology, self._reply_timeout_s)

    async def _run(self, verb: str, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Reply:
        script = self.endpoint.scripts[verb]
        try:
            return await self._link.call(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScript:
            # Nothing was run. The source goes along once; the server knows the script again from then on.
            return await self._link.call(b"EVAL", script.source, len(keys), *keys, *arguments)

    _store = _run  # what puts a producer's jobs into Redis; another broker than the plain one confirms it later


async def every(calls: Sequence[asyncio.Future[Reply]]) -> list[Any]:
    """All replies; the first error is raised after all have come."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


def text_of(name: bytes) -> str:
    """A name that somebody has put there, whatever its bytes; as an argument it is these bytes again."""
    return name.decode("utf-8", "surrogateescape")


def moment_of(score: bytes) -> int:
    """A time in a sorted set as whole ms since the epoch; infinity is the end of all times that are such."""
    return int(min(max(float(score), -_END_OF_TIME_MS), _END_OF_TIME_MS))


def number_of(value: bytes) -> int | None:
    """A whole number as it stands in Redis, or None for what is none."""
    return int(value) if len(value) < 20 and value.isdigit() else None


def name_of(worker: str) -> bytes:
    """A worker's name as it stands in keys and sets, whatever somebody has put there."""
    return worker.encode("utf-8", "surrogateescape")


async def or_nothing(call: asyncio.Future[Reply], nothing: Reply) -> Reply:
    """The reply, or nothing where a tombstone has taken a processing list's place."""
    try:
        return await call
    except BrokerUnavailable:
        raise
    except BrokerError as exc:
        if "WRONGTYPE" in str(exc):
            return nothing
        raise


def in_ms(seconds: float) -> int:
    """Seconds as whole milliseconds; at least 0."""
    return max(0, round(seconds * 1000))


def escape_glob(name: bytes) -> bytes:
    """The name as a pattern that matches it alone."""
    for char in b"\\*?[]":
        name = name.replace(bytes([char]), b"\\" + bytes([char]))
    return name
