"""docket's tasks, and its worker as a program, which is how it gets uvloop."""

from __future__ import annotations

import logging
import os

import uvloop
from docket import Worker

from benchmarks import bodies

slots = int(os.environ["BENCH_CONCURRENCY"])
url = f"{os.environ['BENCH_URL']}?max_connections={slots + 100}"  # at 100, redis-py's default, some jobs stall
tasks = [bodies.noop, bodies.nap]

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(Worker.run("bench", url, concurrency=slots, tasks=["benchmarks.contenders.docket_app:tasks"]))
