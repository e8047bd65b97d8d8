"""The demo's ``rqueue worker``: a real one with its worker processes, none of which is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import rqueue
from rqueue.cli.demo_oracle import LOG_VARIABLE
from rqueue.errors import RQueueError

PROCESSES: Final = 4
CONCURRENCY: Final = 8

_GRACE_S: Final = 1.0
"""What running jobs are given when the demo is interrupted: nobody waits for their results."""

_STOP_S: Final = 10.0
_KILL_S: Final = 5.0
_TAIL_LINES: Final = 5


class WorkerDied(RQueueError):
    """The workers ended, and nobody had ended them; the text shows their last words."""


class Fleet:
    """One ``rqueue worker``, in a session of its own: a Ctrl-C reaches the demo, and the demo ends it.

    Args:
        url: where Redis is.
        directory: for its log, and where it runs.
        oracle: the file in which jobs note what they do.
    """

    def __init__(self, url: str, directory: Path, oracle: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RQUEUE_", "CELERY_"))}
        source = str(Path(rqueue.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (source, kept.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "rqueue", "worker", "-A", "rqueue.cli.demo_tasks:app"]
        command += ["--processes", str(PROCESSES), "-c", str(CONCURRENCY)]
        command += ["--shutdown-timeout", str(_GRACE_S), "--loglevel", "warning"]
        self._log = directory / "worker.log"
        with self._log.open("wb") as log:
            self._supervisor = subprocess.Popen(
                command,
                cwd=directory,
                env={**kept, "PYTHONPATH": path, "RQUEUE_URL": url, LOG_VARIABLE: str(oracle)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """See that the supervisor lives.

        Raises:
            WorkerDied: it does not.
        """
        if (code := self._supervisor.poll()) is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            raise WorkerDied("\n".join([f"rqueue worker ended with code {code}:", *lines]))

    def kill(self, pid: int) -> None:
        """End one of the processes with SIGKILL: it has no chance to give anything back."""
        os.kill(pid, signal.SIGKILL)

    def is_gone(self, pid: int) -> bool:
        """True when the supervisor has seen the end of that process: it does nothing any more."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):  # or it is somebody else's, under the same number
            return True
        return False

    def stop(self) -> None:
        """End it with its processes; what does not end by itself is killed."""
        try:
            self._supervisor.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(_STOP_S)
        finally:  # also when a second Ctrl-C ends the wait
            self._supervisor.send_signal(signal.SIGQUIT)  # after a SIGTERM it waits for nothing: it kills its processes
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(_KILL_S)
            self._supervisor.kill()
            self._supervisor.wait()
