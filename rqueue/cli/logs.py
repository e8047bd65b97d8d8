"""Sets up logging for a process that rqueue owns: lines on stderr, for people or for machines."""

from __future__ import annotations

import logging
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
