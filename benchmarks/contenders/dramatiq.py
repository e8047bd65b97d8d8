"""Dramatiq, with processes of threads."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "dramatiq.io"


class Dramatiq(Contender):
    """Two processes of eight threads; for tasks that sleep one process, with a thread for each."""

    name = "dramatiq"
    environment = "shared"
    package = "dramatiq"
    asynchronous = False
    rate = 1200
    workloads = HEADLINE - {"enqueue-bulk"} | {"burn"}  # a group enqueues one by one
    settings = (
        f"-p 2 -t 8, its default on two cores ({DOCS}/guide.html), for tasks that sleep -p 1 and as many threads as "
        "the concurrency, ack after the body, JSON, the Results middleware with its Redis backend"
    )

    def command(self, setup: Setup) -> list[str]:
        sleeps = setup.workload.startswith("sleep")
        processes, threads = (1, setup.concurrency) if sleeps else (2, 8)
        return ["-m", "dramatiq", "benchmarks.contenders.dramatiq_app", "-p", str(processes), "-t", str(threads)]

    def open(self, url: str) -> None:  # noqa: ARG002  # the app has it from BENCH_URL
        from benchmarks.contenders.dramatiq_app import broker

        self.broker = broker

    def close(self) -> None:
        self.broker.close()

    def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return self.broker.get_actor(task).send(*((sent, payload) if payload else (sent,)))

    def result(self, handle: Any, timeout: float) -> Any:
        return handle.get_result(block=True, timeout=round(timeout * 1000))

    def left(self) -> Left:
        redis, space = self.broker.client, self.broker.namespace
        waiting = redis.llen(f"{space}:default")
        running = sum(redis.scard(key) for key in redis.scan_iter(f"{space}:__acks__*", count=1000))
        results = sum(not key.startswith(space.encode()) for key in redis.scan_iter(count=1000))
        return Left(waiting, running, results)


CONTENDERS = [Dramatiq()]
