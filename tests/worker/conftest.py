"""What the worker's tests share: an app on each kind of store, its raw commands, what it logs, tasks that wait for the
test, workers that died, and a network that loses replies.

Nothing sleeps here: a test waits for an event, or asks Redis again and again for what nobody announces.
"""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from rqueue import RQueue
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.scripts import SCRIPTS
from rqueue.config import WorkerConfig
from rqueue.errors import SchemaMismatch, StoreUnavailable
from rqueue.log import LOGGER
from rqueue.results.row import Row, replaces
from rqueue.wire.keys import MAIN, Keys, QueueKeys
from rqueue.wire.message import Header
from rqueue.wire.record import Letter
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.worker import Worker

PATIENCE_S = 5.0


@pytest.fixture
def app(url: str) -> RQueue:
    """An app on each kind of store in turn."""
    return RQueue(url)


@pytest.fixture
def redis_app(redis_url: str) -> RQueue:
    """An app on the real server."""
    return RQueue(redis_url)


@pytest.fixture
def call(app: RQueue) -> Callable[..., Awaitable[Any]]:
    """Any Redis command, past the verbs."""

    async def run(*command: bytes | str | int) -> Any:
        return await app.session().broker._link.call(*command)

    return run


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """Ask again and again until the answer is true: for what nobody announces."""

    async def look(condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = condition()
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0)

    return look


# What is logged


class Log(logging.Handler):
    """Every event that was logged, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str, dict[str, Any]]] = []
        self._wake: list[Callable[[], object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage(), getattr(record, "rqueue", {})))
        for wake in list(self._wake):
            with suppress(RuntimeError):
                wake()

    def of(self, text: str, **fields: Any) -> list[dict[str, Any]]:
        """The fields of the events of that text, with those fields."""
        return [found for _, said, found in self.lines if said == text and fields.items() <= found.items()]

    def loud(self) -> list[str]:
        """The texts of what was logged as an error or worse."""
        return [text for level, text, _ in self.lines if level >= logging.ERROR]

    async def heard(self, text: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until it was logged that often; the last one's fields."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(event.set)

        self._wake.append(wake)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(found := self.of(text, **fields)) < count:
                    event.clear()
                    await event.wait()
            return found[-1]
        finally:
            self._wake.remove(wake)


@pytest.fixture
def log() -> Iterator[Log]:
    handler, level = Log(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    yield handler
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


@pytest.fixture
def faint() -> Callable[..., Awaitable[None]]:
    """A worker's heart stops, and nothing of it is still on its way to Redis."""

    async def stop(worker: Worker) -> None:
        worker._heart._stop.set()
        await asyncio.to_thread(worker._heart._thread.join)

    return stop


# Tasks that wait for the test


class Gate:
    """A place in a task where it waits until the test opens it."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.came: list[Any] = []
        self._open = asyncio.Event()
        self._changed = asyncio.Event()

    async def __call__(self, who: Any = None) -> None:
        self.came.append(who)
        self.inside += 1
        self.most = max(self.most, self.inside)
        self._changed.set()
        try:
            await self._open.wait()
        finally:
            self.inside -= 1
            self._changed.set()

    async def reached(self, count: int = 1) -> None:
        """Return when so many have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.came) < count:
                self._changed.clear()
                await self._changed.wait()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def new_gate() -> type[Gate]:
    return Gate


# What is stored

Stored = dict[str, Any]


async def stored_in(broker: Broker) -> Stored:
    """Everything that is stored, by key; a key with a TTL is marked by a "~" before its name."""
    call, found = broker._link.call, {}
    for name in sorted(await call(b"KEYS", b"*")):
        kind, ttl = bytes(await call(b"TYPE", name)), await call(b"PTTL", name)
        if ttl == -2:
            continue
        match kind:
            case b"list":
                value: Any = await call(b"LRANGE", name, 0, -1)
            case b"set":
                value = set(await call(b"SMEMBERS", name))
            case b"zset":
                value = set(await call(b"ZRANGE", name, 0, -1))
            case b"hash":
                flat = await call(b"HGETALL", name)
                value = dict(zip(flat[::2], flat[1::2], strict=True))
            case _:
                value = await call(b"GET", name)
        found[("" if ttl == -1 else "~") + name.decode()] = value
    return found


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Broker]:
    """A broker of the test's own, on the app's store."""
    broker = Broker(Endpoint(url), Keys())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def redis_broker(redis_url: str) -> AsyncIterator[Broker]:
    """A broker of the test's own on the real server."""
    broker = Broker(Endpoint(redis_url), Keys())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
