"""board: what a supervisor reads of a worker that may stand still or be dead."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rqueue.worker.board import Board, Figures, Noted


@pytest.fixture
def board():
    board = Board(slots=3)
    yield board
    board.close()


def test_what_one_process_writes_the_other_reads_also_when_the_first_is_dead(board):
    figures = Figures(1.5, 1.0, 17, 50_000_000, 2)
    code = (
        "import sys, os\nfrom rqueue.worker.board import *\nboard = Board(int(sys.argv[1]), slots=3)\n"
        f"board.write({figures!r}, b'card')\nboard.limit(Noted(9.0, 'q', 'a'))\nos.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(
        [sys.executable, "-c", code, str(board.fd)], pass_fds=[board.fd], env=environment, check=False
    )
    assert died.returncode == -9
    assert board.read() == figures
    assert board.card() == b"card"
    assert list(board.overdue(10.0)) == [Noted(9.0, "q", "a")]


def test_before_anything_is_written(board):
    assert board.read() == Figures()
    assert board.card() == b""
    assert list(board.overdue(1e12)) == []


def test_only_what_is_overdue_and_not_over_is_found(board):
    notes = [board.limit(Noted(deadline, "some.queue", f"j{deadline - 5:.0f}")) for deadline in (5.0, 7.0, 9.0)]
    assert [each.id for each in board.overdue(8.0)] == ["j0", "j2"]
    board.forget(notes[0])
    assert list(board.overdue(8.0)) == [Noted(7.0, "some.queue", "j2")]
    board.forget(None)


def test_a_full_board_notes_no_more_and_has_room_again(board):
    notes = [board.limit(Noted(1.0, "q", f"j{number}")) for number in range(5)]
    assert notes[3:] == [None, None]
    assert len(list(board.overdue(2.0))) == 3
    for note in notes:
        board.forget(note)
    board.limit(Noted(1.0, "q" * 64, "i" * 128))
    assert list(board.overdue(2.0)) == [Noted(1.0, "q" * 64, "i" * 128)]


def test_a_job_that_runs_twice_is_noted_twice(board):
    """Its lease was lost, and it came back while the old run went on: each run has its own end."""
    first, second = board.limit(Noted(1.0, "q", "a")), board.limit(Noted(5.0, "q", "a"))
    board.forget(first)
    assert list(board.overdue(2.0)) == []
    assert list(board.overdue(6.0)) == [Noted(5.0, "q", "a")]
    board.forget(second)
    assert list(board.overdue(6.0)) == []


def test_a_page_that_is_not_to_be_had_leaves_nothing_open(monkeypatch):
    def refused(*_):
        raise OSError(12, "no memory")

    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(mmap, "mmap", refused)
    with pytest.raises(OSError, match="no memory"):
        Board(slots=3)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_who_is_to_blame_if_the_process_dies_now(board):
    assert board.questioned(1.0) is None
    board.question(Noted(5.0, "q", "a"))
    board.question(Noted(6.0, "queue", "b"))
    assert board.questioned(5.5) == Noted(6.0, "queue", "b")
    assert board.questioned(6.0) is None
    assert list(board.overdue(9.0)) == []


def test_a_card_that_is_too_long_is_left_out(board):
    board.write(Figures(), b"short")
    board.write(Figures(), b"x" * 5000)
    assert board.card() == b"short"
