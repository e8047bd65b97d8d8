"""From what Redis holds to a row."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue import RQueue
from rqueue.results.entry import Entry
from rqueue.results.reader import Reader
from rqueue.results.row import Row
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.wire.record import Failure, Record, encode_success
from rqueue.wire.seal import Keyring, seal_record, sealed
from rqueue.wire.state import State

NOW, QUEUED, BEGAN, ENDED = 4000, 1763841234567, 1763841235000, 1763841236000
KEYS = Keys().queue("default")
KEYRINGS = {
    "none": None,
    "signed": Keyring([bytes(32)], ()),
    "encrypted": Keyring((), [bytes(32)]),
}


def reader(app: RQueue | None = None, keyring: Keyring | None = None, args_bytes: int = 4096) -> Reader:
    app = app or RQueue("memory://")
    return Reader(app.tasks.shown, keyring, args_bytes, lambda: NOW)


def message(body: object = None, **header: object) -> bytes:
    fields = {"task": "t", "args": [1], "kwargs": {"b": 2}, "enqueued": QUEUED} if body is None else body
    return Header(**{"id": "j", **header}).encode() + orjson.dumps(fields)  # type: ignore[arg-type]


def record(state: State, **about: object) -> bytes:
    return Record(state, about={"task": "t", "worker": "w", **about}).encode()


@pytest.mark.parametrize("seal", KEYRINGS)
def test_a_job_that_succeeded(seal):
    """Breaks when a column takes another's value, or what is sealed is not opened."""
    keyring = KEYRINGS[seal]
    raw = sealed(keyring, Message.parse(message(level=7)), KEYS.main).raw
    told = seal_record(keyring, KEYS.main, "j", encode_success(b'{"a":[1.5,null]}', "t", "w", QUEUED, BEGAN, ENDED))
    assert reader(keyring=keyring).row(KEYS, Entry("j", told, raw)) == Row(
        id="j",
        enqueued=QUEUED,
        task="t",
        queue="default",
        priority=7,
        state="SUCCESS",
        args="[1]",
        kwargs='{"b":2}',
        result='{"a":[1.5,null]}',
        error=None,
        traceback=None,
        attempts=1,
        losses=0,
        worker="w",
        parent_id=None,
        root_id=None,
        started=BEGAN,
        finished=ENDED,
        history=None,
    )


def test_a_job_that_is_retried():
    """Breaks when its attempts, its losses, its family or its past errors are lost."""
    about = {"parent_id": "p", "root_id": "r", "history": [[1, "ValueError: no"]], "enqueued": QUEUED}
    told = Record(State.RETRY, None, Failure("ValueError", "no", "trace"), about | {"finished": ENDED}).encode()
    row = reader().row(KEYS, Entry("j", told, message(retries=2, losses=1)))
    assert (row.state, row.attempts, row.losses, row.parent_id, row.root_id) == ("RETRY", 3, 1, "p", "r")
    assert (row.error, row.traceback, row.history) == ("ValueError: no", "trace", '[[1,"ValueError: no"]]')
    assert (row.result, row.worker, row.started, row.finished) == (None, None, None, ENDED)


def test_what_a_record_does_not_say_its_message_may():
    """That of a cancel, made by one who does not know the message. Breaks when the row's identity is lost."""
    body = {"task": "t", "enqueued": QUEUED, "parent_id": "p", "root_id": "r"}
    row = reader().row(KEYS, Entry("j", b'{"state":"REVOKED"}', message(body, retries=1)))
    assert (row.task, row.enqueued, row.parent_id, row.root_id) == ("t", QUEUED, "p", "r")
    assert (row.args, row.kwargs, row.finished) == ("[]", "{}", NOW)
    assert row.attempts == 1  # it has not run for a second time


