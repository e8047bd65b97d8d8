"""``rqueue events``: jobs' changes as they come."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.lookup import find_client, warn_of_unknown_task
from rqueue.cli.output import printable, run, show_json
from rqueue.client.events import Event
from rqueue.policy.redaction import shown_value

JobId = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="Only this job, from what is known of it to its end.")
]
JsonLines = Annotated[bool, typer.Option("--json", envvar="RQUEUE_JSON", help="Print each as a line of JSON.")]


def events(
    job_id: JobId = None,
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    timeout: options.Timeout = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: JsonLines = False,
) -> None:
    """Print jobs' changes as they come, until Ctrl-C; one job's until it has ended.

    Plain jobs announce their end only, tracked ones their start and progress as well. --timeout is for one job.
    """
    if job_id is not None and task is not None:
        raise typer.BadParameter("give a job's id, or --task, and not both", param_hint="--task")
    client = find_client(app, url, namespace)
    warn_of_unknown_task(client, task)
    with suppress(KeyboardInterrupt):
        run(client, lambda: _watch(client, job_id, queue, task, timeout, json))


async def _watch(
    client: RQueue, job_id: str | None, queue: str | None, task: str | None, timeout: float | None, json: bool
) -> None:
    if job_id is not None:
        async for event in client.job(job_id, queue).events(timeout):
            _show(event, json)
        return
    await client.open()  # says at once where Redis is not; once it listens, it waits for it
    async with client.events(queue, task) as found:
        typer.echo("listening; Ctrl-C ends it", err=True)
        async for event in found:
            _show(event, json)


def _show(event: Event, json: bool) -> None:
    if json:
        info = asdict(event.info)
        info |= {name: shown_value(info[name]) for name in ("result", "progress")}
        show_json(info | {"at": event.at, "after_gap": event.after_gap})
        return
    if event.after_gap:
        typer.echo("… some were missed")
    moment = event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if event.at is not None else "-"
    words = (moment, event.job_id, event.queue, event.info.task or "-", str(event.state), *_more(event))
    typer.echo(printable(" ".join(words)))


def _more(event: Event) -> list[str]:
    said: dict[str, Any] = event.progress or {}
    more = [f"{said['done']}/{said['total']}" if "total" in said else str(said["done"])] if "done" in said else []
    if "state" in said:
        more.append(str(said["state"]))
    if event.info.error is not None:
        more.append(event.info.error.partition("\n")[0])
    return more
