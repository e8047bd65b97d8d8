"""The short form of what befalls Redis and the network, and what simulates a loss of power."""

import asyncio
import time

import pytest

from . import report
from .proxy import Proxy
from .scenario import Scenario, play
from .scenarios import server
from .stage import Stage


async def some_of_all(stage: Stage, seconds: float) -> None:
    """One worker process, on whose way to Redis everything happens once."""
    redis = stage.server(server.ALWAYS | server.REFUSING)
    assert stage.store is not None
    way, admin = await stage.enters(Proxy(redis.url)), stage.store.client
    stage.url = way.url
    stage.work("-c", "10")
    stage.produce(count=1, rate=100, mix={"quick": 0.8, "flaky": 0.2})
    await stage.first_jobs()
    with stage.fault("slow and in pieces", pids=()):
        way.delay_s, way.piece_bytes = 0.01, 3
        await asyncio.sleep(seconds)
    with stage.fault("cut", pids=()):
        for _ in range(5):
            way.cut()
            await asyncio.sleep(seconds / 10)
    way.heal()
    with stage.fault("forgotten scripts, closed connections", pids=()):
        admin.script_flush()
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    refusals = server.Refusals(redis, "default")
    for refuses in (refusals.busy, refusals.readonly):
        with stage.fault(refuses.__name__, pids=()):
            async with refuses():
                await asyncio.sleep(seconds / 2)
    refusals.close()
    with stage.fault("SIGKILL", pids=(), heals="working"):
        redis.kill()
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(redis.start)
    await asyncio.sleep(seconds)
    with stage.fault("FLUSHALL", heals="working", forgets_s=server.EVERYTHING_S, charges=False) as flush:
        admin.flushall()
        flush.forgot = time.monotonic()
        await asyncio.sleep(server.LATE_S)
    await asyncio.sleep(seconds)


async def test_what_befalls_redis_and_the_network_costs_nothing(tmp_path):
    """The scenarios' short form; what a flush makes Redis forget is the last."""
    outcome = await play(Scenario("some of all", "", "", some_of_all), 0.4, "7", tmp_path / "stage")
    assert outcome.verdict.broken == [], report.line(outcome)
    assert outcome.verdict.done > 0
    assert len(outcome.verdict.recovered_s) == 2, "jobs that were sent after the kill and after the flush have ended"


def test_a_loss_of_power_takes_what_was_written_since(tmp_path, monkeypatch):
    """Breaks when it takes nothing, so that the scenario shows nothing; or more than what came in that time."""
    now = 1000.0
    monkeypatch.setattr("tests.chaos.scenarios.server.time.monotonic", lambda: now)
    directory = tmp_path / "appendonlydir"
    directory.mkdir()
    log = directory / "appendonly.aof.1.incr.aof"
    disk = server.Disk(tmp_path)
    for _ in range(20):
        with log.open("ab") as file:
            file.write(b"0123456789")
        disk.note()
        now += 0.1
    now -= 0.1  # of the last note
    assert disk.lose(1.0) == 100
    assert log.stat().st_size == 100
    assert disk.kept_until == pytest.approx(1000.9), "what is forgotten is counted from there"
