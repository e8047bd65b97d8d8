"""What strangers may have written: random bytes, broken copies of what is right, and right shapes with wrong values."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
SEED = int(os.environ.get("RQUEUE_SEED") or (random.randrange(1 << 32) if IS_LONG else 2026))

_GOLDEN = Path(__file__).parent.parent / "golden"


def fuzz(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """So many examples in the short form, the same each time, or those of `RQUEUE_SEED=…`.

    `RQUEUE_LONG=1` takes a hundred times as many, and others each time.

    A failure is shown with its example and its seed; only the long form takes the time to make the example small.
    """

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        chosen = settings(
            max_examples=examples * (100 if IS_LONG else 1),
            phases=tuple(Phase) if IS_LONG else (Phase.explicit, Phase.generate),
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        return seed(SEED)(chosen(given(**strategies)(test)))

    return decorate


def golden(kind: str) -> list[bytes]:
    """The bytes of the golden files of that kind."""
    return [path.read_bytes() for path in sorted(_GOLDEN.glob(f"*.{kind}"))]


NAMES = (
    "task", "args", "kwargs", "id", "enqueued", "expires", "parent_id", "root_id", "max_retries", "time_limit",
    "soft_time_limit", "unique", "history", "move", "headers", "queue", "token", "state", "result", "error", "type",
    "message", "traceback", "dropped", "worker", "retries", "losses", "started", "finished", "moved", "progress", "at",
    "reason", "died", "v", "verb", "to", "reply", "ok", "due", "priority", "cron", "tz", "every", "misfire", "grace",
    "overlap", "source", "code", "paused", "last", "last_id", "pending", "$bytes", "$dict", "pid", "beat", "queues",
)  # fmt: skip
"""Every field that something in Redis has."""

words = st.sampled_from(
    ("", "good", "default", "other", "a b", "SUCCESS", "RETRY", "FAILURE", "STARTED", "NOPE", "start", "end", "-", "é",
     "\x00", "\u2028", "\ud800", "../x", "UTC", "* * * * *", "61 * * * *", "0 0 30 2 *", "@daily", "once", "all",
     "skip", "1e3", "rqueue:{default}", "cancel", "pool_grow", "rate_limit", "time_limit", "look",
     "add_consumer", "ping")
) | st.sampled_from((70, 300, 3000)).map(lambda length: "x" * length)  # fmt: skip
numbers = st.sampled_from(
    (0, 1, -1, 2, 5, 11, 0.5, -0.0, 1e-320, 1e15, 1e16, 1e300, 1e308, 253_402_300_800_000, 2**31, 2**53, 2**63 - 1,
     2**63, 2**64 - 1, 2**64, 10**40, -(2**63), float("nan"), float("inf"), float("-inf"), True, False, None)
)  # fmt: skip
leaves = words | numbers | st.text(max_size=20) | st.integers()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | words, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=8)


def as_json(value: Any) -> bytes:
    """JSON as careless writers make it: with NaN, numbers of any length and lone surrogates."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A right one, with bits turned, bytes cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        start, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 12))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[start : start + length]
            case 2:
                data[start:start] = data[start : start + length]
            case 3:
                data[start:start] = draw(st.binary(max_size=8))
            case 4:
                del data[start:]
            case 5:
                data[start:start] = as_json(draw(leaves))
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A right one whose object has other values in some fields, or a field twice."""
    raw = draw(st.sampled_from([each for each in originals if b"{" in each]))
    head, brace, rest = raw.partition(b"{")
    body, newline, tail = (brace + rest).partition(b"\n")
    try:
        fields = json.loads(body)
    except ValueError:
        return raw
    mine = tuple(fields)
    for _ in range(draw(st.integers(1, 3))):
        fields[draw(st.sampled_from(mine + NAMES))] = draw(values)
    body = as_json(fields)
    if draw(st.booleans()):
        body = body[:-1] + b"," + as_json({draw(st.sampled_from(mine + NAMES)): draw(values)})[1:]
    return head + body + newline + tail


_SPECIAL = (
    b"", b" ", b"\x00", b"\n", b"{", b"{}", b"[]", b"null", b"nan", b"inf", b"-inf", b"\xff\xfe", b"\xef\xbb\xbf{}",
    b"9" * 19, b"1 - 0 0 0 x ", b"1 - 999999999 999999999 999999999999999 x {}", b"0 1", b"job:\xff",
    b"task:\xff",
)  # fmt: skip
_LONG = (
    lambda: b"[" * 100_000,
    lambda: b'{"a":' * 100_000,
    lambda: b'{"task":' + b"[" * 1023 + b"]" * 1023 + b"}",
    lambda: b'{"task":"good","args":' + b"[" * 900 + b'{"$bytes":""}' + b"]" * 900 + b"}",
    lambda: b"1" * 5000,
    lambda: b"a" * 100_000,
)


def junk(*kinds: str) -> st.SearchStrategy[bytes]:
    """Anything, and what looks like something of these kinds."""
    originals = [raw for kind in kinds for raw in golden(kind)] or [b"{}"]
    found = (
        st.binary(max_size=60)
        | st.sampled_from(_SPECIAL)
        | st.sampled_from(_LONG).map(lambda make: make())
        | objects.map(as_json)
        | values.map(as_json)
    )
    return found | damaged(originals) | altered(originals)


HEADERS = st.builds(
    lambda level, losses, retries, since, job_id: b"1 %s %d %d %d %s " % (level, losses, retries, since, job_id),
    st.sampled_from((b"-", b"1", b"10", b"11", b"0")),
    st.sampled_from((0, 0, 1, 999_999_999, 10**9)),
    st.sampled_from((0, 1, 999_999_999, 10**10)),
    st.sampled_from((0, 1, 10**14, 10**15 - 1, 10**16)),
    st.sampled_from((b"-", b"--", b"x", b"\xff", b"a" * 128, b"a" * 129)) | st.binary(min_size=1, max_size=8),
)
messages = junk("message") | st.builds(lambda header, body: header + body, HEADERS, junk("message"))
