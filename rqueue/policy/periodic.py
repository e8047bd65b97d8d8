"""When a periodic schedule ticks, and what one look at it enqueues.

Pure: the due time before and Redis's time go in, what is to be written comes out. Nothing here walks through more
occurrences than are enqueued, however long nobody ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import ModuleType
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from rqueue.errors import ConfigError, MissingDependency
from rqueue.wire.periodic import Entry

AT_ONCE: Final = 100
"""Most jobs of one step, so that Redis is never held for long, and most ticks that wait for a job's end."""

PENDING_LOOK_MS: Final = 1000
"""How often it is looked whether the job has ended for whose end a tick waits."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTCUTS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Cron:
    """A crontab; made by :func:`cron`.

    Attributes:
        expression: five fields, or six with seconds in front, or ``@daily`` and its like.
        tz: the IANA name of its time zone.
    """

    expression: str
    tz: str = "UTC"

    def __str__(self) -> str:
        return f"cron {self.expression} {self.tz}"

    def after(self, ms: int) -> int:
        """The first occurrence after that moment, in ms since the epoch.

        Raises:
            ConfigError: there is none within 50 years.
        """
        for moment in _walk(self, ms):
            # A fixed time in a repeated hour is the first of the two: seen from the second one it has passed.
            if moment > ms:
                return moment
        raise ConfigError(f"cron {self.expression!r}: it never comes")

    def latest(self, due_ms: int, now_ms: int) -> int:
        """The last occurrence up to now, where that at ``due_ms`` has come already."""
        found = due_ms
        for moment in _walk(self, now_ms + 1, backward=True):
            # Backward, a repeated hour's fixed time is not seen from the hour's second pass: the walk goes on forward.
            if moment <= now_ms:
                found = max(due_ms, moment)
                break
        while (following := self.after(found)) <= now_ms:
            found = following
        return found


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval; made by :func:`every`.

    Attributes:
        ms: the interval.
    """

    ms: int

    def __str__(self) -> str:
        return f"every {self.ms / 1000:g} s"

    def after(self, ms: int) -> int:
        """One interval later."""
        return ms + self.ms

    def latest(self, due_ms: int, now_ms: int) -> int:
        """The last occurrence up to now, where that at ``due_ms`` has come already."""
        return due_ms + (now_ms - due_ms) // self.ms * self.ms


Rhythm = Cron | Every


def cron(expression: str, tz: str = "UTC") -> Cron:
    """Tick by a crontab: ``cron("*/5 9-17 * * 1-5", tz="Europe/Berlin")``.

    Args:
        expression: minute, hour, day of the month, month, day of the week, as in Debian's cron, with ``L``, ``LW`` and
            ``#``; six fields begin with seconds. Or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``.
        tz: the IANA name of a time zone. Where the clocks go forward, a fixed time in the skipped hour comes right
            after it; where they go back, one in the repeated hour comes once.

    Raises:
        ConfigError: the expression or the time zone is none, or it never comes.
        MissingDependency: without the extra ``cron``.
    """
    made = Cron(_checked_expression(expression), _checked_zone(tz))
    made.after(0)
    return made


def every(*, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> Every:
    """Tick each time so much has passed, at least one second; all arguments are added.

    The first tick comes one interval after the schedule is first declared; the others do not drift.

    Raises:
        ConfigError: it is no number, or less than a second.
    """
    given: dict[str, object] = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"every: {name} {value!r}: a number")
    try:
        ms = round(timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days) / timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        ms = 0
    if not 1000 <= ms <= 10_000 * 86_400_000:
        raise ConfigError("every: at least 1 second and at most 10,000 days, for example every(minutes=5)")
    return Every(ms)


def rhythm_of(entry: Entry) -> Rhythm:
    """When a stored schedule ticks.

    Raises:
        ConfigError: what is stored is no crontab or no time zone here.
    """
    if entry.every is not None:
        return Every(entry.every)
    assert entry.cron is not None
    return _stored_cron(entry.cron, entry.tz)


class Look(NamedTuple):
    """What one look at a schedule brings.

    Attributes:
        fires: the due times that get a job now, unless the last job's being alive forbids it.
        entry, look_ms: how the schedule goes on, and when it is looked at next.
        last_id: the job that must not be alive, or ''.
        held, held_look_ms: as ``entry`` and ``look_ms``, where it is alive.
        missed: ticks were dropped because they were too late.
    """

    fires: tuple[int, ...]
    entry: Entry
    look_ms: int
    last_id: str
    held: Entry
    held_look_ms: int
    missed: bool


