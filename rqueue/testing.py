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

from rqueue.app import RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.worker.eager import EagerRunner
from rqueue.worker.worker import Worker


@contextmanager
def in_memory(app: RQueue) -> Iterator[RQueue]:
    """The app on a server of its own in this process, empty at first; afterwards it is where it was.

    What the app had open elsewhere is put aside, so that nothing in the block reaches it, and what the block opened is
    closed with it.
    """
    endpoint, sessions, portal = app.endpoint, app._sessions, app._portal  # noqa: SLF001 - the app moves as a whole
    app.endpoint, app._sessions, app._portal = Endpoint("memory://"), {}, None  # noqa: SLF001
    try:
        yield app
    finally:
        _close(app)
        app.endpoint, app._sessions, app._portal = endpoint, sessions, portal  # noqa: SLF001


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
