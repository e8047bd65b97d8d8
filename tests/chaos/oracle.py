"""What producers and workers wrote outside Redis, as far as it was read."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Run:
    """One run of a job: it ended well, or it failed, or neither (it was cut, or goes on)."""

    mark: str
    pid: int
    name: str
    began: float
    ended: float | None = None
    is_failure: bool = False


@dataclass
class Sent:
    """A job that a producer meant to send, and what became of the call."""

    kind: str
    queue: str
    at: float
    countdown: float = 0.0
    confirmed: float | None = None
    job_id: str = ""
    refused: str = ""


@dataclass
class Oracle:
    """The logs in a directory, a file for each process.

    Attributes:
        sent: the jobs by their marks.
        runs: what ran, by mark.
        parents: of each worker process that has loaded the app.
        first: when each process started its first job.
    """

    directory: Path
    sent: dict[str, Sent] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    parents: dict[int, int] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    _offsets: dict[Path, int] = field(default_factory=dict)
    _open: dict[tuple[int, str], Run] = field(default_factory=dict)

    def read(self) -> None:
        """Take in what was written since the last time."""
        for path in sorted(self.directory.glob("*.log")):
            offset = self._offsets.get(path, 0)
            if path.stat().st_size == offset:
                continue
            with path.open("rb") as log:
                log.seek(offset)
                data = log.read()
            whole = data[: data.rfind(b"\n") + 1]  # the system writes a line whole, but who reads may come between
            self._offsets[path] = offset + len(whole)
            for line in whole.decode().splitlines():
                what, mark, pid, at, *more = line.split()
                self._take(what, mark, int(pid), float(at), more)

    def ends(self, mark: str) -> list[Run]:
        """The runs of a job that ended well."""
        return [run for run in self.runs.get(mark, ()) if run.ended is not None and not run.is_failure]

    @property
    def confirmed(self) -> dict[str, Sent]:
        """The jobs whose producers were told that they are stored."""
        return {mark: sent for mark, sent in self.sent.items() if sent.confirmed is not None}

    def _take(self, what: str, mark: str, pid: int, at: float, more: list[str]) -> None:
        match what:
            case "intent":
                self.sent[mark] = Sent(kind=more[0], queue=more[1], at=at, countdown=float(more[2]))
            case "confirmed":
                sent = self.sent[mark]
                sent.confirmed, sent.queue, sent.job_id = at, more[0], more[1]
            case "refused":
                self.sent[mark].refused = more[0]
            case "born":
                self.parents[pid] = int(more[0])
                self.first.pop(pid, None)  # the number of a process that is gone
            case "start":
                run = self._open[pid, more[0]] = Run(mark, pid, more[0], at)
                self.runs[mark].append(run)
                self.first.setdefault(pid, at)
            case "end" | "fail":
                run = self._open.pop((pid, more[0]))
                run.ended, run.is_failure = at, what == "fail"
            case _:
                raise ValueError(f"{what!r} is not a line of the log")
