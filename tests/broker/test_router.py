"""The router, and the verbs over it, on a real cluster: slots that move, nodes that go away.

Every test leaves the cluster whole. Which node serves a slot at first is asked, never assumed: a failover changes it.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace

import pytest
import redis.exceptions

from rqueue.broker.broker import Broker, Enqueued
from rqueue.broker.cluster import Node
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Redirected
from rqueue.broker.pulse import Pulse
from rqueue.broker.router import Router
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.wire.keys import Keys
from rqueue.wire.message import TOKEN, Header

from ..cluster import MASTERS, Cluster, queue_at, queue_in, slot_of  # noqa: TID252 - tests are no installed package

THREE = [Keys().queue(queue_at(place)) for place in range(MASTERS)]
LEASE_S = 60


@pytest.fixture
async def broker(cluster: Cluster) -> AsyncIterator[Broker]:
    broker = Broker(Endpoint(cluster.url), Keys())
    await broker.open()
    yield broker
    await broker.close()


def another(cluster: Cluster, slot: int):
    """A master that does not serve the slot."""
    owner = cluster.owner(slot)
    return next(server for server in cluster.servers if server is not owner and cluster.is_master(server))


def jobs(*ids: str) -> list[Enqueued]:
    return [Enqueued(each, False, 0, "", Header(id=each).encode() + b'{"task":"t"}') for each in ids]


async def insist(step, *args):
    """As callers do: what is not ready is asked again."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await step(*args)
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


async def on_thread(step, *args):
    return await asyncio.to_thread(step, *args)


async def test_each_queue_is_at_the_node_of_its_slot_and_others_at_any(broker, cluster):
    """Breaks when the slot is not that of the key's hash tag, or a script's is not that of its first key."""
    for keys in THREE:
        await broker.enqueue(keys, "p", 0, 1, jobs("a"))
        await broker._link.call(b"HSET", keys.letters, b"a", b"letter")
    for keys in THREE:
        owner = cluster.client(cluster.owner(slot_of(keys.name)))
        assert (owner.llen(keys.main), owner.hlen(keys.letters)) == (1, 1)
    await broker.ping()
    assert await broker.eviction_policy() == "noeviction"
    assert "alkey" in (version := await broker.server_version()) or "Redis" in version


async def test_commands_of_a_moving_slot_keep_their_order(broker, cluster):
    """Thousands on their way while the slot goes to another node and back: each is executed once, in its order.

    Breaks when what is given meanwhile does not wait for what was redirected, or a redirected one is dropped.
    """
    key, slot = THREE[0].main, slot_of(THREE[0].name)
    home, away = cluster.owner(slot), another(cluster, slot)
    is_over, sent = asyncio.Event(), []

    async def produce() -> None:
        while not is_over.is_set():
            for _ in range(20):
                sent.append(broker._link.call(b"RPUSH", key, len(sent)))
            await asyncio.sleep(0)

    producing = asyncio.create_task(produce())
    for to in (away, home):
        await on_thread(cluster.migrate, slot, to)
    is_over.set()
    await producing
    assert await asyncio.gather(*sent) == list(range(1, len(sent) + 1))
    assert [int(each) for each in await broker._link.call(b"LRANGE", key, 0, -1)] == list(range(len(sent)))


async def test_a_slot_that_has_moved_is_followed_and_remembered(broker, cluster):
    """Breaks when MOVED is the caller's affair, or each command goes to the old node first."""
    keys, slot = THREE[1], slot_of(THREE[1].name)
    await broker.enqueue(keys, "p", 0, 1, jobs("a"))
    home, away = cluster.owner(slot), another(cluster, slot)
    await on_thread(cluster.migrate, slot, away)
    assert await broker.length(keys, 0) == 1
    assert broker.endpoint.cluster.owner(slot).port == away.port
    await broker.enqueue(keys, "p", 0, 2, jobs("b"))
    await on_thread(cluster.migrate, slot, home)
    assert await broker.waiting(keys, 0, 0, 9) == [each.message for each in jobs("b", "a")]


