"""What the harness asks of a contender: one small subclass for each line in the tables. Standard library only.

A contender's description, ``benchmarks/contenders/<name>.py``, is read by the harness, where no contender's package is
installed: it imports its package inside its functions. Its app and tasks are another module beside it,
``<name>_app.py``, which only its workers and its producer import, in its own environment, with the repository's root as
the current directory and on PYTHONPATH. ``CONTENDERS`` in the description lists its instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Pool = Literal["async", "threads", "prefork"]

HEADLINE = frozenset(
    {"enqueue-one", "enqueue-100", "enqueue-bulk", "drain", "sleep-100", "sleep-1000", "round-trip", "idle"}
)
"""What every queue is asked to do; ``Contender.workloads`` takes away what it cannot, and adds from the rest."""

REST = frozenset(
    {
        "drain-2",  # two worker processes; also workers-1 to workers-8
        "threads",  # plain functions in threads, pool="threads"
        "burn",  # CPU-bound functions in two processes, pool="prefork"
        "load",  # a steady Poisson load
        "payload",  # payloads of 200 B to 100 kB, enqueued and drained
        "priorities",  # four queues with ten priorities
        "latency",  # a millisecond to Redis
        "workers",  # 1, 2, 4, 8 workers
        "backlog",  # 10 thousand to a million jobs wait
    }
)


@dataclass(frozen=True)
class Setup:
    """What a run asks of its workers. A contender that has no such choice takes its own."""

    url: str
    workload: str
    concurrency: int = 100
    workers: int = 1  # how many times the harness starts `command`
    pool: Pool = "async"
    queues: tuple[str, ...] = ("default",)
    hold_s: float = 2.0  # how long the task `hold` takes
    results: str = ""  # the database to which results go; empty where Redis keeps them


@dataclass(frozen=True)
class Left:
    """What Redis holds: after a drain it is (0, 0, all), or the run is marked."""

    waiting: int
    running: int
    results: int


class Contender:
    """One queue with one set of settings.

    Tasks have the names of `benchmarks.bodies`: ``noop``, ``plain``, ``nap``, ``nap_plain`` and ``burn``; with `places`
    ``work`` and ``hold`` too. The harness
    enqueues ``noop(sent, payload)``, ``plain(sent, payload)``, ``nap(sent)`` and ``burn(sent)``; a contender without
    coroutines registers ``plain`` as ``noop``, and ``nap_plain`` as ``nap``.

    The producer's functions are coroutine functions if ``asynchronous``, else plain ones, and 100 callers are 100
    threads. They run in a process of the contender's environment, under uvloop where that is installed, with BENCH_URL
    and BENCH_CONCURRENCY set, as the workers do, which have BENCH_RECORD as well.
    """

    name: ClassVar[str]
    environment: ClassVar[str]
    """Its requirements are ``benchmarks/requirements/<environment>.txt``; ``rqueue`` is the repository's own."""
    package: ClassVar[str]
    """The distribution whose version is recorded."""
    settings: ClassVar[str]
    """One sentence: the settings, the page of its docs that recommends them, when it acks, where results go."""
    workloads: ClassVar[frozenset[str]] = HEADLINE
    places: ClassVar[Mapping[str, str]] = {}
    """Where it keeps a job that is not done: patterns of keys, and what it means to be there. Whoever has some takes
    part in ``make bench-faults``. A job whose name, or whose record's id, is in none of them will not run any more."""
    is_supervised: ClassVar[bool] = False
    """Whether a worker has a process of its own that replaces those that run jobs."""
    store: ClassVar[str] = ""
    """Where its results go if not to its Redis: ``postgresql+asyncpg`` and the like, or ``redis`` for another one.
    Whoever has one takes part in ``make bench-results`` alone."""
    rows: ClassVar[str] = ""
    """SQL that counts the rows there of jobs that succeeded, and their distinct ids."""
    asynchronous: ClassVar[bool] = True
    rate: ClassVar[int]
    """No-ops a second to expect; it chooses how many jobs the first round has."""

    def command(self, setup: Setup) -> list[str]:
        """What follows the environment's python to start one worker: ``["-m", "celery", ...]``."""
        raise NotImplementedError

    def variables(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002  # most need none
        """Environment variables for workers and producer, beside BENCH_URL, BENCH_CONCURRENCY and BENCH_RECORD."""
        return {}

    def prepare(self, results: str) -> list[str]:  # noqa: ARG002
        """What follows the environment's python to make the tables of a fresh database; nothing if workers do it."""
        return []

    def unsettled(self, server: Any) -> int:
        """How many jobs wait or are claimed, by one or two quick commands of a redis-py client."""
        raise NotImplementedError

    def open(self, url: str) -> Any:
        """Connect the producer."""
        raise NotImplementedError

    def close(self) -> Any:
        """Disconnect it."""
        raise NotImplementedError

    def enqueue(self, task: str, sent: float, payload: str = "", **options: Any) -> Any:
        """Enqueue a job, and return a handle for `result` once Redis has confirmed it.

        An empty payload is not sent. The only options are ``queue`` and ``priority`` (1 to 10, 10 first), and only for
        a contender with ``priorities`` among its workloads.
        """
        raise NotImplementedError

    def enqueue_many(self, task: str, calls: list[tuple[float, str]]) -> Any:
        """Enqueue a job for each (sent, payload), the fastest way that it documents."""
        raise NotImplementedError

    def result(self, handle: Any, timeout: float) -> Any:
        """Wait for a job's result, the fastest way that it documents, and return it."""
        raise NotImplementedError

    def backlog(self, count: int) -> Any:
        """Have that many no-ops wait, as fast as can be: only with ``backlog`` among the workloads."""
        raise NotImplementedError

    def left(self) -> Any:
        """How many jobs wait, are claimed, and have a result, as `Left`. It may be slow."""
        raise NotImplementedError
