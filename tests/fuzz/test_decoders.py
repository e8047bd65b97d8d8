"""Whatever bytes come, a decoder gives a value that its readers can use, or MalformedMessage."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from hypothesis import strategies as st

from rqueue.client.job import JobInfo, value_of
from rqueue.errors import JobError, MalformedMessage
from rqueue.wire import codec
from rqueue.wire.control import Answer, ControlRequest
from rqueue.wire.history import noted, past_errors
from rqueue.wire.message import Call, Message
from rqueue.wire.periodic import Entry
from rqueue.wire.record import Letter, decode_record, moved_to

from .junk import as_json, fuzz, junk, messages, values


@fuzz(120, raw=messages)
def test_a_message(raw):
    with suppress(MalformedMessage):
        message = Message.parse(raw)
        assert Message.id_of(raw) == message.header.id
        assert Message.parse(message.changed(level=3, id="x").raw).header.level == 3
        call = Call.decode(message.body)
        assert call.task
        assert len(past_errors(noted(call.history, 1, "text"))) <= 10
        with suppress(TypeError):  # where an argument is nested deeper than can be written
            again = Call.decode(call.encode())
            assert (again.task, list(again.args), again.kwargs) == (call.task, list(call.args), call.kwargs)
        with suppress(TypeError):
            assert Call.decode(message.rewritten({"args": b"[1]", "kwargs": None}).body).args == [1]


@fuzz(100, raw=junk("record"))
def test_a_record(raw):
    with suppress(MalformedMessage):
        decode_record(raw)
        moved = moved_to(raw)
        assert moved is None or isinstance(moved, str)
        info = JobInfo.of("x", "q", raw)
        assert all(isinstance(at, datetime | None) for at in (info.enqueued, info.started, info.finished))
        assert info.attempts + info.losses > 0
        with suppress(JobError):
            value_of("x", raw)


@fuzz(60, raw=junk("letter"))
def test_a_dead_letter(raw):
    with suppress(MalformedMessage):
        letter = Letter.decode(raw)
        assert Letter.decode(letter.encode()).raw == letter.raw


@fuzz(60, raw=junk("schedule"))
def test_a_schedule(raw):
    with suppress(MalformedMessage):
        entry = Entry.decode(raw)
        with suppress(TypeError):
            again = Entry.decode(entry.encode())
            assert replace(again, kwargs=again.kwargs or {}) == replace(entry, kwargs=entry.kwargs or {})


REQUEST = {"v": 1, "id": "i", "verb": "pool_grow", "args": {"n": 1}, "to": ["w"], "reply": "channel"}


@fuzz(60, raw=junk(), name=junk().map(lambda raw: raw[:8].decode("latin1")), value=values)
def test_a_request_and_an_answer(raw, name, value):
    for data in (raw, *(as_json({**REQUEST, key: value}) for key in (*REQUEST, name))):
        with suppress(MalformedMessage):
            request = ControlRequest.decode(data)
            request.reply is None or request.reply.encode()
        with suppress(MalformedMessage):
            assert Answer.decode(data).worker is not None


@fuzz(100, raw=junk("message", "record", "letter", "schedule"))
def test_json(raw):
    with suppress(ValueError):
        value = codec.loads(raw)
        with suppress(TypeError):
            assert codec.loads(codec.dumps(value)) == value


@fuzz(50, value=values, depth=st.integers(1, 1200))
def test_what_cannot_be_sent_is_a_type_error(value, depth):
    """Also where it is nested so deeply that Python gives up."""
    for _ in range(depth):
        value = [value] if depth % 2 else {"$dict": value}
    with suppress(TypeError):
        assert repr(codec.loads(codec.dumps(value))) == repr(value)
