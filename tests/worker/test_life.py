"""life: so many starts, and none while the process is too large."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from rqueue.worker import life
from rqueue.worker.life import Life, memory_bytes


class Scales:
    """A process of a size that the test chooses, on a clock that the test moves."""

    def __init__(self):
        self.bytes, self.now_s, self.weighed = 0, 1000.0, 0

    def weigh(self):
        self.weighed += 1
        return self.bytes


@pytest.fixture
def scales(monkeypatch):
    scales = Scales()
    monkeypatch.setattr(life, "elapsed_s", lambda: scales.now_s)
    return scales


def test_without_limits_it_goes_on_and_measures_nothing(scales):
    endless = Life(measure=scales.weigh)
    endless.started = 10**9
    assert (endless.left(), endless.is_spent(), scales.weighed) == (None, False, 0)


def test_starts_are_counted_to_the_last(scales):
    short = Life(max_tasks=2, measure=scales.weigh)
    assert (short.left(), short.is_spent()) == (2, False)
    short.started += 1
    assert (short.left(), short.is_spent()) == (1, False)
    short.started += 1
    assert (short.left(), short.is_spent()) == (0, True)
    short.started += 1
    assert short.left() == 0
    short.started -= 2  # a job that did not start after all gives its start back
    assert (short.left(), short.is_spent(), scales.weighed) == (1, False, 0)


def test_its_end_is_told_once_and_only_of_a_job_that_runs():
    """Breaks when a job that is put off (its task is paused, over its rate) ends the process."""
    told = []
    short = Life(max_tasks=2, on_spent=lambda: told.append(1))
    short.count()
    short.confirm()
    short.count()
    short.started -= 1  # put off
    assert told == []
    short.count()
    for _ in range(2):
        short.confirm()
    assert told == [1]


def test_it_is_spent_while_it_is_too_large(scales):
    small = Life(max_bytes=1000, measure=scales.weigh)
    for size, is_spent in ((999, False), (1000, True), (5000, True), (999, False)):
        scales.bytes, scales.now_s = size, scales.now_s + 1
        assert small.is_spent() is is_spent
    assert small.left() is None


def test_it_is_measured_now_and_then_however_often_it_is_asked(scales):
    """Each measurement is a file that is read; the fetcher asks many times a millisecond."""
    small = Life(max_bytes=1000, measure=scales.weigh)
    for _ in range(1000):
        small.is_spent()
    assert scales.weighed == 1
    scales.now_s += 0.1
    small.is_spent()
    assert scales.weighed == 2


def test_memory_is_what_is_resident_now():
    """Not what is only reserved, and not the peak: what a job has given back must not end its process."""
    size = 64 * 1024 * 1024
    before = memory_bytes()
    with mmap.mmap(-1, size) as page:
        assert memory_bytes() - before < size / 2
        for place in range(0, size, mmap.PAGESIZE):
            page[place] = 1
        assert memory_bytes() - before > size / 2
    if Path("/proc/self/statm").exists():
        assert memory_bytes() - before < size / 2


def test_without_proc_it_is_the_peak(monkeypatch, tmp_path):
    now = memory_bytes()
    monkeypatch.setattr(life, "_STATM", tmp_path / "absent")
    assert now * 0.9 < memory_bytes() < now * 100


def test_without_either_it_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(life, "_STATM", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory_bytes() == 0


def test_nobody_loads_resource_who_does_not_need_it():
    code = "import sys, rqueue.worker.life as life; life.memory_bytes(); sys.exit('resource' in sys.modules)"
    has_proc = Path("/proc/self/statm").exists()
    loaded = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode
    assert loaded == (0 if has_proc else 1)
