"""The program: every command in one place, and errors as one line and an exit code."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rqueue import __version__
from rqueue.cli import db, dead, demo, history, jobs, queues, schedule
from rqueue.cli.bench import bench
from rqueue.cli.cancel import cancel
from rqueue.cli.control import control
from rqueue.cli.doctor import doctor
from rqueue.cli.events import events
from rqueue.cli.exits import CHECKUP_MEANINGS, MEANINGS, code_of
from rqueue.cli.health import health
from rqueue.cli.inspect import inspect
from rqueue.cli.output import fail
from rqueue.cli.pause import pause, resume
from rqueue.cli.prune import prune
from rqueue.cli.stats import stats
from rqueue.cli.status import status
from rqueue.cli.top import top
from rqueue.cli.worker import worker
from rqueue.errors import RQueueError
from rqueue.log import TextFormatter


class _Program(TyperGroup):
    """A group of commands in which an error of rqueue's is one line, and never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what no encoding of the terminal's has is shown all the same."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except RQueueError as exc:
            fail(str(exc), code_of(exc))


program = typer.Typer(
    cls=_Program,
    name="rqueue",
    help="The asyncio-native task queue on Redis.",
    epilog=MEANINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"rqueue {__version__}")
        raise typer.Exit


@program.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for _command in (
    worker,
    jobs.enqueue,
    jobs.result,
    cancel,
    queues.queues,
    queues.workers,
    status,
    stats,
    top,
    events,
    inspect,
    control,
    pause,
    resume,
    health,
):
    program.command(epilog=MEANINGS)(_command)
program.command(epilog=CHECKUP_MEANINGS)(doctor)
program.add_typer(dead.commands, name="dead")
history.commands.command(epilog=MEANINGS)(prune)
program.add_typer(history.commands, name="history")
program.add_typer(db.commands, name="db")
program.add_typer(schedule.commands, name="schedule")
program.command(epilog=MEANINGS)(queues.purge)
program.command(epilog=MEANINGS)(demo.demo)
program.command(epilog=MEANINGS)(bench)


def main() -> None:
    """Run the command that the arguments name."""
    if logging.lastResort is not None:  # warnings of a command that sets up no logging: the reason is in their fields
        logging.lastResort.setFormatter(TextFormatter())
    program(prog_name="rqueue")
