"""``rqueue dead list|show|edit|retry|purge``: what could not be done, and what is to become of it."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

import typer

from rqueue.cli import editor, options
from rqueue.cli.exits import MEANINGS, Code, as_usage
from rqueue.cli.jobs import read_arguments
from rqueue.cli.lookup import find_client
from rqueue.cli.output import confirm, fail, printable, run, show_json, show_table
from rqueue.client.admin import Admin, DeadLetter, Retried
from rqueue.client.letters import ChangeKwargs, Changes, FilterKwargs, error_of
from rqueue.client.registry import Registry
from rqueue.config import age_s
from rqueue.errors import ConfigError
from rqueue.policy.redaction import scrubbed, shown_value
from rqueue.wire import codec
from rqueue.wire.keys import MAIN
from rqueue.wire.message import Message

commands = typer.Typer(
    help="Dead letters: jobs that failed for good, and what could not be read.", no_args_is_help=True
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", envvar="RQUEUE_RAW", help="Print the message's bytes, and nothing else.")]
Retry = Annotated[bool, typer.Option("--retry", envvar="RQUEUE_RETRY", help="Make it a waiting job in the same step.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The jobs' ids.", show_default=False)]
Offset = Annotated[int, typer.Option("--offset", envvar="RQUEUE_OFFSET", min=0, help="Pass over the first so many.")]
Priority = Annotated[
    int | None,
    typer.Option("--priority", envvar="RQUEUE_PRIORITY", min=0, max=10, help="1 lowest to 10 highest; 0 for none."),
]
MaxRetries = Annotated[
    int | None, typer.Option("--max-retries", envvar="RQUEUE_MAX_RETRIES", min=0, help="How often it is tried again.")
]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", envvar="RQUEUE_TIME_LIMIT", metavar="SECONDS", help="The longest run.")
]
Expires = Annotated[
    float | None,
    typer.Option(
        "--expires",
        envvar="RQUEUE_EXPIRES",
        min=0,
        metavar="SECONDS",
        help="Do not start it after so long; 0: it may ever.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", envvar="RQUEUE_LIMIT", min=1, help="Show so many at most.")]

_SHOWN_CHARS = 60
_VALUES: Final = ("args", "kwargs", "headers")


@commands.command("list", epilog=MEANINGS)
def list_(
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    reason: options.ReasonFilter = None,
    error: options.ErrorFilter = None,
    older_than: options.OlderThan = None,
    newer_than: options.NewerThan = None,
    limit: Limit = 100,
    offset: Offset = 0,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show dead letters, the newest of each queue first."""
    client = find_client(app, url, namespace)
    which = _which(task, reason, error, older_than, newer_than)
    found = run(client, lambda: Admin(client).dead(queue, limit, offset=offset, **which))
    found = found if show_sensitive else [_masked(each, client.tasks) for each in found]
    if json:
        show_json([_document(each) for each in found])
        return
    show_table(
        f"dead letters at {client.endpoint.shown}",
        ("id", "queue", "task", "reason", "died", " retries", " losses", "error"),
        ((*_names(each), each.letter.retries, each.letter.losses, _short(error_of(each.letter))) for each in found),
    )


