"""A subscription: channels that are listened to, and listened to again after a break."""

import asyncio

import pytest

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.subscription import Subscription

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


class Ear:
    """A subscription, and what it reported: awaited, never slept for."""

    def __init__(self, connect):
        self.messages: asyncio.Queue = asyncio.Queue()
        self.listening: asyncio.Queue = asyncio.Queue()
        self.subscription = Subscription(
            connect,
            lambda channel, payload: self.messages.put_nowait((channel, payload)),
            lambda channels: self.listening.put_nowait(sorted(channels)),
        )

    async def heard(self):
        async with asyncio.timeout(5):
            return await self.messages.get()

    async def listens(self):
        async with asyncio.timeout(5):
            return await self.listening.get()


@pytest.fixture
async def ear(broker):
    ear = Ear(broker.endpoint.connection)
    yield ear
    await ear.subscription.close()


async def until_connections(raw, count):
    async with asyncio.timeout(5):
        while len(bytes(await raw("CLIENT", "LIST", "TYPE", "pubsub")).splitlines()) != count:
            pass


async def test_what_is_published_is_heard(ear, raw):
    """Breaks when a message is given under another channel, or a channel that is not listened to is heard."""
    ear.subscription.add(b"a")
    ear.subscription.add(b"b")
    assert sorted(await ear.listens()) == [b"a", b"b"]
    for channel, payload in ((b"x", b"0"), (b"b", b"1"), (b"a", b"\x00\xff\r\n")):
        await raw("PUBLISH", channel, payload)
    assert [await ear.heard(), await ear.heard()] == [(b"b", b"1"), (b"a", b"\x00\xff\r\n")]


async def test_nothing_is_missed_from_the_report_on(ear, raw):
    """Whoever looks after the report misses nothing. Breaks when it comes before the server has confirmed."""
    for number in range(50):
        channel = b"c%d" % number
        ear.subscription.add(channel)
        assert await ear.listens() == [channel]
        assert await raw("PUBLISH", channel, b"m") == 1
        assert await ear.heard() == (channel, b"m")


async def test_a_removed_channel_is_heard_no_more(ear, raw):
    """Nothing leaks. Breaks when channels pile up at the server."""
    ear.subscription.add(b"a")
    ear.subscription.add(b"b")
    await ear.listens()
    ear.subscription.remove(b"a")
    async with asyncio.timeout(5):
        while await raw("PUBLISH", b"a", b"gone"):
            await ear.heard()
    await raw("PUBLISH", b"b", b"1")
    assert await ear.heard() == (b"b", b"1")


async def test_the_last_word_counts(ear, raw):
    """Breaks when adding and removing in one turn of the loop are sent in the wrong order."""
    ear.subscription.add(b"a")
    await ear.listens()
    ear.subscription.remove(b"a")
    ear.subscription.add(b"a")
    ear.subscription.add(b"b")
    ear.subscription.remove(b"b")
    assert await ear.listens() == [b"a"]
    assert [await raw("PUBLISH", b"a", b"1"), await raw("PUBLISH", b"b", b"1")] == [1, 0]


@on_redis
async def test_after_a_break_all_channels_are_listened_to_again(ear, raw):
    """No end is missed: all are reported, so that all are looked at. Breaks when only new channels are subscribed."""
    ear.subscription.add(b"a")
    ear.subscription.add(b"b")
    await ear.listens()
    await raw("CLIENT", "KILL", "TYPE", "pubsub")
    listening = await ear.listens()
    while listening != [b"a", b"b"]:
        listening = sorted([*listening, *await ear.listens()])
    await raw("PUBLISH", b"b", b"after")
    assert await ear.heard() == (b"b", b"after")
    await until_connections(raw, 1)


async def test_a_server_that_stays_away_is_asked_less_and_less_often(new_server, monkeypatch, caplog):
    """Breaks when a break after a good connection is followed by a try each 50 ms, with a line in the log for each."""
    server = new_server()
    ear = Ear(Endpoint(server.url).connection)
    ear.subscription.add(b"a")
    await ear.listens()
    pauses: asyncio.Queue = asyncio.Queue()
    real = asyncio.sleep

    async def sleep(seconds):
        pauses.put_nowait(seconds)
        await real(0.001)

    with monkeypatch.context() as patch:
        patch.setattr("rqueue.broker.subscription.asyncio.sleep", sleep)
        server.kill()
        async with asyncio.timeout(5):
            seen = [await pauses.get() for _ in range(12)]
    assert seen == [0.05, *(min(1.0, 0.1 * 2**number) for number in range(11))]
    assert len(caplog.messages) < 10
    server.start()
    assert await ear.listens() == [b"a"]
    await ear.subscription.close()


async def test_it_waits_for_a_server_that_is_not_there(new_server):
    """Breaks when the first connection must succeed."""
    server = new_server()
    server.kill()
    ear = Ear(Endpoint(server.url).connection)
    ear.subscription.add(b"a")
    server.start()
    assert await ear.listens() == [b"a"]
    await ear.subscription.close()


@on_redis
async def test_close_ends_the_connection(broker, raw):
    """Nothing leaks. Breaks when the connection or a task outlives it."""
    ear = Ear(broker.endpoint.connection)
    ear.subscription.add(b"a")
    await ear.listens()
    await until_connections(raw, 1)
    await ear.subscription.close()
    await until_connections(raw, 0)


