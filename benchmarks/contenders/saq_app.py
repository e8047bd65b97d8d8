"""saq's queue and its worker's settings, for its workers and its producer."""

from __future__ import annotations

import os
from typing import Any

import orjson
import uvloop
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

from benchmarks import bodies

uvloop.install()  # its command makes a loop of whatever policy is installed


async def noop(_context: Any, *, sent: float, payload: str = "") -> str:
    """The no-op; saq gives each function a context first."""
    return await bodies.noop(sent, payload)


async def nap(_context: Any, *, sent: float) -> float:
    """The wait of 50 ms."""
    return await bodies.nap(sent)


async def work(_context: Any, *, sent: float, payload: str) -> int:
    """The 10 ms of runs with faults."""
    return await bodies.work(sent, payload)


async def hold(_context: Any, *, sent: float, payload: str) -> int:
    """The seconds of runs with faults."""
    return await bodies.hold(sent, payload)


queue = RedisQueue(Redis.from_url(os.environ["BENCH_URL"]), dump=orjson.dumps, load=orjson.loads)
settings: dict[str, Any] = {
    "queue": queue,
    "functions": [noop, nap, work, hold],
    "concurrency": int(os.environ["BENCH_CONCURRENCY"]),
}
if "BENCH_SWEEP_S" in os.environ:
    settings["timers"] = {"sweep": int(os.environ["BENCH_SWEEP_S"])}
