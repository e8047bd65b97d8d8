"""Periodic schedules through SIGKILL: workers with wrong clocks, one killed at each tick, over both DST changes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import redis

from rqueue.wire.control import LOOK, ControlRequest
from rqueue.wire.periodic import Entry

from .ticking import CLOCK, CRONTABS, ZONES

SKEWS_S = (-420, -60, 0, 90, 660)


class Workers:
    """The forked workers, and where they are."""

    def __init__(self, process: asyncio.subprocess.Process, oracle: Path, store: "redis.Redis") -> None:
        self._process, self.oracle, self.store = process, oracle, store
        self.ids: dict[int, str] = {}
        self.halted: set[int] = set()
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self._process.stdout.readline():
            pid, what, *more = line.decode().split()
            if what == "ready":
                self.ids[int(pid)] = more[0]
            else:
                self.halted.add(int(pid))
            self._news.set()
        self._news.set()

    async def start(self, *settings: tuple[int, str | None]) -> None:
        """Start a worker for each (skew in seconds, where it halts); return when all work."""
        wanted = len(self.ids) + len(settings)
        for skew_s, halt in settings:
            self._process.stdin.write(json.dumps({"skew_s": skew_s, "halt": halt}).encode() + b"\n")
        await self.until(lambda: len(self.ids) == wanted)

    async def until(self, holds) -> None:
        async with asyncio.timeout(30):
            while not holds():
                assert self._process.returncode is None
                await asyncio.sleep(0.005)

    def move_to(self, moment: datetime) -> None:
        """Move Redis's clock; nobody is told."""
        seconds, micros = self.store.time()
        self.store.set(CLOCK, round(moment.timestamp() * 1000) - seconds * 1000 - micros // 1000)

    def tell(self, *to: int) -> None:
        """Have workers look at their schedules: these, or all."""
        ids = [self.ids[pid] for pid in to] or None
        self.store.publish("rqueue:control", ControlRequest("r", LOOK, {}, ids, None).encode())

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        del self.ids[pid]
        self.halted.discard(pid)

    def entries(self) -> dict[bytes, bytes]:
        return self.store.hgetall("rqueue:{default}:periodic:entries")

    def last_ids(self) -> set[str | None]:
        return {Entry.decode(each).last_id for each in self.entries().values()}

    def succeeded(self) -> int:
        return int(self.store.hget("rqueue:{default}:counts", "SUCCESS") or 0)

    async def close(self) -> None:
        self._process.stdin.close()
        for pid in self.ids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._process.wait()
        await self._reader


@pytest.fixture
async def workers(redis_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    program, oracle = Path(__file__).with_name("ticking.py"), tmp_path / "oracle"
    oracle.touch()
    with (tmp_path / "log").open("wb") as log, redis.Redis.from_url(redis_url) as store:
        process = await asyncio.create_subprocess_exec(
            sys.executable, program, redis_url, oracle, stdin=-1, stdout=-1, stderr=log
        )
        running = Workers(process, oracle, store)
        yield running
        await running.close()
    print((tmp_path / "log").read_text(errors="replace")[-20_000:])  # noqa: T201 - shown when the test fails


def at(text: str, zone: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


# moment -> the fixed time that ticks then, if any; each half hour ticks in all zones.
TICKS = {
    at("2026-03-08T03:00", "America/New_York"): "fixed/America/New_York",  # 2:30 does not exist
    at("2026-03-29T03:00", "Europe/Berlin"): "fixed/Europe/Berlin",
    at("2026-04-05T02:30", "Australia/Sydney"): "fixed/Australia/Sydney",  # 2:30 comes twice
    at("2026-04-05T02:30", "Australia/Sydney", 1): None,
    at("2026-10-04T03:00", "Australia/Sydney"): "fixed/Australia/Sydney",
    at("2026-10-25T02:30", "Europe/Berlin"): "fixed/Europe/Berlin",
    at("2026-10-25T02:30", "Europe/Berlin", 1): None,
    at("2026-11-01T01:30", "America/New_York"): "early/America/New_York",  # 1:30 comes twice
    at("2026-11-01T01:30", "America/New_York", 1): None,
}


def expected(moment: datetime) -> set[str]:
    names = [f"each/{zone}" for zone in ZONES] + [name for name in [TICKS[moment]] if name is not None]
    return {f"{name}@{round(moment.timestamp() * 1000)}" for name in names}


async def test_every_tick_is_enqueued_once(workers: Workers) -> None:
    """Five workers whose clocks are minutes apart, one killed at each tick: before its script, or right after it.

    A job that was enqueued twice would be counted as ended twice. Breaks when the script does not compare what was
    read with what is stored, or when a due time comes from a worker's own clock.
    """
    workers.move_to(datetime(2026, 3, 1, 0, 10, tzinfo=UTC))
    halts = ["before", "after"] * len(TICKS)
    await workers.start(*((skew_s, None) for skew_s in SKEWS_S[1:]))
    await workers.until(lambda: len(workers.entries()) == len(ZONES) * len(CRONTABS))

    for number, moment in enumerate(TICKS):
        await workers.start((SKEWS_S[number % 5], halts[number]))
        victim = list(workers.ids)[-1]
        before = workers.entries()
        workers.move_to(moment + timedelta(seconds=1))
        workers.tell(victim)
        # The others look at each heartbeat: one of them may have been there first.
        await workers.until(lambda: victim in workers.halted or workers.entries() != before)  # noqa: B023
        workers.kill(victim)
        workers.tell()
        await workers.until(lambda: expected(moment) <= workers.last_ids())  # noqa: B023
    ids = set().union(*map(expected, TICKS))
    await workers.until(lambda: workers.succeeded() >= len(ids))
    await workers.until(lambda: not workers.store.exists("rqueue:{default}:jobs"))
    assert {line.split()[1] for line in workers.oracle.read_text().splitlines()} == ids
    assert workers.succeeded() == len(ids)
