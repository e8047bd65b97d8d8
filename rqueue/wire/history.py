"""What a job's retries were for: the last errors, carried in its message and told in its record.

It alone keeps that this stays small, however often a job is retried and whatever its errors say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeGuard

HISTORY_MAX: Final = 10
"""So many errors are kept, the last ones."""

MAX_PAST_CHARS: Final = 200
"""Each is cut to this many characters."""

_FIRST_MS_OF_NO_DATE: Final = 253_402_300_800_000  # the year 10000

Entry = Sequence[Any]
"""One error as it stands in a message: ms since the epoch, and its type and text."""


class PastError(NamedTuple):
    """An error for which a job was retried.

    Attributes:
        at: when.
        error: ``Type: text``, at most 200 characters.
    """

    at: datetime
    error: str


def noted(history: Sequence[Entry], now_ms: int, error: str) -> list[Entry]:
    """The history with one more error, ``Type: text``."""
    return [*history, [now_ms, error[:MAX_PAST_CHARS]]][-HISTORY_MAX:]


def past_errors(history: Sequence[Entry]) -> tuple[PastError, ...]:
    """The history for its readers."""
    return tuple(PastError(datetime.fromtimestamp(at / 1000, UTC), error) for at, error in history)


def is_moment(value: object) -> TypeGuard[int]:
    """True for ms since the epoch that a datetime can say; what else stands in a time's place is anybody's."""
    return type(value) is int and 0 <= value < _FIRST_MS_OF_NO_DATE


def is_history(value: object) -> TypeGuard[Sequence[Entry]]:
    """True for a list of pairs of ms since the epoch and a text."""
    return isinstance(value, list) and all(
        isinstance(entry, list) and len(entry) == 2 and is_moment(entry[0]) and isinstance(entry[1], str)
        for entry in value
    )
