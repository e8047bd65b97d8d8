"""``RQueue``: each of its options is checked where it is written, and ``async with`` opens and closes it."""

import inspect
import math
import re
import subprocess
import sys
from datetime import timedelta

import pytest

from rqueue import BrokerUnavailable, ConfigError, Queue, RQueue
from rqueue.config import Limits, WorkerConfig

# --- options ----------------------------------------------------------------------------------------------------------


def test_the_defaults():
    app = RQueue()
    assert repr(app) == "RQueue('redis://localhost:6379/0')"
    assert app.config.limits == Limits()
    assert app.config.queues == {"default": Queue("default", priority=5)}
    assert app.config.routes == ()
    assert app.config.namespace == "rqueue"
    assert app.eager is None


def test_queues_may_be_names_or_queues():
    app = RQueue("memory://", queues=["default", Queue("email", priority=3)])
    assert app.config.queues == {"default": Queue("default"), "email": Queue("email", priority=3)}
    assert list(app.config.queues) == ["default", "email"]


def test_times_may_be_timedeltas():
    minute = timedelta(minutes=1)
    app = RQueue("memory://", result_ttl=minute, dead_ttl=minute, enqueue_timeout=minute)
    limits = app.config.limits
    assert (limits.result_ttl_s, limits.dead_ttl_s, limits.enqueue_timeout_s) == (60, 60, 60)
    assert RQueue("memory://", result_ttl=None).config.limits.result_ttl_s is None


def test_durability_is_the_apps_else_the_environments(monkeypatch):
    """Breaks when a variable weakens what the code asks for, or counts for nothing."""
    monkeypatch.delenv("RQUEUE_DURABILITY", raising=False)
    assert RQueue("memory://").config.limits.durability == "memory"
    monkeypatch.setenv("RQUEUE_DURABILITY", "fsync")
    assert RQueue("memory://").config.limits.durability == "fsync"
    limits = RQueue("memory://", durability="replicated", replicas=2).config.limits
    assert (limits.durability, limits.replicas) == ("replicated", 2)
    monkeypatch.setenv("RQUEUE_DURABILITY", "disk")
    with pytest.raises(ConfigError, match="durability 'disk'"):
        RQueue("memory://")


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("queues", ["a", Queue("a")], "queue 'a': named twice"),
        ("queues", ["{a}"], "A-Z a-z 0-9 . _ -"),
        ("queues", ["a b"], "A-Z a-z 0-9 . _ -"),
        ("routes", {"*": "{a}"}, "A-Z a-z 0-9 . _ -"),
        ("namespace", "a b", "namespace 'a b'"),
        ("namespace", "", "namespace ''"),
        ("max_message_bytes", 0, "max_message_bytes 0"),
        ("max_message_bytes", "1MB", "max_message_bytes '1MB'"),
        ("result_ttl", -1, "result_ttl -1"),
        ("result_ttl", "1h", "result_ttl '1h'"),
        ("dead_max", 0, "dead_max 0"),
        ("dead_ttl", 0, "dead_ttl 0"),
        ("enqueue_timeout", 0, "enqueue_timeout 0"),
        ("enqueue_timeout", 3601, "at most 3600"),
        ("enqueue_timeout", math.nan, "enqueue_timeout nan"),
        ("enqueue_timeout", None, "enqueue_timeout None"),
        ("durability", "disk", "durability 'disk'"),
        ("replicas", 0, "replicas 0"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_wrong_option_is_refused_by_name(option, value, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        RQueue("memory://", **{option: value})


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://localhost", "redis", "amqp://u:secret@host", "redis://host:port"]
)
def test_a_wrong_url_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="url") as caught:
        RQueue(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown():
    assert repr(RQueue("redis://user:secret@host:1/2?client_name=secret")) == "RQueue('redis://user:***@host:1/2')"


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h", "unix:///tmp/s", "valkey://h:1/2", "valkeys://h", "memory://"]
)
def test_the_kinds_of_url(url):
    RQueue(url)


def test_each_option_is_described():
    arguments = inspect.cleandoc(RQueue.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    described = set(re.findall(r"^    (\w+): ", arguments, re.MULTILINE))
    assert described == set(inspect.signature(RQueue).parameters)


# --- worker -----------------------------------------------------------------------------------------------------------


def test_a_worker_serves_all_of_the_apps_queues_by_default():
    app = RQueue("memory://", queues=["a", "b"])
    assert app.worker()._config == WorkerConfig(queues=("a", "b"))
    assert app.worker(["b"])._config.queues == ("b",)
    assert app.worker(queues=["elsewhere"])._config.queues == ("elsewhere",)


def test_a_workers_options_are_the_configurations():
    worker = RQueue("memory://").worker(
        concurrency=3, prefetch_multiplier=2, lease=timedelta(seconds=9), shutdown_timeout=0, max_deliveries=7
    )
    assert worker._config == WorkerConfig(
        queues=("default",), concurrency=3, prefetch_multiplier=2, lease_s=9, shutdown_timeout_s=0, max_deliveries=7
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queues": ["{a}"]}, "queue '{a}'"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"prefetch_multiplier": 0}, "prefetch_multiplier 0"),
        ({"lease": 0}, "lease 0"),
        ({"shutdown_timeout": -1}, "shutdown_timeout -1"),
        ({"concurency": 3}, "concurency"),
    ],
)
def test_a_workers_wrong_option_is_refused(options, text):
    with pytest.raises((ConfigError, TypeError), match=re.escape(text)):
        RQueue("memory://").worker(**options)


def test_a_string_is_not_a_list_of_queues():
    """`queues="email"` would serve five queues of one letter each. Breaks when the string is taken apart."""
    with pytest.raises(ConfigError, match="queues 'email'"):
        RQueue("memory://").worker(queues="email")
    with pytest.raises(ConfigError, match="queues 'email'"):
        RQueue("memory://", queues="email")


def test_a_process_that_only_enqueues_never_loads_the_worker():
    script = """
import sys, asyncio
from rqueue import RQueue
app = RQueue("memory://")
@app.task
async def job(): ...
async def main():
    async with app:
        await job.enqueue()
asyncio.run(main())
print([name for name in sys.modules if name.startswith("rqueue.worker") or name == "rqueue.cli"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- opening and closing ----------------------------------------------------------------------------------------------


async def test_async_with_opens_and_closes(url):
    app = RQueue(url)
    async with app as opened:
        assert opened is app
        assert app.session().broker._link.is_open
    assert not app._sessions


async def test_async_with_closes_after_an_error_too(url):
    app = RQueue(url)
    with pytest.raises(LookupError):
        async with app:
            raise LookupError
    assert not app._sessions


async def test_redis_away_is_told_at_the_opening_and_names_the_place():
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        async with RQueue("redis://127.0.0.1:1/0"):
            pass


async def test_app_and_worker_in_one_line(url):
    app = RQueue(url, queues=[Queue("default"), Queue("email", priority=3)])

    @app.task(queue="email")
    async def job(n: int) -> int:
        return n

    async with app, app.worker(queues=["email"], concurrency=10) as worker:
        jobs = await app.enqueue_many([job.s(n) for n in range(20)])
        await worker.drain()
        assert [await each.result(timeout=5) for each in jobs] == list(range(20))
        late = await job.options(countdown=0.05).enqueue(7)
        await worker.drain(scheduled=True)
        assert await late.result(timeout=5) == 7
