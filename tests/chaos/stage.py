"""Where one scenario plays: its directory, its server, its producers and workers, and what is done to them.

Producers and workers are real processes. All of them, and the server, are ended with the stage, by their process ids.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rqueue.embedded import EmbeddedServer
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import upgrade
from tests.postgres import Postgres

from .fault import Fault
from .oracle import Oracle, Run
from .producer import Load, settings_of
from .rows import Rows
from .store import Store
from .tasks import LOGS, RESULTS
from .verdict import Judge, Verdict

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.01
STOP_S = 60.0


class NoRest(AssertionError):
    """Something did not come to an end, or ended by itself."""


def environment(logs: Path, more: Mapping[str, str]) -> dict[str, str]:
    """What a process of the stage is started with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RQUEUE_", "CHAOS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), LOGS: str(logs), **more}


def descendants(pid: int) -> list[int]:
    """The processes below one, the nearest first."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for each in found:
        found += [child for child, parent in pairs if parent == each]
    return found[1:]


def end(pids: Collection[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Group:
    """One `rqueue worker`: a supervisor with its processes, which stands for a host.

    Args:
        arguments: its options.
        more: variables of its environment.
    """

    def __init__(self, stage: "Stage", name: str, arguments: Collection[str], more: Mapping[str, str]) -> None:
        self.name, self._oracle = name, stage.oracle
        command = [sys.executable, "-m", "rqueue", "worker", "-A", "tests.chaos.served:app", *arguments]
        self.log = stage.directory / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=stage.directory,
                env=environment(stage.logs, {"RQUEUE_URL": stage.url, **stage.results, **more}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.is_over = False

    @property
    def pids(self) -> list[int]:
        """Its worker processes that have loaded the app and live."""
        self._oracle.read()
        return [pid for pid, parent in self._oracle.parents.items() if parent == self.pid and self.has(pid)]

    def has(self, pid: int) -> bool:
        """True while this is a living process of the stage, and not a stranger who was given a dead one's number."""
        return is_alive(pid, str(self._oracle.directory))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def hold(self) -> list[int]:
        """SIGSTOP to the supervisor and to all its processes: who they are."""
        self.send(signal.SIGSTOP)  # first: it starts no others while they are looked for
        below = descendants(self.pid)
        end(below, signal.SIGSTOP)
        return [self.pid, *below]

    def kill(self) -> list[int]:
        """SIGKILL to the supervisor and to all its processes: who they were."""
        self.is_over = True
        pids = self.hold()
        end(pids)
        self.process.wait()
        return pids

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def stop(self, timeout_s: float = STOP_S) -> None:
        """SIGTERM, and it ends as it should."""
        if self.is_over:
            return
        if not self.alive:
            raise NoRest(f"{self.name} ended by itself with {self.process.returncode}: {self.tail()}")
        self.is_over = True
        self.send(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self.process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            raise NoRest(f"{self.name} does not stop: {self.tail()}") from None
        if code != 0:
            raise NoRest(f"{self.name} ended with {code}: {self.tail()}")

    def tail(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])


def is_alive(pid: int, logs: str) -> bool:
    """True for a process that lives and writes its logs there."""
    try:
        os.kill(pid, 0)
        environ = Path(f"/proc/{pid}/environ")
        return not Path("/proc/self").exists() or f"{LOGS}={logs}".encode() in environ.read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return False


