"""One connection to Redis, shared by everything in an event loop that does not block at the server.

Commands leave in the order in which they were given, and what is given while a write is under way leaves together in
the next: few writes, many commands. Replies come in the same order. It alone tells "was not sent"
(:class:`BrokerUnavailable`) from "was sent, and the reply is lost" (:class:`ReplyLost`); what to do about either is the
caller's affair, since only the caller knows whether a command may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import AbstractConnection, DefaultParser

from rqueue.broker.scripts import SCRIPTS
from rqueue.errors import BrokerError, BrokerForbidden, BrokerFull, BrokerUnavailable, ReplyLost

Reply = Any
Argument = bytes | str | int

_NOT_READY_TYPES = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.BusyLoadingError,
)
# redis-py takes the first for a broken connection; it is an answer: nothing happened.
_ANSWERS = (redis.exceptions.BusyLoadingError, redis.exceptions.ResponseError)
_REDISCOVER_TYPES = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
# The server is there but not able to: nothing happened, and it may be asked again.
_NOT_READY = (
    "LOADING",
    "MASTERDOWN",
    "READONLY",
    "UNBLOCKED",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY ",
    "NOREPLICAS",
    "MISCONF",
)
# … and another server may be the one to ask.
_REDISCOVER = ("MASTERDOWN", "READONLY", "UNBLOCKED")


_NOTHING = object()


class NoScript(BrokerError):
    """The server does not know the script; nothing was run."""


class Redirected(BrokerError):
    """A node of a cluster does not serve the slot; nothing was executed.

    Attributes:
        slot: the slot.
        host, port: the node to ask; no host: that of the node which answered.
        is_once: for this command only (ASK): the slot is still on its way there.
    """

    def __init__(self, error: redis.exceptions.AskError) -> None:
        super().__init__(f"the slot {error.slot_id} is served by another node: redis+cluster:// follows it there")
        self.slot, self.host, self.port = error.slot_id, error.host, error.port
        self.is_once = not isinstance(error, redis.exceptions.MovedError)


def translate(error: BaseException) -> BrokerError:
    """A client library's error as one of ours."""
    text = str(error)
    if isinstance(error, redis.exceptions.NoScriptError) or text.startswith("NOSCRIPT"):
        return NoScript(text)
    if isinstance(error, redis.exceptions.AskError):
        return Redirected(error)
    if "OOM command not allowed" in text or isinstance(error, redis.exceptions.OutOfMemoryError):
        return BrokerFull("Redis is at its maxmemory and refuses to store more; nothing was changed")
    if text.startswith(_NOT_READY) or isinstance(error, _NOT_READY_TYPES):
        return BrokerUnavailable(f"Redis is not ready: {text}")
    if isinstance(error, redis.exceptions.NoPermissionError):  # of the command itself: inside a script it is another
        return BrokerForbidden(f"Redis forbids it: {text}")
    return BrokerError(text)


def pack(command: Sequence[Argument]) -> bytes:
    """A command in Redis's protocol.

    Raises:
        TypeError: an argument is neither bytes nor text nor a whole number.
    """
    try:
        return hiredis.pack_command(tuple(command))  # type: ignore[no-any-return, arg-type]
    except (TypeError, UnicodeEncodeError):
        return _pack_each(command)


