"""A link: one connection, shared by everything in an event loop; "was not sent" is not "the reply is lost"."""

import asyncio
import gc
import os
import signal

import hiredis
import pytest
import redis.exceptions

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.link import Link, NoScript, pack, translate
from rqueue.broker.scripts import SCRIPTS
from rqueue.errors import BrokerError, BrokerForbidden, BrokerFull, BrokerUnavailable, ReplyLost
from rqueue.wire.keys import Keys

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


@pytest.fixture
async def new_link():
    """Make links; all are closed at the test's end."""
    links = []

    def make(url: str, reply_timeout_s: float = 10, **options) -> Link:
        links.append(Link(Endpoint(url).connection, reply_timeout_s, **options))
        return links[-1]

    yield make
    for link in links:
        await link.close()


async def stat(call, section: str, name: str) -> int:
    lines = bytes(await call("INFO", section)).decode().splitlines()
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[name])


async def fails(future: asyncio.Future) -> type[BaseException] | None:
    """The exact class of a call's error; a call that never ends is one that fails the test."""
    async with asyncio.timeout(5):
        return type((await asyncio.gather(future, return_exceptions=True))[0])


# Batching and order


@on_redis
async def test_a_thousand_callers_share_a_few_writes(url, new_link, raw):
    """Natural batching: what is given while a write is under way leaves together in the next. Breaks when each call
    is written by itself.
    """
    link = new_link(url)
    await link.call("PING")
    before = await stat(raw, "stats", "total_reads_processed")
    replies = await asyncio.gather(*(link.call("INCR", "n") for _ in range(1_000)))
    reads = await stat(raw, "stats", "total_reads_processed") - before
    assert replies == list(range(1, 1_001))
    assert reads <= 10


async def test_replies_come_to_their_callers(url, new_link):
    """Replies come in the order of the commands. Breaks when an error, or a call that was given up, takes another's."""
    link = new_link(url)
    calls = [link.call("ECHO", str(number)) if number % 3 else link.call("INCR", "n", "wrong") for number in range(30)]
    calls[7].cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for number, reply in enumerate(replies):
        if number == 7:
            assert isinstance(reply, asyncio.CancelledError)
        elif number % 3:
            assert reply == str(number).encode()
        else:
            assert type(reply) is BrokerError


async def test_commands_leave_in_the_order_in_which_they_were_given(url, new_link, raw):
    """Breaks when a later batch overtakes one that waits for its write."""
    link = new_link(url)
    big = b"x" * 2_000_000
    for number in range(10):
        link.call("RPUSH", "l", str(number), big if number % 4 == 0 else b"small")
        await asyncio.wait([asyncio.ensure_future(raw("PING"))])
    await link.call("PING")
    assert [value for value in await raw("LRANGE", "l", 0, -1) if len(value) == 1] == [b"%d" % n for n in range(10)]


def test_the_first_reply_is_not_lost_however_soon_it_comes(redis_url):
    """Breaks when a new connection's replies are read by two: uvloop may read in the turn in which it was opened."""
    uvloop = pytest.importorskip("uvloop")

    async def open_many() -> None:
        for _ in range(100):
            link = Link(Endpoint(redis_url).connection, 1, scripts=False)
            assert await link.call("ECHO", "first") == b"first"
            await link.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(open_many())


def test_a_closed_connection_is_given_nothing(redis_url):
    """What was never sent is not in doubt. Breaks when a connection whose end is known to its transport, and not yet to
    its reader, gets a command: uvloop raises then what nobody expects.
    """
    uvloop = pytest.importorskip("uvloop")

    async def call_at_its_end() -> None:
        unexpected = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
        link = Link(Endpoint(redis_url).connection, 1)
        for turns in range(5):
            for is_aborted in (False, True):
                await link.call("PING")
                call = link.call("PING")
                await link.written()
                transport = link._transport
                asyncio.get_running_loop().call_soon(transport.abort if is_aborted else transport.close)
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert await fails(link.call("ECHO", "a")) in (bytes, ReplyLost)
                await asyncio.wait([call])
        await link.close()
        gc.collect()
        assert unexpected == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(call_at_its_end())


