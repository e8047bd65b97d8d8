"""An event loop in a thread of its own, for synchronous code."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any


class Portal:
    """Runs coroutines for threads that have no event loop; one for each app and process.

    Args:
        close: awaited in the loop before it ends.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="rqueue portal", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine function in the loop and return what it returns, or raise what it raises.

        Interrupting the wait (Ctrl-C) cancels it.
        """

        async def run() -> Any:
            return await function()

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Close what is open and end the thread; may be called more than once."""
        atexit.unregister(self.stop)
        if self.pid == os.getpid() and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(_await(self._close), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _await(function: Callable[[], Awaitable[None]]) -> None:
    await function()
