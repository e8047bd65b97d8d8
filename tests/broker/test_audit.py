"""audit: what stands in a worker's processing list, by its fingerprints."""

import asyncio

import pytest

from rqueue.broker.broker import fingerprint
from rqueue.errors import ConfigError
from rqueue.wire.keys import check_job_id
from rqueue.wire.message import Header

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)


def fingerprints(*messages: bytes) -> list[bytes]:
    return [str(len(raw)).encode() + b":" + raw[:256] for raw in messages]


async def test_each_message_by_its_fingerprint_in_its_place(broker, keys, seed, dump, message):
    """A worker audits itself. Breaks when the order is another than that of the list, in which `held_at` reads; or when
    an audit writes.
    """
    raws = [message("c"), message("b", 5, retries=2), message("a", losses=1)]
    await seed({"processing:w": raws, "processing:v": [message("x")], "workers": {"w": "future"}})
    stored = await dump()
    assert await broker.audit(keys, "w") == fingerprints(*raws)
    assert await dump() == stored


async def test_equal_messages_are_as_many_as_there_are(broker, keys, seed):
    """Lists are compared as multisets. Breaks when equal messages become one: a second copy would never run."""
    await seed({"processing:w": [b"{}", b"{}", b"{} ", b"{}"]})
    assert await broker.audit(keys, "w") == fingerprints(b"{}", b"{}", b"{} ", b"{}")


async def test_a_token_is_no_message_and_keeps_its_place(broker, keys, seed, message):
    """A token is a hint. Breaks when it is taken for a message, or left out: what follows would be read one off."""
    await seed({"processing:w": [b"", message("b"), b"", message("a")]})
    (b, a) = fingerprints(message("b"), message("a"))
    assert await broker.audit(keys, "w") == [b"", b, b"", a]
    assert await broker.held_at(keys, "w", 3) == message("a")


async def test_a_fingerprint_is_of_the_exact_bytes(broker, keys, seed):
    """No payload is decoded. Breaks when bytes that are not text, or end in a NUL, are changed on their way."""
    raws = [bytes(range(256)), b"a\x00", b"a", b"\xff\xfe", b'{"task":"\xc3\xa9"}']
    await seed({"processing:w": raws})
    assert await broker.audit(keys, "w") == fingerprints(*raws)


async def test_a_long_message_is_told_by_its_beginning_and_its_length(broker, keys, seed, message):
    """The header, with the id, is at the beginning. Breaks when two jobs with one task and arguments look the same, or
    when Lua and Python cut at different places.
    """
    raws = [message("a", pad=300), message("a", pad=301), message("b", pad=300), b"x" * 255, b"x" * 256, b"x" * 257]
    await seed({"processing:w": raws})
    marks = await broker.audit(keys, "w")
    assert marks == fingerprints(*raws) == [fingerprint(raw) for raw in raws]
    assert len(set(marks)) == len(raws)


def test_the_longest_id_is_in_a_fingerprint():
    """Breaks when ids may be longer than what is compared: one job's audit would find another's message."""
    ids = [check_job_id("i" * 127 + last) for last in "ab"]
    with pytest.raises(ConfigError):
        check_job_id(ids[0] + "c")
    headers = [Header(10, 10**9 - 1, 10**9 - 1, 10**15 - 1, each).encode() for each in ids]
    assert fingerprint(headers[0] + b"{}") != fingerprint(headers[1] + b"{}")


@pytest.mark.parametrize("state", [{}, {"workers": {"w": "future"}}, {"processing:w": ("ttl", b"reaped")}])
async def test_a_worker_without_a_list_holds_nothing(broker, keys, seed, dump, state):
    """Also one that was reaped. Breaks when its list's tombstone is an error, or a missing list becomes one."""
    await seed(state)
    assert await broker.audit(keys, "w") == []
    assert await dump() == state


async def test_more_than_lua_unpacks_at_once(broker, keys, raw):
    """Breaks when the list is handed on as arguments of one call."""
    raws = [b"%d" % number for number in range(9_000)]
    await raw("RPUSH", keys.processing("w"), *raws)
    assert await broker.audit(keys, "w") == fingerprints(*raws)


@on_redis
async def test_the_messages_themselves_stay_where_they_are(broker, keys, seed, raw, message):
    """An audit of megabytes costs a few bytes. Breaks when the messages are sent along."""
    await seed({"processing:w": [message(f"j{number}", pad=1_000_000) for number in range(8)]})
    before = await sent_bytes(raw)
    assert len(await broker.audit(keys, "w")) == 8
    assert await sent_bytes(raw) - before < 50_000  # the INFO in between, and a few hundred bytes for each


async def sent_bytes(raw) -> int:
    stats = bytes(await raw("INFO", "stats")).decode()
    return int(stats.partition("total_net_output_bytes:")[2].split()[0])


async def test_one_look_at_one_moment(broker, other, keys, seed, message, done):
    """Breaks when the list is read in parts: what is settled in between moves the rest, and a message that was there
    all the time is missed, and taken for lost.
    """
    raws = [message(f"j{number}") for number in range(600)]
    await seed({"processing:w": raws, "workers": {"w": "future"}})
    (stays,) = fingerprints(raws[0])  # the last claimed: settled last

    async def settle() -> None:
        for number in range(599, 0, -1):
            await other.ack(keys, "w", 0, 600 - number, [done(f"j{number}", ttl="0")])

    settling = asyncio.create_task(settle())
    looks = 0
    while not settling.done():
        assert (await broker.audit(keys, "w")).count(stays) == 1
        looks += 1
    await settling
    assert looks > 1
    assert await broker.audit(keys, "w") == [stays]
