"""``rqueue enqueue`` and ``rqueue result``: a job from the shell, and what became of it."""

from __future__ import annotations

import json as stdlib_json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.exits import Code, as_usage, code_of
from rqueue.cli.lookup import bare, find_app_or_bare, find_client, unknown_task
from rqueue.cli.output import fail, run, show_json
from rqueue.client.job import Job, JobInfo
from rqueue.client.options import CallOptions, TaskOptions
from rqueue.client.task import Signature, Task
from rqueue.errors import ConfigError, JobError, JobFailed, JobNotFound, JobRevoked, RQueueError, WaitTimeout
from rqueue.wire import codec
from rqueue.wire.state import State

Countdown = Annotated[
    float | None,
    typer.Option("--countdown", envvar="RQUEUE_COUNTDOWN", metavar="SECONDS", help="Start it so much later."),
]
Expires = Annotated[
    float | None,
    typer.Option("--expires", envvar="RQUEUE_EXPIRES", metavar="SECONDS", help="Do not start it after so long."),
]
Priority = Annotated[
    int | None,
    typer.Option(
        "--priority", envvar="RQUEUE_PRIORITY", help="1 lowest to 10 highest. Default: the task's, else none."
    ),
]
JobId = Annotated[
    str | None,
    typer.Option("--job-id", envvar="RQUEUE_JOB_ID", help="Its id: while such a job is alive, no other is made."),
]
ByName = Annotated[
    bool,
    typer.Option("--by-name", envvar="RQUEUE_BY_NAME", help="Load no app: make the message from the name alone."),
]
KeywordArguments = Annotated[
    str, typer.Option("--kwargs", envvar="RQUEUE_KWARGS", metavar="JSON", help="Keyword arguments: a JSON object.")
]
QueueOption = Annotated[
    str | None,
    typer.Option("--queue", envvar="RQUEUE_QUEUE", help="The queue. Default: the task's, a route's, else default."),
]


def enqueue(
    task: Annotated[str, typer.Argument(help="The task's name, module.function.", show_default=False)],
    args: Annotated[str, typer.Argument(metavar="[JSON]", help="Arguments: a JSON list.", show_default=False)] = "[]",
    kwargs: KeywordArguments = "{}",
    queue: QueueOption = None,
    priority: Priority = None,
    countdown: Countdown = None,
    expires: Expires = None,
    job_id: JobId = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    by_name: ByName = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Enqueue a job and print its id; with --wait its result as well.

    With an app, the task's options and the routes count. Where there is none, --url and the task's name are enough.
    """
    given = {"queue": queue, "priority": priority, "countdown": countdown, "expires": expires, "job_id": job_id}
    call = CallOptions.of({name: value for name, value in given.items() if value is not None})
    positional, named = read_arguments(args, list), read_arguments(kwargs, dict)
    client = bare(url, namespace) if by_name else find_app_or_bare(app, url, namespace)
    signature = Signature(_known(client, task), tuple(positional), named, call)
    with as_usage():
        signature.task.check(signature.args, signature.kwargs)
        answer = run(client, lambda: _enqueue(client, signature, wait=wait, timeout=timeout, json=json))
    if wait or json:
        answer.show(json=json)


def result(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)],
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Print a job's result as JSON; one that has not ended is exit code 5, unless --wait waits for it."""
    client = find_client(app, url, namespace)
    run(client, lambda: _look(client, job_id, wait=wait, timeout=timeout)).show(json=json)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found out about a job.

    Attributes:
        info: what is known of it.
        error: why there is no result, or None.
    """

    info: JobInfo
    error: RQueueError | None = None

    def show(self, *, json: bool) -> None:
        """Print it, and end the command with the exit code that it stands for."""
        if json:
            show_json(asdict(self.info))
        elif self.info.state is State.SUCCESS and self.error is None:
            typer.echo(codec.dumps(self.info.result).decode())
        if self.error is not None:
            fail(str(self.error), code_of(self.error))


async def _enqueue(
    client: RQueue, signature: Signature[Any], *, wait: bool, timeout: float | None, json: bool
) -> Answer:
    await client.open()  # says at once where Redis is not, and does not try for as long as a program would
    job = await client.enqueue(signature)
    if not json:
        typer.echo(job.id)
        sys.stdout.flush()
    return await _wait(job, timeout) if wait else Answer(await _info(job))


async def _look(client: RQueue, job_id: str, *, wait: bool, timeout: float | None) -> Answer:
    """What is known of a job now, or at its end."""
    info = await client.job(job_id).info()
    if info.state.is_final and info.is_dead and info.error is None:
        # Its result is no longer kept, and its dead letter still is.
        return Answer(info, JobFailed(job_id, "dead letter", f"see rqueue dead show {job_id}"))
    if not wait and not info.state.is_final:
        return Answer(info, WaitTimeout(f"job {job_id} has not ended; its state is {info.state}"))
    return await _wait(client.job(job_id, info.queue), timeout)


async def _wait(job: Job[Any], timeout: float | None) -> Answer:
    try:
        value = await job.result(timeout)
    except JobNotFound:
        raise
    except (JobError, WaitTimeout) as exc:
        return Answer(_ended(await _info(job), exc), exc)
    return Answer(replace(await _info(job), state=State.SUCCESS, result=value))


async def _info(job: Job[Any]) -> JobInfo:
    """What is known of a job; only its id where nothing is kept."""
    try:
        return await job.info()
    except JobNotFound:
        return JobInfo(job.id, job.queue or "", State.PENDING)


def _ended(info: JobInfo, error: RQueueError) -> JobInfo:
    """The same, where the record is gone already and only the error tells how it ended."""
    if isinstance(error, JobFailed):
        text = f"{error.error_type}: {error.message}"
        return replace(info, state=State.FAILURE, error=text, traceback=error.traceback)
    if isinstance(error, JobRevoked):
        return replace(info, state=State.REVOKED)
    return info


def _known(client: RQueue, name: str) -> Task[Any, Any]:
    """The task of that name; by the name alone where the client knows no task at all."""
    task = client.tasks.find(name)
    if task is not None:
        return task
    if wrong := unknown_task(client, name):
        fail(f"{wrong} (--by-name sends it all the same)", Code.NOT_FOUND)
    return Task(client, _elsewhere, name, TaskOptions(), bind=False)


def _elsewhere(*args: Any, **kwargs: Any) -> Any:
    """Stands for a function that only the worker has."""
    raise NotImplementedError(args, kwargs)


def read_arguments(text: str, kind: type[list[Any] | dict[str, Any]]) -> Any:
    """Arguments from JSON; the standard library keeps integers exact, where others make floats of long ones."""
    wanted = "a JSON list, for example '[1, 2]'" if kind is list else "a JSON object, for example '{\"a\": 1}'"
    try:
        value = stdlib_json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"{text!r} is not JSON ({exc}); give {wanted}") from None
    if not isinstance(value, kind):
        raise ConfigError(f"{text!r} is JSON of another kind; give {wanted}")
    return value
