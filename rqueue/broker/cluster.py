"""Which node of a Redis Cluster serves which slot, as far as it is known.

One topology is shared by all loops and threads of a process that use the same URL. It only remembers: whoever meets a
redirect, or a node that is away, says so here or has it learnt anew. It may be out of date at any time, and that costs
a redirect: a node executes nothing for slots that are not its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis.exceptions
from redis.crc import key_slot

from rqueue.broker.link import Argument, Redirected, pack, translate
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.wire.keys import QueueKeys

if TYPE_CHECKING:
    from rqueue.broker.endpoint import Endpoint

SLOTS: Final = 16_384
LEARN_TIMEOUT_S: Final = 2.0
"""How long one node may take to say which node serves what; then the next is asked."""

REDIRECTS: Final = 5
"""How often one command follows a slot that moves, before its caller is told that Redis is not ready."""

_SCRIPTS: Final = (b"EVALSHA", b"EVAL")
_INNER_KEY: Final = (b"MEMORY", b"OBJECT")
_NO_KEY: Final = frozenset(
    b"CLIENT CLUSTER CONFIG DBSIZE FLUSHALL INFO KEYS LATENCY PING PUBLISH PUBSUB ROLE SCAN SCRIPT SLOWLOG TIME WAIT "
    b"WAITAOF".split()
)


class Node(NamedTuple):
    """One server of the cluster."""

    host: str
    port: int


class Topology:
    """The nodes and their slots.

    Args:
        seeds: the nodes of the URL.
    """

    def __init__(self, seeds: Sequence[Node]) -> None:
        self._seeds = tuple(seeds)
        self._lock = threading.Lock()
        self._owners: list[Node | None] = [None] * SLOTS
        self._nodes: tuple[Node, ...] = ()
        self._turn = 0

    @property
    def is_known(self) -> bool:
        """Whether any node has said who serves what."""
        return bool(self._nodes)

    def owner(self, slot: int) -> Node | None:
        """The node that serves a slot; None when nobody does."""
        return self._owners[slot]

    def masters(self) -> list[Node]:
        """The nodes that serve slots, each once."""
        return [node for node in dict.fromkeys(self._owners) if node is not None]

    def candidates(self) -> list[Node]:
        """All nodes that may know the topology, in an order that changes: one of them may be cut off from the rest."""
        return random.sample(known := list(dict.fromkeys((*self._nodes, *self._seeds))), len(known))

    def any(self) -> Node:
        """A node, another one each time."""
        known = self._nodes or self._seeds
        with self._lock:
            self._turn = (self._turn + 1) % len(known)
        return known[self._turn % len(known)]

    def learn(self, asked: Node, reply: Sequence[Any]) -> bool:
        """Take in an answer to CLUSTER SLOTS; false when it says nothing, as that of a node which has just begun.

        Args:
            asked: the node that answered: where it names no host, its own is meant.
            reply: first slot, last slot, the master, and its replicas, for each range.
        """
        owners: list[Node | None] = [None] * SLOTS
        nodes: list[Node] = []
        for first, last, *servers in reply:
            places = [_node(server[0], server[1], asked) for server in servers]
            owners[first : last + 1] = [places[0]] * (last + 1 - first)
            nodes += places
        if not nodes:
            return False
        with self._lock:
            self._owners, self._nodes = owners, tuple(dict.fromkeys(nodes))
        return True

    def moved(self, redirect: Redirected, asked: Node) -> Node:
        """Note where a redirect points; the node there. One that is for a single command (ASK) changes nothing."""
        node = _node(redirect.host, redirect.port, asked)
        if not redirect.is_once:
            with self._lock:
                self._owners[redirect.slot] = node
        return node


async def learn(endpoint: Endpoint, topology: Topology) -> None:
    """Ask one node after the other who serves what, until one says.

    Raises:
        BrokerUnavailable: none did.
    """
    error: BaseException | None = None
    for node in topology.candidates():
        connection = endpoint.connection_to(node)
        try:
            async with asyncio.timeout(LEARN_TIMEOUT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_packed_command([pack((b"CLUSTER", b"SLOTS"))], check_health=False)
                if topology.learn(node, await connection.read_response()):
                    return
        except (redis.exceptions.RedisError, OSError, TimeoutError) as exc:
            error = exc
        finally:
            await connection.disconnect(nowait=True)
    raise _unknown(error)


def learn_sync(endpoint: Endpoint, topology: Topology) -> None:
    """As :func:`learn`, for a thread."""
    error: BaseException | None = None
    for node in topology.candidates():
        connection = endpoint.sync_connection_to(node, LEARN_TIMEOUT_S)
        try:
            connection.connect()  # type: ignore[no-untyped-call]
            connection.send_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            if topology.learn(node, connection.read_response()):
                return
        except (redis.exceptions.RedisError, OSError) as exc:
            error = exc
        finally:
            connection.disconnect()  # type: ignore[no-untyped-call]
    raise _unknown(error)


def slot_of(command: Sequence[Argument]) -> int | None:
    """The slot of a command's first key; None when it has none, so that any node may be asked."""
    name = command[0] if isinstance(command[0], bytes) else str(command[0]).encode()
    if name in _SCRIPTS:
        return slot_of_key(command[3]) if command[2] else None
    if name in _NO_KEY:
        return None
    return slot_of_key(command[2 if name in _INNER_KEY else 1])


def slot_of_key(key: Argument) -> int:
    """The slot of a key."""
    return key_slot(key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogateescape"))


def by_slot(queues: Sequence[QueueKeys]) -> list[list[int]]:
    """The queues' places, those of one slot together: what one script may name."""
    groups: dict[int, list[int]] = {}
    for place, keys in enumerate(queues):
        groups.setdefault(slot_of_key(keys.main), []).append(place)
    return list(groups.values())


def nodes_of(places: str, default_port: int) -> Iterator[Node]:
    """The nodes of a URL's ``host:port,host:port``.

    Raises:
        ValueError: one of them is none.
    """
    for place in places.split(","):
        host, separator, port = place.strip().rpartition(":")
        if not separator or port.endswith("]"):
            host, port = place.strip(), str(default_port)
        if not host.strip("[]"):
            raise ValueError(place)
        yield Node(host.strip("[]"), int(port))


def _node(host: bytes | str | None, port: int, asked: Node) -> Node:
    """A node as another one names it; one that does not know its own address says nothing, or a question mark."""
    name = host.decode() if isinstance(host, bytes) else host
    return Node(asked.host if name in (None, "", "?") else name, int(port))


def _unknown(error: BaseException | None) -> BrokerError:
    if isinstance(error, redis.exceptions.ResponseError) and "cluster support disabled" in str(error):
        return translate(error)
    why = "none of them serves a slot" if error is None else str(error) or type(error).__name__
    return BrokerUnavailable(f"no node of the cluster says which node serves what: {why}")
