"""The pulse: a lease is renewed from a thread."""

import asyncio
import time

import pytest

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.pulse import Pulse
from rqueue.errors import BrokerError, BrokerUnavailable

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


@pytest.fixture
def pulse(broker):
    pulse = Pulse(broker.endpoint, 5)
    yield pulse
    pulse.close()


async def test_it_renews_lease_and_card(broker, keys, reports, pulse, seed, dump):
    """The heart beats by itself, over a connection of its own. Breaks when it renews less than `renew` does."""
    await seed({"workers": {"w": "past"}, "reports/workers": {"w": "past"}})
    assert await asyncio.to_thread(pulse.renew, [keys, reports], "w", 20, b"card")
    assert await asyncio.to_thread(pulse.renew, [keys, reports], "w", 20, b"card")
    assert await dump() == {
        "workers": {"w": "future"},
        "reports/workers": {"w": "future"},
        "worker:w": ("ttl", b"card"),
        "reports/worker:w": ("ttl", b"card"),
    }


async def test_it_beats_while_the_event_loop_stands_still(broker, keys, seed, dump, url):
    """A task that blocks the event loop does not cost the worker its jobs. Breaks when the renewal needs the loop."""
    await seed({"workers": {"w": "past"}})
    pulse = Pulse(broker.endpoint, 5)
    beat = asyncio.get_running_loop().run_in_executor(None, pulse.renew, [keys], "w", 20, b"card")
    deadline = time.monotonic() + 5
    while beat._state != "FINISHED" and not _renewed(broker, keys) and time.monotonic() < deadline:
        pass  # no await: the loop stands still
    assert _renewed(broker, keys)
    assert await beat
    pulse.close()
    assert (await dump())["workers"] == {"w": "future"}


def _renewed(broker, keys) -> bool:
    """Look without the event loop."""
    connection = broker.endpoint.sync_connection(5)
    connection.connect()
    connection.send_command("EXISTS", keys.card("w"))
    found = connection.read_response()
    connection.disconnect()
    return bool(found)


async def test_an_unregistered_worker_is_told(broker, keys, pulse, seed, dump):
    """A worker that was reaped goes on under a new id. Breaks when a refusal is no answer."""
    state = {"workers": {"v": "past"}}
    await seed(state)
    assert not await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"card")
    assert await dump() == state


@on_redis
async def test_a_killed_connection_is_opened_again(broker, keys, pulse, raw, seed, dump):
    """The heart goes on. Breaks when a broken connection is kept, or its error is not one of ours."""
    await seed({"workers": {"w": "past"}})
    assert await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"card")
    mine = broker._link.client_id
    clients = [line.split() for line in bytes(await raw("CLIENT", "LIST")).splitlines()]
    for fields in clients:
        number = int(fields[0].removeprefix(b"id="))
        if number != mine:
            await raw("CLIENT", "KILL", "ID", number)
    with pytest.raises(BrokerUnavailable):
        await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"card")
    assert await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"a newer card")
    assert (await dump())["worker:w"] == ("ttl", b"a newer card")


async def test_a_server_that_forgot_the_script_renews_all_the_same(broker, keys, pulse, raw, seed, dump):
    """Breaks when NOSCRIPT is an error: all leases would end after a SCRIPT FLUSH or a failover."""
    await seed({"workers": {"w": "past"}})
    await raw("SCRIPT", "FLUSH")
    assert await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"card")
    assert (await dump())["workers"] == {"w": "future"}


def test_a_server_that_is_not_there(new_server, keys):
    """Breaks when the client library's error comes through, or the next beat does not try again."""
    server = new_server()
    server.kill()
    pulse = Pulse(Endpoint(server.url), 5)
    with pytest.raises(BrokerUnavailable):
        pulse.renew([keys], "w", 20, b"card")
    server.start()
    assert pulse.renew([keys], "w", 20, b"card") is False
    pulse.close()


def test_a_reply_that_does_not_come_breaks_the_connection(new_server, keys):
    """The age of a lease counts. Breaks when a stalled Redis holds the heart for ever."""
    server = new_server()
    pulse = Pulse(Endpoint(server.url), 0.05)
    assert not pulse.renew([keys], "w", 20, b"card")
    other = Endpoint(server.url).sync_connection(5)
    other.connect()
    other.send_command("CLIENT", "PAUSE", "60000", "ALL")
    other.read_response()
    with pytest.raises(BrokerUnavailable):
        pulse.renew([keys], "w", 20, b"card")
    other.disconnect()
    pulse.close()


async def test_a_refusal_is_one_of_our_errors(broker, keys, pulse, seed):
    """Breaks when an error of the server ends the thread."""
    await seed({"workers": b"somebody's string"})
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await asyncio.to_thread(pulse.renew, [keys], "w", 20, b"card")


def test_a_master_that_became_a_replica_is_left(new_server, keys):
    """After a failover another server may be the one to ask. Breaks when the connection to the old master is kept:
    every beat would be refused until the lease is lost.
    """
    server = new_server()
    pulse = Pulse(Endpoint(server.url), 5)
    admin = Endpoint(server.url).sync_connection(5)
    admin.connect()
    for command in (("ZADD", keys.workers, "1", "w"), ("REPLICAOF", "127.0.0.1", "1")):
        admin.send_command(*command)
        admin.read_response()
    with pytest.raises(BrokerUnavailable):
        pulse.renew([keys], "w", 20, b"card")
    assert pulse._connections == {}
    admin.disconnect()
    pulse.close()
