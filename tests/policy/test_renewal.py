"""When a process is replaced, and how soon one that died is started again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.renewal import LONGEST_PAUSE_S, is_memory_low, is_successor_due, pause_s


@pytest.mark.parametrize(("deaths", "pause"), [(0, 0), (1, 0), (2, 0.5), (3, 1), (4, 2), (7, 16), (8, 30), (10**9, 30)])
def test_who_dies_once_is_back_at_once_and_who_dies_again_and_again_is_not(deaths, pause):
    assert pause_s(deaths) == pause


@pytest.mark.parametrize(("deaths", "pause"), [(1, 0), (2, 0.5), (3, 1), (4, 1), (10**9, 1)])
def test_who_had_begun_to_work_is_soon_back_each_time(deaths, pause):
    assert pause_s(deaths, has_worked=True) == pause


@given(st.integers(0, 10_000))
def test_pauses_grow_to_the_longest(deaths: int):
    assert 0 <= pause_s(deaths) <= pause_s(deaths + 1) <= LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("started", "rate", "startup_s", "is_due"),
    [
        (0, 0.0, 1.0, False),
        (899, 0.0, 1.0, False),  # a tenth is left
        (900, 0.0, 1.0, True),
        (599, 200.0, 1.0, False),  # it will have started 400 more when a successor can be there, at the latest
        (600, 200.0, 1.0, True),
        (0, 200.0, 3.0, True),
        (1000, 0.0, 0.0, True),
    ],
)
def test_a_successor_is_due_when_a_tenth_is_left_or_what_is_started_meanwhile(started, rate, startup_s, is_due):
    assert is_successor_due(started, 1000, rate, startup_s) is is_due


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0, 1e4), st.floats(0, 100))
def test_once_due_it_stays_due(started: int, max_tasks: int, rate: float, startup_s: float):
    assert is_successor_due(started + 1, max_tasks, rate, startup_s) >= is_successor_due(
        started, max_tasks, rate, startup_s
    )


@given(st.integers(1, 1000), st.floats(0, 1e4), st.floats(0, 100))
def test_at_the_limit_it_is_always_due(max_tasks: int, rate: float, startup_s: float):
    assert is_successor_due(max_tasks, max_tasks, rate, startup_s)


@pytest.mark.parametrize(("rss", "is_low"), [(0, False), (899, False), (900, True), (1000, True), (2000, True)])
def test_memory_is_low_from_nine_tenths_on(rss, is_low):
    assert is_memory_low(rss, 1000) is is_low
