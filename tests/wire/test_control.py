"""What is said on the control channel, to bytes and back; whoever sends nonsense can be told so."""

import orjson
import pytest

from rqueue.errors import MalformedMessage
from rqueue.wire.control import Answer, ControlRequest

GOOD = {"v": 1, "id": "a", "verb": "ping", "args": {}, "to": None, "reply": "c"}


def test_a_request_comes_back_as_it_was():
    request = ControlRequest("a1", "pool_grow", {"n": 2}, ["w:1:x"], "rqueue:control:reply:a1")
    assert ControlRequest.decode(request.encode()) == request


def test_a_request_as_the_page_gives_it():
    assert orjson.loads(ControlRequest("a", "ping", {}, None, "c").encode()) == GOOD


def test_only_the_verb_and_the_id_are_needed():
    assert ControlRequest.decode(b'{"v":1,"id":"a","verb":"ping"}') == ControlRequest("a", "ping", {}, None, None)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"1"])
def test_what_is_no_object_is_malformed(data):
    with pytest.raises(MalformedMessage):
        ControlRequest.decode(data)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("v", 2, "version 2"),
        ("v", None, "version None"),
        ("verb", 7, "'id' and 'verb'"),
        ("id", None, "'id' and 'verb'"),
        ("args", [1], "'args'"),
        ("to", "w", "'to'"),
        ("to", [1], "'to'"),
    ],
)
def test_what_is_wrong_in_part_has_a_problem_and_an_address(field, value, problem):
    request = ControlRequest.decode(orjson.dumps({**GOOD, field: value}))
    assert problem in request.problem
    assert request.reply == "c"


def test_a_reply_that_is_no_channel_is_none():
    assert ControlRequest.decode(orjson.dumps({**GOOD, "reply": 7})).reply is None


@pytest.mark.parametrize("answer", [Answer("w", {"a": [1]}), Answer("w", None), Answer("w", error="no")])
def test_an_answer_comes_back_as_it_was(answer):
    assert Answer.decode(answer.encode()) == answer


def test_an_answer_has_a_value_or_an_error():
    assert orjson.loads(Answer("w", "pong").encode()) == {"worker": "w", "ok": "pong"}
    assert orjson.loads(Answer("w", error="no").encode()) == {"worker": "w", "error": "no"}


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"ok":1}', b'{"worker":7}'])
def test_what_is_no_answer_is_malformed(data):
    with pytest.raises(MalformedMessage):
        Answer.decode(data)
