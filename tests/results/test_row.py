"""Which of two rows of one job stays."""

import pytest

from rqueue.results.row import Row, replaces


def row(attempts: int, losses: int, started: int | None, finished: int = 100) -> Row:
    return Row(
        id="j",
        enqueued=1,
        task="t",
        queue="q",
        priority=None,
        state="SUCCESS",
        args=None,
        kwargs=None,
        result=None,
        error=None,
        traceback=None,
        attempts=attempts,
        losses=losses,
        worker="w",
        parent_id=None,
        root_id=None,
        started=started,
        finished=finished,
        history=None,
    )


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        (row(2, 0, 50), row(1, 0, 10)),  # a retry
        (row(1, 1, 50), row(1, 0, 10, 200)),  # run again after its worker's loss; the first one was frozen
        (row(1, 0, 50), row(1, 0, 10, 200)),  # the same, uncharged
        (row(1, 0, None, 90), row(1, 0, 10, 20)),  # cancelled while it waited for its retry
        (row(1, 3, None, 90), row(1, 2, 50, 60)),  # buried by a reaper
        (row(1, 1, 50, 60), row(1, 0, 50, 200)),  # the same run, ended by a reaper; its worker was frozen
    ],
)
def test_a_later_runs_row_takes_the_place_of_an_earlier_ones_and_never_the_other_way(later, earlier):
    """Breaks when a worker that was frozen overwrites what happened meanwhile."""
    assert replaces(later, earlier)
    assert not replaces(earlier, later)


def test_the_same_row_may_be_written_again():
    """Breaks when a repetition is refused: the row might be older than what was written for it."""
    assert replaces(row(1, 0, 10), row(1, 0, 10))


def test_a_dead_letter_that_is_revived_begins_to_count_anew():
    """Breaks when the count alone decides: its row would say for ever that it failed."""
    assert replaces(row(1, 0, 50), row(3, 2, 10))


def test_an_old_failure_does_not_come_back_over_what_its_revived_letter_did():
    """Breaks when more attempts alone decide: the failure may have waited in the spool meanwhile."""
    assert not replaces(row(3, 2, 10), row(1, 0, 90_000))


def test_a_host_whose_clock_is_late_is_believed_that_it_ran_again():
    assert replaces(row(2, 0, 10), row(1, 0, 50))
