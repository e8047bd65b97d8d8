"""``rqueue demo``: real worker processes, one of them killed half-way, and nothing lost."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.demo_fleet import CONCURRENCY, PROCESSES, Fleet
from rqueue.cli.demo_oracle import Oracle
from rqueue.cli.demo_progress import DemoProgress
from rqueue.cli.demo_report import COLUMNS, Kill, Report, Sent
from rqueue.cli.demo_tasks import QUEUES, make_app, wait_in_coroutine, wait_in_thread
from rqueue.cli.exits import Code
from rqueue.cli.output import console, run, show_json, show_table
from rqueue.cli.trial import Url, start_server, terminated_like_interrupted
from rqueue.client.admin import Admin
from rqueue.client.registry import default_name
from rqueue.errors import ConfigError, RQueueError

WORK_S: Final = 3.0
"""What the workers would need for all jobs without the kill, however many there are: long enough to be killed in."""

_POLL_S: Final = 0.02
_START_S: Final = 30.0
_STALL_S: Final = 40.0
"""Nothing has ended for so long: what is missing is lost. Longer than a reaper takes, if the supervisor does not."""

_AT_ONCE: Final = 200

Jobs = Annotated[int, typer.Option("--jobs", envvar="RQUEUE_JOBS", min=20, max=100_000, help="How many jobs.")]


class DemoFailed(RQueueError):
    """The demo could not be done."""


def demo(jobs: Jobs = 2000, url: Url = None, json: options.Json = False) -> None:
    """Run jobs on real worker processes, kill one half-way with SIGKILL, and show that nothing is lost.

    It exits with 1 when a job is lost. On a Redis given by --url its keys begin with rqueue-demo.
    """
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rqueue-demo-")))
        url, server = (url, "") if url is not None else start_server(stack)
        app = make_app(url)
        if app.endpoint.is_memory:
            raise ConfigError("memory:// is in one process only; the demo's workers are processes of their own")
        fleet = stack.enter_context(Fleet(url, directory, directory / "oracle"))
        progress = stack.enter_context(DemoProgress(console(stderr=True), jobs))
        scene = Scene(app, fleet, Oracle(directory / "oracle"), progress, jobs)
        report = run(app, lambda: scene.play(server or app.endpoint.shown))
    if json:
        show_json(report.document())
    else:
        _show(report)
    if not report.has_passed:
        raise typer.Exit(Code.FAILED)


@dataclass(slots=True)
class Scene:
    """The demo on a server that runs.

    Attributes:
        app: the app.
        fleet: its worker processes.
        oracle: what its jobs noted.
        progress: where to show what happens.
        jobs: how many jobs to enqueue.
    """

    app: RQueue
    fleet: Fleet
    oracle: Oracle
    progress: DemoProgress
    jobs: int

    async def play(self, server: str) -> Report:
        """Play it, and tell how it went.

        Raises:
            DemoFailed: it could not be done; a lost job is no error, but the report's to tell.
        """
        await self.app.open()
        await self._clear()
        self.progress.say(f"server: {server}")
        await self._until_working()
        try:
            sent = await self._enqueue()
            kill = await self._watch(sent)
            await self._until_quiet()
            await self._until_working()  # with another process in the killed one's place
        finally:
            await self._purge()
        self.oracle.read()
        return Report.of(server, sent, self.oracle, kill)

    async def _clear(self) -> None:
        """Throw away what a demo before this one has left."""
        if any(worker.lease_s > 0 for worker in await Admin(self.app).workers()):
            raise DemoFailed("another demo runs on this Redis, or one was killed within the last seconds: try again")
        await self._purge()

    async def _purge(self) -> None:
        for queue in QUEUES:
            await Admin(self.app).purge(queue.name)

    async def _until_working(self) -> None:
        """Wait until as many processes work as there should be."""
        deadline = time.monotonic() + _START_S
        pids: list[int] = []
        while len(pids) < PROCESSES:
            await asyncio.sleep(_POLL_S)
            self.fleet.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{len(pids)} of {PROCESSES} worker processes were there after {_START_S:g} s")
            registered = [worker.pid for worker in await Admin(self.app).workers()]
            pids = [pid for pid in registered if pid is not None and not self.fleet.is_gone(pid)]
        self.progress.say(f"{PROCESSES} worker processes: {', '.join(map(str, pids))}")

    async def _enqueue(self) -> list[Sent]:
        """Enqueue all jobs in turn over the queues, coroutines and plain functions."""
        kinds = [self.app.tasks.find(default_name(function)) for function in (wait_in_coroutine, wait_in_thread)]
        average_s = WORK_S * min(PROCESSES * CONCURRENCY, self.jobs) / self.jobs
        sent: list[Sent] = []
        for first in range(0, self.jobs, _AT_ONCE):
            calls = []
            for number in range(first, min(first + _AT_ONCE, self.jobs)):
                queue, task = QUEUES[number % len(QUEUES)].name, kinds[number // len(QUEUES) % len(kinds)]
                assert task is not None
                # From half the average to one and a half, in an order that mixes them.
                calls.append(task.options(queue=queue).s(average_s * (0.5 + number * 7 % 11 / 10)))
            moment = time.time()
            enqueued = await self.app.enqueue_many(calls)
            sent += [Sent(job.id, str(job.queue), moment) for job in enqueued]
        self.progress.say(f"{len(sent)} jobs enqueued over {len(QUEUES)} queues")
        return sent

    async def _watch(self, sent: list[Sent]) -> Kill:
        """Follow the jobs to their end, and kill a process half-way."""
        kill: Kill | None = None
        done, moved_s = 0, time.monotonic()
        while done < len(sent) and time.monotonic() - moved_s < _STALL_S:
            await asyncio.sleep(_POLL_S)
            self.fleet.check()
            self.oracle.read()
            before, done = done, len(self.oracle.ended)
            if done > before:
                moved_s = time.monotonic()
                self.progress.done(done)
            if kill is None and 2 * done >= len(sent) and (kill := await self._try_to_kill()) is not None:
                self.progress.say(f"process {kill.pid} killed with SIGKILL while it ran {len(kill.running)} jobs")
        if kill is None:
            raise DemoFailed("all jobs were done before a process could be killed: try more --jobs")
        return kill

    async def _try_to_kill(self) -> Kill | None:
        """Kill the busiest process; None when nothing ran there, so that nothing was shown."""
        pid = self.oracle.busiest()
        if pid is None:
            return None
        moment = time.time()
        self.fleet.kill(pid)
        while not self.fleet.is_gone(pid):  # until then it may write one more line
            self.fleet.check()
            await asyncio.sleep(_POLL_S)
        self.oracle.read()
        running = self.oracle.running(pid)
        return Kill(pid, moment, tuple(running)) if running else None

    async def _until_quiet(self) -> None:
        """Wait until Redis holds no job any more: one whose end was noted and not acknowledged runs again."""
        deadline = time.monotonic() + _STALL_S
        while time.monotonic() < deadline:
            status = await Admin(self.app).queues()
            if not any(queue.waiting_total + queue.running + queue.scheduled for queue in status):
                return
            await asyncio.sleep(_POLL_S)


def _show(report: Report) -> None:
    show_table("jobs by queue; p50 and p99 of the time from enqueue to end", COLUMNS, report.cells())
    typer.echo(f"server: {report.server}")
    typer.echo(f"throughput: {report.jobs_per_s:,.0f} jobs/s over {report.seconds:.1f} s, the recovery included")
    back = "not all of them came back" if report.recovered_s is None else f"done again {report.recovered_s:.1f} s later"
    typer.echo(f"killed: process {report.killed_pid} while it ran {report.killed_running} jobs; {back}")
    total = report.total
    typer.echo(f"done {total.done}, redelivered {total.redelivered}, lost {total.lost}")