async def test_while_a_slot_moves_a_command_is_asked_there_and_a_script_waits(broker, cluster):
    """ASK is for one command and changes nothing; a script whose keys are at two nodes did nothing. Breaks when ASK is
    taken for MOVED, when ASKING is missing, or TRYAGAIN is an error of another kind.
    """
    keys, slot = THREE[2], slot_of(THREE[2].name)
    await broker.enqueue(keys, "p", 0, 1, jobs("a"))
    away = another(cluster, slot)
    home = await on_thread(cluster.begin_migration, slot, away)
    call = broker._link.call
    assert await call(b"SET", keys.card("w"), b"there") == b"OK"
    assert cluster.ask(away, "CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    assert await call(b"GET", keys.card("w")) == b"there"
    assert broker.endpoint.cluster.owner(slot).port == home.port
    with pytest.raises(BrokerUnavailable):
        await broker.enqueue(keys, "q", 0, 1, jobs("b"))
    for _ in cluster.move_keys(slot, home, away):
        pass
    waiting = asyncio.create_task(insist(broker.enqueue, keys, "q", 0, 1, jobs("b")))
    await on_thread(cluster.end_migration, slot, home, away)
    assert await waiting == [True]
    assert await broker.waiting(keys, 0, 0, 9) == [each.message for each in jobs("b", "a")]
    await on_thread(cluster.migrate, slot, home)


async def test_what_waits_for_the_topology_is_withdrawn_written_and_closed_as_on_a_link(cluster):
    """Breaks when a cancelled call is sent all the same, or when `written` returns before it is anywhere."""
    endpoint = Endpoint(cluster.url)
    router = Router(endpoint, endpoint.cluster, 5)
    key = THREE[0].main
    kept, withdrawn = router.call(b"RPUSH", key, b"kept"), router.call(b"RPUSH", key, b"withdrawn")
    withdrawn.cancel()
    assert not router.is_open
    await router.written()
    assert router.is_open
    assert await kept == 1
    assert await router.call(b"LRANGE", key, 0, -1) == [b"kept"]
    await router.close()
    with pytest.raises(BrokerUnavailable):
        await router.call(b"PING")
    nowhere = Endpoint("redis+cluster://127.0.0.1:1")
    router = Router(nowhere, nowhere.cluster, 5)
    given = router.call(b"RPUSH", key, b"x")
    with pytest.raises(BrokerUnavailable):
        await router.written()
    with pytest.raises(BrokerUnavailable, match="no node of the cluster"):
        await given
    await router.close()


async def test_a_wait_goes_right_behind_its_command_to_the_same_node(broker, cluster):
    """Also after a redirect: it waits for what its connection has written. Breaks when it goes to any node, where it
    says yes to nothing.
    """
    router, key, slot = broker._router, THREE[0].main, slot_of(THREE[0].name)
    assert await asyncio.gather(*router.call_with((b"RPUSH", key, b"1"), (b"WAIT", 1, 5000))) == [1, 1]
    home = cluster.owner(slot)
    await on_thread(cluster.migrate, slot, another(cluster, slot))
    away = cluster.client(cluster.owner(slot))
    away.execute_command("CONFIG", "RESETSTAT")
    assert await asyncio.gather(*router.call_with((b"RPUSH", key, b"2"), (b"WAIT", 1, 5000))) == [2, 1]
    assert away.info("commandstats")["cmdstat_wait"]["calls"] == 1
    pushed, waited = router.call_with((b"HSET", key, b"2", b"3"), (b"WAIT", 1, 5000))
    for each in (pushed, waited):
        with pytest.raises(BrokerError):
            await each
    await on_thread(cluster.migrate, slot, home)


async def test_the_time_of_a_queue_is_that_of_its_own_node(broker, cluster):
    """Their clocks need not agree. Breaks when any node is asked: what it takes for due the queue's own may not."""
    for keys in THREE:
        own = cluster.owner(slot_of(keys.name))
        before = {server.port: times_asked(cluster, server) for server in cluster.servers}
        await broker.sync_clock(keys.main)
        asked = [server.port for server in cluster.servers if times_asked(cluster, server) > before[server.port]]
        assert asked == [own.port]


def times_asked(cluster: Cluster, server) -> int:
    return cluster.client(server).info("commandstats").get("cmdstat_time", {}).get("calls", 0)


async def test_a_scan_visits_every_master(broker, cluster):
    """Breaks when only one node is asked: what is left on the others is never found."""
    for keys in THREE:
        await broker._link.call(b"LPUSH", keys.processing("orphan"), b"x")
    found, cursor = [], 0
    while True:
        cursor, some = await broker.orphans(THREE, cursor)
        found += some
        if not cursor:
            break
    assert {(keys.name, worker) for keys, worker in found} == {(keys.name, "orphan") for keys in THREE}
    assert await broker.erase() == MASTERS
    assert [cluster.client(each).dbsize() for each in cluster.servers if cluster.is_master(each)] == [0] * MASTERS


async def test_a_claim_over_slots_takes_the_highest_first_and_no_more_than_wanted(broker):
    """Breaks when each slot is asked for all that is wanted, or the places of the queues are those in their slot."""
    for number, keys in enumerate(THREE):
        await broker.register(keys, "w", LEASE_S)
        await broker.enqueue(keys, "p", 0, 1, jobs(f"{number}a", f"{number}b"))
    await broker.pause(THREE[0], "task:t")
    claim = await broker.claim(THREE, [1, 9, 5], "w", LEASE_S, 3, 1 << 20)
    assert [(each.queue, each.raw.split(b" ")[5]) for each in claim.messages] == [(1, b"1a"), (1, b"1b"), (2, b"2a")]
    assert [(each.queue, set(each.tasks)) for each in claim.stopped] == [(0, {"t"})]
    assert (claim.missed, claim.error) == ((), None)
    # Nothing is wanted of the last: it was asked all the same, and left a token where it left something behind.
    claim = await broker.claim(THREE, [1, 9, 5], "w", LEASE_S, 0, 1 << 20)
    assert claim.messages == []
    await broker.leave(THREE[0], "w")
    assert await broker.claim(THREE, [1, 9, 5], "w", LEASE_S, 3, 1 << 20) is None
    assert not await broker.renew(THREE, "w", LEASE_S, b"card")


async def test_a_block_follows_its_slot_and_is_ended_at_its_node(broker, cluster, until_blocked):
    """Breaks when the wait stays at a node that does not serve the slot any more, or UNBLOCK goes to another node."""
    keys, slot = THREE[0], slot_of(THREE[0].name)
    for each in THREE:
        await broker.register(each, "w", LEASE_S)
        ended = asyncio.create_task(broker.block(each, "w", 10))
        await until_blocked()
        await broker.unblock(each)
        async with asyncio.timeout(5):
            assert await ended is None
    home, away = cluster.owner(slot), another(cluster, slot)
    waiting = asyncio.create_task(broker.block(keys, "w", 10))
    await until_blocked()
    await on_thread(cluster.migrate, slot, away)
    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailable):
            await waiting
    there = asyncio.create_task(insist(broker.block, keys, "w", 10))
    await until_blocked()
    await broker._link.call(b"LPUSH", keys.main, TOKEN)
    async with asyncio.timeout(5):
        assert await there == TOKEN
    await on_thread(cluster.migrate, slot, home)


