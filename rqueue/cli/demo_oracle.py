"""What the demo's jobs did, by a log outside Redis: each job writes a line when it starts and one when it ends.

A line is one ``write`` to a file that is open for appending, so that lines of many processes do not mix and a process
that is killed leaves whole lines only.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

LOG_VARIABLE: Final = "RQUEUE_DEMO_LOG"
"""Names the file, in the environment of the demo's workers."""


def note(kind: str, job_id: str) -> None:
    """Write that a job starts or ends, here and now."""
    line = f"{kind} {job_id} {os.getpid()} {time.time():.6f}\n"
    log = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, line.encode())
    finally:
        os.close(log)


class Oracle:
    """The log as far as it was read.

    Args:
        path: the file; it need not be there yet.

    Attributes:
        starts: how often each job has started.
        ended: when each job ended first, in seconds since the epoch.
        last_end: when a job ended last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._running: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.starts: Counter[str] = Counter()
        self.ended: dict[str, float] = {}
        self.last_end = 0.0

    def read(self) -> None:
        """Take in what was written since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            kind, job_id, pid, moment = line.split()
            self._take(kind, job_id, int(pid), float(moment))

    def running(self, pid: int) -> list[str]:
        """The jobs that a process has started and not ended."""
        return list((+self._running[pid]).elements())

    def busiest(self) -> int | None:
        """The process that runs most jobs, None when nothing runs."""
        pid = max(self._running, key=lambda each: len(self.running(each)), default=None)
        return pid if pid is not None and self.running(pid) else None

    def _take(self, kind: str, job_id: str, pid: int, moment: float) -> None:
        if kind == "start":
            self.starts[job_id] += 1
            self._running[pid][job_id] += 1
        else:
            self.ended.setdefault(job_id, moment)
            self.last_end = max(self.last_end, moment)
            self._running[pid][job_id] -= 1
