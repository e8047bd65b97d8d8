"""``rqueue worker``: a supervisor with its worker processes, or one worker alone (``--pool solo``)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from rqueue.broker.endpoint import Endpoint
from rqueue.cli import options
from rqueue.cli.logs import LogFormat, LogLevel
from rqueue.cli.process import WorkerProcess, load
from rqueue.config import POOLS, WorkerConfig
from rqueue.environment import Environment
from rqueue.errors import ConfigError
from rqueue.supervisor.settings import FleetSettings, ProcessSettings
from rqueue.supervisor.takeover import take_over
from rqueue.wire.keys import Keys
from rqueue.worker.worker import Worker

_DEFAULTS: Final = WorkerConfig()
_GREEN: Final = ("gevent", "eventlet")
_CONCURRENCY: Final = {"async": 100, "threads": 10, "prefork": os.cpu_count() or 1, "solo": 1}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG])(i?)B", re.IGNORECASE)


def check_pool(name: str | None) -> str | None:
    """Return the pool's name, or None where none is given.

    Raises:
        typer.BadParameter: it is not there; the text says what to use.
    """
    if name is None or name in POOLS:
        return name
    if name == "processes":  # Celery's other name for it
        return "prefork"
    if name in _GREEN:
        raise typer.BadParameter(
            f"{name} is not needed: in the pool 'async' coroutines share one event loop, plain functions have threads."
        )
    raise typer.BadParameter(f"{name!r} is not a pool; use one of {', '.join(POOLS)}.")


def parse_size(text: str | None) -> int | None:
    """``200MB`` as bytes; MB are decimal, MiB binary.

    Raises:
        typer.BadParameter: it is no size.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r}: a size with its unit, as 200MB or 1.5GB.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMG".index(found[2].upper()))


def parse_autoscale(text: str | None) -> tuple[int, int] | None:
    """``8,2`` as most and fewest.

    Raises:
        typer.BadParameter: it is no such pair.
    """
    if text is None:
        return None
    try:
        most, fewest = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: the most and the fewest, as 8,2.") from None
    return most, fewest


Queues = Annotated[
    str | None,
    typer.Option("-Q", "--queues", envvar="RQUEUE_QUEUES", help="Queues to serve, by commas. Default: the app's."),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "-c",
        "--concurrency",
        envvar="RQUEUE_CONCURRENCY",
        help="Jobs at once in each process: 100, with threads 10. With prefork: processes, one for each core.",
    ),
]
Prefetch = Annotated[
    int | None,
    typer.Option(
        "--prefetch-multiplier",
        envvar="RQUEUE_PREFETCH_MULTIPLIER",
        help="It holds at most this many times the concurrency, running jobs included. 4; with prefork and solo 1.",
    ),
]
Lease = Annotated[
    float,
    typer.Option(
        "--lease",
        envvar="RQUEUE_LEASE",
        metavar="SECONDS",
        help="How long it owns its jobs without a heartbeat: after that, others take them.",
    ),
]
ShutdownTimeout = Annotated[
    float,
    typer.Option(
        "--shutdown-timeout",
        envvar="RQUEUE_SHUTDOWN_TIMEOUT",
        metavar="SECONDS",
        help="How long running jobs may go on after the first SIGTERM or SIGINT; the second one stops at once.",
    ),
]
Level = Annotated[
    LogLevel, typer.Option("-l", "--loglevel", envvar="RQUEUE_LOGLEVEL", case_sensitive=False, help="What is logged.")
]
Format = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar="RQUEUE_LOG_FORMAT", case_sensitive=False, help="For people, or for machines."),
]
Pool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        "-P",
        envvar="RQUEUE_POOL",
        callback=check_pool,
        help="Where jobs run: async (the default), threads, prefork, solo.",
    ),
]
Processes = Annotated[
    int | None, typer.Option("--processes", envvar="RQUEUE_PROCESSES", min=1, help="Worker processes. Default: 1.")
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", envvar="RQUEUE_TIME_LIMIT", metavar="SECONDS", help="A job that takes longer ends."),
]
SoftTimeLimit = Annotated[
    float | None,
    typer.Option(
        "--soft-time-limit",
        envvar="RQUEUE_SOFT_TIME_LIMIT",
        metavar="SECONDS",
        help="After so long SoftTimeLimitExceeded is raised inside the job.",
    ),
]
MaxTasks = Annotated[
    int | None,
    typer.Option(
        "--max-tasks-per-child",
        envvar="RQUEUE_MAX_TASKS_PER_CHILD",
        help="A process starts no more jobs than this; another takes its place in time.",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory-per-child",
        envvar="RQUEUE_MAX_MEMORY_PER_CHILD",
        metavar="SIZE",
        help="A process that is larger (200MB, 1.5GB) starts no job; another takes its place in time.",
    ),
]
AutoscaleOption = Annotated[
    str | None,
    typer.Option(
        "--autoscale",
        envvar="RQUEUE_AUTOSCALE",
        metavar="MAX,MIN",
        help="Jobs at once in each process, or with prefork processes, follow the backlog between the two.",
    ),
]
MaxLoopStall = Annotated[
    float,
    typer.Option(
        "--max-loop-stall",
        envvar="RQUEUE_MAX_LOOP_STALL",
        metavar="SECONDS",
        help="A process whose event loop has not moved for so long is replaced.",
    ),
]
Reload = Annotated[
    bool, typer.Option("--reload", envvar="RQUEUE_RELOAD", help="Start again when a Python file changes (development).")
]


