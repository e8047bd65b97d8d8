"""An app's client side: registers tasks, makes messages of calls, and knows its sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from rqueue.broker.broker import Enqueued
from rqueue.broker.endpoint import Endpoint
from rqueue.client import results
from rqueue.client.context import current_request
from rqueue.client.events import Event, Events, events_of
from rqueue.client.history import History
from rqueue.client.job import Job, JobInfo, SyncJob
from rqueue.client.options import NO_OPTIONS, TaskKwargs, TaskOptions
from rqueue.client.outbox import delay_in, enqueue_in
from rqueue.client.pauses import Pause, Pauses, Resumed
from rqueue.client.portal import Portal, refuse_running_loop
from rqueue.client.producer import Answer
from rqueue.client.registry import Registry, default_name
from rqueue.client.resources import ACTIVE, Provider, Resources, check_hook
from rqueue.client.revocation import REVOKED_RECORD, Cancellations, Cancelled, Criteria, Revocation, Target
from rqueue.client.schedules import ScheduleKwargs, Schedules
from rqueue.client.session import Session
from rqueue.client.signals import Hooks, JobOutcome, Signal, Signals
from rqueue.client.task import BoundDecorator, Decorator, Signature, Task
from rqueue.client.uniqueness import lock_of
from rqueue.config import AppConfig
from rqueue.errors import (
    BrokerError,
    ConfigError,
    EnqueueManyFailed,
    EnqueueUnknown,
    MessageTooLarge,
)
from rqueue.policy.clock import RedisClock
from rqueue.policy.periodic import Rhythm
from rqueue.wire.ids import forget_stock, new_id
from rqueue.wire.keys import Keys, QueueKeys
from rqueue.wire.message import encode_call, new_header
from rqueue.wire.seal import Keyring, seal_call

if TYPE_CHECKING:
    from rqueue.client.outbox import AsyncTransaction, SyncTransaction

P = ParamSpec("P")
R = TypeVar("R")
AnyTask = TypeVar("AnyTask", bound=Task[Any, Any])
Hook = TypeVar("Hook", bound=Callable[[], object])
JobHook = TypeVar("JobHook", bound=Callable[[JobOutcome], object])

Runner = Callable[[QueueKeys, Sequence[Enqueued]], Awaitable[Sequence[Answer]]]


class Client:
    """Everything of an app but its workers.

    Attributes:
        config: queues, routes and limits.
        endpoint: where Redis is.
        keys: the namespace's keys.
        tasks: the registered tasks.
        schedules: the periodic schedules: those that the code declares, and those that are stored.
        eager: when set, it runs jobs in place of enqueueing them.
        lifespan: entered as a worker starts, and left as it ends.
        startup_hooks, shutdown_hooks: the same as functions.
        workers: the app's workers that run in this process.
        dependency_overrides: provider -> the one that takes its place; for tests.
        signals: Celery's signals: ``@app.signals.task_prerun.connect``.
        hooks: what is called once a job of any task was settled.
        keyring: seals what is stored, and opens it; None: nothing is sealed.
    """

    def __init__(self, endpoint: Endpoint, config: AppConfig, keyring: Keyring | None = None) -> None:
        self.config = config
        self.keyring = keyring
        self.endpoint = endpoint
        self.keys = Keys(config.namespace)
        self.tasks = Registry()
        self.schedules = Schedules(self)
        self.eager: Runner | None = None
        self.lifespan: Callable[[Any], Any] | None = None
        self.startup_hooks: list[Callable[[], object]] = []
        self.shutdown_hooks: list[Callable[[], object]] = []
        self.dependency_overrides: dict[Provider, Provider] = {}
        self.signals = Signals(lambda function: self.portal().spawn(function))
        self.hooks = Hooks(self.signals)
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

    def periodic(self, schedule: Rhythm, **options: Unpack[ScheduleKwargs]) -> Callable[[AnyTask], AnyTask]:
        """Enqueue a task again and again, as ``@app.periodic(every(minutes=5))`` above ``@app.task``.

        Any worker that serves the task's queue does it, and each tick is enqueued once, however many there are.

        Args:
            schedule: :func:`~rqueue.policy.periodic.cron` or :func:`~rqueue.policy.periodic.every`.
            **options: see :class:`~rqueue.client.schedules.ScheduleKwargs`.

        Raises:
            ConfigError: an option is unknown or wrong, or another schedule has the name.
        """

        def declare(task: AnyTask) -> AnyTask:
            self.schedules.declare(schedule, task, options)
            return task

        return declare

    def add_periodic(self, schedule: Rhythm, task: Task[Any, Any] | str, **options: Unpack[ScheduleKwargs]) -> None:
        """Declare a periodic schedule of a task, or of a registered task's name; as :meth:`periodic`."""
        self.schedules.declare(schedule, task, options)

    # Hooks

    def on_success(self, hook: JobHook) -> JobHook:
        """Call a function when a job of any task has succeeded; see :meth:`~rqueue.client.task.Task.on_success`."""
        return self.hooks.add("on_success", hook)

    def on_failure(self, hook: JobHook) -> JobHook:
        """Call a function when a job has failed for good, also one that nobody could read or run."""
        return self.hooks.add("on_failure", hook)

    def on_retry(self, hook: JobHook) -> JobHook:
        """Call a function when a job will run again."""
        return self.hooks.add("on_retry", hook)

    def on_dead(self, hook: JobHook) -> JobHook:
        """Call a function when a job has become a dead letter, also one that nobody could read or run."""
        return self.hooks.add("on_dead", hook)

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
        signature.task.check(signature.args, signature.kwargs)
        session = self.session()
        if not session.broker.clock.is_observed and signature.terms.expires:
            await session.broker.sync_clock()
        queue, item = self._message(signature, session.broker.clock.now_ms())
        if self.signals.is_used:
            self._publishing(self.signals.before_task_publish, signature, queue, item)
        (answer,) = await self._put(session, queue, [item])
        if answer is True and self.signals.is_used:
            self._publishing(self.signals.after_task_publish, signature, queue, item)
        return self._job_of(queue, item, answer)

    async def enqueue_many(self, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Enqueue many calls; all of one queue's in one step. All are checked before any is sent.

        Raises:
            EnqueueManyFailed: one queue took its jobs and another did not; it says so for each call.
            Exception: where nothing was enqueued, what :meth:`~rqueue.client.task.Task.enqueue` raises.
        """
        session = self.session()
        if not session.broker.clock.is_observed and any(signature.terms.expires for signature in signatures):
            await session.broker.sync_clock()
        now = session.broker.clock.now_ms()
        queues: list[str] = []
        items: list[Enqueued] = []
        by_queue: dict[str, list[Enqueued]] = {}
        for signature in signatures:
            queue, item = self._message(signature, now)
            queues.append(queue)
            items.append(item)
            by_queue.setdefault(queue, []).append(item)
        if self.signals.is_used:
            for signature, queue, item in zip(signatures, queues, items, strict=True):
                self._publishing(self.signals.before_task_publish, signature, queue, item)
        answers = await asyncio.gather(
            *(self._put(session, queue, items) for queue, items in by_queue.items()), return_exceptions=True
        )
        failed = {queue: each for queue, each in zip(by_queue, answers, strict=True) if isinstance(each, BaseException)}
        given = {
            queue: iter(each)
            for queue, each in zip(by_queue, answers, strict=True)
            if not isinstance(each, BaseException)
        }
        jobs: list[Job[Any] | None] = [
            None if queue in failed else self._job_of(queue, item, next(given[queue]))
            for queue, item in zip(queues, items, strict=True)
        ]
        if self.signals.is_used:
            for signature, queue, item, job in zip(signatures, queues, items, jobs, strict=True):
                if job is not None and not job.duplicate:
                    self._publishing(self.signals.after_task_publish, signature, queue, item)
        if not failed:
            return cast("list[Job[Any]]", jobs)
        is_in_doubt = len(failed) > 1 and any(isinstance(error, EnqueueUnknown) for error in failed.values())
        if not (given or is_in_doubt) or not all(isinstance(error, BrokerError) for error in failed.values()):
            raise next(iter(failed.values()))
        raise EnqueueManyFailed(jobs, [failed.get(queue) for queue in queues])

    def enqueue_sync(self, signature: Signature[R]) -> SyncJob[R]:
        """Enqueue one call from synchronous code; see :meth:`~rqueue.client.task.Task.delay`."""
        refuse_running_loop("task.delay() and task.apply_async()", "await task.enqueue(…)")
        portal = self.portal()
        # Made in this thread, since the running job is known here; only the sending happens in the portal's loop.
        clock: RedisClock = portal.call(self._synced_clock if signature.terms.expires else self._clock)
        queue, item = self._message(signature, clock.now_ms())
        if self.signals.is_used:
            self._publishing(self.signals.before_task_publish, signature, queue, item)
        if self.eager is not None:
            with asyncio.Runner() as runner:
                runner.run(self._eager_once(queue, item))
            return SyncJob(Job(self, item.id, queue), portal.call)

        async def put() -> Answer:
            (answer,) = await self._put(self.session(), queue, [item])
            return answer

        answer = portal.call(put)
        if answer is True and self.signals.is_used:
            self._publishing(self.signals.after_task_publish, signature, queue, item)
        return SyncJob(self._job_of(queue, item, answer), portal.call)

    async def enqueue_in(self, session: AsyncTransaction, signature: Signature[R]) -> Job[R]:
        """Write one call into the outbox; see :meth:`~rqueue.client.task.Task.enqueue_in`."""
        signature.task.check(signature.args, signature.kwargs)
        (job,) = await enqueue_in(self, session, [signature])
        return job

    async def enqueue_many_in(self, session: AsyncTransaction, signatures: Sequence[Signature[Any]]) -> list[Job[Any]]:
        """Write many calls into the outbox, within a transaction of the caller's.

        All are checked before any is written. Errors as in :meth:`~rqueue.client.task.Task.enqueue_in`.
        """
        return await enqueue_in(self, session, signatures)

    def delay_in(self, session: SyncTransaction, signature: Signature[R]) -> SyncJob[R]:
        """Write one call into the outbox, from synchronous code; see :meth:`~rqueue.client.task.Task.delay_in`."""
        return delay_in(self, session, signature)

    # Jobs

    def job(self, job_id: str, queue: str | None = None) -> Job[Any]:
        """A handle from an id alone; whether the job exists is asked when the handle is used."""
        return Job(self, job_id, queue)

    async def wait(self, job_id: str, queue: str | None, timeout: float | None, unsent_s: float = 0) -> bytes:
        """The final record of a job; see :meth:`~rqueue.client.job.Job.result`."""
        return await results.wait(self, job_id, queue, timeout, unsent_s)

    async def info(self, job_id: str, queue: str | None) -> JobInfo:
        """What is known of a job; see :meth:`~rqueue.client.job.Job.info`."""
        return await results.info(self, job_id, queue)

    def job_events(self, job_id: str, queue: str | None, timeout: float | None) -> AsyncIterator[Event]:
        """A job's events; see :meth:`~rqueue.client.job.Job.events`."""
        return events_of(self, job_id, queue, timeout)

    def events(self, queue: str | None = None, task: Task[Any, Any] | str | None = None) -> Events:
        """Each change of the app's jobs as it comes: ``async for event in app.events()``; it never ends by itself.

        Seen are RETRY and the ends of all jobs, and STARTED and progress where they are tracked: a plain job announces
        its end only. What changed before is not seen, nor what changes while the connection is broken or the reader
        is too slow: the next event has ``after_gap`` then. In ``async with app.events() as events:`` nothing is missed
        from the block's beginning on.

        Args:
            queue: only this queue's.
            task: only this task's, by name or as the task.

        Raises:
            ConfigError: the queue's name is none.
        """
        return Events(self, queue, task)

    async def locate(self, job_id: str) -> str:
        """The queue of a job that is known by its id alone.

        Raises:
            JobNotFound: nobody knows it.
        """
        return (await results.locate(self, job_id))[0].name

    async def cancel_job(self, job_id: str, queue: str | None, *, terminate: bool = False) -> Cancelled:
        """Cancel one job; see :meth:`~rqueue.client.job.Job.cancel`."""
        keys, known = await results.locate(self, job_id, queue)
        while known.is_alive:
            before, targets = keys, [Target(job_id)]
            outcome = (await Revocation(self).cancel(keys, targets, terminate=terminate))[job_id]
            if outcome is not Cancelled.TOO_LATE:
                return outcome
            keys, known = await results.locate(self, job_id, keys.name)
            if keys is before:
                return outcome
            # It went on in another queue meanwhile, and is cancelled there, if its worker has not done so.
            if not known.is_alive and known.record is not None and known.record.startswith(REVOKED_RECORD):
                return Cancelled.REMOVED
        return Cancelled.TOO_LATE

    async def cancel(
        self,
        *,
        task: str | Task[Any, Any] | None = None,
        header: tuple[str, Any] | None = None,
        queue: str | None = None,
        terminate: bool = False,
        dry_run: bool = False,
    ) -> Cancellations:
        """Cancel the jobs of a task, or with a header, that exist now; what is enqueued afterwards is not touched.

        Args:
            task: those of this task, or of the task of this name.
            header: those with this header, ``("tenant", "acme")``. With a task: those that are both.
            queue: only of this queue; None is all.
            terminate: as for :meth:`~rqueue.client.job.Job.cancel`.
            dry_run: cancel nothing, only count in ``found``.

        Raises:
            ConfigError: neither a task nor a header is given, or the header is no such pair.
            TypeError: the header's value is not JSON.
            BrokerError: Redis refused, or could not be asked; what is left can be cancelled by another call.
        """
        criteria = Criteria(None if task is None else self.tasks.names(task), header)
        return await Revocation(self).matching(criteria, queue, terminate=terminate, dry_run=dry_run)

    @property
    def history(self) -> History:
        """What became of jobs, asked of the database that ``results=`` names."""
        return History(self)

    # Pausing

    async def pause(
        self,
        queue: str | None = None,
        *,
        task: str | Task[Any, Any] | None = None,
        all: bool = False,  # noqa: A002 - as on the command line
    ) -> bool:
        """Start no more jobs until :meth:`resume`; what runs goes on. See :meth:`~rqueue.client.pauses.Pauses.pause`.

        Args:
            queue: of this queue.
            task: of this task, in all queues.
            all: of the whole namespace.
        """
        return await Pauses(self).pause(queue, task, all)

    async def resume(
        self,
        queue: str | None = None,
        *,
        task: str | Task[Any, Any] | None = None,
        all: bool = False,  # noqa: A002 - as on the command line
    ) -> Resumed:
        """Undo :meth:`pause` of the same arguments. See :meth:`~rqueue.client.pauses.Pauses.resume`."""
        return await Pauses(self).resume(queue, task, all)

    async def paused(self) -> list[Pause]:
        """What is paused, and since when."""
        return await Pauses(self).paused()

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
        if session is not None and session.broker.endpoint is self.endpoint and session.is_usable():
            return session
        if session is not None and session.is_usable():
            self._closing = asyncio.create_task(session.close())  # the app has moved to another server
        self._sessions = {other: each for other, each in self._sessions.items() if each.is_usable()}
        session = self._sessions[loop] = Session(self.endpoint, self.keys, self.config.limits, self.config.results)
        return session

    def portal(self) -> Portal:
        """The thread that serves synchronous code in this process."""
        with self._portal_lock:
            if self._portal is None or not self._portal.is_usable:
                forget_stock()  # uWSGI forks without a word to Python: its children are noticed here alone
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

    def _job_of(self, queue: str, item: Enqueued, answer: Answer) -> Job[Any]:
        """The handle of what was enqueued, or of the job that was there first."""
        if answer is True:
            return Job(self, item.id, queue)
        return Job(self, answer if isinstance(answer, str) else item.id, queue, duplicate=True)

    async def put(self, queue: str, item: Enqueued) -> bool:
        """Enqueue a message that is made already; false when a job of its id is alive."""
        (answer,) = await self._put(self.session(), queue, [item])
        return answer is True

    def _publishing(self, signal: Signal, signature: Signature[Any], queue: str, item: Enqueued) -> None:
        if signal:
            name, args, kwargs = signature.task.name, list(signature.args), dict(signature.kwargs)
            signal.send(
                name,
                task_id=item.id,
                args=args,
                kwargs=kwargs,
                queue=queue,
                headers={"id": item.id, "task": name},
                body=(args, kwargs),
                exchange="",
                routing_key=queue,
            )

    def _put(self, session: Session, queue: str, items: Sequence[Enqueued]) -> Awaitable[Sequence[Answer]]:
        if self.eager is not None:
            return self.eager(self.keys.queue(queue), items)
        return session.producer.put(self.keys.queue(queue), items)

    async def _eager_once(self, queue: str, item: Enqueued) -> None:
        try:
            await self._put(self.session(), queue, [item])
        finally:
            await self._close_session()

    def _message(self, signature: Signature[Any], now: int) -> tuple[str, Enqueued]:
        """The queue and the message of a call, at this time in ms.

        Raises:
            TypeError, MessageTooLarge: it cannot be sent.
        """
        task, parent = signature.task, current_request()
        terms = task.terms if signature.options is NO_OPTIONS else signature.terms
        job_id = terms.job_id or new_id()
        lock = lock_of(signature) if terms.is_locking else None
        level, rare = terms.level, None
        if parent is not None:
            level = terms.level_under(parent.priority)
            rare = terms.fields(now, parent.id, parent.root_id, lock.field if lock else None)
        elif not terms.is_plain:
            rare = terms.fields(now, None, None, lock.field if lock else None)
        body = encode_call(task.name, signature.args, signature.kwargs, now, rare)
        if self.keyring is not None:
            # A debounced call may go on under the id of the one before it.
            is_any = lock is not None and lock.kind == "debounce"
            body = seal_call(self.keyring, self.keys.queue(terms.queue).main, job_id, body, any_id=is_any)
        message = new_header(level, job_id) + body
        limit = self.config.limits.max_message_bytes
        if len(message) > limit:
            raise MessageTooLarge(
                f"{task.name}: the message has {len(message):,} bytes, max_message_bytes is {limit:,}; "
                "store large data elsewhere and send a reference"
            )
        if lock is None:
            return terms.queue, Enqueued(job_id, terms.job_id is not None, level, terms.due, message)
        return terms.queue, Enqueued(job_id, terms.job_id is not None, level, lock.due or terms.due, message, lock.wire)
