"""``rqueue pause`` and ``rqueue resume``: a queue, a task, or everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.lookup import find_client, warn_of_unknown_task
from rqueue.cli.output import run, show_json
from rqueue.client.pauses import Pause, Pauses

QueueArgument = Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="The queue.", show_default=False)]
TaskOption = Annotated[
    str | None, typer.Option("--task", envvar="RQUEUE_TASK", metavar="NAME", help="This task, in all queues.")
]
Everything = Annotated[bool, typer.Option("--all", envvar="RQUEUE_ALL", help="Everything in the namespace.")]


def pause(
    queue: QueueArgument = None,
    task: TaskOption = None,
    all_: Everything = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Start no more jobs of a queue, a --task, or --all, until resumed. What runs goes on; what is enqueued waits."""
    client = find_client(app, url, namespace)
    task = _full(client, task)

    async def do() -> tuple[bool, bool]:
        is_new = await Pauses(client).pause(queue, task, all_)
        return is_new, queue is None or queue in await client.session().broker.queues()

    is_new, is_known = run(client, do)
    if json:
        show_json({"paused": _named(queue, task), "was_paused": not is_new})
        return
    typer.echo(f"{_named(queue, task)}: {'paused' if is_new else 'was paused already'}")
    warn_of_unknown_task(client, task)
    if not is_known:
        typer.echo(f"rqueue: nobody has used a queue {queue} yet", err=True)


def resume(
    queue: QueueArgument = None,
    task: TaskOption = None,
    all_: Everything = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Undo the pause of the same words: a queue that was paused by its name stays so when --all is resumed."""
    client = find_client(app, url, namespace)
    task = _full(client, task)
    done = run(client, lambda: Pauses(client).resume(queue, task, all_))
    if json:
        show_json({"resumed": _named(queue, task), "was_paused": done.was_paused, "still": documents(done.still)})
        return
    typer.echo(f"{_named(queue, task)}: {'resumed' if done.was_paused else 'was not paused'}")
    if done.still:
        typer.echo(f"still paused: {', '.join(map(str, done.still))}")


def documents(pauses: Sequence[Pause]) -> list[dict[str, Any]]:
    """Pauses as they stand in a JSON document."""
    return [asdict(each) for each in pauses]


def _full(client: RQueue, task: str | None) -> str | None:
    return None if task is None else client.tasks.full_name(task)


def _named(queue: str | None, task: str | None) -> str:
    return f"queue {queue}" if queue is not None else f"task {task}" if task is not None else "everything"
