"""One worker process: it waits for Redis, listens to signals, and ends even where a thread does not.

In the pool ``prefork`` the event loop has a thread of its own, and the main thread runs the jobs' functions. A worker
in which a job does not end, though its time is up, leaves with the exit code REPLACE.

The first SIGTERM or SIGINT lets running jobs end, the second (or a SIGQUIT) gives everything back at once, and a third
one waits for nothing but, for a moment, the app's own shutdown.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from rqueue.app import RQueue
from rqueue.cli.exits import REPLACE, Code, code_of
from rqueue.cli.logs import LogFormat, LogLevel, configure
from rqueue.cli.lookup import find_app
from rqueue.config import WorkerConfig
from rqueue.errors import BrokerUnavailable, ConfigError, RQueueError, StartupFailed
from rqueue.log import event
from rqueue.supervisor.settings import ProcessSettings
from rqueue.worker.pools import MainThread

if TYPE_CHECKING:
    from rqueue.worker.worker import Worker

_DEFAULT_PACE: Final = gc.get_threshold()
_ALLOCATIONS: Final = 50_000
"""Objects that are made and not freed before the collector looks at them: some megabytes."""

_LOOP_THREAD: Final = "rqueue loop"
_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGBREAK", "SIGHUP")
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0

THREAD_GRACE_S: Final = 1.0
"""Idle threads end within milliseconds; what still runs after this is a job that cannot be stopped."""


class WorkerProcess:
    """Runs one worker until a signal ends it.

    Args:
        make_worker: makes a worker that has not run yet; one that could not start is not used again.
        url: where Redis is, for the log.
        pool: the worker's pool: ``prefork`` needs the main thread for the jobs' functions.
        companion: runs beside the worker in its event loop, from the start on.

    Attributes:
        worker: the worker that runs now.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        url: str,
        pool: str = "async",
        companion: Callable[[WorkerProcess], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._make_worker, self._url, self._companion = make_worker, url, companion
        self._main_thread = MainThread() if pool == "prefork" else None
        self.worker: Worker | None = None
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stops = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_begun = threading.Event()

    def run(self) -> int:
        """Work until a signal; the exit code."""
        if self._main_thread is None:
            return self._run_loop()
        codes: list[int] = []
        thread = threading.Thread(target=self._run_beside, args=(self._main_thread, codes), name=_LOOP_THREAD)
        thread.start()
        self._has_begun.wait()
        for name in _SIGNALS if self._loop is not None else ():
            if (number := getattr(signal, name, None)) is not None:
                signal.signal(number, partial(self._hand_over, name))
        self._main_thread.serve()
        thread.join()
        return codes[0] if codes else 1

    def _run_beside(self, main_thread: MainThread, codes: list[int]) -> None:
        """The event loop's thread; when it ends, the main thread has nothing more to serve."""
        try:
            codes.append(self._run_loop())
        finally:
            self._has_begun.set()
            main_thread.stop()

    def _run_loop(self) -> int:
        spare_the_collector()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(self._serve())
            # From here on nobody needs the threads: leaving this block joins some, leaving the interpreter the rest.
            watch_threads(code, self._main_thread)
        return code

    async def _serve(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._has_begun.set()
        if self._main_thread is None:
            self._listen()
        companion = asyncio.create_task(self._companion(self)) if self._companion is not None else None
        try:
            return await self._work()
        finally:
            if companion is not None:
                companion.cancel()

    async def _work(self) -> int:
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            self.worker = self._make_worker()
            self.worker.main_thread, self.worker.is_replaceable = self._main_thread, True
            self._main = asyncio.create_task(self.worker.run(), name="rqueue worker")
            try:
                await asyncio.wait([self._main])
                self._main.result()
            except asyncio.CancelledError:
                event(logging.WARNING, "worker ended without settling", worker=self.worker.id)
                return 1
            except BrokerUnavailable as exc:
                event(logging.WARNING, "worker waits for redis", url=self._url, error=str(exc), retry_in_s=pause)
            except Exception as exc:  # noqa: BLE001 - the app's own code may raise anything
                return _give_up(exc, "worker failed" if self.worker.has_started else "worker could not start")
            else:
                return REPLACE if self.worker.must_be_replaced else 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return 0

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, self._signalled, name)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_, name=name: loop.call_soon_threadsafe(self._signalled, name))

    def _hand_over(self, name: str, *_: object) -> None:
        """A signal's handler in the main thread, where the event loop is not."""
        assert self._loop is not None
        with suppress(RuntimeError):  # it has ended, and the process is about to
            self._loop.call_soon_threadsafe(self._signalled, name)

    def _signalled(self, name: str) -> None:
        event(logging.INFO, "signal received", signal=name)
        times = 2 if name == "SIGQUIT" else 1
        # Whoever signals all processes at once has told the supervisor as well, which passes it on.
        self.stop(times if self._companion is None else max(0, times - self._stops))

    def stop_to(self, level: int) -> None:
        """Have been stopped so often in all."""
        self.stop(max(0, level - self._stops))

    def retire(self) -> None:
        """Stop when what runs has ended, however long that takes."""
        self._stopping.set()
        if self.worker is not None:
            self.worker.retire()

    def stop(self, times: int) -> None:
        """Stop: once in peace, twice in all at once, and the third time without waiting."""
        self._stopping.set()
        before, self._stops = self._stops, self._stops + times
        if self.worker is not None:
            for _ in range(before, min(self._stops, 2)):
                self.worker.stop()
        if self._stops > 2 and self._main is not None:
            self._main.cancel()


