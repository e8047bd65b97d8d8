"""The wire format's bytes: what is encoded equals the golden files, what is in them decodes to the values.

`docs/wire-format.md` shows each file, so that the page, the files and the code cannot part. The producers on that page
run against a real server, and their jobs are claimed.
"""

import enum
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.wire import codec
from rqueue.wire.keys import Keys
from rqueue.wire.message import Call, Header, Message, Onward
from rqueue.wire.periodic import Entry
from rqueue.wire.record import Failure, Letter, Record, decode_record
from rqueue.wire.state import State

GOLDEN = Path(__file__).parent
PAGE = (GOLDEN.parent.parent / "docs" / "wire-format.md").read_text(encoding="utf-8")
NOW = 1_767_225_600_000


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


# name -> (header, call): encoding them gives the file, and the file gives them back.
MESSAGES = {
    "plain": (Header(id="5f0c8f2e1d7b4a69"), Call("tasks.add", [1, 2], enqueued=NOW)),
    "header": (Header(9, losses=2, retries=3, since=NOW, id="order-17"), Call("tasks.add", [1, 2])),
    "claimed": (Header(9), Call("process_doc", ["file.pdf"])),
    "options": (
        Header(id="child-1"),
        Call(
            "tasks.add",
            enqueued=NOW,
            expires=NOW + 3_600_000,
            parent_id="parent-1",
            root_id="root-1",
            max_retries=None,
        ),
    ),
    "limits": (Header(id="order-19"), Call("tasks.add", [1, 2], time_limit=30.0, soft_time_limit=25.5)),
    "unique": (
        Header(id="order-20"),
        Call("tasks.add", [1, 2], unique=["end", "e8acd0b63787612c69e969ab5c9af651"]),
    ),
    "headers": (Header(id="order-20"), Call("tasks.add", [1, 2], headers={"tenant": "acme", "batch": 7})),
    "escaped": (
        Header(id="escaped-1"),
        Call("tasks.store", [{"$bytes": "plain text"}, {"$dict": 1}, {"$bytes": 1, "more": 2}]),
    ),
}

# What comes back is JSON's form of what was sent.
SENT_VALUES = {
    "data": b"\0\xffrqueue",
    "at": datetime(2026, 1, 1, tzinfo=UTC),
    "key": uuid.UUID(int=1),
    "color": Color.RED,
    "point": Point(1, 2.5),
}
READ_VALUES = {
    "data": b"\0\xffrqueue",
    "at": "2026-01-01T00:00:00+00:00",
    "key": "00000000-0000-0000-0000-000000000001",
    "color": "red",
    "point": {"x": 1, "y": 2.5},
}

# Messages that rqueue reads and never writes.
FOREIGN = {
    "headerless": (Header(), Call("process_doc", ["file.pdf"])),
    "headerless-id": (Header(), Call("process_doc", ["file.pdf"], id="order-17")),
    "unknown-field": (Header(id="order-18"), Call("tasks.add", [1, 2])),
}

RECORDS = {
    "success": Record(
        State.SUCCESS,
        result=b'{"sum":3,"raw":{"$bytes":"AP8="}}',
        about={
            "task": "tasks.add",
            "worker": "host:7:c0ffee",
            "retries": None,
            "enqueued": NOW,
            "started": NOW + 10,
            "finished": NOW + 20,
            "parent_id": None,
        },
    ),
    "failure": Record(
        State.FAILURE,
        failure=Failure(
            "ValueError",
            'no such file: "ü"',
            "Traceback (most recent call last):\n  …\nValueError: no such file\n",
        ),
        about={"task": "tasks.add", "worker": "host:7:c0ffee", "retries": 3, "losses": 1},
    ),
    "retry": Record(
        State.RETRY, failure=Failure("ConnectionError", "refused"), about={"task": "tasks.add", "retries": 1}
    ),
    "moved": Record(
        State.RETRY,
        failure=Failure("ConnectionError", "refused"),
        about={"task": "tasks.add", "retries": 1, "history": [[NOW, "ConnectionError: refused"]], "moved": "reports"},
    ),
    "started": Record(
        State.STARTED,
        about={
            "task": "tasks.add",
            "worker": "host:7:c0ffee",
            "started": NOW + 10,
            "progress": {"done": 1, "of": 3},
        },
    ),
    "progress": Record(
        State.STARTED,
        about={
            "task": "tasks.load",
            "worker": "host:7:c0ffee",
            "started": NOW + 10,
            "progress": {"done": 3, "total": 10, "data": {"row": "c"}, "at": NOW + 15},
        },
    ),
    "revoked": Record(
        State.REVOKED,
        failure=Failure("JobExpired", "it could not be started in time"),
        about={"task": "tasks.add"},
    ),
}

