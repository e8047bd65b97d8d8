"""outcome: plain data that compares by value; what is not made for each job cannot be changed either."""

import dataclasses
from typing import get_args

import pytest

from rqueue.worker import outcome
from rqueue.worker.outcome import Ack, Defer, Outcome, Release, Settlement, Succeeded


@pytest.mark.parametrize("kind", [*get_args(Outcome), *get_args(Settlement)])
def test_outcomes_and_settlements_are_frozen(kind):
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen or kind in (Succeeded, Ack)  # a frozen one takes four times as long to make
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_they_compare_by_value():
    assert Succeeded(b"1") == Succeeded(b"1") != Succeeded(b"2")
    assert Ack(b"r", "0") != Ack(b"r", "")
    assert Release() == Release()


def test_a_defer_says_nothing_by_default():
    assert {field.name: field.default for field in dataclasses.fields(Defer)}["record"] == b""


def test_all_of_them_are_listed():
    classes = {
        each
        for each in vars(outcome).values()
        if dataclasses.is_dataclass(each) and each.__module__ == outcome.__name__
    }
    assert classes == {*get_args(Outcome), *get_args(Settlement)}
