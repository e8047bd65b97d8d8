"""letters: which dead letters are meant, and what is to be different about their messages."""

from datetime import timedelta

import pytest

from rqueue import RQueue
from rqueue.client.letters import Changes, LetterFilter, error_of, with_message
from rqueue.client.registry import Registry
from rqueue.errors import ConfigError, MessageTooLarge
from rqueue.wire.message import Message
from rqueue.wire.record import Failure, Letter

NOW = 1_000_000
LETTER = Letter("a", "failed", b"", "shop.a", Failure("ValueError", "no Good"), died=NOW - 60_000)


def applied(changes, raw, tasks=None, max_bytes=1_000):
    return changes.applied(Message.parse(raw), NOW, max_bytes, tasks or Registry()).raw


@pytest.mark.parametrize(
    ("which", "is_meant"),
    [
        ({}, True),
        ({"task": "shop.a", "reason": "failed", "error": "valueerror: NO"}, True),
        ({"task": "shop.b"}, False),
        ({"reason": "worker lost"}, False),
        ({"error": "bad"}, False),
        ({"older_than": 59}, True),
        ({"older_than": 60}, False),
        ({"newer_than": timedelta(minutes=2)}, True),
        ({"newer_than": 60}, False),
        ({"older_than": 30, "newer_than": 90}, True),
    ],
)
def test_which_are_meant(which, is_meant):
    assert LetterFilter(**which).matches(LETTER, NOW) is is_meant


def test_a_letter_without_a_time_or_an_error():
    letter = Letter("a", "unreadable letter", b"")
    assert LetterFilter().matches(letter, NOW)
    assert not LetterFilter(older_than=0).matches(letter, NOW)
    assert not LetterFilter(error="x").matches(letter, NOW)
    assert (error_of(letter), error_of(LETTER)) == ("", "ValueError: no Good")


def test_what_is_not_named_stays_known_or_not():
    """Numbers of other producers stay exact, and text stays what it is."""
    raw = (
        b'1 7 1 2 3 a {"task":"t","args":[1],"x":{"y":[123456789012345678901234567890,1.0,"\\u00fc"]},"kwargs":{"k":1}}'
    )
    changed = applied(Changes(args=[2, b"\xff"]), raw)
    assert changed == (
        b'1 7 1 2 3 a {"task":"t","args":[2,{"$bytes":"/w=="}],'
        b'"x":{"y":[123456789012345678901234567890,1.0,"\\u00fc"]},"kwargs":{"k":1}}'
    )


def test_each_change():
    raw = b'1 - 0 0 0 a {"task":"t","expires":5,"time_limit":9}'
    assert applied(Changes(priority=7), raw) == raw.replace(b"1 -", b"1 7")
    assert applied(Changes(priority=None), raw.replace(b"1 -", b"1 7")) == raw
    assert applied(Changes(kwargs={"b": 1}), raw) == raw[:-1] + b',"kwargs":{"b":1}}'
    assert applied(Changes(expires=None, time_limit=None), raw) == b'1 - 0 0 0 a {"task":"t"}'
    assert applied(Changes(expires=1.5), raw) == raw.replace(b":5", b":%d" % (NOW + 1_500))
    limits = Changes(max_retries=None, time_limit=timedelta(seconds=3), soft_time_limit=2)
    assert applied(limits, raw) == (
        b'1 - 0 0 0 a {"task":"t","expires":5,"time_limit":3.0,"max_retries":null,"soft_time_limit":2}'
    )
    assert Changes().are_none
    assert not Changes(priority=None).are_none


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {"a": 1}},
        {"args": "text"},
        {"kwargs": [1]},
        {"priority": 11},
        {"max_retries": -1},
        {"time_limit": 0},
        {"expires": "soon"},
    ],
)
def test_what_is_wrong_is_refused(changes):
    with pytest.raises(ConfigError):
        applied(Changes(**changes), b'1 - 0 0 0 a {"task":"t"}')


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(TypeError):
        applied(Changes(args=[{1, 2}]), b'1 - 0 0 0 a {"task":"t"}')
    with pytest.raises(MessageTooLarge):
        applied(Changes(args=["x" * 1_000]), b'1 - 0 0 0 a {"task":"t"}')
    for body in (b"{nonsense", b'{"args":[]}'):
        with pytest.raises(ConfigError):
            applied(Changes(args=[1]), b"1 - 0 0 0 a " + body)


def test_what_was_wrong_can_be_mended():
    assert applied(Changes(args=[1]), b'1 - 0 0 0 a {"task":"t","args":7}') == b'1 - 0 0 0 a {"task":"t","args":[1]}'


def test_arguments_are_checked_where_the_task_is_known():
    app = RQueue("memory://")

    @app.task(name="shop.t")
    def t(a: int) -> None: ...

    with pytest.raises(TypeError, match=r"shop\.t"):
        applied(Changes(args=[1, 2]), b'1 - 0 0 0 a {"task":"shop.t","args":[1]}', app.tasks)
    assert applied(Changes(args=[2]), b'1 - 0 0 0 a {"task":"t"}', app.tasks)
    assert applied(Changes(priority=3), b'1 - 0 0 0 a {"task":"t"}', app.tasks), "what is not changed is not judged"


def test_a_letter_keeps_its_first_line():
    data = b'{"id":"a","more":[1]}\nold\nlines'
    assert with_message(data, Message.parse(b"{}")) == b'{"id":"a","more":[1]}\n{}'
