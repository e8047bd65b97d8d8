"""The demo's progress on stderr: a bar for a terminal, lines for anything else."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_STEPS: Final = 10


class DemoProgress:
    """Shows what happens and how many jobs are done.

    Args:
        console: where to show it.
        jobs: how many there are.
    """

    def __init__(self, console: Console, jobs: int) -> None:
        self._console, self._jobs = console, jobs
        self._shown = 0
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("jobs done"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=jobs)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        self._console.print(text)

    def done(self, count: int) -> None:
        """So many are done: the bar moves, or every tenth of the way is a line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=count)
            return
        step = count * _STEPS // self._jobs
        if step > self._shown:
            self._shown = step
            self.say(f"{count} of {self._jobs} jobs done")
