"""Waiting for jobs' ends: by announcement, ten thousand waiters on one connection.

Redis announces and forgets, so each waiter subscribes first and looks afterwards; every few seconds all waiters look
again in one round trip, so that a lost announcement costs seconds and a job that vanished is JobNotFound.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from rqueue.broker.broker import Broker, Known
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerError, BrokerUnavailable, JobNotFound, MalformedMessage
from rqueue.wire.keys import QueueKeys
from rqueue.wire.record import decode_record, moved_to
from rqueue.wire.state import FINAL, State

LOOK_AGAIN_S: Final = 5.0
FINAL_RECORD: Final = tuple(b'{"state":"%b"' % state.encode() for state in FINAL)
_LOOK_AT_ONCE: Final = 1000


class Watcher(Protocol):
    """Whoever wants to know of each change of a job."""

    def announced(self, record: bytes) -> None:
        """The job has changed."""

    def looked(self, known: Known | BrokerError) -> None:
        """This is stored of the job; it may be older than what was announced."""

    def closed(self, error: Exception) -> None:
        """Nothing more will come."""


@dataclass(slots=True)
class _Topic:
    """One job that somebody waits for."""

    keys: QueueKeys
    job_id: str
    waiters: dict[asyncio.Future[bytes], float] = field(default_factory=dict)  # and until when it may be unknown
    watchers: set[Watcher] = field(default_factory=set)


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

    async def wait(self, keys: QueueKeys, job_id: str, unsent_s: float = 0) -> bytes:
        """Return the job's record when it has ended, or has gone on in another queue, which the record then names.

        Args:
            keys: the queue.
            job_id: the job's id.
            unsent_s: seconds for which it may be unknown, since it may not have been sent yet.

        Raises:
            JobNotFound: nobody knows the id (any more).
        """
        topic = self._join(keys, job_id)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bytes] = loop.create_future()
        topic.waiters[waiter] = loop.time() + unsent_s
        try:
            return await waiter
        finally:
            topic.waiters.pop(waiter, None)
            self._part(topic)

    @contextmanager
    def watching(self, keys: QueueKeys, job_id: str, watcher: Watcher) -> Iterator[None]:
        """Tell the watcher what is stored of the job, and each change from then on, while the block lasts."""
        topic = self._join(keys, job_id)
        topic.watchers.add(watcher)
        try:
            yield
        finally:
            topic.watchers.discard(watcher)
            self._part(topic)

    def _join(self, keys: QueueKeys, job_id: str) -> _Topic:
        channel = keys.result(job_id)
        subscription, topic = self._start(), self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(keys, job_id)
            subscription.add(channel)
        else:
            self._look_soon([channel])  # the channel's own look may be over already
        return topic

    def _part(self, topic: _Topic) -> None:
        channel = topic.keys.result(topic.job_id)
        if not topic.waiters and not topic.watchers and self._topics.get(channel) is topic:
            del self._topics[channel]
            self._start().remove(channel)

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
            for watcher in tuple(topic.watchers):
                watcher.closed(BrokerUnavailable("the app was closed while a job was watched"))

    def _start(self) -> Subscription:
        if self._subscription is None:
            self._subscription = Subscription(self._broker.endpoint.connection, self._announced, self._look_soon)
            self._watch = asyncio.create_task(self._look_again(), name="rqueue listener")
        return self._subscription

    def _announced(self, channel: bytes, record: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is not None:
            for watcher in tuple(topic.watchers):
                watcher.announced(record)
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

    A job lives from its enqueue to its end, also while it runs after an early settle. One that has moved
    lives elsewhere.

    Raises:
        MalformedMessage: the record is none.
    """
    if known.is_alive or known.record is None:
        return False
    return not known.record.startswith(FINAL_RECORD) and moved_to(known.record) is None


def _report(topic: _Topic, known: Known | BrokerError) -> None:
    for watcher in tuple(topic.watchers):
        watcher.looked(known)
    error: Exception = JobNotFound(topic.job_id)
    since = asyncio.get_running_loop().time()  # who allows that long does not hear that it is unknown
    if isinstance(known, BrokerError):
        error, since = known, math.inf
    elif known.is_alive:
        return
    elif known.record is not None:
        try:
            if not is_abandoned(known):
                _deliver(topic, known.record)
                return
        except MalformedMessage as exc:
            error, since = exc, math.inf
    for waiter, until in topic.waiters.items():
        if not waiter.done() and until <= since:
            waiter.set_exception(error)


def _deliver(topic: _Topic, record: bytes) -> None:
    """Hand a final record to all who wait for it, or one that says where the job goes on; others are not the end."""
    if not topic.waiters:
        return
    state: State = decode_record(record)["state"]
    if not state.is_final and moved_to(record) is None:
        return
    for waiter in topic.waiters:
        if not waiter.done():
            waiter.set_result(record)