async def test_a_heart_follows_slots(broker, cluster):
    """Breaks when the heart's thread does not know redirects: the leases of all queues would lapse."""
    for keys in THREE:
        await broker.register(keys, "w", LEASE_S)
    pulse, slot = Pulse(Endpoint(cluster.url), 5), slot_of(THREE[0].name)
    assert await on_thread(pulse.renew, THREE, "w", LEASE_S, b"card 1")
    home = cluster.owner(slot)
    await on_thread(cluster.migrate, slot, another(cluster, slot))
    assert await on_thread(pulse.renew, THREE, "w", LEASE_S, b"card 2")
    assert [await broker._link.call(b"GET", keys.card("w")) for keys in THREE] == [b"card 2"] * 3
    await broker.leave(THREE[1], "w")
    assert not await on_thread(pulse.renew, THREE, "w", LEASE_S, b"card 3")
    pulse.close()
    await on_thread(cluster.migrate, slot, home)


async def test_a_node_that_is_away_is_missed_alone_until_its_replica_takes_over(broker, cluster):
    """Killed, its slots cannot be asked; all others can, by the claim, the heart and any command without a key. Its
    replica serves them, without a new connection of ours. Breaks when one dead node fails all, or is asked for ever.
    """
    for keys in THREE:
        await broker.register(keys, "w", LEASE_S)
        await broker.enqueue(keys, "p", 0, 1, jobs(keys.name))
    lost = THREE[0]
    pulse, owner = Pulse(broker.endpoint, 5), cluster.owner(slot_of(lost.name))
    await on_thread(pulse.renew, THREE, "w", LEASE_S, b"card")
    cluster.client(owner).wait(1, 5000)
    cluster.hold_failovers()
    owner.kill()
    with pytest.raises(BrokerUnavailable):
        await broker.length(lost, 0)
    claim = await broker.claim(THREE, [1, 9, 5], "w", LEASE_S, 9, 1 << 20)
    assert ({each.queue for each in claim.messages}, claim.missed) == ({1, 2}, (0,))
    assert isinstance(claim.error, BrokerUnavailable)
    # Whoever knows the topology and has no connection yet tries the next node.
    assert broker.endpoint.cluster.masters()[0].port == owner.port
    fresh = Broker(broker.endpoint, broker.keys)
    await fresh.ping()
    await fresh.close()
    # Where the list of queues is away, queues that are there are enqueued to all the same.
    tagged = Broker(broker.endpoint, Keys(f"{{{lost.name}}}"))
    await tagged.announce(THREE[1].name)
    assert tagged.is_ready(THREE[1].name) == tagged._link.is_open
    await tagged.close()
    await broker.sync_clock()
    with pytest.raises(BrokerUnavailable):
        await broker.renew(THREE, "w", LEASE_S, b"card")
    with pytest.raises(BrokerUnavailable):
        await on_thread(pulse.renew, THREE, "w", LEASE_S, b"again")
    assert await broker._link.call(b"GET", THREE[2].card("w")) == b"again"
    cluster.hold_failovers(is_held=False)
    assert await insist(broker.length, lost, 0) == 1
    claim = await broker.claim(THREE, [1, 9, 5], "w", LEASE_S, 9, 1 << 20)
    assert ({each.queue for each in claim.messages}, claim.missed) == ({0}, ())
    assert await insist(on_thread, pulse.renew, THREE, "w", LEASE_S, b"card")
    pulse.close()
    owner.start()
    await on_thread(cluster.settle)