class Stage:
    """One scenario's stage; use it as an async context manager.

    Args:
        directory: of its own.
        seed: what all its chances come from.

    Attributes:
        url: what producers and workers are told; a scenario may set it before it starts any (a proxy's, say).
        store: what Redis says; likewise (a cluster, say).
        chance: decides what is done when.
        rows: the result store, where there is one.
        results: what workers are told of it, as variables of their environment.
        faults: what was done.
        rest_s: how long it may take, after the last fault, until all is done.
    """

    def __init__(self, directory: Path, seed: str) -> None:
        self.directory, self.logs = directory, directory / "logs"
        self.logs.mkdir(parents=True)
        self.oracle = Oracle(self.logs)
        self.chance = random.Random(seed)
        self.faults: list[Fault] = []
        self.groups: list[Group] = []
        self.rest_s = 60.0
        self.url = ""
        self.store: Store | None = None
        self.rows: Rows | None = None
        self.results: dict[str, str] = {}
        self.server_version = ""
        self._seed = seed
        self._producers: list[subprocess.Popen[bytes]] = []
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for group in self.groups:
            group.kill() if group.alive else end(group.pids)
        for producer in self._producers:
            producer.kill()
            producer.wait()
        if self.store is not None:
            self.store.close()
        await self._closing.aclose()

    def closes(self, close: Callable[[], Any]) -> None:
        """Have something ended with the stage, after all processes."""
        self._closing.callback(close)

    async def enters(self, context: contextlib.AbstractAsyncContextManager[T]) -> T:
        """Have something entered now, and left with the stage, after all processes."""
        return await self._closing.enter_async_context(context)

    def server(self, options: Mapping[str, str] | None = None) -> EmbeddedServer:
        """Start the server; the stage's URL and store are its."""
        server = EmbeddedServer(options=options, directory=self.directory / "server")
        self._closing.enter_context(server)
        self.url, self.store = server.url, Store.at(server.url)
        return server

    def database(self) -> Postgres:
        """Start PostgreSQL, with rqueue's tables: workers that are started from now on keep their results there.

        To be called where no event loop runs: in a thread.
        """
        postgres = Postgres()
        self._closing.enter_context(postgres)
        self.results, self.rows = {RESULTS: postgres.url()}, Rows(postgres.url())
        asyncio.run(self._make_tables(postgres.url()))
        return postgres

    async def _make_tables(self, url: str) -> None:
        engine = engine_for(url)
        try:
            await upgrade(engine)
        finally:
            await engine.dispose()

    def produce(self, load: Load | None = None, count: int = 2, module: str = "producer", **more: Any) -> None:
        """Start producers; `more` are the load's fields, `module` is the program."""
        for _ in range(count):
            name = f"p{len(self._producers)}"
            settings = settings_of(load or Load(**more), self.url, name, f"{self._seed}:{name}")
            with (self.directory / f"{name}.log").open("ab") as log:
                self._producers.append(
                    subprocess.Popen(
                        [sys.executable, "-m", f"tests.chaos.{module}", settings],
                        cwd=self.directory,
                        env=environment(self.logs, {}),
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def work(self, *arguments: str, env: Mapping[str, str] | None = None) -> Group:
        """Start a group of workers with these options."""
        name = f"worker-{len(self.groups)}"
        group = Group(self, name, ["--loglevel", "warning", *arguments], env or {})
        self.groups.append(group)
        return group

    def pick(self, among: Sequence[T]) -> T:
        """One of them, by one chance, however many there are: what comes after it is the same in each run of a seed."""
        return among[int(self.chance.random() * len(among))]

    def fault(self, what: str, **more: Any) -> Fault:
        """Say what is done in the `with` block; see :class:`Fault`."""
        self.faults.append(Fault(what, **more))
        return self.faults[-1]

    async def until(self, holds: Callable[[], Any], timeout_s: float = 60.0, what: str = "") -> Any:
        """Return what it gives, once it gives something, for what sends no event: the logs, processes, Redis."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := holds()):
                    await asyncio.sleep(LOOK_S)
                return found
        except TimeoutError:
            raise NoRest(f"not within {timeout_s:g} s: {what or holds}") from None

    async def first_jobs(self, *groups: Group) -> None:
        """Return when a process of each of these groups (of all) has started a job."""
        for group in groups or self.groups:
            await self.until(lambda group=group: self.busy(group), what=f"first job of {group.name}: {group.tail()}")

    def busy(self, *groups: Group) -> list[int]:
        """The processes of these groups (of all) that live and have started a job."""
        return [pid for group in groups or self.groups for pid in group.pids if pid in self.oracle.first]

    async def all_work_again(self) -> None:
        """Return when each process that had worked, and lives, has started a job since the last fault.

        Else one that never takes up its work again would not be noticed, as long as others do it.
        """
        since = max((fault.ended for fault in self.faults), default=0.0)
        await self.until(lambda: not self.idle_since(since), what="a job in each process after the last fault")

    def idle_since(self, moment: float) -> list[int]:
        """The processes that live, had worked before, and have started nothing since."""
        busy = self.busy()  # reads the logs
        active = {run.pid for runs in self.oracle.runs.values() for run in runs if run.began > moment}
        return [pid for pid in busy if pid not in active]

    def cut_by(self, fault: Fault) -> list[Run]:
        """The runs that a fault that is over has cut off."""
        self.oracle.read()
        return [run for runs in self.oracle.runs.values() for run in runs if fault.cut(run)]

    def ran_again(self, cut: Collection[Run]) -> bool:
        """True when the jobs of all these runs have started once more."""
        self.oracle.read()
        return all(any(other.began > run.began for other in self.oracle.runs[run.mark]) for run in cut)

    async def age(self, pid: int, seconds: float) -> None:
        """Return when so long has gone by since a process's first job."""
        await asyncio.sleep(self.oracle.first[pid] + seconds - time.monotonic())

    async def end_producers(self) -> None:
        """Let them send nothing more, and see what they had sent confirmed or refused."""
        for producer in self._producers:
            if producer.stdin is not None:
                producer.stdin.close()
        for number, producer in enumerate(self._producers):
            code = await asyncio.to_thread(producer.wait, STOP_S)
            if code != 0:
                tail = (self.directory / f"p{number}.log").read_text(errors="replace").splitlines()[-5:]
                raise NoRest(f"a producer ended with {code}: {' | '.join(tail)}")

    async def rest(self) -> Verdict:
        """Let all be done, stop the workers, and judge."""
        assert self.store is not None
        store, problems = self.store, []
        try:
            await self.all_work_again()
            await self.end_producers()
            if left := await store.until_settled(self.rest_s):
                problems.append(f"not at rest after {self.rest_s:g} s: {left} jobs not settled")
            if self.rows is not None:
                await self.until(lambda: not store.spooled(), self.rest_s, "an empty spool")
            for group in self.groups:
                await group.stop()
        except NoRest as error:
            problems.append(str(error))
        self.oracle.read()
        self.faults += self._own_faults()
        self.server_version = store.version()
        jobs = [(sent.queue, sent.job_id) for sent in self.oracle.confirmed.values()]
        records = await asyncio.to_thread(store.records, jobs)
        rows = None if self.rows is None else await asyncio.to_thread(self.rows.by_job)
        verdict = Judge(self.oracle, self.faults, store.letters(), records, store.leaks(), rows).judge()
        verdict.broken += problems
        return verdict

    def _own_faults(self) -> list[Fault]:
        """What jobs did to their own process: took it down, or blocked its event loop, which is to hurt nobody."""
        found = []
        for mark, runs in self.oracle.runs.items():
            kind = self.oracle.sent[mark].kind if mark in self.oracle.sent else ""
            for run in runs if kind in ("poison", "blocking") else ():
                fault = Fault(kind, (), cause=mark)
                if kind == "poison":
                    fault = Fault(kind, {run.pid}, heals="again", cause=mark, charges=False)
                fault.began = run.began
                found.append(fault)
        return found
