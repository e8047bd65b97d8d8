"""How much rqueue holds: a million jobs that wait, a million that are scheduled, five thousand connections that wait.

Each part has a private server. ``waiting`` and ``scheduled`` enqueue through ``enqueue_many`` and say how many bytes
Redis needs for a job, all that is kept of it included; how long a claim or a promotion of 100 takes at each backlog;
and how long ``rqueue queues`` does. ``idle`` has bare connections that wait as workers do: how many one job wakes, how
soon, and what they cost Redis meanwhile.

Run ``make bench-scale``, in short ``make bench-scale ARGS=--quick``. It prints a table, and writes it as JSON where
``--json FILE`` says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import secrets
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis

import rqueue
from rqueue.broker.broker import Broker
from rqueue.client.admin import Admin
from rqueue.embedded import EmbeddedServer
from rqueue.wire.message import Header

QUEUE = "default"
BATCH = 5_000
AT_ONCE = 100
BUDGET = "1.3 x message + 160"
SCHEDULED_BYTES = 520
"""Beside its message a scheduled job needs no more, on any server: its id is in a set, a sorted set and a hash."""


@dataclass
class Table:
    """What was measured: a row for each figure, with its values where there were several."""

    rows: list[tuple[str, str, list[float]]] = field(default_factory=list)

    def add(self, name: str, unit: str, values: Sequence[float]) -> None:
        """Add a figure and print its line: the median, and from the 5th to the 95th percentile."""
        self.rows.append((name, unit, list(values)))
        ordered = sorted(values)
        spread = ""
        if len(ordered) > 1:
            low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
            spread = f"   {low:,.2f} to {high:,.2f} ({len(ordered)} times)"
        print(f"  {name:<58} {statistics.median(ordered):>12,.2f} {unit}{spread}", flush=True)

    def of(self, name: str) -> float:
        """The median of a figure."""
        return statistics.median(next(values for each, _, values in self.rows if each == name))


def used(server: redis.Redis[bytes]) -> int:
    """Bytes that Redis has allocated."""
    return int(server.info("memory")["used_memory"])


def script_ms(client: redis.Redis[bytes]) -> float:
    """Milliseconds of Redis's own for a script, since its figures were reset: whatever else the machine does."""
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]) / 1000


async def fill(app: rqueue.RQueue, count: int, text: str, **options: Any) -> None:
    """Enqueue so many jobs as a program would, each with that text as an argument."""
    task = app.tasks.find("scale.job")
    assert task is not None
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        await app.enqueue_many([task.options(**options).s(number, text) for number in numbers])


def made(url: str) -> rqueue.RQueue:
    """The app, with its one task."""
    app = rqueue.RQueue(url)

    @app.task(name="scale.job")
    async def job(number: int, text: str) -> None:
        """Never run here."""

    return app


async def claim_ms(broker: Broker, rounds: int) -> list[float]:
    """Milliseconds of claims of a hundred; each goes back as it was."""
    keys = broker.keys.queue(QUEUE)
    worker, took = f"scale:{secrets.token_hex(4)}", []
    assert await broker.register(keys, worker, 600)
    for _ in range(rounds):
        began = time.perf_counter()
        claim = await broker.claim([keys], [5], worker, 600, AT_ONCE, 1 << 23)
        took.append((time.perf_counter() - began) * 1000)
        assert claim is not None
        assert len(claim.messages) == AT_ONCE
        await broker.release(keys, worker, [(each.raw, "", each.level) for each in reversed(claim.messages)])
    await broker.leave(keys, worker)
    return took


async def promote_ms(app: rqueue.RQueue, broker: Broker, rounds: int, text: str) -> list[float]:
    """Milliseconds of promotions of a hundred that have just become due."""
    keys, took = broker.keys.queue(QUEUE), []
    for _ in range(rounds):
        await fill(app, AT_ONCE, text, countdown=0.001)
        await asyncio.sleep(0.003)
        began = time.perf_counter()
        moved, _ = await broker.promote(keys)
        took.append((time.perf_counter() - began) * 1000)
        assert moved == AT_ONCE
    while await broker.purge(keys):
        pass  # they are not what is measured
    return took


