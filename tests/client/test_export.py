"""History as files: what a line says, what a spreadsheet is spared, and that a file is whole or not there."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from rqueue.client.export import COLUMNS, document, head, jsonl, rows, write
from rqueue.client.history import HistoryEntry
from rqueue.errors import ConfigError
from rqueue.wire import codec
from rqueue.wire.history import PastError
from rqueue.wire.state import State

AT = datetime(2026, 11, 22, 8, tzinfo=UTC)
ENTRY = HistoryEntry(
    id="a1",
    queue="email",
    state=State.FAILURE,
    task="shop.send",
    result=b"\xff",
    error='ValueError: "no",\nnever',
    traceback="Traceback\n  here",
    attempts=2,
    enqueued=AT,
    started=AT + timedelta(milliseconds=250),
    finished=AT + timedelta(milliseconds=1500),
    history=(PastError(AT, "OSError: away"),),
    args=["=1+1", None],
    kwargs={"name": "Zoë"},
)


async def several(*found, error=None):
    for each in found:
        yield each
    if error is not None:
        raise error


def read(data):
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_a_line_of_json_is_all_that_is_known():
    line = json.loads(jsonl([ENTRY]))
    assert tuple(line) == COLUMNS
    assert line["result"] == {"$bytes": "/w=="}
    assert (line["wait_s"], line["run_s"]) == (0.25, 1.25)
    assert line["history"] == [{"at": "2026-11-22T08:00:00+00:00", "error": "OSError: away"}]
    assert codec.loads(jsonl([ENTRY]))["result"] == b"\xff"


def test_a_row_of_csv_reads_back():
    (names, row) = read(head("csv") + rows([ENTRY]))
    found = dict(zip(names, row, strict=True))
    assert tuple(names) == COLUMNS
    assert found["error"] == 'ValueError: "no",\nnever'
    assert json.loads(found["args"]) == ["=1+1", None]
    assert found["kwargs"] == '{"name":"Zoë"}'
    assert found["priority"] == found["worker"] == ""
    assert found["started"] == "2026-11-22T08:00:00.250000+00:00"
    assert rows([ENTRY]).endswith(b"\r\n"), "RFC 4180"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+1", "'+1+1"),
        ("-cmd", "'-cmd"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\tx", "'\tx"),
        ("-5", "-5"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_is_a_formula(text, cell):
    """Fails when a job's name or error is written as it is: a spreadsheet would run it."""
    entry = HistoryEntry(text, "default", State.SUCCESS, task=text, error=text)
    (row,) = read(rows([entry]))
    assert [row[COLUMNS.index(name)] for name in ("id", "task", "error")] == [cell] * 3


def test_a_negative_result_stays_a_number():
    (row,) = read(rows([HistoryEntry("1", "default", State.SUCCESS, result=-5)]))
    assert row[COLUMNS.index("result")] == "-5"


def test_of_a_job_that_nobody_dated_no_span_is_told():
    told = document(HistoryEntry("1", "default", State.REVOKED))
    assert told["wait_s"] is told["run_s"] is told["enqueued"] is None


async def test_a_file_of_more_than_a_batch(tmp_path):
    file = tmp_path / "out.jsonl"
    assert await write(several(*[ENTRY] * 1201), file, "jsonl") == 1201
    assert len(file.read_bytes().splitlines()) == 1201
    assert list(tmp_path.iterdir()) == [file]


async def test_a_stream():
    stream = io.BytesIO()
    assert await write(several(ENTRY, ENTRY), stream, "csv") == 2
    assert len(read(stream.getvalue())) == 3
    assert not stream.closed


@pytest.mark.parametrize("error", [RuntimeError("away"), asyncio.CancelledError(), KeyboardInterrupt()], ids=type)
async def test_a_broken_export_leaves_what_was_there(tmp_path, error):
    """Fails when it is written under its name at once."""
    file = tmp_path / "out.csv"
    file.write_text("before")
    found = several(*[ENTRY] * 600, error=error)
    with pytest.raises(type(error)):
        await write(found, file, "csv")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


async def test_a_format_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="jsonl, csv"):
        await write(several(), tmp_path / "out", "xml")


async def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        await write(several(ENTRY), tmp_path / "no" / "out", "jsonl")
