"""``rqueue worker``: one worker process for an app."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

import typer

from rqueue.cli import options
from rqueue.cli.logs import LogFormat, LogLevel, configure
from rqueue.cli.lookup import find_app
from rqueue.cli.process import WorkerProcess
from rqueue.config import WorkerConfig
from rqueue.errors import ConfigError
from rqueue.log import event

_DEFAULTS: Final = WorkerConfig()
_GREEN: Final = ("gevent", "eventlet")
_LATER: Final = ("threads", "prefork", "processes", "solo", "custom")


def check_pool(name: str) -> str:
    """Return the pool's name.

    Raises:
        typer.BadParameter: it is not there; the text says what to use.
    """
    if name == "async":
        return name
    if name in _GREEN:
        raise typer.BadParameter(
            f"{name} is not needed: in the pool 'async' coroutines share one event loop, plain functions have threads."
        )
    if name in _LATER:
        raise typer.BadParameter(f"{name} is not available in this version; use 'async'.")
    raise typer.BadParameter(f"{name!r} is not a pool; use 'async'.")


Queues = Annotated[
    str | None,
    typer.Option("-Q", "--queues", envvar="RQUEUE_QUEUES", help="Queues to serve, by commas. Default: the app's."),
]
Concurrency = Annotated[int, typer.Option("-c", "--concurrency", envvar="RQUEUE_CONCURRENCY", help="Jobs at once.")]
Prefetch = Annotated[
    int,
    typer.Option(
        "--prefetch-multiplier",
        envvar="RQUEUE_PREFETCH_MULTIPLIER",
        help="It holds at most this many times the concurrency, running jobs included.",
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
Pool = Annotated[str, typer.Option("--pool", "-P", envvar="RQUEUE_POOL", callback=check_pool, help="Only 'async'.")]


def worker(
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    queues: Queues = None,
    concurrency: Concurrency = _DEFAULTS.concurrency,
    prefetch_multiplier: Prefetch = _DEFAULTS.prefetch_multiplier,
    lease: Lease = _DEFAULTS.lease_s,
    shutdown_timeout: ShutdownTimeout = _DEFAULTS.shutdown_timeout_s,
    loglevel: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
    pool: Pool = "async",  # noqa: ARG001 (checked by its callback; there is only one)
) -> None:
    """Run a worker for an app, until SIGTERM or SIGINT."""
    served = find_app(app, url, namespace)
    if served.endpoint.is_memory:
        raise ConfigError(f"{served!r}: memory:// is in one process only; a worker process needs a Redis")
    make_worker = partial(
        served.worker,
        queue_names(queues),
        concurrency=concurrency,
        prefetch_multiplier=prefetch_multiplier,
        lease=lease,
        shutdown_timeout=shutdown_timeout,
    )
    make_worker()  # a wrong option is refused here, before anything is started
    configure(loglevel, log_format)
    for name in set(queue_names(queues)) - set(served.config.queues):
        event(logging.WARNING, "not one of the app's queues", queue=name, queues=",".join(served.config.queues))
    raise typer.Exit(WorkerProcess(make_worker, served.endpoint.shown).run())


def queue_names(text: str | None) -> Sequence[str]:
    """The names in ``email,reports``."""
    return () if text is None else tuple(name for part in text.split(",") if (name := part.strip()))
