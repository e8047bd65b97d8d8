"""What a supervisor needs to know, and what it tells each worker process to begin with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rqueue.config import WorkerConfig


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How one worker process works; travels as JSON.

    Args:
        app: ``module:attribute``, or None to look in the usual places.
        url, namespace, results: take the place of the app's own, when given.
        worker: the fields of :class:`~rqueue.config.WorkerConfig` that differ from their defaults.
        loglevel, log_format: as on the command line.
        standby: claim nothing until it is told to take another one's place.
        variables: Celery's variables that gave the worker settings, for the log.
    """

    app: str | None = None
    url: str | None = field(default=None, repr=False)  # it may hold a password
    namespace: str | None = None
    worker: Mapping[str, Any] = field(default_factory=dict)
    loglevel: str = "info"
    log_format: str = "text"
    standby: bool = False
    variables: Sequence[str] = field(default_factory=list)
    results: str | None = field(default=None, repr=False)

    def config(self) -> WorkerConfig:
        """The worker's settings.

        Raises:
            ConfigError: one is wrong.
        """
        given = dict(self.worker)
        if given.get("autoscale") is not None:
            given["autoscale"] = tuple(given["autoscale"])
        return WorkerConfig(**given)


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How the processes are kept.

    Args:
        process: what each is told.
        processes: how many there are.
        autoscale: (most, fewest) processes, for the pool ``prefork``; None: as many as ``processes``.
        reload: start them again when a Python file in the working directory changes.
        command: what is started, with the numbers of two file descriptors after it.
    """

    process: ProcessSettings
    processes: int = 1
    autoscale: tuple[int, int] | None = None
    reload: bool = False
    command: Sequence[str] = (sys.executable, "-m", "rqueue.cli.child")
