"""Whoever keeps this worker's process: what it is told, what it does for the worker, and nobody at all."""

from __future__ import annotations

from typing import Any, Protocol

from rqueue.errors import ConfigError
from rqueue.worker.board import Figures
from rqueue.worker.inflight import ClaimedJob


class Parent(Protocol):
    """A supervisor, as a worker sees it.

    Attributes:
        keeps_lease: it renews the worker's lease, because the worker's own thread may not get to it.
        replaces: it replaces this process when the worker says that it is spent or stuck.
    """

    keeps_lease: bool
    replaces: bool

    def registering(self, worker: str) -> None:
        """The worker is about to register under that id; returns when the supervisor will know whatever happens."""

    async def turn(self) -> None:
        """Return when the worker may begin to claim: a successor waits until it takes somebody's place."""

    def spent(self) -> None:
        """The worker starts nothing any more: somebody must take its place."""

    def serves(self, queue: str) -> None:
        """The worker serves one more queue."""

    def report(self, figures: Figures, card: bytes) -> None:
        """How the worker is, and what it says of itself."""

    def began(self, job: ClaimedJob) -> None:
        """A job with a time limit starts."""

    def ended(self, job: ClaimedJob) -> None:
        """It is over."""

    def questioned(self, job: ClaimedJob, until_s: float) -> None:
        """A job that has cost a worker is about to start: if the process dies before then, it alone is to blame."""

    async def ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have something done that only a supervisor can do.

        Raises:
            RQueueError: it is not done; the text says why.
        """


class Nobody:
    """There is no supervisor: the worker is embedded in another program, or runs alone."""

    keeps_lease = False
    replaces = False

    def registering(self, worker: str) -> None:
        """Nobody needs to know."""

    async def turn(self) -> None:
        """At once."""

    def spent(self) -> None:
        """Nobody takes its place: the worker ends when nothing runs any more."""

    def serves(self, queue: str) -> None:
        """Nobody needs to know."""

    def report(self, figures: Figures, card: bytes) -> None:
        """Nobody needs to know."""

    def began(self, job: ClaimedJob) -> None:
        """Nobody needs to know."""

    def ended(self, job: ClaimedJob) -> None:
        """Nobody needs to know."""

    def questioned(self, job: ClaimedJob, until_s: float) -> None:
        """Nobody needs to know."""

    async def ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Nobody does it."""
        raise ConfigError(f"{verb}: this worker has no supervisor")
