"""Enqueueing that is confirmed once replicas have it, or the disk.

A ``WAIT`` stands right behind the script, on the same connection and in the same write: it waits for what that
connection has written, so one serves a whole batch. Redis holds up everything behind it, so the producer has a
connection of its own. A script that is sent again writes as well (see ``enqueue.lua``): its ``WAIT`` would say yes to
a connection that has written nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.broker.calls import REPLY_TIMEOUT_S, in_ms
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Argument, NoScript, Reply
from rqueue.config import Limits
from rqueue.errors import BrokerError, BrokerUnavailable, DurabilityRefused, ReplyLost
from rqueue.wire.keys import Keys

_NEEDS: Final = {
    "replicated": "a server with WAIT, which the ACL must allow",
    "fsync": "a server with WAITAOF (Valkey, or Redis from 7.2), which the ACL must allow, and its 'appendonly yes'",
}

_WHERE: Final = {"replicated": "replicas", "fsync": "disks"}


class Unconfirmed(ReplyLost):
    """The batch is stored, and not known yet to be as safe as asked. It may be sent again, as after a lost reply."""


class DurableBroker(Broker):
    """A producer's broker, whose batches are confirmed once they are as safe as the limits ask for.

    Args:
        endpoint: where Redis is.
        keys: the keys' namespace.
        limits: ``durability``, ``replicas`` and ``enqueue_timeout_s`` of them.
        reply_timeout_s: a reply that takes longer breaks its connection: a wait is at most half as long.
    """

    def __init__(
        self, endpoint: Endpoint, keys: Keys, limits: Limits, reply_timeout_s: float = REPLY_TIMEOUT_S
    ) -> None:
        super().__init__(endpoint, keys, reply_timeout_s)
        self._producing = self._new_link()
        self._durability = limits.durability
        # Half of the caller's time: then it can be said that the jobs are stored, and not only that nobody knows.
        wait_ms = max(1, in_ms(min(limits.enqueue_timeout_s, reply_timeout_s) / 2))
        self._wait: tuple[Argument, ...]
        self._probe: tuple[Argument, ...]
        if self._durability == "fsync":
            self._least, self._wait, self._probe = 1, (b"WAITAOF", 1, 0, wait_ms), (b"WAITAOF", 1, 0, 1)
        else:
            self._least, self._wait, self._probe = limits.replicas, (b"WAIT", limits.replicas, wait_ms), (b"WAIT", 0, 1)

    async def ready(self) -> None:
        """Return when there is a connection to a server that can do what is asked.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
            DurabilityRefused: it cannot do that.
        """
        try:
            await self._producing.call(*self._probe)
        except BrokerUnavailable:
            raise
        except BrokerError as exc:
            if "replica" in str(exc):  # it was the master when it was connected to
                self._producing.reset()
                raise BrokerUnavailable(f"Redis is not ready: {exc}") from None
            needs = _NEEDS[self._durability]
            raise DurabilityRefused(
                f"durability {self._durability!r} needs {needs}; nothing was enqueued: {exc}"
            ) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._producing.close()
        await super().close()

    async def _store(self, verb: str, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Reply:
        script = self.endpoint.scripts[verb]
        try:
            return await self._confirmed((b"EVALSHA", script.sha, len(keys), *keys, *arguments))
        except NoScript:
            return await self._confirmed((b"EVAL", script.source, len(keys), *keys, *arguments))

    async def _confirmed(self, command: Sequence[Argument]) -> Reply:
        """The command's reply, once the wait behind it has said that enough have it.

        We die in between: as after any lost reply. It is not enough: so says the error, and whoever sends it again,
        under the same number, waits again for the same jobs.
        """
        stored, waited = self._producing.call_with(command, self._wait)
        reply: Reply | BaseException
        count: Reply | BaseException
        reply, count = await asyncio.gather(stored, waited, return_exceptions=True)
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(count, BaseException):
            if not isinstance(count, BrokerError):
                raise count
            raise Unconfirmed(f"stored, and not known to be safe: {count}")
        have = count[0] if self._durability == "fsync" else count
        if have < self._least:
            raise Unconfirmed(f"stored, and only {have} of {self._least} {_WHERE[self._durability]} have it")
        return reply


def broker_for(endpoint: Endpoint, keys: Keys, limits: Limits, reply_timeout_s: float = REPLY_TIMEOUT_S) -> Broker:
    """A broker whose batches are confirmed once they are as safe as the limits ask for."""
    if limits.durability == "memory" or endpoint.is_memory:  # what lives in this process has no replicas
        return Broker(endpoint, keys, reply_timeout_s)
    return DurableBroker(endpoint, keys, limits, reply_timeout_s)
