"""What is asked of the server itself, and the removal of what a trial has left; no job's life needs any of it.

Everything that is removed here is removed whatever it holds: callers name keys of a namespace that is theirs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rqueue.broker.calls import Calls, escape_glob
from rqueue.broker.cluster import slot_of_key

AT_ONCE: Final = 1000
"""Keys in one command: Redis does nothing else meanwhile."""


class Upkeep(Calls):
    """The verbs of those who look after a server, or try one out."""

    async def ping(self) -> None:
        """One round trip.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        await self._link.call(b"PING")

    async def unlink(self, names: Sequence[bytes]) -> int:
        """Remove keys; how many were there."""
        slots: dict[int, list[bytes]] = {}
        for name in names:
            slots.setdefault(0 if self._router is None else slot_of_key(name), []).append(name)
        removed = 0
        for some in slots.values():
            for first in range(0, len(some), AT_ONCE):
                removed += int(await self._link.call(b"UNLINK", *some[first : first + AT_ONCE]))
        return removed

    async def erase(self) -> int:
        """Remove every key of the namespace; how many there were. All of Redis's keys are searched for them."""
        pattern = escape_glob(self.keys.namespace.encode()) + b":*"
        cursor = removed = 0
        while True:
            cursor, names = await self._scan(cursor, b"MATCH", pattern, b"COUNT", AT_ONCE)
            removed += await self.unlink(names)
            if cursor == 0:
                return removed