def stored() -> Callable[[Broker], Awaitable[Stored]]:
    return stored_in


@pytest.fixture
def held_in() -> Callable[..., Awaitable[list[bytes]]]:
    """What stands in a worker's processing list, the last claimed first, without tokens."""

    async def look(broker: Broker, keys: QueueKeys, worker: str) -> list[bytes]:
        name = keys.processing(worker)
        if bytes(await broker._link.call(b"TYPE", name)) != b"list":
            return []
        return [raw for raw in await broker._link.call(b"LRANGE", name, 0, -1) if raw]

    return look


@pytest.fixture
def leaked() -> Callable[[Broker], Awaitable[Stored]]:
    """What is stored without a TTL, beside the set of queues and the dead letters: nothing when all is done."""

    async def look(broker: Broker) -> Stored:
        allowed = re.compile(r"~.*|rqueue:queues|rqueue:\{[^}]+\}:dead(:letters)?")
        return {name: value for name, value in (await stored_in(broker)).items() if not allowed.fullmatch(name)}

    return look


@pytest.fixture
def letters() -> Callable[..., Awaitable[list[Letter]]]:
    """A queue's dead letters, the newest first."""

    async def look(broker: Broker, queue: str = "default") -> list[Letter]:
        return [Letter.decode(data) for data in await broker.dead(broker.keys.queue(queue), 1000)]

    return look


# Workers that died


@dataclass(slots=True)
class Ghost:
    """A worker that claimed, perhaps started, and was never heard of again."""

    broker: Broker
    keys: QueueKeys
    id: str

    async def claim(self, count: int = 1000) -> list[bytes]:
        claim = await self.broker.claim([self.keys], [5], self.id, 60, count, 10_000_000)
        assert claim is not None
        return [each.raw for each in claim.messages]

    async def start(self, *ids: str) -> None:
        assert await self.broker.start(self.keys, self.id, ids)

    async def die(self) -> None:
        """Its lease has run out."""
        await self.broker._link.call(b"ZADD", self.keys.workers, 1, self.id)


@pytest.fixture
def ghost() -> Callable[..., Awaitable[Ghost]]:
    async def register(broker: Broker, name: str = "ghost", queue: str = "default") -> Ghost:
        keys = broker.keys.queue(queue)
        assert await broker.register(keys, name, 60)
        return Ghost(broker, keys, name)

    return register


# The parts of a worker, without their loops


@dataclass
class Parts:
    """A worker's services around one table, each to be ticked by the test."""

    broker: Broker
    worker: Worker

    def __post_init__(self) -> None:
        worker = self.worker
        worker._wire()
        self.queues, self.inflight, self.lease, self.judge = (
            worker._queues,
            worker._inflight,
            worker._lease,
            worker._judge,
        )
        self.fetcher, self.settler, self.reaper = worker._fetcher, worker._settler, worker._reaper
        self.schedule = worker._fetcher._schedule

    @property
    def keys(self) -> QueueKeys:
        return self.queues[0]

    async def push(self, *messages: bytes, level: int = MAIN) -> None:
        """Put messages into a list, the first one first."""
        await self.broker._link.call(b"LPUSH", self.keys.lists[level], *messages)

    def take(self) -> ClaimedJob:
        """Start what comes next, as the executor does, without running it."""
        job = self.inflight.peek()
        assert job is not None
        self.inflight.begin(job)
        return job


@pytest.fixture
def parts(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Parts]]:
    """Make workers on the test's broker, which do nothing until they are told to."""
    made = []

    def build(*queues: str, app: dict[str, Any] | None = None, **config: Any) -> Parts:
        client = RQueue("memory://", **(app or {}))
        client.keys = broker.keys
        with monkeypatch.context() as patch:
            patch.setattr("rqueue.worker.worker.broker_for", lambda *_: broker)
            made.append(Parts(broker, Worker(client, WorkerConfig(queues or ("default",), **config))))
        return made[-1]

    yield build
    for each in made:
        each.worker._executor.close()


