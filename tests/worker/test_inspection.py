"""inspection: what a running worker tells an operator."""

import asyncio
import time
from datetime import timedelta

import pytest

from rqueue import Queue, RQueue
from rqueue.client.inspector import Inspector
from rqueue.worker.inspection import ARGS_SHOWN
from rqueue.worker.life import memory_bytes


@pytest.fixture
def app(url):
    return RQueue(url, queues=["default", Queue("email", priority=8)])


@pytest.fixture
async def worker(app, gate):
    @app.task(name="m.hold", max_retries=7, autoretry_for=(OSError,), default_retry_delay=timedelta(seconds=9))
    async def hold(*args, **kwargs):
        await gate()

    @app.task(name="m.fail", max_retries=0)
    async def fail():
        raise ValueError("no")

    @app.task(name="m.plain")
    async def plain():
        return 1

    async with app, app.worker(concurrency=2, shutdown_timeout=0) as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        yield worker


@pytest.fixture
def ask(app, worker):
    async def do(verb):
        (answer,) = (await Inspector(app).ask(verb, timeout=5)).answers
        assert (answer.worker, answer.error) == (worker.id, None)
        return answer.ok

    return do


async def test_ping(ask):
    assert await ask("ping") == "pong"


async def test_active_are_the_running_jobs(app, ask, gate):
    assert await ask("active") == []
    hold = app.tasks.find("hold")
    before = time.time()
    await hold.options(job_id="first", queue="email", priority=9).enqueue("dora", 2, third={"a": [1]})
    await gate.reached(1)
    await hold.options(job_id="second").enqueue("x" * 1000)
    await gate.reached(2)
    first, second = await ask("active")
    about = {"id": "first", "task": "m.hold", "queue": "email", "priority": 9, "retries": 0}
    assert first == about | {"args": "'dora', 2, third={'a': [1]}", "started": first["started"]} | {
        "seconds": first["seconds"]
    }
    assert before - 1 < first["started"] < time.time() + 1
    assert 0 <= first["seconds"] < 60
    assert (second["id"], second["priority"]) == ("second", None)
    assert len(second["args"]) == ARGS_SHOWN
    assert second["args"].endswith("…")
    gate.open()


async def test_a_large_message_is_not_decoded_for_its_arguments(app, ask, gate):
    await app.tasks.find("hold").enqueue("x" * 100_000)
    await gate.reached()
    (job,) = await ask("active")
    assert job["task"] == "m.hold"
    assert job["args"].endswith(" bytes")
    gate.open()


async def test_reserved_are_held_and_have_not_started(app, worker, ask, gate, until):
    hold = app.tasks.find("hold")
    worker._inflight.pace.allowance = lambda now_s: 3
    await app.enqueue_many([hold.s(), hold.s()])
    await gate.reached(2)
    await app.enqueue_many([hold.options(job_id="a", priority=2).s(1), hold.options(job_id="b").s()])
    worker._fetcher.poke()

    async def held():
        return len(found := await ask("reserved")) == 2 and found

    found = await until(held)
    assert [(job["id"], job["task"], job["priority"]) for job in sorted(found, key=lambda job: job["id"])] == [
        ("a", "m.hold", 2),
        ("b", "m.hold", None),
    ]
    assert all(0 <= job["held_seconds"] < 60 for job in found)
    gate.open()


async def test_scheduled_are_the_next_of_its_queues(app, ask):
    plain = app.tasks.find("plain")
    late = await plain.options(countdown=200, job_id="late").enqueue()
    soon = await plain.options(countdown=100, queue="email", job_id="soon").enqueue()
    await app.enqueue_many([plain.options(countdown=300).s() for _ in range(120)])
    found = await ask("scheduled")
    assert len(found) == 100
    assert [(job["id"], job["queue"]) for job in found[:2]] == [(soon.id, "email"), (late.id, "default")]
    assert 99 < found[1]["due"] - found[0]["due"] < 101


async def test_registered_tells_what_is_not_the_default(app, worker, ask):
    assert await ask("registered") == [
        {"name": "m.fail", "options": {"max_retries": 0}},
        {
            "name": "m.hold",
            "options": {"max_retries": 7, "default_retry_delay": 9.0, "autoretry_for": ["OSError"]},
        },
        {"name": "m.plain", "options": {}},
    ]
    await Inspector(app).ask("rate_limit", task="plain", rate="5/m", timeout=5)
    await Inspector(app).ask("time_limit", task="plain", soft=3, timeout=5)
    assert (await ask("registered"))[-1] == {
        "name": "m.plain",
        "options": {},
        "rate_limit": "5/m",
        "soft_time_limit": 3,
        "time_limit": None,
    }


async def test_stats_count_how_runs_ended(app, worker, ask, log):
    jobs = [await app.tasks.find(name).enqueue() for name in ("plain", "plain", "fail")]
    for job in jobs[:2]:
        await job.result(5)
    await log.heard("job failed")
    stats = await ask("stats")
    assert stats["total"] == {"m.plain": {"SUCCESS": 2}, "m.fail": {"FAILURE": 1}}
    assert stats["done"] == 3
    assert (stats["concurrency"], stats["most_held"], stats["pool"]) == (2, 8, "async")
    assert (stats["running"], stats["held"], stats["lost"], stats["dropped"]) == (0, 0, 0, 0)
    assert stats["stalls"] == {"count": 0, "last": []}
    assert 0 <= stats["lease_age"] < stats["lease"] == 15
    assert abs(stats["fetched"] - time.time()) < 30
    assert stats["rss"] is None or stats["rss"] > 1_000_000
    assert stats["redis"] == app.endpoint.shown


async def test_stats_name_what_blocked_the_loop(app, worker, ask):
    """How often, and of the last times when, for how long, and where."""
    worker._heart._name_blocker(1.2)
    stalls = (await ask("stats"))["stalls"]
    assert stalls["count"] == 1
    assert stalls["last"][0]["seconds"] == 1.2
    assert abs(stalls["last"][0]["at"] - time.time()) < 30


async def test_active_queues_are_those_that_are_served(app, ask):
    runs = {"paused": False, "paused_tasks": []}
    email = {"name": "email", "priority": 8, **runs}
    assert await ask("active_queues") == [{"name": "default", "priority": 5, **runs}, email]
    await Inspector(app).ask("cancel_consumer", queue="default", timeout=5)
    assert await ask("active_queues") == [email]


async def test_the_report_has_versions_and_settings_and_no_secret(redis_url, log):
    app = RQueue(redis_url.replace("://", "://:s3cret@"))  # the server asks for none, and takes it only without AUTH
    assert "s3cret" not in app.endpoint.shown
    app = RQueue(redis_url)
    async with app, app.worker() as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        (answer,) = (await Inspector(app).ask("report", timeout=5)).answers
        lines = dict(line.split(": ", 1) for line in answer.ok.splitlines())
        assert lines["worker"] == worker.id
        assert lines["server"].startswith(("Redis ", "Valkey "))
        assert lines["redis"] == app.endpoint.shown
        assert lines["worker.lease_s"] == "15.0"
        assert lines["limits.max_message_bytes"] == "1048576"
        assert {"rqueue", "python", "platform", "packages", "queues", "tasks"} <= set(lines)


def test_memory_is_in_bytes():
    rss = memory_bytes()
    assert rss is None or 1_000_000 < rss < 100_000_000_000
