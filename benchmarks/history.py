"""What is asked of history, at a million rows: how long each question takes, what it reads, and its plan.

A PostgreSQL of its own is filled by itself: 50 tasks, 5 queues, 2 % failures, 30 days, some jobs with children. Each
question is asked through ``app.history`` as a program asks it, again and again in a mixed order; the time is the
caller's, with the driver and Python in it. Then PostgreSQL explains what it did: the plan, and the pages looked at.

Run ``make bench-history``, in short ``make bench-history ARGS=--quick``. ``--url`` takes a database that was filled
before, ``--json FILE`` writes what was measured, ``--plans`` prints whole plans.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rqueue.results.selection import Position, Selection
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.partitions import ensure_months
from rqueue.results.sql.queries import kin, page
from rqueue.results.sql.schema import upgrade
from tests.postgres import Postgres

ROWS, QUICK_ROWS = 1_000_000, 100_000
SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "4GB", "max_connections": "100"}
PAGE = 50
GOAL_MS = 100

DAYS = 30
TASKS = 50

_PART = 50_000
_MODULES = "{orders,billing,email,reports,search,media,users,webhooks,cleanup,imports}"
_VERBS = "{process,notify,sync,export,refresh}"
_QUEUES = "{default,email,reports,analytics,cleanup}"
_TENANTS = "{acme,globex,initech,umbrella,hooli,stark,wayne,wonka,tyrell,cyberdyne}"
_ERRORS = (
    '{"ConnectionError: mail.example.org refused the connection after 3 attempts",'
    '"TimeoutError: the gateway did not answer within 30 seconds",'
    '"ValueError: invoice total is negative",'
    '"KeyError: customer has no billing address",'
    '"SoftTimeLimitExceeded: the job has run for longer than its soft_time_limit"}'
)

# `h` is a number that looks random and is the same in each run; the first tasks have most of the jobs.
_FILL = f"""
INSERT INTO rqueue_jobs (id, enqueued, task, queue, priority, state, args, kwargs, result, error, traceback, attempts,
    losses, worker, parent_id, root_id, started, finished, wait_ms, run_ms, history, recorded)
SELECT md5(n::text), enqueued, task, queue, CASE WHEN h % 10 = 0 THEN 8 END, state,
    json_build_array('user' || h % 5000 || '@example.org', n),
    json_build_object('tenant', ('{_TENANTS}'::text[])[1 + h / 7 % 10], 'invoice', 'INV-' || lpad(n::text, 8, '0'),
        'note', 'please deliver before noon, ring twice and leave it with the neighbours if nobody opens'),
    CASE WHEN state = 'SUCCESS' THEN json_build_object('rows', h % 5000, 'url', '/files/' || md5(n::text)) END,
    error,
    CASE WHEN error IS NOT NULL THEN 'Traceback (most recent call last):' || repeat(
        E'\n  File "/app/shop/tasks.py", line 212, in process\n    answer = await client.post(address, json=body)', 12)
        || E'\n' || error END,
    CASE WHEN error IS NULL THEN 1 ELSE 4 END, 0, 'web-' || h % 12 || ':4711:a1b2c3d4', parent, parent,
    enqueued + wait_ms * interval '1 ms', enqueued + (wait_ms + run_ms) * interval '1 ms', wait_ms, run_ms,
    CASE WHEN error IS NOT NULL THEN json_build_array(json_build_array(1790000000000, error)) END,
    enqueued + (wait_ms + run_ms) * interval '1 ms' -- as they ended: rows that are late are counted anew
