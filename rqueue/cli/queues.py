"""``rqueue queues``, ``rqueue workers``, ``rqueue purge``: what waits, who works, and throwing away what waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.output import confirm, run, show_json, show_table
from rqueue.client.admin import Admin, QueueStatus
from rqueue.wire.keys import MAIN


def queues(
    app: options.App = None, url: options.Url = None, namespace: options.Namespace = None, json: options.Json = False
) -> None:
    """Show what every queue holds: waiting per priority, scheduled, running, dead, workers."""
    client = find_client(app, url, namespace)
    found = run(client, Admin(client).queues)
    if json:
        show_json([_document(status) for status in found])
        return
    show_table(
        f"queues at {client.endpoint.shown}",
        ("queue", " waiting", "of these by priority", " scheduled", " running", " dead", " workers", "ended of late"),
        (
            (
                status.shown,
                status.waiting_total,
                " ".join(f"{level}:{count}" for level, count in _priorities(status)),
                status.scheduled,
                status.running,
                status.dead,
                status.workers,
                " ".join(f"{state}:{count}" for state, count in sorted(status.counts.items())),
            )
            for status in found
        ),
    )


def workers(
    app: options.App = None, url: options.Url = None, namespace: options.Namespace = None, json: options.Json = False
) -> None:
    """Show every worker: its queues, its lease, what it runs."""
    client = find_client(app, url, namespace)
    found = run(client, Admin(client).workers)
    if json:
        show_json([asdict(status) for status in found])
        return
    show_table(
        f"workers at {client.endpoint.shown}",
        ("worker", "queues", " lease", "host", " pid", " concurrency", " running", " held"),
        (
            (
                status.id,
                ",".join(status.queues),
                f"{status.lease_s:.1f} s" if status.lease_s > 0 else "ran out",
                status.host,
                status.pid,
                status.concurrency,
                status.running,
                status.held,
            )
            for status in found
        ),
    )


def purge(
    queue: Annotated[str, typer.Argument(help="The queue.", show_default=False)],
    yes: options.Yes = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Throw away all waiting jobs of a queue. What is scheduled, runs or is dead stays."""
    client = find_client(app, url, namespace)
    admin = Admin(client)
    status = run(client, lambda: admin.queue(queue))
    if not yes:
        text = f"throw away {status.waiting_total} waiting job(s) of the queue {queue} at {client.endpoint.shown}?"
        confirm(text)
    gone = run(client, lambda: admin.purge(queue))
    if json:
        show_json({"queue": queue, "purged": gone})
    else:
        typer.echo(f"{gone} job(s) thrown away")


def _document(status: QueueStatus) -> dict[str, Any]:
    waiting = {"none" if level == MAIN else str(level): count for level, count in enumerate(status.waiting)}
    return {**asdict(status), "waiting": status.waiting_total, "waiting_by_priority": waiting}


def _priorities(status: QueueStatus) -> Iterator[tuple[int, int]]:
    """Priority and count where jobs wait that were given one, the highest first."""
    for level in range(len(status.waiting) - 1, MAIN, -1):
        if status.waiting[level]:
            yield level, status.waiting[level]
