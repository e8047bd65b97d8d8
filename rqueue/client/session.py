"""What an app has open in one event loop: a connection, a producer and a listener."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import replace

from rqueue.broker.calls import REPLY_TIMEOUT_S
from rqueue.broker.durable import broker_for
from rqueue.broker.endpoint import Endpoint
from rqueue.client.events import Events
from rqueue.client.listener import Listener
from rqueue.client.producer import Producer
from rqueue.config import Limits, Results
from rqueue.errors import ConfigError
from rqueue.results.store import ResultStore
from rqueue.results.stores import store_for
from rqueue.wire.keys import Keys

_SHORTEST_REPLY_S = 2.0

_memory_numbers = itertools.count(1)

_forks: list[None] = []
"""One for each fork between this process and the one that was started."""

# Each enqueue asks whether this is still the process in which its session was made: `os.getpid` is a system call.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forks.append(None))


class Session:
    """One event loop's connections; none of them is ever used from another loop or process.

    Args:
        endpoint: where Redis is.
        keys: the namespace.
        limits: bounds on what is stored.
        results: where results are kept beside Redis, or None.
    """

    def __init__(self, endpoint: Endpoint, keys: Keys, limits: Limits, results: Results | None = None) -> None:
        if results is not None and results.url == "memory://":
            # Each is a server of its own; the app's store and its workers' are the same one.
            results = replace(results, url=f"memory://results-{next(_memory_numbers)}")
        self._results = results
        self._kept = keys.namespace, limits.result_ttl_s
        self._store: ResultStore | None = None
        self.loop = asyncio.get_running_loop()
        self._forks = len(_forks)
        # Half of the time that an enqueue has: a connection that nobody answers on must leave time for another one.
        reply_timeout_s = min(REPLY_TIMEOUT_S, max(_SHORTEST_REPLY_S, limits.enqueue_timeout_s / 2))
        self.broker = broker_for(endpoint, keys, limits, reply_timeout_s)
        self.producer = Producer(self.broker, limits.enqueue_timeout_s)
        self.listener = Listener(self.broker)
        self.open_events: set[Events] = set()

    def is_usable(self) -> bool:
        """True in the loop and the process in which it was made."""
        return self._forks == len(_forks) and not self.loop.is_closed()

    def store(self) -> ResultStore:
        """The result store, connected when it is used first, and closed with the session.

        Raises:
            ConfigError: the app has none.
        """
        if self._store is None:
            self._store = self.new_store()
        return self._store

    def new_store(self) -> ResultStore:
        """A result store with connections of its own, for whoever closes it.

        Raises:
            ConfigError: the app has none.
        """
        if self._results is None:
            raise ConfigError("the app keeps no history: give RQueue(results='postgresql+asyncpg://…')")
        return store_for(self._results, *self._kept)

    async def close(self) -> None:
        """Let what is under way end, and close the connections."""
        for events in tuple(self.open_events):
            await events.aclose()
        await self.producer.close()
        await self.listener.close()
        await self.broker.close()
        if self._store is not None:
            await self._store.close()
