"""A TCP proxy that makes the way to Redis longer: half a millisecond more there, half a millisecond more back.

``python -m benchmarks.latency <port of the server>`` prints its own port. asyncio's loop over select(2) is used because
its timers are exact to microseconds; those of epoll and uvloop are to milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque
from typing import cast

EACH_WAY_S = 0.0005


class Side(asyncio.Protocol):
    """One end of a connection: what it reads is written to the other end a while later, in order."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._early: list[bytes] = []  # what came before the other end was there
        self._delayed: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep it for a while."""
        if self.other is None:
            self._early.append(data)
            return
        self._delayed.append(data)
        asyncio.get_running_loop().call_later(EACH_WAY_S, self._pass_on)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Close the other end too."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def join(self, other: Side) -> None:
        """The other end is there."""
        self.other = other
        for data in self._early:
            self.data_received(data)

    def _pass_on(self) -> None:
        # Taken from a queue, since timers that are due at once do not run in the order of their making.
        assert self.other is not None
        assert self.other.transport is not None
        self.other.transport.write(self._delayed.popleft())


async def serve(port: int) -> None:
    """Accept until killed."""
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()

    def accept() -> Side:
        near = Side()

        async def reach() -> None:
            _, far = await loop.create_connection(Side, "127.0.0.1", port)
            far.join(near)
            near.join(far)

        task = loop.create_task(reach())
        joining.add(task)
        task.add_done_callback(joining.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(int(sys.argv[1])))
