"""When a schedule ticks: crontabs over both DST changes, intervals without drift, and what one look enqueues."""

import random
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from rqueue.errors import ConfigError, MissingDependency
from rqueue.policy.periodic import AT_ONCE, Cron, cron, declared, every, look, look_at, resumed, rhythm_of
from rqueue.wire.periodic import Entry

HOUR, DAY, YEAR = 3_600_000, 86_400_000, 365 * 86_400_000

# zone -> for each change of 2026: the day, and what fixed times do that lie in the hour that is skipped or repeated.
SPRING = {"Europe/Berlin": "2026-03-29", "America/New_York": "2026-03-08", "Australia/Sydney": "2026-10-04"}
AUTUMN = {
    "Europe/Berlin": ("2026-10-25", 2),
    "America/New_York": ("2026-11-01", 1),
    "Australia/Sydney": ("2026-04-05", 2),
}


def ms(text: str, tz: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp() * 1000)


def local(moments, tz):
    return [f"{datetime.fromtimestamp(each / 1000, ZoneInfo(tz)):%d %H:%M %z}" for each in moments]


def between(rhythm, start, end):
    found = []
    while (start := rhythm.after(start)) < end:
        found.append(start)
    return found


@pytest.mark.parametrize(("tz", "day"), SPRING.items())
def test_a_fixed_time_in_the_skipped_hour_comes_right_after_it(tz, day):
    start = ms(f"{day}T00:00", tz)
    found = local(between(cron("30 2 * * *", tz), start - DAY, start + 2 * DAY), tz)
    assert [each[3:8] for each in found] == ["02:30", "03:00", "02:30"]
    hourly = between(cron("@hourly", tz), start - 1, start + 5 * HOUR)
    assert [b - a for a, b in pairwise(hourly)] == [HOUR] * 4


@pytest.mark.parametrize(("tz", "change"), AUTUMN.items())
def test_a_fixed_time_in_the_repeated_hour_comes_once_and_a_wildcard_each_time(tz, change):
    day, hour = change
    start = ms(f"{day}T00:00", tz)
    found = between(cron(f"30 {hour} * * *", tz), start, start + DAY)
    assert len(found) == 1
    assert datetime.fromtimestamp(found[0] / 1000, ZoneInfo(tz)).fold == 0
    assert len(between(cron("*/30 * * * *", tz), start - 1, start + 25 * HOUR)) == 50
    for second_pass in (found[0] + HOUR - 600_000, found[0] + HOUR + 60_000):
        assert cron(f"30 {hour} * * *", tz).after(second_pass) > second_pass + 20 * HOUR
        assert cron(f"30 {hour} * * *", tz).latest(start - 3 * DAY, second_pass) == found[0]


@pytest.mark.parametrize("tz", ["UTC", *SPRING, "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo"])
@pytest.mark.parametrize(
    "text", ["30 1 * * *", "0-59 1 * * *", "*/30 * * * *", "*/10 1 * * *", "0 2,3 * * *", "15,45 2 * * *", "@hourly"]
)
def test_the_latest_is_the_last_of_all_that_came(text, tz):
    """What is found by going back is what is found by walking. Breaks in the repeated hour without the walk forward,
    where a crontab that is read backward gives the day before.
    """
    rhythm, rng = cron(text, tz), random.Random(text + tz)
    for start in map(
        ms, ("2026-03-06", "2026-03-27", "2026-04-03", "2026-04-22", "2026-09-04", "2026-10-02", "2026-10-23")
    ):
        came = between(rhythm, start, start + 3 * DAY)
        assert came == sorted(set(came))
        for _ in range(5):
            now = rng.randrange(came[0], came[-1])
            assert rhythm.latest(came[0], now) == max(each for each in came if each <= now)
            assert rhythm.after(now) == min(each for each in came if each > now)


def test_shortcuts_and_seconds():
    assert cron(" @Daily ").after(ms("2026-01-01T05:00")) == ms("2026-01-02")
    assert cron("*/20 * * * * *").after(ms("2026-01-01")) == ms("2026-01-01T00:00:20")
    assert str(cron("0  5 * * 1", "Europe/Berlin")) == "cron 0 5 * * 1 Europe/Berlin"
    assert cron("0 0 29 2 *").after(ms("2026-01-01")) == ms("2028-02-29")


