"""What can be configured, with its units and why each default is what it is.

Values are checked where they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeAlias

from rqueue.errors import ConfigError
from rqueue.wire.keys import check_queue_name
from rqueue.wire.message import check_priority

DURABILITIES: Final = ("memory", "replicated", "fsync")
POOLS: Final = ("async", "threads", "prefork", "solo")


Age: TypeAlias = float | timedelta | str
"""Seconds, or a timedelta, or a text such as ``90s``, ``15m``, ``3h`` or ``7d``."""

SHORTEST_RETENTION_S: Final = 3600
"""What goes sooner is no history, and Redis keeps results itself for so long."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S: Final = 1e10

MOST_SLOTS: Final = 1_000_000
"""Jobs at once in a worker, at most: more than any process can run, and a number that every JSON can carry."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the app.

    Args:
        name: 1 to 64 of ``A-Z a-z 0-9 . _ -``.
        priority: 1 lowest to 10 highest: where the queue's jobs without a priority rank among the others.
    """

    name: str
    priority: int = 5

    def __post_init__(self) -> None:
        check_queue_name(self.name)
        check_priority(self.priority)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is stored, and how safely it is.

    Args:
        max_message_bytes: a larger message is refused at enqueue, a larger result fails its job. 1 MiB: Redis is
            memory, and a queue is no place for files.
        result_ttl_s: seconds a result is kept; 0 keeps none, None for ever. An hour, since whoever wants a result
            asks soon.
        copy_ttl_s: seconds for which Redis keeps its copy of what a result store keeps for ever; None: there is no
            store, and it is Redis that keeps it for ever.
        dead_max: dead letters kept for each queue; the oldest go first.
        dead_ttl_s: seconds a dead letter is kept; 14 days outlast a holiday.
        enqueue_timeout_s: how long ``enqueue`` tries to reach Redis, or to learn what became of a lost reply; Redis
            remembers a batch for twice as long. At most an hour: what waits, waits in the producer's memory.
        durability: when an enqueue is confirmed. ``memory``: Redis has it; ``replicated``: so have its ``replicas``;
            ``fsync``: so has its disk. ``memory``, since the others cost a wait, and a server that is set up for it.
        replicas: how many replicas must have it.
    """

    max_message_bytes: int = 1_048_576
    result_ttl_s: float | None = 3600.0
    copy_ttl_s: float | None = None
    dead_max: int = 10_000
    dead_ttl_s: float = 14 * 86_400.0
    enqueue_timeout_s: float = 10.0
    durability: str = "memory"
    replicas: int = 1

    def __post_init__(self) -> None:
        whole("max_message_bytes", self.max_message_bytes, 1)
        check_ttl("result_ttl", self.result_ttl_s)
        check_ttl("copy_ttl", self.copy_ttl_s)
        whole("dead_max", self.dead_max, 1)
        positive("dead_ttl", self.dead_ttl_s)
        positive("enqueue_timeout", self.enqueue_timeout_s, maximum=3600)
        if self.durability not in DURABILITIES:
            raise ConfigError(f"durability {self.durability!r}: one of {', '.join(DURABILITIES)}")
        whole("replicas", self.replicas, 1)

    def in_redis_s(self, ttl_s: float | None) -> float | None:
        """Seconds for which Redis keeps a result that is kept for so long; None for ever."""
        return self.copy_ttl_s if ttl_s is None else ttl_s


@dataclass(frozen=True, slots=True)
class Results:
    """Where results are kept beside Redis, and for how long.

    Args:
        url: ``postgresql+asyncpg://``, ``postgresql+psycopg://``, ``sqlite+aiosqlite:///file`` (the extra ``sql``), or
            another Redis: ``redis://``.
        retention: seconds, or a timedelta, or an age such as ``30d``, after which a worker removes rows; None never.
        keep_failures: rows in state FAILURE are not removed by ``retention``.
        args_bytes: a job's arguments are cut to this many bytes of JSON. 4 KiB: they are kept to be read by people.
        spool_bytes: while the store is away, rows wait in Redis, up to this many bytes for each queue. 256 MiB: some
            hundred thousand ordinary jobs.
        outbox: the database of :meth:`~rqueue.client.task.Task.enqueue_in`'s table. Default: ``url``.
    """

    url: str = field(repr=False)  # it has a password, as has the other one
    retention: Age | None = None
    keep_failures: bool = False
    args_bytes: int = 4096
    spool_bytes: int = 256 * 1024 * 1024
    outbox: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if "://" not in str(self.url):
            raise ConfigError("results: not a URL; give for example postgresql+asyncpg://localhost/app")
        if self.retention is not None and age_s(self.retention, "retention") < SHORTEST_RETENTION_S:
            raise ConfigError(f"retention {self.retention!r}: an hour or more, such as 30d; None keeps rows for ever")
        whole("args_bytes", self.args_bytes, 0)
        whole("spool_bytes", self.spool_bytes, 0)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How one worker process works.

    Args:
        queues: the queues it serves; empty means all of the app's.
        concurrency: jobs at once. 100, since coroutines mostly wait.
        prefetch_multiplier: it holds at most this many times the concurrency, running jobs included. 1 means only
            what can start now. 4 keeps short jobs flowing; the measured pace keeps long ones from being hoarded.
        lease_s: seconds a worker owns its jobs without a heartbeat. 15: a lost host's jobs are back within 25 s, and
            a stalled network of a few seconds costs nobody anything.
        shutdown_timeout_s: seconds that running jobs are given at the first SIGTERM. 30 is what most platforms give.
        max_deliveries: a job that has cost this many workers is a dead letter.
        max_loop_stall_s: when the event loop has not moved for so long, the heart stops and the jobs go elsewhere.
        unknown_task_s: how long a job whose task nobody here knows is put off before it is a dead letter; during a
            deployment another worker may know it.
        unknown_retry_s: seconds between two tries of such a job.
        block_s: longest wait at the server for a new job; a third of the lease if that is less.
        pool: where jobs run. ``async``: coroutines on the event loop, plain functions in threads; ``threads`` the
            same, meant for plain functions; ``prefork``: one at a time in the main thread, the event loop in another;
            ``solo``: one at a time in the main thread, which is the event loop's.
        time_limit_s: a job that runs for longer is ended; a task's own limit goes before it. None is no limit.
        soft_time_limit_s: after so long SoftTimeLimitExceeded is raised inside the task. None is no limit.
        max_tasks: the worker starts no more jobs than this in its life, and says that it is spent. None is no limit.
        max_memory_bytes: while the process is larger than this it starts no job, and says that it is spent.
        autoscale: (most, fewest) jobs at once: the slots follow the backlog between the two. None: they stay.
    """

    queues: Sequence[str] = ()
    concurrency: int = 100
    prefetch_multiplier: int = 4
    lease_s: float = 15.0
    shutdown_timeout_s: float = 30.0
    max_deliveries: int = 3
    max_loop_stall_s: float = 300.0
    unknown_task_s: float = 300.0
    unknown_retry_s: float = 10.0
    block_s: float = 4.0
    pool: str = "async"
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    max_tasks: int | None = None
    max_memory_bytes: int | None = None
    autoscale: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.queues, str | bytes) or not isinstance(self.queues, Sequence):
            raise ConfigError(f"queues {self.queues!r}: a list of queues' names")
        for queue in self.queues:
            check_queue_name(queue)
        whole("concurrency", self.concurrency, 1, MOST_SLOTS)
        if self.prefetch_multiplier == 0:
            raise ConfigError(
                "prefetch_multiplier 0: there is no 'no limit' here (Celery's 0); 1 holds only what can start now"
            )
        whole("prefetch_multiplier", self.prefetch_multiplier, 1, MOST_SLOTS)
        positive("lease", self.lease_s, minimum=0.01)
        whole("max_deliveries", self.max_deliveries, 1)
        positive("block", self.block_s, minimum=0.001)
        for name in ("max_loop_stall", "unknown_task", "unknown_retry"):
            positive(name, getattr(self, f"{name}_s"))
        stop: object = self.shutdown_timeout_s
        if isinstance(stop, bool) or not isinstance(stop, int | float) or not stop >= 0:
            raise ConfigError(f"shutdown_timeout {stop!r}: seconds, 0 or more")
        self._check_pool()

    def _check_pool(self) -> None:
        if self.pool not in POOLS:
            raise ConfigError(f"pool {self.pool!r}: one of {', '.join(POOLS)}")
        if self.pool in ("prefork", "solo") and self.concurrency != 1:
            raise ConfigError(f"concurrency {self.concurrency!r}: a process of the pool {self.pool!r} runs one job")
        check_time_limits(self.time_limit_s, self.soft_time_limit_s)
        for name in ("max_tasks", "max_memory_bytes"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        if self.autoscale is not None:
            pair: Any = self.autoscale
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise ConfigError(f"autoscale {pair!r}: a pair: most and fewest jobs at once")
            most, fewest = pair
            whole("autoscale, fewest", fewest, 1)
            whole("autoscale, most", most, fewest, MOST_SLOTS)

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two renewals of the lease: two may fail before it runs out."""
        return self.lease_s / 3

    @property
    def longest_block_s(self) -> float:
        """Seconds a blocking pop may wait."""
        return min(self.block_s, self.lease_s / 3)


@dataclass(frozen=True, slots=True)
class AppConfig:
    """What an app knows of its queues.

    Args:
        namespace: the first part of every key.
        queues: the app's queues by name.
        routes: (task-name pattern, queue) pairs; the first that matches counts.
        limits: bounds on what is stored.
        results: where results are kept beside Redis; None: nowhere.
    """

    namespace: str = "rqueue"
    queues: Mapping[str, Queue] = field(default_factory=dict)
    routes: Sequence[tuple[str, str]] = ()
    limits: Limits = field(default_factory=Limits)
    results: Results | None = None

    def queue(self, name: str) -> Queue:
        """The queue of that name; one that was not declared has the default priority."""
        return self.queues.get(name) or Queue(name)


def positive(name: str, value: object, maximum: float | None = None, minimum: float = 0) -> None:
    """Refuse what is not a positive number.

    Raises:
        ConfigError: it is not, or is over the maximum.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0 or value == float("inf"):  # type: ignore[operator]
        raise ConfigError(f"{name} {value!r}: a number above 0")
    if value < minimum:  # type: ignore[operator]
        raise ConfigError(f"{name} {value!r}: at least {minimum}")
    if maximum is not None and value > maximum:  # type: ignore[operator]
        raise ConfigError(f"{name} {value!r}: at most {maximum}")


def whole(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Refuse what is not a whole number from the minimum, to the maximum where there is one.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} {value!r}: a whole number from {minimum}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{name} {value!r}: a whole number from {minimum} to {maximum:,}")


def age_s(age: Age, name: str = "age") -> float:
    """An age in seconds.

    Raises:
        ConfigError: it is none, or longer than three centuries; the text has the name.
    """
    given: object = age.total_seconds() if isinstance(age, timedelta) else age
    if isinstance(given, str):
        number, unit = (given[:-1], given[-1]) if given[-1:] in _UNITS else (given, "s")
        try:
            given = float(number) * _UNITS[unit]
        except ValueError:
            given = None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < _LONGEST_S:
        raise ConfigError(f"{name} {age!r}: write it as 90s, 15m, 3h or 7d")
    return float(given)


def check_time_limits(limit_s: float | None, soft_s: float | None) -> None:
    """Refuse limits that are no numbers above 0, and a soft limit that is not below the hard one.

    Raises:
        ConfigError: they are.
    """
    for name, value in (("time_limit", limit_s), ("soft_time_limit", soft_s)):
        if value is not None:
            positive(name, value)
    if limit_s is not None and soft_s is not None and soft_s >= limit_s:
        raise ConfigError(f"soft_time_limit {soft_s!r}: below the time_limit, which is {limit_s!r}")


def check_ttl(name: str, value: object) -> None:
    """Refuse what is not a time to live: None (for ever), 0 (kept not at all) or seconds.

    Raises:
        ConfigError: it is not.
    """
    if value is None or (value == 0 and not isinstance(value, bool)):
        return
    positive(name, value)
