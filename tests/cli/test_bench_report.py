"""The result of ``rqueue bench``: medians, what is shown, and what explains low figures."""

import pytest

from rqueue import RQueue
from rqueue.cli.bench_report import Report, Row, Surroundings, warnings_of
from rqueue.cli.bench_workloads import Plan, Sample

RATE = Sample("drain", "jobs/s", 1000, 12345.6789, 80.04)


def sample(value, cpu_us=80.0):
    return Sample("drain", "jobs/s", 1000, value, cpu_us)


def test_a_row_has_median_and_spread():
    row = Row.of([sample(3000.0, 30.0), sample(1000.0, 10.0), sample(12345.6789, 20.04)])
    assert (row.median, row.min, row.max, row.cpu_us) == (3000.0, 1000.0, 12345.679, 20.0)
    assert row.rounds == (3000.0, 1000.0, 12345.679)
    assert row.cells() == ("drain", "1,000", "3,000", "1,000", "12,346", "jobs/s", "20")


def test_small_figures_keep_their_digits():
    row = Row.of([Sample("round trip, p99", "ms", 200, value, None) for value in (0.8141, 9.994, 95.25)])
    assert row.cells() == ("round trip, p99", "200", "9.99", "0.81", "95.2", "ms", None)


def test_rounds_are_joined_by_workload():
    here = Surroundings("Redis 7, redis://h", "rqueue-bench-1", 0.1, "CPython 3", "uvloop", {"redis": "8"}, 2, ())
    other = Sample("enqueue", "jobs/s", 5, 7.0, None)
    report = Report.of(here, Plan(10, 2, 3), [[sample(1.0), other], [sample(2.0), other]])
    document = report.document()
    assert [(row["workload"], row["rounds"]) for row in document["workloads"]] == [
        ("drain", (1.0, 2.0)),
        ("enqueue", (7.0, 7.0)),
    ]
    assert (document["jobs"], document["concurrency"], document["payload"]) == (10, 2, 3)
    assert document["server"] == "Redis 7, redis://h"
    assert "a ping takes 0.10 ms" in next(iter(here.lines()))


@pytest.mark.parametrize(
    ("ping_ms", "policy", "fsync", "told"),
    [
        (0.9, "noeviction", "everysec", []),
        (0.9, None, None, []),
        (4.0, None, None, ["takes 4.0 ms: one caller alone enqueues at most 250 jobs/s"]),
        (0.1, "allkeys-lru", "always", ["appendfsync is always", "maxmemory-policy is allkeys-lru"]),
    ],
)
def test_what_explains_low_figures(ping_ms, policy, fsync, told):
    found = list(warnings_of(ping_ms, policy, fsync))
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))


@pytest.mark.parametrize(("appendonly", "told"), [("yes", True), ("no", False)])
async def test_appendfsync_counts_with_an_append_only_file(new_server, appendonly, told):
    """Breaks when a server without one is said to wait for its disk."""
    async with RQueue(new_server({"appendonly": appendonly, "appendfsync": "always"}).url, namespace="trial") as app:
        found = await Surroundings.of(app.session().broker, "here")
    assert any("appendfsync" in line for line in found.warnings) == told
    assert found.server.split()[0] in ("Redis", "Valkey")
    assert found.server.endswith(", here")
    assert found.namespace == "trial"
    assert found.ping_p50_ms > 0
