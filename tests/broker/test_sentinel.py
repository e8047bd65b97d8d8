"""Connections that follow a master: who is asked, who is believed, and what a failover does to those that are open.

Most of it against sentinels that say what the test has them say, and real servers; one test has real sentinels.
"""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Self

import hiredis
import pytest
import redis.asyncio

from rqueue import RQueue
from rqueue.broker import sentinel as sentinel_module
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.pulse import Pulse
from rqueue.broker.subscription import Subscription
from rqueue.errors import BrokerUnavailable, ConfigError, ReplyLost
from rqueue.wire.keys import Keys

from .sentinels import Fleet

QUEUE = Keys().queue("email")


class Sentinel:
    """A sentinel that says what it is told to.

    Attributes:
        port: its own.
        master: the port that it names; None: it knows of no master.
        epoch: of its configuration; None: an ACL hides it.
        is_mute: it takes connections and says nothing, as a frozen one.
        pause_s: it takes so long to answer.
        asked: the commands that came.
    """

    def __init__(self, master: int | None, epoch: int | None = 1, *, is_mute: bool = False, pause_s: float = 0) -> None:
        self.master, self.epoch, self.is_mute, self.pause_s = master, epoch, is_mute, pause_s
        self.asked: list[list[bytes]] = []
        self.listeners: set[asyncio.StreamWriter] = set()
        self.is_heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def say(self, master: int) -> None:
        """Tell of a failover."""
        old, self.master = self.master, master
        self.epoch = (self.epoch or 0) + 1
        payload = b"mymaster 127.0.0.1 %d 127.0.0.1 %d" % (old or 0, master)
        for writer in self.listeners:
            writer.write(hiredis.pack_command((b"message", b"+switch-master", payload)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        try:
            while data := await reader.read(4096):
                parser.feed(data)
                while command := parser.gets():
                    self.asked.append(command)
                    await asyncio.sleep(self.pause_s)
                    if not self.is_mute:
                        writer.write(self._answer(command, writer))
        except ConnectionError:
            pass  # whoever asked has gone
        finally:
            self.listeners.discard(writer)
            writer.close()

    def _answer(self, command: list[bytes], writer: asyncio.StreamWriter) -> bytes:
        match [part.upper() for part in command[:2]]:
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME"]:
                if self.master is None or command[2] != b"mymaster":
                    return b"*-1\r\n"
                return hiredis.pack_command((b"127.0.0.1", b"%d" % self.master))
            case [b"SENTINEL", b"MASTER"]:
                if self.epoch is None:
                    return b"-NOPERM no permission to run 'sentinel|master'\r\n"
                return hiredis.pack_command((b"config-epoch", b"%d" % self.epoch))
            case [b"SUBSCRIBE", _]:
                self.listeners.add(writer)
                self.is_heard.set()
                return b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n"
            case [b"PING"]:
                return b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
            case _:
                return b"+OK\r\n"


@pytest.fixture
async def stage():
    """Starts sentinels and brokers of the test's own; all are closed at its end."""
    async with AsyncExitStack() as stack:

        async def start(*sentinels: Sentinel) -> Endpoint:
            for sentinel in sentinels:
                await stack.enter_async_context(sentinel)
            return Endpoint(url_of(*sentinels))

        yield start


def url_of(*sentinels: Sentinel) -> str:
    return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in sentinels)}/mymaster"


def sentinels_of(url: str):
    return Endpoint(url).connection()._sentinels


# --- the URL ----------------------------------------------------------------------------------------------------------


def test_what_a_url_says():
    url = "redis+sentinel://u:p%40ss@h1:1,[::1]:2,h3/my%20master/4?sentinel_username=su&sentinel_password=s%26p&client_name=x"
    connection = Endpoint(url).connection()
    expected = {"username": "u", "password": "p@ss", "db": 4, "client_name": "x", "socket_timeout": None}
    assert {name: getattr(connection, name) for name in expected} == expected
    assert connection.retry._retries == 0
    sentinels = connection._sentinels
    assert sentinels.addresses == (("h1", 1), ("::1", 2), ("h3", 26379))
    assert sentinels.service == "my master"
    one = sentinels.connection(sentinels.addresses[0])
    assert (one.host, one.port, one.username, one.password) == ("h1", 1, "su", "s&p")
    assert one.retry._retries == 0
    assert not isinstance(one, redis.asyncio.SSLConnection)


