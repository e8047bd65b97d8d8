"""A fault: what was done to whom, and when; which runs it hit follows from the log."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from .oracle import Run, Sent

SETTLE_S = 0.25
"""A job that ended so long before a fault may not have been settled yet: its end goes to Redis with others'."""


@dataclass
class Fault:
    """What was done; a `with` block takes the times.

    Attributes:
        what: kill, freeze, …; counted by it in the report.
        pids: the processes that it hit; None: all of them, as a fault of Redis or of the network does. Empty: none, and
            nothing may run twice for it.
        heals: what recovery is. `again`: all that the hit processes ran and had not ended has started anew; counted
            from the begin. `working`: a job that was enqueued, confirmed and started after the end has ended; counted
            from the end. None: there is nothing to recover from.
        cause: the mark of the job that did it, if one did: it is not the others' recovery.
        charges: what it cut has cost a worker, and may be a dead letter at the third time.
        hides: what it hit may end meanwhile, and nobody hears of it in time: it is cut off all the same.
        settle_s: what had ended so long before its begin counts as in flight.
        forgets_s: Redis may forget what it confirmed so long before the begin. What it was told of ends it may forget
            as well: `settle_s` should be as long then.
        forgot: the moment from which on it forgets nothing, where that is before the end.
    """

    what: str
    pids: Collection[int] | None = None
    heals: Literal["again", "working"] | None = None
    cause: str = ""
    charges: bool = True
    hides: bool = False
    settle_s: float = SETTLE_S
    forgets_s: float = 0.0
    began: float = field(default=0.0, init=False)
    ended: float = field(default=float("inf"), init=False)
    forgot: float | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = time.monotonic()

    def hit(self, run: Run) -> bool:
        """True for a run that was in flight, as far as one can know without asking Redis: under way, or just ended."""
        if self.pids is not None and run.pid not in self.pids:
            return False
        return run.began <= self.ended and (run.ended is None or run.ended >= self.began - self.settle_s)

    def cut(self, run: Run) -> bool:
        """True for a run that it hit and that did not end, so that anybody heard of it, before the fault was over."""
        if self.hides and self.hit(run):
            return run.ended is None or run.ended > self.began
        return self.hit(run) and (run.ended is None or run.ended > self.ended)

    def may_forget(self, sent: Sent) -> bool:
        """True for a job that Redis may have had, and confirmed, when it forgot; its producer may note that later."""
        if not self.forgets_s or sent.confirmed is None:
            return False
        return sent.at <= self.until and self.began - self.forgets_s <= sent.confirmed

    def may_forget_end(self, run: Run) -> bool:
        """True for a run of which Redis may have known that it had ended, and with what result, when it forgot."""
        if not self.forgets_s or run.ended is None:
            return False
        return run.began <= self.ended and self.began - max(self.forgets_s, self.settle_s) <= run.ended

    @property
    def until(self) -> float:
        """From then on nothing is forgotten."""
        return self.ended if self.forgot is None else self.forgot
