"""What the command line's tests share: a project with an app, commands in this process, and real worker processes."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from rqueue import RQueue
from rqueue.cli.program import program
from rqueue.client.admin import Admin

DEADLINE_S = 30.0
_STOP_S = 3.0
ROOT = Path(__file__).resolve().parents[2]

TASKS = '''
import asyncio
from pathlib import Path
from rqueue import Queue, RQueue

app = RQueue(queues=["default", Queue("email", priority=8)], routes={"*.send": "email"})

@app.task
async def add(a: int, b: int) -> int:
    return a + b

@app.task
async def send(to: str) -> str:
    return to

@app.task(max_retries=0)
async def fail(text: str) -> None:
    raise ValueError(text)

@app.task
async def hang() -> None:
    await asyncio.Event().wait()

@app.task
def hold(fifo: str) -> str:
    """End when somebody writes into the pipe."""
    return Path(fifo).read_text()
'''

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine decides, and messages are not wrapped."""
    ours = ("RQUEUE_", "CELERY_")
    for name in [name for name in os.environ if name.startswith(ours) and name != "RQUEUE_SERVER"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported from it is forgotten."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file that changes within a second is read again
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def project(directory: Path) -> Path:
    """A working directory with an app in tasks.py."""
    (directory / "tasks.py").write_text(TASKS)
    return directory


@pytest.fixture
def command() -> Command:
    """Run a command in this process."""

    def invoke(*arguments: str, **more: Any) -> Result:
        return CliRunner().invoke(program, [*arguments], **more)

    return invoke


@pytest.fixture
def on_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty Redis, named by RQUEUE_URL."""
    monkeypatch.setenv("RQUEUE_URL", redis_url)
    return redis_url


@pytest.fixture
def store(redis_url: str) -> Iterator["redis.Redis[Any]"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def with_app(redis_url: str) -> Callable[[Callable[[RQueue], Awaitable[Any]]], Any]:
    """Run something with an opened app at the Redis."""

    def run(function: Callable[[RQueue], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with RQueue(redis_url) as app:
                return await function(app)

        return asyncio.run(main())

    return run


def processes() -> dict[int, tuple[str, int]]:
    """All processes of the machine by their ids, each with its state and its parent."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,state=,ppid="], capture_output=True, text=True, check=True)
        lines = map(str.split, listed.stdout.splitlines())
        return {int(pid): (state, int(parent)) for pid, state, parent in lines}
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone meanwhile
            state, parent = status.read_text().rpartition(") ")[2].split()[:2]
            found[int(status.parent.name)] = state, int(parent)
    return found


def is_alive(pid: int) -> bool:
    """True until it has ended; one that has ended and that nobody has waited for yet is not alive."""
    state, _ = processes().get(pid, ("Z", 0))
    return not state.startswith("Z")


def family(pid: int) -> list[int]:
    """The process and all that it and its children have started."""
    everyone, found = processes(), [pid]
    for each in found:
        found += [child for child, (_, parent) in everyone.items() if parent == each]
    return found


class Process:
    """An rqueue process, and the lines that it and its children have written on stderr."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        module: str = "rqueue",
        program: str | None = None,
        pass_fds: Sequence[int] = (),
        **environment: str,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *(["-m", module] if program is None else [program]), *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._is_over = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, *parts: str) -> str:
        """Wait for a line that contains all parts."""
        return self._find(lambda line: all(part in line for part in parts), f"{parts}")

    def event(self, text: str, *, skip: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for a JSON log line of that event with these fields, the first one after so many."""

        def matches(line: str) -> bool:
            with suppress(ValueError):
                logged = json.loads(line)
                return logged["event"] == text and fields.items() <= logged.items()
            return False

        found: dict[str, Any] = json.loads(self._find(matches, f"{text} {fields}", skip))
        return found

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; its exit code."""
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def stdout(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def workers(self) -> list[int]:
        """The worker processes that a supervisor has told of, ended ones too."""
        started = [line for line in self.lines if "process started" in line]
        return [int(found[1]) for line in started if (found := re.search(r'\bpid"?[=:](\d+)', line))]

    def close(self) -> None:
        """End it with all its children, which are in process groups of their own."""
        if self._process.poll() is None:
            everyone = family(self.pid)
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                for pid in everyone:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(DEADLINE_S)  # children have its stderr: it ends with the last of them
        assert not self._reader.is_alive(), f"{self._process.args} has left processes behind"
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _find(self, matches: Callable[[str], bool], what: str, skip: int = 0) -> str:
        def found() -> str | None:
            return next(islice(filter(matches, self.lines), skip, None), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._is_over, DEADLINE_S)
        line = found()
        assert line is not None, f"no line {what} in:\n" + "\n".join(self.lines)
        return line

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Process]]:
    """Start rqueue processes in the working directory; all are ended after the test."""
    with ExitStack() as running:

        def begin(*arguments: str, program: str | None = None, **environment: str) -> Process:
            process = Process(*arguments, cwd=directory, program=program, **environment)
            running.callback(process.close)
            return process

        yield begin


@pytest.fixture
def start_worker(start: Callable[..., Process]) -> Callable[..., Process]:
    """Start a worker that logs everything as JSON."""

    def begin(*arguments: str, **environment: str) -> Process:
        return start("worker", "--log-format", "json", "--loglevel", "debug", *arguments, **environment)

    return begin


class Working:
    """A worker in a thread of this process, with an event loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options
        self._ready, self._errors = threading.Event(), []
        self._thread = threading.Thread(target=self._run, name="test worker")
        self._thread.start()
        self._ready.wait()
        if self._errors:
            raise self._errors[0]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something in the worker's loop, and wait for it."""

        async def run() -> Any:
            answer = function(*arguments)
            return await answer if isinstance(answer, Awaitable) else answer

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def close(self) -> None:
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(lambda: [self.worker.stop() for _ in range(2)])
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the test's thread
            self._errors.append(exc)
        finally:
            self._ready.set()

    async def _work(self) -> None:
        self.app, self._loop = RQueue(self._url), asyncio.get_running_loop()

        @self.app.task(name="shop.hang")
        async def hang(who: str = "") -> None:
            await asyncio.Event().wait()

        async with self.app, self.app.worker(**{"shutdown_timeout": 0, **self._options}) as self.worker:
            await self.worker._control.listening.wait()
            admin, name = Admin(self.app), self.worker.id
            while not any(each.id == name and each.beat_age_s is not None for each in await admin.workers()):
                await asyncio.sleep(0)  # until its heart has beaten for the first time
            self._ready.set()
            assert self.worker._main is not None
            await asyncio.wait([self.worker._main])


@pytest.fixture
def working(redis_url: str) -> Iterator[Callable[..., Working]]:
    """Start workers in threads of this process, which hear; all are ended after the test."""
    started: list[Working] = []

    def begin(**options: Any) -> Working:
        started.append(Working(redis_url, **options))
        return started[-1]

    yield begin
    for each in started:
        each.close()
