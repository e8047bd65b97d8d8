"""An endpoint: a URL becomes connections, and its password is never shown."""

import asyncio
import traceback

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint, redacted
from rqueue.broker.pulse import Pulse
from rqueue.errors import BrokerError, ConfigError
from rqueue.wire.keys import Keys

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "kind", "expected"),
    [
        ("redis://host:7000/3", redis.asyncio.Connection, {"host": "host", "port": 7000, "db": 3}),
        ("valkey://host", redis.asyncio.Connection, {"host": "host", "port": 6379, "db": 0}),
        ("REDIS://host", redis.asyncio.Connection, {"host": "host"}),
        ("rediss://u:p%40ss@host", redis.asyncio.SSLConnection, {"username": "u", "password": "p@ss"}),
        ("valkeys://host", redis.asyncio.SSLConnection, {"host": "host"}),
        ("unix:///run/redis.sock?db=2", redis.asyncio.UnixDomainSocketConnection, {"path": "/run/redis.sock", "db": 2}),
        ("unix://:pass@/run/redis.sock", redis.asyncio.UnixDomainSocketConnection, {"password": "pass"}),
    ],
)
def test_each_kind_of_url(url, kind, expected):
    """Breaks when a scheme is not known, or a part of the URL is not taken over."""
    connection = Endpoint(url).connection()
    assert isinstance(connection, kind)
    assert {name: getattr(connection, name) for name in expected} == expected


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///s", "memory://"])
def test_a_connection_never_retries_and_speaks_one_protocol(url):
    """Silent retries run a command twice when only the reply was lost. Breaks when redis-py's default comes back."""
    connection = Endpoint(url).sync_connection(3)
    assert connection.socket_timeout == 3
    if url != "memory://":
        assert connection.retry._retries == 0
        assert connection.socket_connect_timeout == 3

    async def look() -> None:
        connection = Endpoint(url).connection()
        if url != "memory://":
            assert connection.socket_timeout is None
            assert connection.retry._retries == 0
            assert connection.socket_connect_timeout == 5

    asyncio.run(look())


async def test_memory_is_one_server_for_each_name_and_thread_and_loop_share_it():
    """Breaks when every connection has a store of its own, or unnamed ones share theirs."""
    named, same, unnamed, other = (Endpoint(url) for url in ["memory://n", "memory://n/", "memory://", "memory://"])
    assert named.is_memory
    writer = named.sync_connection(1)
    writer.connect()
    writer.send_command("SET", "k", "v")
    assert writer.read_response() in (True, b"OK", "OK")
    found = []
    for endpoint in (named, same, unnamed, other):
        connection = endpoint.connection()
        await connection.connect()
        await connection.send_command("GET", "k")
        found.append(await connection.read_response())
        await connection.disconnect()
    writer.disconnect()
    assert found == [b"v", b"v", None, None]


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost", "localhost:6379", "http://localhost", "memory+cluster://h", "unix+cluster:///s"),
        *("amqp://h", "://h", "redis"),
    ],
)
def test_another_kind_of_url_is_refused_by_what_is_allowed(url):
    """Breaks when the error does not say what would be right."""
    with pytest.raises(ConfigError, match="redis://"):
        Endpoint(url)


