"""The lease's renewal over connections of its own, for a thread: it works while the event loop does not."""

from __future__ import annotations

from collections.abc import Sequence

import redis.exceptions
from redis.connection import AbstractConnection

from rqueue.broker.broker import renewal
from rqueue.broker.cluster import REDIRECTS, Node, Topology, by_slot, learn_sync, slot_of_key
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Argument, NoScript, Redirected, is_elsewhere, refusal, translate
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.wire.keys import QueueKeys


class Pulse:
    """Blocking connections, one to each node that is needed, that can do one thing.

    Args:
        endpoint: where Redis is.
        timeout_s: a reply that takes longer breaks the connection.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._connections: dict[Node | None, AbstractConnection] = {}
        self._away: set[Node | None] = set()

    def renew(self, queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes) -> bool:
        """Renew the lease; false when the worker is not registered any more. May be repeated.

        Of a cluster, a node that does not answer costs the timeout only once, and comes last the next time: the leases
        at the others run meanwhile.

        Raises:
            BrokerError: Redis could not be asked; of a cluster, for some of the queues: the others' are renewed.
        """
        topology = self._endpoint.cluster
        if topology is None:
            return self._renew(None, queues, worker, lease_s, card)
        groups = [[queues[place] for place in group] for group in by_slot(queues)]
        slots = [slot_of_key(group[0].main) for group in groups]
        error: BrokerError | None = None
        before, self._away = self._away, set()
        for place in sorted(range(len(groups)), key=lambda place: topology.owner(slots[place]) in before):
            node = topology.owner(slots[place])
            if node in self._away:
                continue
            try:
                if not self._renew(topology, groups[place], worker, lease_s, card):
                    return False
            except BrokerError as exc:
                error = exc
                if node not in self._connections:
                    self._away.add(node)
        if error is not None:
            raise error
        return True

    def close(self) -> None:
        """Close the connections."""
        for node in list(self._connections):
            self._drop(node)

    def _renew(
        self, topology: Topology | None, queues: Sequence[QueueKeys], worker: str, lease_s: float, card: bytes
    ) -> bool:
        keys, arguments = renewal(queues, worker, lease_s, card)
        script = self._endpoint.scripts["renew"]
        for command in (("EVALSHA", script.sha), ("EVAL", script.source)):
            try:
                whole = (*command, len(keys), *keys, *arguments)
                return bool(self._ask(None, *whole) if topology is None else self._follow(topology, keys[0], whole))
            except NoScript:
                continue
        raise BrokerError("Redis does not know a script that was sent along")

    def _follow(self, topology: Topology, key: bytes, command: tuple[Argument, ...]) -> object:
        """Ask the node that serves the key, wherever it is."""
        if topology.owner(slot := slot_of_key(key)) is None:
            learn_sync(self._endpoint, topology)
        node, is_once = topology.owner(slot), False
        for _ in range(REDIRECTS):
            if node is None:
                break
            try:
                if is_once:
                    self._ask(node, "ASKING")
                return self._ask(node, *command)
            except Redirected as exc:
                node, is_once = topology.moved(exc, node), exc.is_once
            except BrokerUnavailable:
                learn_sync(self._endpoint, topology)  # for the next time
                raise
        raise BrokerUnavailable("Redis is not ready: no node of the cluster serves the slot")

    def _ask(self, node: Node | None, *command: Argument) -> object:
        if getattr(self._connections.get(node), "is_behind", False):
            self._drop(node)  # what was the master may still say that all is well
        is_new = node not in self._connections
        try:
            connection = self._connections.get(node) or self._connect(node)
            connection.send_command(*command)  # type: ignore[no-untyped-call]
            return connection.read_response()
        except redis.exceptions.ResponseError as exc:
            if is_elsewhere(exc):
                self._drop(node)
            raise translate(exc) from None
        except (redis.exceptions.RedisError, OSError) as exc:
            text = refusal(exc, self._connections.get(node)) if is_new else str(exc)
            self._drop(node)
            raise BrokerUnavailable(f"Redis cannot be reached: {text}") from None

    def _connect(self, node: Node | None) -> AbstractConnection:
        if node is None:
            connection = self._endpoint.sync_connection(self._timeout_s)
        else:
            connection = self._endpoint.sync_connection_to(node, self._timeout_s)
        self._connections[node] = connection
        connection.connect()  # type: ignore[no-untyped-call]
        return connection

    def _drop(self, node: Node | None) -> None:
        if (connection := self._connections.pop(node, None)) is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
