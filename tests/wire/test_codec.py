"""What goes through the codec comes back equal, or is refused: nothing arrives as something else."""

import collections
import contextlib
import enum
import math
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rqueue.wire import codec

TAG_KEYS = st.sampled_from(["$bytes", "$dict", "$", "$x", ""])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["$bytes", "$dict", '{"$bytes":"YQ=="}', "null", "YQ=="])
    | st.binary()
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.dictionaries(TAG_KEYS | st.text(), inner, max_size=4)
        | st.dictionaries(TAG_KEYS, inner, min_size=1, max_size=1)
    )


VALUES = st.recursive(LEAVES, containers, max_leaves=25)


@dataclass
class Box:
    item: Any


@dataclass(slots=True)
class SlottedBox:
    item: Any


@dataclass
class Shy:
    shown: Any
    _hidden: Any = None


class Color(enum.Enum):
    RED = "red"
    RAW = b"\0"


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type: `1`, `1.0` and `True` are three things, and so are `0.0` and `-0.0`."""
    return repr(one) == repr(other)


@given(VALUES)
@example({"$bytes": b"x"})
@example({"$dict": {"$dict": {"$bytes": "YQ=="}}})
@example([{"$dict": {}}, {"$bytes": None}, b""])
@example({"$bytes": "not base64"})
def test_a_value_comes_back_equal(value: Any):
    assert same(codec.loads(codec.dumps(value)), value)


@given(VALUES)
def test_values_inside_dataclasses_and_tuples_come_back_as_objects_and_lists(value: Any):
    sent = {"$bytes": Box((SlottedBox(value), Color.RED))}
    assert same(codec.loads(codec.dumps(sent)), {"$bytes": {"item": [{"item": value}, "red"]}})


@given(VALUES)
def test_what_is_written_is_plain_compact_json(value: Any):
    data = codec.dumps(value)
    assert orjson.dumps(orjson.loads(data)) == data


@pytest.mark.parametrize(
    ("sent", "data"),
    [
        (datetime(2026, 1, 1, 12, 30, tzinfo=UTC), b'"2026-01-01T12:30:00+00:00"'),
        (date(2026, 1, 1), b'"2026-01-01"'),
        (time(12, 30, 0, 5), b'"12:30:00.000005"'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (Color.RED, b'"red"'),
        (Color.RAW, b'{"$bytes":"AA=="}'),
        (enum.Enum("Tag", {"ONE": {"$bytes": "x"}}).ONE, b'{"$dict":{"$bytes":"x"}}'),
        (Box((1, 2)), b'{"item":[1,2]}'),
        (bytearray(b"\xff"), b'{"$bytes":"/w=="}'),
        (memoryview(b"\xff\xfe"), b'{"$bytes":"//4="}'),
        ({"$bytes": b"x"}, b'{"$dict":{"$bytes":{"$bytes":"eA=="}}}'),
        ({"$bytes": 1, "b": 2}, b'{"$bytes":1,"b":2}'),
        ("\u0000\u2028ü", '"\\u0000\u2028ü"'.encode()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, memoryview) else repr(value),
)
def test_the_bytes_of_a_value(sent: Any, data: bytes):
    assert codec.dumps(sent) == data


# --- what JSON cannot carry -------------------------------------------------------------------------------------------


class ListSubclass(list):
    pass


class DictSubclass(dict):
    pass


def in_itself() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


BAD = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "set": {1},
    "object": object(),
    "class": Box,
    "function": len,
    "decimal": Decimal(1),
    "complex": 1j,
    "deque": collections.deque([1]),
    "key that is an int": {1: 2},
    "key that is None": {None: 2},
    "key that is bytes": {b"a": 2},
    "over 64 bits": 2**64,
    "under 64 bits": -(2**63) - 1,
    "surrogate": "\ud800",
    "surrogate in a key": {"\ud800": 1},
    "in itself": in_itself(),
    "too deep": nested(1, 2000),
    "memory with holes": memoryview(b"abcd")[::2],
}

WRAPS: dict[str, Any] = {
    "alone": lambda bad: bad,
    "list": lambda bad: [None, bad],
    "tuple": lambda bad: (None, bad),
    "dict": lambda bad: {"a": None, "b": bad},
    "list subclass": lambda bad: ListSubclass([bad]),
    "dict subclass": lambda bad: DictSubclass(a=bad),
    "dataclass": Box,
    "slotted dataclass": SlottedBox,
    "dataclass in a dict in a list": lambda bad: [{"a": Box([bad])}],
    "beside bytes": lambda bad: [b"x", bad],
    "in an escaped dict": lambda bad: {"$bytes": bad},
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("bad", BAD)
def test_what_json_cannot_carry_is_refused(bad: str, wrap: str):
    with pytest.raises(TypeError):
        codec.dumps(WRAPS[wrap](BAD[bad]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_an_enums_value_is_refused(bad: float):
    member = enum.Enum("Limit", {"MOST": bad}).MOST
    with pytest.raises(TypeError):
        codec.dumps([member])


def test_a_float_inside_an_enums_value_is_refused():
    member = enum.Enum("Limit", {"BOTH": (0, math.inf)}).BOTH
    with pytest.raises(TypeError):
        codec.dumps(member)


def test_a_float_in_an_attribute_that_is_no_field_is_refused_or_left_out():
    """Whatever of a dataclass is sent is sent as it is."""
    box = Box(1)
    box.extra = math.nan
    try:
        data = codec.dumps(box)
    except TypeError:
        return
    assert data == b'{"item":1}'


def test_a_field_that_was_never_set_is_a_type_error_and_not_a_crash():
    """Orjson 3.13 dies of SIGSEGV here, and takes the process along: a worker, if a task returns such a value."""
    program = """
