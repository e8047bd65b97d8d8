"""streaQ's worker and tasks, for its workers and its producer."""

from __future__ import annotations

import os

import coredis
from streaq import Worker

from benchmarks import bodies

coredis.Config.optimized = True

worker = Worker(
    redis_url=os.environ["BENCH_URL"],
    concurrency=int(os.environ["BENCH_CONCURRENCY"]),
    idle_timeout=float(os.environ.get("BENCH_IDLE_S", "60")),  # its default
    anyio_kwargs={"use_uvloop": True},
)

noop = worker.task(bodies.noop, name="noop", silent=True)
nap = worker.task(bodies.nap, name="nap", silent=True)
work = worker.task(bodies.work, name="work", silent=True)
hold = worker.task(bodies.hold, name="hold", silent=True)