@pytest.mark.parametrize("scheme", ["rediss+sentinel", "valkeys+sentinel", "REDISS+sentinel"])
def test_tls_is_spoken_to_the_sentinels_as_well(scheme):
    """Breaks when they are asked in the clear, or without the certificate that the servers ask for."""
    endpoint = Endpoint(f"{scheme}://h/m?ssl_ca_certs=/ca.pem&ssl_check_hostname=false")
    connection = endpoint.connection()
    one = connection._sentinels.connection(("h", 1))
    for each in (connection, one, endpoint.sync_connection(1)):
        assert isinstance(each, redis.asyncio.SSLConnection | redis.SSLConnection)
    assert one.ca_certs == connection.ca_certs == "/ca.pem"


@pytest.mark.parametrize(
    "rest",
    [
        "h",
        "h/",
        "/m",
        "h:port/m",
        "h:99999/m",
        "h,,i/m",
        "h/m/x",
        "[::1/m",
        "h/m?sentinel_pasword=x",
        "h/m?db",
        "h/m?bogus=1",
    ],
)
def test_a_malformed_url_is_refused_by_its_form(rest):
    with pytest.raises(ConfigError, match="write redis\\+sentinel://user:password@sentinel1:26379,"):
        Endpoint(f"redis+sentinel://{rest}")


# --- who is believed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [1, 2])
async def test_the_newest_configuration_counts(stage, monkeypatch, behind):
    """A sentinel that was cut off names the old master, and so do for a moment all but the one that led the election.
    Breaks when the first answer is taken, or the first majority's.
    """
    monkeypatch.setattr(sentinel_module, "MAJORITY_S", 10.0)
    monkeypatch.setattr(sentinel_module, "STRAGGLERS_S", 5.0)
    ahead = [Sentinel(2, 8, pause_s=0.02) for _ in range(3 - behind)]
    endpoint = await stage(*(Sentinel(1, 7) for _ in range(behind)), *ahead)
    assert await sentinels_of(endpoint.url).master() == ("127.0.0.1", 2)


async def test_who_has_not_answered_when_a_majority_has_is_not_waited_for_long(stage, monkeypatch):
    """Breaks when a frozen sentinel costs every connection half a second."""
    monkeypatch.setattr(sentinel_module, "MAJORITY_S", 60.0)
    monkeypatch.setattr(sentinel_module, "CONNECT_S", 60.0)
    endpoint = await stage(Sentinel(2), Sentinel(2), Sentinel(1, 9, is_mute=True))
    async with asyncio.timeout(20):
        assert await sentinels_of(endpoint.url).master() == ("127.0.0.1", 2)


async def test_dead_and_frozen_sentinels_hold_nothing_up_for_long(stage, monkeypatch):
    """Breaks when they are asked one after the other, or all are waited for."""
    monkeypatch.setattr(sentinel_module, "CONNECT_S", 60.0)  # what a frozen one costs whoever waits for it
    dead, frozen = Sentinel(1, 9), Sentinel(1, 9, is_mute=True)
    endpoint = await stage(dead, frozen, Sentinel(2, 3))
    await dead.__aexit__()
    async with asyncio.timeout(20):
        assert await sentinels_of(endpoint.url).master() == ("127.0.0.1", 2)


async def test_a_sentinel_that_hides_its_epoch_is_believed_where_no_other_knows(stage):
    endpoint = await stage(Sentinel(1, None), Sentinel(None), Sentinel(None))
    assert await sentinels_of(endpoint.url).master() == ("127.0.0.1", 1)


async def test_where_none_knows_the_error_says_why(stage):
    endpoint = await stage(Sentinel(None), Sentinel(None))
    broker = Broker(endpoint, Keys())
    with pytest.raises(BrokerUnavailable, match=r"no sentinel says where 'mymaster' is: .*knows no such master"):
        await broker.open()
    await broker.close()


async def test_the_sentinels_have_credentials_of_their_own(stage, server):
    sentinel = Sentinel(server.port)
    endpoint = await stage(sentinel)
    broker = Broker(Endpoint(f"{endpoint.url}?sentinel_username=su&sentinel_password=sp"), Keys())
    await broker.open()
    await broker.close()
    assert [b"AUTH", b"su", b"sp"] in sentinel.asked


