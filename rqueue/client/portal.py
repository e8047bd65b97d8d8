"""An event loop in a thread of its own, for synchronous code."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

from rqueue.errors import BrokerUnavailable


class Portal:
    """Runs coroutines for threads that have no event loop; one for each app and process.

    Args:
        close: awaited in the loop before it ends.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._calls: set[Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="rqueue portal", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    @property
    def is_usable(self) -> bool:
        """True in the process in which it was made, until it is stopped."""
        return self.pid == os.getpid() and not self._is_stopping

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine function in the loop and return what it returns, or raise what it raises.

        Interrupting the wait (Ctrl-C) cancels it.

        Raises:
            BrokerUnavailable: the app was closed, before or meanwhile.
        """
        with self._lock:
            if self._is_stopping:
                raise BrokerUnavailable("the app was closed")
            future = asyncio.run_coroutine_threadsafe(_run(function), self._loop)
            self._calls.add(future)
        try:
            return future.result()
        except CancelledError:
            raise BrokerUnavailable("the app was closed") from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._calls.discard(future)

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
        """Run a coroutine function in the loop, and do not wait for it.

        Raises:
            BrokerUnavailable: the app was closed.
        """
        with self._lock:
            if self._is_stopping:
                raise BrokerUnavailable("the app was closed")
            future = asyncio.run_coroutine_threadsafe(function(), self._loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def stop(self) -> None:
        """Close what is open and end the thread; calls under way fail. May be called more than once."""
        atexit.unregister(self.stop)
        with self._lock:
            if self._is_stopping or self.pid != os.getpid():
                return
            self._is_stopping = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for call in list(self._calls):
            call.cancel()

    async def _finish(self) -> None:
        await self._close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _run(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


def refuse_running_loop(what: str, instead: str) -> None:
    """Refuse to block a running event loop.

    Raises:
        RuntimeError: an event loop runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{what} would block the running event loop: use {instead}")