from dataclasses import dataclass, field
from rqueue.wire import codec

@dataclass(slots=True)
class Box:
    item: int = field(init=False)

try:
    codec.dumps([Box()])
except TypeError:
    print("refused")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "refused\n")


def test_what_is_not_sent_is_not_refused():
    """A dataclass's private fields stay at home, so what they hold is nobody's business."""
    assert codec.dumps(Shy(None, math.nan)) == b'{"shown":null}'


def test_the_refusal_names_what_was_refused():
    with pytest.raises(TypeError, match="set is not JSON"):
        codec.dumps([{1}])
    with pytest.raises(TypeError, match="inf is not a JSON number"):
        codec.dumps([math.inf])


def test_a_dataclass_made_at_run_time_is_a_dataclass():
    assert codec.dumps(make_dataclass("Made", [("x", int)])(1)) == b'{"x":1}'


# --- what others wrote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' { "$bytes" : "YQ==" } ', b"a"),
        (b'{"$bytes":""}', b""),
        (b'{"$bytes":5}', {"$bytes": 5}),
        (b'{"$bytes":"YQ==","b":1}', {"$bytes": "YQ==", "b": 1}),
        (b'{"$dict":5}', {"$dict": 5}),
        (b'{"$dict":{"a":{"$bytes":"YQ=="},"b":2}}', {"a": b"a", "b": 2}),
        (b'{"$dict":{"$dict":{"$bytes":"YQ=="}}}', {"$dict": b"a"}),
        (b'{"$dict":{"$dict":{"$dict":{"$bytes":"YQ=="}}}}', {"$dict": {"$bytes": "YQ=="}}),
        (b'{"$other":{"$bytes":"YQ=="}}', {"$other": b"a"}),
    ],
    ids=repr,
)
def test_reading_tags(data: bytes, value: Any):
    assert same(codec.loads(data), value)


@pytest.mark.parametrize(
    "text", ["a", "YQ", "YQ=", "YQ==YQ==", "Y Q==", "YQ==\\n", "-_==", "é", "=", "\\u0000"], ids=repr
)
def test_what_is_not_base64_is_refused(text: str):
    with pytest.raises(ValueError, match=r"base64|ASCII"):
        codec.loads(b'[{"$bytes":"%s"}]' % text.encode())


@given(st.binary() | VALUES.map(lambda value: codec.dumps(value)[:-1]))
def test_reading_anything_gives_a_value_or_a_value_error(data: bytes):
    with contextlib.suppress(ValueError):
        codec.loads(data)


@pytest.mark.parametrize("depth", [100, 300, 500, 1000, 100_000])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"$dict":', b"}")])
def test_reading_deep_nesting_gives_a_value_or_a_value_error(left: bytes, right: bytes, depth: int):
    data = left * depth + b'{"$bytes":"YQ=="}' + right * depth
    with contextlib.suppress(ValueError):
        codec.loads(data)


@pytest.mark.parametrize("depth", [200, 240])
def test_the_promised_depth_goes_through(depth: int):
    """The page promises 200 levels, also where bytes make the codec walk through them."""
    value = nested(b"x", depth)
    data = codec.dumps(value)
    assert codec.dumps(codec.loads(data)) == data