async def test_a_server_that_is_no_master_is_not_used_before_it_is(stage, new_server):
    """The sentinels' word may come before the server has heard of it. Breaks when nobody asks the server."""
    server = new_server({"replicaof": "127.0.0.1 1"})
    endpoint = await stage(Sentinel(server.port))
    broker, pulse = Broker(endpoint, Keys()), Pulse(endpoint, 5)

    def renew() -> bool:
        return pulse.renew([QUEUE], "w", 30, b"")

    with pytest.raises(BrokerUnavailable, match="no master"):
        await broker.open()
    with pytest.raises(BrokerUnavailable, match="no master"):
        await asyncio.to_thread(renew)
    async with redis.asyncio.Redis(port=server.port) as raw:
        await raw.execute_command("REPLICAOF", "NO", "ONE")
        await broker.open()
        assert await asyncio.to_thread(renew) is False
        await raw.execute_command("ACL", "SETUSER", "default", "-role")
        broker._link.reset()
        await broker.queues()  # where ROLE may not be asked, the sentinels' word must do
    await broker.close()
    await asyncio.to_thread(pulse.close)


async def test_nothing_is_left_after_the_last_connection(stage, server):
    """Breaks when the ear at the sentinels outlives what it is for, or goes while another broker needs it."""
    sentinel = Sentinel(server.port)
    endpoint = await stage(sentinel)
    before = asyncio.all_tasks()
    brokers = [Broker(endpoint, Keys()) for _ in range(2)]
    for broker in brokers:
        await broker.open()
    await sentinel.is_heard.wait()
    await brokers[0].close()
    assert len(sentinel.listeners) == 1
    await brokers[1].close()
    ours = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("rqueue")}
    assert ours == set()


# --- a failover -------------------------------------------------------------------------------------------------------


async def test_a_frozen_master_is_left_as_soon_as_a_sentinel_names_another(stage, new_server, monkeypatch):
    """Its connections would never break, and a reply is waited for for 10 s. Breaks when nobody listens to the
    sentinels, or when a kind of connection is not broken: of verbs, of blocks, of listeners, one that is being made.
    """
    monkeypatch.setattr(sentinel_module, "CONNECT_S", 60.0)  # nothing ends because its time is up
    old, new = new_server(), new_server()
    sentinel = Sentinel(old.port)
    endpoint = await stage(sentinel)
    broker, listening = Broker(endpoint, Keys()), asyncio.Queue()
    ear = Subscription(endpoint.connection, lambda *_: None, listening.put_nowait)
    ear.add(b"c")
    async with asyncio.timeout(8):
        await broker.open()
        assert await listening.get() == [b"c"]
        await sentinel.is_heard.wait()
        block = asyncio.create_task(broker.block(QUEUE, "w", 5))
        async with redis.asyncio.Redis(port=old.port) as raw:
            while not any(each["cmd"] == "brpoplpush" for each in await raw.client_list()):
                pass
        os.kill(old.pid, signal.SIGSTOP)
        try:
            call = asyncio.create_task(broker.queues())
            late = asyncio.create_task(Broker(endpoint, Keys()).open())  # waits in its handshake
            await asyncio.sleep(0.1)
            assert not any(waiting.done() for waiting in (call, block, late))
            sentinel.say(new.port)
            for waiting in (call, block):
                with pytest.raises(ReplyLost):
                    await waiting
            with pytest.raises(BrokerUnavailable):
                await late
            assert await listening.get() == [b"c"]
            await broker.announce("email")
            async with redis.asyncio.Redis(port=new.port) as raw:
                assert await raw.smembers("rqueue:queues") == {b"email"}
        finally:
            os.kill(old.pid, signal.SIGCONT)
    await ear.close()
    await broker.close()


async def test_the_heart_leaves_an_old_master_that_still_answers(stage, new_server):
    """It would go on to renew a lease of which the new master knows nothing. Breaks when only a broken connection has
    it look again.
    """
    old, new = new_server(), new_server()
    sentinel = Sentinel(old.port)
    endpoint = await stage(sentinel)
    broker, pulse = Broker(endpoint, Keys()), Pulse(endpoint, 5)

    def renew() -> bool:
        return pulse.renew([QUEUE], "w", 30, b"")

    await broker.register(QUEUE, "w", 30)
    assert await asyncio.to_thread(renew) is True
    await sentinel.is_heard.wait()
    sentinel.say(new.port)
    await until(lambda: broker.resets)
    assert await asyncio.to_thread(renew) is False
    await asyncio.to_thread(pulse.close)
    await broker.close()


