"""A message's header and object: what was built is parsed, and what is not a message is malformed and nothing worse."""

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire import codec
from rqueue.wire.message import TOKEN, Call, Header, Message, check_priority, fragment, new_header

LUA = Path(__file__).parents[2] / "rqueue" / "broker" / "lua"

IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128).filter(
    lambda text: text != "-"
)
HEADERS = st.builds(
    Header,
    level=st.integers(0, 10),
    losses=st.integers(0, 999_999_999),
    retries=st.integers(0, 999_999_999),
    since=st.integers(0, 10**15 - 1),
    id=st.none() | IDS,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["$bytes", "$dict"]), inner, max_size=3)
    ),
    max_leaves=10,
)
MOMENTS = st.none() | st.integers(0, 2**53)
LIMITS = st.none() | st.integers(1, 2**31) | st.floats(0, exclude_min=True, allow_infinity=False)
CALLS = st.builds(
    Call,
    task=st.text(min_size=1),
    args=st.lists(VALUES, max_size=3),
    kwargs=st.dictionaries(st.text() | st.sampled_from(["$bytes", "$dict"]), VALUES, max_size=3),
    enqueued=MOMENTS,
    expires=MOMENTS,
    parent_id=st.none() | IDS,
    root_id=st.none() | IDS,
    max_retries=st.just(...) | st.none() | st.integers(0, 2**31),
    time_limit=LIMITS,
    soft_time_limit=LIMITS,
)

VALID = b'1 9 2 3 1767225600000 order-17 {"task":"tasks.add","args":[1,{"$bytes":"YQ=="}],"kwargs":{"a":null}}'


def plain(call: Call) -> tuple[Any, ...]:
    """A call's values, however they were given."""
    return (
        call.task,
        list(call.args),
        dict(call.kwargs or {}),
        call.id,
        call.enqueued,
        call.expires,
        call.parent_id,
        call.root_id,
        call.max_retries,
        call.time_limit,
        call.soft_time_limit,
    )


# --- the header -------------------------------------------------------------------------------------------------------


@given(HEADERS, st.binary())
def test_a_header_comes_back(header: Header, rest: bytes):
    built = Message.build(header, b"{" + rest)
    assert Message.parse(built.raw) == built


@given(HEADERS, st.integers(0, 10))
def test_a_headers_list_goes_before_the_list_it_was_found_in(header: Header, level: int):
    assert Message.parse(header.encode() + b"{}", level).header.level == header.level


@pytest.mark.parametrize("raw", [b'{"task":"t"}', b' {"task":"t"}', b'\n\t {"task":"t"}', b"{"])
def test_a_message_without_a_header_belongs_where_it_was_found(raw: bytes):
    message = Message.parse(raw, 7)
    assert message.raw == raw
    assert message.header == Header(7)


@given(HEADERS, st.sampled_from([b"", b" ", b"\r\n\t "]))
@example(Header(), b" ")
def test_a_changed_message_is_read_again(header: Header, spaces: bytes):
    """An id that a worker gives must be found by the next one, with the same object."""
    first = Message.parse(spaces + b'{"task":"t"}', header.level)
    changed = first.changed(losses=header.losses, retries=header.retries, since=header.since, id=header.id)
    again = Message.parse(changed.raw)
    assert again.header == header
    assert Call.decode(again.body) == Call("t")


def test_a_changed_message_keeps_its_object_to_the_byte():
    message = Message.parse(b'1 5 0 0 0 a {"task" : "t", "new": [1.0, 1e5, "\\u0041"]}')
    assert message.changed(losses=1).raw == b'1 5 1 0 0 a {"task" : "t", "new": [1.0, 1e5, "\\u0041"]}'


