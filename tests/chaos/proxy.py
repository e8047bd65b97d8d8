"""A TCP proxy between workers or producers and Redis whose network can be made worse while it runs.

It knows nothing of Redis's protocol: it passes bytes on, late, in small pieces, in one direction only, or not at all.
What it has once swallowed of a connection is missing for good, so that connection stays dead until somebody closes it.
"""

import asyncio
import contextlib
import random
import socket
import struct
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from rqueue.embedded import FIRST_PORT, LAST_PORT

Direction = Literal["requests", "replies"]

_READ_BYTES = 65_536
_LINGER_0 = struct.pack("ii", 1, 0)  # close with a reset, as a machine that went away and came back does


class Proxy:
    """Listens on a loopback port of its own, and passes everything on to a server.

    Attributes:
        delay_s: everything is passed on so much later; the order stays.
        piece_bytes: at most so many bytes leave at once, each piece in a packet of its own; 0: as they came.
        swallows: in these directions bytes are taken and not passed on: what has lost some stays dead.
        is_deaf: who connects is accepted, and no server hears of it.
        accepted, cuts: connections that were made, and cut, so far.
        url: its own.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._login, self._path = (
            parts.hostname,
            parts.port,
            parts.netloc.rpartition("@"),
            parts.path,
        )
        self.delay_s = 0.0
        self.piece_bytes = 0
        self.swallows: frozenset[Direction] = frozenset()
        self.is_deaf = False
        self.accepted = self.cuts = 0
        self.url = ""
        self._passes = asyncio.Event()
        self._passes.set()
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._server: asyncio.Server | None = None
        self._own_port = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        login, at, _ = self._login
        self.url = f"redis://{login}{at}127.0.0.1:{self._own_port}{self._path}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._server is None:
            while not self._own_port:
                # Not one of those that outgoing connections get: a client could be connected to itself meanwhile.
                port = random.randrange(FIRST_PORT, LAST_PORT)
                with socket.socket() as probe, contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    self._own_port = port
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._own_port)

    async def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self, nth: int = 1) -> int:
        """Reset connections, both ends, in the middle of whatever they carry: every nth; how many it were."""
        chosen = list(self._connections.items())[nth - 1 :: nth]
        for connection, writers in chosen:
            for writer in writers:
                _reset(writer)
            connection.cancel()
        self.cuts += len(chosen)
        return len(chosen)

    def hold(self) -> None:
        """Pass nothing on from now on; what comes meanwhile is late and not lost, as in a network that is split."""
        self._passes.clear()

    def let_pass(self) -> None:
        """Undo :meth:`hold`."""
        self._passes.set()

    def heal(self) -> None:
        """Be a good network for all connections that have lost nothing."""
        self.delay_s, self.piece_bytes, self.swallows, self.is_deaf = 0.0, 0, frozenset(), False
        self.let_pass()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections[connection] = (writer,)
        self.accepted += 1
        try:
            if self.is_deaf:
                while await reader.read(_READ_BYTES):
                    pass
                return
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
            self._connections[connection] = (writer, server_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, server_writer, "requests")),
                asyncio.create_task(self._pump(server_reader, writer, "replies")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server refuses, or the proxy cuts or ends: the other side hears of it
        finally:
            for each in self._connections.pop(connection):
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        """Pass bytes on until one side ends; each chunk as late as the delay was when it came."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = asyncio.create_task(self._pass_on(late, writer))
        loop = asyncio.get_running_loop()
        is_dead = False
        try:
            while data := await reader.read(_READ_BYTES):
                is_dead = is_dead or direction in self.swallows
                if not is_dead:
                    late.put_nowait((loop.time() + self.delay_s, data))
                if passing.done():
                    return
            late.put_nowait((loop.time() + self.delay_s, b""))
            await passing
        except OSError:
            pass  # a reset is an end
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    async def _pass_on(self, late: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            at_s, data = await late.get()
            if (left_s := at_s - loop.time()) > 0:
                await asyncio.sleep(left_s)
            await self._passes.wait()
            if not data:
                return
            size = self.piece_bytes or len(data)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                if size < len(data):
                    await asyncio.sleep(0)  # its own packet: whoever reads has a turn before the next


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
