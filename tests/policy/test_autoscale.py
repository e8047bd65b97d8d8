"""How many there should be: up quickly, down slowly, and never beyond the bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.autoscale import SETTLE_S, Autoscale, Change

BOUNDS = st.tuples(st.integers(1, 50), st.integers(0, 200)).map(lambda pair: (pair[0] + pair[1], pair[0]))
LOOKS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 1), st.integers(0, 1000)), max_size=60)


def sizes(scale, size, looks):
    """What becomes of a size at looks of (seconds since the last one, share that is busy, jobs that wait)."""
    now, found = 0.0, []
    for later, share, waiting in looks:
        now += later
        busy = round(share * size)
        change = scale.decide(now, size, busy, waiting)
        found.append((now, size, busy, waiting, change))
        size = change.size if change else size
    return found


def test_it_doubles_at_each_look_while_all_are_busy_and_something_waits():
    scale, size, seen = Autoscale(20, 2), 2, []
    for second in range(5):
        change = scale.decide(second, size, size, 1000)
        size = change.size if change else size
        seen.append(size)
    assert seen == [4, 8, 16, 20, 20]


def test_it_grows_by_no_more_than_what_waits():
    assert Autoscale(20, 2).decide(0, 8, 8, 3) == Change(11, "3 wait and all 8 are busy")


@pytest.mark.parametrize(("busy", "waiting"), [(8, 0), (7, 100), (0, 100)])
def test_it_does_not_grow_while_nothing_waits_or_not_all_are_busy(busy, waiting):
    assert Autoscale(20, 2).decide(0, 8, busy, waiting) is None


def test_it_shrinks_by_a_quarter_once_in_a_while():
    scale, size, seen = Autoscale(20, 2), 16, []
    for look in range(12):
        change = scale.decide(look * SETTLE_S / 2, size, 0, 0)
        size = change.size if change else size
        seen.append(size)
    assert seen == [16, 16, 12, 12, 9, 9, 7, 7, 6, 6, 5, 5]
    assert change is None


def test_it_does_not_shrink_below_what_was_busy_meanwhile():
    """One look at which many are busy counts for the whole time."""
    scale = Autoscale(20, 2)
    scale.decide(0, 16, 1, 0)
    scale.decide(10, 16, 15, 0)
    assert scale.decide(SETTLE_S, 16, 0, 0) == Change(15, "at most 15 of 16 were busy in 30 s")
    scale.decide(SETTLE_S + 1, 15, 15, 0)
    assert scale.decide(2 * SETTLE_S, 15, 0, 0) is None


def test_after_it_has_grown_it_waits_before_it_shrinks():
    scale = Autoscale(20, 2)
    scale.decide(0, 2, 2, 0)
    assert scale.decide(SETTLE_S - 1, 2, 2, 9) is not None
    assert scale.decide(SETTLE_S + 1, 4, 0, 0) is None
    assert scale.decide(2 * SETTLE_S, 4, 0, 0) is not None


def test_the_fewest_stay():
    assert Autoscale(20, 3, settle_s=0).decide(0, 4, 0, 0) == Change(3, "at most 0 of 4 were busy in 0 s")
    assert Autoscale(20, 3, settle_s=0).decide(0, 3, 0, 0) is None


def test_bounds_that_are_one_leave_it_as_it_is():
    scale = Autoscale(4, 4, settle_s=0)
    assert scale.decide(0, 4, 4, 1000) is None
    assert scale.decide(1, 4, 0, 0) is None


@given(BOUNDS, LOOKS)
def test_it_stays_within_its_bounds_and_each_change_is_one(bounds: tuple[int, int], looks: list):
    most, fewest = bounds
    for _, size, busy, waiting, change in sizes(Autoscale(most, fewest), fewest, looks):
        if change is None:
            continue
        assert fewest <= change.size <= most
        assert change.size != size
        if change.size > size:
            assert busy >= size
            assert change.size - size <= min(waiting, size)
        else:
            assert change.size >= busy


@given(BOUNDS, LOOKS)
def test_it_never_shrinks_sooner_than_it_may(bounds: tuple[int, int], looks: list):
    changes = [
        (now, change.size - size) for now, size, *_, change in sizes(Autoscale(*bounds), bounds[1], looks) if change
    ]
    before = [0.0, *(now for now, _ in changes)]
    assert all(by > 0 or now - last >= SETTLE_S for (now, by), last in zip(changes, before, strict=False))