def worker(
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    results: options.Results = None,
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    pool: Pool = None,
    autoscale: AutoscaleOption = None,
    prefetch_multiplier: Prefetch = None,
    time_limit: TimeLimit = None,
    soft_time_limit: SoftTimeLimit = None,
    max_tasks_per_child: MaxTasks = None,
    max_memory_per_child: MaxMemory = None,
    lease: Lease = _DEFAULTS.lease_s,
    shutdown_timeout: ShutdownTimeout = _DEFAULTS.shutdown_timeout_s,
    max_loop_stall: MaxLoopStall = _DEFAULTS.max_loop_stall_s,
    reload: Reload = False,
    loglevel: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Run workers for an app, until SIGTERM or SIGINT.

    Where an option and its variable are absent, Celery's variable of the same meaning counts (CELERY_WORKER_POOL, …).
    """
    variables = Environment(os.environ)
    pool = pool or variables.pool() or "async"
    concurrency = variables.concurrency(pool) if concurrency is None else concurrency
    prefetch_multiplier = variables.prefetch_multiplier() if prefetch_multiplier is None else prefetch_multiplier
    time_limit, soft_time_limit = variables.time_limits(time_limit, soft_time_limit)
    max_tasks_per_child = variables.max_tasks(pool) if max_tasks_per_child is None else max_tasks_per_child
    is_one_each = pool in ("prefork", "solo")
    wanted, scale = concurrency if concurrency is not None else _CONCURRENCY[pool], parse_autoscale(autoscale)
    usual_prefetch = 1 if is_one_each else _DEFAULTS.prefetch_multiplier
    given = {
        "queues": queue_names(queues),
        "pool": pool,
        "concurrency": 1 if is_one_each else scale[1] if scale else wanted,
        "autoscale": None if is_one_each else scale,
        "prefetch_multiplier": usual_prefetch if prefetch_multiplier is None else prefetch_multiplier,
        "time_limit_s": time_limit,
        "soft_time_limit_s": soft_time_limit,
        "max_tasks": max_tasks_per_child,
        "max_memory_bytes": parse_size(max_memory_per_child),
        "lease_s": lease,
        "shutdown_timeout_s": shutdown_timeout,
        "max_loop_stall_s": max_loop_stall,
    }
    process = ProcessSettings(
        app, url, namespace, given, loglevel, log_format, variables=variables.used, results=results
    )
    is_prefork = pool == "prefork"
    fleet = FleetSettings(process, wanted if is_prefork else processes or 1, scale if is_prefork else None, reload)
    _check(fleet, wanted, scale, processes)
    for note in variables.notes:
        print(f"rqueue: {note}", file=sys.stderr)  # noqa: T201 - as every command says it
    if pool == "solo" or os.name != "posix":
        raise typer.Exit(_alone(process))
    take_over(fleet)


def _check(fleet: FleetSettings, wanted: int, scale: tuple[int, int] | None, processes: int | None) -> None:
    """Refuse what can be seen to be wrong before anything is started.

    Raises:
        ConfigError: it is.
    """
    process, pool = fleet.process, fleet.process.worker["pool"]
    process.config()
    WorkerConfig(concurrency=wanted, autoscale=scale)  # with prefork they are about processes
    if process.url is not None:
        Endpoint(process.url)
    if process.namespace is not None:
        Keys(process.namespace)
    if pool == "prefork" and processes is not None:
        raise ConfigError(f"processes {processes}: with the pool prefork -c says how many processes there are")
    if pool == "solo":
        if (wanted, fleet.processes) != (1, 1):
            raise ConfigError("the pool solo runs one job at a time in one process: -c and --processes are 1")
        if scale or fleet.reload or process.worker["max_tasks"] or process.worker["max_memory_bytes"]:
            raise ConfigError("the pool solo has no child processes: nothing renews, reloads or scales them")


def _alone(process: ProcessSettings) -> int:
    """One worker in this process, without a supervisor; the exit code."""
    served, config = load(process)
    return WorkerProcess(lambda: Worker(served, config), served.endpoint.shown, config.pool).run()


def queue_names(text: str | None) -> Sequence[str]:
    """The names in ``email,reports``."""
    return () if text is None else tuple(name for part in text.split(",") if (name := part.strip()))