# Not sent, or the reply is lost


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_is_cancelled_before_it_was_sent_is_withdrawn(url, new_link, dump, is_open):
    """Cancelling an enqueue before it was sent withdraws it. Breaks when the command leaves all the same."""
    link = new_link(url)
    if is_open:
        await link.call("PING")
    withdrawn = link.call("SET", "withdrawn", "1")
    kept = link.call("SET", "kept", "1")
    withdrawn.cancel()
    await kept
    assert await dump() == {"kept": b"1"}


async def test_only_withdrawn_commands_send_nothing(url, new_link, dump):
    """Breaks when an empty batch is an error, or its absence keeps the next one from leaving."""
    link = new_link(url)
    await link.call("PING")
    link.call("SET", "withdrawn", "1").cancel()
    await link.written()
    assert await link.call("GET", "withdrawn") is None
    assert await dump() == {}


@on_redis
async def test_what_is_cancelled_after_it_was_sent_happens(url, new_link, dump):
    """After it was sent, the job exists; only the reply is dropped. Breaks when the reply is given to the next call."""
    link = new_link(url)
    sent = link.call("SET", "sent", "1")
    await link.written()
    sent.cancel()
    assert await link.call("ECHO", "mine") == b"mine"
    assert await dump() == {"sent": b"1"}


@on_redis
async def test_a_connection_that_is_killed_loses_replies(url, new_link, raw, until_blocked):
    """Sent, and the connection broke: it may have happened. Breaks when this is said to have not happened, or a call
    waits for ever.
    """
    link = new_link(url)
    pending = [link.call("BLPOP", "nothing", 0), link.call("PING")]
    await until_blocked()
    await raw("CLIENT", "KILL", "ID", link.client_id)
    assert [await fails(call) for call in pending] == [ReplyLost, ReplyLost]
    assert link.resets == 1
    first = link.client_id
    assert await link.call("ECHO", "again") == b"again"
    assert link.client_id != first


@on_redis
async def test_a_connection_that_broke_while_nothing_was_asked_costs_no_command(url, new_link, raw, dump):
    """What was never sent to a server is not in doubt. Breaks when a link does not see that its idle connection has
    ended (a server's `timeout`, a restart, a proxy), and gives the next command to a dead socket.
    """
    link = new_link(url)
    await link.call("PING")
    await raw("CLIENT", "KILL", "ID", link.client_id)
    while f"id={link.client_id} " in bytes(await raw("CLIENT", "LIST")).decode():
        pass
    assert await fails(link.call("SET", "k", "v")) is not ReplyLost
    assert await dump() == {"k": b"v"}


async def test_no_server_means_not_sent(new_link, new_server):
    """It did not happen. Breaks when an unreachable server is a lost reply: every enqueue would be in doubt."""
    server = new_server()
    server.kill()
    link = new_link(server.url)
    calls = [link.call("SET", "k", "v"), link.call("PING")]
    assert [await fails(call) for call in calls] == [BrokerUnavailable, BrokerUnavailable]
    server.start()
    assert await link.call("GET", "k") is None


async def test_a_server_that_dies_loses_replies_and_comes_back(new_link, new_server):
    """Breaks when a link does not open a new connection, or an old one's end breaks the new one."""
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    pending = link.call("BLPOP", "nothing", 0)
    await link.written()
    server.kill()
    assert await fails(pending) is ReplyLost
    assert await fails(link.call("PING")) is BrokerUnavailable
    server.start()
    assert await link.call("ECHO", "again") == b"again"


