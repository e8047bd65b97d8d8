"""clock: a wall clock that is made wrong while its process runs."""

import time

from .clock import move_clock, set_clock


def test_the_wall_clock_is_wrong_by_what_the_file_says_at_that_moment(tmp_path, monkeypatch):
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, getattr(time, name))  # put back at the end
    right, face = time.time, tmp_path / "clock"
    set_clock(face, 0.0)
    move_clock(str(face))
    assert abs(time.time() - right()) < 60
    for hours in (1, -1):
        set_clock(face, hours * 3600.0)
        assert abs(time.time() - right() - hours * 3600) < 60
        assert abs(time.time_ns() / 1e9 - right() - hours * 3600) < 60
