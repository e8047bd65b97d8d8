"""tally: what stands for a bucket is within 1 % of all that is in it, and sums lose nothing."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.results.tally import ERROR, GAMMA, LAST, Histogram, Tally, bucket_of, value_ms

YEAR_MS = 366 * 86_400_000


@given(st.integers(1, 100 * YEAR_MS))
def test_a_bucket_stands_for_what_is_in_it_within_the_error(ms):
    assert abs(value_ms(bucket_of(ms)) - ms) <= ms * (ERROR + 1e-9)


@given(st.integers(-5, 100 * YEAR_MS), st.integers(-5, 100 * YEAR_MS))
def test_buckets_are_in_the_order_of_times(one, other):
    low, high = sorted((one, other))
    assert bucket_of(low) <= bucket_of(high)


def test_the_ends_of_the_range():
    assert [bucket_of(ms) for ms in (-(10**6), 0, 1, 2**63 - 1)] == [0, 0, 1, LAST]
    assert value_ms(0) == 0
    assert bucket_of(math.floor(GAMMA**50)) <= 51 < bucket_of(math.ceil(GAMMA**51))
    assert value_ms(LAST) > 100 * YEAR_MS


@given(st.lists(st.integers(0, YEAR_MS), min_size=1, max_size=300), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_what_so_many_percent_do_not_exceed(values, percent):
    histogram = Histogram()
    histogram.add_ms(",".join(f"{value},1" for value in values))
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    assert histogram.percentile_s(percent) == pytest.approx(exact / 1000, rel=ERROR + 1e-9)


def test_there_is_no_percentile_of_nothing():
    assert Histogram().percentile_s(99) is None
    assert Histogram().dump() == ""


@given(st.lists(st.lists(st.integers(0, YEAR_MS), max_size=50), max_size=5))
def test_sums_of_parts_are_the_whole(parts):
    whole, total = Histogram(), Histogram()
    for part in parts:
        each = Histogram()
        each.add_ms(",".join(f"{value},1" for value in part))
        total.add(each.dump())
        whole.add_ms(",".join(f"{value},1" for value in part))
    assert total.counts == whole.counts
    assert sum(total.counts) == sum(map(len, parts))


def test_what_a_task_is_told_of():
    tally = Tally()
    tally.add(SimpleNamespace(succeeded=6, failed=3, revoked=1, waits="10,8", runs=""), in_ms=True)
    tally.add(SimpleNamespace(succeeded=2, failed=0, revoked=0, waits=f"{bucket_of(1000)},2", runs="0,1"))
    stats = tally.stats("mail.send")
    assert (stats.task, stats.count, stats.succeeded, stats.failed, stats.revoked) == ("mail.send", 12, 8, 3, 1)
    assert stats.failure_rate == 0.25
    assert stats.wait_p50 == pytest.approx(0.010, rel=ERROR)
    assert stats.wait_p95 == stats.wait_p99 == pytest.approx(1, rel=ERROR)
    assert (stats.run_p50, stats.run_p99) == (0, 0)
    assert Tally().stats(None).failure_rate == 0
    assert Tally().stats(None).run_p50 is None
