"""``rqueue history prune``: removes old jobs from the database that keeps them."""

from __future__ import annotations

from typing import Annotated

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_keeper
from rqueue.cli.output import confirm, run, show_json

OlderThan = Annotated[
    str,
    typer.Option(
        "--older-than",
        envvar="RQUEUE_OLDER_THAN",
        metavar="AGE",
        help="Remove what ended longer ago: 90s, 15m, 3h, 30d.",
        show_default=False,
    ),
]
KeepFailures = Annotated[
    bool, typer.Option("--keep-failures", envvar="RQUEUE_KEEP_FAILURES", help="Keep jobs in the state FAILURE.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="RQUEUE_DRY_RUN", help="Only count them.")]


def prune(
    older_than: OlderThan,
    keep_failures: KeepFailures = False,
    dry_run: DryRun = False,
    yes: options.Yes = False,
    app: options.App = None,
    results: options.Results = None,
    json: options.Json = False,
) -> None:
    """Remove old jobs from the database (asks first), in small steps that hold nobody up; statistics stay.

    It may be interrupted; what is left goes the next time.
    """
    client = find_keeper(app, results)
    if dry_run or not yes:
        count = run(
            client, lambda: client.history.prune(older_than=older_than, keep_failures=keep_failures, dry_run=True)
        )
        if dry_run:
            if json:
                show_json({"would_be_pruned": count})
            else:
                typer.echo(f"{count} job(s) would be removed")
            return
        confirm(f"remove {count} job(s) that ended more than {older_than} ago?")
    removed = run(client, lambda: client.history.prune(older_than=older_than, keep_failures=keep_failures))
    if json:
        show_json({"pruned": removed})
    else:
        typer.echo(f"{removed} job(s) removed")