async def test_a_reply_that_takes_too_long_breaks_the_connection(url, new_link):
    """A stalled Redis holds nobody for ever. Breaks without the timeout."""
    link = new_link(url, reply_timeout_s=0.05)
    assert await fails(link.call("BLPOP", "nothing", 5)) is ReplyLost
    assert await link.call("ECHO", "again") == b"again"


async def test_a_server_that_takes_no_more_holds_nobody_for_ever(new_link, new_server):
    """Breaks when a broken connection's write goes on waiting for room: nothing else would ever be sent."""
    server = new_server()
    link = new_link(server.url, reply_timeout_s=0.3)
    await link.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        first = link.call("SET", "k", b"x" * 32_000_000)  # more than the sockets' buffers hold
        await asyncio.wait([first], timeout=0.05)
        second = link.call("PING")  # waits for room
        assert [await fails(call) for call in (first, second)] == [ReplyLost, ReplyLost]
        assert await fails(link.call("PING")) is BrokerUnavailable
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert await link.call("ECHO", "again") == b"again"


async def test_a_server_that_ends_its_side_and_takes_no_more_has_gone(new_link):
    """Breaks when the end is noticed only after all has left that waits to be sent."""
    ends, has_left = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        commands = hiredis.Reader()
        while not ends.is_set():
            commands.feed(await reader.read(65536))
            while (command := commands.gets()) is not False:
                writer.write(b"+OK\r\n")
                if command == [b"PING"]:
                    await ends.wait()
        writer.write_eof()
        await has_left.wait()
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = new_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        await link.call("PING")
        call = link.call("SET", "k", b"x" * 32_000_000)  # more than the sockets' buffers hold
        await asyncio.wait([call], timeout=0.05)
        ends.set()
        assert await fails(call) is ReplyLost
        has_left.set()


async def test_a_connection_that_is_reset_before_its_reader_began_is_given_up(redis_url):
    """Breaks when only a reader that runs ends a connection: its callers would wait for ever."""
    connections = []

    def connect():
        connection = Endpoint(redis_url).connection()
        send = connection.send_packed_command

        async def refuse(commands, check_health=True):
            commands = list(commands)
            if connections[1:] or not any(b"BLPOP" in command for command in commands):
                await send(commands, check_health=check_health)
            else:
                await connection.disconnect(nowait=True)
                raise redis.exceptions.ConnectionError("broken at once")

        connection.send_packed_command = refuse
        connections.append(connection)
        return connection

    link = Link(connect, 1)
    assert await fails(link.call("BLPOP", "nothing", 1)) is ReplyLost
    assert await link.call("ECHO", "again") == b"again"
    await link.close()


async def test_a_connection_that_ended_with_its_first_replies_is_not_used(redis_url):
    """Breaks when its end was told to redis-py's stream only, and commands go to a server that has gone."""
    connections = []

    def connect():
        connection = Endpoint(redis_url).connection()
        read, is_first = connection.read_response, not connections

        async def end(*arguments, **options):
            reply = await read(*arguments, **options)
            if is_first and reply == list(SCRIPTS.values())[-1].sha:
                connection._reader.feed_eof()
            return reply

        connection.read_response = end
        connections.append(connection)
        return connection

    link = Link(connect, 10)
    await asyncio.wait([link.call("PING")], timeout=2)
    assert await fails(link.call("ECHO", "again")) is bytes
    assert len(connections) == 2
    await link.close()


async def test_reset_loses_what_is_pending_and_the_next_call_works(url, new_link, until_blocked):
    """Breaks when a reset is not counted (a claim's reply may have been lost), or unsent commands fail with it."""
    link = new_link(url)
    pending = link.call("BLPOP", "nothing", 0)
    await until_blocked()
    link.reset()
    assert await fails(pending) is ReplyLost
    assert link.resets == 1
    assert not link.is_open
    assert await link.call("ECHO", "again") == b"again"
    assert link.is_open


async def test_reset_without_a_connection_does_nothing(url, new_link):
    """Breaks when a link that was never used cannot be reset."""
    link = new_link(url)
    link.reset()
    assert link.resets == 0
    assert await link.call("ECHO", "a") == b"a"


