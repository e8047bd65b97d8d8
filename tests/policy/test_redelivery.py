"""A dead worker's messages: only what had started is charged, and the third loss is the last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.policy.redelivery import charged, is_suspect, redeliver
from rqueue.wire.message import Header, Message

BODY = b'{"task": "t", "new": 1.0}'


def message(losses: int = 0) -> Message:
    return Message.build(Header(9, losses, 3, 5, "order-17"), BODY)


@pytest.mark.parametrize("losses", [0, 2, 3, 100])
def test_what_had_not_started_goes_back_as_it_was(losses: int):
    fate = redeliver(message(losses), started=False, max_deliveries=1)
    assert fate.message.raw == message(losses).raw
    assert not fate.is_dead


def test_what_had_started_is_charged_one_loss_and_nothing_else():
    fate = redeliver(message(), started=True, max_deliveries=3)
    assert fate.message.raw == b"1 9 1 3 5 order-17 " + BODY
    assert not fate.is_dead


@pytest.mark.parametrize("max_deliveries", [1, 2, 3, 10])
def test_a_job_is_dead_at_so_many_losses_and_not_before(max_deliveries: int):
    fate, deaths = redeliver(message(), started=True, max_deliveries=max_deliveries), 1
    while not fate.is_dead:
        fate, deaths = redeliver(fate.message, started=True, max_deliveries=max_deliveries), deaths + 1
    assert deaths == fate.message.header.losses == max_deliveries


def test_a_limit_that_was_lowered_since_makes_it_dead():
    assert redeliver(message(5), started=True, max_deliveries=3).is_dead


@given(st.integers(0, 9), st.booleans())
def test_what_goes_on_can_be_read_by_the_next_worker(losses: int, started: bool):
    fate = redeliver(message(losses), started, max_deliveries=3)
    assert Message.parse(fate.message.raw) == fate.message


@pytest.mark.parametrize(("losses", "suspect"), [(0, False), (1, False), (2, True), (3, True)])
def test_from_the_second_loss_on_it_runs_alone(losses: int, suspect: bool):
    assert is_suspect(losses) is suspect


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ({}, set()),
        ({"a": 0, "b": 0}, {"a", "b"}),
        ({"a": 0, "b": 1}, {"b"}),
        ({"a": 0, "b": 1, "c": 2}, {"b", "c"}),
    ],
)
def test_the_first_loss_charges_all_that_ran_and_a_later_one_only_those_that_were_charged_before(running, expected):
    assert charged(running) == expected