@commands.command(epilog=MEANINGS)
def show(
    job_id: Id,
    raw: Raw = False,
    show_sensitive: options.ShowSensitive = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Show one dead letter with its arguments, its traceback and its message."""
    client = find_client(app, url, namespace)
    found = run(client, lambda: Admin(client).dead_letter(job_id))
    if found is None:
        fail(f"there is no dead letter {job_id}", Code.NOT_FOUND)
    if raw:
        sys.stdout.buffer.write(found.letter.raw)
        return
    found = found if show_sensitive else _masked(found, client.tasks)
    if json:
        show_json(_document(found))
        return
    for name, value in _shown(found).items():
        typer.echo(printable(f"{name}: {value}"))
    if found.letter.failure is not None and found.letter.failure.traceback:
        typer.echo("traceback:")
        for line in found.letter.failure.traceback.rstrip().split("\n"):
            typer.echo(printable(line))
    typer.echo(printable(f"message: {found.letter.raw.decode('utf-8', 'backslashreplace')}"))


@commands.command(epilog=MEANINGS)
def edit(
    job_id: Id,
    args: options.Args = None,
    kwargs: options.Kwargs = None,
    priority: Priority = None,
    max_retries: MaxRetries = None,
    time_limit: TimeLimit = None,
    expires: Expires = None,
    retry: Retry = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Change a dead letter's message: by options, or at a terminal without any in $EDITOR. It stays dead, or --retry.

    What is not named stays as it is. Where the app is found, arguments are checked against the task's function.
    """
    client = find_client(app, url, namespace)
    changes = _changes(priority, max_retries, time_limit, expires) | _arguments(args, kwargs)
    letter: str | DeadLetter = job_id
    if not changes:
        letter = run(client, lambda: Admin(client).dead_letter(job_id)) or fail_missing(job_id)
        changes = _by_hand(letter)
    with as_usage():
        answer = run(client, lambda: Admin(client).dead_edit(letter, retry=retry, **changes))
    if json:
        show_json({"id": job_id, "answer": answer})
    elif answer in ("edited", "waiting"):
        typer.echo(f"{job_id}: {'changed' if answer == 'edited' else 'changed, and waits again'}")
    _complain(Retried(**{answer: (job_id,)} if answer not in ("edited", "waiting") else {}))


def fail_missing(job_id: str) -> NoReturn:
    """End the command: there is no such letter."""
    fail(f"there is no dead letter {job_id}", Code.NOT_FOUND)


def _by_hand(dead: DeadLetter) -> ChangeKwargs:
    """What somebody changed in an editor: the fields that are different from then on."""
    call = dead.call
    if call is None:
        fail(f"{dead.letter.id}: its message cannot be read", Code.FAILED)
    if not editor.is_there():
        raise ConfigError("say what is to be changed: --args, --kwargs, --priority, …; an editor needs a terminal")
    level = Message.parse(dead.letter.raw).header.level
    before = {"args": list(call.args), "kwargs": dict(call.kwargs or {}), "priority": None if level == MAIN else level}
    lines = (f"  {codec.dumps(name).decode()}: {codec.dumps(value).decode()}" for name, value in before.items())
    after = _from_json(editor.edited("{\n" + ",\n".join(lines) + "\n}\n", ".json"), dict)
    if after.keys() != before.keys():
        raise ConfigError("an object with args, kwargs and priority is needed; nothing was changed")
    changed: Any = {name: value for name, value in after.items() if value != before[name]}
    if not changed:
        fail("nothing was changed", Code.FAILED)
    found: ChangeKwargs = changed
    return found


def _arguments(args: str | None, kwargs: str | None) -> ChangeKwargs:
    found: ChangeKwargs = {}
    if args is not None:
        found["args"] = _from_json(args, list)
    if kwargs is not None:
        found["kwargs"] = _from_json(kwargs, dict)
    return found


def _from_json(text: str, kind: type[list[Any] | dict[str, Any]]) -> Any:
    """Arguments as they stand in a message: bytes are tagged. An integer beyond 64 bits is refused, not rounded."""
    with as_usage():
        codec.dumps(read_arguments(text, kind))
    try:
        return codec.loads(text.encode())
    except ValueError as exc:
        raise ConfigError(f"{text!r}: {exc}") from None


def _changes(
    priority: int | None, max_retries: int | None, time_limit: float | None, expires: float | None
) -> ChangeKwargs:
    found: ChangeKwargs = {}
    if priority is not None:
        found["priority"] = priority or None
    if max_retries is not None:
        found["max_retries"] = max_retries
    if time_limit is not None:
        found["time_limit"] = time_limit
    if expires is not None:
        found["expires"] = expires or None
    return found


def _which(
    task: str | None, reason: str | None, error: str | None, older_than: str | None, newer_than: str | None
) -> FilterKwargs:
    return {
        "task": task,
        "reason": reason,
        "error": error,
        "older_than": None if older_than is None else age_s(older_than),
        "newer_than": None if newer_than is None else age_s(newer_than),
    }


def _masked(dead: DeadLetter, tasks: Registry) -> DeadLetter:
    """The letter without the arguments that are not to be shown; where there are none, as it is to the byte."""
    call, letter = dead.call, dead.letter
    if call is None:
        return dead
    given = (list(call.args), dict(call.kwargs or {}), call.headers)
    args, kwargs = tasks.shown(call.task, call.args, call.kwargs or {})
    shown = (args, kwargs, shown_value(call.headers))
    if shown == given:
        return dead
    message = dead.opened or Message.parse(letter.raw)
    fields = {name: codec.dumps(value) if value else None for name, value in zip(_VALUES, shown, strict=True)}
    if call.history:
        fields["history"] = codec.dumps([[at, scrubbed(text, given, shown)] for at, text in call.history])
    raw = Message.build(message.header, message.body).rewritten(fields).raw
    failure = letter.failure
    if failure is not None:
        text, traceback = (scrubbed(each or "", given, shown) for each in (failure.message, failure.traceback))
        failure = replace(failure, message=text, traceback=traceback or None)
    return replace(dead, letter=replace(letter, raw=raw, failure=failure), opened=None)


def _shown(dead: DeadLetter) -> dict[str, Any]:
    """A letter's lines, but its traceback and its message."""
    names = ("id", "queue", "task", "reason", "died")
    lines: dict[str, Any] = dict(zip(names, _names(dead), strict=True))
    lines |= {"attempts": dead.attempts, "retries": dead.letter.retries, "losses": dead.letter.losses}
    lines |= {"error": error_of(dead.letter), "can be retried": dead.message is not None}
    if dead.call is not None:
        lines |= {
            "args": codec.dumps(list(dead.call.args)).decode(),
            "kwargs": codec.dumps(dict(dead.call.kwargs or {})).decode(),
        }
    return lines


@commands.command(epilog=MEANINGS)
def retry(
    ids: Ids = None,
    all_: options.All = False,
    queue: options.QueueFilter = None,
    task: options.TaskFilter = None,
    reason: options.ReasonFilter = None,
    error: options.ErrorFilter = None,
    older_than: options.OlderThan = None,
    newer_than: options.NewerThan = None,
    priority: Priority = None,
    max_retries: MaxRetries = None,
    time_limit: TimeLimit = None,
    expires: Expires = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Make dead letters waiting jobs again: those with these ids, or --all that match; changed, if it is said how."""
    _check_choice(ids, all_=all_)
    client = find_client(app, url, namespace)
    which = _which(task, reason, error, older_than, newer_than)
    changes = Changes(**_changes(priority, max_retries, time_limit, expires))
    with as_usage():
        done = run(client, lambda: Admin(client).dead_retry(ids or (), queue=queue, changes=changes, **which))
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
    error: options.ErrorFilter = None,
    older_than: options.OlderThan = None,
    newer_than: options.NewerThan = None,
    yes: options.Yes = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Throw dead letters away: those with these ids, or --all that match (asks first)."""
    _check_choice(ids, all_=all_)
    which = _which(task, reason, error, older_than, newer_than)
    client = find_client(app, url, namespace)
    if all_ and not yes:
        confirm(f"throw away all dead letters that match at {client.endpoint.shown}?")
    gone = run(client, lambda: Admin(client).dead_purge(ids or (), queue=queue, **which))
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
        typer.echo(f"rqueue: {printable(job_id)}: a job of this id is alive; its letter stays", err=True)
    for job_id in done.unreadable:
        text = f"rqueue: {printable(job_id)}: its message cannot be read, so no worker could run it; it stays"
        typer.echo(text, err=True)
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
        "attempts": dead.attempts,
        "retries": letter.retries,
        "losses": letter.losses,
        "error": error_of(dead.letter) or None,
        "traceback": letter.failure.traceback if letter.failure is not None else None,
        "retryable": dead.message is not None,
        "message": raw,
    }
