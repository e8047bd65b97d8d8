"""History as files: JSON lines, which keep every value, and CSV, which a spreadsheet opens.

A file gets its name once it is whole, so that a broken export is never taken for one.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from rqueue.errors import ConfigError
from rqueue.wire import codec

if TYPE_CHECKING:
    from rqueue.client.history import HistoryEntry

FORMATS: Final = ("jsonl", "csv")
COLUMNS: Final = (
    *("id", "task", "queue", "priority", "state", "args", "kwargs", "result", "error", "traceback", "attempts"),
    *("losses", "worker", "parent_id", "root_id", "enqueued", "started", "finished", "wait_s", "run_s", "history"),
)
"""What is told of a job, in this order."""

_VALUES: Final = ("args", "kwargs", "result", "history")
# With these a spreadsheet takes a cell for a formula, which the text of any job could smuggle in.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_BATCH: Final = 500


def document(entry: HistoryEntry) -> dict[str, Any]:
    """An entry's fields, for machines."""
    found: dict[str, Any] = {name: getattr(entry, name) for name in COLUMNS if name not in ("wait_s", "run_s")}
    wait, run = entry.wait, entry.duration
    found["wait_s"] = None if wait is None else wait.total_seconds()
    found["run_s"] = None if run is None else run.total_seconds()
    found["history"] = [{"at": past.at, "error": past.error} for past in entry.history]
    return {name: found[name] for name in COLUMNS}


def jsonl(entries: Iterable[HistoryEntry]) -> bytes:
    """A line of JSON for each; bytes in it are tagged as in a message."""
    return b"".join(codec.dumps(document(entry)) + b"\n" for entry in entries)


def rows(entries: Iterable[HistoryEntry]) -> bytes:
    """A row of CSV for each (RFC 4180, UTF-8). A text that a spreadsheet would take for a formula has ``'`` before it.

    Arguments, results and the errors of retries stand in their cells as JSON, None as nothing.
    """
    return csv_lines([_cell(name, value) for name, value in document(entry).items()] for entry in entries)


def head(format: str) -> bytes:  # noqa: A002 - the option's name
    """What stands before the first job."""
    return csv_lines([COLUMNS]) if format == "csv" else b""


async def write(
    entries: AsyncIterator[HistoryEntry],
    file: str | os.PathLike[str] | BinaryIO,
    format: str,  # noqa: A002 - the option's name
) -> int:
    """Write entries as they come, into a file or an open binary stream; the number of them.

    Of a file that is named, nothing is seen before it is whole and on disk; what it held before is kept until then.

    Raises:
        ConfigError: there is no such format.
        OSError: the file cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format {format!r}: one of {', '.join(FORMATS)}")
    encode = rows if format == "csv" else jsonl
    if not isinstance(file, str | os.PathLike):
        return await _pour(entries, file, encode, head(format))
    path = Path(file)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    stream = await asyncio.to_thread(part.open, "xb")
    try:
        with stream:
            count = await _pour(entries, stream, encode, head(format))
            await asyncio.to_thread(_to_disk, stream)
        part.replace(path)
    except BaseException:  # also where it is cancelled
        with suppress(OSError):
            part.unlink()
        raise
    return count


async def _pour(
    entries: AsyncIterator[HistoryEntry],
    stream: BinaryIO,
    encode: Callable[[Iterable[HistoryEntry]], bytes],
    before: bytes,
) -> int:
    count, batch = 0, list[Any]()
    await asyncio.to_thread(stream.write, before)
    async for entry in entries:
        batch.append(entry)
        if len(batch) == _BATCH:
            await asyncio.to_thread(stream.write, encode(batch))
            count += len(batch)
            batch.clear()
    await asyncio.to_thread(stream.write, encode(batch))
    return count + len(batch)


def _to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def csv_lines(lines: Iterable[Iterable[Any]]) -> bytes:
    """Rows of cells as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(name: str, value: Any) -> Any:
    if name in _VALUES:
        value = "" if value is None or (name == "history" and not value) else codec.dumps(value).decode()
    elif isinstance(value, datetime):
        return value.isoformat()
    return safe(value)


def safe(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