READ_RECORDS: dict[str, dict[str, Any]] = {
    "success": {
        "state": State.SUCCESS,
        "result": {"sum": 3, "raw": b"\0\xff"},
        "task": "tasks.add",
        "worker": "host:7:c0ffee",
        "enqueued": NOW,
        "started": NOW + 10,
        "finished": NOW + 20,
    },
    "failure": {
        "state": State.FAILURE,
        "error": {"type": "ValueError", "message": 'no such file: "ü"'},
        "traceback": "Traceback (most recent call last):\n  …\nValueError: no such file\n",
        "task": "tasks.add",
        "worker": "host:7:c0ffee",
        "retries": 3,
        "losses": 1,
    },
    "retry": {
        "state": State.RETRY,
        "error": {"type": "ConnectionError", "message": "refused"},
        "task": "tasks.add",
        "retries": 1,
    },
    "moved": {
        "state": State.RETRY,
        "error": {"type": "ConnectionError", "message": "refused"},
        "task": "tasks.add",
        "retries": 1,
        "history": [[NOW, "ConnectionError: refused"]],
        "moved": "reports",
    },
    "started": {
        "state": State.STARTED,
        "task": "tasks.add",
        "worker": "host:7:c0ffee",
        "started": NOW + 10,
        "progress": {"done": 1, "of": 3},
    },
    "progress": {
        "state": State.STARTED,
        "task": "tasks.load",
        "worker": "host:7:c0ffee",
        "started": NOW + 10,
        "progress": {"done": 3, "total": 10, "data": {"row": "c"}, "at": NOW + 15},
    },
    "revoked": {
        "state": State.REVOKED,
        "error": {"type": "JobExpired", "message": "it could not be started in time"},
        "task": "tasks.add",
    },
    "dropped": {"state": State.SUCCESS, "dropped": True},
}

LETTERS = {
    "failed": Letter(
        id="order-17",
        reason="failed",
        raw=b'1 9 1 3 0 order-17 {"task":"tasks.add","args":[1,2]}',
        task="tasks.add",
        failure=Failure("ValueError", "no", "Traceback (most recent call last):\n  …\nValueError: no\n"),
        died=NOW,
        retries=3,
        losses=1,
    ),
    "malformed": Letter(
        id="5f0c8f2e1d7b4a69",
        reason="malformed",
        raw=b"not a message\nat all",
        failure=Failure("MalformedMessage", "neither a header nor a JSON object"),
        died=NOW,
    ),
}


SCHEDULES = {
    "plain": Entry("tasks.add", NOW, (1, 2), every=30_000),
    "whole": Entry(
        "tasks.add",
        NOW,
        (b"\0\xff",),
        {"b": 2},
        priority=9,
        expires=90.5,
        cron="*/5 9-17 * * 1-5",
        tz="Europe/Berlin",
        misfire="all",
        grace=5000,
        overlap="queue",
        source="code",
        code="5f0c8f2e1d7b4a69",
        paused=True,
        last=NOW - 300_000,
        last_id=f"add@{NOW - 300_000}",
        pending=(NOW,),
    ),
}


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def plain(call: Call) -> Call:
    """The call with its arguments as a list and a dict, however it was made."""
    return Call(
        call.task,
        list(call.args),
        dict(call.kwargs or {}),
        call.id,
        call.enqueued,
        call.expires,
        call.parent_id,
        call.root_id,
        call.max_retries,
        headers=call.headers,
    )


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_encoded_to_the_byte(name: str):
    header, call = MESSAGES[name]
    assert Message.build(header, call.encode()).raw == golden(f"{name}.message")


@pytest.mark.parametrize("name", [*MESSAGES, *FOREIGN])
def test_a_message_is_decoded_to_its_values(name: str):
    header, call = {**MESSAGES, **FOREIGN}[name]
    message = Message.parse(golden(f"{name}.message"))
    assert message.header == header
    assert plain(Call.decode(message.body)) == plain(call)


def test_a_retry_writes_its_fields_to_the_byte_and_they_are_read():
    history, onward = [[NOW, "ConnectionError: refused"]], Onward("reports", "5f0c8f2e1d7b4a69")
    plain = Message.build(Header(9, id="order-20"), Call("tasks.add", [1, 2]).encode())
    message = plain.rewritten({"history": codec.dumps(history), "move": onward.encode()}, retries=1)
    assert message.raw == golden("moving.message")
    call = Call.decode(message.body)
    assert (call.history, call.move) == (history, onward)


