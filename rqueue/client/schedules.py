"""The periodic schedules of an app: those that its code declares, and what can be done to stored ones at run time."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, Unpack

from rqueue.broker.broker import Broker, Enqueued
from rqueue.client.inspector import Inspector
from rqueue.client.job import Job
from rqueue.client.options import Seconds, optional_seconds, refuse_unknown, seconds
from rqueue.client.task import Task
from rqueue.errors import (
    ConfigError,
    MalformedMessage,
    MessageTooLarge,
    MissingDependency,
    ScheduleNotFound,
)
from rqueue.log import event
from rqueue.policy.periodic import Cron, Every, Rhythm, job_id, look_at, resumed, rhythm_of
from rqueue.policy.routing import choose_priority, choose_queue
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import Call, Header, Message, check_priority
from rqueue.wire.periodic import MISFIRES, OVERLAPS, Entry, check_schedule_name
from rqueue.wire.seal import Keyring, open_schedule, seal_schedule, sealed

if TYPE_CHECKING:
    from rqueue.client.client import Client


class EditKwargs(TypedDict, total=False):
    """What can be edited of a schedule; see :class:`ScheduleKwargs`."""

    schedule: Rhythm
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    priority: int | None
    misfire: str
    misfire_grace: Seconds
    overlap: str


class ScheduleKwargs(TypedDict, total=False):
    """The options of a schedule.

    Args:
        name: what it is called; default the task's name. It begins its jobs' ids: ``<name>@<due time in ms>``.
        args, kwargs: the task's arguments; default none.
        queue: default the task's.
        priority: default the task's.
        misfire: what becomes of ticks that were missed while nobody ran: ``skip`` (default) drops them, ``once`` runs
            the latest, ``all`` runs each.
        misfire_grace: a tick that is so many seconds late, or more, was missed. Default 60.
        overlap: what a tick does while the job of the last one is alive: ``allow`` (default, as in Celery) enqueues
            all the same, ``skip`` does not, ``queue`` enqueues when that job has ended.
    """

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str
    priority: int | None
    misfire: str
    misfire_grace: Seconds
    overlap: str


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A stored schedule.

    Attributes:
        name: what it is called.
        queue: the queue of its jobs.
        task: the task's name.
        args, kwargs: the task's arguments.
        priority: 1 to 10, or None.
        schedule: when it ticks.
        misfire, misfire_grace_s, overlap: see :class:`ScheduleKwargs`.
        source: ``code`` where the app's code declares it, else ``added``.
        is_paused: it does not tick.
        due: when it ticks next; None while it is paused.
        last: the due time of the last tick that enqueued a job, or None.
        last_id: that job's id, or None.
        pending: ticks that wait for that job's end.
    """

    name: str
    queue: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    priority: int | None
    schedule: Rhythm
    misfire: str
    misfire_grace_s: float
    overlap: str
    source: str
    is_paused: bool
    due: datetime | None
    last: datetime | None
    last_id: str | None
    pending: int

    @classmethod
    def of(cls, name: str, queue: str, entry: Entry) -> ScheduleInfo:
        """What a stored entry says."""
        return cls(
            name=name,
            queue=queue,
            task=entry.task,
            args=entry.args,
            kwargs=entry.kwargs or {},
            priority=entry.priority,
            schedule=rhythm_of(entry),
            misfire=entry.misfire,
            misfire_grace_s=entry.grace / 1000,
            overlap=entry.overlap,
            source=entry.source,
            is_paused=entry.paused,
            due=None if entry.paused else _moment(entry.due),
            last=None if entry.last is None else _moment(entry.last),
            last_id=entry.last_id,
            pending=len(entry.pending),
        )


class Declared(NamedTuple):
    """A schedule as the code declares it: its queue, and what is to be stored but for its times."""

    queue: str
    entry: Entry


