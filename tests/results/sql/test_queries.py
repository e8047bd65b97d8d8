"""The plans of what is asked of history: by indexes, and a bounded number of pages, however many rows there are.

`RQUEUE_LONG=1` asks a million rows in place of twenty thousand; the bounds are the same. How long it takes is
for `make bench-history`.
"""

import os
from datetime import UTC, datetime

import orjson
import pytest

from benchmarks import history as bench
from rqueue.errors import StoreUnavailable
from rqueue.results.selection import Position, Selection
from rqueue.results.sql import queries
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.store import SqlStore

from ..conftest import make_row  # noqa: TID252 - tests are no installed package

IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
MANY = 1_000_000 if IS_LONG else 20_000
FEW = 2_000

PAGES = 150
"""What a page of history may look at where one index has its order: each of its rows, the way to them, each month."""

PAGES_OF_MANY = 12_000 if IS_LONG else 1_400
"""Where conditions meet seldom: a window of the newest, and the bitmaps of a few per cent of all rows."""

MOST_SORTED = 10_000
NOWHERE = {"unknown task", "task never in that queue", "word in no row", "two frequent words, never together"}


@pytest.fixture
async def filled(postgres_url):
    await bench.fill(postgres_url, FEW, datetime.now(UTC))
    engine = engine_for(postgres_url, pool_size=1)
    yield engine
    await engine.dispose()


def is_mixed(question):
    return queries.is_mixed(Selection.of(dict(question.which), datetime.now(UTC)))


def is_empty(node):
    """As are the months to come, and the partition for what has no month."""
    return not (node["Actual Rows"] or node.get("Rows Removed by Filter"))


def complaints(question, plans):
    """What is wrong with the plans of a question."""
    if not any(plan["Actual Rows"] for plan in plans) and question.name not in NOWHERE | {"show, unknown"}:
        yield "finds nothing, so it tells nothing"
    for plan in plans:
        for node in bench.nodes(plan):
            if node["Node Type"] == "Seq Scan" and not is_empty(node):
                yield f"reads all of {node['Relation Name']}"
            if node["Node Type"] in ("Sort", "Incremental Sort"):
                rows = sum(each["Actual Rows"] * each["Actual Loops"] for each in node["Plans"])
                if rows > MOST_SORTED:
                    yield f"sorts {rows} rows"
    if question.index not in {bench.index_of(node) for plan in plans for node in bench.nodes(plan)}:
        yield f"does not take the index of {question.index}"
    looked_at = sum(map(bench.pages, plans))
    if looked_at > (PAGES_OF_MANY if is_mixed(question) else PAGES):
        yield f"looks at {looked_at} pages"


@pytest.mark.timeout(1800 if IS_LONG else 120)
async def test_the_plan_of_each_question(postgres_url):
    """In one test, since rows take longer to make than plans.

    Fails when an index goes, or no longer fits the order or the condition, and when two conditions are left to a walk
    that hopes for one more match.
    """
    await bench.fill(postgres_url, MANY, datetime.now(UTC))
    engine = engine_for(postgres_url)
    deep = await bench.middle(engine)
    found = []
    for question in bench.QUESTIONS:
        plans = await bench.explained(engine, question, deep)
        told = " | then ".join(map(bench.brief, plans))
        found += [f"{question.name}: {said}: {told}" for said in complaints(question, plans)]
    await engine.dispose()
    assert not found, "\n".join(found)


async def test_two_steps_find_what_one_would(filled, monkeypatch):
    """Whether conditions meet often, seldom or never: the same jobs in the same order, on each page."""
    monkeypatch.setattr(queries, "_WINDOW", 30)
    monkeypatch.setattr(queries, "_WINDOW_OF_WORDS", 30)
    now, deep = datetime.now(UTC), await bench.middle(filled)
    for question in filter(is_mixed, bench.QUESTIONS):
        selection = Selection.of(dict(question.which), now)
        for after in (None, deep):
            for limit in (3, 40):
                asked = queries.statement(selection, limit, after, "postgresql")
                async with filled.connect() as connection:
                    wanted = [row.id for row in await connection.execute(asked)]
                found = await queries.page(filled, selection, limit, after)
                assert [row["id"] for row in found] == wanted, question.name


async def test_every_page_of_a_search_is_each_job_once(filled):
    selection = Selection.of({"search": "wonka timeouterror"}, datetime.now(UTC))
    position, found = None, []
    while rows := await queries.page(filled, selection, 7, position):
        found += [row["id"] for row in rows]
        position = Position(rows[-1]["finished"], rows[-1]["id"], rows[-1]["enqueued"])
    assert len(found) == len(set(found))
    assert set(found) == {row["id"] for row in await queries.page(filled, selection, 10_000)}


async def test_what_is_asked_leaves_no_setting_behind(filled):
    """The connection goes back to a pool, which others take from."""
    before = await settings(filled)
    await queries.page(filled, Selection.of({"search": "zebra"}, datetime.now(UTC)), 10)
    assert await settings(filled) == before


async def settings(engine):
    names = ("enable_indexscan", "enable_seqscan", "work_mem", "jit", "plan_cache_mode")
    async with engine.connect() as connection:
        return [(await connection.exec_driver_sql(f"SHOW {name}")).scalar_one() for name in names]


async def test_a_database_that_stands_still_is_not_waited_for(filled, postgres, monkeypatch):
    monkeypatch.setattr(queries, "TIMEOUT_S", 0.5)
    async with filled.connect() as connection:
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
    postgres.freeze([pid])
    try:
        with pytest.raises(StoreUnavailable):
            await queries.page(filled, Selection(), 10)
    finally:
        postgres.thaw([pid])


async def test_words_behind_what_json_escapes(own_postgres):
    """Breaks when the n of a line's end is the first letter of the next line's first word."""
    store = SqlStore(own_postgres)
    row = make_row(
        args=orjson.dumps(["one\ntwo\tthree\r\nfour", "C:\\new\\total", 'say "hello"']).decode(), error=r"E: C:\temp"
    )
    await store.save([row])
    for word in ("one", "two", "three", "four", r"c:\new\total", "hello", r"c:\temp"):
        found = await queries.page(store.engine, Selection.of({"search": word}, datetime.now(UTC)), 2)
        assert [each["id"] for each in found] == [row.id], word
    await store.close()