def look(name: str, entry: Entry, now_ms: int) -> Look:
    """What is to be done about a schedule now; see :class:`Look`.

    Args:
        name: the schedule's name.
        entry: as it is stored.
        now_ms: Redis's time.

    Raises:
        ConfigError: as :func:`rhythm_of`.
    """
    room = AT_ONCE - len(entry.pending)
    ticks: tuple[int, ...] = ()
    due, missed = entry.due, False
    if room > 0 and entry.due <= now_ms:  # without room it is late, and then missed, as if nobody had run
        ticks, due = _ticks(rhythm_of(entry), entry, now_ms, room)
        missed = not ticks
    waiting = (*entry.pending, *ticks)
    fires = waiting if entry.overlap == "allow" else waiting[:1]
    left = waiting[1:] if entry.overlap == "queue" else ()
    after = replace(entry, due=due, pending=left)
    if fires:
        after = replace(after, last=fires[-1], last_id=job_id(name, fires[-1]))
    held = replace(entry, due=due, pending=waiting if entry.overlap == "queue" else ())
    last_id = "" if entry.overlap == "allow" or entry.last_id is None else entry.last_id
    return Look(fires, after, _look_ms(after, now_ms), last_id, held, _look_ms(held, now_ms), missed)


def resumed(entry: Entry, now_ms: int) -> Entry:
    """The schedule, not paused: what it would have ticked meanwhile is forgotten."""
    due = entry.due
    if due <= now_ms:
        rhythm = rhythm_of(entry)
        due = rhythm.after(rhythm.latest(due, now_ms))
    return replace(entry, paused=False, due=due, pending=())


def declared(wanted: Entry, stored: Entry | None, now_ms: int) -> Entry | None:
    """A schedule of the code as it is to be stored; None where it stays as it is.

    What was edited at run time stays until the code's own definition changes; a pause stays in any case.

    Args:
        wanted: the code's definition, with its fingerprint.
        stored: what is stored under its name, or None.
        now_ms: Redis's time.
    """
    if stored is None:
        return replace(wanted, due=rhythm_of(wanted).after(now_ms))
    if stored.source == wanted.source and stored.code == wanted.code:
        return None
    entry = replace(wanted, due=stored.due, paused=stored.paused, last=stored.last, last_id=stored.last_id)
    if entry.overlap == stored.overlap == "queue":
        entry = replace(entry, pending=stored.pending)
    if (entry.cron, entry.tz, entry.every) != (stored.cron, stored.tz, stored.every):
        entry = replace(entry, due=rhythm_of(entry).after(now_ms))
    return entry


def look_at(entry: Entry) -> int | None:
    """When a schedule that was just written is looked at: at once where ticks wait; None while it is paused."""
    if entry.paused:
        return None
    return min(entry.due, entry.pending[0]) if entry.pending else entry.due


def job_id(name: str, due_ms: int) -> str:
    """The id of the job of one tick: the same whoever makes it."""
    return f"{name}@{due_ms}"


def _ticks(rhythm: Rhythm, entry: Entry, now_ms: int, room: int) -> tuple[tuple[int, ...], int]:
    """The due times to run of those that have come, and the next one."""
    if entry.misfire == "all":
        ticks: list[int] = []
        due = entry.due
        while due <= now_ms and len(ticks) < room:
            ticks.append(due)
            due = rhythm.after(due)
        return tuple(ticks), due
    latest = rhythm.latest(entry.due, now_ms)
    is_on = entry.misfire == "once" or now_ms - latest < entry.grace
    return (latest,) if is_on else (), rhythm.after(latest)


def _look_ms(entry: Entry, now_ms: int) -> int:
    return min(entry.due, now_ms + PENDING_LOOK_MS) if entry.pending else entry.due


def _walk(rhythm: Cron, ms: int, *, backward: bool = False) -> Iterator[int]:
    start, cronsim = (_EPOCH + timedelta(milliseconds=ms)).astimezone(ZoneInfo(rhythm.tz)), _cronsim()
    try:
        # 2.8 gives local times, of which the one in a skipped hour is moved behind it already.
        for moment in cronsim.CronSim(_SHORTCUTS.get(rhythm.expression, rhythm.expression), start, reverse=backward):
            yield (moment - _EPOCH) // timedelta(milliseconds=1)
    except (cronsim.CronSimError, OverflowError) as exc:
        raise ConfigError(f"cron {rhythm.expression!r}: {exc}") from None


def _cronsim() -> ModuleType:
    try:
        import cronsim
    except ImportError:
        raise MissingDependency("a crontab needs cronsim: pip install 'rqueue[cron]'") from None
    return cronsim


@lru_cache(maxsize=1000)
def _stored_cron(expression: str, tz: str) -> Cron:
    return cron(expression, tz)


def _checked_expression(expression: object) -> str:
    text = " ".join(expression.split()) if isinstance(expression, str) else ""
    text = text.lower() if text.startswith("@") else text
    cronsim = _cronsim()
    try:
        cronsim.CronSim(_SHORTCUTS.get(text, text), _EPOCH)
    except cronsim.CronSimError as exc:
        raise ConfigError(
            f"cron {expression!r}: {exc}; write 'minute hour day month weekday', for example '*/5 9-17 * * 1-5', "
            f"or one of {', '.join(_SHORTCUTS)}"
        ) from None
    return text


def _checked_zone(tz: object) -> str:
    try:
        if isinstance(tz, str):
            return ZoneInfo(tz).key
    except (ValueError, OSError, LookupError):  # no such file, a path, a directory
        pass
    raise ConfigError(
        f"tz {tz!r}: the IANA name of a time zone, for example 'UTC' or 'Europe/Berlin' (on systems without time "
        "zones: pip install tzdata)"
    )
