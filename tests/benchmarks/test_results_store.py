"""Benchmarks of result stores: what is marked, what the report says, and when the spool was empty again."""

import contextlib
import sqlite3
import sys

import pytest
import redis

from benchmarks import results_store, results_store_report
from benchmarks.away import SPOOL, Watch, _phase
from benchmarks.contenders import find_contenders
from benchmarks.databases import Database
from benchmarks.measure import Ran
from benchmarks.results import Results, Run
from benchmarks.stage import Setup, Stage

MACHINE = dict.fromkeys(("processor", "cores", "memory", "system", "server", "python", "load"), "x")
linux = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def results(*runs):
    told = {"package": "p", "version": "1", "settings": "s"}
    return Results("2026-01-01", MACHINE, dict.fromkeys([run.contender for run in runs], told), list(runs))


def drained(contender, number, rate, **more):
    return Run(contender, "drain", number, {"rate": rate, **more})


def test_a_ratio_is_of_runs_of_the_same_round():
    text = results_store_report.text(
        results(
            *(drained("rqueue", number, rate) for number, rate in ((1, 100.0), (2, 200.0), (3, 300.0))),
            *(drained("rqueue-asyncpg", number, rate) for number, rate in ((1, 80.0), (2, 80.0), (4, 80.0))),
        )
    )
    assert "| rqueue-asyncpg / rqueue | 0.600 (0.400 to 0.800) | 2 | ≥ 0.5: reached |" in text
    assert "rqueue-psycopg / rqueue" not in text


def test_a_missed_goal_and_a_marked_run_are_told():
    text = results_store_report.text(
        results(drained("rqueue", 1, 100.0), drained("rqueue-psycopg", 1, 30.0, mark="9 rows of 9 jobs"))
    )
    assert "≥ 0.5: missed" in text
    assert "- rqueue-psycopg: 9 rows of 9 jobs" in text


def test_away_has_a_table_for_each_kind():
    found = results(Run("rqueue-asyncpg", "away-killed-full", 1, {"before": 5000.0, "while": 5100.0, "rows": 7}))
    found.machine["away-killed-full"] = "PostgreSQL killed for 60 s"
    text = results_store_report.text(found)
    assert "## PostgreSQL killed for 60 s" in text
    assert "| rqueue-asyncpg | 5,000 | 5,100 | 7.00 |" in text


def test_who_has_a_store_takes_part_in_this_benchmark_alone():
    chosen = {each.name for each in results_store.taking_part(None)}
    assert {
        "rqueue",
        "celery-prefork",
        "rqueue-asyncpg",
        "rqueue-psycopg",
        "rqueue-sqlite",
        "celery-postgres",
    } <= chosen
    assert all(not each.places for each in find_contenders().values() if each.store), "they are not killed elsewhere"


def test_rows_and_their_jobs_are_counted(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection, connection:
        connection.execute("CREATE TABLE rqueue_jobs (id text, state text)")
        rows = [("a", "SUCCESS"), ("a", "SUCCESS"), ("b", "SUCCESS"), ("c", "RETRY")]
        connection.executemany("INSERT INTO rqueue_jobs VALUES (?, ?)", rows)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/db", find_contenders()["rqueue-sqlite"].rows)
    assert database.kept() == (3, 2)


@linux
def test_a_drain_whose_rows_are_missing_is_marked(tmp_path):
    """The worker keeps no results there: if this run passed, no figure would mean anything."""
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection, connection:
        connection.execute("CREATE TABLE rqueue_jobs (id text, state text)")
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/db", find_contenders()["rqueue-sqlite"].rows)
    with Stage(find_contenders()["rqueue"], Setup(url="", workload="drain")) as stage:
        values = results_store.drain(stage, database, 300)
    assert values["rate"] > 0
    assert values["mark"] == "0 rows of 0 jobs, and 300 were settled"


def test_the_spool_s_end_is_when_it_stays_empty(redis_url):
    with redis.Redis.from_url(redis_url) as server:
        watch = Watch(server)
        watch.look()
        first = watch.emptied
        assert first > 0
        server.rpush(SPOOL, b"x" * 5000, b"y")
        assert (watch.look(), watch.entries, watch.emptied) == (2, 2, 0.0)
        assert watch.spool_bytes > 5000
        server.delete(SPOOL)
        assert (watch.look(), watch.entries) == (0, 2)
        assert watch.emptied > first


def test_a_phase_counts_what_ran_in_it():
    runs = [Ran(at / 10, at / 10 - 0.001, 1) for at in range(100)]
    found = _phase("before", runs, 2.0, 4.0)
    assert found == {"before": pytest.approx(10.0), "wait_before_ms": pytest.approx(1.0)}
    assert _phase("after", runs, 50.0, 60.0) == {"after": 0.0}
    assert _phase("after", runs, 9.0, 20.0)["after"] == pytest.approx(10.0), "not beyond the last job"
