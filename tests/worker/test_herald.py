"""A herald: what was settled elsewhere arrives as it was, through JSON."""

import json

import pytest

from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.wire.record import Letter, Record
from rqueue.wire.state import State
from rqueue.worker.herald import Herald, read
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import Ack, Bury, Defer, Release

KEYS = Keys()
RAW = Message.build(Header(id="a", losses=2), b'{"task":"t","args":["\xc3\xbc"]}')
RECORD = Record(State.FAILURE, about={"task": "t"}).encode()


def job() -> ClaimedJob:
    return ClaimedJob(KEYS.queue("email"), "host:1:x", RAW, "a", rank=0)


@pytest.mark.parametrize(
    "settlement",
    [
        Ack(RECORD, "60"),
        Bury(RECORD, "60", Letter(id="a", reason="worker lost", raw=b"\xff\n\xfe").encode()),
        Defer(RAW, 2.5, RECORD),
    ],
    ids=["ack", "bury", "defer"],
)
def test_it_arrives_as_it_was(settlement):
    """Breaks when bytes do not outlive JSON, or a burial arrives as an ack."""
    told = []
    herald = Herald(lambda message: told.append(json.loads(json.dumps(message))))
    assert herald
    herald.settled(job(), settlement)
    found, arrived = read(told[0], KEYS)
    assert (found.id, found.keys.name, found.worker, found.message) == ("a", "email", "host:1:x", RAW)
    assert type(arrived) is type(settlement)
    assert arrived.record == RECORD
    if isinstance(arrived, Bury):
        assert Letter.decode(arrived.letter).reason == "worker lost"
    if isinstance(arrived, Defer):
        assert arrived.delay_s == 2.5


def test_what_is_no_end_is_not_told_and_without_listeners_nothing_is():
    assert not Herald(None)
    Herald(None).settled(job(), Ack(RECORD, "0"))
    Herald(lambda _: pytest.fail("told")).settled(job(), Release())