async def test_the_last_word_counts_in_the_next_turn_too(ear, raw):
    """Breaks when a removal that is under way overtakes the addition after it."""
    ear.subscription.add(b"a")
    await ear.listens()
    ear.subscription.remove(b"a")
    await asyncio.sleep(0)
    ear.subscription.add(b"a")
    assert await ear.listens() == [b"a"]
    assert await raw("PUBLISH", b"a", b"1") == 1
    assert await ear.heard() == (b"a", b"1")


@on_redis
async def test_what_is_asked_for_in_one_turn_leaves_in_one_command(ear, raw):
    """Ten thousand waiters are a few commands. Breaks when each channel is subscribed by itself."""
    ear.subscription.add(b"first")
    await ear.listens()
    await raw("CONFIG", "RESETSTAT")
    names = {b"c%d" % number for number in range(1000)}
    for name in sorted(names):
        ear.subscription.add(name)
    listening: set[bytes] = set()
    while listening != names:
        listening |= set(await ear.listens())
    assert b"cmdstat_subscribe:calls=1," in bytes(await raw("INFO", "commandstats"))


async def test_what_is_added_during_a_restart_is_listened_to_after_it(new_server, new_broker):
    """Breaks when what was asked for of a broken connection is forgotten with it."""
    server = new_server()
    ear = Ear(Endpoint(server.url).connection)
    ear.subscription.add(b"a")
    assert await ear.listens() == [b"a"]
    server.kill()
    ear.subscription.add(b"b")
    await asyncio.sleep(0)
    ear.subscription.add(b"c")
    server.start()
    listening: set[bytes] = set()
    while listening != {b"a", b"b", b"c"}:
        listening |= set(await ear.listens())
    broker = await new_broker(server.url)
    for channel in (b"a", b"b", b"c"):
        assert await broker._link.call(b"PUBLISH", channel, b"1") == 1
        assert await ear.heard() == (channel, b"1")
    await ear.subscription.close()


async def test_closing_while_redis_is_away(new_server):
    """Breaks when closing waits for a connection."""
    server = new_server()
    server.kill()
    ear = Ear(Endpoint(server.url).connection)
    ear.subscription.add(b"a")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await ear.subscription.close()


@on_redis
async def test_a_channel_that_is_forbidden_is_not_asked_for_again_and_again(broker, raw, monkeypatch):
    """Under an ACL without the channel. Breaks when each refusal is a new connection two seconds later."""
    await raw("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels")
    pauses: asyncio.Queue = asyncio.Queue()
    forever = asyncio.Event()

    async def sleep(seconds):
        pauses.put_nowait(seconds)
        await forever.wait()

    try:
        with monkeypatch.context() as patch:
            patch.setattr("rqueue.broker.subscription.asyncio.sleep", sleep)
            ear = Ear(Endpoint(broker.endpoint.shown.replace("://", "://deaf:pw@")).connection)
            ear.subscription.add(b"a")
            async with asyncio.timeout(5):
                assert await pauses.get() == 60
            await ear.subscription.close()
    finally:
        await raw("ACL", "DELUSER", "deaf")


async def test_a_quiet_connection_is_asked_whether_it_is_there(broker, raw):
    """And answers: it goes on listening, over the same connection. Breaks when a pong is taken for a message."""
    heard: asyncio.Queue = asyncio.Queue()
    listening: asyncio.Queue = asyncio.Queue()
    connect = broker.endpoint.connection
    subscription = Subscription(connect, lambda *each: heard.put_nowait(each), listening.put_nowait, "x", 0.02)
    subscription.add(b"a")
    async with asyncio.timeout(5):
        await listening.get()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await heard.get()
        await raw("PUBLISH", b"a", b"1")
        assert await heard.get() == (b"a", b"1")
    assert listening.empty()
    await subscription.close()


async def test_a_patterns_messages_come_with_their_channel(broker, raw):
    """Breaks when the pattern is taken for the channel, or PSUBSCRIBE's confirmation for nothing."""
    messages: asyncio.Queue = asyncio.Queue()
    listening: asyncio.Queue = asyncio.Queue()
    subscription = Subscription(
        broker.endpoint.connection, lambda *each: messages.put_nowait(each), listening.put_nowait, patterns=True
    )
    try:
        subscription.add(b"a*")
        async with asyncio.timeout(5):
            assert await listening.get() == [b"a*"]
            for channel in (b"b", b"ab"):
                await raw("PUBLISH", channel, b"1")
            assert await messages.get() == (b"ab", b"1")
    finally:
        await subscription.close()


async def test_a_server_that_is_away_is_tried_more_and_more_seldom(new_server, monkeypatch):
    """Breaks when a connection that was heard once has every later try follow the one before at once."""
    server = new_server()
    ear, pauses, is_enough = Ear(Endpoint(server.url).connection), [], asyncio.Event()
    ear.subscription.add(b"a")
    await ear.listens()
    sleep = asyncio.sleep

    async def no_sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 7:
            is_enough.set()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    server.kill()
    async with asyncio.timeout(5):
        await is_enough.wait()
    await ear.subscription.close()
    assert pauses[:7] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
