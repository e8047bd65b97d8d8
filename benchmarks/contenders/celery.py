"""Celery, with each of its three pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.contender import HEADLINE, Contender, Left, Setup

DOCS = "docs.celeryq.dev/en/stable/userguide"
REDIS_DOCS = "docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html"
ASK_EACH_S = 0.01
ENQUEUE = frozenset({"enqueue-one", "enqueue-100", "enqueue-bulk"})  # the same whatever the worker's pool
WORKER = (
    "late ack (task_acks_late, task_reject_on_worker_lost), JSON, results in Redis, "
    f"without gossip, mingle and heartbeat ({DOCS}/workers.html)"
)


class Celery(Contender):
    """One worker; the subclasses say of what kind."""

    environment = "shared"
    package = "celery"
    asynchronous = False
    pool: str
    prefetch: int

    def slots(self, setup: Setup) -> int:
        return setup.concurrency

    def command(self, setup: Setup) -> list[str]:
        app = ["-m", "celery", "-A", "benchmarks.contenders.celery_app", "worker", "-l", "warning"]
        pool = ["-P", self.pool, "-c", str(self.slots(setup)), "--prefetch-multiplier", str(self.prefetch)]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [*app, *pool, *quiet, "-Q", ",".join(setup.queues)]

    def variables(self, setup: Setup) -> dict[str, str]:
        return {"BENCH_PRIORITIES": "1"} if setup.workload == "priorities" else {}

    def open(self, url: str) -> None:
        from redis import Redis

        from benchmarks.contenders.celery_app import app

        self.app, self.redis = app, Redis.from_url(url)

    def close(self) -> None:
        self.app.close()
        self.redis.close()

    def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:
        if "priority" in options:
            options["priority"] = 10 - options["priority"]  # on Redis, 0 is first
        return self.app.tasks[task].apply_async((sent, payload) if payload else (sent,), **options)

    def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> None:
        function = self.app.tasks[task]  # with one producer; as a group each job subscribes twice, and takes longer
        with self.app.producer_or_acquire() as producer:
            for sent, payload in calls:
                function.apply_async((sent, payload) if payload else (sent,), producer=producer)

    def result(self, handle: Any, timeout: float) -> Any:
        return handle.get(timeout=timeout)

    def left(self) -> Left:
        waiting = sum(self.redis.llen(key) for key in self.redis.scan_iter(count=1000, _type="list"))
        results = sum(1 for _ in self.redis.scan_iter("celery-task-meta-*", count=1000))
        return Left(waiting, self.redis.hlen("unacked"), results)

    def unsettled(self, server: Any) -> int:
        return server.llen("default") + server.hlen("unacked")


class Prefork(Celery):
    """Two processes. Two tasks that sleep at once say nothing, and a hundred processes are not what it is for."""

    name = "celery-prefork"
    pool = "prefork"
    prefetch = 64
    rate = 650
    workloads = HEADLINE - {"sleep-100", "sleep-1000"} | {"burn", "load", "payload", "priorities", "latency"}
    settings = (
        f"prefork -c 2, prefetch multiplier 64 ({DOCS}/optimizing.html), bulk with one producer ({DOCS}/calling.html), "
        f"{WORKER}"
    )

    def slots(self, setup: Setup) -> int:  # noqa: ARG002
        return 2


class Database(Prefork):
    """The same with its database backend; for `make bench-results`."""

    name = "celery-postgres"
    rate = 250
    workloads = frozenset({"enqueue-bulk", "drain", "round-trip"})
    store = "postgresql+psycopg2"
    rows = "SELECT count(*), count(DISTINCT task_id) FROM celery_taskmeta WHERE status = 'SUCCESS'"
    settings = (
        f"as celery-prefork, but results in PostgreSQL: db+postgresql+psycopg2://, result_extended, which keeps the "
        f"arguments as rqueue does, else its defaults ({DOCS}/configuration.html#database-backend-settings); a result "
        f"is asked for each {1000 * ASK_EACH_S:g} ms, since it is not announced (the default is 500)"
    )

    def result(self, handle: Any, timeout: float) -> Any:
        return handle.get(timeout=timeout, interval=ASK_EACH_S)

    def left(self) -> Left:
        backend = self.app.backend
        with backend.ResultSession() as session:
            return replace(super().left(), results=session.query(backend.task_cls).count())


class Threads(Celery):
    """One process of threads."""

    name = "celery-threads"
    pool = "threads"
    prefetch = 4
    rate = 800
    workloads = HEADLINE - ENQUEUE | {"threads"}
    settings = f"threads, as many as the concurrency, default prefetch ({DOCS}/concurrency/index.html), {WORKER}"


class Gevent(Celery):
    """One process of greenlets."""

    name = "celery-gevent"
    pool = "gevent"
    prefetch = 4
    rate = 600
    workloads = HEADLINE - ENQUEUE
    settings = (
        f"gevent, as many as the concurrency, default prefetch ({DOCS}/concurrency/gevent.html), "
        f"result_backend_thread_safe, else each greenlet connects on its own ({DOCS}/configuration.html), "
        f"max_connections above the concurrency, else acks fail, {WORKER}"
    )


class LateAck(Celery):
    """As its docs have it for tasks that must not be lost; for runs with faults."""

    name = "celery"
    pool = "prefork"
    prefetch = 4
    rate = 500
    workloads = frozenset()
    settings = (
        "prefork, as many processes as the concurrency, default prefetch, task_acks_late, task_reject_on_worker_lost; "
        f"visibility_timeout 3600 s, its default ({REDIS_DOCS})"
    )
    is_supervised = True
    places = {  # noqa: RUF012
        r"default(\x06\x16\d)?$": "waiting",  # with the mark of a priority
        r"unacked$": "unacked until the visibility timeout",
    }


class LateAckTuned(LateAck):
    """The same, giving back sooner what a dead worker held."""

    name = "celery-tuned"
    prefetch = 1
    settings = (
        f"as celery; visibility_timeout 10 s in all three places where it is to be set ({REDIS_DOCS}), "
        "unacked_restore_interval 1 s and unacked_restore_throttle 1, as kombu's docs advise with a low one "
        f"(docs.celeryq.dev/projects/kombu), worker_prefetch_multiplier 1 ({DOCS}/optimizing.html). A task that takes "
        "longer than 10 s is then run again while it runs"
    )

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002
        return {"BENCH_VISIBILITY_S": "10"}


CONTENDERS = [Prefork(), Database(), Threads(), Gevent(), LateAck(), LateAckTuned()]
