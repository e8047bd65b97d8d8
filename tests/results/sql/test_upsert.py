"""The statement and its parameter: what is computed, what is cleaned, and what is left as it is."""

import orjson
import pytest

from rqueue.results.row import Row
from rqueue.results.sql.calls import Refused
from rqueue.results.sql.tables import jobs
from rqueue.results.sql.upsert import encoded, least, statement, storable, storable_row

from ..conftest import NOW, make_row  # noqa: TID252 - tests are no installed package


def fields(row):
    (found,) = orjson.loads(encoded([row]))
    return found


@pytest.mark.parametrize(
    ("times", "wait", "run"),
    [
        ((NOW, NOW + 100, NOW + 150), 100, 50),
        ((NOW, None, NOW + 150), None, None),
        ((None, NOW + 100, NOW + 150), None, 50),
        ((NOW, NOW - 5, NOW - 7), 0, 0),
        ((-1, NOW, NOW), None, 0),
        ((10**18, NOW, NOW), None, 0),
        ((NOW, 10**18, NOW), None, None),
    ],
)
def test_how_long_it_waited_and_ran(times, wait, run):
    """Never below nothing, where two hosts' clocks differ; and unknown where a time is none."""
    enqueued, started, finished = times
    found = fields(make_row(enqueued=enqueued, started=started, finished=finished))
    assert (found["wait_ms"], found["run_ms"]) == (wait, run)
    assert found["enqueued"] == (enqueued if enqueued == NOW else 0)


def test_what_no_database_stores_is_replaced_and_nothing_else():
    assert storable("a\x00b\ud800c\udfff😀\n") == "a\ufffdb\ufffdc\ufffd😀\n"
    row = make_row(error="a\x00b", result=r'"\u0000"')
    assert fields(row)["error"] == "a\ufffdb"
    assert fields(row)["result"] == r'"\u0000"'
    assert storable_row(row) == row._replace(error="a\ufffdb")


def test_one_bad_text_leaves_the_others_as_they_are():
    rows = [make_row(error="\ud800"), make_row(error="plain")]
    assert [found["error"] for found in orjson.loads(encoded(rows))] == ["\ufffd", "plain"]


def test_a_number_that_no_column_holds_is_refused():
    with pytest.raises(Refused):
        encoded([make_row(attempts=2**70)])


def test_what_is_tried_where_the_whole_row_was_refused():
    row = make_row(priority=99, task="t" * 5000, error="e" * 5000, history="[]", traceback="x")
    short = least(row)
    assert (short.id, short.state, short.finished) == (row.id, row.state, row.finished)
    assert (len(short.task), len(short.error), short.priority) == (500, 500, None)
    assert {short.args, short.kwargs, short.result, short.traceback, short.history} == {None}
    assert least(make_row(priority=3)).priority == 3


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_every_column_is_written(dialect):
    """Breaks when a field is added to a row, or a column to the table, and is left empty."""
    written = statement(dialect).partition("(")[2].partition(")")[0].split(", ")
    assert set(written) == {column.name for column in jobs.c}
    assert set(Row._fields) | {"wait_ms", "run_ms", "recorded"} == set(written)
