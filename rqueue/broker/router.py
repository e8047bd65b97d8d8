"""The connections to a cluster's masters behind the face of one: each command goes to the node that serves its key.

It alone keeps that commands about one slot are executed in the order in which they were given, also across a redirect,
and that only what a node refused to execute is sent again. A lost reply is the caller's affair, as with a
:class:`~rqueue.broker.link.Link`.

A node that does not answer costs one timeout: until it is heard of again, what is for it fails at once, and whoever
serves queues of several nodes goes on with the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from redis.asyncio.connection import AbstractConnection

from rqueue.broker.cluster import REDIRECTS, Node, Topology, learn, slot_of, slot_of_key
from rqueue.broker.link import Argument, Link, Redirected, Reply
from rqueue.errors import BrokerError, BrokerUnavailable, ReplyLost
from rqueue.policy.clock import elapsed_s

if TYPE_CHECKING:
    from rqueue.broker.endpoint import Endpoint

_LEARN_EVERY_S: Final = 0.2
_TRY_EVERY_S: Final = 0.5
_MOST_NODES: Final = 16_384


class _Given:
    """One command, until its reply has come."""

    __slots__ = ("after", "asking", "behind", "command", "inner", "redirects", "reply", "sent", "slot")

    def __init__(self, command: Sequence[Argument], reply: asyncio.Future[Reply]) -> None:
        self.command, self.reply = command, reply
        self.slot = slot_of(command)
        self.redirects = 0
        self.asking: Node | None = None
        self.inner: asyncio.Future[Reply] | None = None
        self.behind: Sequence[Argument] = ()  # what goes to the same node right behind it, and its reply
        self.after: asyncio.Future[Reply] | None = None
        self.sent: asyncio.Future[None] | None = None  # somebody waits until a link has it

    def withdrawn(self, reply: asyncio.Future[Reply]) -> None:
        if reply.cancelled() and self.inner is not None:
            self.inner.cancel()

    def fail(self, error: BaseException) -> None:
        for reply in (self.reply, self.after):
            if reply is not None and not reply.done():
                reply.set_exception(error)
                reply.exception()  # seen: whoever does not wait for this reply is not warned about it
        self.left(error)

    def left(self, error: BaseException | None = None) -> None:
        """A link has it, or it is over."""
        if self.sent is not None and not self.sent.done():
            if error is None:
                self.sent.set_result(None)
            else:
                self.sent.set_exception(error)
                self.sent.exception()


class _Lane:
    """The commands of one slot: how many are on their way, and those that wait until these are answered."""

    __slots__ = ("again", "behind", "on_way", "owner")

    def __init__(self) -> None:
        self.on_way = 0
        self.owner: Node | None = None  # who served the slot when the last of them was sent
        self.again: list[_Given] = []
        self.behind: list[_Given] = []


class Router:
    """One link to each master, used as one.

    Args:
        endpoint: the cluster.
        topology: what is known of it.
        reply_timeout_s: a reply that takes longer breaks its link.
    """

    def __init__(self, endpoint: Endpoint, topology: Topology, reply_timeout_s: float) -> None:
        self._endpoint, self._topology = endpoint, topology
        self.reply_timeout_s = reply_timeout_s
        self._links: dict[Node, Link] = {}
        self._leaving: dict[asyncio.Task[None], Link] = {}
        self._lanes: dict[int, _Lane] = {}
        self._homes: dict[int, Node] = {}
        self._away: set[Node] = set()
        self._waiting: list[_Given] = []
        self._learning: asyncio.Task[None] | None = None
        self._learnt_s = -1e9
        self._past_resets = 0
        self._closed = False

    @property
    def is_open(self) -> bool:
        """True while there is a connection to any node."""
        return any(link.is_open for link in self._links.values())

    @property
    def resets(self) -> int:
        """How often a connection broke."""
        return self._past_resets + sum(link.resets for link in (*self._links.values(), *self._leaving.values()))

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """As :meth:`Link.call`; a command without a key goes to any node."""
        return self._call(_Given(command, asyncio.get_running_loop().create_future()))

    def call_at(self, key: bytes, *command: Argument) -> asyncio.Future[Reply]:
        """As :meth:`call`, for a command without a key: to the node that serves this one."""
        given = _Given(command, asyncio.get_running_loop().create_future())
        given.slot = slot_of_key(key)
        return self._call(given)

    def home(self, key: bytes) -> Callable[[], AbstractConnection]:
        """Makes connections of one's own to whoever serves a key when they are made."""
        return partial(self._at_home, slot_of_key(key))

    def call_home(self, key: bytes, *command: Argument) -> asyncio.Future[Reply]:
        """Ask the node to which the last connection that :meth:`home` made for that key leads."""
        return self._ask(self._homes[slot_of_key(key)], command)

    def missed(self, key: bytes, error: BrokerError) -> BrokerUnavailable:
        """What such a connection met, a redirect or a break, is noted here; as it is for who waits there."""
        self.suspect()
        if not isinstance(error, Redirected):
            assert isinstance(error, BrokerUnavailable)
            return error
        self._topology.moved(error, self._homes[slot_of_key(key)])
        return BrokerUnavailable(f"Redis is not ready: {error}")

    async def scan(self, cursor: int, *options: Argument) -> tuple[int, list[bytes]]:
        """One step of a SCAN over the keys of one master after the other; the next cursor, 0 at the end."""
        if not self._topology.is_known:
            await self.call(b"PING")
        masters = sorted(self._topology.masters())
        inner, place = divmod(cursor, _MOST_NODES)
        place %= len(masters)
        after, found = await self._ask(masters[place], (b"SCAN", inner, *options))
        if int(after):
            return int(after) * _MOST_NODES + place, found
        return (place + 1) % len(masters), found

    def call_with(
        self, command: Sequence[Argument], behind: Sequence[Argument]
    ) -> tuple[asyncio.Future[Reply], asyncio.Future[Reply]]:
        """Give a command and, right behind it and to whichever node it goes, a second one without a key, as WAIT."""
        loop = asyncio.get_running_loop()
        given = _Given(command, loop.create_future())
        given.behind, given.after = behind, loop.create_future()
        return self._call(given), given.after

    async def written(self) -> None:
        """As :meth:`Link.written`, over all nodes."""
        unsent = [*self._waiting, *(each for lane in self._lanes.values() for each in (*lane.again, *lane.behind))]
        for given in unsent:
            given.sent = given.sent or asyncio.get_running_loop().create_future()
        await asyncio.gather(*(given.sent for given in unsent if given.sent is not None))
        await asyncio.gather(*(link.written() for node, link in self._links.items() if node not in self._away))

    async def close(self) -> None:
        """Close all connections; what has no reply yet fails."""
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        self._fail_waiting(BrokerUnavailable("the connection to Redis was closed"))
        for link in self._links.values():
            await link.close()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def reset(self) -> None:
        """Break all connections: what is pending fails with ReplyLost, the next commands open new ones."""
        self.suspect()
        for link in self._links.values():
            link.reset()

    def suspect(self) -> None:
        """Something is not where it was: learn the topology anew, unless that was done a moment ago."""
        if self._learning is None and not self._closed:
            wait_s = self._learnt_s + _LEARN_EVERY_S - elapsed_s() if self._topology.is_known else 0.0
            if wait_s <= 0:
                self._learning = asyncio.create_task(self._learn(), name="rqueue cluster topology")

    def _call(self, given: _Given) -> asyncio.Future[Reply]:
        given.reply.add_done_callback(given.withdrawn)
        if self._closed:
            given.fail(BrokerUnavailable("the connection to Redis is closed"))
        elif not self._topology.is_known:
            self._waiting.append(given)
            self.suspect()
        else:
            self._route(given)
        return given.reply

    async def _learn(self) -> None:
        try:
            await learn(self._endpoint, self._topology)
        except BrokerError as exc:
            self._fail_waiting(exc)
        else:
            self._part_from_others()
            waiting, self._waiting = self._waiting, []
            for given in waiting:
                self._route(given)
        finally:
            self._learnt_s = elapsed_s()
            self._learning = None

    def _fail_waiting(self, error: BrokerError) -> None:
        waiting, self._waiting = self._waiting, []
        for given in waiting:
            given.fail(error)
        for lane in self._lanes.values() if self._closed else ():
            for given in (*lane.again, *lane.behind):
                given.fail(error)

    def _part_from_others(self) -> None:
        """Nodes that serve nothing any more owe no reply that would be waited for: they may be dead, or hang."""
        masters = self._topology.masters()
        for node in [node for node in self._links if node not in masters]:
            link = self._links.pop(node)
            link.reset()  # what was sent fails as such: it may have happened
            task = asyncio.create_task(link.close(), name="rqueue cluster node left")
            self._leaving[task] = link
            task.add_done_callback(self._has_left)

    def _has_left(self, task: asyncio.Task[None]) -> None:
        self._past_resets += self._leaving.pop(task).resets

    def _at_home(self, slot: int) -> AbstractConnection:
        self._homes[slot] = node = self._topology.owner(slot) or self._topology.any()
        return self._endpoint.connection_to(node)

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(partial(self._endpoint.connection_to, node), self.reply_timeout_s)
        return link

    def _ask(self, node: Node, command: Sequence[Argument]) -> asyncio.Future[Reply]:
        """Ask that node, whatever it serves."""
        if node in self._away:
            reply = asyncio.get_running_loop().create_future()
            reply.set_exception(_no_answer(node))
            return reply
        reply = self._link(node).call(*command)
        reply.add_done_callback(partial(self._note, node))
        return reply

    def _note(self, node: Node, reply: asyncio.Future[Reply]) -> None:
        """Whether a node answers: away is one that could not be connected to, or did not reply in time."""
        error = None if reply.cancelled() else reply.exception()
        link = self._links.get(node)
        if not isinstance(error, BrokerUnavailable) or link is None or link.is_open or node in self._away:
            return
        if link.is_overdue or not isinstance(error, ReplyLost):
            self._away.add(node)
            self._try(node)

    def _try(self, node: Node) -> None:
        link = None if self._closed else self._links.get(node)
        if link is None:  # it has left the cluster
            self._away.discard(node)
        else:
            link.call(b"PING").add_done_callback(partial(self._tried, node, link))

    def _tried(self, node: Node, link: Link, reply: asyncio.Future[Reply]) -> None:
        error = None if reply.cancelled() else reply.exception()
        if isinstance(error, BrokerUnavailable) and not link.is_open:
            asyncio.get_running_loop().call_later(_TRY_EVERY_S, self._try, node)
        else:
            self._away.discard(node)

    def _route(self, given: _Given) -> None:
        if given.slot is None:
            masters = self._topology.masters()
            self._send_anywhere(given, [node for node in masters if node not in self._away] or masters)
            return
        lane = self._lanes.get(given.slot)
        if lane is None:
            lane = self._lanes[given.slot] = _Lane()
        if lane.again:
            lane.behind.append(given)  # what was given before it goes again first
        elif lane.on_way and lane.owner != self._topology.owner(given.slot):
            lane.behind.append(given)  # so it may: somebody else has found out that the slot has moved
            self.suspect()  # the old node may be dead, and what is on its way there is given up then
        else:
            self._send(given, lane)

    def _send(self, given: _Given, lane: _Lane) -> None:
        if given.reply.done():
            given.left()
            return
        assert given.slot is not None
        lane.owner = self._topology.owner(given.slot)
        node = given.asking or lane.owner
        if node is None:
            self.suspect()
            given.fail(BrokerUnavailable("Redis is not ready: no node of the cluster serves the slot"))
            return
        if node in self._away:
            self.suspect()
            given.fail(_no_answer(node))
            return
        link = self._link(node)
        if given.asking is not None:
            given.asking = None
            link.call(b"ASKING")  # right before it: they leave together
        given.inner = link.call(*given.command)
        behind = link.call(*given.behind) if given.after is not None else None
        lane.on_way += 1
        given.inner.add_done_callback(partial(self._answered, given, behind, lane, node))
        given.left()

    def _answered(
        self,
        given: _Given,
        behind: asyncio.Future[Reply] | None,
        lane: _Lane,
        node: Node,
        inner: asyncio.Future[Reply],
    ) -> None:
        lane.on_way -= 1
        self._note(node, inner)
        error = None if inner.cancelled() else inner.exception()
        if (
            isinstance(error, Redirected)
            and not given.reply.done()
            and given.redirects < REDIRECTS
            and not self._closed
        ):
            # Nothing was executed. What else is on its way there is redirected as well: they go again together, in
            # their order, and what is given meanwhile waits behind them.
            given.redirects += 1
            target = self._topology.moved(error, node)
            given.asking = target if error.is_once else None
            if not error.is_once:
                self.suspect()  # more than this slot may have moved
            lane.again.append(given)
        else:
            if behind is not None and given.after is not None:
                behind.add_done_callback(partial(_pass_on, given.after))
            self._conclude(given, inner)
        if not lane.on_way and (lane.again or lane.behind):
            ready, lane.again, lane.behind = [*lane.again, *lane.behind], [], []
            for each in ready:
                self._send(each, lane)

    def _conclude(self, given: _Given, inner: asyncio.Future[Reply]) -> None:
        if inner.cancelled():
            given.reply.cancel()
        elif given.reply.done():
            inner.exception()  # cancelled when this reply had come already
        elif (error := inner.exception()) is None:
            given.reply.set_result(inner.result())
        else:
            if isinstance(error, Redirected):
                error = BrokerUnavailable(f"Redis is not ready: {error}")
            if isinstance(error, BrokerUnavailable):
                self.suspect()
            given.fail(error)  # so is what was right behind it

    def _send_anywhere(self, given: _Given, nodes: list[Node]) -> None:
        """To a node that is connected, if there is one; the next, while it was not sent."""
        if given.reply.done() or self._closed or not nodes:
            given.fail(BrokerUnavailable("Redis is not ready: no node of the cluster serves a slot"))
            return
        node = next((each for each in nodes if each in self._links and self._links[each].is_open), nodes[0])
        nodes.remove(node)
        given.inner = self._ask(node, given.command)
        given.inner.add_done_callback(partial(self._answered_anywhere, given, nodes))
        given.left()

    def _answered_anywhere(self, given: _Given, nodes: list[Node], inner: asyncio.Future[Reply]) -> None:
        if given.reply.done():
            if not inner.cancelled():
                inner.exception()
            return
        error = None if inner.cancelled() else inner.exception()
        if isinstance(error, BrokerUnavailable) and not isinstance(error, ReplyLost) and nodes:
            self.suspect()
            self._send_anywhere(given, nodes)
        else:
            self._conclude(given, inner)


def _no_answer(node: Node) -> BrokerUnavailable:
    return BrokerUnavailable(f"Redis is not ready: {node.host}:{node.port} of the cluster does not answer")


def _pass_on(to: asyncio.Future[Reply], reply: asyncio.Future[Reply]) -> None:
    error = None if reply.cancelled() else reply.exception()
    if to.done():
        return
    if reply.cancelled():
        to.cancel()
    elif error is not None:
        to.set_exception(error)
        to.exception()
    else:
        to.set_result(reply.result())
