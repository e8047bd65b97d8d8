"""``rqueue schedule list|show|add|edit|pause|resume|trigger|remove``: periodic schedules at run time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.exits import MEANINGS, as_usage
from rqueue.cli.jobs import read_arguments
from rqueue.cli.lookup import find_client, warn_of_unknown_task
from rqueue.cli.output import run, show_json, show_table
from rqueue.client.registry import Registry
from rqueue.client.schedules import ScheduleInfo
from rqueue.errors import ConfigError
from rqueue.policy.periodic import Rhythm, cron, every
from rqueue.wire import codec

commands = typer.Typer(help="Periodic schedules: what is enqueued again and again.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name.", show_default=False)]
CronText = Annotated[
    str | None,
    typer.Option("--cron", envvar="RQUEUE_CRON", help="A crontab, '*/5 9-17 * * 1-5', or @daily and its like."),
]
Zone = Annotated[
    str | None, typer.Option("--tz", envvar="RQUEUE_TZ", help="The crontab's time zone, 'Europe/Berlin'. Default: UTC.")
]
Interval = Annotated[
    float | None, typer.Option("--every", envvar="RQUEUE_EVERY", metavar="SECONDS", help="Seconds between two ticks.")
]
Priority = Annotated[
    int | None, typer.Option("--priority", envvar="RQUEUE_PRIORITY", help="1 lowest to 10 highest. Default: none.")
]
Misfire = Annotated[
    str | None,
    typer.Option("--misfire", envvar="RQUEUE_MISFIRE", help="What was missed: skip it (default), run once, or all."),
]
Grace = Annotated[
    float | None,
    typer.Option(
        "--misfire-grace", envvar="RQUEUE_MISFIRE_GRACE", metavar="SECONDS", help="Later is missed. Default: 60."
    ),
]
Overlap = Annotated[
    str | None,
    typer.Option(
        "--overlap", envvar="RQUEUE_OVERLAP", help="While the last job is alive: allow another (default), skip, queue."
    ),
]


@commands.command("list", epilog=MEANINGS)
def list_(
    queue: options.QueueFilter = None,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show the stored schedules: those of the code that a worker has taken over, and those that were added."""
    client = find_client(app, url, namespace)
    found = run(client, lambda: client.schedules.list(queue))
    if json:
        show_json([_document(each, None if show_sensitive else client.tasks) for each in found])
        return
    show_table(
        f"schedules at {client.endpoint.shown}",
        ("name", "queue", "task", "schedule", "next", "last", "misfire", "overlap", "from"),
        (
            (
                each.name,
                each.queue,
                each.task,
                each.schedule,
                "paused" if each.is_paused else _shown(each.due),
                _shown(each.last),
                each.misfire,
                each.overlap,
                each.source,
            )
            for each in found
        ),
    )


