"""What became of a job: Redis says so, and of a job that Redis does not know (any more) the result store.

Redis goes first: an id that its caller chose may be alive there again, and in the store is what became of its job
before. What is asked of the store costs a job that is known to Redis nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from rqueue.broker.broker import Known
from rqueue.client.job import JobInfo
from rqueue.client.listener import is_abandoned
from rqueue.errors import BrokerError, JobNotFound, WaitTimeout
from rqueue.results.row import Row
from rqueue.wire.keys import QueueKeys
from rqueue.wire.record import DROPPED, Failure, Record, decode_record, moved_to
from rqueue.wire.seal import open_record
from rqueue.wire.state import FINAL, State

if TYPE_CHECKING:
    from rqueue.client.client import Client

MOST_MOVES: Final = 1000
"""A job is followed through so many queues: each of its moves takes a claim, so none that is alive gets there."""


async def locate(client: Client, job_id: str, queue: str | None = None) -> tuple[QueueKeys, Known]:
    """Where Redis knows a job; without its queue, all queues are asked at once. One that has moved is followed.

    Raises:
        JobNotFound: Redis does not know it.
    """
    names = [queue] if queue is not None else await client.session().broker.queues()
    for _ in range(MOST_MOVES):
        keys, known = await _find(client, job_id, names)
        moved = moved_to(known.record) if known.record is not None and not known.is_alive else None
        if moved is None:
            return keys, known
        names = [moved]
    raise JobNotFound(job_id)


async def wait(client: Client, job_id: str, queue: str | None, timeout: float | None, unsent_s: float = 0) -> bytes:
    """The final record of a job; see :meth:`~rqueue.client.job.Job.result`.

    Args:
        client: the app.
        job_id: its id.
        queue: its queue, if it is known.
        timeout: seconds to wait; None waits as long as the job is known.
        unsent_s: seconds for which Redis may not know it yet.
    """
    if timeout is not None and timeout <= 0:
        return await _look(client, job_id, queue)
    try:
        async with asyncio.timeout(timeout):
            try:
                record = await _watch(client, job_id, queue, unsent_s)
            except JobNotFound:
                return record_of(await _row(client, job_id, queue))
            return await _whole(client, job_id, queue, record)
    except TimeoutError:
        raise WaitTimeout(f"job {job_id} had not ended after {timeout:g} s; it goes on") from None


async def info(client: Client, job_id: str, queue: str | None) -> JobInfo:
    """What is known of a job; see :meth:`~rqueue.client.job.Job.info`."""
    try:
        keys, known = await locate(client, job_id, queue)
    except JobNotFound:
        return info_of(await _row(client, job_id, queue))
    record = None if known.record is None else _opened(client, keys, job_id, known.record)
    is_dead = known.is_dead and not known.is_alive
    if record is not None and not known.is_alive:
        record = await _whole(client, job_id, queue, record)
    elif record is None and is_dead and client.config.results is not None:
        # Dead letters outlive their records. The letter alone says that it failed, and not why.
        row = await client.session().store().find(job_id, queue)
        if row is not None and row.state == State.FAILURE:
            return replace(info_of(row), is_dead=True)
    return JobInfo.of(job_id, keys.name, record, is_dead=is_dead)


def record_of(row: Row) -> bytes:
    """A row as the record that Redis had of the job."""
    failure = None
    if row.error is not None:
        kind, _, message = row.error.partition(": ")
        failure = Failure(kind, message, row.traceback)
    about: dict[str, Any] = {
        "task": row.task,
        "worker": row.worker,
        "retries": max(0, row.attempts - 1) or None,
        "losses": row.losses or None,
        "enqueued": row.enqueued,
        "started": row.started,
        "finished": row.finished,
        "parent_id": row.parent_id,
        "root_id": row.root_id,
        "history": None if row.history is None else orjson.Fragment(row.history),
    }
    result = None if row.result is None else row.result.encode()
    return Record(State(row.state), result, failure, about).encode()


def info_of(row: Row) -> JobInfo:
    """What a row says of its job."""
    return replace(JobInfo.of(row.id, row.queue, record_of(row)), attempts=row.attempts)


async def _look(client: Client, job_id: str, queue: str | None) -> bytes:
    """The final record as it is now."""
    try:
        keys, known = await locate(client, job_id, queue)
    except JobNotFound:
        return record_of(await _row(client, job_id, queue))
    if known.record is not None and decode_record(known.record)["state"].is_final:
        return await _whole(client, job_id, queue, _opened(client, keys, job_id, known.record))
    if known.is_dead and not known.is_alive and client.config.results is not None:
        return record_of(await _row(client, job_id, queue))  # its record is no longer kept in Redis
    raise WaitTimeout(f"job {job_id} has not ended yet; it goes on")


async def _watch(client: Client, job_id: str, queue: str | None, unsent_s: float) -> bytes:
    """The final record, when Redis has it."""
    keys = client.keys.queue(queue) if queue is not None else (await locate(client, job_id))[0]
    for _ in range(MOST_MOVES):
        record = await client.session().listener.wait(keys, job_id, unsent_s)
        if (moved := moved_to(record)) is None:
            return _opened(client, keys, job_id, record)
        keys = client.keys.queue(moved)
    raise JobNotFound(job_id)


async def _whole(client: Client, job_id: str, queue: str | None, record: bytes) -> bytes:
    """The record, with what a full Redis did not keep of it, where the store did."""
    if client.config.results is None or not record.endswith(DROPPED):
        return record
    row = await client.session().store().find(job_id, queue)
    return record if row is None or row.state != decode_record(record)["state"] else record_of(row)


async def _row(client: Client, job_id: str, queue: str | None) -> Row:
    """What the store knows of a job that has ended.

    Raises:
        JobNotFound: nothing, or the app has no store; or it was to be retried, and Redis does not know it: it is lost.
        StoreUnavailable: it could not be asked.
    """
    if client.config.results is None:
        raise JobNotFound(job_id)
    row = await client.session().store().find(job_id, queue)
    if row is None or row.state not in FINAL:
        raise JobNotFound(job_id)
    return row


def _opened(client: Client, keys: QueueKeys, job_id: str, record: bytes) -> bytes:
    return open_record(client.keyring, keys.main, job_id, record)


async def _find(client: Client, job_id: str, names: Sequence[str]) -> tuple[QueueKeys, Known]:
    broker = client.session().broker
    pairs = [(client.keys.queue(name), job_id) for name in names]
    answers = await broker.known(pairs)
    for answer in answers:
        if isinstance(answer, BrokerError):
            raise answer
    found = [
        (keys, known)
        for (keys, _), known in zip(pairs, answers, strict=True)
        if isinstance(known, Known)
        and (known.is_alive or known.is_dead or (known.record is not None and not is_abandoned(known)))
    ]
    if not found:
        raise JobNotFound(job_id)
    return max(found, key=lambda place: place[1].is_alive)
