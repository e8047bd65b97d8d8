"""Hears what operators ask on the control channel, and answers; from the start until the lease is given up.

It alone keeps that nothing that is said on the channel ends a worker. What each verb does is the table's affair.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio

from rqueue.broker.broker import Broker
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerError, MalformedMessage, NotAuthentic, RQueueError
from rqueue.log import event
from rqueue.wire.control import INSPECT, LOOK, Answer, ControlRequest
from rqueue.wire.seal import Keyring, open_request
from rqueue.worker.lease import Lease

_LEVELS: Final = dict.fromkeys((*INSPECT, LOOK), logging.DEBUG)  # who watches asks each second

Upward = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Passes a verb on to the supervisor, with ``n`` and the request's id (one for all the workers that heard it)."""

_ANSWER_S: Final = 5.0

LONGEST_AGE_S: Final = 60.0
"""A sealed request that is older is not heard."""

PING_S: Final = 30.0
"""After so long a silence the connection is tried: a firewall may have forgotten it."""


class Control:
    """Answers requests, one after the other.

    Args:
        broker: publishes the answers; it also knows where to listen.
        lease: the worker's id.
        verbs: what each verb does, given the request's arguments by name.
        upward: where these verbs are passed on instead of being done here, or None.
        passed_on: those verbs.
        keyring: what none of its keys has sealed is not heard; None: everything is.

    Attributes:
        listening: set when requests are heard.
    """

    def __init__(
        self,
        broker: Broker,
        lease: Lease,
        verbs: Mapping[str, Callable[..., Any]],
        upward: Upward | None = None,
        passed_on: frozenset[str] = frozenset(),
        keyring: Keyring | None = None,
    ) -> None:
        self._keyring = keyring
        self._broker, self._lease, self._verbs = broker, lease, verbs
        self._upward, self._passed_on = upward, passed_on
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Listen and answer until cancelled."""
        subscription = Subscription(
            self._broker.endpoint.connection,
            lambda _, data: self._requests.put_nowait(data),
            lambda _: self.listening.set(),
            "control",
            PING_S,
        )
        subscription.add(self._broker.keys.control)
        try:
            while True:
                data = await self._requests.get()
                try:
                    with anyio.move_on_after(_ANSWER_S, shield=True):  # who was asked to stop says so first
                        await self.tick(data)
                except Exception as exc:  # noqa: BLE001 - whatever it is, no request ends a worker
                    event(logging.CRITICAL, "control failed", worker=self._lease.worker, error=repr(exc))
        finally:
            with anyio.CancelScope(shield=True):
                await subscription.close()

    async def tick(self, data: bytes) -> bool:
        """Handle one request; false when it is for others, or cannot be read at all."""
        try:
            request = self._read(data)
        except MalformedMessage as exc:
            event(logging.WARNING, "control request not readable", worker=self._lease.worker, error=str(exc))
            return False
        worker = self._lease.worker
        if request.to is not None and worker not in request.to:
            return False
        answer = await self._answer(worker, request)
        level = logging.WARNING if answer.error is not None else _LEVELS.get(request.verb, logging.INFO)
        fields: dict[str, Any] = {} if answer.error is None else {"error": answer.error}
        event(level, "control request", worker=worker, verb=request.verb, request=request.id, **fields)
        if request.reply is not None:
            await self._reply(request.reply, answer)
        return True

    def _read(self, data: bytes) -> ControlRequest:
        """What was said, where it is ours, and new: what was said once could be said again by anybody."""
        said = open_request(self._keyring, self._broker.keys.control, data)
        request = ControlRequest.decode(said)
        if said is not data and abs(self._broker.clock.now_ms() - (request.at or 0)) > LONGEST_AGE_S * 1000:
            raise NotAuthentic(f"it was made more than {LONGEST_AGE_S:.0f} s ago")
        return request

    async def _answer(self, worker: str, request: ControlRequest) -> Answer:
        try:
            return Answer(worker, await self._do(request))
        except (RQueueError, _Refused) as exc:
            return Answer(worker, error=str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the worker goes on
            event(logging.ERROR, "control request failed", worker=worker, verb=request.verb, error=repr(exc))
            return Answer(worker, error=repr(exc))

    async def _do(self, request: ControlRequest) -> Any:
        verb = self._verbs.get(request.verb)
        if request.problem is not None or verb is None:
            raise _Refused(request.problem or f"the verb {request.verb!r} is not known here")
        try:
            call = inspect.signature(verb).bind(**request.args)
        except TypeError as exc:
            raise _Refused(f"{request.verb}: {exc}") from None
        if self._upward is not None and request.verb in self._passed_on:
            call.apply_defaults()
            return await self._upward(request.verb, {**call.arguments, "request": request.id})
        value = verb(*call.args, **call.kwargs)
        return await value if inspect.isawaitable(value) else value

    async def _reply(self, channel: str, answer: Answer) -> None:
        try:
            data = answer.encode()
        except TypeError as exc:
            data = Answer(answer.worker, error=f"the answer is no JSON: {exc}").encode()
        try:
            await self._broker.publish(channel.encode(), data)
        except BrokerError as exc:
            event(logging.WARNING, "control answer not sent", worker=answer.worker, error=str(exc))


class _Refused(Exception):
    """The request cannot be done; the text says why."""
