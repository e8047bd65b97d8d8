"""Asks running workers, and has them do things: one request on the control channel, one answer of each worker.

Redis announces and forgets, so the answers' channel is listened to before the request is published, and the workers
that should answer are known from their leases: who is silent is named.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rqueue.broker.subscription import Subscription
from rqueue.client.admin import Admin
from rqueue.config import positive
from rqueue.errors import BrokerError, BrokerUnavailable, ConfigError, MalformedMessage
from rqueue.log import event
from rqueue.wire.control import CONTROL, INSPECT, LOOK, Answer, ControlRequest
from rqueue.wire.seal import seal_request

if TYPE_CHECKING:
    from rqueue.client.client import Client

TIMEOUT_S: Final = 0.8
"""So that a command that asks a whole fleet is over within a second."""

_LISTEN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Replies:
    """What workers answered.

    Attributes:
        answers: one of each worker that answered in time, by its id.
        silent: the ids of registered workers that were asked and did not.
    """

    answers: tuple[Answer, ...] = ()
    silent: tuple[str, ...] = ()


class Inspector:
    """Speaks with the workers under one namespace.

    Args:
        client: the app; it stays open, and is closed by whoever opened it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(
        self, verb: str, *, to: Sequence[str] | None = None, timeout: float = TIMEOUT_S, **args: Any
    ) -> Replies:
        """Ask workers, and return when all have answered, or the time is up.

        Args:
            verb: one of the verbs in :mod:`rqueue.wire.control`.
            to: the ids of the workers that are meant, whole; None is all. See :meth:`find` for parts of ids.
            timeout: seconds from when the request is sent.
            **args: the verb's arguments.

        Raises:
            ConfigError: there is no such verb, or it has not such an argument.
            BrokerUnavailable: Redis cannot be reached, or its ACL forbids the channel.
        """
        _check(verb, args)
        positive("timeout", timeout)
        request = secrets.token_hex(8)
        reply = self._client.keys.reply(request)
        gathering = _Gathering(to)
        subscription = Subscription(
            self._client.endpoint.connection, gathering.heard, lambda _: gathering.listening.set(), "answers"
        )
        subscription.add(reply)
        try:
            async with asyncio.timeout(_LISTEN_S):
                workers = await Admin(self._client).workers()
                await gathering.listening.wait()
            gathering.expect(worker.id for worker in workers if worker.is_live)
            message = ControlRequest(request, verb, args, None if to is None else list(to), reply.decode())
            await self._publish(message)
            return await gathering.complete(timeout)
        except TimeoutError:
            raise BrokerUnavailable(f"Redis did not let us listen for answers, on {reply.decode()}") from None
        finally:
            await subscription.close()

    async def hint(self) -> None:
        """Have all workers look at once at what may run, and at periodic schedules; nobody answers.

        Where it cannot be said, or is not heard, they look by themselves in their time.
        """
        request = ControlRequest(secrets.token_hex(8), LOOK, {}, None, None)
        with suppress(BrokerError):  # an ACL may forbid it
            await self._publish(request)

    async def _publish(self, request: ControlRequest) -> None:
        keyring, control, broker = self._client.keyring, self._client.keys.control, self._client.session().broker
        if keyring is not None:
            if not broker.clock.is_observed:
                await broker.sync_clock()
            request = replace(request, at=broker.clock.now_ms())
        await broker.publish(control, seal_request(keyring, control, request.encode()))

    async def find(self, parts: Sequence[str]) -> dict[str, str]:
        """The live workers that are meant: each part, and the id that it stands for.

        Args:
            parts: an id, the beginning of one, or the name of a host with one worker.

        Raises:
            ConfigError: one means no live worker, or several; the text names them.
        """
        ids = [worker.id for worker in await Admin(self._client).workers() if worker.is_live]
        return {part: _match(part, ids) for part in parts}


class _Gathering:
    """The answers as they come."""

    def __init__(self, to: Sequence[str] | None) -> None:
        self._to = to
        self._missing: set[str] = set()
        self._answers: dict[str, Answer] = {}
        self._changed = asyncio.Event()
        self.listening = asyncio.Event()

    def heard(self, channel: bytes, data: bytes) -> None:
        try:
            answer = Answer.decode(data)
        except MalformedMessage as exc:
            event(logging.WARNING, "control answer not readable", channel=channel.decode(), error=str(exc))
            return
        self._answers[answer.worker] = answer
        self._changed.set()

    def expect(self, live: Iterable[str]) -> None:
        self._missing = set(live) if self._to is None else set(self._to)

    async def complete(self, timeout_s: float) -> Replies:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._missing - self._answers.keys():
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                break
        answers = tuple(self._answers[worker] for worker in sorted(self._answers))
        return Replies(answers, tuple(sorted(self._missing - self._answers.keys())))


def _check(verb: str, args: dict[str, Any]) -> None:
    allowed = CONTROL.get(verb, ())
    if verb not in CONTROL and verb not in INSPECT:
        raise ConfigError(f"verb {verb!r}: one of {', '.join((*INSPECT, *CONTROL))}")
    if unknown := [name for name in args if name not in allowed]:
        raise ConfigError(f"{verb}: has no argument {unknown[0]!r}; it has {', '.join(allowed) or 'none'}")
    for name, value in args.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{verb}: {name} {value!r}: a finite number")


def _match(part: str, ids: Sequence[str]) -> str:
    if part in ids:
        return part
    found = [each for each in ids if each.partition(":")[0] == part] or [each for each in ids if each.startswith(part)]
    if not found or not part:
        raise ConfigError(f"worker {part!r}: there is none; there are {', '.join(ids) or 'no workers'}")
    if len(found) > 1:
        raise ConfigError(f"worker {part!r}: there are {len(found)}: {', '.join(found)}")
    return found[0]
