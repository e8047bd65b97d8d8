"""Takes back the jobs of workers whose lease ran out. Every worker does; only the one that finds a message moves it."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Sequence

from rqueue.broker.broker import Broker, Done
from rqueue.config import Limits
from rqueue.errors import BrokerError, MalformedMessage, WorkerLost
from rqueue.log import event
from rqueue.policy.redelivery import Redelivery, redeliver
from rqueue.wire.keys import QueueKeys
from rqueue.wire.message import Message
from rqueue.wire.record import Failure, Letter, Record
from rqueue.wire.state import State

REAP_AT_ONCE = 50


class Reaper:
    """Looks for dead workers at each heartbeat.

    Args:
        broker: the broker.
        queues: the queues to serve.
        limits: how long results and dead letters are kept.
        heartbeat_s: seconds between two looks.
        max_deliveries: at this many losses a job is a dead letter.
    """

    def __init__(
        self, broker: Broker, queues: Sequence[QueueKeys], limits: Limits, heartbeat_s: float, max_deliveries: int
    ) -> None:
        self._broker, self._queues, self._limits = broker, queues, limits
        self._heartbeat_s, self._max_deliveries = heartbeat_s, max_deliveries
        self._seen: set[tuple[str, str]] = set()
        self._cursor = 0
        self._number = 0
        self._id = secrets.token_hex(4)

    async def run(self) -> None:
        """Look at each heartbeat, until cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            try:
                await self.tick()
            except BrokerError as exc:
                # Nobody is condemned on what was seen before a break: a stalled Redis is not a dead fleet.
                self._seen.clear()
                event(logging.WARNING, "reaping waits for redis", error=str(exc))

    async def tick(self) -> int:
        """One look; how many messages were moved. A worker is reaped when two looks in a row find its lease run out."""
        for keys in self._queues:
            await self._broker.announce(keys.name)
        overdue = {(keys.name, worker): keys for keys in self._queues for worker in await self._broker.overdue(keys)}
        self._cursor, orphans = await self._broker.orphans(self._queues, self._cursor)
        moved = 0
        for (name, worker), keys in overdue.items():
            if (name, worker) in self._seen:
                moved += await self._reap(keys, worker)
        for keys, worker in orphans:
            moved += await self._reap(keys, worker)
        self._seen = set(overdue)
        return moved

    async def _reap(self, keys: QueueKeys, worker: str) -> int:
        """Move all that a dead worker left. If we die half-way, another reaper goes on with the rest."""
        moved = 0
        while True:
            raws, started = await self._broker.remains(keys, worker, REAP_AT_ONCE)
            back: list[tuple[bytes, int, bytes]] = []
            for raw in raws:
                fate = self._fate(raw, started)
                if fate is None:
                    back.append((raw, 0, raw))
                elif not fate.is_dead:
                    back.append((raw, fate.message.header.level, fate.message.raw))
                elif not await self._bury(keys, worker, raw, fate.message):
                    return moved  # alive after all
            verdict = await self._broker.reap(keys, worker, back)
            if verdict < 0:
                return moved
            moved += len(raws)
            if verdict == 1:
                event(logging.WARNING, "worker reaped", queue=keys.name, worker=worker, jobs=moved)
                return moved

    def _fate(self, raw: bytes, started: set[str]) -> Redelivery | None:
        try:
            message = Message.parse(raw)
        except MalformedMessage:
            return None  # whoever claims it next buries it
        return redeliver(message, message.header.id in started, self._max_deliveries)

    async def _bury(self, keys: QueueKeys, worker: str, raw: bytes, message: Message) -> bool:
        """A job that has cost too many workers becomes a dead letter; false when its worker is alive after all."""
        job_id = str(message.header.id)
        losses = message.header.losses
        failure = Failure(WorkerLost.__name__, f"{losses} workers died while they ran it; the last was {worker}")
        letter = Letter(
            id=job_id,
            reason="worker lost",
            raw=message.raw,
            failure=failure,
            died=self._broker.clock.now_ms(),
            retries=message.header.retries,
            losses=losses,
        )
        about = {"worker": worker, "losses": losses, "finished": self._broker.clock.now_ms()}
        record = Record(State.FAILURE, None, failure, about).encode()
        ttl_s = self._limits.result_ttl_s
        done = Done(raw, job_id, record, "" if ttl_s is None else str(math.ceil(ttl_s)))
        self._number += 1
        answer = await self._broker.bury(
            keys,
            worker,
            f"reaper {self._id}",
            self._number,
            done,
            letter.encode(),
            self._limits.dead_max,
            self._limits.dead_ttl_s,
            by_reaper=True,
        )
        event(logging.ERROR, "job failed", id=job_id, queue=keys.name, error="WorkerLost", losses=losses)
        return answer is not None
