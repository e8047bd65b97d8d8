"""The lease's renewal over a connection of its own, for a thread: it works while the event loop does not."""

from __future__ import annotations

from collections.abc import Sequence

import redis.exceptions
from redis.connection import AbstractConnection

from rqueue.broker.broker import renewal
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import NoScript, is_elsewhere, refusal, translate
from rqueue.errors import BrokerUnavailable
from rqueue.wire.keys import QueueKeys


class Pulse:
    """A blocking connection that can do one thing.

    Args:
        endpoint: where Redis is.
        timeout_s: a reply that takes longer breaks the connection.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None
        self._is_new = True

    def renew(self, queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes) -> bool:
        """Renew the lease; false when the worker is not registered any more. May be repeated.

        Raises:
            BrokerError: Redis could not be asked.
        """
        keys, arguments = renewal(queues, worker, lease_s, card)
        script = self._endpoint.scripts["renew"]
        try:
            return bool(self._ask("EVALSHA", script.sha, len(keys), *keys, *arguments))
        except NoScript:
            return bool(self._ask("EVAL", script.source, len(keys), *keys, *arguments))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.disconnect()  # type: ignore[no-untyped-call]
            self._connection = None

    def _ask(self, *command: bytes | str | int) -> object:
        try:
            if self._connection is None:
                self._is_new = True
                self._connection = self._endpoint.sync_connection(self._timeout_s)
                self._connection.connect()  # type: ignore[no-untyped-call]
            self._connection.send_command(*command)  # type: ignore[no-untyped-call]
            reply: object = self._connection.read_response()
        except redis.exceptions.ResponseError as exc:
            if is_elsewhere(exc):
                self.close()
            raise translate(exc) from None
        except (redis.exceptions.RedisError, OSError) as exc:
            text = refusal(exc, self._connection) if self._is_new else str(exc)
            self.close()
            raise BrokerUnavailable(f"Redis cannot be reached: {text}") from None
        self._is_new = False
        return reply
