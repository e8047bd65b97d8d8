"""A supervisor in place of the program that read its options: ``python -m rqueue.supervisor.takeover <settings> …``.

The parser of all commands is twice as large as a supervisor, which runs for months.
The process stays the same one: its id, its streams, its working directory and its environment are as they were.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import NoReturn

import orjson

from rqueue.cli.logs import LogFormat, LogLevel, configure
from rqueue.supervisor.settings import FleetSettings, ProcessSettings
from rqueue.supervisor.supervisor import Supervisor
from rqueue.worker.board import new_file


def take_over(fleet: FleetSettings) -> NoReturn:
    """End this program, and keep the processes from now on.

    Raises:
        OSError: it could not; nothing has ended.
    """
    with os.fdopen(new_file("rqueue settings"), "r+b") as file:  # no argument: a URL's password is nobody's to see
        file.write(orjson.dumps(asdict(fleet)))
        file.flush()
        file.seek(0)
        os.set_inheritable(file.fileno(), True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        command = [sys.executable, "-m", __spec__.name, str(file.fileno()), *sys.orig_argv]  # as ps has shown it, too
        os.execv(sys.executable, command)  # noqa: S606 - no shell


def main(arguments: list[str]) -> int:
    """Keep the processes as the settings say; the exit code."""
    with os.fdopen(int(arguments[0]), "rb") as file:
        told = orjson.loads(file.read())
    process, scale = ProcessSettings(**told.pop("process")), told.pop("autoscale")
    fleet = FleetSettings(process, autoscale=None if scale is None else tuple(scale), **told)
    configure(LogLevel(process.loglevel), LogFormat(process.log_format))
    return Supervisor(fleet).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