@pytest.mark.parametrize("bad", [None, object(), "\ud800"], ids=["none", "object", "surrogate"])
async def test_an_argument_that_cannot_be_sent_fails_alone(url, new_link, bad):
    """One caller's bad message fails alone. Breaks when an argument that the client refuses takes the whole batch
    along, or leaves its callers waiting for ever.
    """
    link = new_link(url)
    await link.call("PING")
    calls = [link.call("ECHO", "a"), link.call("ECHO", bad), link.call("ECHO", "b")]
    _, waiting = await asyncio.wait(calls, timeout=0.5)
    for call in waiting:
        call.cancel()
    assert not waiting
    assert calls[1].exception() is not None
    assert (calls[0].result(), calls[2].result()) == (b"a", b"b")
    assert await link.call("ECHO", "c") == b"c"


class Number(int):
    """A whole number all the same."""


@pytest.mark.parametrize(
    ("argument", "sent"),
    [
        (b"\x00\r\n\xff", b"\x00\r\n\xff"),
        ("é", "é".encode()),
        ("a\udcff", b"a\xff"),
        ("", b""),
        (0, b"0"),
        (-7, b"-7"),
        (2**70, b"1180591620717411303424"),
        (True, b"1"),
        (Number(3), b"3"),
    ],
)
def test_an_argument_is_sent_as_it_is(argument, sent):
    """Breaks when what hiredis refuses is not sent, or sent as something else."""
    assert pack(("ECHO", argument)) == b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(sent), sent)


# Written


@on_redis
async def test_written_returns_when_the_server_can_have_it(url, new_link, raw):
    """What the kernel has, it delivers even if the process dies. Breaks when it returns before the write."""
    link = new_link(url)
    sent = link.call("SET", "k", "v")
    await link.written()
    assert link._connection._writer.transport.get_write_buffer_size() == 0
    assert not link._outbox
    assert await sent == b"OK"
    assert await raw("GET", "k") == b"v"


async def test_written_with_nothing_to_write(url, new_link):
    """Breaks when it waits for a write that never comes."""
    link = new_link(url)
    async with asyncio.timeout(5):
        await link.written()
        await link.call("PING")
        await link.written()


async def test_written_says_when_it_could_not_be(new_link, new_server):
    """A job must not start on a mark that was never sent. Breaks when a failed connect resolves it."""
    server = new_server()
    server.kill()
    link = new_link(server.url)
    call = link.call("PING")
    with pytest.raises(BrokerUnavailable):
        await link.written()
    assert await fails(call) is BrokerUnavailable


async def test_written_never_says_so_of_what_a_broken_connection_held(new_link, new_server):
    """A job must not start on a mark that was never sent. Breaks when a write that fails resolves it.

    A new connection may take the command all the same.
    """
    link = new_link(new_server().url)
    await link.call("PING")
    link._connection._writer.transport.abort()
    call = link.call("PING")
    (written,) = await asyncio.gather(link.written(), return_exceptions=True)
    reply = await fails(call)
    assert isinstance(written, BrokerUnavailable) or (written, reply) == (None, bytes)


async def test_written_says_so_when_the_connection_breaks_meanwhile(new_link, new_server):
    """What was in a buffer is gone with it. Breaks when nothing is left to write, and that is taken for written."""
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    call = link.call("SET", "k", b"x" * 32_000_000)  # more than the sockets' buffers hold
    async with asyncio.timeout(5):
        while link._outbox:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    written = asyncio.ensure_future(link.written())
    await asyncio.wait([written], timeout=0.05)
    server.kill()
    with pytest.raises(BrokerUnavailable):
        await written
    assert await fails(call) is ReplyLost