async def test_another_masters_failover_breaks_nothing(stage, server):
    sentinel = Sentinel(server.port)
    endpoint = await stage(sentinel)
    broker = Broker(endpoint, Keys())
    await broker.open()
    # Who begins to listen asks once more, since nothing was heard until then.
    await until(lambda: sentinel.asked.count([b"SENTINEL", b"MASTER", b"mymaster"]) == 2)
    before, asked = broker.resets, len(sentinel.asked)
    for writer in sentinel.listeners:
        writer.write(hiredis.pack_command((b"message", b"+switch-master", b"other 127.0.0.1 1 127.0.0.1 2")))
    for _ in range(3):
        await broker.queues()
    assert (broker.resets, len(sentinel.asked)) == (before, asked)
    await broker.close()


async def test_a_worker_that_the_new_master_never_heard_of_goes_on_under_another_id(stage, new_server):
    """The replica has the jobs, and lacks the worker's registration, its claims and the end of a job. Breaks when the
    worker waits for its lease, when a job stays with an owner whom nobody knows, or when what it ran is settled for
    somebody else.
    """
    old = new_server({"repl-diskless-sync-delay": "0"})
    new = new_server({"replicaof": f"127.0.0.1 {old.port}"})
    sentinel = Sentinel(old.port)
    await stage(sentinel)
    app, ran, gate = RQueue(url_of(sentinel)), [], asyncio.Event()

    @app.task(name="note")
    async def note(name: str, *, is_slow: bool = False) -> None:
        ran.append(name)
        if is_slow:
            await gate.wait()

    async with app, asyncio.timeout(20):
        ended, running = await app.enqueue_many([note.s("ended"), note.s("running", is_slow=True)])
        async with redis.asyncio.Redis(port=old.port) as raw:
            await raw.set("k", 1)
            while await raw.wait(1, 100) < 1:
                await raw.set("k", 1)
        async with redis.asyncio.Redis(port=new.port) as raw:
            await raw.execute_command("REPLICAOF", "NO", "ONE")
        async with app.worker(shutdown_timeout=1) as worker:
            await ended.result()
            await until(lambda: "running" in ran)
            before = worker.id
            old.kill()
            sentinel.say(new.port)
            await (await note.enqueue("after")).result()
            assert worker.id != before
            gate.set()
            await running.result()
            await worker.drain()
    assert sorted(ran) == ["after", "ended", "ended", "running", "running"]


def app_of(fleet: Fleet, ran: list[str], durability: str):
    """An app whose task notes that it ran, and how it is enqueued."""
    app = RQueue(fleet.url, durability=durability)

    @app.task(name="note")
    async def note(name: str) -> None:
        ran.append(name)
        await asyncio.sleep(0.01)

    return app, note


async def test_a_failover_under_load_loses_nothing_that_was_confirmed():
    """Replicated means that a replica has it, and one becomes the master. Breaks when an enqueue is confirmed before.

    The new master has no replica before the old one is back: until then nothing is confirmed there, and an enqueue
    without `durability` shows that the new master is written to, and that its jobs run.
    """
    ran: list[str] = []
    confirmed: list[str] = []
    with Fleet() as fleet:
        (app, note), (plain, plain_note) = app_of(fleet, ran, "replicated"), app_of(fleet, ran, "memory")

        async def produce(producer: int) -> None:
            for number in range(100_000):
                name = f"{producer}-{number}"
                await note.enqueue(name)
                confirmed.append(name)

        async with app, plain, app.worker(concurrency=20) as worker:
            producers = [asyncio.create_task(produce(number)) for number in range(5)]
            await until(lambda: len(ran) > 100)
            old = fleet.master()
            old.kill()
            await asyncio.to_thread(fleet.elected, old)
            await (await plain_note.enqueue("after the election")).result(timeout=10)
            count = len(confirmed)
            await asyncio.to_thread(fleet.follow, old)
            await until(lambda: len(confirmed) > count + 100)
            for each in producers:
                each.cancel()
            ended = await asyncio.gather(*producers, return_exceptions=True)
            await worker.drain()
    assert {type(each) for each in ended} == {asyncio.CancelledError}
    assert set(confirmed) - set(ran) == set()


async def until(holds) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