FROM (
    SELECT n, h, task, enqueued, wait_ms, run_ms, CASE WHEN n % 100 BETWEEN 1 AND 9 THEN md5((n / 100 * 100)::text) END
        AS parent, ('{_QUEUES}'::text[])[1 + CASE WHEN place < 49 THEN place % 4 ELSE 4 END] AS queue, state,
        CASE WHEN state IN ('FAILURE', 'RETRY') THEN ('{_ERRORS}'::text[])[1 + h / 11 % 5] END AS error
    FROM (
        SELECT n, h, place,
            ('{_MODULES}'::text[])[1 + place % 10] || '.' || ('{_VERBS}'::text[])[1 + place / 10] AS task,
            $1::timestamptz - n * $2::interval AS enqueued, 5 + h % 2000 AS wait_ms, 20 + (h / 13) % 9000 AS run_ms,
            CASE WHEN h % 1000 < 20 THEN 'FAILURE' WHEN h % 1000 < 23 THEN 'REVOKED' WHEN h % 1000 < 25 THEN 'RETRY'
                ELSE 'SUCCESS' END AS state
        FROM (
            SELECT n, h, least({TASKS - 1}, floor({TASKS} * power(h / 17 % 10000 / 10000.0, 2)))::int AS place
            FROM (SELECT n, abs(hashint8(n)) AS h FROM generate_series($3::bigint, $4::bigint) AS n) AS numbers
        ) AS places
    ) AS jobs
) AS texts
"""


@dataclass(frozen=True)
class Question:
    """One thing that is asked.

    Attributes:
        name: what it is called in the report.
        which: its conditions.
        is_deep: it goes on in the middle of history, where another page ended.
        sql: a statement of somebody else's, in place of conditions.
        show: the id of a job that is shown, in place of conditions.
        index: the columns of the index that answers it.
    """

    name: str
    which: Mapping[str, Any] = field(default_factory=dict)
    is_deep: bool = False
    sql: str = ""
    show: str = ""
    index: str = "finished_id"


PARENT = hashlib.md5(b"500").hexdigest()
CHILD = hashlib.md5(b"501").hexdigest()
QUESTIONS = (
    Question("all"),
    Question("all, deep page", is_deep=True),
    Question("state FAILURE", {"state": "FAILURE"}, index="state_finished_id"),
    Question("state SUCCESS", {"state": "SUCCESS"}),
    Question("state REVOKED, deep page", {"state": "REVOKED"}, is_deep=True, index="state_finished_id"),
    Question("frequent task", {"task": "orders.process"}),
    Question("rare task", {"task": "imports.refresh"}, index="task_finished_id"),
    Question("rare task, deep page", {"task": "imports.refresh"}, is_deep=True, index="task_finished_id"),
    Question("unknown task", {"task": "no.such"}, index="task_finished_id"),
    Question("frequent queue", {"queue": "email"}),
    Question("rare queue", {"queue": "cleanup"}, index="queue_finished_id"),
    Question("since 24 h", {"since": "24h"}),
    Question("one day", {"since": "20d", "until": "19d"}),
    Question("state and frequent task", {"state": "FAILURE", "task": "orders.process"}, index="state_task_finished_id"),
    Question("state and rare task", {"state": "FAILURE", "task": "imports.refresh"}, index="state_task_finished_id"),
    Question("state and queue", {"state": "REVOKED", "queue": "email"}, index="state_queue_finished_id"),
    Question(
        "queue, since, state", {"queue": "email", "since": "7d", "state": "FAILURE"}, index="state_queue_finished_id"
    ),
    Question(
        "the same, deep",
        {"queue": "email", "since": "29d", "state": "FAILURE"},
        is_deep=True,
        index="state_queue_finished_id",
    ),
    Question("task and queue", {"task": "orders.notify", "queue": "reports"}, index="task_finished_id"),
    Question("task never in that queue", {"task": "orders.process", "queue": "email"}, index="queue_finished_id"),
    Question("word in one row", {"search": "INV-00001234"}, index="words"),
    Question("word in a few rows", {"search": "user1234@example.org"}, index="words"),
    Question("word in some rows", {"search": "timeouterror"}, index="words"),
    Question("word in each row", {"search": "neighbours"}),
    Question("word in each row, deep page", {"search": "neighbours"}, is_deep=True),
    Question("word in no row", {"search": "zebra"}, index="words"),
    Question("two words", {"search": "wonka timeouterror"}, index="words"),
    Question("two frequent words, never together", {"search": "acme globex"}, index="words"),
    Question("beginning of a word", {"search": "user123*"}, index="words"),
    Question("beginning of many words", {"search": "us*"}),
    Question("word and state", {"search": "globex", "state": "FAILURE"}, index="state_finished_id"),
    Question("word, task and since", {"search": "globex", "task": "imports.refresh", "since": "14d"}),
    Question("show, with children", show=PARENT, index="parent_id_finished_id"),
    Question("show, with a parent", show=CHILD, index="pkey"),
    Question("show, unknown", show="no-such-job", index="pkey"),
    Question("celery_taskmeta by id", sql=f"SELECT * FROM celery_taskmeta WHERE task_id = '{CHILD}'", index="pkey"),
    Question(
        "celery_taskmeta by date",
        sql="SELECT * FROM celery_taskmeta WHERE date_done < now() AT TIME ZONE 'UTC' - interval '20 days'"
        " ORDER BY date_done DESC LIMIT 50",
        index="timezone",
    ),
)


async def fill(url: str, rows: int, now: datetime) -> None:
    """Make the tables, and fill them with so many jobs that ended before a moment, spread over the last days.

    Args:
        url: of an empty database.
        rows: how many.
        now: after the newest.
    """
    engine = engine_for(url)
    await upgrade(engine)
    async with engine.begin() as connection:
        first = now - timedelta(days=DAYS + 1)
        await ensure_months(connection, first, ahead=(now.year - first.year) * 12 + now.month - first.month)
    await engine.dispose()
    connection = await plain(url)
    step = timedelta(days=DAYS) / rows
    for last in range(rows, 0, -_PART):  # the oldest first, as they came
        await connection.execute(_FILL, now - timedelta(seconds=12), step, max(1, last - _PART + 1), last)
    await connection.execute("VACUUM ANALYZE rqueue_jobs")
    await connection.close()


async def plain(url: str) -> asyncpg.Connection[Any]:
    """The driver's own connection."""
    return await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


