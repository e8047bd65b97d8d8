"""schedule: when the next scheduled job is due, as far as this worker knows."""

import asyncio

import pytest

from rqueue.worker.schedule import Schedule


@pytest.fixture
def changed():
    return asyncio.Event()


@pytest.fixture
def schedule(changed):
    return Schedule(changed)


def test_at_first_nothing_is_known(schedule, changed):
    assert schedule.left_s() is None
    assert not changed.is_set()


def test_the_first_due_time_is_news(schedule, changed):
    schedule.note(60_000)
    assert 59 < schedule.left_s() <= 60
    assert changed.is_set()


def test_an_earlier_one_is_news_and_a_later_one_is_not(schedule, changed):
    schedule.note(60_000)
    changed.clear()
    schedule.note(90_000)
    assert not changed.is_set()
    assert schedule.left_s() > 60
    schedule.note(30_000)
    assert changed.is_set()
    assert schedule.left_s() <= 30


def test_what_is_due_is_due_now(schedule):
    schedule.note(0)
    assert schedule.left_s() == 0
    schedule.note(-50)
    assert schedule.left_s() == 0


def test_nothing_any_more(schedule, changed):
    schedule.note(60_000)
    changed.clear()
    schedule.note(None)
    assert schedule.left_s() is None
    assert not changed.is_set()
    schedule.note(None)
    assert not changed.is_set()
