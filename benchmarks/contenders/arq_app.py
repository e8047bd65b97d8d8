"""arq's worker and tasks."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import uvloop
from arq import func
from arq.connections import RedisSettings

from benchmarks import bodies

uvloop.install()  # its command makes a loop of whatever policy is installed


async def noop(_context: Any, sent: float, payload: str = "") -> str:
    """The no-op; arq gives each function a context first."""
    return await bodies.noop(sent, payload)


async def nap(_context: Any, sent: float) -> float:
    """The wait of 50 ms."""
    return await bodies.nap(sent)


class WorkerSettings:
    """What its command reads."""

    functions: ClassVar[list[Any]] = [func(noop, name="noop"), func(nap, name="nap")]
    redis_settings = RedisSettings.from_dsn(os.environ["BENCH_URL"])
    max_jobs = int(os.environ["BENCH_CONCURRENCY"])
    poll_delay = float(os.environ["BENCH_POLL_S"])


quiet = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}