async def test_written_waits_until_the_system_has_what_was_given_in_the_same_turn(new_link, new_server):
    """Breaks when a write is taken for written while the system has not taken all of it."""
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    written = asyncio.ensure_future(link.written())  # it asks once the call below is given, and before it is sent
    call = link.call("SET", "k", b"x" * 32_000_000)  # more than the sockets' buffers hold
    await asyncio.wait([written], timeout=0.2)
    assert not written.done()
    os.kill(server.pid, signal.SIGCONT)
    async with asyncio.timeout(20):
        await written
        assert await call == b"OK"


async def test_written_says_so_when_the_connection_breaks_in_the_turn_of_the_write(new_link, new_server):
    """What was in a buffer is gone with it. Breaks when the empty buffer of a connection that was given up is taken for
    written.
    """
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    written = asyncio.ensure_future(link.written())
    call = link.call("SET", "k", b"x" * 32_000_000)
    link.reset()  # the reader hears of it after the write, and before anybody looks what has become of that
    assert await fails(written) is BrokerUnavailable
    assert await fails(call) is ReplyLost
    os.kill(server.pid, signal.SIGCONT)


async def test_written_waits_for_a_write_that_is_under_way(new_link, new_server):
    """All that was given so far is in the system's hands. Breaks when a batch that waits for the socket has left the
    outbox and is taken for written.
    """
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        call = link.call("SET", "k", b"x" * 32_000_000)  # more than the sockets' buffers hold
        async with asyncio.timeout(5):
            while link._outbox:
                await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        written = asyncio.ensure_future(link.written())
        done, _ = await asyncio.wait([written], timeout=0.1)
        assert not done
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await written
    assert await call == b"OK"


async def test_written_waits_for_the_last_byte(new_link, new_server):
    """Breaks when what little is left in a buffer is taken for written: asyncio calls a buffer full from 64 KiB on."""
    server = new_server()
    link = new_link(server.url)
    await link.call("PING")
    transport = link._connection._writer.transport
    os.kill(server.pid, signal.SIGSTOP)
    try:
        calls = []
        while not transport.get_write_buffer_size():
            calls.append(link.call("ECHO", b"x" * 50_000))
            for _ in range(3):  # turns of the loop
                await asyncio.sleep(0)
        assert transport.get_write_buffer_size() < 64 * 1024
        calls.append(link.call("ECHO", b"mark"))
        done, _ = await asyncio.wait([written := asyncio.ensure_future(link.written())], timeout=0.1)
        assert not done
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await written
    await asyncio.gather(*calls)


# Closing


async def test_close_fails_what_is_pending_and_what_comes_after(url, new_link, until_blocked):
    """Nobody waits for a closed connection. Breaks when a pending or a later call never ends."""
    link = new_link(url)
    pending = link.call("BLPOP", "nothing", 0)
    await until_blocked()
    await link.close()
    assert issubclass(await fails(pending), BrokerUnavailable)
    assert await fails(link.call("PING")) is BrokerUnavailable
    await link.close()


@on_redis
@pytest.mark.parametrize("is_open", [False, True])
async def test_close_fails_what_was_not_sent_as_not_sent(url, new_link, dump, is_open):
    """It did not happen. Breaks when a command that never left is said to be in doubt, or leaves after all."""
    link = new_link(url)
    if is_open:
        await link.call("PING")
    unsent = link.call("SET", "k", "v")
    await link.close()
    assert await fails(unsent) is BrokerUnavailable
    assert await dump() == {}


async def test_close_while_it_connects(new_link, new_server):
    """Breaks when a connection that is being opened outlives its link."""
    server = new_server()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        link = new_link(server.url)
        call = link.call("PING")
        done, _ = await asyncio.wait([call], timeout=0.02)
        assert not done
        await link.close()
        assert await fails(call) is BrokerUnavailable
    finally:
        os.kill(server.pid, signal.SIGCONT)


