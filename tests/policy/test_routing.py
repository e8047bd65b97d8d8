"""Which queue and which priority: the precedence that the design fixes."""

import itertools

import pytest

from rqueue.policy.routing import choose_priority, choose_queue

ROUTES = [("*.email.*", "email"), ("shop.*", "shop"), ("*", "rest")]


@pytest.mark.parametrize(
    ("named", "queue"),
    [
        (("call", "task"), "call"),
        (("call", None), "call"),
        ((None, "task"), "task"),
        ((None, None), "email"),
        ((), "email"),
    ],
)
def test_the_calls_queue_then_the_tasks_then_a_route(named: tuple[str | None, ...], queue: str):
    assert choose_queue("shop.email.send", named, ROUTES) == queue


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("shop.email.send", "email"),
        ("shop.orders.pay", "shop"),
        ("shop", "rest"),
        ("email.send", "rest"),
        ("SHOP.orders", "rest"),
    ],
)
def test_the_first_route_that_matches_counts(task: str, queue: str):
    assert choose_queue(task, (), ROUTES) == queue


def test_without_a_match_it_is_default():
    assert choose_queue("a.b", (None, None), [("c.*", "c")]) == "default"
    assert choose_queue("a.b", (), []) == "default"


@pytest.mark.parametrize(("pattern", "task"), [("a?c", "abc"), ("a[bx]c", "abc"), ("a[!x]c", "abc"), ("*", "")])
def test_a_routes_pattern_is_a_shell_pattern(pattern: str, task: str):
    assert choose_queue(task, (), [(pattern, "found")]) == "found"


@pytest.mark.parametrize("given", [*itertools.product((None, 9), (None, 5), (None, 1))], ids=repr)
def test_the_calls_priority_then_the_parents_then_the_tasks(given: tuple[int | None, int | None, int | None]):
    assert choose_priority(*given) == next((priority for priority in given if priority is not None), None)
