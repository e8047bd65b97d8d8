"""An app's client side: registers tasks, makes messages of calls, and knows its sessions."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from rqueue.broker.broker import Enqueued, Known
from rqueue.broker.endpoint import Endpoint
from rqueue.client.context import CURRENT, Request
from rqueue.client.job import Job, JobInfo, SyncJob
from rqueue.client.listener import is_abandoned
from rqueue.client.options import INHERIT, TaskKwargs, TaskOptions, optional_seconds
from rqueue.client.portal import Portal, refuse_running_loop
from rqueue.client.registry import Registry, default_name
from rqueue.client.resources import ACTIVE, Provider, Resources, check_hook
from rqueue.client.session import Session
from rqueue.client.task import BoundDecorator, Decorator, Signature, Task
from rqueue.config import AppConfig
from rqueue.errors import (
    BrokerError,
    ConfigError,
    EnqueueManyFailed,
    EnqueueUnknown,
    JobNotFound,
    MessageTooLarge,
    WaitTimeout,
)
from rqueue.policy.clock import RedisClock
from rqueue.policy.routing import choose_priority, choose_queue
from rqueue.wire.keys import MAIN, Keys, QueueKeys
from rqueue.wire.message import Call, Header
from rqueue.wire.record import decode_record

P = ParamSpec("P")
R = TypeVar("R")
Hook = TypeVar("Hook", bound=Callable[[], object])

Runner = Callable[[QueueKeys, Sequence[Enqueued]], Awaitable[list[bool]]]


class Client:
    """Everything of an app but its workers.

    Attributes:
        config: queues, routes and limits.
        endpoint: where Redis is.
        keys: the namespace's keys.
        tasks: the registered tasks.
        eager: when set, it runs jobs in place of enqueueing them.
        lifespan: entered as a worker starts, and left as it ends.
        startup_hooks, shutdown_hooks: the same as functions.
        workers: the app's workers that run in this process.
        dependency_overrides: provider -> the one that takes its place; for tests.
    """

    def __init__(self, endpoint: Endpoint, config: AppConfig) -> None:
        self.config = config
        self.endpoint = endpoint
        self.keys = Keys(config.namespace)
        self.tasks = Registry()
        self.eager: Runner | None = None
        self.lifespan: Callable[[Any], Any] | None = None
        self.startup_hooks: list[Callable[[], object]] = []
        self.shutdown_hooks: list[Callable[[], object]] = []
        self.dependency_overrides: dict[Provider, Provider] = {}
        self.workers: set[Any] = set()
        self._resources: dict[asyncio.AbstractEventLoop, Resources] = {}
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._portal: Portal | None = None
        self._portal_lock = threading.Lock()
        self._closing: asyncio.Task[None] | None = None

    # Tasks

    @overload
    def task(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskKwargs]) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Unpack[TaskKwargs]) -> Decorator: ...
    def task(self, *function: Any, **options: Any) -> Any:
        """Register a function as a task, as ``@app.task`` or ``@app.task(option=…)``.

        Args:
            *function: the function, where there are no options: a coroutine function runs on the event loop, any
                other in a thread.
            **options: ``bind=True`` gives the function a :class:`~rqueue.client.context.Context` as its first
                argument; for the others see :class:`~rqueue.client.options.TaskOptions`.

        Raises:
            ConfigError: an option is unknown or wrong, or the name is taken.
        """
        bind = options.pop("bind", False)
        if not isinstance(bind, bool):
            raise ConfigError(f"bind {bind!r}: True or False")
        defaults = TaskOptions.of(options)

        def register(function: Callable[..., Any]) -> Task[Any, Any]:
            task: Task[Any, Any] = Task(self, function, defaults.name or default_name(function), defaults, bind=bind)
            self.tasks.add(task)
            return task

        return register(*function) if function else register

    # A worker's life

    def on_startup(self, hook: Hook) -> Hook:
        """Run a function once in each worker process before it takes a job, as ``@app.on_startup``.

        Args:
            hook: a function without arguments, a coroutine function or a plain one; it runs on the event loop. Hooks
                run in their order. One that raises keeps the worker from starting.

        Raises:
            ConfigError: it takes arguments.
        """
        check_hook(hook)
        self.startup_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run a function once in each worker process after its last job, as ``@app.on_shutdown``.

        Args:
            hook: as for :meth:`on_startup`. Hooks run in reverse order, once the startup hooks had all run; what one
                raises is logged.

        Raises:
            ConfigError: it takes arguments.
        """
        check_hook(hook)
        self.shutdown_hooks.append(hook)
        return hook

    @asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        """Open what the tasks need by ``Depends``, in the running loop: in the block tasks can be called directly.

        Blocks in one loop share what is open, and the last one closes it.

        Raises:
            StartupFailed: a resource could not be opened.
            ConfigError: resources need each other in a circle.
        """
        loop = asyncio.get_running_loop()
        resources = self.active_resources()
        if resources is None:
            resources = self._resources[loop] = Resources(self)
        else:
            resources.users += 1
        # For threads that the block starts. Not reset, since a fixture may leave in another context: closed is enough.
        ACTIVE.set(resources)
        try:
            await resources.open()
            yield
        finally:
            resources.users -= 1
            if not resources.users:
                self._resources.pop(loop, None)
                await resources.close()

    def active_resources(self) -> Resources | None:
        """What is open for the code that asks: its worker's resources, or those of a block in its loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        inherited = ACTIVE.get()
        if (
            inherited is not None
            and inherited.client is self
            and inherited.is_open
            and loop in (None, inherited.loop)  # no resource is ever used from another loop
        ):
            return inherited
        return self._resources.get(loop) if loop is not None else None

    # Enqueueing

    async def enqueue(self, signature: Signature[R]) -> Job[R]:
        """Enqueue one call; see :meth:`~rqueue.client.task.Task.enqueue`."""
        session = self.session()
        if signature.expires and not session.broker.clock.is_observed:
            await session.broker.sync_clock()
        queue, item = self._message(signature, session.broker.clock)
        (fresh,) = await self._put(session, queue, [item])
        return Job(self, item.id, queue, duplicate=not fresh)

    async def enqueue_many(self, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Enqueue many calls; all of one queue's in one step. All are checked before any is sent.

        Raises:
            EnqueueManyFailed: one queue took its jobs and another did not; it says so for each call.
            Exception: where nothing was enqueued, what :meth:`~rqueue.client.task.Task.enqueue` raises.
        """
        session = self.session()
        if not session.broker.clock.is_observed and any(signature.expires for signature in signatures):
            await session.broker.sync_clock()
        prepared = [self._message(signature, session.broker.clock) for signature in signatures]
        by_queue: dict[str, list[Enqueued]] = {}
        for queue, item in prepared:
            by_queue.setdefault(queue, []).append(item)
        answers = await asyncio.gather(
            *(self._put(session, queue, items) for queue, items in by_queue.items()), return_exceptions=True
        )
        failed = {queue: each for queue, each in zip(by_queue, answers, strict=True) if isinstance(each, BaseException)}
        fresh = {queue: iter(each) for queue, each in zip(by_queue, answers, strict=True) if isinstance(each, list)}
        jobs: list[Job[Any] | None] = [
            None if queue in failed else Job(self, item.id, queue, duplicate=not next(fresh[queue]))
            for queue, item in prepared
        ]
        if not failed:
            return [job for job in jobs if job is not None]
        is_in_doubt = len(failed) > 1 and any(isinstance(error, EnqueueUnknown) for error in failed.values())
        if not (fresh or is_in_doubt) or not all(isinstance(error, BrokerError) for error in failed.values()):
            raise next(iter(failed.values()))
        raise EnqueueManyFailed(jobs, [failed.get(queue) for queue, _ in prepared])

    def enqueue_sync(self, signature: Signature[R]) -> SyncJob[R]:
        """Enqueue one call from synchronous code; see :meth:`~rqueue.client.task.Task.delay`."""
        refuse_running_loop("task.delay() and task.apply_async()", "await task.enqueue(…)")
        portal = self.portal()
        # Made in this thread, since the running job is known here; only the sending happens in the portal's loop.
        clock: RedisClock = portal.call(self._synced_clock if signature.expires else self._clock)
        queue, item = self._message(signature, clock)
        if self.eager is not None:
            with asyncio.Runner() as runner:
                runner.run(self._eager_once(queue, item))
            return SyncJob(Job(self, item.id, queue), portal.call)

        async def put() -> bool:
            (fresh,) = await self._put(self.session(), queue, [item])
            return fresh

        return SyncJob(Job(self, item.id, queue, duplicate=not portal.call(put)), portal.call)

    # Jobs

    def job(self, job_id: str, queue: str | None = None) -> Job[Any]:
        """A handle from an id alone; whether the job exists is asked when the handle is used."""
        return Job(self, job_id, queue)

    async def wait(self, job_id: str, queue: str | None, timeout: float | None) -> bytes:
        """The final record of a job; see :meth:`~rqueue.client.job.Job.result`."""
        if timeout is not None and timeout <= 0:
            _, known = await self._locate(job_id, queue)
            if known.record is not None and decode_record(known.record)["state"].is_final:
                return known.record
            raise WaitTimeout(f"job {job_id} has not ended yet; it goes on")
        try:
            async with asyncio.timeout(timeout):
                keys = self.keys.queue(queue) if queue is not None else (await self._locate(job_id))[0]
                return await self.session().listener.wait(keys, job_id)
        except TimeoutError:
            raise WaitTimeout(f"job {job_id} had not ended after {timeout:g} s; it goes on") from None

    async def info(self, job_id: str, queue: str | None) -> JobInfo:
        """What is known of a job; see :meth:`~rqueue.client.job.Job.info`."""
        keys, known = await self._locate(job_id, queue)
        return JobInfo.of(job_id, keys.name, known.record, is_dead=known.is_dead and not known.is_alive)

    async def clock_moved(self) -> None:
        """Redis's clock was moved, in a test: the running loop's session and workers take note."""
        await self.session().broker.sync_clock()
        for worker in list(self.workers):
            await worker.clock_moved()

    # Opening and closing

    async def open(self) -> None:
        """Connect in the running loop; a first use does it as well.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        await self.session().broker.open()

    async def close(self) -> None:
        """Close what is open in the running loop, and the thread that serves synchronous code."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()
        with self._portal_lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            await asyncio.to_thread(portal.stop)

    def session(self) -> Session:
        """What is open in the running loop."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or not session.is_usable() or session.broker.endpoint is not self.endpoint:
            if session is not None and session.is_usable():
                self._closing = asyncio.create_task(session.close())  # the app has moved to another server
            self._sessions = {other: each for other, each in self._sessions.items() if each.is_usable()}
            session = self._sessions[loop] = Session(self.endpoint, self.keys, self.config.limits)
        return session

    def portal(self) -> Portal:
        """The thread that serves synchronous code in this process."""
        with self._portal_lock:
            if self._portal is None or not self._portal.is_usable:
                self._portal = Portal(self._close_session)
            return self._portal

    async def _close_session(self) -> None:
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def _clock(self) -> RedisClock:
        return self.session().broker.clock

    async def _synced_clock(self) -> RedisClock:
        broker = self.session().broker
        if not broker.clock.is_observed:
            await broker.sync_clock()
        return broker.clock

    async def _put(self, session: Session, queue: str, items: Sequence[Enqueued]) -> list[bool]:
        if self.eager is not None:
            return await self.eager(self.keys.queue(queue), items)
        return await session.producer.put(self.keys.queue(queue), items)

    async def _eager_once(self, queue: str, item: Enqueued) -> None:
        try:
            await self._put(self.session(), queue, [item])
        finally:
            await self._close_session()

    async def _locate(self, job_id: str, queue: str | None = None) -> tuple[QueueKeys, Known]:
        """Where a job is known; without its queue, all queues are asked at once."""
        broker = self.session().broker
        names = [queue] if queue is not None else await broker.queues()
        pairs = [(self.keys.queue(name), job_id) for name in names]
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

    def _message(self, signature: Signature[Any], clock: RedisClock) -> tuple[str, Enqueued]:
        """The queue and the message of a call.

        Raises:
            TypeError, MessageTooLarge: it cannot be sent.
        """
        task, options = signature.task, signature.options
        parent = CURRENT.get()
        queue = choose_queue(task.name, (options.queue, task.defaults.queue), self.config.routes)
        priority = choose_priority(options.priority, parent.priority if parent else None, task.defaults.priority)
        job_id = options.job_id or secrets.token_hex(16)
        now = clock.now_ms()
        call = Call(
            task=task.name,
            args=signature.args,
            kwargs=signature.kwargs,
            enqueued=now,
            expires=options.expires_ms(now, task.defaults.expires),
            parent_id=parent.id if parent else None,
            root_id=parent.root_id if parent else None,
            max_retries=options.max_retries if options.max_retries is not INHERIT else ...,
            time_limit=optional_seconds(options.time_limit, "time_limit"),
            soft_time_limit=optional_seconds(options.soft_time_limit, "soft_time_limit"),
        )
        level = MAIN if priority is None else priority
        message = Header(level=level, id=job_id).encode() + call.encode()
        limit = self.config.limits.max_message_bytes
        if len(message) > limit:
            raise MessageTooLarge(
                f"{task.name}: the message has {len(message):,} bytes, max_message_bytes is {limit:,}; "
                "store large data elsewhere and send a reference"
            )
        return queue, Enqueued(job_id, options.job_id is not None, level, options.due(), message)


def current_request() -> Request | None:
    """The job that runs in this context, or None."""
    return CURRENT.get()