# Errors


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", BrokerUnavailable),
        ("MASTERDOWN Link with MASTER is down", BrokerUnavailable),
        ("READONLY You can't write against a read only replica.", BrokerUnavailable),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", BrokerUnavailable),
        ("CLUSTERDOWN The cluster is down", BrokerUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", BrokerUnavailable),
        ("BUSY Redis is busy running a script", BrokerUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", BrokerUnavailable),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to", BrokerUnavailable),
        ("NOSCRIPT No matching script. Please use EVAL.", NoScript),
        ("OOM command not allowed when used memory > 'maxmemory'.", BrokerFull),
        ("-OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:1.", BrokerFull),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", BrokerError),
        ("BUSYKEY Target key name already exists.", BrokerError),
        ("ERR unknown command", BrokerError),
        ("NOAUTH Authentication required.", BrokerError),
    ],
)
def test_each_error_has_its_class(text, kind):
    """Unavailable: it did not happen, and may be asked again. Breaks when an error is taken for another kind."""
    from_text = redis.exceptions.ResponseError(text)
    from_parser = redis.connection.DefaultParser(socket_read_size=1024).parse_error(text)  # what a client raises
    assert type(translate(from_text)) is kind
    if isinstance(from_parser, redis.exceptions.ResponseError):  # the others break the connection
        assert type(translate(from_parser)) is kind


async def test_an_error_is_its_callers_alone(url, new_link):
    """A refused command breaks nothing. Breaks when an error reply closes the connection."""
    link = new_link(url)
    calls = [link.call("SET", "k", "v"), link.call("LPUSH", "k", "v"), link.call("GET", "k")]
    assert await fails(calls[1]) is BrokerError
    assert [await calls[0], await calls[2]] == [b"OK", b"v"]
    assert link.resets == 0


async def test_a_master_that_became_a_replica_is_left(new_link, new_server):
    """READONLY: another server may be the one to ask. Breaks when the connection is kept, so that a link goes on with
    the old master for ever; or when it is said that the command may have happened.
    """
    server = new_server()
    link = new_link(server.url)
    await link.call("REPLICAOF", "127.0.0.1", "1")
    refused = link.call("SET", "k", "v")
    assert await fails(refused) is BrokerUnavailable
    await link.call("REPLICAOF", "NO", "ONE")
    assert link.resets == 1
    assert await link.call("SET", "k", "v") == b"OK"


async def test_a_replica_without_its_master_is_not_ready(new_link, new_server):
    """MASTERDOWN: it did not happen, and another server may be the one to ask. Breaks when the error's code is looked
    for in a text from which the client library has cut it.
    """
    link = new_link(new_server({"replica-serve-stale-data": "no"}).url)
    await link.call("REPLICAOF", "127.0.0.1", "1")
    assert await fails(link.call("GET", "k")) is BrokerUnavailable
    await link.call("REPLICAOF", "NO", "ONE")
    assert link.resets == 1


async def test_a_server_that_loads_is_not_ready_and_keeps_its_connections(new_link, new_server):
    """LOADING on an open connection is an answer: nothing happened. Breaks when it is taken for a lost reply, so that
    an enqueue ends as EnqueueUnknown; or when the connection is given up for it.
    """
    options = {"enable-debug-command": "yes", "key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"}
    link, admin = new_link((server := new_server(options)).url), new_link(server.url, scripts=False)
    await link.call("PING")
    await asyncio.gather(*(admin.call("SET", f"k{number}", "x" * 100) for number in range(500)))
    reload = admin.call("DEBUG", "RELOAD")
    kinds = set()
    while not reload.done():
        kinds.add(await fails(link.call("SET", "k", "v")))
    assert kinds - {bytes} == {BrokerUnavailable}, "it was asked before it began, or after"
    assert await reload == b"OK"
    assert await link.call("SET", "k", "v") == b"OK"
    assert link.resets == 0


