"""verdict: each thing that is against a guarantee is seen. A suite that cannot fail shows nothing."""

import pytest

from .fault import Fault
from .oracle import Oracle, Run, Sent
from .rows import Kept
from .verdict import Judge

RESULT = {"state": "SUCCESS", "result": {"mark": "m.1", "run": "a"}}
AGAIN = "ran again, and was not in flight at a fault"
OTHERS_RESULT = {"state": "SUCCESS", "result": {"mark": "m.1", "run": "b"}}


def kill(began=10.0, pid=8, **more):
    fault = Fault("kill", {pid}, heals="again", **more)
    fault.began = fault.ended = began
    return fault


def sent(kind="quick", **more):
    return Sent(kind, "default", **{"at": 1.0, "confirmed": 1.5, "job_id": "j", **more})


def judge(*runs, job=None, faults=None, letters=None, records=None, left=None, rows=None):
    """The verdict on one job."""
    oracle = Oracle(None, sent={"m.1": job or sent()})
    oracle.runs["m.1"] = list(runs)
    return Judge(oracle, [kill()] if faults is None else faults, letters or {}, records or {}, left or {}, rows).judge()


def run(name="a", began=2.0, ended=3.0, pid=8, **more):
    return Run("m.1", pid, name, began, ended, **more)


def test_a_job_that_ran_once_is_done():
    verdict = judge(run(), records={"j": RESULT})
    assert (verdict.broken, verdict.confirmed, verdict.done, verdict.lost, verdict.doubled) == ([], 1, 1, 0, 0)


def test_a_cut_job_that_ran_again_is_done_and_says_when_it_was_back():
    verdict = judge(run(began=9.9, ended=None), run("b", 10.4, 11.0, 9), records={"j": OTHERS_RESULT})
    assert (verdict.broken, verdict.done, verdict.in_flight, verdict.again) == ([], 1, 1, 1)
    assert verdict.recovered_s == [pytest.approx(0.4)]


@pytest.mark.parametrize("runs", [[], [run(ended=None)], [run(is_failure=True)]], ids=["no run", "no end", "failed"])
def test_a_loss_is_seen(runs):
    verdict = judge(*runs)
    assert verdict.lost == 1
    assert verdict.broken[0].startswith("lost: 1: m.1")


def test_what_was_not_confirmed_is_not_lost():
    assert judge(job=sent(confirmed=None, refused="EnqueueUnknown")).broken == []


def test_a_double_in_flight_is_counted_and_no_other_is_allowed():
    again = run("b", 10.3, 10.5, 9)
    assert judge(run(began=9.8, ended=9.9), again, records={"j": OTHERS_RESULT}).broken == []
    verdict = judge(run(began=2.0, ended=3.0), again)
    assert verdict.doubled == 1
    assert verdict.broken[0].startswith("doubled, and not in flight")


def test_a_third_end_needs_a_second_fault():
    runs = [run("a", 9.8, 9.9), run("b", 10.1, 10.2, 9), run("c", 10.3, 10.4, 9)]
    records = {"j": {**RESULT, "result": {"mark": "m.1", "run": "c"}}}
    assert judge(*runs, records=records).broken
    assert judge(*runs, faults=[kill(), kill(10.25, 9)], records=records).broken == []


@pytest.mark.parametrize(
    ("kind", "runs", "is_right"),
    [
        ("quick", [run("a", ended=None, pid=7), run("b", 4.0, 5.0)], False),  # given up by its worker, and run anew
        ("flaky", [run("a", is_failure=True), run("b", 4.0, 5.0)], True),
        ("flaky", [run("a", is_failure=True), run("b", 3.5, 3.7, is_failure=True), run("c", 4.0, 5.0)], False),
        ("quick", [run("a", is_failure=True), run("b", 4.0, 5.0)], False),
    ],
)
def test_a_run_too_many_is_seen_whether_it_ended_or_not(kind, runs, is_right):
    verdict = judge(
        *runs,
        job=sent(kind),
        records={"j": OTHERS_RESULT if len(runs) < 3 else {**RESULT, "result": {"mark": "m.1", "run": "c"}}},
    )
    assert [text.partition(":")[0] for text in verdict.broken] == ([] if is_right else [AGAIN])


def test_a_poison_pill_runs_three_times():
    faults = [Fault("poison", {pid}, heals="again", cause="m.1", charges=False) for pid in (1, 2, 3, 4)]
    runs = [run(str(pid), 10.0 * pid, None, pid) for pid in (1, 2, 3, 4)]
    for fault, each in zip(faults, runs, strict=True):
        fault.began = each.began
    letters = {"m.1": "worker lost"}
    assert judge(*runs[:3], job=sent("poison"), faults=faults, letters=letters).broken == []
    assert "more workers" in judge(*runs, job=sent("poison"), faults=faults, letters=letters).broken[0]


