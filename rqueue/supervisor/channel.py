"""Messages between a supervisor and a worker process: JSON objects, a line each, over a pair of sockets.

The end of one side is seen by the other as the end of the stream, however it ended: that is how worker processes know
that their supervisor is gone.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson

Message = dict[str, Any]

_LONGEST_LINE: Final = 16 * 1024 * 1024


class Channel:
    """One side of the pair.

    Args:
        end: this side's socket; it is closed with the channel.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._loops = end.dup()  # now: later there may be no descriptor left, and nobody would hear the other side
        end.setblocking(True)
        self._sending = threading.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the socket for the other side."""
        ours, theirs = socket.socketpair()
        try:
            return cls(ours), theirs
        except BaseException:
            ours.close()
            theirs.close()
            raise

    def tell(self, message: Message) -> None:
        """Send when the other side has room, while :meth:`read` runs: nothing waits for a process that is stuck."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    def tell_now(self, message: Message) -> None:
        """Send before this returns: what the process does next, it does after the message is out of its hands.

        A supervisor that is gone hears nothing; its end is noticed where the channel is read.
        """
        left = memoryview(orjson.dumps(message) + b"\n")
        with self._sending, suppress(OSError):
            while left:
                try:
                    left = left[self._socket.send(left) :]
                except BlockingIOError:
                    select.select([], [self._socket], [])

    def read_now(self) -> Message:
        """Wait for the first message, before an event loop runs.

        Raises:
            EOFError: the other side is gone.
        """
        line = bytearray()
        while not line.endswith(b"\n"):  # byte by byte: what follows is for the event loop
            byte = self._socket.recv(1)
            if not byte:
                raise EOFError("the supervisor is gone")
            line += byte
        message: Message = orjson.loads(line)
        return message

    async def read(self, hear: Callable[[Message], None]) -> None:
        """Hand over each message as it comes; returns when the other side is gone."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._loops, limit=_LONGEST_LINE)
        with suppress(OSError):
            while (line := await self._reader.readline()).endswith(b"\n"):  # half a line is a dead one's last
                hear(orjson.loads(line))

    def close(self) -> None:
        """Close this side."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._loops.close()
        self._socket.close()