def _pack_each(command: Sequence[Argument]) -> bytes:
    """What hiredis refuses: text that was bytes goes back as it was, and subclasses are as good as their classes."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        if isinstance(argument, bytes):
            data = argument
        elif isinstance(argument, str):
            data = argument.encode("utf-8", "surrogateescape")
        elif isinstance(argument, int):
            data = b"%d" % argument
        else:
            raise TypeError(f"a {type(argument).__name__}")
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def is_elsewhere(error: BaseException) -> bool:
    """True when the error says that another server is the one to ask: drop the connection and look again."""
    return isinstance(error, _REDISCOVER_TYPES) or str(error).startswith(_REDISCOVER)


class Link:
    """A multiplexed connection.

    Args:
        connect: makes a new, unconnected connection.
        reply_timeout_s: a reply that takes longer breaks the connection.
        scripts: load the scripts when the connection opens.

    Attributes:
        is_overdue: no reply came in time; where there is no connection, that is why.
    """

    def __init__(
        self, connect: Callable[[], AbstractConnection], reply_timeout_s: float, *, scripts: bool = True
    ) -> None:
        self._new_connection = connect
        self.reply_timeout_s = reply_timeout_s
        self._scripts = scripts
        self._connection: AbstractConnection | None = None
        self._outbox: list[tuple[Sequence[Argument], asyncio.Future[Reply]]] = []
        self._pending: deque[asyncio.Future[Reply]] = deque()
        self._written: list[asyncio.Future[None]] = []
        self._inbox: _Inbox | None = None
        self._transport: asyncio.Transport | None = None
        self._is_flushing = False
        self._watch: asyncio.TimerHandle | None = None
        self._moved_s = 0.0
        self.is_overdue = False
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._closed = False
        self.client_id: int | None = None
        self.resets = 0

    @property
    def is_open(self) -> bool:
        """True while there is a connection."""
        return self._connection is not None

    def call(self, *command: Argument) -> asyncio.Future[Reply]:
        """Give a command; its reply is the future's result.

        Cancelling the future before the command was sent withdraws it; after that only the reply is dropped.

        Raises (from the future):
            BrokerUnavailable: it was not sent, or the server is not ready: it did not happen.
            ReplyLost: it was sent, and the connection broke.
            BrokerFull, BrokerError: the server refused it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        if self._closed:
            future.set_exception(BrokerUnavailable("the connection to Redis is closed"))
            return future
        self._outbox.append((command, future))
        if self._writer is None and not self._is_flushing:
            self._is_flushing = True
            loop.call_soon(self._flush)
        return future

    def call_with(
        self, command: Sequence[Argument], behind: Sequence[Argument]
    ) -> tuple[asyncio.Future[Reply], asyncio.Future[Reply]]:
        """Give a command and, right behind it, a second one, as WAIT."""
        return self.call(*command), self.call(*behind)

    async def written(self) -> None:
        """Return when all that was given so far has been handed to the operating system.

        Raises:
            BrokerUnavailable: it could not be.
        """
        if self._writer is None and not self._is_flushing:
            if self._transport is None or not self._transport.get_write_buffer_size():
                return
            self._begin_writing()
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._written.append(written)
        await written

    async def close(self) -> None:
        """Close the connection; what has no reply yet fails."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        self._fail_unsent(BrokerUnavailable("the connection to Redis was closed"))
        for task in (self._writer, self._reader):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._break(BrokerUnavailable("the connection to Redis was closed"))
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await hang_up(connection)

    def reset(self) -> None:
        """Break the connection: what is pending fails with ReplyLost, the next command opens a new one."""
        if self._inbox is not None:
            self._inbox.end(ConnectionResetError("closed, or no reply in time"))  # seen also by a reader yet to begin
        elif self._reader is not None:
            self._reader.cancel()

    def _flush(self) -> None:
        """Write what was given in the last turn, at once where that needs no waiting."""
        self._is_flushing = False
        if self._writer is not None:
            return
        transport = self._transport
        if transport is not None and self._outbox and not (transport.is_closing() or transport.get_write_buffer_size()):
            transport.write(b"".join(self._take_outbox()))
            if self._written:
                # One turn of the loop later: uvloop hands bytes to the system at the end of a turn.
                asyncio.get_running_loop().call_soon(self._confirm, transport, self._written)
                self._written = []
        if self._outbox or self._written:
            self._begin_writing()

    def _confirm(self, transport: asyncio.Transport, waiters: list[asyncio.Future[None]]) -> None:
        """Tell those who wait for it that the system has what was written, or have them wait until it has."""
        if transport is not self._transport:
            for waiter in waiters:  # what its buffer held is gone
                _fail(waiter, BrokerUnavailable("the connection to Redis broke"))
        elif transport.get_write_buffer_size():
            self._written[:0] = waiters
            if self._writer is None:
                self._begin_writing()
        else:
            for waiter in waiters:
                _resolve(waiter)

    def _begin_writing(self) -> None:
        self._writer = asyncio.create_task(self._write(), name="rqueue link writer")

    def _take_outbox(self) -> list[bytes]:
        batch, self._outbox = self._outbox, []
        return self._pack([each for each in batch if not each[1].done()])

    async def _write(self) -> None:
        """Connect, write and wait for the system to take it, until nothing is left."""
        try:
            while True:
                if self._outbox:
                    await self._leave_closed()
                    connection = self._connection or await self._open()
                    await connection.send_packed_command(self._take_outbox(), check_health=False)
                if self._connection is not None:
                    await _drain(self._connection)
                if not self._outbox:
                    break
            written, self._written = self._written, []
            for future in written:
                # One turn of the loop later: uvloop hands bytes to the system at the end of a turn.
                asyncio.get_running_loop().call_soon(_resolve, future)
        except (redis.exceptions.RedisError, OSError, BrokerError) as exc:
            self._fail_unsent(BrokerUnavailable(f"Redis cannot be reached: {exc}"))
            self.reset()
        except BaseException:
            self._fail_unsent(BrokerUnavailable("the connection to Redis was closed"))
            raise
        finally:
            self._writer = None

    async def _leave_closed(self) -> None:
        """See a connection off whose transport has ended, and whose reader is about to hear of it."""
        if self._reader is not None and self._transport is not None and self._transport.is_closing():
            self.reset()
            await asyncio.wait([self._reader])

    def _pack(self, batch: list[tuple[Sequence[Argument], asyncio.Future[Reply]]]) -> list[bytes]:
        """The batch's bytes; its futures are pending from now on, but for what cannot be packed."""
        if not self._pending:
            self._watch_replies()
        try:
            packed = [pack(command) for command, _ in batch]
        except Exception as exc:  # noqa: BLE001 - one caller's argument, whatever it is, must not stop the others
            if len(batch) == 1:
                _fail(batch[0][1], BrokerError(f"an argument cannot be sent to Redis: {exc}"))
                return []
            return [chunk for each in batch for chunk in self._pack([each])]
        self._pending.extend(future for _, future in batch)
        return packed

    def _watch_replies(self) -> None:
        """From now on replies are due: look in time whether they have come; a look that is set already may serve."""
        loop = asyncio.get_running_loop()
        self._moved_s, self.is_overdue = loop.time(), False
        due_s = self._moved_s + self.reply_timeout_s
        if self._watch is None or self._watch.when() > due_s:
            if self._watch is not None:
                self._watch.cancel()
            self._watch = loop.call_at(due_s, self._look)

    def _look(self) -> None:
        """Break a connection on which no reply has come for too long while some are due."""
        self._watch = None
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        left_s = self._moved_s + self.reply_timeout_s - loop.time()
        if left_s > 0:
            self._watch = loop.call_later(max(left_s, 0.01), self._look)
        elif self.is_overdue:
            self.reset()
        else:
            # If the loop was blocked the reply may be here already, unread: it is read first.
            self.is_overdue = True
            self._watch = loop.call_later(0.1, self._look)

    async def _open(self) -> AbstractConnection:
        connection, transport = self._new_connection(), None
        try:
            async with asyncio.timeout(self.reply_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                transport = transport_of(connection)
                setup: list[tuple[Argument, ...]] = [(b"CLIENT", b"ID")]
                if self._scripts:
                    setup += [(b"SCRIPT", b"LOAD", script.source) for script in SCRIPTS.values()]
                await connection.send_packed_command(map(pack, setup), check_health=False)
                replies = [await _reply_or_error(connection) for _ in setup]
        except BaseException as exc:
            await hang_up(connection, transport)
            if isinstance(exc, redis.exceptions.RedisError | OSError):
                raise BrokerUnavailable(refusal(exc, connection)) from None
            raise
        # An ACL may forbid both: then blocks end by their timeout, and scripts are sent whole.
        self.client_id = replies[0] if isinstance(replies[0], int) else None
        # Before anything is asked: a reply that its stream had read already would be nobody's.
        self._inbox = inbox = _Inbox.of(connection, self._take)
        self._connection, self._transport = connection, None if inbox is None else inbox.transport
        self._reader = asyncio.create_task(self._read(connection, inbox), name="rqueue link reader")
        return connection

    async def _read(self, connection: AbstractConnection, inbox: _Inbox | None) -> None:
        cause: BaseException | str = "closed, or no reply in time"
        try:
            # Also while nothing is due: so a connection that dies idle is noticed, and not used for a command.
            while inbox is None:
                self._take(await _reply_or_error(connection))
            await inbox.ended
        except (redis.exceptions.RedisError, OSError, TimeoutError) as exc:
            cause = exc
        finally:
            if self._connection is connection:
                self._connection = self._reader = self._inbox = self._transport = None
            # What its buffer held is gone: nobody may take it for written.
            self._fail_written(BrokerUnavailable(f"the connection to Redis broke: {cause}"))
            self._break(ReplyLost(f"the connection to Redis broke before the reply: {cause}"))
            if inbox is not None and inbox.transport.get_write_buffer_size():
                inbox.transport.abort()  # closing would wait for a server that takes no more, and so would the writer
            await hang_up(connection)

    def _take(self, reply: Reply) -> None:
        """Give a reply to its caller; raises what ends the connection."""
        if isinstance(reply, redis.exceptions.RedisError) and not isinstance(reply, _ANSWERS):
            raise reply
        self._answer(reply)
        self._moved_s, self.is_overdue = asyncio.get_running_loop().time(), False
        if isinstance(reply, redis.exceptions.ResponseError) and is_elsewhere(reply):
            raise reply

    def _answer(self, reply: Reply | BaseException) -> None:
        if not self._pending:
            return  # a server that speaks unasked: nothing that was asked for
        future = self._pending.popleft()
        if future.done():
            return
        if isinstance(reply, BaseException):
            future.set_exception(translate(reply))
        else:
            future.set_result(reply)

    def _break(self, error: BrokerError) -> None:
        self.resets += 1
        pending, self._pending = self._pending, deque()
        for future in pending:
            _fail(future, error)

    def _fail_unsent(self, error: BrokerError) -> None:
        outbox, self._outbox = self._outbox, []
        for _, future in outbox:
            _fail(future, error)
        self._fail_written(error)

    def _fail_written(self, error: BrokerError) -> None:
        written, self._written = self._written, []
        for waiter in written:
            _fail(waiter, error)


class _Inbox(asyncio.Protocol):
    """Replies as they come: redis-py's stream would take three turns of the loop for each, and this takes none.

    Args:
        transport: the open connection's.
        below: the protocol whose place it takes; it is told what the connection's other half, the writer, asks it.
        parse_error: makes an exception of an error reply.
        take: called with each reply; what it raises ends the connection.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        below: asyncio.StreamReaderProtocol,
        parse_error: Callable[[str], Exception],
        take: Callable[[Reply], None],
    ) -> None:
        self.transport = transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._below, self._take = below, take
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse, replyError=parse_error, notEnoughData=_NOTHING
        )

    @classmethod
    def of(cls, connection: Any, take: Callable[[Reply], None]) -> _Inbox | None:
        """Take the place of the connection's stream; None where it has none, as in memory."""
        stream: Any = getattr(connection, "_reader", None)
        transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
        below = None if transport is None else transport.get_protocol()
        if not isinstance(below, asyncio.StreamReaderProtocol):
            return None
        inbox = cls(transport, below, DefaultParser.parse_error, take)
        transport.set_protocol(inbox)
        if transport.is_closing() or stream.at_eof():  # its end was told to the other one
            inbox.end(ConnectionResetError("the connection was closed"))
        return inbox

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return  # what follows an error that ended it has lost its order
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._take(reply)
        except (redis.exceptions.RedisError, OSError) as exc:
            self.end(exc)

    def eof_received(self) -> None:
        # Not when the transport says so: it first waits until all that it holds has left.
        self.end(ConnectionResetError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._below.connection_lost(exc)
        self.end(exc or ConnectionResetError("the server closed the connection"))

    def pause_writing(self) -> None:
        self._below.pause_writing()

    def resume_writing(self) -> None:
        self._below.resume_writing()

    def end(self, error: Exception) -> None:
        """The connection is over: nothing more is taken from it."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # seen: whoever reads may have been cancelled


def refusal(error: Exception, connection: object) -> str:
    """Why a connection could not be opened; with TLS 1.3 a server refuses a client only after the handshake."""
    is_tls = isinstance(connection, redis.SSLConnection | redis.asyncio.SSLConnection)
    text = str(error)
    is_clear = isinstance(error, redis.exceptions.AuthenticationError) or "certificate" in text.lower()
    if not is_tls or is_clear or " connecting to " in text:  # the handshake itself failed, or there is nobody
        return text
    return f"{text} (where the server asks for a client's certificate: is this one, ssl_certfile, one that it takes?)"


def transport_of(connection: object) -> Any:
    """An open connection's transport; None where it has none, as in memory."""
    return getattr(getattr(connection, "_writer", None), "transport", None)


async def hang_up(connection: AbstractConnection, transport: Any = None) -> None:
    """Close a connection without waiting for the other side.

    With TLS a transport would wait for the other side's goodbye, and its loop may end before that: uvloop raises then.

    Args:
        connection: the connection.
        transport: its transport, from before redis-py closes it by itself, as it does where a read is cancelled.
    """
    transport = transport or transport_of(connection)
    if transport is not None and transport.get_extra_info("ssl_object") is not None:
        transport.abort()
    await connection.disconnect(nowait=True)


async def _reply_or_error(connection: AbstractConnection) -> Reply:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as exc:
        return exc


async def _drain(connection: AbstractConnection) -> None:
    """Wait while the system takes no more.

    redis-py does so itself, but only from 64 KiB on, and the ``writelines`` of some asyncio versions (seen with Python
    3.13.0) forgets to say that the buffer is full: setting the limit makes it look.
    """
    writer: Any = getattr(connection, "_writer", None)
    transport = getattr(writer, "transport", None)
    if transport is not None and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(0)
        await writer.drain()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[Any], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: whoever does not wait for this reply is not warned about it
