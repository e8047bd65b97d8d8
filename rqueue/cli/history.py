"""``rqueue history``, ``history show``, ``history export``: what became of jobs, from the database that keeps it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from rqueue.cli import options
from rqueue.cli.exits import MEANINGS, Code
from rqueue.cli.lookup import find_keeper, warn_of_unknown_task
from rqueue.cli.output import fail, printable, run, show_json, show_table
from rqueue.client.export import FORMATS, document, head, rows
from rqueue.client.history import MOST_ON_A_PAGE, PAGE, HistoryEntry, Story
from rqueue.policy.redaction import shown_value
from rqueue.results.selection import STATES, SelectionKwargs
from rqueue.wire import codec

commands = typer.Typer(help="What became of jobs, from the database that keeps it.", invoke_without_command=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
StateFilter = Annotated[
    str | None, typer.Option("--state", envvar="RQUEUE_STATE", help=f"Only in this state: {', '.join(STATES)}.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        envvar="RQUEUE_SINCE",
        metavar="WHEN",
        help="Only what ended then or later: an age (90s, 15m, 24h, 7d) or a time (2026-11-01, 2026-11-01T12:00Z).",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", envvar="RQUEUE_UNTIL", metavar="WHEN", help="Only what ended before.")
]
Search = Annotated[
    str | None,
    typer.Option(
        "--search",
        envvar="RQUEUE_SEARCH",
        metavar="WORDS",
        help="Only with all of these words in task, arguments or error; 'time*' is any word that begins so.",
    ),
]
Limit = Annotated[
    int,
    typer.Option("--limit", envvar="RQUEUE_LIMIT", min=1, max=MOST_ON_A_PAGE, help="Show so many at most."),
]
After = Annotated[
    str | None,
    typer.Option("--after", envvar="RQUEUE_AFTER", metavar="CURSOR", help="Go on where another page ended."),
]
Csv = Annotated[bool, typer.Option("--csv", envvar="RQUEUE_CSV", help="Print CSV on stdout.")]
Format = Annotated[str, typer.Option("--format", envvar="RQUEUE_FORMAT", help=f"One of {', '.join(FORMATS)}.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", envvar="RQUEUE_OUTPUT", metavar="FILE", help="The file; it is there once it is whole."
    ),
]

_SHOWN_CHARS: Final = 60


@commands.callback(epilog=MEANINGS)
def history(
    ctx: typer.Context,
    state: StateFilter = None,
    task: options.TaskFilter = None,
    queue: options.QueueFilter = None,
    since: Since = None,
    until: Until = None,
    search: Search = None,
    limit: Limit = PAGE,
    after: After = None,
    csv: Csv = False,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    results: options.Results = None,
    json: options.Json = False,
) -> None:
    """Show what became of jobs, the newest first. A job by its id: rqueue history show ID."""
    if ctx.invoked_subcommand is not None:
        _refuse_misplaced(ctx)
        return
    if csv and json:
        raise typer.BadParameter("give --json or --csv, and not both", param_hint="--csv")
    client = find_keeper(app, results)
    warn_of_unknown_task(client, task)
    which = _which(state, task, queue, since, until, search)
    page = run(client, lambda: client.history.page(limit=limit, after=after, **which))
    entries = page.entries if show_sensitive else tuple(_masked(each) for each in page.entries)
    if json:
        show_json({"jobs": [document(each) for each in entries], "after": page.after})
        return
    if csv:
        sys.stdout.buffer.write(head("csv") + rows(entries))
    else:
        show_table("history", _COLUMNS, map(_row, entries))
    if page.after is not None:
        typer.echo(f"rqueue: there are more; go on with --after {page.after}", err=True)


@commands.command(epilog=MEANINGS)
def show(
    job_id: Id,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    results: options.Results = None,
    json: options.Json = False,
) -> None:
    """Show all that is known of a job: its attempts, what happened when, the jobs that it enqueued."""
    client = find_keeper(app, results)
    story = run(client, lambda: client.history.show(job_id))
    if not show_sensitive:
        story = replace(story, job=_masked(story.job))
    if json:
        show_json(_told(story))
        return
    for line in _lines(story):
        typer.echo(printable(line))


@commands.command(epilog=MEANINGS)
def export(
    format_: Format = FORMATS[0],
    output: Output = None,
    state: StateFilter = None,
    task: options.TaskFilter = None,
    queue: options.QueueFilter = None,
    since: Since = None,
    until: Until = None,
    search: Search = None,
    app: options.App = None,
    results: options.Results = None,
    json: options.Json = False,
) -> None:
    """Write jobs into a file, or to stdout, as JSON lines or CSV: as many as there are, values as they are stored.

    With --json what was done is told as a document, and --output is needed.
    """
    if json and output is None:
        raise typer.BadParameter("stdout is for the document; give --output as well", param_hint="--json")
    client = find_keeper(app, results)
    warn_of_unknown_task(client, task)
    which = _which(state, task, queue, since, until, search)
    try:
        count = run(client, lambda: client.history.export(output or sys.stdout.buffer, format_, **which))
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever read has had enough
    except OSError as exc:
        if isinstance(exc, ConnectionError):
            raise
        fail(f"{output or 'stdout'} cannot be written: {exc.strerror or exc}", Code.FAILED)
    if json:
        show_json({"exported": count, "file": str(output)})
    else:
        typer.echo(f"rqueue: {count} job(s) exported", err=True)


_COLUMNS: Final = ("id", "state", "task", "queue", "ended", " wait", " run", " attempts", "error")


def _refuse_misplaced(ctx: typer.Context) -> None:
    """An option before the subcommand would count for nothing."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            name = max(parameter.opts, key=len)
            raise typer.BadParameter(f"write it behind {ctx.invoked_subcommand}", param_hint=name)


