"""The app that ``rqueue demo`` runs: five queues, a coroutine and a plain function."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from rqueue.app import RQueue
from rqueue.cli.demo_oracle import note
from rqueue.config import Queue
from rqueue.environment import DEFAULT_URL

NAMESPACE: Final = "rqueue-demo"
QUEUES: Final = (
    Queue("default", priority=5),
    Queue("email", priority=3),
    Queue("reports", priority=5),
    Queue("analytics", priority=2),
    Queue("cleanup", priority=1),
)


async def wait_in_coroutine(self: Any, seconds: float) -> None:
    """Work as a coroutine does: by waiting."""
    note("start", self.request.id)
    await asyncio.sleep(seconds)
    note("end", self.request.id)


def wait_in_thread(self: Any, seconds: float) -> None:
    """Work as a plain function does: it keeps a thread."""
    note("start", self.request.id)
    time.sleep(seconds)
    note("end", self.request.id)


def make_app(url: str) -> RQueue:
    """The app at that URL, under a namespace of its own: what else is there, or in a database, is not touched."""
    app = RQueue(url, queues=QUEUES, namespace=NAMESPACE, result_ttl=300, results="redis")
    for function in (wait_in_coroutine, wait_in_thread):
        app.task(bind=True)(function)
    return app


app = make_app(DEFAULT_URL)  # the workers are told another URL by their environment