class Schedules:
    """``app.schedules``.

    Args:
        client: the app.

    Attributes:
        declared: the schedules of the app's code, by name; a worker that serves the queue stores them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.declared: dict[str, Declared] = {}

    def declare(self, schedule: Rhythm, task: Task[Any, Any] | str, options: ScheduleKwargs) -> None:
        """See :meth:`~rqueue.client.client.Client.add_periodic`."""
        found = self._client.tasks.find(task) if isinstance(task, str) else task
        if not isinstance(found, Task):
            raise ConfigError(f"periodic: {task!r} is no task; @app.periodic stands above @app.task")
        name, declared = self._made(schedule, found, options)
        known = self.declared.setdefault(name, declared)
        if known != declared:
            raise ConfigError(f"schedule {name!r}: declared twice; give one of them another name=")

    # What is stored

    async def list(self, queue: str | None = None) -> Sequence[ScheduleInfo]:
        """The stored schedules, by queue and name; all queues' unless one is named."""
        found = []
        for keys in await self._queues(queue):
            stored = await self._broker.schedules(keys)
            for name in sorted(stored):
                try:
                    check_schedule_name(name)
                    found.append(ScheduleInfo.of(name, keys.name, self._decode(keys, name, stored[name])))
                except (MalformedMessage, ConfigError, MissingDependency) as exc:  # the others are shown
                    text = "periodic schedule not readable"
                    event(logging.WARNING, text, queue=keys.name, schedule=name, error=str(exc))
        return found

    async def get(self, name: str, *, queue: str | None = None) -> ScheduleInfo:
        """One stored schedule.

        Args:
            name: its name.
            queue: where several queues have one of that name.

        Raises:
            ScheduleNotFound: there is none.
            ConfigError: several queues have one.
        """
        keys, read = await self._find(name, queue)
        return ScheduleInfo.of(name, keys.name, self._decode(keys, name, read))

    async def next_times(self, name: str, count: int = 5, *, queue: str | None = None) -> Sequence[datetime]:
        """When a schedule ticks next, unless it is paused; in UTC. Errors as in :meth:`get`."""
        keys, read = await self._find(name, queue)
        entry = self._decode(keys, name, read)
        if entry.paused:
            return ()
        rhythm, times = rhythm_of(entry), [entry.due]
        while len(times) < count:
            times.append(rhythm.after(times[-1]))
        return [_moment(ms) for ms in times[:count]]

    # Changing it

    async def add(
        self, schedule: Rhythm, task: Task[Any, Any] | str, **options: Unpack[ScheduleKwargs]
    ) -> ScheduleInfo:
        """Store a schedule; it stays until it is removed, whatever the code says.

        Args:
            schedule: when it ticks.
            task: the task, or its name, also of one that only the workers know.
            **options: see :class:`ScheduleKwargs`.

        Raises:
            ConfigError: an option is unknown or wrong, or there is a schedule of that name.
            TypeError: an argument is missing, unknown or not JSON.
            MessageTooLarge: its jobs would be over ``max_message_bytes``.
        """
        name, (queue, entry) = self._made(schedule, task, options)
        keys = self._client.keys.queue(queue)
        self._check(name, entry)
        await self._broker.announce(queue, again=True)  # first: who lists schedules looks in the known queues
        taken = [each for each, _ in await self._places(name, None)]
        entry = replace(entry, source="added", code=None, due=schedule.after(await self._now_ms()))
        stored = seal_schedule(self._client.keyring, keys.main, name, entry.encode())
        if taken or not await self._broker.plan(keys, name, b"", stored, entry.due):
            where = taken[0].name if taken else queue
            raise ConfigError(f"schedule {name!r}: there is one in the queue {where!r}; edit it, or take another name")
        await Inspector(self._client).hint()
        return ScheduleInfo.of(name, queue, entry)

    async def edit(self, name: str, *, queue: str | None = None, **changes: Unpack[EditKwargs]) -> ScheduleInfo:
        """Change a stored schedule. One that the code declares stays so until the code's definition changes.

        Args:
            name: its name.
            queue: where several queues have one of that name.
            **changes: ``schedule``, which begins anew from now, and options as in :class:`ScheduleKwargs`.

        Raises:
            ScheduleNotFound: there is none.
            ConfigError: an option is unknown or wrong.
            TypeError: an argument is not JSON.
        """
        given: dict[str, Any] = dict(changes)
        refuse_unknown("schedule option", given, list(EditKwargs.__annotations__))
        rhythm: Rhythm | None = given.pop("schedule", None)
        settings = _settings(given)
        if rhythm is not None:
            settings |= _rhythm_fields(rhythm)

        def changed(entry: Entry, now_ms: int) -> Entry:
            after = replace(entry, **settings)
            if rhythm is not None:
                after = replace(after, due=rhythm.after(now_ms))
            if after.overlap != "queue":
                after = replace(after, pending=())
            self._check(name, after)
            return after

        return await self._change(name, queue, changed)

    async def pause(self, name: str, *, queue: str | None = None) -> ScheduleInfo:
        """Let a schedule tick no more, until it is resumed. Errors as in :meth:`get`."""
        return await self._change(name, queue, lambda entry, _: replace(entry, paused=True))

    async def resume(self, name: str, *, queue: str | None = None) -> ScheduleInfo:
        """Let a paused schedule tick again, in its rhythm; nothing is made up for. Errors as in :meth:`get`."""
        return await self._change(name, queue, lambda entry, now_ms: resumed(entry, now_ms) if entry.paused else entry)

    async def trigger(self, name: str, *, queue: str | None = None) -> Job[Any]:
        """Enqueue a schedule's job now, also of a paused one; its rhythm stays as it is. Errors as in :meth:`get`."""
        keys, read = await self._find(name, queue)
        now_ms, made = await self._now_ms(), secrets.token_hex(16)
        entry = self._decode(keys, name, read)
        message = message_of(entry, made, now_ms, self._client.keyring, keys.main)
        item = Enqueued(made, False, level_of(entry), "", message)
        await self._client.put(keys.name, item)
        return Job(self._client, made, keys.name)

    async def remove(self, name: str, *, queue: str | None = None) -> None:
        """Remove a schedule; the jobs that it has enqueued stay. Errors as in :meth:`get`.

        One that the code declares comes back when a worker starts: pause it, or take it out of the code.
        """
        keys, read = await self._find(name, queue)
        while read and not await self._broker.plan(keys, name, read, b"", None):
            read = await self._broker.schedule(keys, name)
        await Inspector(self._client).hint()

    async def _change(self, name: str, queue: str | None, change: Callable[[Entry, int], Entry]) -> ScheduleInfo:
        keys, read = await self._find(name, queue)
        while True:
            entry = change(self._decode(keys, name, read), await self._now_ms())
            stored = seal_schedule(self._client.keyring, keys.main, name, entry.encode())
            if await self._broker.plan(keys, name, read, stored, look_at(entry)):
                await Inspector(self._client).hint()
                return ScheduleInfo.of(name, keys.name, entry)
            # A tick came in between, or somebody else's change: begin again with what is there now.
            if not (read := await self._broker.schedule(keys, name)):
                raise _not_found(name)

    def _made(self, schedule: Rhythm, task: Task[Any, Any] | str, options: ScheduleKwargs) -> tuple[str, Declared]:
        """A schedule's name, and it as the code declares it, with a fingerprint of all that counts."""
        given: dict[str, Any] = dict(options)
        refuse_unknown("schedule option", given, list(ScheduleKwargs.__annotations__))
        known = self._client.tasks.find(task) if isinstance(task, str) else task
        title = known.name if known is not None else str(task)
        name = check_schedule_name(given.pop("name", title))
        named = (given.pop("queue", None), known.defaults.queue if known is not None else None)
        queue = choose_queue(title, named, self._client.config.routes)
        self._client.keys.queue(queue)
        settings = _settings(given)
        if known is not None:
            settings["priority"] = choose_priority(settings.get("priority"), None, known.defaults.priority)
            settings["expires"] = optional_seconds(known.defaults.expires, "expires")
        entry = Entry(task=title, due=0, source="code", **settings, **_rhythm_fields(schedule))
        self._check(name, entry)
        return name, Declared(queue, replace(entry, code=sha256(entry.encode()).hexdigest()[:16]))

    def _check(self, name: str, entry: Entry) -> None:
        """Refuse what a tick could not enqueue: nobody would be there to be told."""
        task = self._client.tasks.find(entry.task)
        if task is not None:
            task.check(entry.args, entry.kwargs or {})
        sent = message_of(entry, job_id(name, 0), 0, self._client.keyring)
        size, limit = len(sent) + 32, self._client.config.limits.max_message_bytes
        if size > limit:
            raise MessageTooLarge(f"schedule {name}: its jobs have {size:,} bytes, max_message_bytes is {limit:,}")

    def _decode(self, keys: QueueKeys, name: str, read: bytes) -> Entry:
        return Entry.decode(open_schedule(self._client.keyring, keys.main, name, read))

    @property
    def _broker(self) -> Broker:
        return self._client.session().broker

    async def _now_ms(self) -> int:
        await self._broker.sync_clock()
        return self._broker.clock.now_ms()

    async def _queues(self, name: str | None) -> Sequence[QueueKeys]:
        if name is not None:
            return [self._client.keys.queue(name)]
        own = {*self._client.config.queues, *(each.queue for each in self.declared.values())}
        return [self._client.keys.queue(each) for each in sorted(own | set(await self._broker.queues()))]

    async def _places(self, name: str, queue: str | None) -> Sequence[tuple[QueueKeys, bytes]]:
        found = [(keys, await self._broker.schedule(keys, name)) for keys in await self._queues(queue)]
        return [(keys, read) for keys, read in found if read]

    async def _find(self, name: str, queue: str | None) -> tuple[QueueKeys, bytes]:
        places = await self._places(name, queue)
        if not places:
            raise _not_found(name)
        if len(places) > 1:
            names = ", ".join(keys.name for keys, _ in places)
            raise ConfigError(f"schedule {name!r}: the queues {names} have one of that name; say which queue")
        return places[0]


