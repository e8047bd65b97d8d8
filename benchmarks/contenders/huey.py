"""huey, with a greenlet for each task."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "huey.readthedocs.io/en/latest"


class Huey(Contender):
    """One process of greenlets."""

    name = "huey"
    environment = "shared"
    package = "huey"
    asynchronous = False
    rate = 2900
    workloads = HEADLINE - {"enqueue-bulk"}  # its map() enqueues one by one
    settings = (
        f"RedisHuey, -k greenlet, as many as the concurrency, --no-periodic ({DOCS}/consumer.html), "
        f"for round trips notify_result ({DOCS}/guide.html), no ack, pickle, results in Redis"
    )

    def command(self, setup: Setup) -> list[str]:
        consumer = ["-m", "gevent.monkey", "--module", "huey.bin.huey_consumer", "benchmarks.contenders.huey_app.huey"]
        return [*consumer, "-k", "greenlet", "-w", str(setup.concurrency), "--no-periodic", "--quiet"]

    def variables(self, setup: Setup) -> dict[str, str]:
        return {"BENCH_NOTIFY": "1"} if setup.workload == "round-trip" else {}

    def open(self, url: str) -> None:  # noqa: ARG002  # the app has it from BENCH_URL
        from benchmarks.contenders import huey_app

        self.huey = huey_app.huey
        self.tasks = {"noop": huey_app.noop, "nap": huey_app.nap}

    def close(self) -> None:
        self.huey.storage.conn.close()

    def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return self.tasks[task](sent, payload) if payload else self.tasks[task](sent)

    def result(self, handle: Any, timeout: float) -> Any:
        return handle.get(blocking=True, timeout=timeout)

    def left(self) -> Left:
        return Left(self.huey.pending_count(), 0, self.huey.result_count())


CONTENDERS = [Huey()]
