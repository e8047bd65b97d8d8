"""The log that the demo's jobs write: read as it grows, by whole lines."""

import os

import pytest

from rqueue.cli.demo_oracle import LOG_VARIABLE, Oracle, note


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "oracle"
    monkeypatch.setenv(LOG_VARIABLE, str(path))
    return path


def test_it_reads_what_jobs_noted(log):
    oracle = Oracle(log)
    oracle.read()
    assert not oracle.starts
    note("start", "a")
    note("start", "b")
    note("end", "a")
    oracle.read()
    assert oracle.starts == {"a": 1, "b": 1}
    assert set(oracle.ended) == {"a"}
    assert oracle.running(os.getpid()) == ["b"]
    assert oracle.last_end == oracle.ended["a"]
    note("end", "b")
    oracle.read()
    assert oracle.running(os.getpid()) == []


def test_half_a_line_waits_for_its_other_half(log):
    oracle = Oracle(log)
    log.write_text("start a 1 1.5\nend a 1")
    oracle.read()
    assert (dict(oracle.starts), oracle.ended) == ({"a": 1}, {})
    with log.open("a") as more:
        more.write(" 2.5\n")
    oracle.read()
    assert oracle.ended == {"a": 2.5}


def test_a_second_run_counts_as_a_start_and_the_first_end_stands(log):
    log.write_text("start a 1 1.0\nstart a 2 2.0\nend a 2 3.0\nend a 1 4.0\n")
    oracle = Oracle(log)
    oracle.read()
    assert (oracle.starts["a"], oracle.ended["a"], oracle.last_end) == (2, 3.0, 4.0)
    assert oracle.running(3) == []


def test_the_busiest_process(log):
    oracle = Oracle(log)
    assert oracle.busiest() is None
    log.write_text("start a 1 1.0\nstart b 2 1.0\nstart c 2 1.0\n")
    oracle.read()
    assert oracle.busiest() == 2
    with log.open("a") as more:
        more.write("end b 2 2.0\nend c 2 2.0\nend a 1 2.0\n")
    oracle.read()
    assert oracle.busiest() is None
