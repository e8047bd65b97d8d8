"""Runs jobs where they are enqueued, through the same encoding and the same judgement, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rqueue.broker.broker import Enqueued
from rqueue.client.client import Client
from rqueue.client.resources import ACTIVE, Resources
from rqueue.config import WorkerConfig
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import Call, Message
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.judge import Judge
from rqueue.worker.outcome import Ack, Bury, Defer
from rqueue.worker.perform import perform, prepare

WORKER = "eager"


class EagerRunner:
    """Runs a job to its end at once; delays are not waited for, retries follow each other.

    Args:
        client: the app.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def run(self, keys: QueueKeys, jobs: Sequence[Enqueued]) -> list[bool]:
        """Run each job and keep its result; as ``Producer.put``."""
        if self._client.active_resources() is not None:
            return await self._run_all(keys, jobs)
        resources = Resources(self._client)  # what the jobs need is opened when they ask
        token = ACTIVE.set(resources)
        try:
            return await self._run_all(keys, jobs)
        finally:
            ACTIVE.reset(token)
            await resources.close()

    async def _run_all(self, keys: QueueKeys, jobs: Sequence[Enqueued]) -> list[bool]:
        broker = self._client.session().broker
        await broker.announce(keys.name)
        for item in jobs:
            limits = self._client.config.limits
            record, ttl, letter = await self._run(keys, item)
            # A result that a worker would only announce is kept for a while: here nobody can be listening yet.
            await broker.record(
                keys, item.id, record, "60" if ttl == "0" else ttl, letter, limits.dead_max, limits.dead_ttl_s
            )
        return [True] * len(jobs)

    async def _run(self, keys: QueueKeys, item: Enqueued) -> tuple[bytes, str, bytes]:
        limits, clock = self._client.config.limits, self._client.session().broker.clock
        judge = Judge(limits, WorkerConfig(unknown_task_s=0.001), clock.now_ms)
        message = Message.parse(item.message)
        while True:
            job = ClaimedJob(keys, WORKER, message, item.id, item.level)
            prepared = prepare(job, self._client.tasks, clock.now_ms())
            if isinstance(prepared, tuple):
                call, task = prepared
                outcome = await asyncio.create_task(perform(job, call, task, None, limits.max_message_bytes))
                settlement = judge.decide(job, outcome, call, task.defaults)
            else:
                settlement = judge.decide(job, prepared, Call("?"))
            match settlement:
                case Ack(record, ttl):
                    return record, ttl, b""
                case Bury(record, ttl, letter):
                    return record, ttl, letter
                case Defer(again, _, _):
                    message = again