def spare_the_collector() -> None:
    """Have the garbage collector pass over what has been imported, and look less often, unless the app set its pace.

    A job's objects live until its settle is confirmed, some thousands at a time: at Python's default pace each few
    hundred of them were looked through again and again, with all modules, for a third of a worker's time.
    """
    gc.freeze()
    if gc.get_threshold() == _DEFAULT_PACE:
        gc.set_threshold(_ALLOCATIONS, *_DEFAULT_PACE[1:])


def load(settings: ProcessSettings) -> tuple[RQueue, WorkerConfig]:
    """Load the app, and set up logging; the app, and how a worker works for it.

    Raises:
        RQueueError: the app cannot be loaded, or an option is wrong.
    """
    app = find_app(settings.app, settings.url, settings.namespace, settings.results)
    if app.endpoint.is_memory:
        raise ConfigError(f"{app!r}: memory:// is in one process only; a worker process needs a Redis")
    config = settings.config()
    if not config.queues:
        config = replace(config, queues=tuple(app.config.queues))
    configure(LogLevel(settings.loglevel), LogFormat(settings.log_format))
    if used := [*app.variables, *settings.variables]:
        event(logging.INFO, "settings from celery's variables", variables=",".join(used))
    for name in set(config.queues) - set(app.config.queues):
        event(logging.WARNING, "not one of the app's queues", queue=name, queues=",".join(app.config.queues))
    return app, config


def _give_up(error: Exception, text: str) -> int:
    """Say why in one line, with the traceback of what is not rqueue's; the exit code."""
    foreign = error.__cause__ if isinstance(error, StartupFailed) else error
    traceback = None if isinstance(foreign, RQueueError) else foreign
    told = str(error) if isinstance(error, RQueueError) else repr(error)
    event(logging.CRITICAL, text, exc_info=traceback, error=told)
    return code_of(error) if isinstance(error, RQueueError) else Code.FAILED


def watch_threads(
    code: int, main_thread: MainThread | None = None, grace_s: float = THREAD_GRACE_S
) -> threading.Thread:
    """End the process in a moment if something that cannot be stopped would keep it from ending.

    Args:
        code: the exit code. With REPLACE the process ends whatever still goes on in it.
        main_thread: what runs jobs' functions in the main thread, if it does.
        grace_s: how long the process may take to end by itself.
    """
    watch = threading.Thread(target=_leave_without, args=(code, main_thread, grace_s), name="rqueue exit", daemon=True)
    watch.start()
    return watch


def _leave_without(code: int, main_thread: MainThread | None, grace_s: float) -> None:
    threading.Event().wait(grace_s)
    own = {threading.main_thread().name, _LOOP_THREAD}
    stuck = [each.name for each in threading.enumerate() if not each.daemon and each.name not in own]
    if main_thread is not None and main_thread.is_busy:
        stuck.append(threading.main_thread().name)
    if not stuck and code != REPLACE:
        return  # the main thread may still run handlers at exit: they are given their time
    text = "threads still run, leaving without them" if stuck else "a job still runs, leaving without it"
    event(logging.WARNING, text, threads=",".join(stuck))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a worker process's event loop: uvloop's, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
