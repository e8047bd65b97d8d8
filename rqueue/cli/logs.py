"""Sets up logging for a process that rqueue owns: lines on stderr, for people or for machines."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress
from enum import StrEnum

from rqueue.log import LOGGER, JsonFormatter, TextFormatter


class LogLevel(StrEnum):
    """What is logged: this and everything more serious."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


def configure(level: LogLevel, format_: LogFormat) -> None:
    """Send log lines to stderr: everybody's, unless the app has set up logging itself; then only rqueue's."""
    atexit.register(_give_up_unwritten)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format_ is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    if root.handlers:
        LOGGER.handlers = [handler]
        LOGGER.propagate = False
    else:
        root.addHandler(handler)
        root.setLevel(level.upper())
    LOGGER.setLevel(level.upper())


def _give_up_unwritten() -> None:
    """What a full disk or a closed pipe did not take goes nowhere: Python would end a healthy process with code 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
