"""For tests of programs that use rqueue: an app on a server in this process, with a worker inside.

    async def test_it(rqueue_app, rqueue_worker):
        job = await my_task.enqueue(1)
        assert await job.result(timeout=5) == 2

The pytest fixtures are in :mod:`rqueue.pytest_plugin`; they come with ``pip install 'rqueue[test]'``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from rqueue.app import RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.client.options import Seconds, seconds
from rqueue.errors import ConfigError
from rqueue.worker.eager import EagerRunner
from rqueue.worker.worker import Worker


@contextmanager
def in_memory(app: RQueue) -> Iterator[RQueue]:
    """The app on a server of its own in this process, empty at first; afterwards it is where it was.

    What the app had open elsewhere is put aside, so that nothing in the block reaches it, and what the block opened is
    closed with it. A store of results is left alone: Redis keeps them.
    """
    endpoint, sessions, portal = app.endpoint, app._sessions, app._portal  # noqa: SLF001 - the app moves as a whole
    config, app.config = app.config, replace(app.config, results=None)
    app.endpoint, app._sessions, app._portal = Endpoint("memory://"), {}, None  # noqa: SLF001
    try:
        yield app
    finally:
        _close(app)
        app.endpoint, app._sessions, app._portal = endpoint, sessions, portal  # noqa: SLF001
        app.config = config


@contextmanager
def eager(app: RQueue) -> Iterator[RQueue]:
    """The app in memory, running each job where it is enqueued, through the same encoding.

    Results are kept as ever: ``await job.result()`` and ``job.get()`` work. Delays are not waited for, and retries
    follow each other at once.
    """
    before = app.eager
    with in_memory(app):
        app.eager = EagerRunner(app).run
        try:
            yield app
        finally:
            app.eager = before


class Clock:
    """Redis's clock as an app under test sees it: it goes on as ever, and can be moved.

    Due times, leases, expiry, periodic jobs and unique locks follow it, in every worker of the app in this process.
    What has a TTL in Redis (results, counts) goes by the server's own clock.
    """

    def __init__(self, app: RQueue) -> None:
        self._app = app

    async def move(self, by: Seconds) -> None:
        """Move it by seconds or a timedelta, ahead or back; returns when the app's workers have been told."""
        broker = self._app.session().broker
        assert broker.endpoint.clock is not None, "the clock has been given back"
        await broker.add_to_clock(round(seconds(by, "by") * 1000))
        await self._app.clock_moved()

    async def move_to(self, moment: datetime) -> None:
        """Move it to a moment.

        Raises:
            ConfigError: the datetime has no time zone.
        """
        if moment.tzinfo is None:
            raise ConfigError(f"moment {moment!r}: a datetime needs a time zone, for example datetime.now(UTC)")
        await self.move(moment - self.now())

    def now(self) -> datetime:
        """What time it is there."""
        return datetime.fromtimestamp(self._app.session().broker.clock.now_ms() / 1000, UTC)


@asynccontextmanager
async def moving_clock(app: RQueue) -> AsyncIterator[Clock]:
    """A clock for the app that the test moves; afterwards the app is on Redis's own again."""
    endpoint = app.endpoint
    endpoint.move_clock(f"{app.keys.namespace}:clock".encode())
    try:
        await app.session().broker.sync_clock()
        yield Clock(app)
    finally:
        await app.session().broker.reset_clock()
        endpoint.move_clock(None)
        await app.clock_moved()


@asynccontextmanager
async def working(app: RQueue, concurrency: int = 10) -> AsyncIterator[Worker]:
    """A worker for all of the app's queues, in the running loop, for as long as the block lasts."""
    async with app, app.worker(concurrency=concurrency, shutdown_timeout=1) as worker:
        yield worker


def _close(app: RQueue) -> None:
    """Close what the app has open, as far as that can be done without waiting for this thread's own loop."""
    if app._portal is not None:  # noqa: SLF001
        app._portal.stop()  # noqa: SLF001
    try:
        session = app._sessions.get(asyncio.get_running_loop())  # noqa: SLF001
    except RuntimeError:
        return  # a loop that has ended, or is about to, cancels what it has left
    if session is not None:
        closing = session.loop.create_task(session.close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
