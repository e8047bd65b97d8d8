"""The options that commands share, each with its ``RQUEUE_*`` variable."""

from __future__ import annotations

from typing import Annotated

import typer

App = Annotated[
    str | None,
    typer.Option(
        "-A",
        "--app",
        envvar="RQUEUE_APP",
        metavar="MODULE:ATTR",
        help="The app. Default: pyproject.toml's tool.rqueue app, else the RQueue in tasks.py, app.py or main.py.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="RQUEUE_URL", help="Where Redis is. Default: the app's URL, else redis://localhost."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", envvar="RQUEUE_NAMESPACE", help="The first part of every key. Default: the app's."),
]
Json = Annotated[bool, typer.Option("--json", envvar="RQUEUE_JSON", help="Print one JSON document on stdout.")]
Args = Annotated[
    str | None, typer.Option("--args", envvar="RQUEUE_ARGS", metavar="JSON", help="Arguments: a JSON list.")
]
Kwargs = Annotated[
    str | None, typer.Option("--kwargs", envvar="RQUEUE_KWARGS", metavar="JSON", help="Keyword arguments: an object.")
]
Wait = Annotated[bool, typer.Option("--wait", envvar="RQUEUE_WAIT", help="Wait for the job's end.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", envvar="RQUEUE_TIMEOUT", min=0, metavar="SECONDS", help="Longest wait. Default: none."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", envvar="RQUEUE_YES", help="Do not ask.")]
ShowSensitive = Annotated[
    bool,
    typer.Option("--show-sensitive", envvar="RQUEUE_SHOW_SENSITIVE", help="Show also what names of secrets hide."),
]
QueueFilter = Annotated[
    str | None, typer.Option("--queue", envvar="RQUEUE_QUEUE", help="Only this queue. Default: all.")
]
TaskFilter = Annotated[str | None, typer.Option("--task", envvar="RQUEUE_TASK", help="Only this task.")]
ReasonFilter = Annotated[
    str | None,
    typer.Option(
        "--reason",
        envvar="RQUEUE_REASON",
        help="Only this reason: failed, rejected, malformed, 'unknown task', 'worker lost', …",
    ),
]
All = Annotated[bool, typer.Option("--all", envvar="RQUEUE_ALL", help="All dead letters that match.")]
ErrorFilter = Annotated[
    str | None, typer.Option("--error", envvar="RQUEUE_ERROR", metavar="TEXT", help="Only with this text in the error.")
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than", envvar="RQUEUE_OLDER_THAN", metavar="AGE", help="Only what died longer ago: 90s, 15m, 3h, 7d."
    ),
]
NewerThan = Annotated[
    str | None,
    typer.Option("--newer-than", envvar="RQUEUE_NEWER_THAN", metavar="AGE", help="Only what died less long ago."),
]
Results = Annotated[
    str | None,
    typer.Option(
        "--results",
        envvar="RQUEUE_RESULTS",
        metavar="URL",
        help="The store of results, a database's URL. Default: the app's.",
    ),
]
