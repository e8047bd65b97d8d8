"""What the client's tests share: apps that are closed at the end, a look into the store past rqueue, a proxy that loses
replies, and a worker in a thread for tests that have no event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import redis

from rqueue import RQueue
from rqueue.broker.scripts import SCRIPTS
from rqueue.wire.message import Message

NewApp = Callable[..., RQueue]


@dataclass(frozen=True)
class Stored:
    """One message in a list."""

    id: str | None
    level: int
    task: str
    args: list[Any]
    fields: dict[str, Any]


class Store:
    """The app's Redis, past rqueue (and past a proxy: by the server's URL)."""

    def __init__(self, where: RQueue | str) -> None:
        self.redis: redis.Redis | redis.RedisCluster
        if not isinstance(where, str) and where.endpoint.cluster is not None:
            node = where.endpoint.cluster.any()
            self.redis = redis.RedisCluster(host=node.host, port=node.port)
            return
        pool = redis.ConnectionPool.from_url(where) if isinstance(where, str) else where.endpoint._sync_pool
        self.redis = redis.Redis(connection_pool=pool)

    def waiting(self, queue: str = "default", level: int = 0) -> list[Stored]:
        """The messages of one list, the next to run first, without the token."""
        key = f"rqueue:{{{queue}}}" + (f":p{level}" if level else "")
        return [stored(raw) for raw in reversed(self.redis.lrange(key, 0, -1)) if raw]

    def everything(self, queue: str = "default") -> list[Stored]:
        """The messages of all lists of a queue."""
        return [message for level in range(11) for message in self.waiting(queue, level)]

    def alive(self, queue: str = "default") -> set[str]:
        return {member.decode() for member in self.redis.smembers(f"rqueue:{{{queue}}}:jobs")}

    def names(self) -> set[str]:
        """Every key."""
        whole = {"target_nodes": "primaries"} if isinstance(self.redis, redis.RedisCluster) else {}
        return {key.decode() for key in self.redis.keys("*", **whole)}


def stored(raw: bytes) -> Stored:
    message = Message.parse(raw)
    fields = orjson.loads(message.body)
    return Stored(message.header.id, message.header.level, fields["task"], fields.get("args", []), fields)


class Proxy:
    """Stands between an app and a server; it knows an enqueue by its script's hash.

    Attributes:
        lose: how many of the next enqueues' replies are lost, with their connection, once the server has given them.
        gate: an enqueue's reply goes on when this is set.
        answered: set when the server has answered an enqueue, whether the reply goes on or not.
        enqueues: how many passed so far.
        deaf: take what comes and forward nothing, as a stalled server does.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.lose = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answered = asyncio.Event()
        self.enqueues = 0
        self.deaf = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Refuse new connections and break the old ones."""
        assert self._server is not None
        self._server.close()
        self.gate.set()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, up_writer}
        state = {"owed": 0}
        pumps = [
            asyncio.create_task(self._requests(reader, up_writer, state)),
            asyncio.create_task(self._replies(up_reader, writer, state)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, up_writer):
                each.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= {writer, up_writer}
            self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, state: dict) -> None:
        sha = SCRIPTS["enqueue"].sha
        while data := await reader.read(1 << 20):
            if self.deaf:
                continue
            state["owed"] += data.count(sha)
            self.enqueues += data.count(sha)
            upstream.write(data)
            await upstream.drain()

    async def _replies(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, state: dict) -> None:
        while data := await upstream.read(1 << 20):
            if state["owed"]:
                self.answered.set()
                state["owed"] = 0
                if self.lose:
                    self.lose -= 1
                    return
                await self.gate.wait()
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def new_app() -> AsyncIterator[NewApp]:
    """Apps of the test's own; all are closed at its end."""
    made: list[RQueue] = []

    def make(url: str, **options: Any) -> RQueue:
        made.append(RQueue(url, **options))
        return made[-1]

    yield make
    for app in made:
        await app.close()


@pytest.fixture
async def app(url: str, new_app: NewApp) -> RQueue:
    """An app on each kind of broker in turn."""
    return new_app(url)


@pytest.fixture
async def real_app(redis_url: str, new_app: NewApp) -> RQueue:
    """An app on a real server, for what only a real server shows."""
    return new_app(redis_url)


@pytest.fixture
async def memory_app(new_app: NewApp) -> RQueue:
    """An app in memory, for what does not depend on the server."""
    return new_app("memory://")


@pytest.fixture
def store() -> Iterator[Callable[[RQueue | str], Store]]:
    """A look at what an app has stored."""
    opened: list[Store] = []

    def look(where: RQueue | str) -> Store:
        opened.append(Store(where))
        return opened[-1]

    yield look
    for each in opened:
        each.redis.close() if isinstance(each.redis, redis.RedisCluster) else each.redis.connection_pool.disconnect()


@pytest.fixture
async def new_proxy() -> AsyncIterator[Callable[[int], Any]]:
    """Proxies of the test's own."""
    made: list[Proxy] = []

    async def make(port: int) -> Proxy:
        made.append(Proxy(port))
        await made[-1].start()
        return made[-1]

    yield make
    for proxy in made:
        await proxy.stop()


@pytest.fixture
def sync_app(url: str) -> Iterator[RQueue]:
    """An app on each kind of broker for a test without an event loop."""
    app = RQueue(url)
    yield app
    asyncio.run(app.close())


@pytest.fixture
def threaded_worker() -> Callable[[RQueue], AbstractContextManager[None]]:
    """A worker in a thread, with a loop of its own, for as long as the block lasts."""
    return worker_in_thread


@contextmanager
def worker_in_thread(app: RQueue, **options: Any) -> Iterator[None]:
    ready, errors = threading.Event(), []
    stop: list[Callable[[], object]] = []

    async def work() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
        async with app.worker(shutdown_timeout=1, **options):
            ready.set()
            await stopping.wait()

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the test's thread
            errors.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="test worker")
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        if thread.is_alive():
            stop[0]()
        thread.join()
    if errors:
        raise errors[0]