@commands.command(epilog=MEANINGS)
def show(
    name: Name,
    queue: options.QueueFilter = None,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show one schedule, and when it ticks next."""
    client = find_client(app, url, namespace)

    async def look() -> tuple[ScheduleInfo, list[datetime]]:
        found = await client.schedules.get(name, queue=queue)
        return found, list(await client.schedules.next_times(name, queue=found.queue))

    found, times = run(client, look)
    document = _document(found, None if show_sensitive else client.tasks)
    if json:
        show_json({**document, "next": times})
        return
    for field, value in document.items():
        typer.echo(f"{field}: {_told(value)}".rstrip())
    typer.echo("next: " + ", ".join(map(_shown, times)))


@commands.command(epilog=MEANINGS)
def add(
    name: Name,
    task: Annotated[str, typer.Argument(help="The task's name, module.function.", show_default=False)],
    cron_text: CronText = None,
    tz: Zone = None,
    interval: Interval = None,
    args: options.Args = None,
    kwargs: options.Kwargs = None,
    queue: Annotated[
        str | None,
        typer.Option("--queue", envvar="RQUEUE_QUEUE", help="The queue. Default: the task's, if it is known."),
    ] = None,
    priority: Priority = None,
    misfire: Misfire = None,
    misfire_grace: Grace = None,
    overlap: Overlap = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Add a schedule, by --cron or --every; it stays until it is removed."""
    schedule = _rhythm(cron_text, tz, interval)
    if schedule is None:
        raise ConfigError("give --cron '*/5 9-17 * * 1-5', or --every SECONDS")
    given = _given(args, kwargs, priority, misfire, misfire_grace, overlap)
    given |= {} if queue is None else {"queue": queue}
    client = find_client(app, url, namespace)
    warn_of_unknown_task(client, task)
    _do(client, lambda client: client.schedules.add(schedule, task, name=name, **given), json=json)


@commands.command(epilog=MEANINGS)
def edit(
    name: Name,
    cron_text: CronText = None,
    tz: Zone = None,
    interval: Interval = None,
    args: options.Args = None,
    kwargs: options.Kwargs = None,
    priority: Priority = None,
    misfire: Misfire = None,
    misfire_grace: Grace = None,
    overlap: Overlap = None,
    queue: options.QueueFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Change a schedule. One of the code stays so until the code's own definition changes."""
    schedule = _rhythm(cron_text, tz, interval)
    given = _given(args, kwargs, priority, misfire, misfire_grace, overlap)
    given |= {} if schedule is None else {"schedule": schedule}
    if not given:
        raise ConfigError("give what is to be changed, for example --every 60")
    _do(find_client(app, url, namespace), lambda client: client.schedules.edit(name, queue=queue, **given), json=json)


@commands.command(epilog=MEANINGS)
def pause(
    name: Name,
    queue: options.QueueFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Let a schedule tick no more, until it is resumed; a new start of the workers changes nothing of it."""
    _do(find_client(app, url, namespace), lambda client: client.schedules.pause(name, queue=queue), json=json)


@commands.command(epilog=MEANINGS)
def resume(
    name: Name,
    queue: options.QueueFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Let a paused schedule tick again, in its rhythm; nothing is made up for."""
    _do(find_client(app, url, namespace), lambda client: client.schedules.resume(name, queue=queue), json=json)


@commands.command(epilog=MEANINGS)
def trigger(
    name: Name,
    queue: options.QueueFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Enqueue a schedule's job now and print the job's id; its rhythm stays as it is."""
    client = find_client(app, url, namespace)
    job = run(client, lambda: client.schedules.trigger(name, queue=queue))
    if json:
        show_json({"id": job.id, "queue": job.queue})
    else:
        typer.echo(job.id)


@commands.command(epilog=MEANINGS)
def remove(
    name: Name,
    queue: options.QueueFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Remove a schedule. One that the code declares comes back when a worker starts: pause it instead."""
    client = find_client(app, url, namespace)
    run(client, lambda: client.schedules.remove(name, queue=queue))
    if json:
        show_json({"removed": name})
    else:
        typer.echo(f"{name} is removed")


def _do(client: RQueue, change: Callable[[RQueue], Awaitable[ScheduleInfo]], *, json: bool) -> None:
    """Change a schedule, and say how it stands."""
    with as_usage():
        found = run(client, lambda: change(client))
    if json:
        show_json(_document(found, client.tasks))
    else:
        typer.echo(f"{found.name}: {found.schedule}, " + (f"next {_shown(found.due)}" if found.due else "paused"))


def _rhythm(cron_text: str | None, tz: str | None, interval: float | None) -> Rhythm | None:
    if cron_text is not None and interval is None:
        return cron(cron_text, tz or "UTC")
    if cron_text is not None or tz is not None:
        raise ConfigError("give --cron, with --tz if it is not UTC's, or --every, and not both")
    return None if interval is None else every(seconds=interval)


def _given(
    args: str | None,
    kwargs: str | None,
    priority: int | None,
    misfire: str | None,
    misfire_grace: float | None,
    overlap: str | None,
) -> dict[str, Any]:
    given: dict[str, Any] = {
        "args": None if args is None else read_arguments(args, list),
        "kwargs": None if kwargs is None else read_arguments(kwargs, dict),
        "priority": priority,
        "misfire": misfire,
        "misfire_grace": misfire_grace,
        "overlap": overlap,
    }
    return {name: value for name, value in given.items() if value is not None}


def _document(found: ScheduleInfo, tasks: Registry | None) -> dict[str, Any]:
    """A schedule's fields; without the arguments that are not to be shown, where the tasks are given."""
    document = {**asdict(found), "schedule": str(found.schedule)}
    if tasks is not None:
        args, kwargs = tasks.shown(found.task, found.args, found.kwargs)
        document |= {"args": tuple(args), "kwargs": kwargs}
    return document


def _told(value: Any) -> str:
    """A field for people: moments as in the list, arguments as JSON, nothing for None."""
    if value is None or isinstance(value, datetime):
        return _shown(value)
    return codec.dumps(value).decode() if isinstance(value, dict | tuple) else str(value)


def _shown(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%SZ}"
