"""fault: which runs were in flight when something was done."""

import pytest

from .fault import SETTLE_S, Fault
from .oracle import Run


def fault(began=10.0, ended=10.1, **more):
    made = Fault("kill", **more)
    made.began, made.ended = began, ended
    return made


@pytest.mark.parametrize(
    ("run", "is_hit", "is_cut"),
    [
        (Run("m", 8, "a", 9.0), True, True),
        (Run("m", 8, "a", 9.0, 10.05), True, False),
        (Run("m", 8, "a", 9.0, 10.0 - SETTLE_S / 2), True, False),
        (Run("m", 8, "a", 9.0, 10.0 - 2 * SETTLE_S), False, False),
        (Run("m", 8, "a", 10.2), False, False),
        (Run("m", 9, "a", 9.0), False, False),
    ],
    ids=["under way", "ended meanwhile", "just ended", "ended long before", "began after", "another process"],
)
def test_what_is_in_flight(run, is_hit, is_cut):
    assert (fault(pids={8}).hit(run), fault(pids={8}).cut(run)) == (is_hit, is_cut)


def test_a_frozen_process_s_late_end_was_in_flight():
    run = Run("m", 8, "a", 9.0, 15.2)
    assert fault(ended=15.0, pids={8}).cut(run)
    assert not fault(ended=15.0, pids={8}).hit(Run("m", 8, "b", 15.1, 15.2)), "begun when it went on: no excuse"


def test_a_fault_of_redis_hits_all_and_one_of_nobody_none():
    run = Run("m", 8, "a", 9.0)
    assert fault(pids=None).hit(run)
    assert not fault(pids=()).hit(run)


def test_what_redis_may_forget():
    assert not fault().may_forget(9.9)
    assert [fault(forgets_s=2).may_forget(at) for at in (7.9, 8.1, 10.05, 10.2)] == [False, True, True, False]
    assert fault(forgets_s=float("inf")).may_forget(0.1)
