"""Watching jobs change: one job to its end, or all jobs of a queue or of the app.

Redis announces and forgets. Of one job nothing that counts is missed: what is stored is looked at first, after each
break of the connection, and every few seconds. Of all jobs nothing is stored to look at: there a break leaves a gap,
and the next event says so. No reader is waited for: one that is too slow has a gap as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rqueue.broker.broker import Known
from rqueue.client.job import JobInfo
from rqueue.client.listener import FINAL_RECORD, is_abandoned
from rqueue.client.task import Task
from rqueue.errors import BrokerUnavailable, ConfigError, JobNotFound, MalformedMessage, WaitTimeout
from rqueue.wire.keys import QueueKeys, check_queue_name
from rqueue.wire.record import moved_to
from rqueue.wire.seal import Keyring, open_record
from rqueue.wire.state import State

if TYPE_CHECKING:
    from rqueue.broker.subscription import Subscription
    from rqueue.client.client import Client

BUFFER_EVENTS: Final = 1_000
"""Events that a reader may be behind."""

BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Bytes of records that a reader may be behind."""

_PING_S: Final = 5.0

_Item = tuple[bytes, bytes] | Known | Exception | None  # None: a gap
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """A job has changed.

    Attributes:
        job_id: the job's id.
        queue: its queue.
        state: its state from then on.
        at: when, as far as it is known.
        progress: what it said of its progress, or None; see :class:`~rqueue.client.job.JobInfo`.
        info: all that is known of it then.
        after_gap: events before this one were missed: the reader was too slow, or the connection broke.
    """

    job_id: str
    queue: str
    state: State
    at: datetime | None
    progress: dict[str, Any] | None
    info: JobInfo
    after_gap: bool = False

    @classmethod
    def of(cls, info: JobInfo, after_gap: bool) -> Event:
        """The event that brought this."""
        return cls(info.id, info.queue, info.state, _moment(info), info.progress, info, after_gap)


class Backlog:
    """What a reader has not read yet, bounded: the oldest goes first.

    Attributes:
        has_gap: something was missed since the last read.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[_Item, int]] = deque()
        self._bytes = 0
        self._has_come = asyncio.Event()
        self.has_gap = False

    def put(self, item: _Item, size: int = 0) -> None:
        """Add the newest."""
        self._items.append((item, size))
        self._bytes += size
        while len(self._items) > 1 and (len(self._items) > BUFFER_EVENTS or self._bytes > BUFFER_BYTES):
            self._bytes -= self._items.popleft()[1]
            self.has_gap = True
        self._has_come.set()

    async def get(self) -> tuple[_Item, bool]:
        """The oldest, and whether something before it was missed; waits for one."""
        while not self._items:
            self._has_come.clear()
            await self._has_come.wait()
        (item, size), gap = self._items.popleft(), self.has_gap
        self._bytes -= size
        self.has_gap = False
        return item, gap


class _Watcher:
    """One job's changes, as its reader has not read them yet."""

    def __init__(self) -> None:
        self.backlog = Backlog()

    def announced(self, record: bytes) -> None:
        self.backlog.put((b"", record), len(record))

    def looked(self, known: Known | Exception) -> None:
        self.backlog.put(known, len(known.record or b"") if isinstance(known, Known) else 0)

    def closed(self, error: Exception) -> None:
        self.backlog.put(error)


async def events_of(client: Client, job_id: str, queue: str | None, timeout: float | None) -> AsyncIterator[Event]:
    """One job's events; see :meth:`~rqueue.client.job.Job.events`."""
    loop = asyncio.get_running_loop()
    deadline_s = None if timeout is None else loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline_s):
            keys = client.keys.queue(queue) if queue is not None else client.keys.queue(await client.locate(job_id))
        before: tuple[Any, ...] = ()
        seen: JobInfo | None = None
        while True:  # for each queue in which it goes on
            watcher, moved = _Watcher(), None
            with client.session().listener.watching(keys, job_id, watcher):
                while moved is None:
                    async with asyncio.timeout_at(deadline_s):
                        item, gap = await watcher.backlog.get()
                    with suppress(_Unreadable):
                        info = _info(client.keyring, keys, job_id, item)
                        order, moved = _order(info), _moved(item)
                        # A look that was under way may bring what was announced before, or is older than that.
                        if info != seen and order >= before:
                            before, seen = order, info
                            yield Event.of(info, gap)
                            if info.state.is_final:
                                return
            keys = client.keys.queue(moved)
    except TimeoutError:
        raise WaitTimeout(f"job {job_id} had not ended after {timeout:g} s; it goes on") from None


