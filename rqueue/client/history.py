"""``app.history``: what became of the jobs that the result store keeps, long after Redis has forgotten them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Unpack

from rqueue.client.export import write
from rqueue.client.job import JobInfo
from rqueue.config import Age, age_s, whole
from rqueue.errors import ConfigError, JobNotFound
from rqueue.results.selection import Position, Selection, SelectionKwargs, When, moment
from rqueue.results.tally import TaskStats
from rqueue.wire import codec
from rqueue.wire.history import is_history, past_errors
from rqueue.wire.state import State

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from rqueue.client.client import Client

PAGE: Final = 50
MOST_ON_A_PAGE: Final = 10_000
MOST_CHILDREN: Final = 100
MOST_EARLIER: Final = 100
"""Of an id that is used again and again, as by a job for each hour, all rows would fill the memory."""
_BATCH: Final = 500
_UNKNOWN: Final = datetime.fromtimestamp(0, UTC)  # in a row, of a job whose producer did not say when


@dataclass(frozen=True, slots=True)
class HistoryEntry(JobInfo):
    """A job as history tells of it: what :class:`~rqueue.client.job.JobInfo` says, and more.

    Attributes:
        args: its arguments as they were stored: without secrets, and cut where they were large; None: not kept.
        kwargs: the same by name.
        priority: its own priority, or None.
        position: its place in the order of history, for ``after``.
    """

    args: Any = None
    kwargs: Any = None
    priority: int | None = None
    position: str = ""

    @property
    def wait(self) -> timedelta | None:
        """From its enqueue to the start of its last run; None when one of them is not known."""
        if self.enqueued is None or self.started is None:
            return None
        return max(self.started - self.enqueued, timedelta())

    @property
    def duration(self) -> timedelta | None:
        """How long its last run took; None when it never ran."""
        return None if self.started is None or self.finished is None else self.finished - self.started


class Page(NamedTuple):
    """A page of history.

    Attributes:
        entries: the jobs, the newest first.
        after: where the next page begins; None: there is none.
    """

    entries: tuple[HistoryEntry, ...]
    after: str | None


class Step(NamedTuple):
    """One line of a job's story.

    Attributes:
        at: when.
        what: ``enqueued``, ``failed`` (and was retried), ``started`` (its last run), or the state in which it ended.
        error: ``Type: text``, or None.
    """

    at: datetime
    what: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """All that history knows of a job.

    Attributes:
        job: the job; of an id that was used again, the last one.
        timeline: what happened to it, in order; of many failed runs the last 10 are known.
        parent: the job that enqueued it, if it is known.
        children: the jobs that it enqueued, the newest first, up to a number.
        has_more_children: there are more.
        earlier: earlier jobs of the same id, the newest first, the last hundred of them.
    """

    job: HistoryEntry
    timeline: tuple[Step, ...]
    parent: HistoryEntry | None
    children: tuple[HistoryEntry, ...]
    has_more_children: bool
    earlier: tuple[HistoryEntry, ...]


class History:
    """Asks the app's database; ``app.history``.

    Conditions are the same everywhere: ``state`` (SUCCESS, FAILURE, REVOKED, RETRY), ``task``, ``queue``, ``since`` and
    ``until`` (when the job ended: an aware datetime, a timedelta ago, or a text such as ``24h`` or ``2026-11-01``),
    ``search`` (all of these words in task, arguments or error; ``time*`` for what begins so), ``parent_id``,
    ``root_id``. What is asked raises:

    - ConfigError: a condition is wrong, or the app keeps no history in a database.
    - StoreUnavailable: the database could not be asked.
    - SchemaMismatch: its tables are not those that this version knows.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def jobs(
        self, *, limit: int | None = None, after: str | None = None, **which: Unpack[SelectionKwargs]
    ) -> AsyncIterator[HistoryEntry]:
        """Each job that is meant, the newest first: ``async for job in app.history.jobs(state="FAILURE")``.

        They are fetched by the page, and nothing is held in the database meanwhile. Jobs that end while it is read are
        not seen.

        Args:
            limit: so many at most; None is all.
            after: begin below this job's ``position``, or where a page ended.
            **which: the conditions.
        """
        if limit is not None:
            whole("limit", limit, 0)
        engine, selection = self._engine(), self._selection(which)
        position = None if after is None else Position.decode(after)
        while limit is None or limit > 0:
            count = _BATCH if limit is None else min(_BATCH, limit)
            rows = await self._page(engine, selection, count, position)
            for row in rows:
                yield _entry(row)
            if len(rows) < count:
                return
            position = _position(rows[-1])
            limit = None if limit is None else limit - count

    async def page(self, *, limit: int = PAGE, after: str | None = None, **which: Unpack[SelectionKwargs]) -> Page:
        """One page of the jobs that are meant, the newest first.

        Args:
            limit: so many at most, to 10,000.
            after: the last page's ``after``; None is the first page.
            **which: the conditions, the same for each page.
        """
        whole("limit", limit, 1, MOST_ON_A_PAGE)
        position = None if after is None else Position.decode(after)
        rows = await self._page(self._engine(), self._selection(which), limit + 1, position)
        entries = tuple(_entry(row) for row in rows[:limit])
        return Page(entries, entries[-1].position if len(rows) > limit else None)

    async def show(self, job_id: str, *, children: int = MOST_CHILDREN) -> Story:
        """All that is known of a job.

        Args:
            job_id: its id.
            children: so many of the jobs that it enqueued, at most.

        Raises:
            JobNotFound: history does not know it.
        """
        whole("children", children, 0, MOST_ON_A_PAGE)
        engine = self._engine()  # first: it says so where the extra is not installed
        from rqueue.results.sql.queries import kin

        found = await kin(engine, job_id, MOST_EARLIER + 1, children + 1)
        if not found.rows:
            raise JobNotFound(job_id)
        job, *earlier = (_entry(row) for row in found.rows)
        return Story(
            job=job,
            timeline=_timeline(job),
            parent=None if found.parent is None else _entry(found.parent),
            children=tuple(_entry(row) for row in found.children[:children]),
            has_more_children=len(found.children) > children,
            earlier=tuple(earlier),
        )

    async def export(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        format: str = "jsonl",  # noqa: A002 - as on the command line
        **which: Unpack[SelectionKwargs],
    ) -> int:
        """Write each job that is meant into a file, the newest first, in constant memory; the number of them.

        A file that is named is there once it is whole: before that, what it held stays.

        Args:
            file: a path, or a stream that is open for bytes.
            format: ``jsonl``, a line of JSON for each job, or ``csv``.
            **which: the conditions.

        Raises:
            OSError: it cannot be written.
        """
        return await write(self.jobs(**which), file, format)

    async def stats(self, *, since: When = "7d", until: When | None = None, task: str | None = None) -> list[TaskStats]:
        """How the jobs of each task went: how many ended how, how long they waited and ran; the busiest first.

        Args:
            since: jobs that ended then or later.
            until: jobs that ended before; None is now.
            task: only this task.
        """
        now = datetime.now(UTC)
        begin, end = moment("since", since, now), None if until is None else moment("until", until, now)
        engine = self._engine()
        from rqueue.results.sql.stats import stats

        return await stats(engine, begin, end, None if task is None else self._client.tasks.full_name(task))

    async def prune(self, *, older_than: Age, keep_failures: bool = False, dry_run: bool = False) -> int:
        """Remove jobs that ended so long ago, in small steps; how many there were. What statistics say of them stays.

        It may be broken off at any time; what is left goes the next time.

        Args:
            older_than: seconds, a timedelta, or a text such as ``30d``.
            keep_failures: jobs in the state FAILURE stay.
            dry_run: only count them.
        """
        before = datetime.now(UTC) - timedelta(seconds=age_s(older_than, "older_than"))
        engine = self._engine()
        from rqueue.results.sql.retention import doomed, prune

        return await (doomed if dry_run else prune)(engine, before, keep_failures=keep_failures)

    def _selection(self, which: SelectionKwargs) -> Selection:
        selection = Selection.of(which, datetime.now(UTC))
        if selection.task is None:
            return selection
        return replace(selection, task=self._client.tasks.full_name(selection.task))

    async def _page(
        self, engine: AsyncEngine, selection: Selection, limit: int, after: Position | None
    ) -> list[dict[str, Any]]:
        from rqueue.results.sql.queries import page

        return await page(engine, selection, limit, after)

    def _engine(self) -> AsyncEngine:
        store = self._client.session().store()
        engine: AsyncEngine | None = getattr(store, "engine", None)
        if engine is None:
            raise ConfigError(
                f"history is asked of a database, and {store.shown} is none: "
                "give RQueue(results='postgresql+asyncpg://…') or 'sqlite+aiosqlite:///…'"
            )
        return engine


