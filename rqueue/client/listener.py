"""Waiting for jobs' ends: by announcement, ten thousand waiters on one connection.

Redis announces and forgets, so each waiter subscribes first and looks afterwards; every few seconds all waiters look
again in one round trip, so that a lost announcement costs seconds and a job that vanished is JobNotFound.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from rqueue.broker.broker import Broker, Known
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerError, BrokerUnavailable, JobNotFound, MalformedMessage
from rqueue.wire.keys import QueueKeys
from rqueue.wire.record import decode_record
from rqueue.wire.state import FINAL, State

LOOK_AGAIN_S: Final = 5.0
_FINAL = tuple(b'{"state":"%b"' % state.encode() for state in FINAL)
_LOOK_AT_ONCE: Final = 1000


@dataclass(slots=True)
class _Topic:
    """One job that somebody waits for."""

    keys: QueueKeys
    job_id: str
    waiters: set[asyncio.Future[bytes]] = field(default_factory=set)


class Listener:
    """Waits for ends over one connection, in one event loop.

    Args:
        broker: the broker to look with.
        look_again_s: seconds between two looks at what has not been announced.
    """

    def __init__(self, broker: Broker, look_again_s: float = LOOK_AGAIN_S) -> None:
        self._broker = broker
        self._look_again_s = look_again_s
        self._topics: dict[bytes, _Topic] = {}
        self._subscription: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()

    async def wait(self, keys: QueueKeys, job_id: str) -> bytes:
        """Return the job's record when it has ended.

        Raises:
            JobNotFound: nobody knows the id (any more).
        """
        channel = keys.result(job_id)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(keys, job_id)
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        topic.waiters.add(waiter)
        subscription = self._start()
        try:
            if len(topic.waiters) == 1:
                subscription.add(channel)
            else:
                self._look_soon([channel])  # the channel's own look may be over already
            return await waiter
        finally:
            topic.waiters.discard(waiter)
            if not topic.waiters and self._topics.get(channel) is topic:
                del self._topics[channel]
                subscription.remove(channel)

    async def close(self) -> None:
        """Stop listening; whoever still waits is told that the app was closed."""
        for task in (*self._looks, self._watch):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._subscription is not None:
            await self._subscription.close()
        for topic in self._topics.values():
            for waiter in topic.waiters:
                if not waiter.done():
                    waiter.set_exception(BrokerUnavailable("the app was closed while a result was waited for"))

    def _start(self) -> Subscription:
        if self._subscription is None:
            self._subscription = Subscription(self._broker.endpoint.connection, self._announced, self._look_soon)
            self._watch = asyncio.create_task(self._look_again(), name="rqueue listener")
        return self._subscription

    def _announced(self, channel: bytes, record: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is not None:
            with suppress(MalformedMessage):  # somebody else spoke on the channel
                _deliver(topic, record)

    def _look_soon(self, channels: list[bytes]) -> None:
        """Look at jobs whose announcements may have come before we listened."""
        task = asyncio.create_task(self._look(channels), name="rqueue listener look")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._look_again_s)
            await self._look(list(self._topics))

    async def _look(self, channels: list[bytes]) -> None:
        for start in range(0, len(channels), _LOOK_AT_ONCE):
            topics = [
                topic for channel in channels[start : start + _LOOK_AT_ONCE] if (topic := self._topics.get(channel))
            ]
            # Redis away: the next look finds out.
            with suppress(BrokerError):
                for topic, known in zip(
                    topics, await self._broker.known([(topic.keys, topic.job_id) for topic in topics]), strict=True
                ):
                    _report(topic, known)


def is_abandoned(known: Known) -> bool:
    """True when a job that should be alive by its record is not: purged, or flushed away.

    A job lives from its enqueue to its end, also while it runs after an early settle.
    """
    is_final = known.record is not None and known.record.startswith(_FINAL)
    return not known.is_alive and known.record is not None and not is_final


def _report(topic: _Topic, known: Known | BrokerError) -> None:
    error: Exception = JobNotFound(topic.job_id)
    if isinstance(known, BrokerError):
        error = known
    elif known.is_alive:
        return
    elif known.record is not None and not is_abandoned(known):
        try:
            _deliver(topic, known.record)
        except MalformedMessage as exc:
            error = exc
        else:
            return
    for waiter in topic.waiters:
        if not waiter.done():
            waiter.set_exception(error)


def _deliver(topic: _Topic, record: bytes) -> None:
    """Hand a final record to all who wait for it; STARTED and RETRY are not the end."""
    state: State = decode_record(record)["state"]
    if not state.is_final:
        return
    for waiter in topic.waiters:
        if not waiter.done():
            waiter.set_result(record)
