"""The pytest plugin: ``rqueue_app``, ``rqueue_worker`` and ``rqueue_eager``.

A test suite says which app it tests by a fixture ``rqueue_target``, which returns the :class:`~rqueue.RQueue`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from rqueue.app import RQueue
    from rqueue.worker.worker import Worker


@pytest.fixture
def rqueue_target() -> RQueue:
    """The app under test: to be defined in the suite's ``conftest.py``."""
    raise pytest.UsageError("define a fixture rqueue_target in your conftest.py that returns your RQueue app")


@pytest.fixture
def rqueue_app(rqueue_target: RQueue) -> Iterator[RQueue]:
    """The app on an empty server in this process."""
    from rqueue.testing import in_memory

    with in_memory(rqueue_target) as app:
        yield app


@pytest_asyncio.fixture
async def rqueue_worker(rqueue_app: RQueue) -> AsyncIterator[Worker]:
    """A worker for the app; ``await rqueue_worker.drain()`` waits until everything is done."""
    from rqueue.testing import working

    async with working(rqueue_app) as worker:
        yield worker


@pytest.fixture
def rqueue_eager(rqueue_target: RQueue) -> Iterator[RQueue]:
    """The app running each job where it is enqueued."""
    from rqueue.testing import eager

    with eager(rqueue_target) as app:
        yield app
