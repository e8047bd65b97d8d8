"""One structured line for each event: a constant text in lower case, and fields."""

from __future__ import annotations

import json
import logging
import math
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson

LOGGER: Final = logging.getLogger("rqueue")


def event(level: int, text: str, /, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """Log an event with its fields, and an error's traceback; costs next to nothing when the level is off."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, text, exc_info=exc_info, extra={"rqueue": fields})


class Recurring:
    """Events that recur for as long as their cause lasts: the first few are written, and then one each half minute.

    A Redis that is away for an hour must not fill a disk. What differs in its text or error is another event.
    """

    _FIRST: Final = 5
    _EVERY_S: Final = 30.0
    _MOST_ERRORS: Final = 16

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, float, float]] = {}  # how many were written, when last, when seen

    def event(self, level: int, text: str, /, *, error: str, **fields: Any) -> None:
        """Log an event with its error, unless the same was logged a moment ago, again and again."""
        now = time.monotonic()
        written, last_s, seen_s = self._seen.pop((text, error), (0, -math.inf, -math.inf))
        if now - seen_s >= self._EVERY_S:
            written = 0
        if is_written := written < self._FIRST or now - last_s >= self._EVERY_S:
            written, last_s = written + 1, now
        if len(self._seen) >= self._MOST_ERRORS:
            del self._seen[next(iter(self._seen))]
        self._seen[text, error] = written, last_s, now
        if is_written:
            event(level, text, **fields, error=error)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, text, ``field=value`` …"""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = "".join(f" {name}={_plain(value)}" for name, value in getattr(record, "rqueue", {}).items())
        line = f"{moment} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """A line for machines: one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = dict(getattr(record, "rqueue", {}))
        fields |= {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields, default=_text, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a surrogate, a huge integer, a key of another kind: slower, and never lost
            return json.dumps({str(name): _plainest(value) for name, value in fields.items()})


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as exc:  # noqa: BLE001 - a line must not be lost because of what is in it
        return f"<str() of a {type(value).__name__} raised {type(exc).__name__}>"


def _plainest(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else _text(value)
    # One event is one line, and a field ends at a space, whatever is in it.
    return repr(text) if not text.isprintable() or " " in text or text == "" else text
