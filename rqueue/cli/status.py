"""``rqueue status``: every worker in a line, and what they do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.output import run, show_json, show_table
from rqueue.cli.pause import documents
from rqueue.client.admin import Admin, WorkerStatus
from rqueue.client.pauses import Pause

COLUMNS = ("worker", "state", " running", "queues", " done", " stalls", " heartbeat")


def status(
    app: options.App = None, url: options.Url = None, namespace: options.Namespace = None, json: options.Json = False
) -> None:
    """Show every worker in a line: what it runs, serves and has done, when it was last heard of; and what is paused."""
    client = find_client(app, url, namespace)

    async def look() -> tuple[list[WorkerStatus], list[Pause]]:
        return await Admin(client).workers(), await client.paused()

    found, paused = run(client, look)
    if json:
        workers = [{**asdict(each), "state": state_of(each)} for each in found]
        show_json({"workers": workers, "total": totals(found), "paused": documents(paused)})
        return
    show_table(f"workers at {client.endpoint.shown}", COLUMNS, [row(each) for each in found])
    for each in paused:
        typer.echo(f"paused: {each} since {each.since:%Y-%m-%d %H:%M:%SZ}")
    typer.echo(summary(found))


def state_of(worker: WorkerStatus) -> str:
    """``running``, ``stopping``, ``silent`` (it has said nothing yet), or ``lost`` (its lease ran out)."""
    return "lost" if not worker.is_live else worker.state or "silent"


def row(worker: WorkerStatus) -> tuple[Any, ...]:
    """A worker's line."""
    slots = None if worker.running is None else f"{worker.running}/{worker.concurrency}"
    beat = None if worker.beat_age_s is None else f"{worker.beat_age_s:.1f} s ago"
    queues = ",".join(worker.queues if worker.serves is None else worker.serves)
    return worker.id, state_of(worker), slots, queues, worker.done, worker.stalls, beat


def totals(workers: Sequence[WorkerStatus]) -> dict[str, int]:
    """What the live workers sum up to."""
    live = [worker for worker in workers if worker.is_live]
    return {
        "workers": len(live),
        "running": sum(worker.running or 0 for worker in live),
        "slots": sum(worker.concurrency or 0 for worker in live),
        "done": sum(worker.done or 0 for worker in live),
        "stalls": sum(worker.stalls or 0 for worker in live),
    }


def summary(workers: Sequence[WorkerStatus]) -> str:
    """The totals in a line."""
    total = totals(workers)
    return "{workers} worker(s), {running}/{slots} running, {done} done, {stalls} stall(s)".format(**total)