async def test_a_namespace_with_a_hash_tag_is_one_slot(cluster):
    """Breaks when queues are grouped by their names instead of their keys' slots."""
    broker = Broker(Endpoint(cluster.url), Keys("{shop}"))
    one, two = (broker.keys.queue(name) for name in ("a", "b"))
    for keys in (one, two):
        await broker.register(keys, "w", LEASE_S)
    await broker.enqueue(one, "p", 0, 1, jobs("a"))
    await broker.enqueue(two, "p", 0, 1, jobs("b"))
    claim = await broker.claim([one, two], [5, 6], "w", LEASE_S, 9, 1 << 20)
    assert [each.queue for each in claim.messages] == [1, 0]
    await broker.close()


class Wires:
    """Links to two nodes that serve all slots, whose replies the test gives; what was sent, in its order."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes, asyncio.Future[object]]] = []
        endpoint = Endpoint("redis+cluster://127.0.0.1:1")
        self.topology = endpoint.cluster
        self.router = Router(endpoint, self.topology, 5)
        self.router._link = lambda node: SimpleNamespace(call=partial(self._call, node.port), is_open=True)
        self.serve(1)

    def serve(self, port: int) -> None:
        self.topology.learn(Node("127.0.0.1", port), [[0, 16383, [b"127.0.0.1", port]]])

    def _call(self, port: int, *command: bytes) -> asyncio.Future[object]:
        reply = asyncio.get_running_loop().create_future()
        self.sent.append((port, command[-1], reply))
        return reply


async def moved(reply: asyncio.Future[object], to: int) -> None:
    reply.set_exception(Redirected(redis.exceptions.MovedError(f"{slot_of('k')} 127.0.0.1:{to}")))
    await asyncio.sleep(0)


async def test_a_caller_who_gives_up_as_the_reply_comes_does_not_stop_the_slot():
    """Breaks when a reply is given to a future that is cancelled already: what waits for it is never sent."""
    wires = Wires()
    first, second = wires.router.call(b"GET", b"{k}1"), wires.router.call(b"GET", b"{k}2")
    await moved(wires.sent[0][2], 2)
    assert len(wires.sent) == 2  # the first goes again once the second is answered
    wires.sent[1][2].set_result(b"2")
    second.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [each[:2] for each in wires.sent[2:]] == [(2, b"{k}1")]
    wires.sent[2][2].set_result(b"1")
    assert await first == b"1"
    await wires.router.close()


async def test_commands_keep_their_order_when_another_finds_out_that_the_slot_has_moved():
    """Who else uses the topology, as the heart, may learn of a move while commands are on their way to the old node.

    Breaks when what is given then goes to the new node at once: what the old one refuses is executed after it.
    """
    wires = Wires()
    first = wires.router.call(b"GET", b"{k}1")
    wires.serve(2)
    second = wires.router.call(b"GET", b"{k}2")
    await moved(wires.sent[0][2], 2)
    assert [each[:2] for each in wires.sent] == [(1, b"{k}1"), (2, b"{k}1"), (2, b"{k}2")]
    for _, name, reply in wires.sent[1:]:
        reply.set_result(name)
    assert await asyncio.gather(first, second) == [b"{k}1", b"{k}2"]
    # … and what the old one has executed holds up nobody.
    third = wires.router.call(b"GET", b"{k}3")
    wires.serve(1)
    fourth = wires.router.call(b"GET", b"{k}4")
    wires.sent[3][2].set_result(b"{k}3")
    assert await third == b"{k}3"
    assert [each[:2] for each in wires.sent[3:]] == [(2, b"{k}3"), (1, b"{k}4")]
    wires.sent[4][2].set_result(b"{k}4")
    assert await fourth == b"{k}4"
    await wires.router.close()


async def test_a_node_that_is_away_is_asked_once_in_a_beat_and_last_in_the_next(broker, cluster):
    """However many queues it has: each try may take a third of the lease, and the other nodes' leases run meanwhile.

    Breaks when each of its slots is tried, or when a beat begins with the node that was away in the one before.
    """
    away = THREE[0]
    others = [away, *(Keys().queue(queue_in(0, 16384 // MASTERS, stem)) for stem in ("a", "b", "c")), THREE[1]]
    for keys in others:
        await broker.register(keys, "w", LEASE_S)
    pulse, owner = Pulse(broker.endpoint, 5), cluster.owner(slot_of(away.name))
    assert await on_thread(pulse.renew, others, "w", LEASE_S, b"card")
    asked, ask = [], pulse._ask
    pulse._ask = lambda node, *command: asked.append(node.port) or ask(node, *command)
    cluster.hold_failovers()
    owner.kill()
    there = cluster.owner(slot_of(THREE[1].name)).port
    for beat in ([owner.port, there], [there, owner.port]):
        asked.clear()
        with pytest.raises(BrokerUnavailable):
            await on_thread(pulse.renew, others, "w", LEASE_S, b"again")
        assert asked == beat
    assert await broker._link.call(b"GET", THREE[1].card("w")) == b"again"
    owner.start()
    cluster.hold_failovers(is_held=False)
    await on_thread(cluster.settle)
    pulse.close()


async def test_a_node_that_hangs_costs_one_timeout_and_the_others_go_on(cluster):
    """It takes connections and answers nothing: until it is heard of, what is for it fails at once.

    Breaks when each command waits for its own timeout, `written` waits for that node's connection as well, or a start
    mark that cannot leave is taken for one that has left.
    """
    broker = Broker(Endpoint(cluster.url), Keys(), 0.3)
    lost, others = THREE[0], [THREE[0], *(Keys().queue(queue_in(0, 16384 // MASTERS, stem)) for stem in ("a", "b"))]
    for keys in (*others, THREE[1]):
        await broker.register(keys, "w", LEASE_S)
    owner = cluster.owner(slot_of(lost.name))
    cluster.hold_failovers()
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BrokerUnavailable):
            await broker.length(lost, 0)
        for keys in others:
            reply = broker._link.call(b"LLEN", keys.main)
            assert reply.done()
            with pytest.raises(BrokerUnavailable, match="does not answer"):
                await reply
        with pytest.raises(BrokerUnavailable):
            broker.start(lost, "w", ["a"])
        marked = broker.start(THREE[1], "w", ["a"])
        await broker.written()
        assert await marked
        claim = await broker.claim([*others, THREE[1]], [9, 9, 9, 1], "w", LEASE_S, 1, 1 << 20)
        assert sorted(claim.missed) == [0, 1, 2]
    finally:
        os.kill(owner.pid, signal.SIGCONT)
        cluster.hold_failovers(is_held=False)
    assert await insist(broker.length, lost, 0) == 0
    await broker.close()
