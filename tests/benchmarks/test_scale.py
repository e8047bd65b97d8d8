"""What does not vary of scale: the bytes of a job, the work of a claim at any backlog, and how many one job wakes."""

import importlib.util
import sys
from pathlib import Path

import pytest
import redis

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.embedded import EmbeddedServer

_spec = importlib.util.spec_from_file_location("rqueue_scale", Path(__file__).parents[2] / "benchmarks" / "scale.py")
assert _spec is not None
assert _spec.loader is not None
scale = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = scale
_spec.loader.exec_module(scale)

JOBS, CONNECTIONS = 20_000, 300
TEXT = "x" * 200


@pytest.fixture
def private():
    with EmbeddedServer() as running:
        yield running


async def test_a_waiting_and_a_scheduled_job_need_no_more_than_they_may(private):
    """The message, and what is kept beside it: ids, and the lists' own bytes. Fails when another key is written."""
    table = scale.Table()
    await scale.waiting(private, [scale.AT_ONCE, JOBS], 1, TEXT, table, commands=0)
    assert table.of("memory a waiting job") <= table.of(f"allowed: {scale.BUDGET}")
    client = redis.Redis.from_url(private.url)
    client.flushall()
    table = scale.Table()
    await scale.scheduled(private, [JOBS], 1, TEXT, table, commands=0)
    assert table.of("memory a scheduled job") <= table.of("message of a scheduled job") + scale.SCHEDULED_BYTES
    left = {name.decode().removeprefix("rqueue:").partition(":sent:")[0] for name in client.keys("*")}
    wanted = {"queues", "{default}:jobs", "{default}:scheduled", "{default}:scheduled:messages"}
    assert wanted <= left <= {*wanted, "{default}"}, "of a scheduled job; and a token, and the producer's record"


async def test_a_claim_costs_the_same_commands_at_any_backlog(redis_url):
    """Fails when a claim, or a look at the queue, walks over what waits."""
    app = scale.made(redis_url)
    counts = []
    async with app:
        broker, keys = Broker(Endpoint(redis_url), app.keys), app.keys.queue(scale.QUEUE)
        call = broker._link.call
        await broker.register(keys, "w", 60)
        for more in (scale.AT_ONCE, JOBS):
            await scale.fill(app, more, TEXT)
            await call(b"CONFIG", b"RESETSTAT")
            claim = await broker.claim([keys], [5], "w", 60, scale.AT_ONCE, 1 << 23)
            await broker.sizes(keys)
            stats = (await call(b"INFO", b"commandstats")).decode()
            counts.append({line.partition(",")[0] for line in stats.splitlines() if "config" not in line})
            await broker.release(keys, "w", [(each.raw, "", each.level) for each in reversed(claim.messages)])
        await broker.close()
    assert counts[0] == counts[1]


def test_one_job_wakes_one_of_many():
    """Fails when a message, or its token, ends more than one wait."""
    table = scale.Table()
    scale.allow_connections(CONNECTIONS)
    with EmbeddedServer() as server:
        scale.idle(server, CONNECTIONS, 20, table, quiet_s=0.0)
    woken = next(values for name, _, values in table.rows if name.startswith("woken by one job"))
    assert woken == [1.0] * 20


def test_too_many_connections_are_refused_with_a_reason(monkeypatch):
    monkeypatch.setattr(scale.resource, "getrlimit", lambda _: (1024, 4096))
    with pytest.raises(SystemExit, match="the system allows 4,096"):
        scale.allow_connections(5000)
