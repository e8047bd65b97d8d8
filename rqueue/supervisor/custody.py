"""What a supervisor does in Redis for its processes: it keeps leases, takes back what a dead one held, and counts the
backlog.

It knows the app only by what a process has told it (:func:`introduction`): the user's code is never loaded here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

import orjson

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.client.client import Client
from rqueue.client.options import TaskOptions, seconds
from rqueue.config import AppConfig, Limits, WorkerConfig
from rqueue.errors import BrokerError, BrokerUnavailable, MalformedMessage, TimeLimitExceeded
from rqueue.log import Recurring, event
from rqueue.policy.clock import elapsed_s
from rqueue.results.entry import Entry
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import Call, Header, Message
from rqueue.wire.seal import Keyring, as_trusted
from rqueue.worker.board import Noted
from rqueue.worker.herald import Herald
from rqueue.worker.inflight import ClaimedJob, Inflight
from rqueue.worker.judge import Judge
from rqueue.worker.outcome import Ack, Bury, Defer, Failed
from rqueue.worker.perform import failure_of
from rqueue.worker.reaper import Reaper
from rqueue.worker.settler import Settler

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0

# What a task's options say about a job that ends without its process.
_OPTIONS: Final = (
    "max_retries",
    "default_retry_delay",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "ignore_result",
    "dead_letter",
)


def introduction(client: Client, config: WorkerConfig) -> dict[str, Any]:
    """What a process tells its supervisor of its app, as JSON can carry it."""
    return {
        "url": client.endpoint.url,
        "namespace": client.keys.namespace,
        "queues": list(config.queues),
        "limits": asdict(client.config.limits),
        "tasks": {task.name: _options_of(task.defaults) for task in client.tasks},
        "observed": client.signals.is_used,
        "results": client.config.results is not None,
        "keys": None if client.keyring is None else client.keyring.told(),
    }


def _options_of(options: TaskOptions) -> dict[str, Any]:
    """The options that differ from the defaults."""
    default, given = TaskOptions(), {}
    for name in _OPTIONS:
        if (value := getattr(options, name)) != getattr(default, name):
            given[name] = seconds(value) if name in ("default_retry_delay", "retry_backoff_max") else value
    if options.result_ttl is not default.result_ttl:
        given["result_ttl"] = None if options.result_ttl is None else seconds(options.result_ttl)
    if any(issubclass(TimeLimitExceeded, kind) for kind in options.autoretry_for):
        given["retries_at_time_limit"] = True
    return given


class Custody:
    """A supervisor's hand in Redis.

    Args:
        known: what :func:`introduction` gave.
        config: the processes' settings.
        tell: told of each job that is settled here, for a process that has the app's hooks.
    """

    def __init__(
        self, known: Mapping[str, Any], config: WorkerConfig, tell: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self._config, self._limits = config, Limits(**known["limits"])
        keyring = None if known.get("keys") is None else Keyring(**known["keys"])
        client = Client(Endpoint(known["url"]), AppConfig(known["namespace"], limits=self._limits), keyring)
        for name, options in known["tasks"].items():
            retries = (TimeLimitExceeded,) if options.get("retries_at_time_limit") else ()
            given = {each: value for each, value in options.items() if each != "retries_at_time_limit"}
            client.task(name=name, autoretry_for=retries, **given)(_elsewhere)
        self._tasks = client.tasks
        self._broker = Broker(client.endpoint, client.keys)
        self._judge = Judge(self._limits, config, self._broker.clock.now_ms, keyring)
        self._keys = client.keys
        self._waits = Recurring()
        self._queues: list[QueueKeys] = []
        herald = Herald(tell if known["observed"] else None)
        self._reaper = Reaper(self._broker, self._queues, self._tasks, self._judge, self._limits, config, herald)
        self._inflight = Inflight(1, 1)
        self._settler = Settler(self._broker, self._inflight, self._limits, self._judge, ("supervisor",), herald)
        self.serve(known["queues"])

    def serve(self, queues: Sequence[str]) -> None:
        """A process serves these queues as well."""
        for name in queues:
            if (keys := self._keys.queue(name)) not in self._queues:
                self._queues.append(keys)

    async def take_back(
        self, worker: str, *, uncharged: bool = False, suspect: str | None = None, overdue: Sequence[Noted] = ()
    ) -> None:
        """Take back what a dead process held under that id; goes on until Redis has answered, or it is cancelled.

        Args:
            worker: the id.
            uncharged: it was ended on purpose: its jobs are not to blame.
            suspect: the job that alone is to blame, if it had started.
            overdue: the jobs for whose sake it was ended: they end with TimeLimitExceeded.
        """
        for job in overdue:
            await self._insist(worker, partial(self._end, worker, job))
        began_s = elapsed_s()
        moved = await self._insist(worker, partial(self._reaper.take_back, worker, uncharged, suspect))
        if moved:
            event(logging.INFO, "jobs taken back", worker=worker, jobs=moved, seconds=round(elapsed_s() - began_s, 3))

    async def renew(self, worker: str, card: bytes, queues: Collection[str]) -> bool:
        """Renew the lease of a process that cannot do so itself while it works; false when it is not registered.

        Args:
            worker: its id.
            card: what it says of itself.
            queues: where it has leases: in others it would seem to have lost them all.

        Raises:
            BrokerError: Redis could not be asked.
        """
        served = [keys for keys in self._queues if keys.name in queues]
        return await self._broker.renew(served, worker, self._config.lease_s, card)

    def busy(self, card: bytes) -> bytes:
        """The card of a process that cannot write one now, because its only job holds the interpreter: it is busy."""
        now_ms = self._broker.clock.now_ms()
        return orjson.dumps({**orjson.loads(card), "running": 1, "held": 0, "beat": now_ms, "fetched": now_ms})

    async def backlog(self) -> int:
        """How many jobs wait in the queues.

        Raises:
            BrokerError: Redis could not be asked.
        """
        return sum([(await self._broker.sizes(keys)).claimable for keys in self._queues])

    async def close(self) -> None:
        """Close the connection."""
        await self._broker.close()

    async def _insist(self, worker: str, step: Callable[[], Awaitable[T]]) -> T:
        """Try again until Redis has answered; each step may be repeated, and if we give up, a reaper goes on."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await step()
            except BrokerError as exc:
                self._waits.event(logging.WARNING, "taking back waits for redis", worker=worker, error=str(exc))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _end(self, worker: str, overdue: Noted) -> None:
        """Settle a job that has outrun its time limit, in its dead worker's name: as the worker would have done."""
        keys = self._keys.queue(overdue.queue)
        job = await self._find(keys, worker, overdue.id)
        if job is None:
            return  # it was settled after all
        error = TimeLimitExceeded("it ran for longer than its time_limit, and its process was ended")
        call, options = None, TaskOptions(dead_letter=False)
        if not job.is_settled_early:
            try:
                call = Call.decode(job.message.body)
            except MalformedMessage:
                return  # whoever claims it next buries it
            task = self._tasks.find(call.task)
            options = task.defaults if task is not None else TaskOptions()
        job.seen["error"] = f"TimeLimitExceeded: {error}"
        settlement = self._judge.decide(job, Failed(error, failure_of(error)), call, options)
        if isinstance(settlement, Ack | Bury | Defer):
            # First, as a worker writes its row first; where there is no result store this does nothing.
            await self._spool(keys, Entry(job.id, settlement.record, job.message.raw))
        self._inflight.settle(job, settlement)
        await self._settler.drained()

    async def _spool(self, keys: QueueKeys, entry: Entry) -> None:
        try:
            await self._broker.spool(keys, [entry.encode()])
        except BrokerUnavailable:
            raise
        except BrokerError as exc:  # it is full, or may not: the job has ended all the same
            event(logging.ERROR, "results were not kept", jobs=1, queue=keys.name, error=str(exc))

    async def _find(self, keys: QueueKeys, worker: str, job_id: str) -> ClaimedJob | None:
        marks = await self._broker.audit(keys, worker)
        for index, mark in enumerate(marks):
            if Message.id_of(mark.partition(b":")[2]) == job_id:
                raw = await self._broker.held_at(keys, worker, index)
                if raw is not None and Message.id_of(raw) == job_id:
                    message = as_trusted(self._judge.keyring, Message.parse(raw), keys.main)
                    return ClaimedJob(keys, worker, message, job_id, rank=0)
        _, started = await self._broker.remains(keys, worker, 1)
        if job_id not in started:
            return None
        # It had been acknowledged before it started: only its mark is left.
        job = ClaimedJob(keys, worker, Message.build(Header(id=job_id), b"{}"), job_id, rank=0)
        job.is_settled_early = True
        return job


def _elsewhere() -> None:
    """In place of a task's function, which runs in other processes only."""
