"""``rqueue top``: queues, workers, rates and running jobs on one screen, each second anew."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.output import console, run
from rqueue.cli.status import COLUMNS, row, summary
from rqueue.client.admin import Admin, QueueStatus, WorkerStatus
from rqueue.client.inspector import Inspector
from rqueue.errors import BrokerError

if sys.platform != "win32":  # where Ctrl-C alone ends it
    import termios
    import tty

Once = Annotated[bool, typer.Option("--once", envvar="RQUEUE_ONCE", help="Print one frame and end.")]

_EVERY_S: Final = 1.0
_ASK_S: Final = 0.5
"""Running jobs are asked for by name, and a frame does not wait for a worker that is silent."""

_JOBS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is seen at one moment.

    Attributes:
        at_s: when, on a clock that only counts.
        queues, workers: all of them.
        jobs: (worker, job) of running jobs, the longest first.
        silent: workers that did not say what they run.
    """

    at_s: float
    queues: Sequence[QueueStatus]
    workers: Sequence[WorkerStatus]
    jobs: Sequence[tuple[str, dict[str, Any]]] = ()
    silent: Sequence[str] = field(default=())


def top(
    once: Once = False, app: options.App = None, url: options.Url = None, namespace: options.Namespace = None
) -> None:
    """Watch queues, workers and running jobs, each second anew; q or Ctrl-C ends it.

    Where stdout is no terminal, one frame is printed.
    """
    client = find_client(app, url, namespace)
    if once or not sys.stdout.isatty():
        seen = run(client, lambda: look(client))
        console().print(frame(client.endpoint.shown, seen, None))
        return
    with suppress(KeyboardInterrupt):
        run(client, lambda: _watch(client))


async def look(client: RQueue) -> Snapshot:
    """Everything as it is now."""
    admin, inspector = Admin(client), Inspector(client)
    queues, workers, replies = await asyncio.gather(
        admin.queues(), admin.workers(), inspector.ask("active", timeout=_ASK_S)
    )
    jobs = [(answer.worker, job) for answer in replies.answers for job in answer.ok or ()]
    jobs.sort(key=lambda each: each[1]["started"])
    return Snapshot(time.monotonic(), queues, workers, jobs, replies.silent)


def frame(where: str, seen: Snapshot, before: Snapshot | None) -> RenderableType:
    """One frame.

    Args:
        where: the Redis that is looked at.
        seen: what is shown.
        before: the frame before, from which rates are counted; None in the first.
    """
    silent = f"; silent: {', '.join(seen.silent)}" if seen.silent else ""
    return Group(
        f"rqueue top, {where}: {summary(seen.workers)}{silent}",
        _table("queues", _QUEUES, (_queue_row(queue, seen, before) for queue in seen.queues)),
        _table("workers", COLUMNS, map(row, seen.workers)),
        _table("running jobs, the longest first", _JOBS, map(_job_row, seen.jobs[:_JOBS_SHOWN])),
    )


_QUEUES: Final = ("queue", " waiting", " scheduled", " running", " dead", " workers", " ended/s", " failed/s")
_JOBS: Final = ("id", "task", "queue", " seconds", "args", "worker")


def _queue_row(queue: QueueStatus, seen: Snapshot, before: Snapshot | None) -> tuple[Any, ...]:
    past = next((each for each in before.queues if each.name == queue.name), None) if before is not None else None
    rates: tuple[str, ...] = ("", "")
    if before is not None and past is not None and (gone_s := seen.at_s - before.at_s) > 0:
        ended = sum(queue.counts.values()) - sum(past.counts.values())
        failed = queue.counts.get("FAILURE", 0) - past.counts.get("FAILURE", 0)
        rates = tuple(f"{max(0, each) / gone_s:.1f}" for each in (ended, failed))
    sizes = (queue.waiting_total, queue.scheduled, queue.running, queue.dead, queue.workers)
    return queue.shown, *sizes, *rates


def _job_row(each: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
    worker, job = each
    return job["id"], job["task"], job["queue"], f"{job['seconds']:.1f}", job["args"], worker


def _table(title: str, columns: Sequence[str], rows: Any) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(
            column.strip(), justify="right" if column.startswith(" ") else "left", no_wrap=True, overflow="ellipsis"
        )
    for cells in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    return table


async def _watch(client: RQueue) -> None:
    before: Snapshot | None = None
    with _keys() as quit_, Live(console=console(), screen=True, auto_refresh=False) as live:
        while not quit_.is_set():
            try:
                seen = await look(client)
                live.update(frame(client.endpoint.shown, seen, before), refresh=True)
                before = seen
            except BrokerError as exc:
                if before is None:
                    raise
                live.update(Group(str(exc), frame(client.endpoint.shown, before, None)), refresh=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(quit_.wait(), _EVERY_S)


@contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """Set when q is pressed; keys come one by one and are not shown, until the block ends."""
    pressed = asyncio.Event()
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield pressed
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    settings = termios.tcgetattr(descriptor)

    def read() -> None:
        keys = os.read(descriptor, 64)
        if not keys or b"q" in keys.lower():
            pressed.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)
