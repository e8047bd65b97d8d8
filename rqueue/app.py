"""``RQueue``: the app, which is a client that can also make workers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from rqueue.client.client import Client, Runner
from rqueue.client.options import Seconds, seconds
from rqueue.config import AppConfig, Limits, Queue, Results, WorkerConfig
from rqueue.environment import REDIS_COPY_S, Environment
from rqueue.errors import ConfigError
from rqueue.wire.keys import check_queue_name
from rqueue.wire.seal import Keyring

if TYPE_CHECKING:
    from rqueue.client.checkup.finding import Finding
    from rqueue.worker.worker import Worker

Durability = Literal["memory", "replicated", "fsync"]

_LIMITS, _WORKER = Limits(), WorkerConfig()


class RQueue(Client):
    """An asyncio-native task queue on Redis.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``redis+cluster://`` (``rediss+…`` and
            ``valkey…`` alike) or ``memory://``. Default: ``RQUEUE_URL``, else ``CELERY_BROKER_URL`` or
            ``CELERY_BROKER``, else ``redis://localhost:6379/0``.
        queues: the app's queues; what a worker without ``-Q`` serves. Default: one, ``default``.
        routes: task-name pattern -> queue; the first that matches counts.
        namespace: the first part of every key.
        max_message_bytes: a larger message is refused at enqueue.
        result_ttl: seconds a result is kept; 0 keeps none, None for ever. Where ``results`` names a store, that one
            keeps for ever what is to be kept for ever, and Redis a copy for an hour. Default: ``RQUEUE_RESULT_TTL``,
            else ``CELERY_RESULT_EXPIRES`` (whose 0 is None), else an hour.
        dead_max: dead letters kept for each queue.
        dead_ttl: seconds a dead letter is kept.
        enqueue_timeout: seconds that ``enqueue`` tries to reach Redis; at most 3600.
        results: a database that keeps what became of each job: its URL, ``postgresql+asyncpg://…`` or
            ``sqlite+aiosqlite:///…``, or another Redis than the broker's, or a :class:`~rqueue.config.Results`;
            ``"redis"`` is none: Redis alone keeps results. Default: ``RQUEUE_RESULTS``, else
            ``CELERY_RESULT_BACKEND``, else none.
        durability: when an enqueue is confirmed: once Redis has it in memory, once it is ``replicated``, or once it is
            on disk (``fsync``). Default: ``RQUEUE_DURABILITY``, else ``memory``.
        replicas: how many replicas must have it, if it is to be replicated.
        signing_keys: messages, schedules, results and requests to workers are signed with the first of these keys, and
            what none of them has signed is refused. 32 bytes each, or their base64. Default: ``RQUEUE_SIGNING_KEYS``.
        encryption_keys: the same, and they are encrypted. Default: ``RQUEUE_ENCRYPTION_KEYS``.
        allow_unsigned: take also what is not signed, while keys are rolled out. Default: ``RQUEUE_ALLOW_UNSIGNED``.
        eager: run each job where it is enqueued, through the same encoding; for tests.
        lifespan: a function of the app that gives an async context manager, or an async generator function: entered
            as a worker starts, before it takes a job, and left after its last one.

    Raises:
        ConfigError: an option is wrong, or a variable; the text names it.

    Attributes:
        variables: Celery's variables that it was set by.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        queues: Sequence[Queue | str] = (),
        routes: Mapping[str, str] | None = None,
        namespace: str = "rqueue",
        max_message_bytes: int = _LIMITS.max_message_bytes,
        result_ttl: Seconds | EllipsisType | None = ...,
        dead_max: int = _LIMITS.dead_max,
        dead_ttl: Seconds = _LIMITS.dead_ttl_s,
        enqueue_timeout: Seconds = _LIMITS.enqueue_timeout_s,
        results: Results | str | None = None,
        durability: Durability | None = None,
        replicas: int = _LIMITS.replicas,
        signing_keys: Sequence[str | bytes] | None = None,
        encryption_keys: Sequence[str | bytes] | None = None,
        allow_unsigned: bool | None = None,
        eager: bool = False,
        lifespan: Callable[[RQueue], AbstractAsyncContextManager[object] | AsyncIterator[object]] | None = None,
    ) -> None:
        environment = Environment(os.environ)
        endpoint = environment.endpoint(url)
        kept = environment.results(results, endpoint)
        limits = Limits(
            max_message_bytes=max_message_bytes,
            result_ttl_s=environment.result_ttl(result_ttl),
            copy_ttl_s=None if kept is None else REDIS_COPY_S,
            dead_max=dead_max,
            dead_ttl_s=seconds(dead_ttl, "dead_ttl"),
            enqueue_timeout_s=seconds(enqueue_timeout, "enqueue_timeout"),
            durability=os.environ.get("RQUEUE_DURABILITY", "memory") if durability is None else durability,
            replicas=replicas,
        )
        config = AppConfig(namespace, _named(queues), _pairs(routes), limits, kept)
        super().__init__(endpoint, config, Keyring.of(signing_keys, encryption_keys, allow_unsigned, os.environ))
        self.variables = tuple(environment.used)
        self.lifespan = _checked(lifespan)
        if eager:
            self.eager = _eagerly(self)

    def __repr__(self) -> str:
        return f"RQueue({self.endpoint.shown!r})"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def worker(
        self,
        queues: Sequence[str] = (),
        *,
        concurrency: int = _WORKER.concurrency,
        prefetch_multiplier: int = _WORKER.prefetch_multiplier,
        lease: Seconds = _WORKER.lease_s,
        shutdown_timeout: Seconds = _WORKER.shutdown_timeout_s,
        **more: Any,
    ) -> Worker:
        """A worker for this app, to be used as ``async with app.worker() as worker``.

        Args:
            queues: the queues it serves; default all of the app's.
            concurrency: jobs at once.
            prefetch_multiplier: it holds at most this many times the concurrency.
            lease: seconds it owns its jobs without a heartbeat.
            shutdown_timeout: seconds that running jobs are given when it stops.
            **more: the other fields of :class:`~rqueue.config.WorkerConfig`.

        Raises:
            ConfigError: an option is wrong.
        """
        # The one import that goes up when called: a web process never loads the worker.
        from rqueue.worker.worker import Worker

        if isinstance(queues, str):
            raise ConfigError(f"queues {queues!r}: a list of queues' names")
        config = WorkerConfig(
            queues=tuple(queues) or tuple(self.config.queues),
            concurrency=concurrency,
            prefetch_multiplier=prefetch_multiplier,
            lease_s=seconds(lease, "lease"),
            shutdown_timeout_s=seconds(shutdown_timeout, "shutdown_timeout"),
            **more,
        )
        return Worker(self, config)

    async def doctor(self, *, fix: bool = False) -> list[Finding]:
        """Look for what is wrong with Redis, the queues and the workers: ``rqueue doctor``.

        Args:
            fix: do what is safe about it; what was done is in the findings.

        Returns:
            The findings, the worst first; a check that found nothing has one of the level OK.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        # An operator's question: neither a web process nor a worker loads its answers.
        from rqueue.client.checkup.doctor import Doctor

        doctor = Doctor(self)
        findings = await doctor.examine()
        if not fix:
            return findings
        from rqueue.worker.reaper import for_operators

        return await doctor.fix(findings, for_operators(self, doctor.queues).reap)


def _eagerly(app: RQueue) -> Runner:
    from rqueue.worker.eager import EagerRunner

    return EagerRunner(app).run


def _checked(lifespan: Any) -> Any:
    if lifespan is not None and not callable(lifespan):
        raise ConfigError(f"lifespan {lifespan!r}: a function of the app that gives an async context manager")
    return lifespan


def _named(queues: Sequence[Queue | str]) -> dict[str, Queue]:
    if isinstance(queues, str) or not isinstance(queues, Iterable | None):
        raise ConfigError(f"queues {queues!r}: a list of queues")
    named: dict[str, Queue] = {}
    for given in queues or ("default",):
        queue = given if isinstance(given, Queue) else Queue(given)
        if queue.name in named:
            raise ConfigError(f"queue {queue.name!r}: named twice")
        named[queue.name] = queue
    return named


def _pairs(routes: Any) -> tuple[tuple[str, str], ...]:
    """Routes in their order, checked."""
    if not isinstance(routes, Mapping | None) or not all(isinstance(pattern, str) for pattern in routes or ()):
        raise ConfigError(
            f"routes {routes!r}: queues by patterns of tasks' names, for example {{'*.email.*': 'email'}}"
        )
    return tuple((pattern, check_queue_name(queue)) for pattern, queue in (routes or {}).items())
