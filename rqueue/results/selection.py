"""Which jobs of history are meant, and where a page of them ended; nothing here asks a store."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypedDict

import orjson

from rqueue.config import age_s
from rqueue.errors import ConfigError
from rqueue.wire.keys import check_queue_name
from rqueue.wire.state import State

STATES: Final = (State.SUCCESS, State.FAILURE, State.REVOKED, State.RETRY)
"""The states that history knows: a run has ended, or the job will never run."""

MOST_WORDS: Final = 32

# The same signs are spaces in the words that the database keeps (migrations/versions/v0001_jobs.py).
SIGNS: Final = r"""!"#$%&'()*+,-./:;<=>?@[\]^`{|}~"""
_SPACES: Final = str.maketrans(SIGNS, " " * len(SIGNS))
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # no database has NUL, or halves of characters

When = datetime | timedelta | str
"""A moment: an aware datetime, a time ago, or a text: ``24h``, ``7d``, ``2026-11-01``, ``2026-11-01T12:00+01:00``."""


class SelectionKwargs(TypedDict, total=False):
    """What chooses jobs; see :class:`Selection`."""

    state: State | str | None
    task: str | None
    queue: str | None
    since: When | None
    until: When | None
    search: str | None
    parent_id: str | None
    root_id: str | None


class Word(NamedTuple):
    """A word that is searched for.

    Attributes:
        text: without signs, as it is stored.
        is_prefix: a word that begins so is meant as well.
    """

    text: str
    is_prefix: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs are meant; all conditions must hold.

    Attributes:
        state: in this state.
        task: of the task of this name.
        queue: that ended in this queue.
        since: that ended then or later.
        until: that ended before.
        words: with each of these words in task, arguments or error.
        parent_id: that were enqueued by this job.
        root_id: of the line that this job began.
    """

    state: State | None = None
    task: str | None = None
    queue: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    words: tuple[Word, ...] = ()
    parent_id: str | None = None
    root_id: str | None = None

    @classmethod
    def of(cls, given: SelectionKwargs, now: datetime) -> Selection:
        """What a caller chose.

        Args:
            given: state, task, queue, since, until, search, parent_id, root_id; None is no condition.
            now: what an age counts from.

        Raises:
            ConfigError: a value is wrong.
        """
        since, until, search = given.get("since"), given.get("until"), given.get("search")
        queue = given.get("queue")
        return cls(
            state=_state(given.get("state")),
            task=_text("task", given.get("task")),
            queue=None if queue is None else check_queue_name(queue),
            since=None if since is None else moment("since", since, now),
            until=None if until is None else moment("until", until, now),
            words=() if search is None else words_of(search),
            parent_id=_text("parent_id", given.get("parent_id")),
            root_id=_text("root_id", given.get("root_id")),
        )


class Position(NamedTuple):
    """A place in the order of history, newest first: a page begins below it.

    It is a row's own key, so that rows which come or go meanwhile move nothing.
    """

    finished: datetime
    id: str
    enqueued: datetime

    def encode(self) -> str:
        """As one word, for a URL or a command line."""
        fields = [(each - _EPOCH) // _MICROSECOND for each in (self.finished, self.enqueued)]
        return base64.urlsafe_b64encode(orjson.dumps([*fields, self.id])).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Position:
        """Read what :meth:`encode` made.

        Raises:
            ConfigError: it did not.
        """
        try:
            found: Any = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
            finished, enqueued, job_id = found
            if not (type(finished) is int and type(enqueued) is int and isinstance(job_id, str)):
                raise TypeError  # noqa: TRY301 - refused below, as whatever else is wrong
            return cls(_EPOCH + finished * _MICROSECOND, job_id, _EPOCH + enqueued * _MICROSECOND)
        except (binascii.Error, ValueError, TypeError, OverflowError):
            raise ConfigError(f"after {text!r}: not a cursor that a page of history gave") from None


def moment(name: str, given: object, now: datetime) -> datetime:
    """The moment that a caller means.

    Args:
        name: the option, for the error.
        given: see :data:`When`; a text without a time zone is in UTC.
        now: what an age counts from.

    Raises:
        ConfigError: it is none.
    """
    found = given if isinstance(given, datetime) else _read(given)
    if found is not None and found.tzinfo is None:
        raise ConfigError(f"{name} {given!r}: a datetime with a time zone")
    try:
        if found is None:
            age: Any = given
            found = now - timedelta(seconds=age_s(age, name))
        return found.astimezone(UTC)
    except (ConfigError, OverflowError):
        text = "an age such as 90s, 15m, 24h or 7d, or a time such as 2026-11-01T12:00Z"
        raise ConfigError(f"{name} {given!r}: {text}") from None


def words_of(search: str) -> tuple[Word, ...]:
    """The words of a text as they are stored: signs part words; ``*`` behind one stands for any ending.

    Raises:
        ConfigError: there is none, or they are too many.
    """
    found: dict[Word, None] = {}
    for part in _UNSTORABLE.sub(" ", str(search)).split():
        words = part.translate(_SPACES).split()
        for number, word in enumerate(words, 1):
            found[Word(word, part.endswith("*") and number == len(words))] = None
    if not 0 < len(found) <= MOST_WORDS:
        raise ConfigError(f"search {search!r}: from 1 to {MOST_WORDS} words")
    return tuple(found)


def _read(given: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(given.strip()) if isinstance(given, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _state(given: object) -> State | None:
    if given is None:
        return None
    name = given.upper() if isinstance(given, str) else ""
    if name not in STATES:
        raise ConfigError(f"state {given!r}: history knows {', '.join(STATES)}")
    return State(name)


def _text(name: str, given: object) -> str | None:
    if given is not None and (not isinstance(given, str) or _UNSTORABLE.search(given)):
        raise ConfigError(f"{name} {given!r}: a text")
    return given