async def middle(engine: AsyncEngine) -> Position:
    """The row in the middle of history."""
    half = "SELECT finished, id, enqueued FROM rqueue_jobs WHERE finished < now() - interval '15 days'"
    async with engine.connect() as connection:
        return Position(*(await connection.execute(text(f"{half} ORDER BY finished DESC LIMIT 1"))).one())


async def ask(engine: AsyncEngine, question: Question, deep: Position) -> int:
    """Ask it as ``app.history`` does; how many rows came."""
    if question.show:
        found = await kin(engine, question.show, PAGE, PAGE)
        return len(found.rows) + len(found.children) + (found.parent is not None)
    if question.sql:
        async with engine.connect() as connection:
            return len((await connection.execute(text(question.sql))).all())
    selection = Selection.of(dict(question.which), datetime.now(UTC))  # type: ignore[arg-type]
    return len(await page(engine, selection, PAGE + 1, deep if question.is_deep else None))


async def explained(engine: AsyncEngine, question: Question, deep: Position) -> list[dict[str, Any]]:
    """The plans of the very statements that were asked, with what they did, one after the other."""
    said: list[tuple[str, Any]] = []

    def listen(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: Any) -> None:
        said.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", listen)
    try:
        await ask(engine, question, deep)
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", listen)
    plans = []
    async with engine.connect() as connection:
        for statement, parameters in said:
            if "set_config" in statement:
                await connection.exec_driver_sql(statement, parameters)
                continue
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            (plan,) = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
            plans.append(plan["Plan"])
    return plans


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A plan's steps."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def pages(plan: Mapping[str, Any]) -> int:
    """How many pages of 8 KiB it looked at, in memory or not."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def brief(plan: Mapping[str, Any]) -> str:
    """The steps that read, each once."""
    found = [
        f"{each['Node Type']}{' of ' + name if (name := index_of(each)) else ''}"
        for each in nodes(plan)
        if each["Node Type"] not in ("Limit", "Append", "Subquery Scan", "Result") and each["Actual Loops"]
    ]
    return " < ".join(dict.fromkeys(found))


def index_of(node: Mapping[str, Any]) -> str:
    """The columns of the index that a step reads, of whichever month; nothing for other steps."""
    name = node.get("Index Name") or ""
    return re.sub(r"^rqueue_jobs_(\d+_\d+|other)_|_idx\d*$", "", name)


async def measure(url: str, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each question, in each round in another order, and its plans."""
    engine = engine_for(url)
    deep = await middle(engine)
    found: dict[str, dict[str, Any]] = {each.name: {"ms": [], "rows": 0} for each in QUESTIONS}
    order, dice = list(QUESTIONS), random.Random(seed)
    for _ in range(rounds):
        dice.shuffle(order)
        for question in order:
            start = time.perf_counter()
            rows = await ask(engine, question, deep)
            found[question.name]["ms"].append((time.perf_counter() - start) * 1000)
            found[question.name]["rows"] = rows
    for question in QUESTIONS:
        plans = await explained(engine, question, deep)
        found[question.name] |= {
            "pages": sum(map(pages, plans)),
            "plan": [brief(each) for each in plans],
            "plans": plans,
        }
    await engine.dispose()
    return found


