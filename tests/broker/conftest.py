"""What the broker's tests share: an opened broker, the whole stored state as one dict, and that dict stored.

A state is written as ``{key: value}``. A key of the queue ``email`` is named by what follows ``rqueue:{email}:`` (the
main list is ``main``), one of another queue by ``queue/rest``, any other by its full name. A value is a list (its index
0 is the left end: the newest), a set, a zset ``{member: "past" | "future"}``, a hash ``{field: bytes}`` or a string's
bytes; ``("ttl", value)`` when the key has a TTL. `dump` reads it, `seed` writes it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rqueue.broker.broker import Broker, Done, Enqueued
from rqueue.broker.endpoint import Endpoint
from rqueue.wire.keys import MAIN, Keys, QueueKeys
from rqueue.wire.message import Header

State = dict[str, Any]
NewBroker = Callable[[str], Awaitable[Broker]]

AWAY_MS = 60_000  # "future" and "past" are a minute away: further than any test lasts


@pytest.fixture
async def new_broker() -> AsyncIterator[NewBroker]:
    """Open brokers of the test's own; all are closed at its end."""
    opened: list[Broker] = []

    async def open_broker(url: str) -> Broker:
        broker = Broker(Endpoint(url), Keys())
        opened.append(broker)
        await broker.open()
        return broker

    yield open_broker
    for broker in opened:
        await broker.close()


@pytest.fixture
async def broker(url: str, new_broker: NewBroker) -> Broker:
    """A broker on each kind of store in turn."""
    return await new_broker(url)


@pytest.fixture
async def other(url: str, new_broker: NewBroker, broker: Broker) -> Broker:
    """A second process's broker on the same store."""
    return await new_broker(url)


@pytest.fixture
def keys() -> QueueKeys:
    return Keys().queue("email")


@pytest.fixture
def reports() -> QueueKeys:
    return Keys().queue("reports")


@pytest.fixture
def raw(broker: Broker) -> Callable[..., Awaitable[Any]]:
    """Any Redis command, past the verbs."""
    return broker._link.call


@pytest.fixture
def dump(broker: Broker) -> Callable[[], Awaitable[State]]:
    return lambda: dump_of_broker(broker)


@pytest.fixture
def seed(broker: Broker) -> Callable[[State], Awaitable[None]]:
    return lambda state: seed_broker(broker, state)


@pytest.fixture
def dump_of() -> Callable[[Broker], Awaitable[State]]:
    return dump_of_broker


@pytest.fixture
def seed_of() -> Callable[[Broker, State], Awaitable[None]]:
    return seed_broker


@pytest.fixture
def message() -> Callable[..., bytes]:
    """A message's bytes; ``pad`` makes it longer."""

    def build(
        job_id: str | None = None, level: int = MAIN, *, losses: int = 0, retries: int = 0, since: int = 0, pad: int = 0
    ) -> bytes:
        body = b'{"task":"t","args":["%s"]}' % (b"x" * pad) if pad else b'{"task":"t"}'
        return Header(level, losses, retries, since, job_id).encode() + body

    return build


@pytest.fixture
def job(message: Callable[..., bytes]) -> Callable[..., Enqueued]:
    """One job of an enqueue batch."""

    def build(job_id: str, level: int = MAIN, due: str = "", *, custom: bool = False) -> Enqueued:
        return Enqueued(job_id, custom, level, due, message(job_id, level))

    return build


@pytest.fixture
def done(message: Callable[..., bytes]) -> Callable[..., Done]:
    """One finished job of an ack or bury."""

    def build(
        job_id: str, state: str = "SUCCESS", ttl: str = "60", *, level: int = MAIN, raw: bytes | None = None
    ) -> Done:
        record = b'{"state":"%s","result":"%s"}' % (state.encode(), job_id.encode())
        return Done(message(job_id, level) if raw is None else raw, job_id, record, ttl)

    return build