@pytest.mark.parametrize(
    "raw",
    [
        TOKEN,
        b" ",
        b"1",
        b"[1]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"\0{}",
        b"0 - 0 0 0 a {}",
        b"2 - 0 0 0 a {}",
        b"11 - 0 0 0 a {}",
        b"1 0 0 0 0 a {}",
        b"1 11 0 0 0 a {}",
        b"1 05 0 0 0 a {}",
        b"1 -- 0 0 0 a {}",
        b"1 - -1 0 0 a {}",
        b"1 - 1.5 0 0 a {}",
        b"1 - 0x1 0 0 a {}",
        b"1 - 1_0 0 0 a {}",
        b"1 - 1234567890 0 0 a {}",
        b"1 - 0 1234567890 0 a {}",
        b"1 - 0 0 1234567890123456 a {}",
        b"1 - 0 0 0 {}",
        b"1 - 0 0 0  {}",
        b"1 - 0 0 0 a{}",
        b"1 - 0 0 0 a b {}",
        b"1 - 0 0 0 a\n{}",
        b"1 - 0 0 0 " + b"a" * 129 + b" {}",
        b"1 - 0 0 0 a [1]",
        b"1 - 0 0 0 a",
        b"1\t-\t0\t0\t0\ta\t{}",
        b"1  - 0 0 0 a {}",
        "1 - ٣ 0 0 a {}".encode(),
        "1 - 0 0 0 ä {}".encode(),
        b"1 - " + b"9" * 1_000_000 + b" 0 0 a {}",
        b"1 - 0 0 0 " + b"a" * 1_000_000,
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_what_is_neither_a_header_nor_an_object_is_malformed(raw: bytes):
    with pytest.raises(MalformedMessage, match="neither a header nor a JSON object"):
        Message.parse(raw)


@given(st.binary() | st.from_regex(rb"1 [0-9-]{1,3} [0-9]{0,12} [0-9]{0,12} [0-9]{0,20} .{0,140} \{?", fullmatch=True))
def test_any_bytes_are_a_message_or_malformed(raw: bytes):
    try:
        message = Message.parse(raw)
    except MalformedMessage:
        return
    assert message.raw == raw
    assert raw.endswith(message.body)
    assert message.body.lstrip()[:1] == b"{"


@pytest.mark.parametrize("script", ["promote", "purge"])
@pytest.mark.parametrize("header", [Header(), Header(10, 1, 2, 3, "a{b}%d"), Header(1, id="x" * 128)], ids=repr)
def test_a_script_that_reads_a_header_reads_what_is_encoded(script: str, header: Header):
    """Lua's patterns are translated, since there is no Lua here."""
    text = (LUA / f"{script}.lua").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"string\.match\(message, '(\^1 .*?)'\)", text)
    found = re.match(
        pattern.replace("%d", r"\d").replace("%S", r"\S").replace("{", r"\{"), header.encode().decode() + "{}"
    )
    if script == "promote":
        assert (int(found.group(1)) if found else 0) == header.level
    else:
        assert found is not None
        assert found.group(1) == (header.id or "-")


# --- the object -------------------------------------------------------------------------------------------------------


@given(CALLS)
def test_a_call_comes_back(call: Call):
    assert plain(Call.decode(call.encode())) == plain(call)


def test_fields_at_their_default_are_left_out():
    assert Call("t", [], {}, None, None, None, None, None, ...).encode() == b'{"task":"t"}'


def test_no_limit_of_retries_is_not_the_default():
    assert Call("t", max_retries=None).encode() == b'{"task":"t","max_retries":null}'
    assert Call.decode(b'{"task":"t"}').max_retries is ...
    assert Call.decode(b'{"task":"t","max_retries":null}').max_retries is None


def test_null_is_as_good_as_no_field():
    read = Call.decode(b'{"task":"t","id":null,"enqueued":null,"expires":null,"parent_id":null,"root_id":null}')
    assert read == Call("t")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"task":"t"} x', "not JSON"),
        (b'{"task":"t",}', "not JSON"),
        (b"{'task':'t'}", "not JSON"),
        (b'{"task":"\xff"}', "not JSON"),
        (b'{"task":"\\ud800"}', "not JSON"),
        (b'{"task":"a\0b"}', "not JSON"),
        (b'\xef\xbb\xbf{"task":"t"}', "not JSON"),
        (b'\0{"task":"t"}', "not JSON"),
        (b'{"task":"t","args":[NaN]}', "not JSON"),
        (b'{"task":"t","args":[1e999]}', "not JSON"),
        (b'{"task":"t","args":[' + b"9" * 10_000 + b"]}", "not JSON"),
        (b'{"task":"t","args":[{"$bytes":"?"}]}', "not JSON"),
        (b'{"task":"t","later":{"$bytes":"?"}}', "not JSON"),
        (b'{"task":"t","args":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"task":"t","args":' + b"[" * 100_000, "not JSON"),
        (b"null", "a JSON object is needed, got a NoneType"),
        (b"[]", "a JSON object is needed, got a list"),
        (b'"t"', "a JSON object is needed, got a str"),
        (b'{"$bytes":"YQ=="}', "a JSON object is needed, got a bytes"),
        (b"{}", "'task'"),
        (b'{"task":""}', "'task'"),
        (b'{"task":null}', "'task'"),
        (b'{"task":1}', "'task'"),
        (b'{"task":["t"]}', "'task'"),
        (b'{"task":{"$bytes":"YQ=="}}', "'task'"),
        (b'{"task":"t","task":1}', "'task'"),
        (b'{"task":"t","args":null}', "'args'"),
        (b'{"task":"t","args":"abc"}', "'args'"),
        (b'{"task":"t","args":{}}', "'args'"),
        (b'{"task":"t","args":{"$bytes":"YQ=="}}', "'args'"),
        (b'{"task":"t","kwargs":null}', "'kwargs'"),
        (b'{"task":"t","kwargs":[]}', "'kwargs'"),
        (b'{"task":"t","kwargs":{"$bytes":"YQ=="}}', "'kwargs'"),
        (b'{"task":"t","enqueued":"now"}', "'enqueued'"),
        (b'{"task":"t","enqueued":true}', "'enqueued'"),
        (b'{"task":"t","expires":1.5}', "'expires'"),
        (b'{"task":"t","expires":1e3}', "'expires'"),
        (b'{"task":"t","expires":99999999999999999999}', "'expires'"),
        (b'{"task":"t","expires":{}}', "'expires'"),
        (b'{"task":"t","id":1}', "'id'"),
        (b'{"task":"t","id":""}', "'id'"),
        (b'{"task":"t","id":"-"}', "'id'"),
        (b'{"task":"t","id":"a b"}', "'id'"),
        (b'{"task":"t","id":"a\\n"}', "'id'"),
        ('{"task":"t","id":"ä"}'.encode(), "'id'"),
        (b'{"task":"t","id":"' + b"a" * 129 + b'"}', "'id'"),
        (b'{"task":"t","parent_id":[]}', "'parent_id'"),
        (b'{"task":"t","root_id":"a b"}', "'root_id'"),
        (b'{"task":"t","max_retries":-1}', "'max_retries'"),
        (b'{"task":"t","max_retries":1.0}', "'max_retries'"),
        (b'{"task":"t","max_retries":true}', "'max_retries'"),
        (b'{"task":"t","max_retries":"3"}', "'max_retries'"),
        (b'{"task":"t","time_limit":0}', "'time_limit'"),
        (b'{"task":"t","time_limit":-1}', "'time_limit'"),
        (b'{"task":"t","time_limit":true}', "'time_limit'"),
        (b'{"task":"t","time_limit":"30"}', "'time_limit'"),
        (b'{"task":"t","time_limit":[1]}', "'time_limit'"),
        (b'{"task":"t","soft_time_limit":0}', "'soft_time_limit'"),
        (b'{"task":"t","soft_time_limit":-1}', "'soft_time_limit'"),
        (b'{"task":"t","soft_time_limit":true}', "'soft_time_limit'"),
        (b'{"task":"t","soft_time_limit":"30"}', "'soft_time_limit'"),
        (b'{"task":"t","soft_time_limit":[1]}', "'soft_time_limit'"),
        (b'{"task":"t","unique":"k"}', "'unique'"),
        (b'{"task":"t","unique":["end"]}', "'unique'"),
        (b'{"task":"t","unique":["never","k"]}', "'unique'"),
        (b'{"task":"t","unique":["end",1]}', "'unique'"),
    ],
    ids=lambda part: repr(part[:40]),
)
def test_a_malformed_object_is_refused_with_the_reason(body: bytes, reason: str):
    with pytest.raises(MalformedMessage, match=re.escape(reason)):
        Call.decode(body)


