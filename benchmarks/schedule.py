"""How late scheduled jobs start, and how long Redis is held while very many become due at once.

Each round has a private server, and one worker in this process. ``late`` is from the due time to the task's first line,
on an idle system, one job at a time. ``burst`` schedules jobs over one second, lets all become due, and works them off:
the server's own SLOWLOG tells how long the longest command held it, and how long a promotion did.

Run ``make bench-schedule``, in short ``make bench-schedule ARGS=--quick``.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import version

import redis

import rqueue
from rqueue.broker.scripts import SCRIPTS
from rqueue.embedded import EmbeddedServer

SLOW_US = 500


async def late_ms(app: rqueue.RQueue, count: int) -> list[float]:
    """Milliseconds from each job's due time to its start."""
    late: list[float] = []

    @app.task(name="late")
    async def note(due: float) -> None:
        late.append((time.time() - due) * 1000)

    async with app.worker():
        for _ in range(count):
            due = time.time() + 0.25
            await (await note.options(eta=datetime.fromtimestamp(due, UTC)).enqueue(due)).result(10)
    return late


async def burst(app: rqueue.RQueue, server: redis.Redis, count: int) -> tuple[float, float, float]:
    """Seconds to work all off; milliseconds of the longest command, and of the longest promotion."""

    @app.task(name="burst", ignore_result=True)
    async def nothing() -> None:
        return

    moment = time.time() + 2 + count / 20_000
    for first in range(0, count, 5000):
        numbers = range(first, min(first + 5000, count))
        await app.enqueue_many(
            [nothing.options(eta=datetime.fromtimestamp(moment + number / count, UTC)).s() for number in numbers]
        )
    await asyncio.sleep(max(0.0, moment + 1 - time.time()))
    server.config_set("slowlog-max-len", 100_000)
    server.config_set("slowlog-log-slower-than", SLOW_US)
    server.slowlog_reset()
    begun = time.perf_counter()
    async with app.worker() as worker:
        await worker.drain(scheduled=True)
    took = time.perf_counter() - begun
    slow = server.slowlog_get(100_000)
    promotions = [entry for entry in slow if SCRIPTS["promote"].sha in entry["command"]]
    longest = [max((entry["duration"] for entry in found), default=0) / 1000 for found in (slow, promotions)]
    return took, *longest


async def one_round(lates: int, due: int) -> tuple[list[float], tuple[float, float, float]]:
    """What :func:`late_ms` and :func:`burst` say, on a server of their own."""
    with EmbeddedServer() as server:
        app = rqueue.RQueue(server.url)
        async with app:
            late = await late_ms(app, lates)
            with redis.Redis.from_url(server.url) as connection:
                return late, await burst(app, connection, due)


def main() -> None:
    """Take the figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    given = parser.parse_args()
    rounds, lates, due = (1, 10, 5_000) if given.quick else (given.rounds, 40, 100_000)
    print(f"Python {platform.python_version()}, redis-py {version('redis')}, {rounds} round(s)")
    results = [asyncio.run(one_round(lates, due)) for _ in range(rounds)]
    late = sorted(ms for each, _ in results for ms in each)
    print(f"late: median {statistics.median(late):.1f} ms, {late[0]:.1f}-{late[-1]:.1f}, {len(late)} jobs")
    for index, text in enumerate(("s to work off", "ms the longest command", "ms the longest promotion")):
        values = [each[index] for _, each in results]
        median = statistics.median(values)
        print(f"{due:,} due within a second: {median:.2f} {text} ({min(values):.2f}-{max(values):.2f})")


if __name__ == "__main__":
    main()
