"""One run's processes: a Redis of its own, the producer, the workers; nothing of them is left afterwards."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.contender import Contender, Setup
from benchmarks.environments import ROOT, python_of
from benchmarks.measure import Records, send, tree
from rqueue.embedded import EmbeddedServer

START_S = 40.0
ASK_S = 60.0
FIRST_POLL_S, POLL_S = 0.005, 0.02
LOG_TAIL = 2000


class RunFailed(Exception):
    """A contender did not do what it was asked to; the message ends with its log."""


class Stage:
    """Server, producer and workers of one run."""

    def __init__(self, contender: Contender, setup: Setup, options: Mapping[str, str] | None = None) -> None:
        self.contender, self.setup = contender, setup
        self._options = options
        self._stack = ExitStack()
        self._roots: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rqueue-bench-")))
            self.server = self._stack.enter_context(EmbeddedServer(options=self._options))
            self.setup = replace(self.setup, url=self.server.url)
            self.redis = redis.Redis.from_url(self.server.url)
            self._stack.callback(self.redis.close)
            self.records = Records(self._directory / "records")
            self._log = self._stack.enter_context((self._directory / "log").open("ab"))
            self._stack.callback(self._kill)
            self._producer = self._start([*self._python, "-m", "benchmarks.producer", self.contender.name], pipe=True)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _python(self) -> list[str]:
        return [str(python_of(self.contender.environment))]

    @property
    def workers(self) -> list[int]:
        """The processes of all workers."""
        return tree(each.pid for each in self._roots)

    def ask(self, do: str, *, patience_s: float = ASK_S, **request: Any) -> dict[str, Any]:
        """Have the producer do something."""
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._producer.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._producer.stdin.flush()
        if not select.select([self._producer.stdout], [], [], patience_s)[0]:
            raise self.failed(f"no answer to {do} in {patience_s:.0f} s")
        answer = self._producer.stdout.readline()
        if not answer:
            raise self.failed(f"the producer ended at {do}")
        return dict(json.loads(answer))

    def dismiss_producer(self) -> None:
        """End the producer, so that only workers talk to Redis."""
        assert self._producer.stdin is not None
        self._producer.stdin.close()
        self._producer.wait(START_S)

    def start_worker(self, url: str | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker, and return its first process; its Redis may be seen through another address."""
        setup = replace(self.setup, url=url or self.setup.url)
        self._roots.append(self._start([*self._python, *self.contender.command(setup)], setup=setup))
        return self._roots[-1]

    def start_ready(self, workers: int) -> None:
        """Start workers and give them jobs until each of them has run one."""
        for _ in range(workers):
            self.start_worker()
        deadline = time.monotonic() + START_S
        while not self._all_have_run():
            if time.monotonic() > deadline:
                raise self.failed("not every worker took a job")
            self.ask("fill", task="noop", count=1)
            time.sleep(POLL_S)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing more begins."""
        seen = -1
        while seen != (seen := self.records.count()):
            time.sleep(5 * POLL_S)

    def wait(self, holds: Callable[[], bool], seconds: float, poll_s: float = POLL_S) -> bool:
        """Whether it came to hold in time; nobody tells, so it is looked at."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            if any(each.poll() is not None for each in self._roots):
                raise self.failed("a worker ended")
            time.sleep(poll_s)
        return True

    def freeze(self) -> None:
        """Stop all workers where they are."""
        send(self.workers, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        send(self.workers, signal.SIGCONT)

    def failed(self, what: str) -> RunFailed:
        """An error with the end of the log."""
        log = (self._directory / "log").read_text(errors="replace")[-LOG_TAIL:]
        return RunFailed(f"{self.contender.name}, {self.setup.workload}: {what}\n{log}")

    def _all_have_run(self) -> bool:
        ran = {run.pid for run in self.records.read()}
        return all(ran & set(tree([each.pid])) for each in self._roots)

    def _start(self, command: list[str], *, setup: Setup | None = None, pipe: bool = False) -> subprocess.Popen[bytes]:
        setup = setup or self.setup
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RQUEUE_", "BENCH_"))}
        variables = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "BENCH_URL": setup.url,
            "BENCH_CONCURRENCY": str(setup.concurrency),
            "BENCH_RECORD": str(self.records.path),
            "BENCH_HOLD_S": str(setup.hold_s),
            **({"BENCH_RESULTS": setup.results} if setup.results else {}),
            **self.contender.variables(setup),
        }
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _kill(self) -> None:
        # The server goes too, so there is nothing to put in order.
        started = [*self._roots, *([self._producer] if hasattr(self, "_producer") else [])]
        kill_whole(*started)
        for each in started:
            with suppress(BrokenPipeError), each:  # closes its pipes, and waits; a request may be unsent
                pass


def kill_whole(*roots: subprocess.Popen[bytes]) -> list[int]:
    """Kill processes with all that they have started; who they were."""
    pids = [each.pid for each in roots if each.poll() is None]
    living: list[int] = []
    while (found := tree(pids)) != living:  # all are stopped first: what runs may start another
        living = found
        send(living, signal.SIGSTOP)
    send(living, signal.SIGKILL)
    return living


def machine() -> dict[str, str]:
    """What the figures depend on."""

    def first(path: str, name: str) -> str:
        lines = Path(path).read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "?")

    return {
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load": Path("/proc/loadavg").read_text().split()[0],
        "python": sys.version.split()[0],
    }
