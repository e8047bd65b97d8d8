"""What befalls Redis: it dies, forgets, stands still, refuses, is full."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import redis

from rqueue.embedded import EmbeddedServer
from tests.chaos.fault import SETTLE_S
from tests.chaos.producer import Load
from tests.chaos.scenario import Scenario
from tests.chaos.stage import NoRest, Stage

PAIR = ("--processes", "2", "-c", "10")
LEASE = ("--lease", "6")
SHORT_LEASE_S = 4.0
ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
EVERYSEC = {"appendonly": "yes", "appendfsync": "everysec", "auto-aof-rewrite-percentage": "0"}
EVERYTHING_S = 1e9
LATE_S = 0.3
"""So long after a flush or a loss of power a worker may start what Redis does not know any more."""
FULL_BYTES = 24 * 1024 * 1024


async def set_up(stage: Stage, options: dict[str, str] | None = None, *arguments: str, **load: Any) -> EmbeddedServer:
    """A server, two groups of workers that work, and two producers."""
    server = stage.server(options)
    for _ in range(2):
        stage.work(*PAIR, *arguments)
    stage.produce(**load)
    await stage.first_jobs()
    return server


async def kills(stage: Stage, seconds: float) -> None:
    """Its process is killed and comes back from its file. No lease is lost: nothing may run twice."""
    server = await set_up(stage, ALWAYS)
    over = time.monotonic() + seconds
    while True:
        await asyncio.sleep(stage.chance.uniform(0.3, 1.5))
        with stage.fault("SIGKILL", pids=(), heals="working"):
            server.kill()
            await asyncio.sleep(stage.chance.uniform(0.0, 1.5))
            await asyncio.to_thread(server.start)
        if time.monotonic() > over:
            return


class Disk:
    """What of a server's append-only file would be on the disk still if the machine lost its power.

    The kernel keeps what a killed process has written. So the file's size is noted all the time, and after a kill the
    file is cut to what it had at least a second before: what is behind that, `everysec` has not promised.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "appendonlydir"
        self._sizes: list[tuple[float, Path, int]] = []
        self.kept_until = 0.0

    def note(self) -> None:
        """Note the sizes of now."""
        now = time.monotonic()
        for path in self._directory.glob("*.incr.aof"):
            self._sizes.append((now, path, path.stat().st_size))
        self._sizes = [each for each in self._sizes if each[0] > now - 5]

    def lose(self, seconds: float) -> int:
        """Cut the file to what it was so long ago; how many bytes went."""
        until = time.monotonic() - seconds
        self.kept_until, path, size = max((each for each in self._sizes if each[0] <= until), key=lambda each: each[0])
        lost = path.stat().st_size - size
        os.truncate(path, size)
        self._sizes.clear()
        return lost


async def power_losses(stage: Stage, seconds: float) -> None:
    """The server is killed, and its file loses its last second."""
    server = await set_up(stage, EVERYSEC)
    disk, over = Disk(server.directory), time.monotonic() + seconds
    while True:
        until = time.monotonic() + stage.chance.uniform(1.5, 3.0)
        while time.monotonic() < until:
            disk.note()
            await asyncio.sleep(0.02)
        with stage.fault("power loss", heals="working", charges=False) as fault:
            server.kill()
            fault.forgot = time.monotonic()
            if not disk.lose(1.0):
                raise NoRest("nothing had been written in the last second before a power loss")
            fault.forgets_s = fault.began - disk.kept_until  # what was confirmed before that was in the file
            fault.settle_s = fault.forgets_s + SETTLE_S
            await asyncio.to_thread(server.start)
            await asyncio.sleep(LATE_S)
        if time.monotonic() > over:
            return


async def flushes(stage: Stage, seconds: float) -> None:
    """All is forgotten, again and again, while jobs wait, run and are sent.

    A worker that waits gets the next job at once, and learns a moment later that Redis does not know it any more: what
    has started in that moment runs again.
    """
    await set_up(stage, None, seconds=(0.0, 0.4))
    assert stage.store is not None
    over = time.monotonic() + seconds
    while True:
        await asyncio.sleep(stage.chance.uniform(0.5, 2.0))
        with stage.fault("FLUSHALL", heals="working", forgets_s=EVERYTHING_S, charges=False) as fault:
            stage.store.client.flushall()
            fault.forgot = time.monotonic()
            await asyncio.sleep(LATE_S)
        if time.monotonic() > over:
            return