@pytest.mark.parametrize("depth", [300, 500, 1000])
@pytest.mark.parametrize("field", ["args", "later"])
def test_deep_nesting_is_read_or_malformed(field: str, depth: int):
    """A `"$` anywhere makes the codec walk through the whole object: that must not be a RecursionError."""
    body = b'{"task":"t","%s":%s"$"%s}' % (field.encode(), b"[" * depth, b"]" * depth)
    with contextlib.suppress(MalformedMessage):
        Call.decode(body)


@given(st.binary() | VALUES.map(codec.dumps))
def test_any_bytes_are_a_call_or_malformed(body: bytes):
    with contextlib.suppress(MalformedMessage):
        Call.decode(body)


OBJECTS = st.fixed_dictionaries(
    {"task": st.text(min_size=1)},
    optional=dict.fromkeys(
        (
            "args",
            "kwargs",
            "id",
            "enqueued",
            "expires",
            "parent_id",
            "root_id",
            "max_retries",
            "time_limit",
            "later",
            "cls",
        ),
        VALUES,
    ),
)


@given(OBJECTS)
def test_any_object_with_a_task_is_a_call_or_malformed(fields: dict[str, Any]):
    try:
        call = Call.decode(codec.dumps(fields))
    except MalformedMessage:
        return
    assert call.task == fields["task"]
    assert plain(Call.decode(codec.dumps(fields | {"later": 1}))) == plain(call)


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_message_is_read_or_malformed(at: int, byte: int, cut: bool):
    damaged = VALID[:at] if cut else VALID[:at] + bytes([byte]) + VALID[at + 1 :]
    with contextlib.suppress(MalformedMessage):
        Call.decode(Message.parse(damaged).body)


