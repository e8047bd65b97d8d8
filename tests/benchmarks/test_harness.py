"""The benchmarks' own arithmetic, and one run of a worker from end to end."""

import os
import sys
import time

import pytest

from benchmarks import report
from benchmarks.bodies import RECORD
from benchmarks.contender import HEADLINE, REST
from benchmarks.contenders import find_contenders
from benchmarks.environments import REQUIREMENTS
from benchmarks.goals import goals
from benchmarks.measure import Ran, Records, cpu_s, quantiles_ms, steady_rate, tree
from benchmarks.results import Results, Run
from benchmarks.rounds import Plan
from benchmarks.stage import Stage
from benchmarks.workloads import WORKLOADS, Pace, drain

MACHINE = {
    "processor": "P",
    "cores": "2",
    "memory": "8 kB",
    "load": "0.1",
    "system": "Linux 6",
    "server": "Valkey 9",
    "python": "3.11",
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def results(*runs):
    told = {"package": "p", "version": "1.0", "settings": "s"}
    return Results("2026-01-01", MACHINE, dict.fromkeys([run.contender for run in runs], told), list(runs))


def test_the_rate_leaves_out_how_long_a_worker_takes_to_start():
    assert steady_rate([Ran(10.0 + number / 100, 0.0, 1) for number in range(101)]) == pytest.approx(100)


def test_the_rate_counts_from_when_every_process_has_begun():
    alone = [Ran(number / 100, 0.0, 1) for number in range(100)]
    both = [Ran(1 + number / 200, 0.0, 1 + number % 2) for number in range(201)]
    assert steady_rate(alone + both) == pytest.approx(200, rel=0.02)


def test_a_process_that_begins_at_the_end_does_not_count():
    runs = [Ran(number / 100, 0.0, 1) for number in range(100)]
    assert steady_rate([*runs, Ran(1.0, 0.0, 2)]) == pytest.approx(100)


def test_a_record_that_is_half_written_is_not_read(tmp_path):
    records = Records(tmp_path / "records")
    whole = RECORD.pack(2.0, 1.0, 7)
    records.path.write_bytes(whole + whole[:5])
    assert (records.count(), records.read()) == (1, [Ran(2.0, 1.0, 7)])


def test_quantiles_are_values_that_were_seen():
    assert quantiles_ms([number / 1000 for number in range(1, 1001)]) == {
        "p50_ms": 501.0,
        "p99_ms": 991.0,
        "p999_ms": 1000.0,
    }


@linux
def test_this_process_uses_its_cpu():
    own, until = cpu_s([os.getpid()]), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_s([os.getpid()]) >= own + 0.03
    assert os.getpid() in tree([os.getppid()])


def test_results_are_read_as_they_were_written(tmp_path):
    found = results(Run("a", "drain", 1, {"rate": 1.5, "mark": "left"}), Run("b", "drain", 1, {}, "it ended\nlog"))
    found.save(tmp_path / "some.json")
    assert Results.load(tmp_path / "some.json") == found
    assert (found.marks("a", "drain"), found.marks("b", "drain")) == (["left"], ["it ended"])


def test_a_goal_compares_runs_of_the_same_round():
    found = goals(
        results(
            *[Run("rqueue", "drain", number, {"rate": rate}) for number, rate in ((1, 80.0), (2, 60.0), (3, 50.0))],
            *[Run("floor-drain", "drain", number, {"rate": rate}) for number, rate in ((1, 100.0), (2, 120.0))],
        )
    )
    goal = next(each for each in found if each.text == "drain, of its floor")
    assert goal.found is not None
    assert (goal.found.least, goal.found.greatest, goal.found.count) == (0.5, 0.8, 2)
    assert goal.verdict == "missed by 13 %"
    assert {each.verdict for each in found if each.found is None} == {"not measured"}


def test_the_report_names_what_went_wrong():
    text = report.text(
        results(Run("a", "drain", 1, {"rate": 1.5, "mark": "left: 3 waiting"}), Run("b", "idle", 1, {}, "x"))
    )
    assert "- a: left: 3 waiting" in text
    assert "- b: x" in text
    assert "**not all rounds were run in the time given**" in text


def test_every_contender_is_complete():
    for name, each in find_contenders().items():
        assert each.workloads <= HEADLINE | REST, name
        assert each.environment == "rqueue" or (REQUIREMENTS / f"{each.environment}.txt").exists(), name
        assert each.settings, name
        assert each.rate > 0, name


def test_every_workload_is_named_in_the_protocol():
    assert {need for workload in WORKLOADS for need in workload.needs} == HEADLINE | REST


def test_each_round_takes_every_contender_once_and_every_other_one_backwards():
    found = find_contenders()
    plan = Plan([found["rqueue"], found["floor-drain"]], [each for each in WORKLOADS if each.name == "drain"], 2, 0.0)
    rounds = [[contender.name for _, contender in plan.of_round(number)] for number in (1, 2, 3)]
    assert rounds == [["rqueue", "floor-drain"], ["floor-drain", "rqueue"], []]


@linux
@pytest.mark.parametrize("name", ["rqueue", "floor-drain"])
def test_a_drain_leaves_nothing(name):
    setup = next(each.setup for each in WORKLOADS if each.name == "drain")
    with Stage(find_contenders()[name], setup) as stage:
        values = drain(stage, Pace(), "noop", 300)
        started = stage.workers
    assert values["rate"] > 0
    assert "mark" not in values
    assert tree(started) == []
