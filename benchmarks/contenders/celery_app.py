"""Celery's app and tasks, for its workers and its producer."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from benchmarks import bodies

database = os.environ.get("BENCH_RESULTS")
backend = f"db+{database}" if database else os.environ["BENCH_URL"]
app = Celery("bench", broker=os.environ["BENCH_URL"], backend=backend)
callers = int(os.environ["BENCH_CONCURRENCY"])
transport: dict[str, Any] = {"max_connections": callers + 10}  # 10 by default, too few for the acks of 100 greenlets
if "BENCH_PRIORITIES" in os.environ:
    transport |= {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
if "BENCH_VISIBILITY_S" in os.environ:
    visibility_s = int(os.environ["BENCH_VISIBILITY_S"])
    transport |= {"visibility_timeout": visibility_s, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    app.conf.update(  # the docs want it in all three places
        visibility_timeout=visibility_s, result_backend_transport_options={"visibility_timeout": visibility_s}
    )
app.conf.update(
    task_default_queue="default",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    result_backend_thread_safe=True,  # else each of 100 threads or greenlets connects to the results on its own
    broker_pool_limit=callers,  # as many as the threads that enqueue
    broker_transport_options=transport,
    result_extended=bool(database),
)

plain = app.task(bodies.plain, name="plain")
noop = app.task(bodies.plain, name="noop")
nap = app.task(bodies.nap_plain, name="nap")
burn = app.task(bodies.burn, name="burn")
work = app.task(bodies.work_plain, name="work")
hold = app.task(bodies.hold_plain, name="hold")