@pytest.fixture
def message() -> Callable[..., bytes]:
    """A message's bytes."""

    def build(job_id: str | None, task: str = "t", level: int = MAIN, **header: int) -> bytes:
        return Header(level, id=job_id, **header).encode() + b'{"task":"%s"}' % task.encode()

    return build


# A result store


class FakeStore:
    """Keeps rows as the protocol says; it can be away, hang, refuse rows, and be held up.

    Attributes:
        rows: by id and time of enqueue.
        batches: the ids of each save that was answered, in their order.
        is_away, hangs: it cannot be reached, or does not answer.
        mismatch: its tables are not those that are known.
        refused: ids that it does not take.
        opened: how often it was looked for.
        gate: a save waits until it is open.
        saving: a save has come as far as the gate.
    """

    shown = "fake://store"

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int | None], Row] = {}
        self.batches: list[list[str]] = []
        self.is_away = self.hangs = self.mismatch = self.is_closed = False
        self.refused: set[str] = set()
        self.opened = 0
        self.gate, self.saving = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        self.opened += 1
        await self._answer()
        if self.mismatch:
            raise SchemaMismatch("its tables are older: run rqueue db upgrade")

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        await self._answer()
        self.saving.set()
        await self.gate.wait()
        await self._answer()
        for row in rows:
            key = row.id, row.enqueued
            if row.id not in self.refused and (key not in self.rows or replaces(row, self.rows[key])):
                self.rows[key] = row
        self.batches.append([row.id for row in rows])
        return [row.id for row in rows if row.id in self.refused]

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        found = [row for row in self.rows.values() if row.id == job_id]
        return max(found, key=lambda row: row.enqueued or 0, default=None)

    async def close(self) -> None:
        self.is_closed = True

    @property
    def states(self) -> dict[str, str]:
        """By id; no job has two rows."""
        assert len({row.id for row in self.rows.values()}) == len(self.rows)
        return {row.id: row.state for row in self.rows.values()}

    async def _answer(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise StoreUnavailable("connection refused")


RESULTS = "redis://127.0.0.1:1/9"
"""What an app is given whose store is :func:`store`."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """The result store of every app that has ``results``."""
    store = FakeStore()
    monkeypatch.setattr("rqueue.client.session.store_for", lambda *_: store)
    return store


# A network that loses replies


class Proxy:
    """Stands between clients and the server; does a chosen command, and loses its reply with the connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lose: list[bytes] = []
        self.lost: list[bytes] = []
        self.on_lost: Callable[[], Awaitable[object]] | None = None
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> str:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._keep(self._accept(self._listening))
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def lose(self, *verbs: str) -> None:
        """The next command of each of these goes to the server, and its reply is lost with the connection."""
        for verb in verbs:
            name = SCRIPTS[verb].sha if verb in SCRIPTS else verb
            self._lose.append(name if isinstance(name, bytes) else name.encode())

    async def close(self) -> None:
        """End all connections, and refuse new ones."""
        if self._listening is not None:
            self._listening.close()
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listening)
            self._keep(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            client.setblocking(False)
            server.setblocking(False)
            back = self._keep(_pump(server, client))
            try:
                while data := await loop.sock_recv(client, 1 << 16):
                    unlucky = next((verb for verb in self._lose if verb in data), None)
                    if unlucky is None or b"LOAD" in data:
                        await loop.sock_sendall(server, data)
                        continue
                    self._lose.remove(unlucky)
                    back.cancel()
                    await asyncio.wait([back])
                    await loop.sock_sendall(server, data)
                    await loop.sock_recv(server, 1 << 16)  # it was done
                    self.lost.append(unlucky)
                    if self.on_lost is not None:
                        await self.on_lost()
                    return
            except OSError:
                pass
            finally:
                back.cancel()
                await asyncio.wait([back])


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(source, 1 << 16):
            await loop.sock_sendall(target, data)
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    port = urlsplit(redis_url).port
    assert port is not None
    proxy = Proxy(port)
    yield proxy
    await proxy.close()
