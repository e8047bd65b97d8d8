"""A TCP proxy between a worker and Redis that knows whose reply passes: it can hold it, cut it off, or let it pass.

Commands are named by their word, scripts by their verb (`claim`, `ack`, …). A rule applies to one occurrence of a
command; when its reply has come from Redis the rule is `reached`: the server has done it and the worker does not know.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from rqueue.broker.scripts import SCRIPTS

VERBS = {script.sha: verb for verb, script in SCRIPTS.items()}

Act = Literal["hold", "cut", "cut request", "cut half", "keep request"]


@dataclass
class Rule:
    """What happens to one occurrence of a command.

    `hold` keeps its reply and all later ones of that connection; `cut` closes the connection instead of the reply;
    `cut request` closes it instead of the request; `cut half` passes half of the reply and then closes it;
    `keep request` keeps the request on its way until `go_on` is set, whatever becomes of the worker.
    """

    name: str
    act: Act
    left: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def applied(self, timeout_s: float = 20.0) -> None:
        """Return when it has happened."""
        async with asyncio.timeout(timeout_s):
            await self.reached.wait()


class Proxy:
    """Listens on a port of its own and passes everything on to a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._database = parts.hostname, parts.port, parts.path
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.asked: Counter[str] = Counter()  # requests by name

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 30)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._database}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()  # its reader meets the end, and so does its task
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    def on(self, name: str, act: Act, nth: int = 1) -> Rule:
        """Do that to the nth occurrence from now on."""
        rule = Rule(name, act, nth)
        self._rules.append(rule)
        return rule

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.current_task()
        assert pump is not None
        self._tasks.add(pump)
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        self._writers.add(server_writer)
        asked: deque[Rule | None] = deque()
        back = asyncio.create_task(self._replies(server_reader, writer, asked))
        self._tasks.add(back)
        try:
            await self._requests(reader, server_writer, asked)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            server_writer.close()
            back.cancel()  # the worker is gone: nobody waits for a reply
            writer.close()
            for rule in asked:  # read from the socket after another rule had cut it
                if rule is not None and not rule.reached.is_set():
                    rule.left = 1

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, asked: deque[Rule | None]
    ) -> None:
        while frame := await _frame(reader):
            name = _name(frame)
            self.asked[name] += 1
            rule = self._match(name)
            if rule is not None and rule.act == "cut request":
                rule.reached.set()
                return
            if rule is not None and rule.act == "keep request":
                rule.reached.set()
                await rule.go_on.wait()
            asked.append(rule)
            server.write(frame)
            await server.drain()
            if rule is not None and rule.act == "keep request":
                await rule.answered.wait()

    async def _replies(
        self, server: asyncio.StreamReader, worker: asyncio.StreamWriter, asked: deque[Rule | None]
    ) -> None:
        try:
            while frame := await _frame(server):
                rule = asked.popleft() if asked else None  # none: an announcement
                if rule is not None and rule.act == "keep request":
                    rule.answered.set()
                    rule = None
                if rule is None:
                    worker.write(frame)
                    await worker.drain()
                    continue
                rule.reached.set()
                if rule.act == "hold":
                    await asyncio.Event().wait()
                elif rule.act == "cut half":
                    worker.write(frame[: len(frame) // 2])
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            worker.close()
            for rule in asked:
                if rule is not None:
                    rule.left = 1  # another rule was before it: it waits for the next occurrence

    def _match(self, name: str) -> Rule | None:
        for rule in self._rules:
            if rule.name == name and rule.left:
                rule.left -= 1
                return rule if not rule.left else None
        return None


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One whole request or reply; b"" at the end."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return b""
    kind, size = line[:1], line[1:-2]
    if kind == b"$" and size != b"-1":
        return line + await reader.readexactly(int(size) + 2)
    if kind == b"*" and size != b"-1":
        return line + b"".join([await _frame(reader) for _ in range(int(size))])
    return line


def _name(frame: bytes) -> str:
    words = frame.split(b"\r\n", 5)
    command = words[2].upper()
    if command == b"EVALSHA":
        return VERBS[words[4]]
    if command == b"EVAL":
        source = frame.partition(b"\r\n$")[2].partition(b"\r\n$")[2].partition(b"\r\n")[2]
        return next((verb for verb in VERBS.values() if source.startswith(SCRIPTS[verb].source)), "EVAL")
    return command.decode()
