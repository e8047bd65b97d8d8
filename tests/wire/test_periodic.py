"""A periodic schedule's bytes: what is encoded is decoded, and what is none is refused with a reason."""

import pytest

from rqueue.errors import ConfigError, MalformedMessage
from rqueue.wire.periodic import Entry, check_schedule_name

WHOLE = Entry(
    task="t",
    due=1,
    args=(1, b"\xff"),
    kwargs={"a": None},
    priority=10,
    expires=1.5,
    cron="* * * * *",
    tz="Europe/Berlin",
    misfire="all",
    grace=1,
    overlap="queue",
    source="code",
    code="f00",
    paused=True,
    last=2,
    last_id="t@2",
    pending=(3, 4),
)
SMALL = {"v": 1, "task": '"t"', "due": 1, "every": 1000}


def test_what_is_encoded_is_decoded():
    assert Entry.decode(WHOLE.encode()) == WHOLE
    assert Entry.decode(Entry(task="t", due=1, every=1000, kwargs={}).encode()) == Entry(task="t", due=1, every=1000)


def test_defaults_are_left_out_and_unknown_fields_are_ignored():
    assert Entry("t", 1, every=1000).encode() == b'{"v":1,"task":"t","due":1,"every":1000}'
    assert Entry.decode(b'{"v":1,"task":"t","due":1,"every":1000,"new":1}') == Entry("t", 1, every=1000)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"v":2,"task":"t","due":1,"every":1000}', b"\xff"])
def test_what_is_no_entry_is_refused(data):
    with pytest.raises(MalformedMessage):
        Entry.decode(data)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("task", '""'),
        ("task", "null"),
        ("due", "1.5"),
        ("due", "-1"),
        ("due", "true"),
        ("args", "{}"),
        ("kwargs", "[]"),
        ("priority", "11"),
        ("priority", "true"),
        ("expires", "0"),
        ("cron", '""'),
        ("cron", '"* * * * *"'),  # and an interval
        ("tz", "null"),
        ("every", "0"),
        ("every", "null"),  # and no crontab
        ("misfire", '"never"'),
        ("grace", '"60"'),
        ("overlap", "null"),
        ("source", '"mine"'),
        ("code", "1"),
        ("paused", "1"),
        ("last", '"1"'),
        ("last_id", "1"),
        ("pending", "[true]"),
        ("pending", "1"),
    ],
)
def test_a_field_that_is_wrong_is_named(field, bad):
    """Breaks when a worker stumbles over it instead, at every look."""
    body = ",".join(f'"{name}":{value}' for name, value in {**SMALL, field: bad}.items())
    with pytest.raises(MalformedMessage, match=field):
        Entry.decode(b"{%b}" % body.encode())


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 101, None, 5])
def test_a_name_begins_job_ids(name):
    with pytest.raises(ConfigError, match="1 to 100 printable"):
        check_schedule_name(name)
    assert check_schedule_name("x" * 100) == "x" * 100
