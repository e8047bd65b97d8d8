"""The demo's workers: a real supervisor with its processes, and none of them is left behind."""

import os
import signal
import time

import pytest

from rqueue.cli.demo_fleet import PROCESSES, Fleet, WorkerDied

from .conftest import DEADLINE_S, family, is_alive

NOWHERE = "redis://localhost:1/0"
"""Workers wait for a Redis which is not there: what they do with one is the demo's own test."""


def until(answer):
    """Ask again and again until the answer is true: for what nobody announces."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := answer()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


@pytest.fixture
def fleet(tmp_path):
    with Fleet(NOWHERE, tmp_path, tmp_path / "oracle") as fleet:
        yield fleet


def workers(fleet):
    """Its worker processes, once all have been started."""
    supervisor = fleet._supervisor.pid
    until(lambda: len(family(supervisor)) > PROCESSES)
    return [pid for pid in family(supervisor) if pid != supervisor]


def test_a_killed_process_is_gone_and_another_takes_its_place(fleet):
    first = workers(fleet)
    assert not fleet.is_gone(first[0])
    fleet.kill(first[0])
    until(lambda: fleet.is_gone(first[0]))
    until(lambda: set(workers(fleet)) - set(first))
    fleet.check()


def test_its_end_is_the_end_of_all(fleet):
    pids = workers(fleet)
    fleet.stop()
    assert not any(map(is_alive, pids))
    fleet.stop()  # as a second Ctrl-C would, while the first one cleans up


def test_what_does_not_stop_is_killed(tmp_path, redis_url, store, monkeypatch):
    """A process that is frozen does not even hear that it is to stop."""
    monkeypatch.setattr("rqueue.cli.demo_fleet._STOP_S", 0.0)
    with Fleet(redis_url, tmp_path, tmp_path / "oracle") as fleet:
        until(lambda: store.zcard("rqueue-demo:{email}:workers") == PROCESSES)
        pids = workers(fleet)
        os.kill(pids[0], signal.SIGSTOP)
    assert not any(map(is_alive, pids))


def test_workers_that_end_by_themselves_are_told_of_with_their_last_words(tmp_path):
    with Fleet("http://nowhere", tmp_path, tmp_path / "oracle") as fleet:
        fleet._supervisor.wait(DEADLINE_S)
        with pytest.raises(WorkerDied, match=r"(?s)ended with code 2:.*needs one of redis://"):
            fleet.check()


def test_the_machines_settings_do_not_reach_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("RQUEUE_QUEUES", "no queue's name")
    monkeypatch.setenv("KEPT", "1")
    with Fleet(NOWHERE, tmp_path, tmp_path / "oracle") as fleet:
        workers(fleet)  # with that variable it would have ended with code 2
        fleet.check()