async def interruptions(stage: Stage, seconds: float) -> None:
    """Scripts are forgotten, and connections closed by the server, all the time."""
    await set_up(stage)
    assert stage.store is not None
    admin, over = stage.store.client, time.monotonic() + seconds
    while time.monotonic() < over:
        what = stage.pick(("SCRIPT FLUSH", "SCRIPT FLUSH", "CLIENT KILL"))
        with stage.fault(what, pids=()):
            if what == "SCRIPT FLUSH":
                admin.script_flush()
            else:
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(stage.chance.uniform(0.005, 0.1))
    # What the last faults have stopped, if anything, works again.
    with stage.fault("CLIENT KILL", pids=(), heals="working"):
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(0.5)


async def stalls(stage: Stage, seconds: float) -> None:
    """The server sleeps for longer than the lease: all leases have run out, and nobody is to be reaped for it."""
    options, lease = {"enable-debug-command": "yes"}, ("--lease", str(SHORT_LEASE_S))
    server = await set_up(stage, options, *lease, seconds=(0.0, 1.0), rate=20)
    over = time.monotonic() + seconds
    while True:
        with stage.fault("DEBUG SLEEP", pids=(), heals="working"):
            await asyncio.to_thread(ask, server.url, "DEBUG", "SLEEP", stage.chance.uniform(1.2, 1.6) * SHORT_LEASE_S)
        if time.monotonic() > over:
            break
        await asyncio.sleep(stage.chance.uniform(1.0, 3.0))
    await asyncio.sleep(0.5)
    reaped = [group.name for group in stage.groups if "worker reaped" in group.log.read_text(errors="replace")]
    if reaped:
        raise NoRest(f"reaped after a stall, by {', '.join(reaped)}")


def ask(url: str, *command: object) -> object:
    """One command on a connection of its own, whatever becomes of the others."""
    with redis.Redis.from_url(url, socket_timeout=60, retry=None) as client:
        return client.execute_command(*command)


