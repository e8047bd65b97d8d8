"""The result store in a Redis that is not the broker's: a key for each job's id, which expires."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

import orjson

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.keep import Keeping, Kept
from rqueue.errors import BrokerError, StoreUnavailable
from rqueue.results.patience import Patience
from rqueue.results.row import SKEW_MS, Row
from rqueue.wire.keys import Keys

T = TypeVar("T")

TIMEOUT_S: Final = 2.0
_AT_ONCE: Final = 500  # rows that are sent together, and written in one step


class RedisStore:
    """Keeps rows in a Redis.

    Args:
        url: where it is.
        namespace: the first part of every key.
        ttl_s: seconds for which rows are kept; None for ever, 0 not at all.
        timeout_s: seconds that any call may take.

    Attributes:
        shown: the URL without the password.
    """

    def __init__(
        self, url: str, namespace: str = "rqueue", ttl_s: float | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        endpoint = Endpoint(url)
        self.shown = endpoint.shown
        self._ttl_s = None if ttl_s is None else math.ceil(ttl_s)
        self._timeout_s = timeout_s
        self._redis = Keeping(endpoint, Keys(namespace), timeout_s)

    async def open(self) -> None:
        """See that it answers: see :meth:`~rqueue.results.store.ResultStore.open`."""
        await self._bounded(self._redis.ready())

    async def save(self, rows: Sequence[Row]) -> Sequence[str]:
        """Write rows: see :meth:`~rqueue.results.store.ResultStore.save`."""
        if self._ttl_s != 0:
            # Each part has its own time: a large batch is a slow one, and no sign that nobody answers.
            for start in range(0, len(rows), _AT_ONCE):
                part = [
                    Kept(row.id, row.enqueued or 0, row.order, _encoded(row)) for row in rows[start : start + _AT_ONCE]
                ]
                await self._bounded(self._redis.keep_all(part, self._ttl_s, SKEW_MS))
        return ()

    async def find(self, job_id: str, queue: str | None = None) -> Row | None:
        """One job's row: see :meth:`~rqueue.results.store.ResultStore.find`."""
        found = await self._bounded(self._redis.kept(job_id))
        rows = [_decoded(found[enqueued]) for enqueued in sorted(found)]
        return next((row for row in reversed(rows) if queue in (None, row.queue)), None)

    async def tidy(self, retention_s: float | None, *, keep_failures: bool = False) -> int:  # noqa: ARG002
        """Nothing: Redis removes what has expired, and ``result_ttl`` says when."""
        return 0

    async def close(self) -> None:
        """Close its connections."""
        await self._redis.close()

    async def _bounded(self, call: Coroutine[Any, Any, T]) -> T:
        asking = asyncio.create_task(call)
        try:
            if not await Patience(self._timeout_s).wait(asking):
                raise StoreUnavailable("the result store does not answer")
        finally:
            asking.cancel()
        try:
            return asking.result()
        except BrokerError as exc:
            raise StoreUnavailable(f"the result store cannot be used: {exc}") from exc


def _encoded(row: Row) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError:  # of what is no character, or of a very large number
        return json.dumps(row, separators=(",", ":")).encode()


def _decoded(data: bytes) -> Row:
    try:
        return Row._make(orjson.loads(data))
    except orjson.JSONDecodeError:
        return Row._make(json.loads(data))
