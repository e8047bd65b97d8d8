"""The demo's numbers: what is lost, what ran twice, how long it took."""

import pytest

from rqueue.cli.demo_oracle import Oracle
from rqueue.cli.demo_report import COLUMNS, Kill, Report, Sent, quantile_ms

SENT = [Sent("a", "email", 10.0), Sent("b", "email", 10.0), Sent("c", "cleanup", 11.0)]
KILL = Kill(1, 12.0, ("b",))
ALL = "start a 1 10.1\nend a 1 10.5\nstart b 1 10.6\nstart b 2 15.0\nend b 2 16.0\nstart c 2 13.0\nend c 2 14.0\n"


@pytest.fixture
def report(tmp_path):
    def make(text=ALL, kill=KILL):
        (tmp_path / "oracle").write_text(text)
        oracle = Oracle(tmp_path / "oracle")
        oracle.read()
        return Report.of("a server", SENT, oracle, kill)

    return make


def test_nothing_is_lost(report):
    made = report()
    email = next(row for row in made.queues if row.queue == "email")
    assert (email.priority, email.jobs, email.done, email.redelivered, email.lost) == (3, 2, 2, 1, 0)
    assert (email.latency_p50_ms, email.latency_p99_ms) == (500.0, 6000.0)
    assert (made.total.jobs, made.total.done, made.total.redelivered, made.total.lost) == (3, 3, 1, 0)
    assert (made.seconds, made.jobs_per_s, made.recovered_s) == (6.0, 0.5, 4.0)
    assert made.has_passed
    assert made.document()["passed"] is True


def test_what_never_ended_is_lost(report):
    made = report(ALL.replace("end b 2 16.0\n", ""))
    assert (made.total.done, made.total.lost) == (2, 1)
    assert made.recovered_s is None
    assert not made.has_passed


def test_a_kill_of_an_idle_process_proves_nothing(report):
    assert not report(kill=Kill(1, 12.0, ())).has_passed


def test_the_table_has_a_row_for_each_queue_and_one_for_all(report):
    rows = list(report().cells())
    assert [row[0] for row in rows] == ["default", "email", "reports", "analytics", "cleanup", "all"]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[1][-2:] == ("500 ms", "6,000 ms")
    assert rows[0][-2:] == (None, None)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2000.0), (0.99, 4000.0), (1, 4000.0), (0.1, 1000.0)])
def test_quantiles(share, value):
    assert quantile_ms([1, 2, 3, 4], share) == value


def test_there_is_no_quantile_of_nothing():
    assert quantile_ms([], 0.5) is None