def test_native_types_are_encoded_to_the_byte_and_come_back_as_json():
    call = Call("tasks.store", kwargs=SENT_VALUES)
    message = Message.build(Header(id="values-1"), call.encode())
    assert message.raw == golden("values.message")
    assert Call.decode(Message.parse(message.raw).body).kwargs == READ_VALUES


def test_an_unknown_field_outlives_a_changed_header():
    message = Message.parse(golden("unknown-field.message")).changed(losses=1)
    assert message.raw == b'1 - 1 0 0 order-18 {"task":"tasks.add","args":[1,2],"x-trace":"00-4bf92f35"}'


# --- records and letters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_encoded_to_the_byte(name: str):
    assert RECORDS[name].encode() == golden(f"{name}.record")


@pytest.mark.parametrize("name", READ_RECORDS)
def test_a_record_is_decoded_to_its_values(name: str):
    assert decode_record(golden(f"{name}.record")) == READ_RECORDS[name]


@pytest.mark.parametrize("name", LETTERS)
def test_a_letter_is_encoded_to_the_byte(name: str):
    assert LETTERS[name].encode() == golden(f"{name}.letter")


@pytest.mark.parametrize("name", LETTERS)
def test_a_letter_is_decoded_to_its_values(name: str):
    assert Letter.decode(golden(f"{name}.letter")) == LETTERS[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_encoded_to_the_byte_and_decoded(name: str):
    assert SCHEDULES[name].encode() == golden(f"{name}.schedule")
    assert Entry.decode(golden(f"{name}.schedule")) == SCHEDULES[name]


# --- the page ---------------------------------------------------------------------------------------------------------


def blocks(kind: str) -> dict[str, str]:
    """The code blocks of the page that are marked `<!-- kind: name -->`, by name."""
    found = re.findall(rf"<!-- {kind}: (\S+) -->\n```\w*\n(.*?)\n```\n", PAGE, re.DOTALL)
    assert len(found) == PAGE.count(f"<!-- {kind}: "), f"a mark '{kind}' is not followed by a code block"
    assert len(dict(found)) == len(found), f"two marks '{kind}' have the same name"
    return dict(found)


def test_the_page_shows_each_golden_file_to_the_byte():
    files = {
        path.name: path.read_bytes()
        for path in GOLDEN.iterdir()
        if path.suffix in {".message", ".record", ".letter", ".schedule"}
    }
    assert {name: text.encode() for name, text in blocks("golden").items()} == files


def test_no_golden_file_is_without_its_test():
    tested = {f"{name}.message" for name in (*MESSAGES, *FOREIGN, "values", "moving")}
    tested |= {f"{name}.record" for name in READ_RECORDS} | {f"{name}.letter" for name in LETTERS}
    tested |= {f"{name}.schedule" for name in SCHEDULES}
    assert set(blocks("golden")) == tested


def test_the_pages_key_tables_are_the_keys():
    keys = Keys().queue("email")
    shown = set(re.findall(r"^\| `(rqueue:\S+)`(?: … `(rqueue:\S+)`)? \|", PAGE, re.MULTILINE))
    assert {name.encode() for row in shown for name in row if name} == {
        Keys().queues,
        Keys().paused,
        keys.stops,
        keys.main,
        keys.lists[1],
        keys.lists[10],
        keys.jobs,
        keys.scheduled,
        keys.messages,
        keys.result("<id>"),
        keys.dead,
        keys.letters,
        keys.processing("<worker>"),
        keys.workers,
        keys.started("<worker>"),
        keys.settled("<worker>"),
        keys.card("<worker>"),
        keys.sent("<producer>"),
        keys.counts,
        keys.periodic,
        keys.entries,
        keys.unique,
        keys.throttle("<lock>"),
    }


def test_the_page_names_each_state():
    assert set(re.findall(r"^\| ([A-Z]+) \|", PAGE, re.MULTILINE)) == {state.value for state in State}


# --- producers that are not rqueue, on a real server ------------------------------------------------------------------


def stored(connection: redis.Redis) -> dict[str, Any]:
    """Everything in Redis, by key."""
    readers = {
        "list": lambda key: connection.lrange(key, 0, -1),
        "set": connection.smembers,
        "zset": lambda key: connection.zrange(key, 0, -1, withscores=True),
        "hash": connection.hgetall,
        "string": connection.get,
    }
    return {key: readers[connection.type(key)](key) for key in connection.scan_iter()}


@pytest.fixture
def connection(redis_url: str):
    with redis.Redis.from_url(redis_url, decode_responses=True) as connected:
        yield connected


@pytest.fixture
def python_producer() -> Any:
    names: dict[str, Any] = {}
    exec(blocks("run")["python"], names)
    return names["enqueue"]


def test_the_python_producer_stores_what_the_page_says(connection: redis.Redis, python_producer: Any):
    script = blocks("script")["enqueue"]
    one = python_producer(connection, script, "email", "process_doc", "ü.pdf", 1)
    two = python_producer(connection, script, "reports", "process_doc", "b.pdf", priority=9)
    three = python_producer(connection, script, "cleanup", "process_doc", "c.pdf", due_ms=NOW)
    assert stored(connection) == {
        "rqueue:queues": {"email", "reports", "cleanup"},
        "rqueue:{email}": [f'1 - 0 0 0 {one} {{"task": "process_doc", "args": ["\\u00fc.pdf", 1]}}'],
        "rqueue:{email}:jobs": {one},
        "rqueue:{reports}:p9": [f'1 9 0 0 0 {two} {{"task": "process_doc", "args": ["b.pdf"]}}'],
        "rqueue:{reports}": [""],
        "rqueue:{reports}:jobs": {two},
        "rqueue:{cleanup}:scheduled": [(three, float(NOW))],
        "rqueue:{cleanup}:scheduled:messages": {
            three: f'1 - 0 0 0 {three} {{"task": "process_doc", "args": ["c.pdf"]}}'
        },
        "rqueue:{cleanup}": [""],
        "rqueue:{cleanup}:jobs": {three},
    }


def test_the_pages_script_enqueues_a_living_id_once(connection: redis.Redis):
    script = connection.register_script(blocks("script")["enqueue"])
    main = "rqueue:{email}"
    keys = [f"{main}:jobs", f"{main}:p9", main, f"{main}:scheduled", f"{main}:scheduled:messages"]
    assert script(keys, ["order-17", "first"]) == 1
    before = stored(connection)
    assert script(keys, ["order-17", "second"]) == 0
    assert stored(connection) == before


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Broker]:
    opened = Broker(Endpoint(redis_url), Keys())
    await opened.open()
    yield opened
    await opened.close()


