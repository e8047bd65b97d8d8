"""When a failed job runs again: never beyond its limit, and never all at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.retry import backoff_s, may_retry


@pytest.mark.parametrize(
    ("retries", "max_retries", "may"),
    [(0, 0, False), (0, 1, True), (1, 1, False), (2, 1, False), (2, 3, True), (3, 3, False), (10**9, None, True)],
)
def test_the_limit_counts_the_runs_beside_the_first(retries: int, max_retries: int | None, may: bool):
    assert may_retry(retries, max_retries) is may


def test_a_job_with_three_retries_runs_four_times():
    runs, retries = 1, 0
    while may_retry(retries, 3):
        runs, retries = runs + 1, retries + 1
    assert runs == 4


def test_the_delay_doubles_up_to_its_maximum():
    assert [backoff_s(retries, 2, 60, jitter=False) for retries in range(7)] == [2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("retries", [64, 1_000, 999_999_999])
@pytest.mark.parametrize("jitter", [True, False])
def test_many_retries_overflow_nothing(retries: int, jitter: bool):
    assert 0 <= backoff_s(retries, 1.0, 600, jitter) <= 600


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 0.0), (0.25, 2.0), (0.5, 4.0)])
def test_jitter_takes_a_part_of_the_delay(drawn: float, delay: float):
    assert backoff_s(2, 2, 60, jitter=True, rand=lambda: drawn) == delay


def test_jitter_is_taken_of_the_delay_that_the_maximum_allows():
    """Else most jobs that are at the maximum would return together, at the maximum."""
    assert backoff_s(20, 1, 60, jitter=True, rand=lambda: 0.5) == 30


def test_without_jitter_nothing_is_drawn():
    def never() -> float:
        raise AssertionError

    assert backoff_s(0, 3, 60, jitter=False, rand=never) == 3


def test_jobs_that_failed_together_return_spread_over_the_whole_delay():
    delays = [backoff_s(3, 1, 600, jitter=True) for _ in range(2_000)]
    eighths = [sum(k <= delay < k + 1 for delay in delays) for k in range(8)]
    assert sum(eighths) == 2_000
    assert min(eighths) > 100  # 250 are expected; fewer than 100 comes once in 10 to the 27


@given(
    st.integers(0, 10**9),
    st.floats(0, 1e300),
    st.floats(0, 1e9),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_a_number_between_0_and_the_maximum(
    retries: int, factor: float, maximum: float, jitter: bool, drawn: float
):
    delay = backoff_s(retries, factor, maximum, jitter, lambda: drawn)
    assert math.isfinite(delay)
    assert 0 <= delay <= maximum
