"""Real worker processes, and what tells where they are: events from pipes, and a log that tasks write outside Redis.

Nothing here waits for a guessed time. A process says where it is (`Member.at`); the log says what ran (`Fleet.runs`);
Redis says what is stored.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from rqueue import RQueue
from rqueue.wire.keys import Keys, QueueKeys

from .jobs import QUEUES, make_app

RUNNER = Path(__file__).with_name("runner.py")
LEASE_S = 1.0  # a killed worker's jobs are back within about two seconds


class Run(NamedTuple):
    """One line of the oracle."""

    what: str
    id: str
    pid: int
    at: float


class Member:
    """One worker process."""

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        self._reports, reports = os.pipe()
        control, self._control = os.pipe()
        settings = {**settings, "reports": reports, "control": control}
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, RUNNER, json.dumps(settings)],
                pass_fds=(reports, control),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        os.close(reports)
        os.close(control)
        self.pid = self.process.pid
        self._loop = asyncio.get_running_loop()
        self._reached: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._is_closed = False
        self._rest = b""
        self._loop.add_reader(self._reports, self._read)

    async def at(self, point: str, timeout_s: float = 20.0) -> None:
        """Return when the process has reported that point."""
        async with asyncio.timeout(timeout_s):
            while not self._reached[point]:
                if self._is_closed:
                    raise AssertionError(f"the worker ended before {point!r}:\n{self.log()}")
                self._news.clear()
                await self._news.wait()
        self._reached[point] -= 1

    def let_go(self) -> None:
        """Let it go on from the point where it halts."""
        os.write(self._control, b".")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; return when the process is no more."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def freeze(self) -> None:
        """SIGSTOP; return when every thread stands still."""
        self.send(signal.SIGSTOP)
        while not self._stands_still():
            await asyncio.sleep(0.001)

    def _stands_still(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(") ")[2][0] == "T" for thread in threads)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def stop(self, timeout_s: float = 20.0) -> None:
        """SIGTERM; return when it has ended, as it should."""
        self.send(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        assert code == 0, f"the worker ended with {code}:\n{self.log()}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._reports)
        if self.alive:
            self.process.kill()
        self.process.wait()
        for end in (self._reports, self._control):
            os.close(end)

    def _read(self) -> None:
        data = os.read(self._reports, 65_536)
        if not data:
            self._is_closed = True
            self._loop.remove_reader(self._reports)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._reached.update(line.decode() for line in lines)
        self._news.set()


class Fleet:
    """The worker processes of one test, their producer and their oracle."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.members: list[Member] = []
        self._directory = directory
        self.oracle = directory / "oracle"
        self.oracle.touch()
        self.app: RQueue = make_app(url)
        self.redis = redis.Redis.from_url(url)
        self.keys: QueueKeys = Keys().queue("default")

    def start(
        self,
        halts: dict[str, int] | Sequence[str] = (),
        *,
        url: str | None = None,
        queues: Sequence[str] = ("default",),
        uvloop: bool = False,
        loglevel: str = "INFO",
        **options: Any,
    ) -> Member:
        """Start a worker process; it halts at the first (or given) time that it reaches one of the points."""
        settings = {
            "url": url or self.url,
            "oracle": str(self.oracle),
            "queues": list(queues),
            "uvloop": uvloop,
            "loglevel": loglevel,
            "halts": halts if isinstance(halts, dict) else dict.fromkeys(halts, 1),
            "options": {"lease": LEASE_S, "concurrency": 10, **options},
        }
        member = Member(settings, self._directory / f"worker-{len(self.members)}.log")
        self.members.append(member)
        return member

    async def ready(self, halts: dict[str, int] | Sequence[str] = (), **options: Any) -> Member:
        """Start a worker process and return when it works."""
        member = self.start(halts, **options)
        await member.at("ready")
        return member

    async def enqueue(self, count: int, task: str = "double", *args: Any, first: int = 0) -> dict[str, int]:
        """Enqueue jobs; the value that each must give, by id."""
        signatures = [self.task(task).s(number, *args) for number in range(first, first + count)]
        handles = await self.app.enqueue_many(signatures)
        return {job.id: 2 * (first + index) for index, job in enumerate(handles)}

    def task(self, name: str) -> Any:
        task = self.app.tasks.find(name)
        assert task is not None
        return task

    async def results(self, ids: Iterable[str], timeout_s: float = 25.0) -> dict[str, Any]:
        """The values of all jobs, once all have ended."""
        ids = list(ids)
        values = await asyncio.gather(*(self.app.job(job_id, "default").result(timeout_s) for job_id in ids))
        return dict(zip(ids, values, strict=True))

    async def losses(self, ids: Iterable[str]) -> dict[str, int]:
        """How many workers each job has cost."""
        return {job_id: (await self.app.job(job_id, "default").info()).losses for job_id in ids}

    def runs(self) -> list[Run]:
        """What the oracle says, in order."""
        lines = [line.split() for line in self.oracle.read_text().splitlines()]
        return sorted(
            (Run(what, job_id, int(pid), float(at)) for what, job_id, pid, at in lines), key=lambda run: run.at
        )

    def starts(self) -> dict[str, list[int]]:
        """The processes that started each job, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        for run in self.runs():
            if run.what == "start":
                found[run.id].append(run.pid)
        return found

    def held(self, member: Member, queue: str = "default") -> list[bytes]:
        """What stands in the processing lists of a process, also of its earlier ids."""
        found: list[bytes] = []
        for name in self.redis.scan_iter(f"rqueue:{{{queue}}}:processing:*:{member.pid}:*", count=1000, _type="list"):
            found += self.redis.lrange(name, 0, -1)
        return [raw for raw in found if raw]

    def held_ids(self, member: Member) -> set[str]:
        return {raw.split(b" ", 6)[5].decode() for raw in self.held(member)}

    async def until(self, holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
        """Return when something holds in Redis or in the oracle, which send no events."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop whoever is alive with SIGTERM, once whoever was killed has been reaped."""
        alive = {member.pid for member in self.members if member.alive}
        if alive:
            await self.until(lambda: self.registered() <= alive)
        await asyncio.gather(*(member.stop() for member in self.members if member.alive))

    def blocked(self) -> int:
        """How many connections wait at the server in this database."""
        database = str(self.redis.get_connection_kwargs()["db"])
        return sum(
            client["cmd"] == "brpoplpush" and "b" in client["flags"] and client["db"] == database
            for client in self.redis.client_list()
        )

    def registered(self) -> set[int]:
        """The processes that have a lease, in any queue."""
        names = [name for queue in QUEUES for name in self.redis.zrange(f"rqueue:{{{queue.name}}}:workers", 0, -1)]
        return {int(name.split(b":")[1]) for name in names}

    def leaks(self) -> dict[str, str]:
        """Keys that stay for ever and should not: everything but the queues' names and the dead letters."""
        allowed = {b"rqueue:queues", self.keys.dead, self.keys.letters}
        return {
            name.decode(): self.redis.type(name).decode()
            for name in self.redis.scan_iter(count=1000)
            if name not in allowed and self.redis.ttl(name) == -1
        }

    def dead(self) -> dict[str, bytes]:
        """The dead letters by id."""
        return {name.decode(): letter for name, letter in self.redis.hgetall(self.keys.letters).items()}

    async def close(self) -> None:
        for member in self.members:
            member.close()
        for number, member in enumerate(self.members):
            print(f"--- worker {number}, pid {member.pid}\n{member.log()[-20_000:]}")  # noqa: T201 - shown when a test fails
        await self.app.close()
        self.redis.close()
