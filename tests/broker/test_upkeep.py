"""``ping``, and the removal of keys: those that are named, or all of a namespace, and no other."""

import pytest

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.upkeep import AT_ONCE
from rqueue.errors import BrokerUnavailable
from rqueue.wire.keys import Keys


async def test_ping(new_server):
    server = new_server()
    broker = Broker(Endpoint(server.url), Keys())
    await broker.ping()
    server.stop()
    with pytest.raises(BrokerUnavailable):
        await broker.ping()
    await broker.close()


async def test_named_keys_are_removed_whatever_they_hold(broker, raw):
    """More than go into one command. Breaks when the last portion is forgotten, or one of none is sent."""
    names = [b"k%d" % number for number in range(AT_ONCE + 2)]
    await raw("MSET", *(part for name in names for part in (name, "x")))
    await raw("RPUSH", "list", "x")
    assert await broker.unlink([*names[:-1], b"list", b"not there"]) == AT_ONCE + 2
    assert await raw("KEYS", "*") == [names[-1]]
    assert await broker.unlink([]) == 0


async def test_a_namespace_is_erased_and_no_other(broker, raw, job):
    """Breaks when its name is taken for a pattern, a longer name for its own, or the search ends early."""
    broker.keys = Keys("my*")
    await broker.enqueue(broker.keys.queue("email"), "p", 0, 1, [job("a")])
    await broker.announce("email")
    names = [f"{prefix}:{number}" for number in range(AT_ONCE + 1) for prefix in ("my*", "myself", "my*x")]
    await raw("MSET", *(part for name in names for part in (name, "x")))
    assert await broker.erase() == AT_ONCE + 1 + 4
    left = {name.decode().partition(":")[0] for name in await raw("KEYS", "*")}
    assert left == {"myself", "my*x"}
    assert await raw("DBSIZE") == 2 * (AT_ONCE + 1)