@pytest.mark.parametrize("text", ["", "x", "* * * *", "61 * * * *", "0 0 30 2 *", "@reboot", 5, None])
def test_a_crontab_that_is_none_is_refused_with_what_is_allowed(text):
    with pytest.raises(ConfigError, match=r"write 'minute hour day month weekday'.*@daily"):
        cron(text)


@pytest.mark.parametrize("tz", ["", "Berlin", "../etc/passwd", "/etc", "Europe", None, UTC])
def test_a_zone_that_is_none_is_refused(tz):
    with pytest.raises(ConfigError, match="IANA name"):
        cron("@daily", tz)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"seconds": 0.5},
        {"seconds": -5},
        {"seconds": True},
        {"hours": "1"},
        {"days": float("inf")},
        {"days": 20_000},
    ],
)
def test_an_interval_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match="every"):
        every(**given)


def test_an_interval_does_not_drift():
    rhythm = every(minutes=1, seconds=30)
    assert (rhythm.ms, str(rhythm)) == (90_000, "every 90 s")
    assert rhythm.after(7) == 90_007
    assert rhythm.latest(7, 7 + 100 * YEAR + 89_999) == 7 + 100 * YEAR - 100 * YEAR % 90_000


# One look

DUE = ms("2026-01-01T12:00")
MINUTELY = Entry("t", DUE, every=60_000)


def looked(now, **fields):
    found = look("s", replace(MINUTELY, **fields), now)
    return [(each - DUE) / 60_000 for each in found.fires], (found.entry.due - DUE) / 60_000


@pytest.mark.parametrize("rhythm", [{"every": 60_000}, {"every": None, "cron": "* * * * *"}])
@pytest.mark.parametrize(
    ("misfire", "late_s", "fires", "due"),
    [
        ("skip", -1, [], 0),
        ("skip", 0, [0], 1),
        ("skip", 59.999, [0], 1),
        ("skip", 600, [10], 11),  # the latest is on time, the ten before are missed
        ("once", 600, [10], 11),
        ("all", 0, [0], 1),
        ("all", 180, [0, 1, 2, 3], 4),
    ],
)
def test_what_was_missed_is_skipped_run_once_or_caught_up(rhythm, misfire, late_s, fires, due):
    assert looked(DUE + late_s * 1000, misfire=misfire, **rhythm) == (fires, due)


def test_only_what_is_late_by_less_than_the_grace_is_on_time():
    hourly = {"every": 3_600_000}
    assert looked(DUE + 59_999, **hourly) == ([0], 60)
    assert looked(DUE + 60_000, **hourly) == ([], 60)
    assert look("s", replace(MINUTELY, **hourly), DUE + 60_000).missed
    assert looked(DUE + 60_000, grace=60_001, **hourly) == ([0], 60)
    assert looked(DUE + 30 * 60_000, misfire="once", **hourly) == ([0], 60)


@pytest.mark.parametrize("fields", [{"every": 1000}, {"every": None, "cron": "* * * * * *"}])
@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_a_year_without_anybody_is_one_short_look(fields, misfire, monkeypatch):
    """Breaks when somebody walks through 31 million ticks: each step is counted."""
    steps, real = [], Cron.after
    monkeypatch.setattr(Cron, "after", lambda self, moment: steps.append(moment) or real(self, moment))
    found = look("s", replace(MINUTELY, misfire=misfire, **fields), DUE + YEAR)
    assert len(found.fires) == (AT_ONCE if misfire == "all" else 1)
    assert found.fires[-1] == (DUE + 99_000 if misfire == "all" else DUE + YEAR)
    assert len(steps) <= AT_ONCE + 1


def test_overlap_allow_asks_for_no_job():
    found = look("s", replace(MINUTELY, last_id="s@0"), DUE)
    assert (found.last_id, found.entry.last, found.entry.last_id) == ("", DUE, f"s@{DUE}")


