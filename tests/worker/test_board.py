"""board: what a supervisor reads of a worker that may stand still or be dead."""

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
    for number, deadline in enumerate((5.0, 7.0, 9.0)):
        board.limit(Noted(deadline, "some.queue", f"j{number}"))
    assert [each.id for each in board.overdue(8.0)] == ["j0", "j1"]
    board.forget("j0")
    assert list(board.overdue(8.0)) == [Noted(7.0, "some.queue", "j1")]
    board.forget("absent")


def test_a_full_board_notes_no_more_and_has_room_again(board):
    for number in range(5):
        board.limit(Noted(1.0, "q", f"j{number}"))
    assert len(list(board.overdue(2.0))) == 3
    for number in range(5):
        board.forget(f"j{number}")
    board.limit(Noted(1.0, "q" * 64, "i" * 128))
    assert list(board.overdue(2.0)) == [Noted(1.0, "q" * 64, "i" * 128)]


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
