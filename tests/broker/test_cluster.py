"""What is known of a cluster: slots, nodes, and how both are learnt. The nodes' own answers are the router's tests'."""

import asyncio

import hiredis
import pytest
import redis.exceptions

from rqueue.broker.cluster import SLOTS, Node, Topology, by_slot, learn, learn_sync, nodes_of, slot_of
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Redirected, translate
from rqueue.errors import BrokerError, BrokerUnavailable, ConfigError
from rqueue.wire.keys import Keys

ASKED = Node("seed", 1)
RANGES = [
    [0, 99, [b"one", 7000, b"id"], [b"two", 7001, b"id"]],
    [100, 199, [None, 7002, b"id"]],
    [200, SLOTS - 2, [b"?", 7003, b"id"]],
]


def known() -> Topology:
    topology = Topology([ASKED])
    assert topology.learn(ASKED, RANGES)
    return topology


def redirect(error: type[redis.exceptions.AskError], text: str) -> Redirected:
    found = translate(error(text))
    assert isinstance(found, Redirected)
    return found


def test_each_slot_has_its_node():
    """Where a node says no host, the one that was asked is meant. Breaks when a range's last slot is left out."""
    topology = known()
    at = [topology.owner(slot) for slot in (0, 99, 100, 199, 200, SLOTS - 1)]
    one, two, three = Node("one", 7000), Node("seed", 7002), Node("seed", 7003)
    assert at == [one, one, two, two, three, None]
    assert topology.masters() == [one, two, three]
    assert set(topology.candidates()) == {one, two, three, Node("two", 7001), ASKED}
    assert {topology.any() for _ in range(4)} == {one, two, three, Node("two", 7001)}


def test_a_node_that_knows_nothing_is_not_believed():
    """A server that has just begun knows no slots. Breaks when its answer takes the place of what is known."""
    topology = known()
    assert not topology.learn(ASKED, [])
    assert topology.owner(0) == Node("one", 7000)
    assert not Topology([ASKED]).is_known


def test_a_redirect_for_good_is_remembered_and_one_for_once_is_not():
    topology = known()
    once = redirect(redis.exceptions.AskError, "5 elsewhere:7009")
    assert topology.moved(once, ASKED) == Node("elsewhere", 7009)
    assert topology.owner(5) == Node("one", 7000)
    assert topology.moved(redirect(redis.exceptions.MovedError, "5 :7009"), Node("one", 7000)) == Node("one", 7009)
    assert topology.owner(5) == Node("one", 7009)
    assert "redis+cluster://" in str(once)


def test_a_command_goes_by_its_first_key():
    """Breaks when a script goes by its hash, or a command without keys by its first argument."""
    tagged, plain = slot_of((b"GET", b"rqueue:{email}:x")), slot_of((b"GET", b"email"))
    assert tagged == plain == 10780
    assert slot_of((b"EVALSHA", b"sha", 2, b"rqueue:{email}:x", b"y", b"arg")) == tagged
    assert slot_of(("MEMORY", "USAGE", "email")) == tagged
    assert [slot_of((b"EVAL", b"return 1", 0)), slot_of((b"PING",)), slot_of(("PUBLISH", "email", "x"))] == [None] * 3


def test_queues_of_one_slot_are_together():
    apart, together = Keys(), Keys("{shop}")
    names = ["a", "b", "c"]
    assert by_slot([apart.queue(name) for name in names]) == [[0], [1], [2]]
    assert by_slot([together.queue(name) for name in names]) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("places", "nodes"),
    [
        ("h", [("h", 6379)]),
        ("h:1,i:2", [("h", 1), ("i", 2)]),
        ("[::1]:1, [::2]", [("::1", 1), ("::2", 6379)]),
    ],
)
def test_nodes_of_a_url(places, nodes):
    assert list(nodes_of(places, 6379)) == nodes


def test_a_clusters_url():
    """All that is said in it but the hosts is for every node."""
    endpoint = Endpoint("rediss+cluster://user:p%40ss@one:7000,two:7001/0?ssl_cert_reqs=none")
    connection = endpoint.connection_to(Node("three", 7002))
    assert (connection.host, connection.port, connection.username) == ("three", 7002, "user")
    assert (connection.password, connection.db) == ("p@ss", 0)
    assert endpoint.sync_connection_to(Node("four", 7003), 1).host == "four"
    assert {endpoint.connection().host for _ in range(2)} == {"one", "two"}
    assert endpoint.shown == "rediss+cluster://user:***@one:7000,two:7001/0"
    assert Endpoint("redis+cluster://one:7000,two").shown == "redis+cluster://one:7000,two"
    assert Endpoint("valkey+cluster://h").cluster is not None


@pytest.mark.parametrize(
    "url", ["redis+cluster://h/1", "redis+cluster://h?db=2", "redis+cluster://", "redis+cluster://h:1,:2"]
)
def test_a_url_that_no_cluster_has_is_refused(url):
    with pytest.raises(ConfigError):
        Endpoint(url)


async def test_a_server_that_is_no_cluster_says_so(redis_url):
    """Breaks when the first command hangs, or waits for a cluster that will never be there."""
    endpoint = Endpoint(redis_url.replace("redis://", "redis+cluster://"))
    with pytest.raises(BrokerError, match="cluster support disabled") as error:
        await learn(endpoint, endpoint.cluster)
    assert not isinstance(error.value, BrokerUnavailable)
    with pytest.raises(BrokerError, match="cluster support disabled"):
        await asyncio.to_thread(learn_sync, endpoint, endpoint.cluster)


async def test_the_next_node_is_asked_where_one_does_not_answer():
    """Breaks when one dead seed is enough to know nothing, or one that hangs is waited for without an end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(4096):
            commands.feed(data)
            while command := commands.gets():
                is_asked = command[-1] == b"SLOTS"
                writer.write(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:7000\r\n" if is_asked else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{port},127.0.0.1:2"
        for asking in (learn, lambda *each: asyncio.to_thread(learn_sync, *each)):
            endpoint = Endpoint(url)
            await asking(endpoint, endpoint.cluster)
            assert endpoint.cluster.owner(16383) == Node("127.0.0.1", 7000)
    endpoint = Endpoint("redis+cluster://127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match="no node"):
        await learn(endpoint, endpoint.cluster)