def message_of(entry: Entry, made: str, now_ms: int, keyring: Keyring | None = None, queue: bytes = b"") -> bytes:
    """The message of a schedule's job, sealed for a queue's main key where there are keys.

    Raises:
        TypeError: an argument is not JSON.
    """
    expires = None if entry.expires is None else now_ms + round(entry.expires * 1000)
    call = Call(entry.task, entry.args, entry.kwargs, enqueued=now_ms, expires=expires)
    return sealed(keyring, Message.build(Header(level=level_of(entry), id=made), call.encode()), queue).raw


def level_of(entry: Entry) -> int:
    """The list that a schedule's jobs go to."""
    return MAIN if entry.priority is None else entry.priority


_PLAIN: Final = {"args": tuple, "kwargs": dict}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that options stand for.

    Raises:
        ConfigError: one is wrong.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "args" | "kwargs":
                wanted = Mapping if name == "kwargs" else Sequence
                if not isinstance(value, wanted) or isinstance(value, str | bytes):
                    raise ConfigError(f"{name} {value!r}: a {'dict' if name == 'kwargs' else 'list or tuple'}")
                fields[name] = _PLAIN[name](value)
            case "priority":
                fields[name] = None if value is None else check_priority(value)
            case "misfire_grace":
                grace_s = seconds(value, name)
                if not 0 < grace_s < 1e10:
                    raise ConfigError(f"misfire_grace {value!r}: seconds above 0")
                fields["grace"] = round(grace_s * 1000)
            case _:
                allowed = MISFIRES if name == "misfire" else OVERLAPS
                if value not in allowed:
                    raise ConfigError(f"{name} {value!r}: one of {', '.join(allowed)}")
                fields[name] = value
    return fields


def _rhythm_fields(rhythm: Rhythm) -> dict[str, Any]:
    if isinstance(rhythm, Cron):
        return {"cron": rhythm.expression, "tz": rhythm.tz, "every": None}
    if isinstance(rhythm, Every):
        return {"cron": None, "tz": "UTC", "every": rhythm.ms}
    raise ConfigError(f"schedule {rhythm!r}: cron(…) or every(…)")


def _not_found(name: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"there is no periodic schedule {name!r}")


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
