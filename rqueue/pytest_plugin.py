"""The pytest plugin: ``rqueue_app``, ``rqueue_worker``, ``rqueue_clock`` and ``rqueue_eager``.

A test suite says which app it tests by a fixture ``rqueue_target``, which returns the :class:`~rqueue.RQueue`.

pytest loads this wherever rqueue is installed, so it must load without what only the fixtures need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rqueue.app import RQueue
    from rqueue.testing import Clock
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


@pytest.fixture
def rqueue_eager(rqueue_target: RQueue) -> Iterator[RQueue]:
    """The app running each job where it is enqueued."""
    from rqueue.testing import eager

    with eager(rqueue_target) as app:
        yield app


if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def rqueue_worker(rqueue_app: RQueue) -> AsyncIterator[Worker]:
        """A worker for the app; ``await rqueue_worker.drain()`` waits until everything is done."""
        from rqueue.testing import working

        async with working(rqueue_app) as worker:
            yield worker

    @pytest_asyncio.fixture
    async def rqueue_clock(rqueue_app: RQueue) -> AsyncIterator[Clock]:
        """The app's clock: ``await rqueue_clock.move(3600)`` makes due what is due within an hour."""
        from rqueue.testing import moving_clock

        async with moving_clock(rqueue_app) as clock:
            yield clock

else:

    @pytest.fixture
    def rqueue_clock() -> None:
        """Say what is missing."""
        raise pytest.UsageError("rqueue_clock needs pytest-asyncio: pip install 'rqueue[test]'")

    @pytest.fixture
    def rqueue_worker() -> None:
        """Say what is missing."""
        raise pytest.UsageError("rqueue_worker needs pytest-asyncio: pip install 'rqueue[test]'")
