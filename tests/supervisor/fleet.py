"""A supervisor with its worker processes, as `rqueue worker` starts them, and what tells what they do.

Nothing here waits for a guessed time: the supervisor's log says what happens (`event`), an oracle outside Redis says
what ran where (`runs`), Redis says what is stored.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis

from rqueue import Queue, RQueue
from rqueue.wire.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
APP = Path(__file__).with_name("jobs.py")
PATIENCE_S = 30.0


class Run(NamedTuple):
    """One line of the oracle."""

    what: str
    id: str
    pid: int


class Supervised:
    """One `rqueue worker`.

    Args:
        arguments: its options.
        url, directory: its Redis, and where it runs: jobs.py and the oracle are there.
        before: a command that runs it, as `unshare`.
        stderr: where its log goes in place of a pipe; then there are no events.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        url: str,
        directory: Path,
        before: Sequence[str] = (),
        stderr: int | None = None,
        **more: Any,
    ) -> None:
        command = [*before, sys.executable, "-m", "rqueue", "worker", "--url", url, "--log-format", "json", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RQUEUE_")}
        environment.pop("PYTHONUNBUFFERED", None)  # as most machines are: what cannot be written stays in a buffer
        environment |= {"PYTHONPATH": str(ROOT), "ORACLE": str(directory / "oracle"), "RQUEUE_APP": "jobs:app"}
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=more.pop("stdout", subprocess.DEVNULL),
            stderr=subprocess.PIPE if stderr is None else stderr,
            start_new_session=True,
            **more,
        )
        self.pid = self.process.pid
        self.lines: list[dict[str, Any]] = []
        self.plain: list[str] = []
        self._news = asyncio.Event()
        self._is_over = False
        self._reading = asyncio.create_task(self._read()) if stderr is None else None

    async def _read(self) -> None:
        assert self.process.stderr is not None
        reader = asyncio.StreamReader(limit=2**24)
        loop = asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self.process.stderr)
        try:
            while line := await reader.readline():
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.plain.append(line.decode(errors="replace"))
                self._news.set()
        finally:
            pipe.close()
        self._is_over = True
        self._news.set()

    def of(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """What was logged as that event with these fields, so far."""
        return [each for each in self.lines if each["event"] == event and fields.items() <= each.items()]

    async def event(self, event: str, times: int = 1, **fields: Any) -> dict[str, Any]:
        """Return when it was logged so often; the last one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while len(self.of(event, **fields)) < times and not self._is_over:
                    self._news.clear()
                    await self._news.wait()
        found = self.of(event, **fields)
        assert len(found) >= times, f"no {event!r} {fields} {times} times in:\n{self.log()}"
        return found[times - 1]

    async def ready(self, times: int = 1) -> None:
        """Return when so many workers have started."""
        await self.event("worker started", times)

    @property
    def pids(self) -> list[int]:
        """The processes that were started and have not ended."""
        gone = {each["pid"] for name in ("process ended", "process died") for each in self.of(name)}
        return [each["pid"] for each in self.of("process started") if each["pid"] not in gone]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self) -> int:
        """Its exit code, when it has ended and everything that it wrote was read."""
        code = await asyncio.to_thread(self.process.wait, PATIENCE_S)
        if self._reading is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reading, 5)
        return code

    async def stop(self) -> None:
        """SIGTERM, and it ends as it should."""
        self.signal(signal.SIGTERM)
        code = await self.end()
        assert code == 0, self.log()

    def log(self) -> str:
        return "\n".join([*map(str, self.lines), *self.plain])

    def close(self) -> None:
        """End what is left of it, by process id."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        if self._reading is not None:
            self._reading.cancel()


class Scene:
    """One test's supervisors, producer and oracle."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory = url, directory
        (directory / "jobs.py").write_text(APP.read_text())
        self._oracle = directory / "oracle"
        self._oracle.touch()
        self.started: list[Supervised] = []
        self.app = RQueue(url, queues=[Queue("default"), Queue("other")])
        self.redis = redis.Redis.from_url(url)
        self.keys = Keys().queue("default")

    def start(self, *arguments: str, **more: Any) -> Supervised:
        """Start `rqueue worker` with these options; its lease is long, so that nothing comes back by waiting."""
        lease = () if "--lease" in arguments else ("--lease", "300")
        supervised = Supervised([*lease, *arguments], self.url, self.directory, **more)
        self.started.append(supervised)
        return supervised

    async def enqueue(self, task: str, *arguments: Any, **options: Any) -> Any:
        """Enqueue a job by its task's name; its handle."""
        return (await self.enqueue_many(1, task, *arguments, **options))[0]

    async def enqueue_many(self, count: int, task: str, *arguments: Any, **options: Any) -> list[Any]:
        known = self.app.tasks.find(task) or self.app.task(name=task)(_anything)
        return await self.app.enqueue_many([known.options(**options).s(*arguments) for _ in range(count)])

    def control(self, verb: str, to: Sequence[str] | None = None, **arguments: Any) -> None:
        """Ask workers for something on the control channel, whatever it is; nobody waits for the answers."""
        request = {"v": 1, "id": os.urandom(8).hex(), "verb": verb, "args": arguments, "to": to}
        self.redis.publish("rqueue:control", json.dumps(request))

    def runs(self) -> list[Run]:
        """What the oracle says, in order."""
        lines = [line.split() for line in self._oracle.read_text().splitlines()]
        return [Run(what, job_id, int(pid)) for what, job_id, pid in lines]

    def starts(self) -> dict[str, list[int]]:
        """The processes that started each job, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        for run in self.runs():
            if run.what == "start":
                found[run.id].append(run.pid)
        return found

    async def started_in(self, job: Any, times: int = 1) -> int:
        """The process in which the job started, once it has so often."""
        await self.until(lambda: len(self.starts()[job.id]) >= times)
        return self.starts()[job.id][times - 1]

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Return when something holds that sends no events."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = holds()
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)

    def registered(self) -> set[int]:
        """The processes that have a lease."""
        return {int(name.split(b":")[1]) for name in self.redis.zrange(self.keys.workers, 0, -1)}

    def leaks(self) -> set[str]:
        """Keys that stay for ever and should not."""
        allowed = {b"rqueue:queues", self.keys.dead, self.keys.letters}
        return {
            name.decode()
            for name in self.redis.scan_iter(count=1000)
            if name not in allowed and self.redis.ttl(name) == -1
        }

    async def close(self) -> None:
        for each in self.started:
            each.close()
            print(f"--- {each.pid}\n{each.log()[-20_000:]}")  # noqa: T201 - shown when a test fails
        await self.app.close()
        self.redis.close()


def is_alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


def _anything(*args: Any) -> None:
    """The task is known by name only: it runs in other processes."""
