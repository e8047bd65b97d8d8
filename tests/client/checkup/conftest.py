"""What the checkup's tests share: an app on each kind of store, raw commands, and a checkup that waits for nobody."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rqueue import RQueue
from rqueue.client.checkup.doctor import Doctor
from rqueue.client.checkup.finding import Finding, Level

Checkup = Callable[[], Awaitable[list[Finding]]]
Call = Callable[..., Awaitable[Any]]


@pytest.fixture
async def app(url: str) -> AsyncIterator[RQueue]:
    async with RQueue(url) as opened:
        yield opened


@pytest.fixture
def call(app: RQueue) -> Call:
    """Any Redis command, past the verbs."""

    async def run(*command: bytes | str | float) -> Any:
        return await app.session().broker._link.call(
            *(str(part) if isinstance(part, float) else part for part in command)
        )

    return run


@pytest.fixture
def checkup(app: RQueue) -> Checkup:
    """What is found of queues, workers and keys; the server's own checks have tests of their own."""
    of_server = ("versions", "eviction", "memory", "persistence", "replicas", "clients", "latency")

    async def examine() -> list[Finding]:
        found = await Doctor(app, heartbeat_s=0.01).examine()
        return [each for each in found if each.level > Level.OK and each.check not in of_server]

    return examine


async def state_of(app: RQueue) -> dict[str, Any]:
    """Everything that is stored, by key; one with a TTL is marked by a "~" before its name."""
    call, found = app.session().broker._link.call, {}
    reads = {
        b"list": (b"LRANGE", 0, -1),
        b"set": (b"SMEMBERS",),
        b"zset": (b"ZRANGE", 0, -1, b"WITHSCORES"),
        b"hash": (b"HGETALL",),
        b"string": (b"GET",),
    }
    for name in sorted(await call(b"KEYS", b"*")):
        verb, *rest = reads[bytes(await call(b"TYPE", name))]
        value = await call(verb, name, *rest)
        mark = "~" if await call(b"PTTL", name) > 0 else ""
        found[mark + name.decode()] = sorted(value) if verb == b"SMEMBERS" else value
    return found


@pytest.fixture
def state(app: RQueue) -> Callable[[], Awaitable[dict[str, Any]]]:
    return lambda: state_of(app)
