"""How many jobs of a task may start in a time: Celery's notation, and what a limit lets through."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.errors import ConfigError
from rqueue.policy.rate import LONGEST_WAIT_S, TOLERANCE_S, Rates, parse_rate


@pytest.mark.parametrize(
    ("text", "interval_s"),
    [
        ("10/s", 0.1),
        ("100/m", 0.6),
        ("5/h", 720.0),
        ("4", 0.25),
        (4, 0.25),
        ("0.5/s", 2.0),
        (" 10/S ", 0.1),
        ("0", None),
        (0, None),
        ("0/m", None),
        ("none", None),
        ("None", None),
        (None, None),
    ],
)
def test_celerys_notation(text, interval_s):
    assert parse_rate(text) == (interval_s if interval_s is None else pytest.approx(interval_s))


@pytest.mark.parametrize("text", ["", "x", "10/x", "-1/s", "10/", "/s", "1e3", "inf", True, [1], "10 /s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ConfigError, match="write 10/s"):
        parse_rate(text)


def limited(rate):
    rates = Rates()
    rates.set("t", rate)
    return rates


def starts(rates, jobs, for_s, late_s=0.0, at_s=100.0):
    """Bring jobs at once, and each again when it was told to; when those started that did."""
    line, started = [(at_s, number) for number in range(jobs)], []
    heapq.heapify(line)
    while line and line[0][0] <= at_s + for_s:
        now, number = heapq.heappop(line)
        wait_s = rates.wait_s("t", now)
        if wait_s:
            heapq.heappush(line, (now + wait_s + late_s, number))
        else:
            started.append(now)
    return started


def test_without_a_limit_nobody_waits():
    assert len(starts(Rates(), 50, 0)) == 50


def test_one_starts_at_once_and_the_next_after_the_interval():
    rates = limited("1/m")
    assert rates.wait_s("t", 100.0) == 0
    assert rates.wait_s("t", 100.0) == 60.0
    assert rates.wait_s("t", 101.0) == LONGEST_WAIT_S, "the slot after that is more than a minute away"
    assert rates.wait_s("t", 160.0) == 0


def test_another_task_is_not_limited():
    rates = limited("1/h")
    assert [rates.wait_s("u", 1.0) for _ in range(5)] == [0] * 5


def test_a_limit_that_is_lifted_is_gone():
    rates = limited("1/h")
    rates.wait_s("t", 1.0)
    assert rates.text("t") == "1/h"
    rates.set("t", "0")
    assert (rates.text("t"), rates.wait_s("t", 1.0)) == (None, 0)


def test_those_who_wait_come_back_one_after_the_other():
    """Breaks when all are told the same time: then each of them comes back as often as there are others before it."""
    rates = limited("10/s")
    waits = [rates.wait_s("t", 100.0) for _ in range(6)]
    assert waits[:2] == [0, 0], "a tenth of a second of tolerance is one interval"
    assert waits[2:] == [pytest.approx(each) for each in (0.2, 0.3, 0.4, 0.5)]


@pytest.mark.parametrize("late_s", [0.0, 0.02])
@pytest.mark.parametrize(("rate", "per_s"), [("10/s", 10), ("100/m", 100 / 60), ("200/s", 200)])
def test_a_crowd_starts_at_the_rate_and_not_above(rate, per_s, late_s):
    """What was put off comes back late, and no slot is lost for that."""
    for_s = 8
    started = starts(limited(rate), 2000, for_s, late_s)
    most = for_s * per_s + TOLERANCE_S * per_s + 1
    assert 0.9 * for_s * per_s <= len(started) <= most
    for start in started:
        in_a_second = sum(start <= other < start + 1 for other in started)
        assert in_a_second <= per_s * (1 + TOLERANCE_S) + 1.01


@given(st.lists(st.floats(0, 5), max_size=60), st.sampled_from(["1/s", "10/s", "30/m", "1000/s"]))
def test_never_more_than_the_rate_in_any_window(gaps, rate):
    rates, interval_s, now, started = limited(rate), parse_rate(rate), 0.0, []
    for gap in gaps:
        now += gap / 10
        wait_s = rates.wait_s("t", now)
        assert 0 <= wait_s <= LONGEST_WAIT_S
        if wait_s == 0:
            started.append(now)
    for first in range(len(started)):
        for last in range(first, len(started)):
            allowed = (started[last] - started[first] + TOLERANCE_S) / interval_s + 1
            assert last - first + 1 <= allowed + 1e-6