class Refusals:
    """The ways in which a server that is there can refuse, each for as long as a `with` block."""

    def __init__(self, server: EmbeddedServer, user: str) -> None:
        self._server, self._user = server, user
        self._admin = redis.Redis.from_url(server.url, single_connection_client=True)
        self.kinds = {
            "BUSY": self.busy,
            "LOADING": self.loading,
            "MISCONF": self.misconf,
            "READONLY": self.readonly,
            "NOPERM": self.noperm,
            "maxclients": self.maxclients,
        }

    def close(self) -> None:
        self._admin.close()

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """A script does not end."""
        endless = asyncio.create_task(asyncio.to_thread(self._endless))
        yield
        while not endless.done():
            with contextlib.suppress(redis.ResponseError):  # it has not begun
                self._admin.script_kill()
            await asyncio.sleep(0.01)
        await endless

    def _endless(self) -> None:
        with contextlib.suppress(redis.ResponseError):  # it was killed
            ask(self._server.url, "EVAL", "while true do end", 0)

    @contextlib.asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Its data is read again, slowly: a millisecond for each key."""
        with self._admin.pipeline(transaction=False) as keys:
            for number in range(1000):
                keys.set(f"filler:{number}", "x" * 100, ex=60)
            keys.execute()
        self._admin.config_set("key-load-delay", 1000)
        reload = asyncio.create_task(asyncio.to_thread(ask, self._server.url, "DEBUG", "RELOAD"))
        yield
        await reload
        self._admin.config_set("key-load-delay", 0)

    @contextlib.asynccontextmanager
    async def misconf(self) -> AsyncIterator[None]:
        """It cannot save, and takes no writes for that."""
        obstacle = self._server.directory / "dump.rdb"  # a directory where the file should be
        obstacle.unlink(missing_ok=True)
        obstacle.mkdir()
        await self._save("err")
        yield
        obstacle.rmdir()
        await self._save("ok")

    async def _save(self, status: str) -> None:
        self._admin.bgsave()
        async with asyncio.timeout(30):
            while self._admin.info("persistence")["rdb_last_bgsave_status"] != status:
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def readonly(self) -> AsyncIterator[None]:
        """It is made a replica of a server that is not there: what it has, it keeps."""
        self._admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        self._admin.execute_command("REPLICAOF", "NO", "ONE")

    @contextlib.asynccontextmanager
    async def noperm(self) -> AsyncIterator[None]:
        """Its user may do nothing."""
        self._admin.execute_command("ACL", "SETUSER", self._user, "-@all")
        yield
        self._admin.execute_command("ACL", "SETUSER", self._user, "+@all")

    @contextlib.asynccontextmanager
    async def maxclients(self) -> AsyncIterator[None]:
        """It takes no connection beside the one that says so, and has closed all others."""
        before = self._admin.config_get("maxclients")["maxclients"]
        self._admin.config_set("maxclients", 1)
        self._admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        yield
        self._admin.config_set("maxclients", before)


REFUSING = {
    "enable-debug-command": "yes",
    "busy-reply-threshold": "20",
    "save": "86400 1000000000",
    "stop-writes-on-bgsave-error": "yes",
    "loading-process-events-interval-bytes": "1024",
}


async def refusals(stage: Stage, seconds: float) -> None:
    """The server refuses in each way in turn; nobody is restarted for it."""
    server = stage.server(REFUSING)
    user = Refusals(server, "chaos")
    stage.closes(user.close)
    ask(server.url, "ACL", "SETUSER", "chaos", "on", ">chaos", "~*", "&*", "+@all")
    stage.url = server.url.replace("redis://", "redis://chaos:chaos@")
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(seconds=(0.0, 0.4), rate=30)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while True:
        for name, refuses in user.kinds.items():
            with stage.fault(name, pids=(), heals="working"):
                async with refuses():
                    await asyncio.sleep(stage.chance.uniform(0.5, 1.5))
            await asyncio.sleep(stage.chance.uniform(0.3, 0.8))
        if time.monotonic() > over:
            return


async def full(stage: Stage, seconds: float) -> None:
    """Memory is full, with a backlog, and then is not: the backlog is done while it is."""
    stage.server({"maxmemory": str(FULL_BYTES), "maxmemory-policy": "noeviction"})
    assert stage.store is not None
    admin, over = stage.store.client, time.monotonic() + seconds
    stage.produce(Load(rate=150, seconds=(0.0, 0.01)))
    await stage.until(lambda: stage.store and stage.store.unsettled() > 100, what="a backlog")
    while True:
        with stage.fault("full", pids=(), heals="working"):
            fill(admin)
            await stage.until(lambda: is_refused(stage), what="an enqueue that is refused")
            for _ in range(2 - len(stage.groups)):  # they join a Redis that is full
                stage.work(*PAIR, *LEASE)
            backlog = [mark for mark, sent in stage.oracle.confirmed.items() if sent.kind != "failing"]
            await stage.until(lambda marks=backlog: all_done(stage, marks), what="the end of a backlog")
            admin.delete("filler")
        if time.monotonic() > over:
            break
        await asyncio.sleep(stage.chance.uniform(0.5, 2.0))
    await asyncio.sleep(0.5)
    refused = {sent.refused for sent in stage.oracle.sent.values()} - {"", "BrokerFull"}
    if refused:
        raise NoRest(f"a full Redis is called {', '.join(sorted(refused))}")


def fill(admin: redis.Redis) -> None:
    """To the last kilobyte."""
    for size in (1 << 20, 1 << 16, 1 << 10):
        with contextlib.suppress(redis.exceptions.OutOfMemoryError):
            while True:
                admin.append("filler", "x" * size)
    admin.expire("filler", 600)


def is_refused(stage: Stage) -> bool:
    """True when a producer was told no since the last fault began."""
    stage.oracle.read()
    return any(sent.refused and sent.at > stage.faults[-1].began for sent in stage.oracle.sent.values())


def all_done(stage: Stage, marks: list[str]) -> bool:
    stage.oracle.read()
    return all(stage.oracle.ends(mark) for mark in marks)


SCENARIOS = [
    Scenario(
        "server kills",
        "Redis is killed by SIGKILL and comes back from its file, `appendonly yes` and `appendfsync always`",
        "nothing is lost, and nothing runs twice",
        kills,
    ),
    Scenario(
        "power losses",
        "Redis runs with `appendfsync everysec`, is killed, and its file is cut to what it was a second before",
        "lost is only what was confirmed in the time that the file lost, and only what ended in it runs again",
        power_losses,
    ),
    Scenario(
        "flushes",
        "FLUSHALL, again and again, while jobs wait, run and are sent",
        "what is confirmed after it is done; workers go on under new ids; only what they start before they know of it"
        " runs twice",
        flushes,
    ),
    Scenario(
        "interruptions",
        "SCRIPT FLUSH and CLIENT KILL for all connections, 20 times a second",
        "nothing is lost, and nothing runs twice",
        interruptions,
    ),
    Scenario(
        "stalls",
        "Redis stands still for longer than the lease (DEBUG SLEEP)",
        "no worker is reaped, nothing is lost, and nothing runs twice",
        stalls,
        least_s=20.0,
    ),
    Scenario(
        "refusals",
        "Redis refuses everything in turn: a script that does not end (BUSY), LOADING, a save that fails (MISCONF), a"
        " replica (READONLY), an ACL without rights (NOPERM), no more connections (maxclients)",
        "nothing is lost, nothing runs twice, nothing that has succeeded is failed, nobody needs a restart",
        refusals,
    ),
    Scenario(
        "full",
        "Redis is at its `maxmemory`, with a backlog; workers come, and drain it",
        "enqueueing raises BrokerFull and has changed nothing; what was confirmed is done, once",
        full,
    ),
]
