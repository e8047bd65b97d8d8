"""``rqueue health``: for a container's probe. It reads what workers last said of themselves, and loads no app."""

from __future__ import annotations

import socket
from typing import Annotated, Final

import typer

from rqueue.cli import options
from rqueue.cli.exits import Code
from rqueue.cli.lookup import bare
from rqueue.cli.output import fail, run, show_json
from rqueue.client.admin import Admin, WorkerStatus

WorkerOption = Annotated[
    str | None,
    typer.Option(
        "--worker",
        envvar="RQUEUE_WORKER",
        metavar="ID",
        help="This worker, by its id or the beginning of it. Default: all of this host.",
    ),
]
MaxAge = Annotated[
    float | None,
    typer.Option(
        "--max-age",
        envvar="RQUEUE_MAX_AGE",
        min=0,
        metavar="SECONDS",
        help="How old the last fetch may be. Default: three times the longer of heartbeat and block, and 2 s.",
    ),
]

_BEATS: Final = 3
_GRACE_S: Final = 2.0


def health(
    worker: WorkerOption = None,
    max_age: MaxAge = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Say whether this host's workers are healthy: exit code 0, or 1 and why.

    A worker is healthy while it fetches jobs, has no room for more, or stops. There must be one.
    """
    client = bare(url, namespace)
    found = run(client, Admin(client).workers)
    problems = {status.id: problem_of(status, max_age) for status in _meant(found, worker)}
    failed = [f"{name}: {problem}" for name, problem in problems.items() if problem is not None]
    if not problems:
        where = f"on this host ({socket.gethostname()})" if worker is None else f"with the id {worker}"
        failed = [f"there is no worker {where} at {client.endpoint.shown}"]
    if json:
        workers = [{"id": name, "problem": problem} for name, problem in problems.items()]
        show_json({"healthy": not failed, "workers": workers})
    if failed:
        fail("unhealthy: " + "; ".join(failed), Code.FAILED)
    if not json:
        typer.echo(f"healthy: {', '.join(problems)}")


def problem_of(status: WorkerStatus, max_age_s: float | None = None) -> str | None:
    """Why a worker is not healthy, or None.

    Args:
        status: what it last said of itself.
        max_age_s: how old its last fetch may be; None is three times the longer of heartbeat and block, and 2 s.
    """
    if not status.is_live:
        return f"its lease ran out {-status.lease_s:.1f} s ago"
    if status.state == "stopping":
        return None
    if status.fetched_age_s is None or status.heartbeat_s is None or status.block_s is None:
        return "it has not said anything of itself"
    allowed_s = max_age_s if max_age_s is not None else _BEATS * max(status.heartbeat_s, status.block_s) + _GRACE_S
    if status.fetched_age_s > allowed_s:
        return f"its last fetch was {status.fetched_age_s:.1f} s ago, and {allowed_s:g} s are allowed"
    return None


def _meant(found: list[WorkerStatus], worker: str | None) -> list[WorkerStatus]:
    """The workers to judge. One of this host whose lease ran out is dead, and waits for a reaper to find it: it says
    nothing of its successor.
    """
    if worker is not None:
        exact = [status for status in found if status.id == worker]
        return exact or [status for status in found if status.id.startswith(worker)]
    return [status for status in found if status.host == socket.gethostname() and status.is_live]