async def test_what_a_user_may_not_do_is_forbidden(new_link, new_server):
    """Breaks when it is taken for a refusal of what was to be stored."""
    server = new_server()
    admin = new_link(server.url)
    await admin.call("ACL", "SETUSER", "small", "on", ">pw", "~mine", "+@all", "-zadd")
    link = new_link(f"redis://small:pw@127.0.0.1:{server.port}/0")
    assert await fails(link.call("ZADD", "mine", 1, "a")) is BrokerForbidden
    assert await fails(link.call("SET", "yours", "v")) is BrokerForbidden
    assert await fails(link.call("EVAL", "return redis.call('ZADD', KEYS[1], 1, 'a')", 1, "mine")) is BrokerError
    assert await link.call("SET", "mine", "v") == b"OK"
    assert link.resets == 0


async def test_a_full_redis_refuses(new_link, new_server):
    """A full Redis refuses and has changed nothing. Breaks when OOM is an error like any other."""
    server = new_server({"maxmemory": "1", "maxmemory-policy": "noeviction"})
    link = new_link(server.url)
    assert await fails(link.call("SET", "k", "v")) is BrokerFull
    assert await link.call("GET", "k") is None


# Scripts


@on_redis
async def test_scripts_are_there_when_the_connection_is(broker, raw):
    """EVALSHA works at once. Breaks when the loader sends a source only after a NOSCRIPT, a round trip each."""
    known = await raw("SCRIPT", "EXISTS", *(script.sha for script in SCRIPTS.values()))
    assert [int(each) for each in known] == [1] * len(SCRIPTS)


@on_redis
async def test_a_server_that_forgot_its_scripts_is_given_them_once(broker, keys, raw, job, dump):
    """One NOSCRIPT recovery. Breaks when it is an error, or every later step sends its source again."""
    await raw("SCRIPT", "FLUSH")
    await raw("CONFIG", "RESETSTAT")
    assert await broker.enqueue(keys, "p", 0, 1, [job("a")]) == [True]
    assert await broker.enqueue(keys, "p", 0, 2, [job("b")]) == [True]
    assert (await dump())["jobs"] == {"a", "b"}
    stats = bytes(await raw("INFO", "commandstats")).decode()
    assert "cmdstat_eval:calls=1," in stats
    assert "cmdstat_evalsha:calls=2," in stats


@on_redis
async def test_a_batch_in_flight_recovers_too(broker, keys, raw, job, dump):
    """NOSCRIPT recovery, in pipelines too. Breaks when only a lone call is sent again."""
    await raw("SCRIPT", "FLUSH")
    sent = [broker.enqueue(keys, "p", lane, 1, [job(f"j{lane}")]) for lane in range(20)]
    assert await asyncio.gather(*sent) == [[True]] * 20
    assert (await dump())["jobs"] == {f"j{lane}" for lane in range(20)}


async def test_a_link_without_scripts_loads_none(new_link, new_server):
    """A connection that only waits needs no scripts. Breaks when every block's connection loads them all."""
    link = new_link(new_server().url, scripts=False)
    known = await link.call("SCRIPT", "EXISTS", *(script.sha for script in SCRIPTS.values()))
    assert [int(each) for each in known] == [0] * len(SCRIPTS)


async def test_an_acl_may_forbid_client_and_script(new_server, keys, job):
    """Then blocks end by their timeout, and scripts are sent whole. Breaks when a refused set-up is no connection."""
    server = new_server()
    admin = Broker(Endpoint(server.url), Keys())
    await admin._link.call("ACL", "SETUSER", "small", "on", ">pw", "~*", "&*", "+@all", "-client", "-script")
    await admin.close()
    broker = Broker(Endpoint(f"redis://small:pw@127.0.0.1:{server.port}/0"), Keys())
    await broker.open()
    assert broker._link.client_id is None
    assert await broker.enqueue(keys, "p", 0, 1, [job("a")]) == [True]
    assert await broker.register(keys, "w", 30)
    assert await broker.block(keys, "w", 0.01) == job("a").message
    await broker.unblock(keys)
    assert await broker.block(keys, "w", 0.01) is None
    await broker.close()
