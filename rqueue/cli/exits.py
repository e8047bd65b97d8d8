"""Exit codes that scripts can rely on, and what supervisors and their processes mean by theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

from rqueue.errors import (
    BrokerError,
    ConfigError,
    JobError,
    JobNotFound,
    MessageTooLarge,
    MissingDependency,
    RQueueError,
    ScheduleNotFound,
    SchemaMismatch,
    StoreError,
    WaitTimeout,
)


class Code(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REDIS = 3
    NOT_FOUND = 4
    TIMEOUT = 5
    STORE = 6
    INTERRUPTED = 130


REPLACE: Final = 75
"""The exit code of a process that another one is to replace (EX_TEMPFAIL: try again)."""

MEANINGS: Final = (
    "Exit codes: 0 success, 1 the job failed (or the answer was no), 2 wrong usage or configuration, "
    "3 Redis cannot be reached or refuses, 4 not found, 5 the job has not ended (in time), or a worker has not "
    "answered, 6 the database of history cannot be reached or refuses."
)
"""For the help of every command but ``doctor``."""

CHECKUP_MEANINGS: Final = (
    "Exit codes: 0 nothing was found, or notes; 1 warnings; 2 problems (or wrong usage or configuration); "
    "3 Redis cannot be reached or refuses. What was fixed does not count."
)
"""For the help of ``doctor``: how bad what was found is, from 0 to 2."""

# The first that fits counts: a subclass stands before its parent.
_CODES: Final[tuple[tuple[type[RQueueError], Code], ...]] = (
    (JobNotFound, Code.NOT_FOUND),
    (ScheduleNotFound, Code.NOT_FOUND),
    (WaitTimeout, Code.TIMEOUT),
    (JobError, Code.FAILED),
    (BrokerError, Code.REDIS),
    (SchemaMismatch, Code.USAGE),
    (StoreError, Code.STORE),
    (ConfigError, Code.USAGE),
    (MissingDependency, Code.USAGE),
    (MessageTooLarge, Code.USAGE),
)


def code_of(error: RQueueError) -> Code:
    """The exit code that an error stands for."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.FAILED)


@contextmanager
def as_usage() -> Iterator[None]:
    """Arguments that do not fit the task, or cannot be sent as JSON, are the wrong usage of a command."""
    try:
        yield
    except TypeError as exc:
        raise ConfigError(str(exc)) from None
