"""The errors of a job's retries: few, short, and told as moments and texts."""

from datetime import UTC, datetime

import pytest

from rqueue.wire.history import HISTORY_MAX, MAX_PAST_CHARS, PastError, is_history, noted, past_errors


def test_the_last_ones_are_kept_each_cut_to_its_length():
    history = []
    for number in range(HISTORY_MAX + 3):
        history = noted(history, number, f"E: {number} " + "x" * 1000)
    assert [at for at, _ in history] == list(range(3, HISTORY_MAX + 3))
    assert {len(error) for _, error in history} == {MAX_PAST_CHARS}


def test_readers_see_moments():
    assert past_errors([[1_767_225_600_500, "E: x"]]) == (
        PastError(datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC), "E: x"),
    )
    assert past_errors([]) == ()


@pytest.mark.parametrize("value", [[], [[1, "E: x"]], [[1, "a"], [2, "b"]]])
def test_what_is_a_history(value):
    assert is_history(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        "E",
        [1],
        [[1]],
        [[1, "a", 2]],
        [["1", "a"]],
        [[1.5, "a"]],
        [[True, "a"]],
        [[1, None]],
        [[-1, "a"]],
        [[10**15, "a"]],
    ],
)
def test_what_is_none(value):
    """Breaks when a foreign producer's field is an error of the worker's own: no date is that far away."""
    assert not is_history(value)
