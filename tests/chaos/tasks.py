"""The tasks of the suite, and the log that they keep outside Redis.

Each task writes its start and its end, forced to disk, before it goes on: what a process has done is known also when it
was killed. A line is one write to a file that only this process appends to.
"""

import asyncio
import os
import secrets
import signal
import time
from pathlib import Path
from typing import Any

from rqueue import Queue, RQueue

LOGS = "CHAOS_LOGS"
"""Names the directory of the logs, in the environment of workers and producers."""

RESULTS = "CHAOS_RESULTS"
"""Names the result store, where a scenario has one."""

RESULT_TTL_S = 86_400.0
"""They are looked at when a scenario is over, however long that takes."""

QUEUES = (Queue("default"), Queue("email", priority=8), Queue("reports", priority=3), Queue("bulk", priority=1))


class Log:
    """Lines of one process: what, which, who, when, and more. The times are those of one clock for all processes."""

    def __init__(self, kind: str) -> None:
        self._path = Path(os.environ[LOGS], f"{kind}-{os.getpid()}.log")
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *lines: tuple[object, ...]) -> None:
        """Write these lines, at this time, and return when they are on the disk."""
        at = time.monotonic()
        text = "".join(
            f"{what} {mark} {os.getpid()} {at:.6f} {' '.join(map(str, more))}\n" for what, mark, *more in lines
        )
        os.write(self._file, text.encode())
        getattr(os, "fdatasync", os.fsync)(self._file)


class Runs:
    """The runs of this process, each under a name of its own: a result says which run it is of."""

    def __init__(self) -> None:
        self._log: Log | None = None

    def begin(self, mark: str) -> str:
        run = secrets.token_hex(6)
        self.note("start", mark, run)
        return run

    def end(self, mark: str, run: str) -> dict[str, str]:
        self.note("end", mark, run)
        return {"mark": mark, "run": run}

    def note(self, what: str, mark: str, *more: object) -> None:
        if self._log is None:
            self._log = Log("runs")
        self._log.note((what, mark, *more))


runs = Runs()


async def quick(mark: str, seconds: float) -> dict[str, str]:
    """A coroutine that waits."""
    run = runs.begin(mark)
    await asyncio.sleep(seconds)
    return runs.end(mark, run)


def threaded(mark: str, seconds: float) -> dict[str, str]:
    """A plain function, in a thread."""
    run = runs.begin(mark)
    time.sleep(seconds)
    return runs.end(mark, run)


async def flaky(self: Any, mark: str, seconds: float) -> dict[str, str]:
    """Fails at its first try."""
    run = runs.begin(mark)
    await asyncio.sleep(seconds)
    if self.request.retries == 0:
        runs.note("fail", mark, run)
        raise ConnectionError("as it does the first time")
    return runs.end(mark, run)


async def failing(mark: str, seconds: float) -> None:
    """Fails at every try: a dead letter in the end."""
    run = runs.begin(mark)
    await asyncio.sleep(seconds)
    runs.note("fail", mark, run)
    raise ValueError("as it always does")


async def poison(mark: str, seconds: float) -> None:
    """Takes its process down."""
    runs.begin(mark)
    await asyncio.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


async def blocking(mark: str, seconds: float) -> dict[str, str]:
    """A coroutine that blocks the event loop, as bad code does."""
    run = runs.begin(mark)
    time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for
    return runs.end(mark, run)


def make_app(url: str, **options: Any) -> RQueue:
    """The app, with what the scenario wants of it beside its URL."""
    app = RQueue(url, queues=QUEUES, **{"result_ttl": RESULT_TTL_S, **options})
    for function in (quick, threaded, poison, blocking):
        app.task(name=function.__name__)(function)
    retried = {"retry_backoff": False, "default_retry_delay": 0.2, "max_retries": 2}
    app.task(name="flaky", bind=True, autoretry_for=(ConnectionError,), **retried)(flaky)
    app.task(name="failing", autoretry_for=(ValueError,), **{**retried, "max_retries": 1})(failing)
    return app