@pytest.fixture
async def listen(broker: Broker) -> AsyncIterator[Callable[[str], Awaitable[Callable[[], Awaitable[bytes]]]]]:
    """Subscribe to a result's channel; what it gives back awaits the next announcement."""
    connections = []

    async def subscribe(short: str) -> Callable[[], Awaitable[bytes]]:
        connection = broker.endpoint.connection()
        connections.append(connection)
        await connection.connect()
        await connection.send_command("SUBSCRIBE", full(short))
        await connection.read_response()

        async def heard() -> bytes:
            async with asyncio.timeout(5):
                kind, channel, payload = await connection.read_response()
            assert (bytes(kind), bytes(channel)) == (b"message", full(short))
            return bytes(payload)

        return heard

    yield subscribe
    for connection in connections:
        await connection.disconnect()


@pytest.fixture
def until_blocked(broker: Broker) -> Callable[..., Awaitable[None]]:
    """Return once so many clients wait at the server: asked again and again, since nothing announces it."""

    async def look(count: int = 1) -> None:
        async with asyncio.timeout(5):
            while await blocked_clients(broker) != count:
                pass

    return look


async def blocked_clients(broker: Broker) -> int:
    if broker.endpoint.is_memory:
        await broker._link.call(b"PING")
        return sum(bool(socket._blocked) for socket in broker.endpoint._async_pool.connection_kwargs["server"].sockets)
    router = broker._router
    asked = [broker._link.call] if router is None else [router._link(node).call for node in router._topology.masters()]
    clients = [bytes(await call(b"CLIENT", b"LIST")) for call in asked]
    return sum(len(re.findall(rb" flags=\w*b", each)) for each in clients)


def full(short: str) -> bytes:
    """The key that a short name stands for."""
    if short.startswith("rqueue:"):
        return short.encode()
    queue, _, rest = short.rpartition("/")
    keys = f"rqueue:{{{queue or 'email'}}}"
    return (keys if rest == "main" else f"{keys}:{rest}").encode()


def short_of(name: str) -> str:
    found = re.fullmatch(r"rqueue:\{([^}]+)\}(?::(.+))?", name)
    if found is None:
        return name
    queue, rest = found[1], found[2] or "main"
    return rest if queue == "email" else f"{queue}/{rest}"


async def dump_of_broker(broker: Broker) -> State:
    """Everything that is stored."""
    names, cursor = set(), 0
    while True:
        cursor, some = await broker._scan(cursor, b"COUNT", 10_000)
        names |= set(some)
        if not cursor:
            break
    return {short_of(name.decode()): await value_of(broker, name) for name in sorted(names)}


async def value_of(broker: Broker, name: bytes) -> Any:
    call = broker._link.call
    kind, ttl = bytes(await call(b"TYPE", name)), await call(b"PTTL", name)
    value: Any
    match kind:
        case b"list":
            value = list(await call(b"LRANGE", name, 0, -1))
        case b"set":
            value = {member.decode() for member in await call(b"SMEMBERS", name)}
        case b"zset":
            flat, now = await call(b"ZRANGE", name, 0, -1, b"WITHSCORES"), await redis_ms(broker)
            value = {
                flat[index].decode(): "future" if float(flat[index + 1]) > now else "past"
                for index in range(0, len(flat), 2)
            }
        case b"hash":
            flat = await call(b"HGETALL", name)
            value = {flat[index].decode(): flat[index + 1] for index in range(0, len(flat), 2)}
        case _:
            value = await call(b"GET", name)
    return value if ttl == -1 else ("ttl", value)


async def seed_broker(broker: Broker, state: State) -> None:
    """Store a state, as `dump` writes it; a zset's score may be a number too."""
    call = broker._link.call
    now = await redis_ms(broker)
    for short, stored in state.items():
        name, has_ttl = full(short), isinstance(stored, tuple)
        value = stored[1] if has_ttl else stored
        if isinstance(value, list):
            await call(b"RPUSH", name, *value)
        elif isinstance(value, set):
            await call(b"SADD", name, *sorted(value))
        elif isinstance(value, bytes):
            await call(b"SET", name, value)
        elif any(isinstance(content, bytes) for content in value.values()):
            await call(b"HSET", name, *(part for item in value.items() for part in item))
        else:
            scores = {"past": now - AWAY_MS, "future": now + AWAY_MS}
            await call(b"ZADD", name, *(part for who, at in value.items() for part in (scores.get(at, at), who)))
        if has_ttl:
            await call(b"EXPIRE", name, 600)


async def redis_ms(broker: Broker) -> int:
    seconds, micros = await broker._link.call(b"TIME")
    return int(seconds) * 1000 + int(micros) // 1000
