"""The lifecycle is a table: its verbs are the scripts, and its rows lead from a beginning to an end."""

from pathlib import Path

import pytest

from rqueue.broker.broker import Broker
from rqueue.wire.state import FINAL, LIFECYCLE, OTHER_VERBS, VERBS_WITHOUT_SCRIPT, WORKER_VERBS, Place, State

SCRIPTS = {path.stem for path in (Path(__file__).parents[2] / "rqueue" / "broker" / "lua").glob("*.lua")}
VERBS = {move.verb for move in LIFECYCLE} | {*WORKER_VERBS, *OTHER_VERBS}


def test_the_verbs_are_the_scripts():
    assert VERBS - VERBS_WITHOUT_SCRIPT == SCRIPTS


def test_each_verb_is_one_method_of_the_broker():
    assert {verb for verb in VERBS if not callable(getattr(Broker, verb, None))} == set()


def test_no_row_is_there_twice():
    assert len(set(LIFECYCLE)) == len(LIFECYCLE)


def reached(start: Place, *, backwards: bool = False) -> set[Place]:
    """The places that can be reached from one by the table's rows, or from which it can be reached."""
    found, left = {start}, [start]
    while left:
        here = left.pop()
        steps = [(move.target, move.source) if backwards else (move.source, move.target) for move in LIFECYCLE]
        for source, target in steps:
            if source is here and target not in found:
                found.add(target)
                left.append(target)
    return found


def test_every_place_is_reached_from_the_enqueue():
    assert reached(Place.ABSENT) == set(Place)


@pytest.mark.parametrize("place", [Place.WAITING, Place.SCHEDULED, Place.CLAIMED, Place.DEAD])
def test_every_place_leads_to_an_end(place: Place):
    assert Place.SETTLED in reached(place)


def test_a_settled_job_does_not_run_again():
    """Only a job that was settled before it started (acks_late=False) moves on: to its end, its letter, its retry."""
    assert {(move.verb, move.target) for move in LIFECYCLE if move.source is Place.SETTLED} == {
        ("record", Place.SETTLED),
        ("record", Place.DEAD),
        ("retry", Place.SCHEDULED),
    }


def test_a_job_is_claimed_before_it_is_settled():
    """Unless it is cancelled while it waits."""
    ways = {move.source for move in LIFECYCLE if move.target is Place.SETTLED and move.verb != "cancel"}
    assert ways == {Place.CLAIMED, Place.SETTLED}


def test_the_states_have_celerys_names():
    assert [state.value for state in State] == ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


def test_the_final_states():
    assert {state for state in State if state.is_final} == FINAL == {State.SUCCESS, State.FAILURE, State.REVOKED}


def test_a_state_is_its_name_wherever_text_is_wanted():
    assert f"{State.SUCCESS}" == State.SUCCESS == "SUCCESS"
