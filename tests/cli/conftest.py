"""What the command line's tests share: a project with an app, commands in this process, and real worker processes."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from rqueue import RQueue
from rqueue.cli.program import program

DEADLINE_S = 30.0
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
    for name in [name for name in os.environ if name.startswith("RQUEUE_") and name != "RQUEUE_SERVER"]:
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


class Process:
    """An rqueue process, and the lines that it has written on stderr."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rqueue", *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._is_over = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, *parts: str, after: int = 0) -> str:
        """Wait for a line that contains all parts."""
        return self._find(lambda line: all(part in line for part in parts), f"{parts}", after)

    def event(self, text: str, **fields: Any) -> dict[str, Any]:
        """Wait for a JSON log line of that event with these fields."""

        def matches(line: str) -> bool:
            with suppress(ValueError):
                logged = json.loads(line)
                return logged["event"] == text and fields.items() <= logged.items()
            return False

        found: dict[str, Any] = json.loads(self._find(matches, f"{text} {fields}", 0))
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

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _find(self, matches: Callable[[str], bool], what: str, after: int) -> str:
        def found() -> str | None:
            return next((line for line in self.lines[after:] if matches(line)), None)

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
    started: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        started.append(Process(*arguments, cwd=directory, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def start_worker(start: Callable[..., Process]) -> Callable[..., Process]:
    """Start a worker that logs everything as JSON."""

    def begin(*arguments: str, **environment: str) -> Process:
        return start("worker", "--log-format", "json", "--loglevel", "debug", *arguments, **environment)

    return begin
