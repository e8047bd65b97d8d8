"""One worker process: it waits for Redis, listens to signals, and ends even where a thread does not.

The first SIGTERM or SIGINT lets running jobs end, the second (or a SIGQUIT) gives everything back at once, and a third
one waits for nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from rqueue.errors import BrokerUnavailable
from rqueue.log import event

if TYPE_CHECKING:
    from rqueue.worker.worker import Worker

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0

THREAD_GRACE_S: Final = 1.0
"""Idle threads end within milliseconds; what still runs after this is a job that cannot be stopped."""


class WorkerProcess:
    """Runs one worker until a signal ends it.

    Args:
        make_worker: makes a worker that has not run yet; one that could not start is not used again.
        url: where Redis is, for the log.
    """

    def __init__(self, make_worker: Callable[[], Worker], url: str) -> None:
        self._make_worker, self._url = make_worker, url
        self._worker: Worker | None = None
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stops = 0

    def run(self) -> int:
        """Work until a signal; the exit code."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(self._serve())
            # From here on nobody needs the threads: leaving this block joins some, leaving the interpreter the rest.
            watch_threads(code)
        return code

    async def _serve(self) -> int:
        self._listen()
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            self._worker = self._make_worker()
            self._main = asyncio.create_task(self._worker.run(), name="rqueue worker")
            try:
                await asyncio.wait([self._main])
                self._main.result()
            except asyncio.CancelledError:
                event(logging.WARNING, "worker ended without settling", worker=self._worker.id)
                return 1
            except BrokerUnavailable as exc:
                event(logging.WARNING, "worker waits for redis", url=self._url, error=str(exc), retry_in_s=pause)
            else:
                return 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return 0

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, self._stop, name)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_, name=name: loop.call_soon_threadsafe(self._stop, name))

    def _stop(self, name: str) -> None:
        event(logging.INFO, "signal received", signal=name)
        self._stopping.set()
        before, self._stops = self._stops, self._stops + (2 if name == "SIGQUIT" else 1)
        if self._worker is not None:
            for _ in range(before, min(self._stops, 2)):
                self._worker.stop()
        if self._stops > 2 and self._main is not None:
            self._main.cancel()


def watch_threads(code: int, grace_s: float = THREAD_GRACE_S) -> threading.Thread:
    """End the process in a moment if a thread that cannot be stopped would keep it from ending."""
    watch = threading.Thread(target=_leave_without, args=(code, grace_s), name="rqueue exit", daemon=True)
    watch.start()
    return watch


def _leave_without(code: int, grace_s: float) -> None:
    threading.Event().wait(grace_s)
    stuck = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    if not stuck:
        return  # the main thread may still run handlers at exit: they are given their time
    event(logging.WARNING, "threads still run, leaving without them", threads=",".join(stuck))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
