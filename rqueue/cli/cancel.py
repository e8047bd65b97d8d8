"""``rqueue cancel``: cancel jobs by their ids, or all of a task or with a header, and say what became of each."""

from __future__ import annotations

import json as stdlib_json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.exits import Code, as_usage
from rqueue.cli.lookup import find_client, warn_of_unknown_task
from rqueue.cli.output import run, show_json
from rqueue.client.revocation import Cancellations, Cancelled
from rqueue.errors import JobNotFound
from rqueue.wire.keys import check_job_id

_UNKNOWN: Final = "unknown"
_CODES: Final = {_UNKNOWN: Code.NOT_FOUND, Cancelled.TOO_LATE: Code.FAILED, Cancelled.REQUESTED: Code.TIMEOUT}
"""The first of them that occurs is the command's exit code."""

_TEXTS: Final = {
    Cancelled.REMOVED: "removed",
    Cancelled.INTERRUPTED: "interrupted",
    Cancelled.REQUESTED: "requested: its worker did not answer; it will not run again",
    Cancelled.TOO_LATE: "too late, it had ended",
    _UNKNOWN: "not known",
}

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs' ids.", show_default=False)]
Header = Annotated[
    str | None,
    typer.Option(
        "--header",
        envvar="RQUEUE_HEADER",
        metavar="NAME=VALUE",
        help="Only jobs with this header. VALUE is JSON, else a text.",
    ),
]
Terminate = Annotated[
    bool,
    typer.Option(
        "--terminate",
        envvar="RQUEUE_TERMINATE",
        help="Where a job does not end within a second of its interruption, replace its process.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="RQUEUE_DRY_RUN", help="Only say how many there are.")]


def cancel(
    ids: Ids = None,
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    header: Header = None,
    terminate: Terminate = False,
    dry_run: DryRun = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Cancel jobs that wait, are scheduled or run: by their ids, or all that exist now of a --task, with a --header.

    Exit code 1: one had ended; 4: one is not known; 5: a worker that has one did not answer.
    """
    by_criteria = task is not None or header is not None
    if bool(ids) == by_criteria:
        raise typer.BadParameter("give the ids of jobs, or --task or --header, and not both", param_hint="ID")
    if dry_run and not by_criteria:
        raise typer.BadParameter("goes with --task or --header", param_hint="--dry-run")
    wanted = [check_job_id(each) for each in dict.fromkeys(ids or ())]
    pair, client = read_header(header), find_client(app, url, namespace)
    if wanted:
        found = run(client, lambda: _cancel_each(client, wanted, queue, terminate=terminate))
        _show(found, json=json)
        return
    warn_of_unknown_task(client, task)
    with as_usage():
        counts = run(
            client, lambda: client.cancel(task=task, header=pair, queue=queue, terminate=terminate, dry_run=dry_run)
        )
    _show_counts(counts, dry_run=dry_run, json=json)


def read_header(text: str | None) -> tuple[str, Any] | None:
    """A header's name and value: JSON where it is, else the text as it stands."""
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r}: write it as NAME=VALUE", param_hint="--header")
    try:
        return name, stdlib_json.loads(value)
    except ValueError:
        return name, value


async def _cancel_each(client: RQueue, ids: Sequence[str], queue: str | None, *, terminate: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for job_id in ids:
        try:
            found[job_id] = await client.job(job_id, queue).cancel(terminate=terminate)
        except JobNotFound:
            found[job_id] = _UNKNOWN
    return found


def _show(found: dict[str, str], *, json: bool) -> None:
    if json:
        show_json([{"id": job_id, "cancelled": outcome} for job_id, outcome in found.items()])
    else:
        for job_id, outcome in found.items():
            typer.echo(f"{job_id}: {_TEXTS[outcome]}")
    _end(found.values())


def _show_counts(counts: Cancellations, *, dry_run: bool, json: bool) -> None:
    if json:
        show_json(asdict(counts))
    elif dry_run:
        typer.echo(f"{counts.found} job(s) would be cancelled")
    else:
        typer.echo(
            f"{counts.found} job(s): {counts.removed} removed, {counts.interrupted} interrupted, "
            f"{counts.requested} requested, {counts.too_late} too late"
        )
    _end([Cancelled.REQUESTED] * (counts.requested > 0))


def _end(outcomes: Any) -> None:
    met = set(outcomes)
    for outcome, code in _CODES.items():
        if outcome in met:
            raise typer.Exit(code)
