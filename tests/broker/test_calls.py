"""The connections, the clock and the scripts, which every verb is made of."""

import asyncio

import pytest

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.errors import BrokerUnavailable, ReplyLost
from rqueue.wire.keys import Keys

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


async def test_open_learns_redis_time(broker, raw):
    """Time is Redis's. Breaks when the clock is this machine's until the first claim."""
    broker.clock.observe(0)
    await broker.open()
    seconds, _ = await raw("TIME")
    assert abs(broker.clock.now_ms() / 1000 - int(seconds)) < 5


async def test_open_says_that_there_is_no_server(new_server):
    """Breaks when a broker opens without one, or raises the client library's error."""
    server = new_server()
    server.kill()
    broker = Broker(Endpoint(server.url), Keys())
    with pytest.raises(BrokerUnavailable):
        await broker.open()
    with pytest.raises(BrokerUnavailable):
        await broker.ready()
    server.start()
    await broker.ready()
    await broker.close()


async def test_close_ends_verbs_and_waits(broker, keys, until_blocked):
    """Breaks when a wait at the server outlives its broker."""
    waiting = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked()
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await waiting
    with pytest.raises(BrokerUnavailable):
        await broker.promote(keys)
    await broker.close()


@on_redis
async def test_resets_count_every_connection(broker, other, keys, raw, until_blocked):
    """A worker audits itself after a reconnect. Breaks when the breaks of a wait's connection are not counted."""
    waiting = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked()
    assert broker.resets == 0
    await other._link.call("CLIENT", "KILL", "ID", broker._blocks["email"].client_id)
    with pytest.raises(ReplyLost):
        await waiting
    assert broker.resets == 1
    pending = asyncio.ensure_future(raw("BLPOP", "nothing", 0))
    await asyncio.wait([asyncio.ensure_future(broker.written())])
    await other._link.call("CLIENT", "KILL", "ID", broker._link.client_id)
    with pytest.raises(ReplyLost):
        await pending
    assert broker.resets == 2


@on_redis
async def test_a_lost_reply_is_answered_by_the_same_batch(broker, other, keys, job, dump, message):
    """A repeated enqueue is harmless: sent again over a new connection, it tells what happened. Breaks when the answer
    is kept for the connection.
    """
    await other._link.call("CLIENT", "PAUSE", "60000", "WRITE")
    pending = asyncio.ensure_future(broker.enqueue(keys, "p", 0, 1, [job("a", custom=True)]))
    done, _ = await asyncio.wait([pending], timeout=0.02)
    assert not done
    await broker.written()
    broker._link.reset()
    with pytest.raises(ReplyLost):
        await pending
    await other._link.call("CLIENT", "UNPAUSE")
    for _ in range(2):
        assert await broker.enqueue(keys, "p", 0, 1, [job("a", custom=True)]) == [True]
    assert (await dump())["main"] == [message("a")]


async def test_eviction_policy(new_server):
    """Another policy than noeviction is named loudly. Breaks when it is not read, or only by CONFIG."""
    broker = Broker(Endpoint(new_server({"maxmemory-policy": "allkeys-lru"}).url), Keys())
    assert await broker.eviction_policy() == "allkeys-lru"
    await broker._link.call("ACL", "SETUSER", "default", "-config")
    assert await broker.eviction_policy() == "allkeys-lru"
    await broker._link.call("ACL", "SETUSER", "default", "-info")
    assert await broker.eviction_policy() is None
    await broker.close()


async def test_a_setting(new_server):
    """Breaks when what Redis does not know, or may not tell, is an error."""
    broker = Broker(Endpoint(new_server({"appendonly": "yes", "appendfsync": "always"}).url), Keys())
    assert await broker.setting("appendfsync") == "always"
    assert await broker.setting("no-such-setting") is None
    await broker._link.call("ACL", "SETUSER", "default", "-config")
    assert await broker.setting("appendfsync") is None
    await broker.close()


async def test_eviction_policy_of_each_kind_of_store(broker):
    """Breaks when a store that does not say is an error."""
    assert await broker.eviction_policy() in ("noeviction", None)


async def test_the_server_says_what_it_is_where_it_says_so(broker):
    version = await broker.server_version()
    if broker.endpoint.is_memory:
        assert version.startswith("it does not say")
    else:
        assert version.split()[0] in ("Redis", "Valkey")
        assert version.split()[1][0].isdigit()


async def test_publishing_says_how_many_heard(broker):
    assert await broker.publish(broker.keys.control, b"x") == 0
