"""Redis's time as seen from here, and a clock that nobody sets."""

import time

from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.clock import RedisClock, elapsed_s, local_ms


class ManualClock:
    """A clock that goes when it is told to."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def test_before_anything_was_observed_it_is_this_machines_time():
    assert RedisClock(ManualClock(5)).now_ms() == 5


@given(st.integers(0, 2**53), st.integers(0, 10**9), st.integers(0, 2**53), st.integers(0, 10**9))
def test_it_goes_on_from_what_was_observed(local: int, elapsed: int, redis: int, passed: int):
    here = ManualClock(elapsed)
    clock = RedisClock(ManualClock(local), elapsed=lambda: here() / 1000)
    clock.observe(redis)
    assert clock.now_ms() == redis
    here.now_ms += passed
    assert abs(clock.now_ms() - redis - passed) <= 1, "cut to whole ms"


@given(st.integers(-(10**9), 10**9))
def test_a_wall_clock_that_jumps_moves_nothing_once_redis_was_asked(jump: int):
    """Breaks when the offset to the wall clock is kept: a job that may wait for long is then said to have expired."""
    wall = ManualClock(10**12)
    clock = RedisClock(wall, elapsed=lambda: 7.0)
    clock.observe(9_000)
    wall.now_ms += jump
    assert clock.now_ms() == 9_000


def test_the_last_observation_counts():
    here = ManualClock(1_000)
    clock = RedisClock(elapsed=lambda: here() / 1000)
    clock.observe(9_000)
    here.now_ms = 2_000
    clock.observe(3_000)
    here.now_ms = 2_500
    assert clock.now_ms() == 3_500


def test_local_time_is_the_wall_clocks_in_ms():
    before = time.time_ns()
    now = local_ms()
    assert before // 1_000_000 <= now <= time.time_ns() // 1_000_000


def test_elapsed_time_never_goes_back_and_is_in_seconds():
    before, begun = elapsed_s(), time.monotonic()
    marks = [elapsed_s() for _ in range(1_000)]
    after, ended = elapsed_s(), time.monotonic()
    assert sorted(marks) == marks
    assert before <= marks[0]
    assert abs((after - before) - (ended - begun)) < 0.5
