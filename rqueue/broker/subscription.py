"""One connection that listens to channels, and listens again to all of them after it broke."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from rqueue.broker.link import Argument, hang_up, pack, transport_of
from rqueue.log import Recurring

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_FORBIDDEN_PAUSE_S = 60.0  # an ACL without the channel: whoever mends it does not do so every two seconds


class Subscription:
    """A set of channels that is listened to, in one event loop.

    Args:
        connect: makes a new, unconnected connection.
        on_message: called with each channel and payload.
        on_listening: called with channels from which on nothing is missed; after a break, with all of them.
        name: what is listened for, for the log.
        ping_s: after so many silent seconds the server is asked whether it is still there, and has as many to answer:
            for those who would not miss what they do not hear. None: never.
        patterns: what is added are patterns; each message comes with the channel that matched.
        longest_pause_s: between two tries to connect.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        on_message: Callable[[bytes, bytes], None],
        on_listening: Callable[[list[bytes]], None],
        name: str = "results",
        ping_s: float | None = None,
        *,
        patterns: bool = False,
        longest_pause_s: float = _LONGEST_PAUSE_S,
    ) -> None:
        self._new_connection = connect
        self._on_message = on_message
        self._on_listening = on_listening
        self._name, self._ping_s, self._longest_pause_s = name, ping_s, longest_pause_s
        self._prefix = b"P" if patterns else b""
        self._wanted: set[bytes] = set()
        self._changed: dict[bytes, bool] = {}
        self._has_changed = asyncio.Event()
        self._is_heard = False
        self._waits = Recurring()
        self._task = asyncio.create_task(self._run(), name="rqueue subscription")

    def add(self, channel: bytes) -> None:
        """Listen to a channel; what is asked for in one turn of the loop leaves in one command."""
        self._wanted.add(channel)
        self._changed[channel] = True
        self._has_changed.set()

    def remove(self, channel: bytes) -> None:
        """Listen no more."""
        self._wanted.discard(channel)
        self._changed[channel] = False
        self._has_changed.set()

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            connection = self._new_connection()
            writer: asyncio.Task[None] | None = None
            transport = None
            self._is_heard = False
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                transport = transport_of(connection)
                self._changed = dict.fromkeys(self._wanted, True)
                self._has_changed.set()
                writer = asyncio.create_task(self._write(connection), name="rqueue subscription writer")
                await self._read(connection)
            except (redis.exceptions.RedisError, OSError) as exc:
                pause = _FIRST_PAUSE_S if self._is_heard else min(2 * pause, self._longest_pause_s)
                if isinstance(exc, redis.exceptions.NoPermissionError):
                    pause = _FORBIDDEN_PAUSE_S
                self._waits.event(logging.WARNING, f"listening for {self._name} waits for redis", error=str(exc))
                await asyncio.sleep(pause)
            finally:
                if writer is not None:
                    writer.cancel()
                    await asyncio.wait([writer])
                await hang_up(connection, transport)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            changed, self._changed = self._changed, {}
            commands: list[tuple[Argument, ...]] = []
            if added := [channel for channel, wanted in changed.items() if wanted]:
                commands.append((self._prefix + b"SUBSCRIBE", *added))
            if removed := [channel for channel, wanted in changed.items() if not wanted]:
                commands.append((self._prefix + b"UNSUBSCRIBE", *removed))
            try:
                await connection.send_packed_command(map(pack, commands), check_health=False)
            except (redis.exceptions.RedisError, OSError):
                return  # the reader meets the same break, and reports it

    async def _read(self, connection: AbstractConnection) -> None:
        listening: list[bytes] = []
        is_asked = False
        while True:
            response = await connection.read_response(timeout=self._ping_s)
            if response is None:
                if is_asked:
                    raise redis.exceptions.ConnectionError("no reply to a ping")
                is_asked = True
                await connection.send_packed_command([pack((b"PING",))], check_health=False)
                continue
            is_asked = False
            if len(response) < 3:  # a pong
                continue
            kind, *_, channel, payload = response  # a pattern's message has the pattern before the channel
            if kind in (b"message", b"pmessage"):
                self._on_message(channel, payload)
            elif kind in (b"subscribe", b"psubscribe"):
                self._is_heard = True
                if not listening:
                    asyncio.get_running_loop().call_soon(self._report, listening)
                listening.append(channel)

    def _report(self, listening: list[bytes]) -> None:
        """Report all confirmations that came in one turn of the loop together."""
        channels = listening[:]
        listening.clear()
        self._on_listening(channels)