def _which(
    state: str | None, task: str | None, queue: str | None, since: str | None, until: str | None, search: str | None
) -> SelectionKwargs:
    return {"state": state, "task": task, "queue": queue, "since": since, "until": until, "search": search}


def _masked(entry: HistoryEntry) -> HistoryEntry:
    """Without what names of secrets hide; arguments were stored without."""
    return replace(entry, result=shown_value(entry.result))


def _row(entry: HistoryEntry) -> tuple[Any, ...]:
    times = _span(entry.wait), _span(entry.duration)
    return entry.id, entry.state, entry.task, entry.queue, _at(entry.finished), *times, entry.attempts, _short(entry)


def _lines(story: Story) -> list[str]:
    """A job's story for people."""
    job = story.job
    told: dict[str, Any] = {name: getattr(job, name) for name in ("id", "task", "queue", "priority", "state")}
    told |= {"attempts": job.attempts, "workers lost": job.losses or None, "worker": job.worker}
    told |= {"waited": _span(job.wait), "ran": _span(job.duration)}
    told |= {name: _json(getattr(job, name)) for name in ("args", "kwargs", "result")} | {"error": job.error}
    lines = [f"{name}: {value}" for name, value in told.items() if value is not None]
    lines.append("timeline:")
    lines += [
        f"  {_at(at, 'milliseconds')} {what}" + (f": {error}" if error else "") for at, what, error in story.timeline
    ]
    if job.parent_id is not None:
        known = "" if story.parent is None else f" {story.parent.task} {story.parent.state}"
        lines.append(f"parent: {job.parent_id}{known}")
    if story.children:
        lines.append(f"children:{' (the newest)' if story.has_more_children else ''}")
        lines += [f"  {each.id} {each.task} {each.state} {_at(each.finished)}" for each in story.children]
    if story.earlier:
        lines.append("earlier jobs of this id:")
        lines += [f"  {each.task} {each.state} {_at(each.finished)}" for each in story.earlier]
    if job.traceback:
        lines += ["traceback:", *job.traceback.rstrip().split("\n")]
    return lines


def _told(story: Story) -> dict[str, Any]:
    """A job's story for machines."""
    return {
        **document(story.job),
        "timeline": [step._asdict() for step in story.timeline],
        "parent": None if story.parent is None else _brief(story.parent),
        "children": [_brief(each) for each in story.children],
        "has_more_children": story.has_more_children,
        "earlier": [_brief(each) for each in story.earlier],
    }


def _brief(entry: HistoryEntry) -> dict[str, Any]:
    told = {name: getattr(entry, name) for name in ("id", "task", "queue", "state", "error", "attempts")}
    return told | {"enqueued": entry.enqueued, "finished": entry.finished}


def _json(value: Any) -> str | None:
    return None if value is None else codec.dumps(value).decode()


def _at(moment: datetime | None, precision: str = "seconds") -> str:
    if moment is None:
        return ""
    return moment.isoformat(" ", precision).replace("+00:00", "Z")


def _span(span: timedelta | None) -> str | None:
    return None if span is None else f"{span.total_seconds():.3f} s"


def _short(entry: HistoryEntry) -> str:
    line = (entry.error or "").partition("\n")[0]
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 1]}…"
