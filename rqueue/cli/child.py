"""A worker process that a supervisor has started: ``python -m rqueue.cli.child <socket> <board> <slots>``.

It hears its settings from the supervisor, says who it is before it registers in Redis, and when the supervisor is gone
it ends as at a SIGTERM.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
from typing import Any, Final

from rqueue.app import RQueue
from rqueue.cli.exits import Code, code_of
from rqueue.cli.process import WorkerProcess, load
from rqueue.errors import ConfigError, RQueueError
from rqueue.log import event
from rqueue.supervisor.channel import Channel, Message
from rqueue.supervisor.custody import introduction
from rqueue.supervisor.settings import ProcessSettings
from rqueue.worker.board import Board, Figures, Noted
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.worker import Worker

_GONE: Final = "the supervisor is gone, and this process is about to follow"


class Supervised:
    """The supervisor, as the worker of this process sees it: a :class:`~rqueue.worker.parent.Parent`.

    Args:
        channel: to the supervisor.
        board: the page that it reads.
        keeps_lease: it renews the lease, while it lives.
        standby: wait for a turn.
    """

    replaces = True

    def __init__(self, channel: Channel, board: Board, *, keeps_lease: bool, standby: bool) -> None:
        self._channel, self._board = channel, board
        self.keeps_lease = keeps_lease
        self._turn = asyncio.Event()
        if not standby:
            self._turn.set()
        self._is_ready = self._is_gone = False
        self._notes: dict[ClaimedJob, int | None] = {}
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Message]] = {}

    async def watch(self, process: WorkerProcess) -> None:
        """Hear what the supervisor says, and end the process when it is gone."""
        self._process = process
        await self._channel.read(self._hear)
        self.keeps_lease, self._is_gone = False, True
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_result({"error": _GONE})
        self._answers.clear()
        event(logging.WARNING, "supervisor is gone", pid=os.getpid())
        process.stop(1)

    def _hear(self, message: Message) -> None:
        worker = self._process.worker
        if message.get("turn"):
            self._turn.set()
        if "retire" in message:
            self._process.retire()
        if "stop" in message:
            self._process.stop_to(message["stop"])
        if "lease" in message and worker is not None and worker.id == message["lease"]:  # a new worker has another id
            worker.lease_told(message["lease"], message["sent_s"], message["is_registered"])
        if "ended" in message and worker is not None:
            worker.told_of_end(message["ended"])
        if (waiting := self._answers.pop(message.get("answer", -1), None)) is not None and not waiting.done():
            waiting.set_result(message["value"])

    def registering(self, worker: str) -> None:
        self._channel.tell_now({"worker": worker})

    async def turn(self) -> None:
        await self._turn.wait()

    def spent(self) -> None:
        self._channel.tell_now({"spent": True})

    def serves(self, queue: str) -> None:
        self._channel.tell_now({"serves": queue})

    def report(self, figures: Figures, card: bytes) -> None:
        self._board.write(figures, card)
        if not self._is_ready:
            self._is_ready = True
            self._channel.tell_now({"ready": True})

    def began(self, job: ClaimedJob) -> None:
        if job.deadline_s is not None:
            self._notes[job] = self._board.limit(Noted(job.deadline_s, job.keys.name, job.id))

    def ended(self, job: ClaimedJob) -> None:
        self._board.forget(self._notes.pop(job, None))

    def questioned(self, job: ClaimedJob, until_s: float) -> None:
        self._board.question(Noted(until_s, job.keys.name, job.id))

    async def ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._is_gone:
            raise ConfigError(_GONE)
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._channel.tell_now({"ask": number, "verb": verb, "arguments": arguments})
        value = await answer
        if "error" in value:
            raise ConfigError(value["error"])
        done: dict[str, Any] = value["ok"]
        return done


def main(arguments: list[str]) -> int:
    """Work as the supervisor says; the exit code."""
    end, board_fd, slots = (int(each) for each in arguments)
    for fd in (end, board_fd):
        os.set_inheritable(fd, False)  # what jobs start has no part in it
    channel, board = Channel(socket.socket(fileno=end)), Board(board_fd, slots)
    try:
        settings = ProcessSettings(**channel.read_now())
    except EOFError:
        return Code.FAILED  # the supervisor has ended meanwhile
    try:
        app, process = _prepare(settings, channel, board)
    except RQueueError as exc:
        print(f"rqueue: {exc}", file=sys.stderr)  # noqa: T201 - as the command itself would say it
        return code_of(exc)
    app.signals.worker_process_init.send(None)
    code = process.run()
    app.signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=code)
    return code


def _prepare(settings: ProcessSettings, channel: Channel, board: Board) -> tuple[RQueue, WorkerProcess]:
    """Load the app, and tell the supervisor what it needs to know of it.

    Raises:
        RQueueError: the app cannot be loaded, or an option is wrong.
    """
    app, config = load(settings)
    channel.tell_now({"app": introduction(app, config)})
    parent = Supervised(channel, board, keeps_lease=config.pool == "prefork", standby=settings.standby)
    return app, WorkerProcess(lambda: Worker(app, config, parent), app.endpoint.shown, config.pool, parent.watch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