def test_overlap_skip_drops_what_comes_while_the_last_job_is_alive():
    found = look("s", replace(MINUTELY, overlap="skip", misfire="all", last=1, last_id="s@1"), DUE + 60_000)
    assert (found.fires, found.last_id) == ((DUE,), "s@1")
    assert found.entry == replace(found.held, last=DUE, last_id=f"s@{DUE}")
    assert (found.held.due, found.held.last_id, found.held.pending) == (DUE + 120_000, "s@1", ())
    assert found.look_ms == found.held_look_ms == DUE + 120_000


def test_overlap_queue_keeps_what_comes_and_looks_each_second():
    stored = replace(MINUTELY, overlap="queue", last_id="s@1")
    first = look("s", stored, DUE)
    assert (first.held.pending, first.held_look_ms, first.look_ms) == ((DUE,), DUE + 1000, DUE + 60_000)
    between_ = look("s", first.held, DUE + 1000)
    assert (between_.fires, between_.entry.pending, between_.entry.due) == ((DUE,), (), DUE + 60_000)
    assert between_.held == first.held, "nothing changes while it waits"
    second = look("s", first.held, DUE + 60_000)
    assert (second.fires, second.entry.pending, second.look_ms) == ((DUE,), (DUE + 60_000,), DUE + 61_000)
    assert second.held.pending == (DUE, DUE + 60_000)


def test_overlap_queue_keeps_a_hundred_and_loses_none_that_are_to_be_caught_up():
    full = replace(MINUTELY, overlap="queue", misfire="all", last_id="s@1", pending=tuple(range(AT_ONCE)))
    found = look("s", full, DUE + 600_000)
    assert found.held == full
    assert found.fires == (0,)
    assert (found.entry.pending, found.entry.due) == (tuple(range(1, AT_ONCE)), DUE)
    assert look("s", found.entry, DUE + 600_000).held.pending == (*range(1, AT_ONCE), DUE)


def test_a_resumed_schedule_goes_on_in_its_rhythm_and_makes_up_for_nothing():
    paused = replace(MINUTELY, paused=True, pending=(1,), overlap="queue")
    assert look_at(paused) is None
    assert resumed(paused, DUE + 90_000) == replace(paused, paused=False, pending=(), due=DUE + 120_000)
    assert resumed(paused, DUE - 1) == replace(paused, paused=False, pending=())
    assert look_at(replace(paused, paused=False)) == 1
    assert look_at(MINUTELY) == DUE


def test_a_crontab_needs_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingDependency, match=r"pip install 'rqueue\[cron\]'"):
        cron("@daily")
    assert every(minutes=1).after(0) == 60_000


# What the code declares

CODE = replace(MINUTELY, due=0, source="code", code="v1")


def test_a_declared_schedule_is_added_and_its_first_tick_is_an_interval_away():
    assert declared(CODE, None, DUE) == replace(CODE, due=DUE + 60_000)
    daily = replace(CODE, every=None, cron="@daily")
    assert declared(daily, None, DUE) == replace(daily, due=ms("2026-01-02"))


def test_what_was_edited_stays_until_the_code_changes_and_a_pause_in_any_case():
    stored = replace(CODE, due=DUE, every=5000, paused=True, last=1, last_id="s@1")
    assert declared(CODE, stored, DUE) is None
    new = replace(CODE, code="v2", args=(1,))
    assert declared(new, stored, DUE) == replace(new, due=DUE + 60_000, paused=True, last=1, last_id="s@1")


def test_a_change_that_is_not_of_the_rhythm_leaves_the_next_tick():
    new = replace(CODE, code="v2", args=(1,), overlap="queue")
    assert declared(new, replace(CODE, due=DUE + 7), DUE) == replace(new, due=DUE + 7)
    waiting = replace(CODE, due=DUE + 7, overlap="queue", pending=(1,))
    assert declared(new, waiting, DUE) == replace(new, due=DUE + 7, pending=(1,))


def test_the_code_takes_over_a_name_that_was_added():
    assert declared(CODE, replace(MINUTELY, every=5000), DUE) == replace(CODE, due=DUE + 60_000)


def test_what_is_stored_is_no_rhythm_here():
    with pytest.raises(ConfigError):
        rhythm_of(Entry("t", 1, cron="nonsense"))
    with pytest.raises(ConfigError):
        look("s", Entry("t", 1, cron="@daily", tz="Mars/Base"), DUE)
