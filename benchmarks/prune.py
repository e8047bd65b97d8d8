"""What a prune of half a million rows costs the workers meanwhile.

A million rows of history in a PostgreSQL of its own, a worker that drains a queue into it without a break, and the
prune, which is let run and held in turns: a window with it, a window without, in changing order. Each pair gives a
ratio of two rates in the same minute, on the same data and beside the same other load. Failures are kept, so that no
month can be dropped at once, and every row goes in a batch.

Run ``make bench-prune``, in short ``make bench-prune ARGS=--quick``; ``--json FILE`` writes what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import text

from benchmarks.history import SETTINGS, fill
from rqueue import RQueue
from rqueue.embedded import EmbeddedServer
from rqueue.results.sql import marks
from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.hours import roll
from rqueue.results.sql.retention import prune
from tests.postgres import Postgres

ROWS, QUICK_ROWS = 1_000_000, 100_000
WINDOW_S, QUICK_WINDOW_S = 5.0, 2.0
GOAL = 0.9
ENOUGH = 200_000
"""Jobs that wait when a window begins: more than a worker can do in it."""

_SETTLE_S = 0.5  # of a window's begin do not count: what was under way when the prune was let run, or held
_LIST = "rqueue:{default}"
_APP = """
from rqueue import RQueue
app = RQueue({url!r}, results={results!r})

@app.task(name="noop")
async def noop(number): ...
"""


class Drain:
    """A worker process that is never without a job.

    Args:
        url: of Redis.
        results: of the database.
        directory: for its app.
    """

    def __init__(self, url: str, results: str, directory: Path) -> None:
        (directory / "orders.py").write_text(_APP.format(url=url, results=results))
        self._directory, self._redis, self._app = directory, redis.Redis.from_url(url), RQueue(url)
        self._process: asyncio.subprocess.Process | None = None

        @self._app.task(name="noop")
        async def noop(number: int) -> None: ...

        self._task = noop

    async def start(self) -> None:
        """Start it; it works when this returns."""
        command = [sys.executable, "-m", "rqueue", "worker", "-A", "orders:app", "--loglevel", "warning"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = await asyncio.create_subprocess_exec(*command, cwd=self._directory, env=environment)
        await self.fill(1000)
        while self._redis.llen(_LIST):  # noqa: ASYNC110 - another process takes them
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()
        await self._app.close()

    async def fill(self, enough: int) -> None:
        """See that so many jobs wait."""
        while (missing := enough - int(self._redis.llen(_LIST))) > 0:
            await self._app.enqueue_many([self._task.s(number) for number in range(min(missing, 5000))])

    async def rate(self, window_s: float) -> float:
        """Jobs a second that it takes up in such a time."""
        await asyncio.sleep(_SETTLE_S)
        before, started_s = int(self._redis.llen(_LIST)), time.perf_counter()
        await asyncio.sleep(window_s)
        after, took_s = int(self._redis.llen(_LIST)), time.perf_counter() - started_s
        if not after:
            raise RuntimeError("the worker had nothing left to do: raise ENOUGH")
        return (before - after) / took_s


async def measure(drain: Drain, url: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Windows with and without the prune, in pairs, until half of the rows have gone or the time is over."""
    engine = engine_for(url)
    window_s = QUICK_WINDOW_S if chosen.quick else WINDOW_S
    await roll(engine)  # so that no window pays for it
    async with engine.begin() as connection:
        # All rows were written just now: they are not to be looked through as late ones.
        await marks.write(connection, marks.LOOKED, await marks.now(connection) + timedelta(hours=1))
        middle = "SELECT finished FROM rqueue_jobs ORDER BY finished OFFSET :half LIMIT 1"
        before: datetime = (await connection.execute(text(middle), {"half": chosen.rows // 2})).scalar_one()
    rows, pairs, until = 0, list[tuple[float, float]](), time.monotonic() + chosen.minutes * 60
    is_over = False
    while not is_over and time.monotonic() < until:
        rates = {}
        for with_prune in (True, False) if len(pairs) % 2 else (False, True):
            await drain.fill(ENOUGH)
            pruning = asyncio.create_task(prune(engine, before, keep_failures=True)) if with_prune else None
            rates[with_prune] = await drain.rate(window_s)
            if pruning is not None:
                is_over = pruning.done()
                pruning.cancel()
                with suppress(asyncio.CancelledError):
                    await pruning
        async with engine.connect() as connection:
            count = text("SELECT count(*) FROM rqueue_jobs WHERE finished < :before")
            left = (await connection.execute(count, {"before": before})).scalar_one()
        rows = chosen.rows // 2 - left
        if not is_over:
            pairs.append((rates[True], rates[False]))
            print(f"{rates[False]:8.0f} jobs/s, with prune {rates[True]:8.0f}, {rows:8} rows gone", flush=True)
    await engine.dispose()
    ratios = sorted(one / other for one, other in pairs)
    return {
        "pairs": pairs,
        "rows": rows,
        "rows_a_second": rows / (len(pairs) * (window_s + _SETTLE_S)) if pairs else 0.0,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
    }


async def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Set up, and measure."""
    with Postgres(SETTINGS) as database, EmbeddedServer() as server, tempfile.TemporaryDirectory() as directory:
        print(f"filling {chosen.rows:,} rows", flush=True)
        await fill(database.url(), chosen.rows, datetime.now(UTC) - timedelta(hours=1))
        drain = Drain(server.url, database.url(), Path(directory))
        await drain.start()
        try:
            return await measure(drain, database.url(), chosen)
        finally:
            await drain.stop()


def main() -> None:
    """Say what was measured."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.prune", description=__doc__)
    options.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows")
    options.add_argument("--rows", type=int, help=f"so many ({ROWS:,})")
    options.add_argument("--minutes", type=float, default=10.0, help="measure no longer (10)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the values there")
    chosen = options.parse_args()
    chosen.rows = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    found = asyncio.run(run(chosen))
    low, high = found["ratio_quartiles"]
    print(
        f"throughput with prune / without: {found['ratio']:.3f} (quartiles {low:.3f} to {high:.3f}, "
        f"{len(found['pairs'])} pairs); {found['rows']:,} rows removed, {found['rows_a_second']:,.0f}/s; "
        f"goal {GOAL}: {'reached' if found['ratio'] >= GOAL else 'missed'}"
    )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"settings": SETTINGS, "rows": chosen.rows, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
