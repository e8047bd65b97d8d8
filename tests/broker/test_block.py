"""block: a wait at the server for a message in the main list; a blocking command, and no script."""

import asyncio

import pytest

from rqueue.broker.broker import fingerprint
from rqueue.errors import BrokerError

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)

ALIVE = {"workers": {"w": "future"}}


async def test_a_waiting_message_is_claimed_at_once(broker, keys, seed, dump, message):
    """Never nowhere: one command moves it. Breaks when it is popped to us, and not into the processing list."""
    a, b = message("a"), message("b")
    await seed({"main": [b, a], **ALIVE})
    assert await broker.block(keys, "w", 5) == a
    assert await dump() == {"main": [b], "processing:w": [a], **ALIVE}


async def test_it_waits_for_a_message(broker, other, keys, dump, message, job, until_blocked):
    """No wake-up is missed. Breaks when a wait is not at the server, or is on the connection of all other verbs."""
    waiting = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked()
    await other.enqueue(keys, "p", 0, 1, [job("a")])
    assert await waiting == message("a")
    assert (await dump())["processing:w"] == [message("a")]


async def test_a_token_ends_the_wait_and_the_next_claim_drops_it(broker, other, keys, seed, dump, message, job):
    """A token is a hint. Breaks when the token is hidden, so that nobody claims, or when it stays in the list."""
    await seed(ALIVE)
    await other.enqueue(keys, "p", 0, 1, [job("a", 9)])
    assert await broker.block(keys, "w", 5) == b""
    assert (await dump())["processing:w"] == [b""]
    await broker.claim([keys], [5], "w", 30, 1, 1_000)
    stored = await dump()
    assert stored["processing:w"] == [message("a", 9)]
    assert "main" not in stored


async def test_the_time_is_up(broker, keys, dump):
    """A block ends. Breaks when the timeout is not sent, or a nil is taken for a message."""
    assert await broker.block(keys, "w", 0.01) is None
    assert await dump() == {}


@on_redis  # fakeredis serves any of them
async def test_one_message_wakes_one_worker(broker, other, keys, dump, message, job, until_blocked):
    """One job wakes one worker, the one that waits longest. Breaks when a job is handed to two."""
    first = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked(1)
    second = asyncio.create_task(other.block(keys, "v", 5))
    await until_blocked(2)
    await broker.enqueue(keys, "p", 0, 1, [job("a")])
    assert await first == message("a")
    await until_blocked(1)
    await broker.enqueue(keys, "p", 0, 2, [job("b")])
    assert await second == message("b")
    stored = await dump()
    assert (stored["processing:w"], stored["processing:v"]) == ([message("a")], [message("b")])


async def test_a_wait_can_be_ended(broker, keys, seed, dump, message, until_blocked):
    """What arrives beyond the free slots ends the other blocks. Breaks when the wrong client's id is asked for."""
    waiting = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked()
    await broker.unblock(keys)
    assert await waiting is None
    await seed({"main": [message("a")]})
    assert await dump() == {"main": [message("a")]}
    assert await broker.block(keys, "w", 5) == message("a")


async def test_unblock_without_a_wait_does_nothing(broker, keys, reports, dump):
    """Breaks when a queue that was never waited at is asked for its connection."""
    await broker.unblock(reports)
    await broker.block(keys, "w", 0.01)
    await broker.unblock(keys)
    assert await broker.block(keys, "w", 0.01) is None
    assert await dump() == {}


async def test_two_queues_wait_beside_each_other(broker, other, keys, reports, message, job, until_blocked):
    """Several queues. Breaks when one connection carries both waits: the second would start after the first."""
    waits = [asyncio.create_task(broker.block(queue, "w", 5)) for queue in (keys, reports)]
    await until_blocked(2)
    await other.enqueue(reports, "p", 0, 1, [job("b")])
    assert await waits[1] == message("b")
    await broker.unblock(keys)
    assert await waits[0] is None


async def test_a_cancelled_wait_loses_nothing(broker, other, keys, dump, message, job, until_blocked):
    """Never nowhere; the audit finds it. Breaks when a cancelled wait's reply is taken for the next command's."""
    waiting = asyncio.create_task(broker.block(keys, "w", 5))
    await until_blocked()
    waiting.cancel()
    await asyncio.wait([waiting])
    await other.enqueue(keys, "p", 0, 1, [job("a"), job("b")])
    assert await broker.block(keys, "w", 5) == message("b")
    assert await broker.audit(keys, "w") == [fingerprint(message(name)) for name in "ba"]
    assert await broker.held_at(keys, "w", 1) == message("a")
    assert "main" not in await dump()


@pytest.mark.parametrize("left_by", ["leave", "reap"])
async def test_a_dead_workers_block_on_its_way_pops_nothing(broker, keys, seed, dump, message, left_by):
    """A dead worker's list refuses messages. Breaks when the tombstone is deleted, a list, or under another key."""
    await seed({"workers": {"w": "past"}})
    assert await (broker.leave(keys, "w") if left_by == "leave" else broker.reap(keys, "w", []))
    await seed({"main": [message("a")]})
    stored = await dump()
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.block(keys, "w", 5)
    assert await dump() == stored


@on_redis  # fakeredis answers the blocked client with nil
@pytest.mark.parametrize("left_by", ["leave", "reap"])
async def test_a_dead_workers_block_at_the_server_pops_nothing_and_the_next_waiter_is_served(
    broker, other, keys, seed, dump, message, job, until_blocked, left_by
):
    """A dead worker's list refuses messages. Breaks without the tombstone: the job would be an orphan behind a dead
    worker's socket.
    """
    await seed({"workers": {"dead": "past", "v": "future"}})
    dead = asyncio.create_task(broker.block(keys, "dead", 5))
    await until_blocked(1)
    alive = asyncio.create_task(other.block(keys, "v", 5))
    await until_blocked(2)
    assert await (broker.leave(keys, "dead") if left_by == "leave" else broker.reap(keys, "dead", []))
    await broker.enqueue(keys, "p", 0, 1, [job("a")])
    assert await alive == message("a")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await dead
    assert await dump() == {
        "processing:dead": ("ttl", b"left" if left_by == "leave" else b"reaped"),
        "processing:v": [message("a")],
        "workers": {"v": "future"},
        "jobs": {"a"},
        "sent:p": ("ttl", {"0": b"1 1"}),
    }
