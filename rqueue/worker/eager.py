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
from rqueue.wire.seal import open_record, opened, seal_record
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.judge import Judge
from rqueue.worker.observers import Observers
from rqueue.worker.outcome import Ack, Bury, Defer, Settlement, Transfer
from rqueue.worker.perform import perform, prepare
from rqueue.worker.progress import Progress

WORKER = "eager"


class EagerRunner:
    """Runs a job to its end at once; delays are not waited for, retries follow each other.

    Args:
        client: the app.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._observers = Observers(client.hooks, client.signals, client.tasks, client.keyring)

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
            job, settlement = await self._run(keys, item)
            record, ttl = settlement.record, settlement.ttl
            if job.keys is not keys:  # it has moved: here its record stands where it was enqueued
                keyring = self._client.keyring
                record = seal_record(keyring, keys.main, item.id, open_record(keyring, job.keys.main, item.id, record))
            letter = settlement.letter if isinstance(settlement, Bury) else b""
            # A result that a worker would only announce is kept for a while: here nobody can be listening yet.
            await broker.record(
                keys, item.id, record, "60" if ttl == "0" else ttl, letter, limits.dead_max, limits.dead_ttl_s
            )
            await self._tell(job, settlement)
        return [True] * len(jobs)

    async def _tell(self, job: ClaimedJob, settlement: Settlement) -> None:
        """Call the hooks, and wait for them: a test sees what they did."""
        if self._observers:
            self._observers.settled(job, settlement)
            await self._observers.drained()

    async def _run(self, keys: QueueKeys, item: Enqueued) -> tuple[ClaimedJob, Ack | Bury]:
        limits, clock = self._client.config.limits, self._client.session().broker.clock
        judge = Judge(limits, WorkerConfig(unknown_task_s=0.001), clock.now_ms, self._client.keyring)
        message = opened(self._client.keyring, Message.parse(item.message), keys.main)
        while True:
            job = ClaimedJob(keys, WORKER, message, item.id, item.level)
            prepared = prepare(job, self._client.tasks, clock.now_ms())
            if isinstance(prepared, tuple):
                call, task = prepared
                job.report = Progress(judge).reporter(job, call)
                if self._observers:
                    self._observers.started(job, call, task)
                outcome = await asyncio.create_task(perform(job, call, task, None, limits.max_message_bytes))
                settlement = judge.decide(job, outcome, call, task.defaults)
            else:
                call, outcome = Call("?"), prepared
                settlement = judge.decide(job, outcome, call)
            if self._observers:
                self._observers.ended(job, outcome, settlement, call)
            if isinstance(settlement, Ack | Bury):
                return job, settlement
            if isinstance(settlement, Defer):
                await self._tell(job, settlement)
                message = settlement.message
            elif isinstance(settlement, Transfer):
                message, keys = settlement.message, self._client.keys.queue(settlement.to.queue)