def test_what_a_record_says_of_losses_and_retries_comes_first():
    """A reaper counts the loss that ends a job, and the message is as it was. Breaks when that loss is in no row."""
    told = b'{"state":"FAILURE","losses":3,"retries":1}'
    row = reader().row(KEYS, Entry("j", told, message(losses=2, retries=1)))
    assert (row.losses, row.attempts) == (3, 2)
    row = reader().row(KEYS, Entry("j", b'{"state":"FAILURE","losses":"3","retries":-1}', b""))
    assert (row.losses, row.attempts) == (0, 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"rubbish",
        b'{"task":',
        b"[1]",
        b'{"task":1,"args":3}',
        b'{"args":{},"kwargs":[]}',
        b'1 - 0 0 0 j {"sealed":"x"}',
        b'{"enqueued":"x","parent_id":7,"root_id":"two words"}',
        b"{" * 2000,
    ],
)
@pytest.mark.parametrize("seal", KEYRINGS)
def test_a_message_that_cannot_be_read_gives_what_the_record_knows(raw, seal):
    """Breaks when a malformed or forged message, which is a dead letter, has no row; or is believed."""
    keyring = KEYRINGS[seal]
    told = seal_record(
        keyring, KEYS.main, "j", Record(State.FAILURE, failure=Failure("MalformedMessage", "x")).encode()
    )
    row = reader(keyring=keyring).row(KEYS, Entry("j", told, raw))
    assert (row.id, row.state, row.error) == ("j", "FAILURE", "MalformedMessage: x")
    assert (row.task, row.enqueued, row.parent_id, row.root_id, row.finished) == (None, None, None, None, NOW)


@pytest.mark.parametrize(
    "told", [b'{"state":"SUCCESS","result":', b'{"state":"SUCCESS","sealed":"x"}', b'{"state":"SUCCESS"']
)
def test_of_a_record_that_cannot_be_read_there_is_its_state(told):
    """It was sealed with another key, or cut. Breaks when the job has no row, or a forged result."""
    row = reader(keyring=KEYRINGS["encrypted"]).row(KEYS, Entry("j", told, message()))
    assert (row.state, row.result, row.finished) == ("SUCCESS", None, NOW)


@pytest.mark.parametrize("told", [b"", b"{}", b"[]", b'{"state":"STARTED"}', b'{"state":1}', b'{"state":["SUCCESS"]}'])
def test_what_has_not_ended_has_no_row(told):
    """Breaks when anything in the spool becomes a job, or raises."""
    assert reader().row(KEYS, Entry("j", told, message())) is None


def test_secrets_are_hidden_in_arguments_and_errors_and_results_are_whole():
    """As for operators. Breaks when a password is in the database."""
    app = RQueue("memory://")

    @app.task(name="t", sensitive=["code"])
    def t(user, code, password=""): ...

    body = {"task": "t", "args": ["ada", "code-1234"], "kwargs": {"password": "hunter22"}, "enqueued": QUEUED}
    failed = Failure("ValueError", "not code-1234", "in x: hunter22")
    told = Record(State.FAILURE, None, failed, {"task": "t"}).encode()
    row = reader(app).row(KEYS, Entry("j", told, message(body)))
    assert (row.args, row.kwargs) == ('["ada","[hidden]"]', '{"password":"[hidden]"}')
    assert (row.error, row.traceback) == ("ValueError: not [hidden]", "in x: [hidden]")
    told = encode_success(b'"hunter22"', "t", "w", QUEUED, BEGAN, ENDED)
    assert reader(app).row(KEYS, Entry("j", told, message(body))).result == '"hunter22"'


def test_long_arguments_are_cut_to_valid_json():
    """Breaks when a column holds half an object, or a megabyte."""
    body = {"task": "t", "args": ["é" * 100], "enqueued": QUEUED}
    row = reader(args_bytes=21).row(KEYS, Entry("j", record(State.SUCCESS), message(body)))
    assert orjson.loads(row.args) == {"truncated": '["' + "é" * 9, "bytes": 204}
    assert row.kwargs == "{}"
    row = reader(args_bytes=0).row(KEYS, Entry("j", record(State.SUCCESS), message(body)))
    assert (row.args, row.kwargs) == (None, None)


def test_values_go_as_they_are():
    """Tags included: what reads the row decodes it as it decodes a record. Breaks when bytes become text."""
    body = {"task": "t", "args": [{"$bytes": "AAE="}], "kwargs": {"n": 2**63}, "enqueued": QUEUED}
    told = encode_success(b'{"$bytes":"AAE="}', "t", "w", QUEUED, BEGAN, ENDED)
    row = reader().row(KEYS, Entry("j", told, message(body)))
    assert (row.args, row.kwargs, row.result) == (
        '[{"$bytes":"AAE="}]',
        '{"n":9223372036854775808}',
        '{"$bytes":"AAE="}',
    )


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_stands_there_it_is_a_row_or_none(told, raw):
    """Breaks when somebody's bytes in the spool keep all others from being written."""
    for start in (b"", b'{"state":"SUCCESS"'):
        row = reader().row(KEYS, Entry("j", start + told, raw))
        assert row is None or row.state in ("SUCCESS", "FAILURE", "REVOKED", "RETRY")
