"""Enqueues the jobs of periodic schedules when they are due. Every worker does; the script lets each tick happen once.

It alone keeps that what the app's code declares is stored, and that what it no longer declares is not.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import suppress

from rqueue.broker.broker import Broker, Tick
from rqueue.client.client import Client
from rqueue.client.schedules import level_of, message_of
from rqueue.errors import BrokerError, BrokerFull, BrokerUnavailable, ConfigError, MalformedMessage, MissingDependency
from rqueue.log import Recurring, event
from rqueue.policy.periodic import declared, job_id, look, look_at
from rqueue.wire.keys import QueueKeys
from rqueue.wire.periodic import Entry, check_schedule_name
from rqueue.wire.seal import open_schedule, seal_schedule
from rqueue.worker.lease import Lease

_PAUSE_S = 1.0


class Ticker:
    """Ticks.

    Args:
        broker: the broker.
        client: the app, with the schedules of its code.
        queues: the queues that are served; it may change.
        lease: the worker's id: a new one is a reason to store the code's schedules again, since Redis may be empty.
        longest_s: it looks at least so often, since nobody may have told that a schedule was written.

    Attributes:
        left_s: seconds from the last look until something is due, as far as is known.
    """

    def __init__(
        self, broker: Broker, client: Client, queues: Sequence[QueueKeys], lease: Lease, longest_s: float
    ) -> None:
        self._broker, self._client, self._queues, self._lease = broker, client, queues, lease
        self._longest_s = longest_s
        self._changed = asyncio.Event()
        self._waits = Recurring()
        self._stored: dict[str, str] = {}
        self._refused: dict[tuple[str, str], bytes] = {}
        self.left_s = 0.0

    async def run(self) -> None:
        """Look whenever something is due or may have changed, until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self.tick()
            except Exception as exc:  # noqa: BLE001 - whatever it is, a worker does not stop ticking
                self._waits.event(logging.WARNING, "periodic schedules wait for redis", error=str(exc) or repr(exc))
                self.left_s = _PAUSE_S
            if self.left_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(self.left_s, self._longest_s)):
                        await self._changed.wait()

    def look_now(self) -> None:
        """A schedule was written, or the clock was moved."""
        self._changed.set()

    async def tick(self) -> int:
        """Look once at each queue, and enqueue what is due; how many ticks were this worker's."""
        done, self.left_s = 0, math.inf
        for keys in list(self._queues):
            try:
                done += await self._look(keys)
            except BrokerUnavailable as exc:
                if not self._broker.is_cluster:
                    raise
                self._waits.event(logging.WARNING, "periodic schedules wait for redis", queue=keys.name, error=str(exc))
                self._note(_PAUSE_S)  # the other nodes' queues go on
            except BrokerError as exc:  # it is full, or a key holds something else
                event(logging.ERROR, "redis refused a periodic schedule", queue=keys.name, error=str(exc))
                self._note(_PAUSE_S)
        return done

    async def _look(self, keys: QueueKeys) -> int:
        worker = self._lease.worker
        if self._stored.get(keys.name) != worker:
            while not await self._store(keys):
                pass  # another worker was faster somewhere: look what there is now
            self._stored[keys.name] = worker
        first_ms = await self._broker.next_look(keys)
        if first_ms is None:
            return 0
        await self._broker.sync_clock(keys.main)  # this machine's clock may have been set since the last claim
        now_ms = self._broker.clock.now_ms()
        if first_ms > now_ms:
            self._note((first_ms - now_ms) / 1000)
            return 0
        done, is_stuck = 0, False
        for name, read in (await self._broker.ticking(keys, now_ms)).items():
            outcome = await self._one(keys, name, read, now_ms)
            done += outcome == 1
            is_stuck = is_stuck or outcome in (None, -1)
        self._note(_PAUSE_S if is_stuck else 0)  # there may be more, and then it is known when the next is due
        return done

    async def _one(self, keys: QueueKeys, name: str, read: bytes, now_ms: int) -> int | None:
        """One schedule's look; the outcome of its script, None where this worker can do nothing about it."""
        if not read:
            await self._broker.plan(keys, name, b"", b"", None)  # half of it was deleted by hand
            return 0
        try:
            check_schedule_name(name)
            entry = self._decode(keys, name, read)
            found = look(name, entry, now_ms)
        except (MalformedMessage, ConfigError, MissingDependency) as exc:
            if self._refused.get((keys.name, name)) != read:
                self._refused[keys.name, name] = read
                event(logging.ERROR, "periodic schedule not readable", queue=keys.name, schedule=name, error=str(exc))
            return None
        if self._is_gone(keys, name, entry):
            await self._remove(keys, name, read)
            return 0
        keyring = self._client.keyring
        made = [
            (job_id(name, due), message_of(entry, job_id(name, due), now_ms, keyring, keys.main)) for due in found.fires
        ]
        tick = Tick(
            name, read, now_ms, level_of(entry),
            self._encode(keys, name, found.entry), found.look_ms, found.last_id,
            self._encode(keys, name, found.held), found.held_look_ms, made,
        )  # fmt: skip
        try:
            outcome = await self._broker.tick(keys, tick)
        except (BrokerUnavailable, BrokerFull):
            raise
        except BrokerError as exc:  # its list is none: the other schedules go on
            event(logging.ERROR, "redis refused a tick", queue=keys.name, schedule=name, error=str(exc))
            return None
        if outcome > 0 and (outcome == 2 or found.missed) and entry.due <= now_ms:
            text = "periodic tick held: the last job is alive" if outcome == 2 else "periodic tick missed"
            event(logging.INFO, text, queue=keys.name, schedule=name, due=entry.due)
        return outcome

    async def _store(self, keys: QueueKeys) -> bool:
        """Store what the code declares for the queue; false when something was changed meanwhile."""
        wanted = {name: each.entry for name, each in self._client.schedules.declared.items() if each.queue == keys.name}
        stored = await self._broker.schedules(keys)
        if wanted:
            await self._broker.sync_clock(keys.main)
        for name, definition in wanted.items():
            read = stored.get(name, b"")
            entry = declared(definition, self._readable(keys, name, read), self._broker.clock.now_ms())
            if entry is None:
                continue
            if not await self._broker.plan(keys, name, read, self._encode(keys, name, entry), look_at(entry)):
                return False
        for name, read in stored.items():
            old = self._readable(keys, name, read)
            if old is not None and self._is_gone(keys, name, old) and not await self._remove(keys, name, read):
                return False
        return True

    def _is_gone(self, keys: QueueKeys, name: str, entry: Entry) -> bool:
        """The code declared it once, and knows its task still; another app's schedules are none of ours."""
        if entry.source != "code" or self._client.tasks.find(entry.task) is None:
            return False
        ours = self._client.schedules.declared.get(name)
        return ours is None or ours.queue != keys.name

    async def _remove(self, keys: QueueKeys, name: str, read: bytes) -> bool:
        done = await self._broker.plan(keys, name, read, b"", None)
        if done:
            event(logging.INFO, "periodic schedule is no longer declared", queue=keys.name, schedule=name)
        return done

    def _encode(self, keys: QueueKeys, name: str, entry: Entry) -> bytes:
        return seal_schedule(self._client.keyring, keys.main, name, entry.encode())

    def _decode(self, keys: QueueKeys, name: str, read: bytes) -> Entry:
        return Entry.decode(open_schedule(self._client.keyring, keys.main, name, read))

    def _readable(self, keys: QueueKeys, name: str, read: bytes) -> Entry | None:
        try:
            return self._decode(keys, name, read) if read else None
        except MalformedMessage:
            return None

    def _note(self, left_s: float) -> None:
        self.left_s = min(self.left_s, left_s)
