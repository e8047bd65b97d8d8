"""gauge: tells the supervisor how the worker is, and that its event loop moves."""

import asyncio

import pytest

from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.worker import gauge
from rqueue.worker.gauge import Gauge
from rqueue.worker.inflight import ClaimedJob, Inflight
from rqueue.worker.life import Life
from rqueue.worker.outcome import Ack
from rqueue.worker.parent import Nobody


class Listener(Nobody):
    """A supervisor that remembers what it was told."""

    def __init__(self):
        self.reports = []
        self.told = asyncio.Event()

    def report(self, figures, card):
        self.reports.append((figures, card))
        self.told.set()


@pytest.fixture
def parent():
    return Listener()


@pytest.fixture
def make(parent):
    """A gauge of a worker that may start so many jobs; and how often it was called spent."""

    def build(max_tasks=None):
        inflight, spent = Inflight(4, 16, Life(max_tasks)), []
        return Gauge(inflight, parent, lambda: b"%d run" % inflight.running, lambda: spent.append(1)), inflight, spent

    return build


def begin(inflight, name):
    job = ClaimedJob(Keys().queue("q"), "w", Message.build(Header(id=name), b"{}"), name, rank=5)
    inflight.hold(job)
    inflight.begin(job)
    return job


async def test_it_reports_what_runs_what_was_started_and_how_large_the_process_is(make, parent):
    meter, inflight, _ = make()
    first = begin(inflight, "a")
    begin(inflight, "b")
    inflight.end(first, Ack(b"", ""))
    before_s = elapsed_s()
    meter.tick()
    ((figures, card),) = parent.reports
    assert (figures.running, figures.started, card) == (1, 2, b"1 run")
    assert before_s <= figures.moved_s <= elapsed_s()
    assert figures.rss > 1_000_000


async def test_it_has_worked_since_it_runs_and_goes_on_reporting(make, parent, monkeypatch):
    monkeypatch.setattr(gauge, "_LOOK_S", 0.0)
    meter, _, _ = make()
    running = asyncio.create_task(meter.run())
    async with asyncio.timeout(5):
        while len(parent.reports) < 3:
            parent.told.clear()
            await parent.told.wait()
    running.cancel()
    moved = [figures.moved_s for figures, _ in parent.reports]
    assert moved == sorted(moved)
    assert len({figures.ready_s for figures, _ in parent.reports}) == 1
    assert 0 < parent.reports[0][0].ready_s <= moved[0]


async def test_a_worker_is_spent_when_it_may_start_nothing_and_runs_nothing(make):
    meter, inflight, spent = make(max_tasks=1)
    meter.tick()
    job = begin(inflight, "a")
    meter.tick()
    assert spent == []
    inflight.end(job, Ack(b"", ""))
    meter.tick()
    meter.tick()  # again and again: whoever missed it hears of it
    assert spent == [1, 1]
