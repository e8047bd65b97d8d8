"""fault: which runs were in flight when something was done."""

import pytest

from .fault import SETTLE_S, Fault
from .oracle import Run, Sent


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


def test_what_ends_while_nobody_hears_of_it_is_cut_off():
    ends = (9.9, 10.05, None)
    runs = [Run("m", 8, "a", 9.0, end) for end in ends]
    assert [fault(pids={8}, hides=True).cut(run) for run in runs] == [False, True, True]


def test_a_fault_of_redis_hits_all_and_one_of_nobody_none():
    run = Run("m", 8, "a", 9.0)
    assert fault(pids=None).hit(run)
    assert not fault(pids=()).hit(run)


def sent(at, confirmed):
    return Sent("quick", "default", at, confirmed=confirmed)


def test_what_redis_may_forget():
    jobs = [sent(7.8, 7.9), sent(7.9, 8.1), sent(9.0, 12.0), sent(10.05, 10.06), sent(10.2, 10.3), sent(9.0, None)]
    assert [fault(forgets_s=2).may_forget(job) for job in jobs] == [False, True, True, True, False, False]
    assert not any(fault().may_forget(job) for job in jobs)
    assert fault(forgets_s=float("inf")).may_forget(sent(0.1, 0.2))


def test_what_was_sent_when_it_had_forgotten_it_may_not_forget():
    flush = fault(forgets_s=2)
    flush.forgot = 10.01
    assert [flush.may_forget(job) for job in (sent(10.0, 10.4), sent(10.02, 10.03))] == [True, False]


def test_which_ends_redis_may_forget():
    runs = [Run("m", 8, "a", 7.0, 7.9), Run("m", 8, "a", 7.0, 9.9), Run("m", 8, "a", 10.2, 10.3), Run("m", 8, "a", 9.0)]
    assert [fault(forgets_s=2).may_forget_end(run) for run in runs] == [False, True, False, False]
    assert not any(fault().may_forget_end(run) for run in runs)
