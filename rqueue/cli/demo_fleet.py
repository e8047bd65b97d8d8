"""The demo's worker processes: it starts real ones, kills one, and leaves none behind."""

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

CONCURRENCY: Final = 8
LEASE_S: Final = 3.0
"""Short, so that the jobs of a killed worker are seen to come back; with the default they take up to 25 s."""

_STOP_S: Final = 10.0
_TAIL_LINES: Final = 5


class WorkerDied(RQueueError):
    """A worker process ended that nobody had ended; the text shows its last words."""


class Fleet:
    """Worker processes, in sessions of their own: a Ctrl-C reaches the demo, and the demo ends them.

    Args:
        url: where Redis is.
        directory: for their logs, and where they run.
        oracle: the file in which jobs note what they do.
    """

    def __init__(self, url: str, directory: Path, oracle: Path) -> None:
        self._directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RQUEUE_")}
        source = str(Path(rqueue.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (source, kept.get("PYTHONPATH"))))
        self._environment = {**kept, "PYTHONPATH": path, "RQUEUE_URL": url, LOG_VARIABLE: str(oracle)}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The processes that are to be alive."""
        return list(self._processes)

    def start(self) -> int:
        """Start a worker; its process id."""
        command = [sys.executable, "-m", "rqueue", "worker", "-A", "rqueue.cli.demo_tasks:app"]
        command += ["-c", str(CONCURRENCY), "--lease", str(LEASE_S), "--loglevel", "warning"]
        with (self._directory / f"worker-{len(self._logs)}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[process.pid] = process
        self._logs[process.pid] = Path(log.name)
        return process.pid

    def check(self) -> None:
        """See that all are alive.

        Raises:
            WorkerDied: one is not.
        """
        for pid, process in self._processes.items():
            if process.poll() is not None:
                lines = self._logs[pid].read_text(errors="replace").splitlines()[-_TAIL_LINES:]
                raise WorkerDied("\n".join([f"worker {pid} ended with code {process.returncode}:", *lines]))

    def freeze(self, pid: int) -> None:
        """Stop a process in its tracks; returns when it does not move any more."""
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)

    def thaw(self, pid: int) -> None:
        """Let it go on."""
        os.kill(pid, signal.SIGCONT)

    def kill(self, pid: int) -> None:
        """End a process with SIGKILL: it has no chance to give anything back."""
        process = self._processes.pop(pid)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End all; those that do not end by themselves are killed."""
        processes = list(self._processes.values())
        self._processes.clear()
        try:
            for process in processes:
                process.terminate()
                process.send_signal(signal.SIGCONT)  # it may be frozen
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
        finally:  # also when a second Ctrl-C ends the wait
            for process in processes:
                process.kill()
                process.wait()
