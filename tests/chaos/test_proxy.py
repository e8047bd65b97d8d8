"""proxy: what it does to bytes on their way, and that it passes the others on as they came."""

import asyncio
import contextlib
import time

import pytest

from .proxy import Proxy


@pytest.fixture
async def echo():
    """A server that sends back what it gets; it notes what it got, and in which pieces."""
    got: list[bytes] = []

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                got.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    server.got = got
    yield server
    server.close()


@pytest.fixture
async def proxy(echo):
    async with Proxy(f"redis://user:pw@127.0.0.1:{echo.sockets[0].getsockname()[1]}/3") as proxy:
        yield proxy


async def connect(proxy):
    return await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2].partition("/")[0]))


async def heard(reader, count=5, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        return await reader.readexactly(count)


async def silent(reader):
    """True when nothing comes; an end is not nothing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
            return False
    return True


async def test_it_passes_on_what_came(proxy, echo):
    assert proxy.url.startswith("redis://user:pw@127.0.0.1:")
    assert proxy.url.endswith("/3")
    reader, writer = await connect(proxy)
    data = bytes(range(256)) * 4_000
    writer.write(data)
    assert await heard(reader, len(data)) == data
    assert proxy.open == proxy.accepted == 1
    writer.close()


async def test_pieces_are_packets_of_their_own(proxy, echo):
    proxy.piece_bytes = 1
    reader, writer = await connect(proxy)
    data = b"0123456789" * 20
    writer.write(data)
    assert await heard(reader, len(data)) == data
    assert b"".join(echo.got) == data
    assert len(echo.got) > 20, "the system may put some together where the reader is slow"
    writer.close()


async def test_late_bytes_keep_their_order(proxy):
    reader, writer = await connect(proxy)
    proxy.delay_s = 0.1
    began = time.monotonic()
    writer.write(b"first")
    await asyncio.sleep(0.02)
    proxy.delay_s = 0.0
    writer.write(b"after")
    assert await heard(reader, 10) == b"firstafter"
    assert time.monotonic() - began >= 0.1
    writer.close()


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_what_was_swallowed_leaves_a_connection_dead_and_open(proxy, echo, direction):
    reader, writer = await connect(proxy)
    proxy.swallows = frozenset({direction})
    writer.write(b"hello")
    assert await silent(reader)
    assert echo.got == ([] if direction == "requests" else [b"hello"])
    proxy.heal()
    writer.write(b"again")
    assert await silent(reader), "a byte of it is missing"
    fresh, other = await connect(proxy)
    other.write(b"hello")
    assert await heard(fresh) == b"hello"
    for each in (writer, other):
        each.close()


async def test_a_deaf_one_accepts_and_says_nothing(proxy, echo):
    proxy.is_deaf = True
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await silent(reader)
    assert echo.got == []
    writer.close()


async def test_what_is_held_comes_later(proxy):
    reader, writer = await connect(proxy)
    proxy.hold()
    writer.write(b"hello")
    assert await silent(reader)
    proxy.let_pass()
    assert await heard(reader) == b"hello"
    writer.close()


async def test_a_cut_is_a_reset_on_both_sides_and_of_every_nth_only(proxy, echo):
    ends = [await connect(proxy) for _ in range(4)]
    for reader, writer in ends:
        writer.write(b"hello")
        assert await heard(reader) == b"hello"
    assert proxy.cut(2) == 2
    for reader, _ in ends[1::2]:
        with pytest.raises(ConnectionResetError):
            await heard(reader)
    for reader, writer in ends[::2]:
        writer.write(b"again")
        assert await heard(reader) == b"again"
        writer.close()
    async with asyncio.timeout(5):
        while proxy.open:
            await asyncio.sleep(0)
    assert proxy.cuts == 2


async def test_it_refuses_and_listens_again_on_the_same_port(proxy):
    reader, writer = await connect(proxy)
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    writer.write(b"hello")
    assert await heard(reader) == b"hello", "who is there stays"
    await proxy.listen()
    fresh, other = await connect(proxy)
    other.write(b"hello")
    assert await heard(fresh) == b"hello"
    for each in (writer, other):
        each.close()


async def test_the_servers_end_is_passed_on(proxy, echo):
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await heard(reader) == b"hello"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
