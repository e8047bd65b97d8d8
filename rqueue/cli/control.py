"""``rqueue control``: have running workers do something, in Celery's words."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.replies import DEFAULT_TIMEOUT, AnswerTimeout, Destination, ask
from rqueue.config import check_time_limits, whole
from rqueue.errors import ConfigError
from rqueue.policy.rate import parse_rate
from rqueue.wire.control import CONTROL
from rqueue.wire.keys import check_job_id, check_queue_name


class Action(StrEnum):
    """What can be done."""

    SHUTDOWN = "shutdown"
    POOL_GROW = "pool_grow"
    POOL_SHRINK = "pool_shrink"
    ADD_CONSUMER = "add_consumer"
    CANCEL_CONSUMER = "cancel_consumer"
    RATE_LIMIT = "rate_limit"
    TIME_LIMIT = "time_limit"
    CANCEL = "cancel"


_OPTIONAL: Final = ("n", "hard", "terminate")
"""Arguments that may be left out: the worker knows their default."""


def control(
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="See above.", show_default=False)
    ] = None,
    destination: Destination = None,
    timeout: AnswerTimeout = DEFAULT_TIMEOUT,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Have running workers do something. What is changed lasts as long as their processes.

    shutdown: stop, as at a SIGTERM. pool_grow [N], pool_shrink [N]: run N more or fewer jobs at once (1).
    add_consumer QUEUE, cancel_consumer QUEUE: serve a queue, or no longer. rate_limit TASK RATE: start no more jobs
    of a task on each worker than 10/s, 100/m or 5/h; 0 or none lifts it. time_limit TASK SOFT [HARD]: seconds, or
    none. cancel ID [true]: interrupt a running job, or end it with its process; rqueue cancel also cancels what waits.
    """
    args = read_arguments(action, arguments or ())
    ask(find_client(app, url, namespace), action, args, destination, timeout, json=json)


def read_arguments(action: str, given: Sequence[str]) -> dict[str, Any]:
    """The action's arguments by name, checked before any worker is asked.

    Raises:
        ConfigError: there are too many or too few, or one is wrong.
    """
    names = [name for name in CONTROL[action] if (action, name) != (Action.CANCEL, "queue")]
    needed = [name for name in names if name not in _OPTIONAL]
    if not len(needed) <= len(given) <= len(names):
        usage = " ".join(f"[{name.upper()}]" if name in _OPTIONAL else name.upper() for name in names)
        raise ConfigError(f"write: rqueue control {action} {usage}".rstrip())
    args = {name: _read(name, text) for name, text in zip(names, given, strict=False)}
    if "soft" in args:
        check_time_limits(args.get("hard"), args["soft"])
    return args


def _read(name: str, text: str) -> Any:
    if name == "n":
        number = int(text) if text.isascii() and text.isdigit() else text
        whole("n", number, 1)
        return number
    if name in ("soft", "hard"):
        return _seconds(text)
    if name == "rate":
        parse_rate(text)
    elif name == "queue":
        check_queue_name(text)
    elif name == "id":
        check_job_id(text)
    elif name == "terminate":
        if text not in ("true", "false"):
            raise ConfigError(f"terminate {text!r}: true or false")
        return text == "true"
    return text


def _seconds(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"time limit {text!r}: seconds, or none") from None
