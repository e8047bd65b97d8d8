"""How long a result store is waited for: time in which the event loop stood still does not count.

A task that blocks the loop for seconds, as each does in the pool ``solo``, makes every answer late. It is here then,
unread, and the store is not away.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_PART_S: Final = 0.1


class Patience:
    """A time that passes only while the loop runs.

    Args:
        timeout_s: seconds, for all waits together.
    """

    def __init__(self, timeout_s: float) -> None:
        self._left_s = timeout_s

    async def wait(self, task: asyncio.Future[Any]) -> bool:
        """Wait until it is done, or the time is up; whether it is done. It goes on either way, also if cancelled."""
        loop = asyncio.get_running_loop()
        while not task.done() and self._left_s > 0:
            began_s, part_s = loop.time(), min(self._left_s, _PART_S)
            await asyncio.wait([task], timeout=part_s)
            self._left_s -= min(part_s, loop.time() - began_s)
        return task.done()
