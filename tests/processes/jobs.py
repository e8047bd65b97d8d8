"""The tasks of the fault tests, for producers and workers alike, and the log that they keep outside Redis."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rqueue import Queue, RQueue

QUEUES = (Queue("default"), Queue("other"))


class Oracle:
    """An append-only file; each line is one write, so that lines of many processes never mix."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, what: str, job_id: str) -> None:
        os.write(self._file, f"{what} {job_id} {os.getpid()} {time.monotonic():.6f}\n".encode())


def release(gates: str, job_ids: Iterable[str]) -> None:
    """Let these jobs of the task `wait` end."""
    for job_id in job_ids:
        Path(gates, job_id).touch()


def make_app(
    url: str, oracle: Oracle | None = None, reach: Callable[[str], None] = lambda _: None, **options: Any
) -> RQueue:
    """The app; `reach` is told when a named point inside a task is reached."""
    app = RQueue(url, queues=QUEUES, **options)

    def note(what: str, job_id: str) -> None:
        if oracle is not None:
            oracle.note(what, job_id)

    @app.task(bind=True, name="double")
    async def double(self: Any, number: int, seconds: float = 0.0) -> int:
        note("start", self.request.id)
        reach("first job")
        if seconds:
            await asyncio.sleep(seconds)
        note("end", self.request.id)
        return 2 * number

    @app.task(bind=True, name="wait")
    async def wait(self: Any, number: int, gates: str) -> int:
        note("start", self.request.id)
        while not Path(gates, self.request.id).exists():  # noqa: ASYNC240 - one look, at a local file
            await asyncio.sleep(0.02)
        note("end", self.request.id)
        return 2 * number

    @app.task(bind=True, name="halt")
    async def halt(self: Any, number: int) -> int:
        note("start", self.request.id)
        reach("task")
        note("end", self.request.id)
        return 2 * number

    @app.task(bind=True, name="flaky")
    async def flaky(self: Any, number: int) -> int:
        note("start", self.request.id)
        if self.request.retries == 0:
            self.retry(countdown=0.1)
        note("end", self.request.id)
        return 2 * number

    @app.task(bind=True, name="mover")
    async def mover(self: Any, number: int) -> int:
        note(f"start:{self.request.queue}", self.request.id)
        if self.request.queue == "default":
            self.retry(queue="other", countdown=0, args=[number + 1])
        return 2 * (number - 1)

    @app.task(bind=True, name="stubborn")
    async def stubborn(self: Any, number: int, seconds: float) -> int:
        note("start", self.request.id)
        time.sleep(seconds)  # noqa: ASYNC251 - it blocks the event loop, as bad code does
        note("end", self.request.id)
        return 2 * number

    @app.task(bind=True, name="thread")
    def thread(self: Any, number: int, seconds: float = 0.0) -> int:
        note("start", self.request.id)
        reach("first job")
        time.sleep(seconds)
        note("end", self.request.id)
        return 2 * number

    return app
