"""``rqueue inspect``: what running workers say of themselves, in Celery's words."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.replies import DEFAULT_TIMEOUT, AnswerTimeout, Destination, ask


class Look(StrEnum):
    """What can be asked."""

    PING = "ping"
    ACTIVE = "active"
    RESERVED = "reserved"
    SCHEDULED = "scheduled"
    REGISTERED = "registered"
    STATS = "stats"
    ACTIVE_QUEUES = "active_queues"
    REPORT = "report"


def inspect(
    what: Annotated[Look, typer.Argument(help="What to ask for.", show_default=False)],
    destination: Destination = None,
    timeout: AnswerTimeout = DEFAULT_TIMEOUT,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Ask running workers: what they run, hold, know and count.

    ping: are they there. active: running jobs. reserved: claimed jobs that have not started. scheduled: the next
    scheduled jobs of their queues. registered: tasks and their options. stats: counters of the process.
    active_queues: the queues that they serve. report: versions and settings, for a bug report.
    """
    ask(find_client(app, url, namespace), what, {}, destination, timeout, json=json)
