"""Runs with faults: what the oracle makes of a log, where jobs are found in Redis, and one run with kills."""

import sys

import pytest
import redis

from benchmarks import faults, faults_report
from benchmarks.contenders import find_contenders
from benchmarks.oracle import Oracle, whereabouts
from benchmarks.results import Results, Run

JOBS = [f"job-{number:06}" for number in range(6)]
SAQ = {r"saq:\w+:queued$": "queued", r"saq:\w+:active$": "active"}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    oracle = Oracle(path)

    def write(*lines):
        with path.open("a") as file:
            file.writelines(lines)
        oracle.read()
        return oracle

    yield write
    oracle.close()


def test_a_line_counts_once_it_is_whole(log):
    assert not log("start job-000000 7 1.0").starts
    found = log("00\nend job-000000 7 1.5\n")
    assert found.starts["job-000000"] == [("job-000000", 7, 1.0)]
    assert (found.enders("job-000000"), found.enders("job-000001")) == ([7], [])
    assert found.lives == {7: 1.0}


def test_a_job_is_in_flight_in_the_process_that_has_not_ended_it(log):
    found = log("start job-000000 7 1.0\n", "start job-000000 8 2.0\n", "end job-000000 8 2.1\n")
    assert (found.open_in([7]), found.open_in([8])) == (["job-000000"], [])
    assert found.doubled(["job-000000"]) == []
    assert log("end job-000000 7 3.0\n").doubled(["job-000000"]) == ["job-000000"]


def test_a_kill_explains_what_has_ended_just_before_it(log):
    found = log("start job-000000 7 1.0\n", "end job-000000 7 1.1\n", "start job-000001 7 1.1\n")
    assert found.touched_in([7], since=1.05) == ["job-000000", "job-000001"]
    assert found.touched_in([7], since=1.2) == ["job-000001"]
    assert found.touched_in([8], since=0.0) == []


def test_a_job_is_where_its_name_is_or_its_record_s_id(redis_url):
    with redis.Redis.from_url(redis_url) as server:
        for number, job in enumerate(JOBS[:4]):
            server.set(f"saq:job:default:{number}", f'{{"payload":"{job}"}}')
        server.rpush("saq:default:queued", "saq:job:default:0")
        server.rpush("saq:default:active", "saq:job:default:1")
        server.zadd("saq:default:incomplete", {"saq:job:default:2": 0})  # an index: nothing is run from it
        server.rpush("saq:default:active", f"a whole message with {JOBS[4]} in it")
        assert whereabouts(server, JOBS, SAQ) == {JOBS[0]: "queued", JOBS[1]: "active", JOBS[4]: "active"}


@pytest.mark.parametrize(
    ("kind", "put"),
    [
        ("hash", lambda server: server.hset("unacked", "tag", JOBS[0])),
        ("set", lambda server: server.sadd("unacked", JOBS[0])),
        ("zset", lambda server: server.zadd("unacked", {JOBS[0]: 1})),
        ("stream", lambda server: server.xadd("unacked", {"field": JOBS[0]})),
        ("string", lambda server: server.set("unacked", JOBS[0])),
    ],
)
def test_jobs_are_found_in_keys_of_every_kind(redis_url, kind, put):
    with redis.Redis.from_url(redis_url) as server:
        put(server)
        assert server.type("unacked").decode() == kind
        assert whereabouts(server, JOBS, {"unacked$": "held"}) == {JOBS[0]: "held"}


def test_who_takes_part_in_faults_says_where_its_jobs_are():
    taking_part = {name for name, each in find_contenders().items() if each.places}
    assert taking_part >= {"rqueue", "celery", "celery-tuned", "saq-retries", "saq-tuned", "streaq", "streaq-tuned"}


def test_the_report_says_what_was_lost_and_where_the_rest_is():
    values = {"faults": 3, "confirmed": 9, "done": 5, "lost": 1, "held": 3, "where": {"active": 3}, "exits": 0}
    machine = dict.fromkeys(("processor", "cores", "system", "server", "python", "load", "plan"), "x")
    told = {"package": "p", "version": "1", "settings": "s"}
    runs = [
        Run("saq", "workers", 1, values),
        Run("saq", "workers", 2, {**values, "lost": 4}),
        Run("saq", "hold", 1, {}, "x"),
    ]
    text = faults_report.text(Results("2026-01-01", machine, {"saq": told}, runs))
    assert "| saq | 3 | - | 9 | 5 | 2 (1 to 4) | 3 | - | - | - | 0 |" in text
    assert "- saq: held: 3 active" in text
    assert "- saq: failed: x" in text
    assert "**Not all runs were made.**" in text


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_run_with_kills_loses_nothing():
    plan = faults.Plan("a seed", jobs=200, workers=1, child_kills=1, grace_s=30, settle_s=0.2)
    found = faults.run(find_contenders()["rqueue"], "processes", plan)
    assert found.error == ""
    counts = {name: found.values[name] for name in ("faults", "confirmed", "done", "lost", "held", "exits")}
    assert counts == {"faults": 1, "confirmed": 200, "done": 200, "lost": 0, "held": 0, "exits": 0}
    assert found.values["doubled_untouched"] == 0
    assert found.values["back_s"] > 0
    assert found.values["processes"] == 2