def _entry(row: Mapping[str, Any]) -> HistoryEntry:
    """The row for its readers."""
    past = _value(row["history"])
    return HistoryEntry(
        id=row["id"],
        queue=row["queue"],
        state=State(row["state"]),
        task=row["task"],
        result=_value(row["result"]),
        error=row["error"],
        traceback=row["traceback"],
        attempts=row["attempts"],
        losses=row["losses"],
        enqueued=None if row["enqueued"] == _UNKNOWN else row["enqueued"],
        started=row["started"],
        finished=row["finished"],
        worker=row["worker"],
        parent_id=row["parent_id"],
        root_id=row["root_id"],
        history=past_errors(past) if is_history(past) else (),
        args=_value(row["args"]),
        kwargs=_value(row["kwargs"]),
        priority=row["priority"],
        position=_position(row).encode(),
    )


def _position(row: Mapping[str, Any]) -> Position:
    return Position(row["finished"], row["id"], row["enqueued"])


def _value(text: str | None) -> Any:
    """A stored JSON text's value; what is no JSON stands for itself."""
    if text is None:
        return None
    try:
        return codec.loads(text.encode())
    except ValueError:
        return text


def _timeline(job: HistoryEntry) -> tuple[Step, ...]:
    steps = [Step(past.at, "failed", past.error) for past in job.history]
    if job.enqueued is not None:
        steps.insert(0, Step(job.enqueued, "enqueued"))
    if job.started is not None:
        steps.append(Step(job.started, "started"))
    if job.finished is not None:
        steps.append(Step(job.finished, str(job.state), job.error))
    return tuple(steps)
