"""Records and dead letters: what was stored is read, and what is neither is malformed and nothing worse."""

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rqueue.errors import MalformedMessage
from rqueue.wire import codec
from rqueue.wire.record import Failure, Letter, Record, decode_record, moved_to, state_of
from rqueue.wire.state import State

LUA = Path(__file__).parents[2] / "rqueue" / "broker" / "lua"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["$bytes", "$dict"]), inner, max_size=3)
    ),
    max_leaves=10,
)
FAILURES = st.builds(Failure, type=st.text(), message=st.text(), traceback=st.none() | st.text(min_size=1))
LETTERS = st.builds(
    Letter,
    id=st.text(),
    reason=st.text(),
    raw=st.binary(),
    task=st.none() | st.text(),
    failure=st.none() | FAILURES,
    died=st.none() | st.integers(0, 2**53),
    retries=st.integers(0, 2**31),
    losses=st.integers(0, 2**31),
)


# --- records ----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(State), st.none() | JSON.map(lambda value: (value,)), st.none() | FAILURES)
def test_a_record_comes_back(state: State, result: tuple[Any] | None, failure: Failure | None):
    record = Record(state, None if result is None else codec.dumps(result[0]), failure, {"task": "t", "worker": None})
    expected: dict[str, Any] = {"state": state, "task": "t"}
    if result is not None:
        expected["result"] = result[0]
    if failure is not None:
        expected["error"] = {"type": failure.type, "message": failure.message}
        if failure.traceback is not None:
            expected["traceback"] = failure.traceback
    assert decode_record(record.encode()) == expected


def test_a_result_of_none_is_not_the_lack_of_a_result():
    assert Record(State.SUCCESS, b"null").encode() == b'{"state":"SUCCESS","result":null}'
    assert Record(State.SUCCESS).encode() == b'{"state":"SUCCESS"}'


@pytest.mark.parametrize("script", ["ack", "bury", "record"])
@pytest.mark.parametrize("state", State)
def test_the_scripts_find_the_state_where_it_is_written(state: State, script: str):
    """They count it; a record that they cannot read would fail in the middle of a settle."""
    text = (LUA / f"{script}.lua").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"string\.match\(record, '(\^.*?)'\)", text)
    data = Record(state, b'{"state":"FAKE"}', Failure("E", "text")).encode()
    found = re.match(pattern.replace("%u", "[A-Z]").replace("{", r"\{"), data.decode())
    assert found is not None
    assert found.group(1) == state


@given(JSON)
@example({"$bytes": "not base64"})
@example({"$dict": {"$bytes": ""}})
@example(b"\xff")
@example([math.nan, {"a": None}])
def test_progress_comes_back_or_is_refused_when_it_is_encoded(progress: Any):
    """It is the caller's value, as the result is: a waiter must never meet a record that cannot be read."""
    try:
        data = Record(State.STARTED, about={"progress": progress}).encode()
    except TypeError:
        with pytest.raises(TypeError):
            codec.dumps(progress)
        return
    assert decode_record(data).get("progress") == progress


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[1]",
        b"1",
        b'"SUCCESS"',
        b"\xff",
        b"{}",
        b'{"state":null}',
        b'{"state":"success"}',
        b'{"state":"LOST"}',
        b'{"state":[]}',
        b'{"state":{}}',
        b'{"state":{"$bytes":"YQ=="}}',
        b'{"$bytes":"YQ=="}',
        b'{"state":"SUCCESS","result":{"$bytes":"?"}}',
        b"[" * 100_000,
        b'{"state":"SUCCESS","result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_record_is_malformed(data: bytes):
    with pytest.raises(MalformedMessage, match="not a job's record"):
        decode_record(data)


@pytest.mark.parametrize("depth", [300, 500, 1000])
def test_a_record_with_a_deep_result_is_read_or_malformed(depth: int):
    with contextlib.suppress(MalformedMessage):
        decode_record(b'{"state":"SUCCESS","result":%s"$"%s}' % (b"[" * depth, b"]" * depth))


@given(st.binary() | JSON.map(codec.dumps))
def test_any_bytes_are_a_record_or_malformed(data: bytes):
    with contextlib.suppress(MalformedMessage):
        decode_record(data)


# --- dead letters -----------------------------------------------------------------------------------------------------


@given(LETTERS)
@example(Letter("a", "malformed", b"\n\n\0\xff"))
@example(Letter("a\nb", "malformed", b""))
def test_a_letter_comes_back(letter: Letter):
    assert Letter.decode(letter.encode()) == letter


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"raw",
        b"null\nraw",
        b"1\nraw",
        b'"text"\nraw',
        b"[]\nraw",
        b'["id"]\nraw',
        b"{}\nraw",
        b'{"id":"a"}\nraw',
        b'{"reason":"failed"}\nraw',
        b'{"id":"a","reason":"failed","error":1}\nraw',
        b'{"id":"a","reason":"failed","error":"E"}\nraw',
        b'{"id":"a","reason":"failed","error":["E"]}\nraw',
        b'{"id":"a","reason":"failed","error":{"type":"E"}}\nraw',
        b"\xff\nraw",
        b"[" * 100_000 + b"\nraw",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_letter_is_malformed(data: bytes):
    with pytest.raises(MalformedMessage, match="not a dead letter"):
        Letter.decode(data)


@pytest.mark.parametrize(
    "head",
    [
        b'{"id":1,"reason":"failed"}',
        b'{"id":"a","reason":[]}',
        b'{"id":"a","reason":"failed","retries":"3"}',
        b'{"id":"a","reason":"failed","losses":null}',
        b'{"id":"a","reason":"failed","died":"now"}',
        b'{"id":"a","reason":"failed","task":{}}',
        b'{"id":"a","reason":"failed","error":{"type":1,"message":[]}}',
    ],
)
def test_a_letter_with_a_field_of_the_wrong_type_is_malformed(head: bytes):
    """Else it is found where the letter is shown or sent again."""
    with pytest.raises(MalformedMessage):
        Letter.decode(head + b"\nraw")


def test_a_newer_releases_letter_is_read():
    """The page: readers ignore what they do not know."""
    data = b'{"id":"a","reason":"failed","later":{"x":1}}\nraw'
    assert Letter.decode(data) == Letter("a", "failed", b"raw")


@given(st.binary() | JSON.map(codec.dumps), st.binary())
def test_any_bytes_are_a_letter_or_malformed(head: bytes, raw: bytes):
    try:
        letter = Letter.decode(head + b"\n" + raw)
    except MalformedMessage:
        return
    assert letter.raw.endswith(raw)


@pytest.mark.parametrize("state", list(State))
def test_the_state_is_read_without_the_rest(state):
    assert state_of(Record(state, b'{"state":"x"}').encode()) == state


def test_the_state_of_another_version_is_read_too():
    """A cancel compares what another worker has stored. Breaks when a state that is not known here is an error."""
    assert state_of(b'{"state":"PAUSED","result":1}') == "PAUSED"


@pytest.mark.parametrize(
    ("record", "queue"),
    [
        (b'{"state":"RETRY","moved":"other"}', "other"),
        (b'{"state":"RETRY"}', None),
        (b'{"state":"SUCCESS","result":{"moved":"other"}}', None),
        (b'{"state":"SUCCESS","moved":"other"}', None),
        (b'{"state":"STARTED","progress":{"moved":"other"}}', None),
    ],
)
def test_where_a_job_went(record, queue):
    """Breaks when a task's own value sends those who wait for it elsewhere."""
    assert moved_to(record) == queue