@pytest.mark.parametrize("url", ["redis://h:port", "redis://h:99999", "redis://[::1", "redis://h?socket_timeout=soon"])
def test_a_malformed_url_is_refused_with_our_error(url):
    """Breaks when urlsplit's or redis-py's ValueError comes through."""
    with pytest.raises(ConfigError, match="redis://"):
        Endpoint(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:7000/3", "redis://host:7000/3"),
        (f"redis://:{SECRET}@host:7000/3", "redis://:***@host:7000/3"),
        (f"redis://user:{SECRET}@host/3", "redis://user:***@host/3"),
        (f"redis://host/0?password={SECRET}", "redis://host/0"),
        (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix://:***@/run/redis.sock"),
        ("memory://name", "memory://name"),
        ("redis+sentinel://a:1,[::1]:2,c/mymaster/3", "redis+sentinel://a:1,[::1]:2,c/mymaster/3"),
        (f"rediss+sentinel://u:{SECRET}@a,b/m?sentinel_password={SECRET}", "rediss+sentinel://u:***@a,b/m"),
        (f"valkey+sentinel://a,b/m?sentinel_password={SECRET}", "valkey+sentinel://a,b/m"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    """No password ever. Breaks when it, or the query, is shown; or when nothing useful is."""
    assert redacted(url) == Endpoint(url).shown == shown


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host",
        f"redis://:{SECRET}@host?socket_timeout=soon",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host:99999",
        f"http://:{SECRET}@host",
        f"redis+cluster://user:{SECRET}@a:1,b:2",
        f"http://host?password={SECRET}",
        f":{SECRET}@host:6379",  # the scheme was forgotten
        f"user:{SECRET}@host:6379",
        f"//:{SECRET}@host",
        f"redis:/:{SECRET}@host",
        f"redis::{SECRET}@host",
        f"redis://host/0?password=x@{SECRET}",
        f"redis://host/0#x@{SECRET}",
        f"redis://:{SECRET}/x@host:6379",  # not percent-encoded
        f"redis://:{SECRET}#x@host:6379",
        f"redis://:{SECRET}?x@host:6379",
        f"redis://:x/{SECRET}@host:6379",
        f"redis://:1/{SECRET}@host:6379",
        f"redis://user:x#{SECRET}@host:6379",
        f"redis://[:{SECRET}@host",
        f"redis+sentinel://:{SECRET}@a,b",
        f"redis+sentinel://a,b/m?sentinel_pass={SECRET}",
        f"redis+sentinel://a,b/m?sentinel_password=x@{SECRET}",
        f"redis+sentinel://u:{SECRET}@a:port/m",
        f"redis+sentinel://u:{SECRET}/x@a/m",
        f"redis+cluster+{SECRET}://a",
    ],
)
def test_no_text_shows_the_password(url):
    """No password ever in str, repr or an error. Breaks when any of them shows the URL, or a part that is not known
    to be harmless: a mistyped URL is shown in an error, and errors end up in logs.
    """
    texts = [redacted(url)]
    try:
        endpoint = Endpoint(url)
        texts += [str(endpoint), repr(endpoint), endpoint.shown]
    except ConfigError as exc:
        texts += ["".join(traceback.format_exception(exc)).partition("ConfigError")[2], str(exc), repr(exc)]
    assert [text for text in texts if SECRET in text] == []


@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "valkeys+sentinel", "redis+cluster", "http"]),
    st.lists(st.sampled_from(["a", "7", ":", "/", "?", "#", "@", ",", "=", "&", "[", "]", "%", " "]), max_size=6),
    st.lists(st.sampled_from(["a", "7", ":", "/", "?", "#", "@", ",", "=", "&", "[", "]", "%", " "]), max_size=6),
    st.sampled_from(
        ["{}://u:{}@a:1,b/m", "{}://:{}@a/m?db=1", "{}://a,b:2/m?sentinel_password={}", "{}://a?password={}"]
    ),
)
def test_no_url_shows_its_password_wherever_it_stands_and_whatever_is_in_it(scheme, before, after, form):
    """No password ever, also not a part of one that somebody forgot to percent-encode. Breaks when what follows an @
    within an option's value is taken for a host.
    """
    url = form.format(scheme, "".join(before) + SECRET + "".join(after))
    texts = [redacted(url)]
    try:
        texts.append(Endpoint(url).shown)
    except ConfigError as exc:
        texts.append(str(exc))
    assert [text for text in texts if SECRET in text] == []


async def test_a_refused_password_is_not_shown(new_server):
    """No password ever in an error. Breaks when the client library's error or our text carries it."""
    server = new_server({"requirepass": "right"})
    endpoint = Endpoint(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    broker, pulse = Broker(endpoint, Keys()), Pulse(endpoint, 5)
    with pytest.raises(BrokerError) as from_loop:
        await broker.open()
    with pytest.raises(BrokerError) as from_thread:
        pulse.renew([Keys().queue("email")], "w", 30, b"")
    await broker.close()
    for caught in (from_loop, from_thread):
        assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_the_right_password_is_used(new_server):
    """Breaks when the credentials are dropped beside our options."""
    server = new_server({"requirepass": "p@ss/word"})
    broker = Broker(Endpoint(server.url), Keys())
    await broker.open()
    await broker.close()
