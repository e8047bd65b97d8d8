"""stats: the same numbers, whichever part of the time is counted already, and when rows have gone."""

import math
import random
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from rqueue.errors import SchemaMismatch
from rqueue.results.sql import marks
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.hours import DAY, HOUR, hour_of, roll
from rqueue.results.sql.retention import prune
from rqueue.results.sql.stats import Plan, Span, plan, stats

from .ended import AT, ended, how_many, put

MINUTE = timedelta(minutes=1)
EVER = datetime(1970, 1, 1, tzinfo=UTC)
MIDNIGHT = AT.replace(hour=0)


@pytest.mark.parametrize(
    ("since", "until", "rolled", "pruned", "wanted"),
    [
        # nothing is counted yet
        (AT, AT + 7 * DAY, EVER, EVER, Plan([], [], [Span(AT, AT + 7 * DAY)])),
        # whole hours
        (AT, AT + 3 * HOUR, AT + DAY, EVER, Plan([], [Span(AT, AT + 3 * HOUR)], [])),
        # parts of hours
        (
            AT + MINUTE,
            AT + 3 * HOUR + MINUTE,
            AT + DAY,
            EVER,
            Plan(
                [],
                [Span(AT + HOUR, AT + 3 * HOUR)],
                [Span(AT + MINUTE, AT + HOUR), Span(AT + 3 * HOUR, AT + 3 * HOUR + MINUTE)],
            ),
        ),
        # less than an hour
        (AT + MINUTE, AT + 2 * MINUTE, AT + DAY, EVER, Plan([], [], [Span(AT + MINUTE, AT + 2 * MINUTE)])),
        # days
        (
            AT,
            AT + 3 * DAY,
            AT + 3 * DAY - 2 * HOUR,
            EVER,
            Plan(
                [Span(MIDNIGHT + DAY, MIDNIGHT + 3 * DAY)],
                [Span(AT, MIDNIGHT + DAY), Span(MIDNIGHT + 3 * DAY, AT + 3 * DAY - 2 * HOUR)],
                [Span(AT + 3 * DAY - 2 * HOUR, AT + 3 * DAY)],
            ),
        ),
        # what has gone can only be told by the hour
        (AT + MINUTE, AT + 3 * HOUR, AT + DAY, AT + 2 * MINUTE, Plan([], [Span(AT, AT + 3 * HOUR)], [])),
        (
            AT + 3 * MINUTE,
            AT + 3 * HOUR,
            AT + DAY,
            AT + 2 * MINUTE,
            Plan([], [Span(AT + HOUR, AT + 3 * HOUR)], [Span(AT + 3 * MINUTE, AT + HOUR)]),
        ),
        (AT + MINUTE, AT + 2 * MINUTE, AT + DAY, AT + HOUR, Plan([], [Span(AT, AT + HOUR)], [])),
        # the hour of which a part has gone is the last one
        (AT - HOUR, AT + 20 * MINUTE, AT + DAY, AT + 10 * MINUTE, Plan([], [Span(AT - HOUR, AT + HOUR)], [])),
        (AT, AT + 20 * MINUTE, AT + DAY, AT + 10 * MINUTE, Plan([], [Span(AT, AT + HOUR)], [])),
    ],
)
def test_what_a_time_is_put_together_from(since, until, rolled, pruned, wanted):
    assert plan(Span(since, until), rolled, pruned) == wanted


def make(rng, number):
    """Jobs of three tasks over two days."""
    for _ in range(number):
        task = rng.choice(["mail.send", "mail.send", "report", None])
        state = rng.choices(["SUCCESS", "FAILURE", "REVOKED", "RETRY"], [80, 10, 5, 5])[0]
        run_ms = None if state == "REVOKED" else round(math.exp(rng.uniform(0, 12)))
        finished = MIDNIGHT + timedelta(seconds=rng.uniform(0, 2 * 86_400))
        yield ended(finished, state, task=task, wait_ms=round(math.exp(rng.uniform(0, 9))) - 1, run_ms=run_ms)


def percentile_s(values, percent):
    if not values:
        return None
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1] / 1000


def exactly(rows, since, until):
    """What is to be told of rows, by task: counts, and percentiles without an error."""
    ends = [row for row in rows if since <= row["finished"] < until and row["state"] != "RETRY"]
    for task in {row["task"] for row in ends}:
        mine = [row for row in ends if row["task"] == task]
        states = [row["state"] for row in mine]
        waits = [row["wait_ms"] for row in mine]
        runs = [row["run_ms"] for row in mine if row["run_ms"] is not None]
        yield (
            task,
            [len(mine), *(states.count(state) for state in ("SUCCESS", "FAILURE", "REVOKED"))],
            [percentile_s(values, percent) for values in (waits, runs) for percent in (50, 95, 99)],
        )


def same(found, rows, since, until):
    wanted = {task: (counts, times) for task, counts, times in exactly(rows, since, until)}
    assert {each.task for each in found} == wanted.keys()
    assert [each.count for each in found] == sorted((each.count for each in found), reverse=True)
    for each in found:
        counts, times = wanted[each.task]
        assert [each.count, each.succeeded, each.failed, each.revoked] == counts
        assert each.failure_rate == counts[2] / counts[0]
        told = [each.wait_p50, each.wait_p95, each.wait_p99, each.run_p50, each.run_p95, each.run_p99]
        for value, exact in zip(told, times, strict=True):
            assert value == (None if exact is None else pytest.approx(exact, rel=0.0101))