async def look_ms(app: rqueue.RQueue, rounds: int) -> list[float]:
    """Milliseconds of what ``rqueue queues`` asks Redis."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        await Admin(app).queues()
        took.append((time.perf_counter() - began) * 1000)
    return took


async def commanded(url: str, rounds: int, what: str, table: Table) -> None:
    """Seconds of ``rqueue queues`` as a command, from its start to its end, and of processor time."""
    took, busy = [], []
    for _ in range(rounds):
        before, began = os.times(), time.perf_counter()
        command = [sys.executable, "-m", "rqueue", "queues", "--url", url]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        took.append(time.perf_counter() - began)
        after = os.times()
        busy.append(sum(after[2:4]) - sum(before[2:4]))
    if rounds:
        table.add(f"`rqueue queues`, {what}", "s", took)
        table.add(f"`rqueue queues`, {what}: its processor time", "s", busy)


async def waiting(
    server: EmbeddedServer, backlogs: Sequence[int], rounds: int, text: str, table: Table, commands: int = 5
) -> None:
    """Jobs that wait, at each backlog."""
    app, client = made(server.url), redis.Redis.from_url(server.url)
    async with app:
        broker = app.session().broker
        await fill(app, AT_ONCE, text)
        await claim_ms(broker, 20)  # scripts are loaded, buffers have their size
        before, here = used(client), AT_ONCE
        for backlog in backlogs:
            await fill(app, backlog - here, text)
            here = max(here, backlog)
            client.config_resetstat()
            table.add(f"claim of {AT_ONCE}, {backlog:,} wait", "ms", await claim_ms(broker, rounds))
            table.add(f"a claim, or its undoing, in Redis, {backlog:,} wait", "ms", [script_ms(client)])
        message = len(client.lindex(app.keys.queue(QUEUE).main, 0) or b"")
        table.add(f"message of the last of {here:,}", "bytes", [message])
        table.add("memory a waiting job", "bytes", [(used(client) - before) / (here - AT_ONCE)])
        table.add(f"allowed: {BUDGET}", "bytes", [1.3 * message + 160])
        table.add("what `rqueue queues` asks, they wait", "ms", await look_ms(app, rounds))
        await commanded(server.url, commands, "they wait", table)


async def scheduled(
    server: EmbeddedServer, backlogs: Sequence[int], rounds: int, text: str, table: Table, commands: int = 5
) -> None:
    """Jobs that are scheduled, at each backlog."""
    app, client = made(server.url), redis.Redis.from_url(server.url)
    async with app:
        broker, here = app.session().broker, 0
        await promote_ms(app, broker, 20, text)
        client.delete(*app.keys.queue(QUEUE).lists, app.keys.queue(QUEUE).jobs)
        before = used(client)
        for backlog in backlogs:
            await fill(app, backlog - here, text, countdown=36_000)
            here = max(here, backlog)
            if backlog == backlogs[-1]:
                table.add("memory a scheduled job", "bytes", [(used(client) - before) / here])
                message = len(client.hrandfield(app.keys.queue(QUEUE).messages, 1, withvalues=True)[1])
                table.add("message of a scheduled job", "bytes", [message])
                table.add(f"allowed to scheduled ones: {BUDGET}", "bytes", [1.3 * message + 160])
            table.add(
                f"promotion of {AT_ONCE}, {backlog:,} scheduled", "ms", await promote_ms(app, broker, rounds, text)
            )
        table.add("what `rqueue queues` asks, they are scheduled", "ms", await look_ms(app, rounds))
        await commanded(server.url, commands, "they are scheduled", table)


class Waiters:
    """Connections that wait at the main list, each with a processing list of its own, as idle workers do."""

    def __init__(self, server: EmbeddedServer, count: int) -> None:
        keys = rqueue.RQueue(server.url).keys.queue(QUEUE)
        self.selector, self.port = selectors.DefaultSelector(), server.port
        self.asks = {}
        for number in range(count):
            link = socket.create_connection(("127.0.0.1", server.port))
            command = (b"BRPOPLPUSH", keys.main, keys.processing(f"idle:{number}"), b"0")
            self.asks[link] = b"*4\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)
            link.sendall(self.asks[link])
            link.setblocking(False)
            self.selector.register(link, selectors.EVENT_READ)

    def woken(self, timeout_s: float) -> list[socket.socket]:
        """Those that have got something."""
        return [key.fileobj for key, _ in self.selector.select(timeout_s)]  # type: ignore[misc]

    def again(self, link: socket.socket) -> bytes:
        """What it got; it waits again."""
        got = link.recv(1 << 16)
        link.sendall(self.asks[link])
        return got

    def close(self) -> None:
        """Hang up."""
        for link in self.asks:
            link.close()
        self.selector.close()


def idle(server: EmbeddedServer, count: int, rounds: int, table: Table, quiet_s: float = 3.0) -> None:
    """Connections that wait."""
    client = redis.Redis.from_url(server.url)
    client.ping()
    before = used(client)
    waiters = Waiters(server, count)
    try:
        while int(client.info("clients")["blocked_clients"]) < count:
            time.sleep(0.01)
        table.add(f"memory of one of {count:,} idle connections", "bytes", [(used(client) - before) / count])
        began, at = cpu_s(client), time.perf_counter()
        time.sleep(quiet_s)
        share = (cpu_s(client) - began) / (time.perf_counter() - at)
        table.add(f"Redis while {count:,} wait", "% of a core", [share * 100])
        main, took, woken = rqueue.RQueue(server.url).keys.queue(QUEUE).main, [], []
        for number in range(rounds):
            message = Header(id=f"job-{number}").encode() + b'{"task":"scale.job"}'
            at = time.perf_counter()
            client.lpush(main, message)
            first = waiters.woken(5)
            took.append((time.perf_counter() - at) * 1000)
            more = waiters.woken(0.02) if number < 20 else first  # whoever else is woken is there by then
            assert {waiters.again(link).split(b"\r\n", 1)[1] for link in {*first, *more}} == {message + b"\r\n"}
            woken.append(float(len({*first, *more})))
        table.add(f"woken by one job, {count:,} wait", "connections", woken)
        table.add(f"from its LPUSH to the wake-up, {count:,} wait", "ms", took)
    finally:
        waiters.close()


def cpu_s(client: redis.Redis[bytes]) -> float:
    """Seconds of processor that Redis has used, its own threads included."""
    info = client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def allow_connections(count: int) -> None:
    """Let this process, and the server that it starts, have so many connections.

    Raises:
        SystemExit: the system does not.
    """
    wanted = count + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in {resource.RLIM_INFINITY, -1} and hard < wanted:
        raise SystemExit(f"{count:,} connections need {wanted:,} open files; the system allows {hard:,} (ulimit -Hn)")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=200, help="how often each time is measured")
    parser.add_argument("--payload", type=int, default=200, help="bytes of each job's argument")
    parser.add_argument("--quick", action="store_true", help="20,000 jobs and 300 connections")
    parser.add_argument("--json", type=Path, help="write what was measured into this file")
    given = parser.parse_args()
    jobs, connections = (20_000, 300) if given.quick else (given.jobs, given.connections)
    backlogs = sorted({AT_ONCE, min(10_000, jobs), jobs})
    table, text = Table(), "x" * given.payload
    allow_connections(connections)
    with EmbeddedServer() as server:
        info = redis.Redis.from_url(server.url).info("server")
        name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
        print(f"{name}, Python {platform.python_version()}, {platform.machine()}")
        asyncio.run(waiting(server, backlogs, given.rounds, text, table))
    with EmbeddedServer() as server:
        asyncio.run(scheduled(server, backlogs, given.rounds, text, table))
    with EmbeddedServer(options={"maxclients": str(connections + 100)}) as server:
        idle(server, connections, given.rounds, table)
    if given.json is not None:
        given.json.write_text(json.dumps({"server": name, **asdict(table)}, indent=1))


if __name__ == "__main__":
    main()
