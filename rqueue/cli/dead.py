"""``rqueue dead list|show|retry|purge``: what could not be done, and what is to become of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rqueue.cli import options
from rqueue.cli.exits import MEANINGS, Code, fail
from rqueue.cli.lookup import find_client
from rqueue.cli.output import confirm, run, show_json, show_table
from rqueue.client.admin import Admin, DeadLetter, Retried

commands = typer.Typer(
    help="Dead letters: jobs that failed for good, and what could not be read.", no_args_is_help=True
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs' ids.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", envvar="RQUEUE_LIMIT", min=1, help="Show so many at most.")]

_SHOWN_CHARS = 60


@commands.command("list", epilog=MEANINGS)
def list_(
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    reason: options.ReasonFilter = None,
    limit: Limit = 100,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show dead letters, the newest of each queue first."""
    client = find_client(app, url, namespace)
    found = run(client, lambda: Admin(client).dead(queue, limit, task=task, reason=reason))
    if json:
        show_json([_document(each) for each in found])
        return
    show_table(
        f"dead letters at {client.endpoint.shown}",
        ("id", "queue", "task", "reason", "died", " retries", " losses", "error"),
        ((*_names(each), each.letter.retries, each.letter.losses, _short(_error(each))) for each in found),
    )


@commands.command(epilog=MEANINGS)
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)],
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show one dead letter with its traceback and its message."""
    client = find_client(app, url, namespace)
    found = run(client, lambda: Admin(client).dead_letter(job_id))
    if found is None:
        fail(f"there is no dead letter {job_id}", Code.NOT_FOUND)
    if json:
        show_json(_document(found))
        return
    names = ("id", "queue", "task", "reason", "died", "retries", "losses", "error", "can be retried")
    values = (*_names(found), found.letter.retries, found.letter.losses, _error(found), found.message is not None)
    for name, value in zip(names, values, strict=True):
        typer.echo(f"{name}: {value}")
    if found.letter.failure is not None and found.letter.failure.traceback:
        typer.echo(f"traceback:\n{found.letter.failure.traceback.rstrip()}")
    typer.echo(f"message: {found.letter.raw.decode('utf-8', 'backslashreplace')}")


@commands.command(epilog=MEANINGS)
def retry(
    ids: Ids = None,
    all_: options.All = False,
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    reason: options.ReasonFilter = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Make dead letters waiting jobs again: those with these ids, or --all that match."""
    _check_choice(ids, all_=all_)
    client = find_client(app, url, namespace)
    done = run(client, lambda: Admin(client).dead_retry(ids or (), queue=queue, task=task, reason=reason))
    if json:
        show_json(asdict(done))
    else:
        typer.echo(f"{len(done.waiting)} job(s) wait again")
    _complain(done)


@commands.command(epilog=MEANINGS)
def purge(
    ids: Ids = None,
    all_: options.All = False,
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    reason: options.ReasonFilter = None,
    yes: options.Yes = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Throw dead letters away: those with these ids, or --all that match (asks first)."""
    _check_choice(ids, all_=all_)
    client = find_client(app, url, namespace)
    if all_ and not yes:
        confirm(f"throw away all dead letters that match at {client.endpoint.shown}?")
    gone = run(client, lambda: Admin(client).dead_purge(ids or (), queue=queue, task=task, reason=reason))
    if json:
        show_json({"purged": gone})
    else:
        typer.echo(f"{gone} dead letter(s) thrown away")
    if ids and not gone:
        fail("there is no such dead letter", Code.NOT_FOUND)


def _check_choice(ids: list[str] | None, *, all_: bool) -> None:
    if bool(ids) == all_:
        raise typer.BadParameter("give the ids of dead letters, or --all, and not both", param_hint="ID")


def _complain(done: Retried) -> None:
    """Say on stderr what could not be retried; the exit code is for what was asked for by id and is not there."""
    for job_id in done.alive:
        typer.echo(f"rqueue: {job_id}: a job of this id is alive; its letter stays", err=True)
    for job_id in done.unreadable:
        typer.echo(f"rqueue: {job_id}: its message cannot be read, so no worker could run it; it stays", err=True)
    if done.missing:
        fail(f"there is no dead letter {', '.join(done.missing)}", Code.NOT_FOUND)
    if done.alive or done.unreadable:
        raise typer.Exit(Code.FAILED)


def _names(dead: DeadLetter) -> tuple[str | None, ...]:
    died = _moment(dead)
    return (
        dead.letter.id,
        dead.queue,
        dead.letter.task,
        dead.letter.reason,
        f"{died:%Y-%m-%d %H:%M:%SZ}" if died else None,
    )


def _moment(dead: DeadLetter) -> datetime | None:
    return None if dead.letter.died is None else datetime.fromtimestamp(dead.letter.died / 1000, UTC)


def _error(dead: DeadLetter) -> str:
    failure = dead.letter.failure
    return f"{failure.type}: {failure.message}" if failure is not None else ""


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 1]}…"


def _document(dead: DeadLetter) -> dict[str, Any]:
    letter = dead.letter
    try:
        raw: str | bytes = letter.raw.decode()
    except UnicodeDecodeError:
        raw = letter.raw
    return {
        "id": letter.id,
        "queue": dead.queue,
        "task": letter.task,
        "reason": letter.reason,
        "died": _moment(dead),
        "retries": letter.retries,
        "losses": letter.losses,
        "error": _error(dead) or None,
        "traceback": letter.failure.traceback if letter.failure is not None else None,
        "retryable": dead.message is not None,
        "message": raw,
    }