async def test_numbers_are_right_whatever_is_counted_already(engine):
    """Breaks when a part of the time is left out, or counted twice."""
    rng = random.Random(7)
    rows = list(make(rng, 600))
    await put(engine, *rows)
    times = [
        (MIDNIGHT - HOUR, MIDNIGHT + 4 * DAY),
        (MIDNIGHT + 10 * MINUTE, MIDNIGHT + 30 * MINUTE),
        *(sorted(MIDNIGHT + timedelta(seconds=rng.uniform(0, 2 * 86_400)) for _ in range(2)) for _ in range(3)),
    ]
    for rolled in (None, MIDNIGHT + 27 * HOUR, MIDNIGHT + 3 * DAY):
        if rolled is not None:
            await roll(engine, rolled)
        for since, until in times:
            same(await stats(engine, since, until), rows, since, until)


async def test_one_task(engine):
    rows = list(make(random.Random(8), 200))
    await put(engine, *rows)
    await roll(engine, MIDNIGHT + 2 * DAY)
    since, until = MIDNIGHT + 90 * MINUTE, MIDNIGHT + 40 * HOUR
    (found,) = await stats(engine, since, until, "report")
    same([found], [row for row in rows if row["task"] == "report"], since, until)
    assert await stats(engine, since, until, "nobody") == []
    assert await stats(engine, since, until, "' OR '1'='1") == []


async def test_until_now_counts_what_ended_just_now(engine):
    now = datetime.now(UTC)
    await put(engine, ended(now), ended(now - HOUR), ended(now + timedelta(seconds=2)))
    (found,) = await stats(engine, now - timedelta(minutes=5))
    assert found.count == 2


async def test_statistics_outlive_rows(engine):
    """Also in the hour in which the time begins, of which a part has gone."""
    now = datetime.now(UTC)
    before = hour_of(now) - 3 * HOUR + 20 * MINUTE
    rows = [ended(before + at) for at in (-30 * HOUR, -3 * HOUR, -10 * MINUTE, 10 * MINUTE, 2 * HOUR)]
    await put(engine, *rows)
    assert await prune(engine, before) == 3
    (found,) = await stats(engine, now - 7 * DAY)
    assert found.count == 5
    (found,) = await stats(engine, before - 15 * MINUTE)
    assert found.count == 3
    (found,) = await stats(engine, before + 5 * MINUTE)
    assert found.count == 2


async def test_what_is_older_than_all_counts_is_told_from_its_rows(engine):
    """Rows may stay for ever, and counts do not."""
    now = datetime.now(UTC)
    await put(engine, *(ended(now - number * DAY) for number in (0, 10, 399, 402, 800)))
    for _ in range(2):
        (found,) = await stats(engine, now - 900 * DAY)
        assert found.count == 5
        (found,) = await stats(engine, now - 900 * DAY, now - 401 * DAY)
        assert found.count == 2
        await roll(engine)


async def test_they_are_of_one_moment(postgresql, monkeypatch):
    """All is counted and removed between two of its statements. Breaks when they do not share a snapshot."""
    now = datetime.now(UTC)
    await put(postgresql, *(ended(now - DAY + number * MINUTE) for number in range(400)))
    read = marks.read

    async def read_then_all_changes(connection):
        known = await read(connection)
        monkeypatch.undo()
        await prune(postgresql, now - HOUR)
        return known

    monkeypatch.setattr(marks, "read", read_then_all_changes)
    (found,) = await stats(postgresql, now - 4 * DAY)
    assert found.count == 400
    (found,) = await stats(postgresql, now - 4 * DAY)
    assert found.count == 400
    assert await how_many(postgresql) == 0


async def test_without_tables_it_says_what_to_do(postgres_url):
    engine = engine_for(postgres_url)
    with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
        await stats(engine, AT)
    await engine.dispose()


FULL = re.compile("on rqueue_(jobs_other|hours)")
"""The tables that have rows."""

_JOBS = """
INSERT INTO rqueue_jobs (id, enqueued, task, queue, state, attempts, losses, finished, recorded)
SELECT 'j' || n, at, 'a' || n % 5, 'q', 'SUCCESS', 1, 0, at, at
FROM (SELECT n, timestamptz '2024-05-14 00:00Z' + n * interval '30 seconds' AS at FROM generate_series(1, 5000) AS n)
AS ended
"""
_HOURS = """
INSERT INTO rqueue_hours
SELECT span, timestamptz '2024-05-14 00:00Z' + n * span * interval '1 hour', 'a', 1, 0, 0, '', ''
FROM (VALUES (1), (24)) AS spans (span), generate_series(0, 2400) AS n WHERE n * span < 2400
"""


async def test_hours_and_rows_are_found_by_their_indexes(postgresql):
    """However many rows there are: no table is read from end to end."""
    async with postgresql.begin() as connection:
        await marks.write(connection, marks.ROLLED, MIDNIGHT + 100 * DAY)
        for fill in (_JOBS, _HOURS):
            await connection.execute(text(fill))
    async with postgresql.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE rqueue_jobs, rqueue_hours"))

    asked = []

    @event.listens_for(postgresql.sync_engine, "before_cursor_execute", retval=True)
    def explain(conn, cursor, statement, parameters, context, executemany):
        asked.append((statement, parameters))
        return statement, parameters

    await stats(postgresql, MIDNIGHT + 30 * MINUTE, MIDNIGHT + 7 * DAY + MINUTE)
    event.remove(postgresql.sync_engine, "before_cursor_execute", explain)
    big = [each for each in asked if "FROM rqueue_jobs" in each[0] or "FROM rqueue_hours" in each[0]]
    assert len(big) == 4
    async with postgresql.connect() as connection:
        for statement, parameters in big:
            plan = [row[0] for row in await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]
            assert not [line for line in plan if "Seq Scan" in line and FULL.search(line)], "\n".join(plan)