def test_an_integer_beyond_64_bits_from_another_producer_is_the_nearest_double():
    """The page says so: it cannot be kept, and a refusal would stop jobs that others sent."""
    assert Call.decode(b'{"task":"t","args":[18446744073709551616]}').args == [float(2**64)]


# --- what cannot be sent ----------------------------------------------------------------------------------------------


@dataclass
class Box:
    item: Any


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ([1, {2}], {}, "tasks.add: argument 2 cannot be sent as JSON: set is not JSON (got set)"),
        ([math.nan], {}, "tasks.add: argument 1 cannot be sent as JSON: nan is not a JSON number (got float)"),
        ([Box([math.inf])], {}, "tasks.add: argument 1 cannot be sent as JSON: inf is not a JSON number (got Box)"),
        ([], {"a": 1, "b": 2**64}, "tasks.add: argument 'b' cannot be sent as JSON: "),
        ([], {"path": "\udcff"}, "tasks.add: argument 'path' cannot be sent as JSON: "),
        ([{1: 2}], {}, "tasks.add: argument 1 cannot be sent as JSON: "),
        ([], {"\ud800": 1}, "tasks.add: the arguments cannot be sent as JSON: "),
        ([], {1: 1}, "tasks.add: the arguments cannot be sent as JSON: "),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(args: list[Any], kwargs: dict[Any, Any], text: str):
    with pytest.raises(TypeError, match=re.escape(text)):
        Call("tasks.add", args, kwargs).encode()


@pytest.mark.parametrize("priority", range(1, 11))
def test_a_priority_is_returned(priority: int):
    assert check_priority(priority) == priority


@pytest.mark.parametrize("priority", [0, 11, -1, 5.0, "5", None, True, math.nan, [5]], ids=repr)
def test_what_is_no_priority_is_refused_with_what_is(priority: object):
    with pytest.raises(ConfigError, match=re.escape(f"priority {priority!r}: a whole number from 1 (lowest) to 10")):
        check_priority(priority)


@given(VALUES)
def test_a_fragment_stands_for_its_value(value: Any):
    assert codec.loads(orjson.dumps({"result": fragment(codec.dumps(value))})) == {"result": value}


# --- written again ----------------------------------------------------------------------------------------------------


def test_a_field_is_put_in_replaced_or_taken_out_and_the_others_stay():
    message = Message.parse(b'1 4 0 0 0 a {"x-y":{"$bytes":"AA=="},"task":"t","args":[1],"kwargs":{"a":2}}')
    again = message.rewritten({"args": b"[2,3]", "kwargs": None, "history": b"[]"}, retries=1)
    assert again.raw == b'1 4 0 1 0 a {"x-y":{"$bytes":"AA=="},"task":"t","args":[2,3],"history":[]}'
    assert Message.parse(again.raw) == again


@pytest.mark.parametrize("value", [b"1", b"null", b'["E"]', b'[["now","E"]]', b"[[1,2]]"])
def test_a_history_that_is_none_is_malformed(value):
    with pytest.raises(MalformedMessage, match="'history' must be"):
        Call.decode(b'{"task":"t","history":%s}' % value)


@pytest.mark.parametrize(
    "value",
    [b"1", b'"other"', b"{}", b'{"queue":"a"}', b'{"queue":"a b","token":"t"}', b'{"queue":"a","token":1}',
     b'{"queue":"a","token":"t","more":1}', b'{"queue":"a","token":""}'],
)  # fmt: skip
def test_a_way_that_is_none_is_malformed(value):
    with pytest.raises(MalformedMessage, match="'move': "):
        Call.decode(b'{"task":"t","move":%s}' % value)


def test_no_way_is_none():
    assert Call.decode(b'{"task":"t","move":null}').move is None


@given(level=st.integers(0, 10), job_id=IDS)
def test_a_new_jobs_header_is_a_header(level, job_id):
    """Breaks when the short way and the long one differ."""
    assert new_header(level, job_id) == Header(level, id=job_id).encode()
