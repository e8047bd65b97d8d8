"""Enqueueing within a transaction of the caller's: a job is a row there, and a worker sends it after the commit.

Redis is not asked for anything: a producer whose Redis is away commits all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rqueue.client.job import Job, SyncJob
from rqueue.errors import ConfigError, MissingDependency
from rqueue.policy.clock import local_ms

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from rqueue.client.client import Client
    from rqueue.client.task import Signature

    AsyncTransaction = AsyncSession | AsyncConnection | async_scoped_session[Any]
    SyncTransaction = Session | Connection | scoped_session[Any]

R = TypeVar("R")

UNSENT_S: Final = 60.0
"""Who waits for a job that Redis does not know yet waits so long for it: a batch whose worker has died is taken over
by another one after half of that. What was rolled back is never known."""


async def enqueue_in(client: Client, session: AsyncTransaction, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
    """Write calls into the outbox; see :meth:`~rqueue.client.task.Task.enqueue_in`."""
    table = _table()
    table.check_transaction(session, is_async=True)
    if not signatures:
        return []
    jobs, rows = _rows(client, signatures)
    await table.add(session, rows)
    return jobs


def delay_in(client: Client, session: SyncTransaction, signature: Signature[R]) -> SyncJob[R]:
    """Write a call into the outbox from synchronous code; see :meth:`~rqueue.client.task.Task.delay_in`."""
    table = _table()
    table.check_transaction(session, is_async=False)
    (job,), rows = _rows(client, [signature])
    table.add_now(session, rows)
    return SyncJob(job, lambda function: client.portal().call(function))


def _rows(client: Client, signatures: Sequence[Signature[Any]]) -> tuple[list[Job[Any]], list[dict[str, Any]]]:
    if client.eager is not None:
        raise ConfigError(
            "a job of a transaction starts after its commit, which nothing here sees: not in eager mode. "
            "Test it with a worker: async with app.worker() as worker: await worker.drain()"
        )
    now = _now_ms(client)
    jobs: list[Job[Any]] = []
    rows: list[dict[str, Any]] = []
    for signature in signatures:
        # As the client's own enqueue, up to where that sends.
        queue, item = client._message(signature, now)  # noqa: SLF001
        if client.signals.is_used:
            client._publishing(client.signals.before_task_publish, signature, queue, item)  # noqa: SLF001
        jobs.append(Job(client, item.id, queue, unsent_s=UNSENT_S))
        rows.append(
            {
                "namespace": client.keys.namespace,
                "job_id": item.id,
                "queue": queue,
                "level": item.level,
                # Nobody knows when it is sent: from now on, not from then.
                "due": str(now + int(item.due[1:])) if item.due.startswith("+") else item.due,
                "message": item.message,
                "lock": item.lock,
                "created": datetime.fromtimestamp(now / 1000, UTC),
            }
        )
    return jobs, rows


def _now_ms(client: Client) -> int:
    """Redis's time where this loop has asked it for anything, else this machine's: it is not asked for the time."""
    try:
        return client.session().broker.clock.now_ms()
    except RuntimeError:  # no loop runs here
        return local_ms()


def _table() -> ModuleType:
    try:
        from rqueue.results.sql import outbox
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise MissingDependency("the outbox needs SQLAlchemy: pip install 'rqueue[sql]'") from None
    return outbox
