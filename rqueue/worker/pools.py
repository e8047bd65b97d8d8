"""Where plain functions run: threads, the main thread beside the event loop, or the event loop's own thread."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from rqueue.config import WorkerConfig
from rqueue.errors import ConfigError


class MainThread(Executor):
    """Runs functions one after the other in the thread that calls :meth:`serve`.

    It is the process's, and outlives a worker: a worker's ``shutdown`` does nothing.

    Attributes:
        is_busy: a function runs.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self.is_busy = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it called in the serving thread."""
        future: Future[Any] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        return future

    def serve(self) -> None:
        """Run what is submitted, until it is stopped."""
        while (item := self._calls.get()) is not None:
            future, call = item
            self.is_busy = True
            _run(future, call)
            self.is_busy = False
            del item, future, call  # nothing of a job is kept while the next one is waited for

    def stop(self) -> None:
        """Let :meth:`serve` return when what it was given before is done; from any thread."""
        self._calls.put(None)


class Inline(Executor):
    """Runs a function at once in the thread that submits it, as if no event loop ran there."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it; the future is done."""
        future: Future[Any] = Future()
        # Synchronous code asks whether a loop runs here, to refuse what would block it: here it is blocked anyway.
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented, for event loops' authors
        asyncio._set_running_loop(None)  # noqa: SLF001 - as above
        try:
            _run(future, lambda: fn(*args, **kwargs))
        finally:
            asyncio._set_running_loop(loop)  # noqa: SLF001 - as above
        return future


def executor_for(config: WorkerConfig, slots: int, main_thread: Executor | None) -> Executor:
    """Where the plain functions of such a worker run.

    Args:
        config: the worker's settings.
        slots: jobs at once; more, when the slots may grow to more.
        main_thread: what the process gives the pool ``prefork``.

    Raises:
        ConfigError: the pool needs a main thread, and there is none.
    """
    if config.pool == "solo":
        return Inline()
    if config.pool == "prefork":
        if main_thread is None:
            raise ConfigError(
                "pool 'prefork': plain functions run in the main thread, which a worker inside a program has not for "
                "itself; use 'threads' or 'solo' here, or run a worker process"
            )
        return main_thread
    most = config.autoscale[0] if config.autoscale is not None else slots
    return ThreadPoolExecutor(max(most, slots), thread_name_prefix="rqueue job")


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = call()
    except BaseException as exc:  # noqa: BLE001 - it is whoever waits for the future that it concerns
        future.set_exception(exc)
    else:
        future.set_result(value)
