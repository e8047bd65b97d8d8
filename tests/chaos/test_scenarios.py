"""The short form of `make chaos`: some scenarios for a few seconds, and two in which rqueue is broken on purpose."""

import asyncio

import pytest

from . import __main__ as program
from . import report
from .producer import Load
from .scenario import Outcome, Scenario, play, too_slow
from .scenarios import SCENARIOS
from .stage import Stage
from .verdict import Verdict

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize(("name", "seconds"), [("kills", 1.5), ("poison", 2.0), ("clocks", 1.5), ("upgrade", 1.0)])
async def test_a_scenario_keeps_what_is_guaranteed(tmp_path, name, seconds):
    outcome = await play(BY_NAME[name], seconds, "7", tmp_path / "stage")
    assert outcome.verdict.broken == [], report.line(outcome)
    assert outcome.verdict.done > 0


async def meddle(stage: Stage, seconds: float) -> None:
    """Somebody deletes a list with jobs, and pushes a job again that has ended. No fault says so."""
    server = stage.server()
    assert stage.store is not None
    client, load = stage.store.client, Load(rate=100, queues=("default",), mix={"quick": 1.0}, priorities=0.0)
    with stage.fault("clock jump", pids=()):
        stage.produce(load, count=1)
    await stage.until(lambda: client.llen("rqueue:{default}") > 30, what="jobs")
    raw = next(each for each in client.lrange("rqueue:{default}", -5, -1) if each)
    client.rpush("rqueue:{default}", raw)
    client.ltrim("rqueue:{default}", 10, -1)  # the youngest are lost
    assert server.alive
    stage.work("-c", "10")
    await stage.first_jobs()
    await asyncio.sleep(seconds)


async def test_the_suite_sees_what_is_lost_and_what_is_doubled(tmp_path, monkeypatch):
    """If this passes a run that it should not, no report means anything."""
    broken = Scenario("meddle", "", "", meddle)
    monkeypatch.setattr("tests.chaos.store.Store.until_settled", settled_soon)
    outcome = await play(broken, 0.0, "7", tmp_path / "stage")
    verdict = outcome.verdict
    assert verdict.lost == 10
    assert verdict.doubled == 1
    assert [text.partition(":")[0] for text in verdict.broken[:2]] == ["lost", "doubled, and not in flight at a fault"]
    assert not outcome.has_passed


@pytest.mark.parametrize(
    ("recovered_s", "is_slow"),
    [([20.0] * 4, False), ([0.1, 0.1, 0.1, 20.0, 20.0], False), ([0.1, 0.1, 14.9, 20.0, 20.0], True)],
)
def test_a_recovery_by_the_lease_is_too_slow_for_a_killed_process(recovered_s, is_slow):
    assert bool(too_slow(Verdict(recovered_s=recovered_s), 1.0)) is is_slow
    assert too_slow(Verdict(recovered_s=recovered_s), None) == []


async def settled_soon(store, timeout_s):
    """The ids of the lost stay behind: nobody waits a minute for them."""
    while any(store.client.llen(name) for keys in store.keys for name in keys.lists[:1]):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    return 0


@pytest.mark.parametrize("is_broken", [False, True])
def test_it_fails_for_what_is_broken_and_writes_the_report(tmp_path, monkeypatch, capsys, is_broken):
    def run_one(scenario, seconds, seed, directory):
        outcome = Outcome(scenario, seconds, server="Valkey 9.1.2")
        outcome.verdict.broken += ["lost: 1: m.1"] if is_broken else []
        return outcome

    monkeypatch.setattr(program, "run_one", run_one)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page = tmp_path / "report.md"
    code = program.main(["--only", "kills", "--seed", "abc", "--report", str(page)])
    assert code == int(is_broken)
    said, written = capsys.readouterr().out, page.read_text()
    assert "CHAOS_SEED=abc" in said
    assert "1 scenarios, about 10 minutes" in said
    assert "seed `abc`" in written
    assert ("BROKEN" in said, "**BROKEN**" in written) == (is_broken, is_broken)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_who_interrupts_it_leaves_no_directory(tmp_path, monkeypatch, interrupt):
    def run_one(scenario, seconds, seed, directory):
        directory.mkdir()
        raise interrupt

    monkeypatch.setattr(program, "run_one", run_one)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(interrupt):
        program.main(["--only", "kills"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ConnectionError("away"), IndexError("none")])
async def test_what_a_scenario_did_not_expect_breaks_it_and_not_the_run(tmp_path, error):
    async def strange(stage, seconds):
        raise error

    outcome = await play(Scenario("strange", "", "", strange), 0.0, "7", tmp_path / "stage")
    assert any(str(error) in text for text in outcome.verdict.broken)


def test_what_a_machine_lacks_is_said_and_is_no_failure(tmp_path):
    outcome = Outcome(BY_NAME["kills"], lacks="no TLS in this server")
    assert outcome.has_passed
    assert "not played: no TLS in this server" in report.page([outcome], "1")


def test_each_scenario_has_a_name_of_its_own_and_says_what_it_is():
    assert len(BY_NAME) == len(SCENARIOS)
    assert all(scenario.about and scenario.keeps for scenario in SCENARIOS)