def test_a_result_that_redis_may_forget_is_not_missed():
    verdict = judge(run(ended=9.5), faults=[kill(10.0, pid=9, forgets_s=1.0)], records={})
    assert verdict.broken == []


def test_a_forgotten_job_that_runs_all_the_same_has_no_result():
    forgets = kill(2.0, pid=9, forgets_s=1.0)
    assert judge(run(began=2.1, ended=30.0), faults=[forgets]).broken == []
    assert judge(run(began=2.1, ended=30.0), job=sent(at=2.05, confirmed=2.06), faults=[forgets]).broken != []


def test_it_counts_the_faults_that_cut_something_off():
    verdict = judge(
        run(began=9.9, ended=None),
        run("b", 10.4, 11.0, 9),
        faults=[kill(), kill(20.0, 9)],
        records={"j": OTHERS_RESULT},
    )
    assert (verdict.struck, verdict.aimed) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "reason", "cuts", "is_right"),
    [
        ("failing", "failed", 0, True),
        ("quick", "failed", 0, False),
        ("quick", "worker lost", 2, False),
        ("quick", "worker lost", 3, True),
        ("poison", "worker lost", 0, True),
        ("quick", "malformed", 0, False),
    ],
)
def test_dead_letters(kind, reason, cuts, is_right):
    faults = [kill(10.0 * number, number) for number in range(1, cuts + 1)] or [kill()]
    runs = [run(str(fault.pids), fault.began - 1, None, pid) for fault in faults[:cuts] for pid in fault.pids]
    verdict = judge(*runs, job=sent(kind), faults=faults, letters={"m.1": reason})
    assert (verdict.dead, verdict.lost, not verdict.broken) == (is_right, not is_right, is_right)


def test_a_poison_pill_s_neighbour_is_never_a_dead_letter():
    faults = [kill(10.0 * number, number, charges=False) for number in (1, 2, 3)]
    runs = [run(str(pid), 10.0 * pid - 1, None, pid) for pid in (1, 2, 3)]
    assert judge(*runs, faults=faults, letters={"m.1": "worker lost"}).lost == 1


def test_what_redis_may_forget_is_not_lost_and_is_counted():
    verdict = judge(faults=[kill(2.0, forgets_s=1.0)])
    assert (verdict.forgotten, verdict.lost, verdict.broken) == (1, 0, [])


def test_the_result_of_a_worker_that_had_lost_its_claim_is_seen():
    frozen = Fault("freeze", {8})
    frozen.began, frozen.ended = 2.5, 12.0
    runs = [run("a", 2.0, 12.1), run("b", 5.0, 6.0, 9)]
    assert judge(*runs, faults=[frozen], records={"j": OTHERS_RESULT}).broken == []
    assert "lost its claim" in judge(*runs, faults=[frozen], records={"j": RESULT}).broken[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"records": {"j": {"state": "REVOKED"}}}, "its result does not say so"),
        ({"job": sent(confirmed=None, refused="BrokerUnavailable")}, "its enqueue was refused"),
        ({"job": sent(countdown=1.5)}, "started before its time"),
        ({"records": {}}, "has no result"),
        ({"letters": {"m.1": "worker lost"}}, "is a dead letter"),
        ({"left": {"rqueue:{default}:p3": "list"}}, "keys left over: 1: rqueue:{default}:p3 (list)"),
        ({"faults": []}, "nothing was done to it"),
        ({"faults": [Fault("clock jump", ())], "records": {"j": {**RESULT, "losses": 1}}}, "charged with the loss"),
    ],
)
def test_each_broken_promise_is_seen(more, said):
    verdict = judge(run(), **{"records": {"j": RESULT}, **more})
    assert len(verdict.broken) == 1
    assert said in verdict.broken[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([Kept("SUCCESS", "a")], ""),
        ([], "has no row"),
        ([Kept("SUCCESS", "a"), Kept("SUCCESS", "a")], "more than one row"),
        ([Kept("SUCCESS", "b")], "not that of its end"),
        ([Kept("RETRY")], "not that of its end"),
    ],
)
def test_a_settled_job_has_one_row_that_says_what_redis_does(rows, said):
    verdict = judge(run(), records={"j": RESULT}, rows={"j": rows})
    assert [said in text for text in verdict.broken] == ([True] if said else [])


def test_a_dead_letter_s_row_is_a_failure():
    dead = {"job": sent("failing"), "letters": {"m.1": "failed"}}
    assert judge(run(is_failure=True), **dead, rows={"j": [Kept("FAILURE")]}).broken == []
    assert "not that of its end" in judge(run(is_failure=True), **dead, rows={"j": [Kept("RETRY")]}).broken[0]
    assert "has no row" in judge(run(is_failure=True), **dead, rows={}).broken[0]
