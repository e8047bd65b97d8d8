"""rq, with workers that run jobs in their own process."""

from __future__ import annotations

from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "python-rq.org/docs"


class Rq(Contender):
    """Two processes, one job at a time each: it finds its functions by their paths, and needs no app."""

    name = "rq"
    environment = "shared"
    package = "rq"
    asynchronous = False
    rate = 400
    workloads = HEADLINE - {"sleep-100", "sleep-1000"}  # a hundred at once would be a hundred processes
    settings = (
        f"worker-pool -n 2, its default, SimpleWorker, which does not fork for each job ({DOCS}/workers, its notes on "
        "performance), ack after the body, pickle, results in Redis for 500 s"
    )

    def command(self, setup: Setup) -> list[str]:
        pool = ["-m", "rq.cli", "worker-pool", *setup.queues, "--num-workers", "2", "--url", setup.url]
        return [*pool, "--worker-class", "rq.worker.SimpleWorker", "--logging-level", "WARNING"]

    def open(self, url: str) -> None:
        from redis import Redis
        from rq import Queue

        self.queue = Queue("default", connection=Redis.from_url(url))
        self.functions = {"noop": "benchmarks.bodies.plain"}

    def close(self) -> None:
        self.queue.connection.close()

    def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:  # noqa: ARG002
        return self.queue.enqueue(self.functions[task], *((sent, payload) if payload else (sent,)))

    def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> None:
        function = self.functions[task]
        self.queue.enqueue_many(
            [self.queue.prepare_data(function, args=call if call[1] else call[:1]) for call in calls]
        )

    def result(self, handle: Any, timeout: float) -> Any:
        return handle.latest_result(timeout=round(timeout)).return_value

    def left(self) -> Left:
        running = self.queue.started_job_registry.get_job_count(cleanup=False)
        return Left(self.queue.count, running, self.queue.finished_job_registry.get_job_count(cleanup=False))


CONTENDERS = [Rq()]