async def claim_one(broker: Broker) -> bytes:
    """Claim over the queue `email` as a new worker: the one message that waits."""
    keys = broker.keys.queue("email")
    assert await broker.register(keys, "worker", 15)
    claim = await broker.claim([keys], [5], "worker", 15, 10, 1_000_000)
    assert claim is not None
    assert len(claim.messages) == 1
    return claim.messages[0].raw


async def test_a_job_of_the_python_producer_is_claimed(connection: redis.Redis, python_producer: Any, broker: Broker):
    job_id = python_producer(connection, blocks("script")["enqueue"], "email", "process_doc", "ü.pdf", priority=9)
    message = Message.parse(await claim_one(broker))
    assert message.header == Header(9, id=job_id)
    assert Call.decode(message.body) == Call("process_doc", ["ü.pdf"])


async def test_a_scheduled_job_of_the_python_producer_is_promoted(
    connection: redis.Redis, python_producer: Any, broker: Broker
):
    job_id = python_producer(connection, blocks("script")["enqueue"], "email", "process_doc", priority=9, due_ms=1)
    assert await broker.promote(broker.keys.queue("email")) == (1, None)
    assert Message.parse(await claim_one(broker)).header == Header(9, id=job_id)


@pytest.mark.parametrize("spaces", [b"", b" ", b"\r\n\t "], ids=["none", "one", "many"])
@pytest.mark.parametrize("level", [0, 9])
async def test_a_message_without_a_header_is_read_from_any_list(
    connection: redis.Redis, broker: Broker, level: int, spaces: bytes
):
    connection.lpush(broker.keys.queue("email").lists[level], spaces + golden("headerless.message"))
    message = Message.parse(await claim_one(broker), level)
    assert message.header == Header(level)
    assert Call.decode(message.body) == Call("process_doc", ["file.pdf"])


@pytest.mark.parametrize("raw", [b"\x80\xff\0blob", b"[1]", b"2 9 0 0 0 order-17 {}"], ids=["blob", "list", "version"])
async def test_what_is_no_message_keeps_its_bytes_in_a_claim(connection: redis.Redis, broker: Broker, raw: bytes):
    """The page: it becomes a dead letter with its bytes, also from a priority's list."""
    connection.lpush(broker.keys.queue("email").lists[9], raw)
    assert await claim_one(broker) == raw