class Events:
    """Each change of the app's jobs: ``async for event in app.events()``, for ever.

    In ``async with app.events() as events`` the block begins when nothing is missed any more.

    Args:
        client: the app.
        queue: only this queue's.
        task: only this task's.

    Raises:
        ConfigError: the queue's name is none.
    """

    def __init__(self, client: Client, queue: str | None = None, task: Task[Any, Any] | str | None = None) -> None:
        self._client = client
        self._queue = None if queue is None else check_queue_name(queue)
        self._tasks = None if task is None else client.tasks.names(task)
        self._backlog = Backlog()
        self._subscription: Subscription | None = None
        self._listens = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._session = session = self._client.session()
        self._backlog, self._listens = Backlog(), asyncio.Event()
        self._subscription = session.broker.changes(self._queue, self._announced, self._listening, _PING_S)
        session.open_events.add(self)
        try:
            await self._listens.wait()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._subscription is not None:
            async for event in self._read():
                yield event
            return
        async with self:  # no block around it: what it opens it closes
            async for event in self._read():
                yield event

    async def aclose(self) -> None:
        """Listen no more; whoever still reads is told so by BrokerUnavailable."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._session.open_events.discard(self)
            self._backlog.put(BrokerUnavailable("the app was closed while its events were read"))
            self._listens.set()
            await subscription.close()

    async def _read(self) -> AsyncIterator[Event]:
        while True:
            item, gap = await self._backlog.get()
            if isinstance(item, Exception):
                raise item
            named = self._client.keys.job_of(item[0]) if isinstance(item, tuple) else None
            if named is None or not isinstance(item, tuple):
                self._backlog.has_gap |= gap or item is None
                continue
            with suppress(MalformedMessage, ConfigError):  # somebody else spoke on the channel
                keys = self._client.keys.queue(named[0])
                info = JobInfo.of(named[1], named[0], open_record(self._client.keyring, keys.main, named[1], item[1]))
                if self._tasks is None or info.task in self._tasks:
                    yield Event.of(info, gap)
                    continue
            self._backlog.has_gap |= gap  # the next one that is shown says so

    def _announced(self, channel: bytes, record: bytes) -> None:
        self._backlog.put((channel, record), len(channel) + len(record))

    def _listening(self, _: list[bytes]) -> None:
        if self._listens.is_set():
            self._backlog.put(None)  # the connection broke meanwhile
        self._listens.set()


class _Unreadable(Exception):
    """Somebody else spoke on the channel."""


def _info(keyring: Keyring | None, keys: QueueKeys, job_id: str, item: _Item) -> JobInfo:
    """What an announcement or a look says.

    Raises:
        JobNotFound: nobody knows the job.
        _Unreadable: it says nothing.
    """
    if isinstance(item, Exception):
        raise item
    if not isinstance(item, Known):
        try:
            said = b"" if item is None else open_record(keyring, keys.main, job_id, item[1])
            return JobInfo.of(job_id, keys.name, said)
        except MalformedMessage:
            raise _Unreadable from None
    if item.is_alive:  # an end that is stored is that of an earlier life: it was revived
        record = None if item.record is not None and item.record.startswith(FINAL_RECORD) else item.record
        return JobInfo.of(job_id, keys.name, record and open_record(keyring, keys.main, job_id, record))
    if is_abandoned(item) or (item.record is None and not item.is_dead):
        raise JobNotFound(job_id)
    record = item.record and open_record(keyring, keys.main, job_id, item.record)
    return JobInfo.of(job_id, keys.name, record, is_dead=item.is_dead)


def _moved(item: _Item) -> str | None:
    """The queue in which the job goes on, where that is said."""
    if isinstance(item, Known):
        return moved_to(item.record) if item.record is not None and not item.is_alive else None
    return moved_to(item[1]) if isinstance(item, tuple) else None


def _order(info: JobInfo) -> tuple[Any, ...]:
    """What grows with a job's life: its end is last, then the run counts, then how far that run is."""
    return info.state.is_final, info.attempts + info.losses, info.state is State.RETRY, _moment(info) or _LONG_AGO


def _moment(info: JobInfo) -> datetime | None:
    if info.state is State.STARTED and info.progress is not None:
        at: datetime | None = info.progress["at"]
        return at or info.started
    return info.started if info.state is State.STARTED else info.finished