def show(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each question, and below them their plans."""
    print(f"{'question':<40}{'rows':>5}{'first':>9}{'median':>9}{'least':>9}{'most':>9} ms{'pages':>8}")
    for name, each in found.items():
        first, *rest = each["ms"]
        ordered = sorted(rest or [first])
        figures = "".join(f"{value:>9.1f}" for value in (first, statistics.median(ordered), ordered[0], ordered[-1]))
        print(f"{name:<40}{each['rows']:>5}{figures}{each['pages']:>11,}")
    slow = [name for name, each in found.items() if statistics.median(each["ms"]) >= GOAL_MS]
    print(f"\neach under {GOAL_MS} ms in the median: {'no: ' + ', '.join(slow) if slow else 'yes'}\n")
    for name, each in found.items():
        print(f"{name}: {' | then '.join(each['plan'])}")


async def about(url: str) -> dict[str, Any]:
    """What was measured, and on what."""
    connection = await plain(url)
    count, size = await connection.fetchrow(
        "SELECT count(*), (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
        " WHERE inhparent = 'rqueue_jobs'::regclass) FROM rqueue_jobs"
    )
    settings = {
        name: await connection.fetchval(f"SHOW {name}") for name in ("server_version", "shared_buffers", "work_mem")
    }
    await connection.close()
    return {"rows": count, "bytes": int(size), "cores": os.cpu_count(), "python": platform.python_version(), **settings}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, 5 rounds")
    parser.add_argument("--url", help="a database that was filled before")
    parser.add_argument("--plans", action="store_true", help="print whole plans")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    rows, rounds = (QUICK_ROWS, 5) if given.quick else (given.rows, given.rounds)
    with nullcontext() if given.url else Postgres(SETTINGS) as server:
        url = given.url or server.url()
        if server is not None:
            start = time.perf_counter()
            asyncio.run(fill(url, rows, datetime.now(UTC)))
            print(f"filled in {time.perf_counter() - start:.0f} s")
        setting = asyncio.run(about(url))
        print(", ".join(f"{name} {value}" for name, value in setting.items()), "\n")
        found = asyncio.run(measure(url, rounds, 7))
    show(found)
    if given.plans:
        print(json.dumps({name: each["plans"] for name, each in found.items()}, indent=1, default=str))
    if given.json:
        kept = {name: {key: value for key, value in each.items() if key != "plans"} for name, each in found.items()}
        given.json.write_text(json.dumps({"setting": setting, "questions": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
