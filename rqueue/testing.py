"""For tests of programs that use rqueue: an app on a server in this process, with a worker inside.

    async def test_it(rqueue_app, rqueue_worker):
        job = await my_task.enqueue(1)
        assert await job.result(timeout=5) == 2

The pytest fixtures are in :mod:`rqueue.pytest_plugin`; they come with ``pip install 'rqueue[test]'``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rqueue.app import RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.worker.eager import EagerRunner
from rqueue.worker.worker import Worker


@contextmanager
def in_memory(app: RQueue) -> Iterator[RQueue]:
    """The app on a server of its own in this process, empty at first; afterwards it is where it was."""
    endpoint = app.endpoint
    app.endpoint = Endpoint("memory://")
    try:
        yield app
    finally:
        app.endpoint = endpoint


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
