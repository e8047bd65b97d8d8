"""The engine beside what Redis and Python allow: enqueue, drain and round trip, each in the same run as its floor.

A floor does only the Redis work that cannot be left out, in batches of 100, and handles no failure. Both run in one
process on one event loop against a private server; rounds are interleaved. Run ``make bench``, or
``.venv/bin/python benchmarks/engine.py --rounds 5 --jobs 20000``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import orjson
import redis.asyncio
import uvloop

from rqueue import RQueue
from rqueue.embedded import EmbeddedServer

BATCH = 100
CLAIM = """
local out = {}
for i = 1, tonumber(ARGV[1]) do
  local message = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
  if not message then break end
  out[i] = message
end
return out
"""
SETTLE = """
for i = 1, #ARGV, 2 do
  redis.call('LREM', KEYS[1], -1, ARGV[i])
  redis.call('SET', KEYS[1 + (i + 1) / 2], ARGV[i + 1], 'EX', 3600)
end
"""
FINISH = """
redis.call('LREM', KEYS[1], -1, ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', 3600)
redis.call('PUBLISH', KEYS[2], '')
"""


async def noop(number: int) -> int:
    """The task: it returns its argument."""
    return number


class Floor:
    """What is left when nothing can go wrong."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, protocol=2)
        self._claim = self._redis.register_script(CLAIM)
        self._settle = self._redis.register_script(SETTLE)
        self._finish = self._redis.register_script(FINISH)

    async def close(self) -> None:
        await self._redis.aclose()

    async def enqueue(self, jobs: int) -> None:
        """LPUSH and SADD, 100 jobs in a round trip."""
        for start in range(0, jobs, BATCH):
            pipe = self._redis.pipeline(transaction=False)
            ids = [f"{number:032x}" for number in range(start, min(start + BATCH, jobs))]
            pipe.lpush("f", *[orjson.dumps({"task": "noop", "id": each, "args": [1]}) for each in ids])
            pipe.sadd("f:jobs", *ids)
            await pipe.execute()

    async def drain(self, jobs: int) -> None:
        """Claim 100, run them as tasks, settle them with their results."""
        done = 0
        while done < jobs:
            messages = await self._claim(keys=["f", "f:p"], args=[BATCH])
            calls = [orjson.loads(message) for message in messages]
            results = await asyncio.gather(*(asyncio.create_task(noop(*call["args"])) for call in calls))
            keys, args = ["f:p"], []
            for message, call, result in zip(messages, calls, results, strict=True):
                keys.append("f:result:" + call["id"])
                args += [message, orjson.dumps({"state": "SUCCESS", "result": result})]
            await self._settle(keys=keys, args=args)
            done += len(messages)

    async def round_trips(self, count: int) -> list[float]:
        """LPUSH, BRPOPLPUSH, a script that settles and announces, GET."""
        took = []
        blocking = redis.asyncio.Redis(connection_pool=self._redis.connection_pool, single_connection_client=True)
        for number in range(count):
            start = time.perf_counter()
            waiting = asyncio.create_task(blocking.brpoplpush("r", "r:p", timeout=5))
            await asyncio.sleep(0)
            await self._redis.lpush("r", orjson.dumps({"task": "noop", "id": number}))
            message = await waiting
            await self._finish(keys=["r:p", f"r:result:{number}"], args=[message, b"{}"])
            await self._redis.get(f"r:result:{number}")
            took.append(time.perf_counter() - start)
        await blocking.aclose()
        return took


async def rate(jobs: int, work: Callable[[], Awaitable[object]]) -> float:
    """Jobs a second."""
    gc.collect()
    start = time.perf_counter()
    await work()
    return jobs / (time.perf_counter() - start)


async def one_round(url: str, jobs: int, trips: int) -> dict[str, tuple[float, float]]:
    """(rqueue, floor) for each workload."""
    flush = redis.asyncio.Redis.from_url(url)
    await flush.flushall()
    floor = Floor(url)
    app = RQueue(url)
    task = app.task(noop)
    results: dict[str, tuple[float, float]] = {}

    async def callers() -> None:
        async def caller(first: int) -> None:
            for number in range(first, jobs, 100):
                await task.enqueue(number)

        await asyncio.gather(*(caller(first) for first in range(100)))

    async def drain() -> None:
        async with app.worker() as worker:
            await worker.drain()

    async with app:
        await task.enqueue(0)
        floor_enqueue = await rate(jobs, lambda: floor.enqueue(jobs))
        results["enqueue, 100 callers (jobs/s)"] = (await rate(jobs, callers), floor_enqueue)
        results["drain, no-op (jobs/s)"] = (await rate(jobs, drain), await rate(jobs, lambda: floor.drain(jobs)))
        signatures = [task.s(number) for number in range(jobs)]
        results["enqueue_many (jobs/s)"] = (await rate(jobs, lambda: app.enqueue_many(signatures)), floor_enqueue)
        await flush.flushall()
        async with app.worker():
            took = []
            for number in range(trips):
                start = time.perf_counter()
                await (await task.enqueue(number)).result(timeout=5)
                took.append(time.perf_counter() - start)
        floors = await floor.round_trips(trips)
        results["round trip p50 (ms)"] = (1e3 * statistics.median(took), 1e3 * statistics.median(floors))
    await floor.close()
    await flush.aclose()
    return results


def show(rounds: list[dict[str, tuple[float, float]]]) -> None:
    """A row for each workload: medians, their spread, and the median of the rounds' ratios."""
    print(f"{'workload':32} {'rqueue':>34} {'floor':>34} {'ratio':>7}")
    for name in rounds[0]:
        ours, floors = zip(*(each[name] for each in rounds), strict=True)
        cells = [f"{statistics.median(side):,.4g} ({min(side):,.4g} to {max(side):,.4g})" for side in (ours, floors)]
        ratio = statistics.median(our / floor for our, floor in zip(ours, floors, strict=True))
        print(f"{name:32} {cells[0]:>34} {cells[1]:>34} {ratio:7.2f}")


def main() -> None:
    """Run the rounds and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--jobs", type=int, default=20_000)
    options.add_argument("--trips", type=int, default=500)
    chosen = options.parse_args()
    logging.getLogger("rqueue").setLevel(logging.ERROR)
    versions = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "orjson", "uvloop"))
    rounds = []
    with EmbeddedServer() as server:
        for _ in range(chosen.rounds):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rounds.append(runner.run(one_round(server.url, chosen.jobs, chosen.trips)))
    print(f"Python {platform.python_version()}, {versions}; {chosen.jobs:,} jobs, {chosen.rounds} rounds, 1 process")
    show(rounds)


if __name__ == "__main__":
    main()
