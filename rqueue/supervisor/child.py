"""One worker process, as its supervisor sees it: it starts it, hears it, stops it, and knows how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from rqueue.policy.clock import elapsed_s
from rqueue.supervisor.channel import Channel, Message
from rqueue.supervisor.served import ServedApp
from rqueue.supervisor.settings import FleetSettings
from rqueue.worker.board import Board, Figures


class Child:
    """A worker process.

    Args:
        settings: the fleet's.
        deaths: how many have died at once in a row before it, in its place.
        standby: it is to wait until it takes another one's place.
        hear: told what it says.

    Attributes:
        workers: the ids under which it has worked; the last one is in use.
        is_standby: it waits until it takes another one's place.
        is_ready: it works, or could.
        is_spent: it starts nothing any more.
        app: its app, once it has said what that is.
        queues, added: where it has leases under its id in use, and where it said that it would have one.
        renewed, renewed_s: the id whose lease was last renewed for it, '' before that; and when it was last tried.
        is_renewing: its lease is being renewed.
        born_s, placed_s: when it was started, and when it began to claim, by :func:`~rqueue.policy.clock.elapsed_s`.
        stops: how often it was asked to stop; the second time it gives back what runs as well.
        stopped_s: when it was last asked.
        due: why it is to be replaced, '' while it is not.
        why: why it leaves, for the log, '' while it is to stay.
        killed: why it was killed, '' when it was not.
        code: how it ended: an exit code, or a signal's number below 0; None while it lives.
    """

    def __init__(
        self,
        settings: FleetSettings,
        deaths: int,
        standby: bool,
        hear: Callable[[Child, Message], None],
    ) -> None:
        self.deaths, self.is_standby, self._hear = deaths, standby, hear
        self.workers: list[str] = []
        self.is_ready = self.is_spent = self.is_renewing = False
        self.app: ServedApp | None = None
        self.queues: set[str] = set()
        self.added: set[str] = set()
        self.renewed, self.renewed_s = "", 0.0
        self.stops = 0
        self.stopped_s: float | None = None
        self.why = self.killed = self.due = ""
        self.code: int | None = None
        self.born_s = self.placed_s = elapsed_s()
        config = settings.process.config()
        slots = config.autoscale[0] if config.autoscale else config.concurrency
        self.board = Board(slots=slots)
        try:
            self._channel, theirs = Channel.pair()
            try:
                self._process = self._spawn(settings, theirs.fileno(), slots)
            except BaseException:
                self._channel.close()
                raise
            finally:
                theirs.close()
        except BaseException:
            self.board.close()
            raise
        self._channel.tell_now(asdict(replace(settings.process, standby=standby)))
        self._reading = asyncio.create_task(self._channel.read(self._heard), name=f"rqueue child {self.pid}")

    def _spawn(self, settings: FleetSettings, fd: int, slots: int) -> subprocess.Popen[bytes]:
        # A group of its own: a Ctrl-C at the terminal reaches the supervisor, and the supervisor stops its children.
        command = [*settings.command, str(fd), str(self.board.fd), str(slots)]
        return subprocess.Popen(command, pass_fds=(fd, self.board.fd), process_group=0, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_staying(self) -> bool:
        """True while it is to go on working."""
        return self.code is None and not self.why

    @property
    def has_place(self) -> bool:
        """True while it is one of those that there should be: no successor in waiting, and not on its way out."""
        return self.is_staying and not self.is_standby

    def figures(self) -> Figures:
        """How it is, by its own account."""
        return self.board.read()

    def tell(self, message: Message) -> None:
        """Say something to it."""
        self._channel.tell(message)

    def take_place(self) -> None:
        """It claims from now on."""
        self.is_standby, self.placed_s = False, elapsed_s()
        self.tell({"turn": True})

    def retire(self, why: str) -> None:
        """It is not needed any more: it claims nothing, and its jobs take the time that they take."""
        self.why = self.why or why
        if self.is_ready:
            self.tell({"retire": why})
        else:
            self.stop(1, why)

    def serves(self, queues: Iterable[str]) -> None:
        """It has leases in these queues, or will have."""
        self.added |= set(queues) - self.queues
        if self.app is not None:
            self.app.serve(sorted(self.added))

    def stop(self, times: int, why: str) -> None:
        """Ask it to stop: once lets running jobs end, twice gives them back as well. No more often than that in all."""
        self.why = self.why or why
        while self.stops < times and self.code is None:
            self.stops += 1
            self.stopped_s = elapsed_s()
            if self.is_ready:
                self.tell({"stop": self.stops})  # a signal would interrupt the call that a job's function is in
            else:
                self._signal(signal.SIGTERM)

    def kill(self, why: str) -> None:
        """End it at once, with all that its jobs have started in its group."""
        self.why, self.killed = self.why or why, self.killed or why
        if self.code is None:
            self._kill_group()

    def ended(self, status: int) -> None:
        """`waitpid` says that it is no more."""
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if self.code != 0:
            self._kill_group()  # what the jobs of a crashed process had started: nobody else ends it

    async def last_words(self) -> None:
        """Hear what it had said before it ended."""
        with suppress(TimeoutError):
            # Its children may hold the other end open: then there is no end to wait for.
            await asyncio.wait_for(self._reading, 0.5)

    def close(self) -> None:
        """Let go of what belonged to it."""
        self._reading.cancel()
        self._channel.close()
        self.board.close()

    def _heard(self, message: Message) -> None:
        if (worker := message.get("worker")) is not None and worker not in self.workers:
            self.workers.append(worker)
            self.added, self.queues = self.added | self.queues, set()  # it registers anew, one after the other
        if message.get("ready"):
            self.is_ready, self.placed_s = True, elapsed_s()
        self.is_spent = self.is_spent or message.get("spent", False)
        self._hear(self, message)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def describe(child: Child) -> dict[str, Any]:
    """A process's fields for a log line."""
    about: dict[str, Any] = {"pid": child.pid}
    if child.workers:
        about["worker"] = child.workers[-1]
    return about
