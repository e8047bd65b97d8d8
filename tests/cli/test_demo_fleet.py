"""The demo's worker processes: they are real, they die when told to, and none is left behind."""

import os

import pytest

from rqueue.cli.demo_fleet import Fleet, WorkerDied


@pytest.fixture
def fleet(tmp_path):
    """Real workers that wait for a Redis which is not there: what they do with one is the demo's own test."""
    fleet = Fleet("redis://localhost:1/0", tmp_path, tmp_path / "oracle")
    yield fleet
    fleet.stop()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_dies_at_once_when_killed(fleet):
    pid = fleet.start()
    assert fleet.pids == [pid]
    fleet.kill(pid)
    assert (fleet.pids, is_alive(pid)) == ([], False)


def test_a_frozen_worker_does_not_move_until_it_is_thawed(fleet):
    pid = fleet.start()
    fleet.freeze(pid)
    fleet.thaw(pid)
    assert os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1])  # told only of a process that had stopped


def test_all_are_ended_frozen_ones_too(fleet):
    pids = [fleet.start(), fleet.start()]
    fleet.freeze(pids[0])
    fleet.stop()
    assert not any(map(is_alive, pids))


def test_a_worker_that_dies_by_itself_is_told_with_its_last_words(tmp_path):
    with Fleet("http://nowhere", tmp_path, tmp_path / "oracle") as fleet:
        fleet._processes[fleet.start()].wait(30)
        with pytest.raises(WorkerDied, match=r"(?s)ended with code 2:.*needs one of redis://"):
            fleet.check()


def test_the_machines_settings_do_not_reach_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("RQUEUE_QUEUES", "other")
    monkeypatch.setenv("KEPT", "1")
    environment = Fleet("redis://x:1/0", tmp_path, tmp_path / "oracle")._environment
    assert "RQUEUE_QUEUES" not in environment
    assert (environment["RQUEUE_URL"], environment["KEPT"]) == ("redis://x:1/0", "1")
