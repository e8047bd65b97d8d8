"""What a worker may hold: long jobs are not hoarded, short ones come in batches."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.pace import HORIZON_S, Pace


def simulate(pace: Pace, slots: int, run_s: float, for_s: float, at_s: float = 1_000.0) -> list[int]:
    """Run jobs of one length on all slots, each slot a little later than the one before; the allowance at each end."""
    ends = [at_s + run_s + slot * run_s / slots for slot in range(slots)]  # in order: a heap
    allowances = []
    while ends[0] < at_s + for_s:
        now = heapq.heapreplace(ends, ends[0] + run_s)
        pace.ended(run_s, now)
        allowances.append(pace.allowance(now))
    return allowances


def test_nothing_is_held_before_something_was_measured():
    assert Pace(1_000).allowance(5.0) == 0


@pytest.mark.parametrize("run_s", [2.0, 5.0, 60.0])
def test_long_jobs_are_never_held(run_s: int):
    allowances = simulate(Pace(10), 10, run_s, 600)
    assert len(allowances) > 50
    assert set(allowances) == {0}


def test_long_jobs_that_end_together_promise_nothing():
    """Ten ends at once look like a hundred a second; the run time says otherwise."""
    pace = Pace(10)
    for burst in range(20):
        now = 100.0 + 2 * burst
        for _ in range(10):
            pace.ended(2.0, now)
            assert pace.allowance(now) == 0


@pytest.mark.parametrize("first_s", [0.0, 1e-4])
def test_a_first_job_that_ends_at_once_promises_nothing_for_long_ones(first_s: float):
    pace = Pace(10)
    pace.ended(first_s, 100.0)
    for now in (102.0, 104.0, 106.0):
        for _ in range(10):
            assert pace.allowance(now) == 0
            pace.ended(2.0, now)
        assert pace.allowance(now) == 0


def test_short_jobs_come_in_batches_as_large_as_a_tenth_of_a_seconds_work():
    """A thousand a second: about a hundred are held, once a second has shown them."""
    allowances = simulate(Pace(10), 10, 0.010, 3.0)
    assert max(allowances) <= 1_000 * HORIZON_S
    assert min(allowances[1_000:]) >= 0.5 * 1_000 * HORIZON_S - 1


def test_short_jobs_are_held_within_the_first_half_second():
    assert max(simulate(Pace(10), 10, 0.010, 0.5)) >= 10


def test_jobs_that_block_the_loop_are_bounded_by_how_many_end():
    """A hundred slots and 1 ms each promise 100,000 a second; five a second is what the loop lets through."""
    pace, now = Pace(100), 50.0
    for _ in range(100):
        now += 0.2
        pace.ended(0.001, now)
        assert pace.allowance(now) == 0
    for _ in range(100):
        now += 0.02
        pace.ended(0.001, now)
    assert 1 <= pace.allowance(now) <= 50 * HORIZON_S


def test_an_idle_worker_forgets_its_pace():
    pace = Pace(10)
    simulate(pace, 10, 0.010, 2.0, at_s=0.0)
    assert pace.allowance(2.0) > 0
    assert pace.allowance(3.6) == 0


def test_looking_changes_nothing():
    """However often the fetcher asks, the answer is the same as if it had asked once."""
    asked, silent = Pace(10), Pace(10)
    for step in range(1, 500):
        now = step * 0.004
        asked.ended(0.001, now)
        silent.ended(0.001, now)
        for _ in range(3):
            asked.allowance(now)
    assert asked.allowance(2.0) == silent.allowance(2.0) > 0


def test_after_short_jobs_long_ones_stop_the_hoarding():
    """The run time is a running mean: 10 slots of long jobs after many short ones are enough to change it."""
    pace = Pace(10)
    simulate(pace, 10, 0.010, 2.0, at_s=0.0)
    for _ in range(10):
        pace.ended(2.0, 4.0)
    assert pace.allowance(4.0) == 0


ENDS = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 10)), max_size=200)


@given(st.integers(1, 200), ENDS, st.floats(0, 3))
def test_an_allowance_is_never_more_than_what_has_just_ended_allows(
    slots: int, ends: list[tuple[float, float]], later: float
):
    """Whatever the jobs do: at most a tenth of those that ended in the last one and a half seconds (two half windows
    and the gap that a quiet worker leaves between them).
    """
    pace, now, ended = Pace(slots), 0.0, []
    for gap, run_s in ends:
        now += gap
        pace.ended(run_s, now)
        ended.append(now)
    now += later
    assert 0 <= pace.allowance(now) <= HORIZON_S * sum(at >= now - 1.5 for at in ended)


@given(st.integers(1, 200), st.floats(0.001, 10), st.integers(1, 500))
def test_an_allowance_is_never_more_than_the_slots_can_start(slots: int, run_s: float, count: int):
    pace = Pace(slots)
    for _ in range(count):
        pace.ended(run_s, 7.0)
    assert pace.allowance(7.0) <= slots / run_s * HORIZON_S * (1 + 1e-9)


def test_other_slots_count_at_once():
    pace = Pace(1)
    for _ in range(1000):
        pace.ended(0.1, 7.0)
    before = pace.allowance(7.0)
    pace.slots = 10
    assert pace.allowance(7.0) == 10 * before == 10
