"""The environment: ``RQUEUE_*`` before Celery's, the code before both; errors name the variable."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rqueue import ConfigError, Results, RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.environment import DEFAULT_URL, REDIS_COPY_S, Environment

BROKER = "redis://queue:6379/0"
PG = "postgresql://app:pw@db/app"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RQUEUE_URL", "RQUEUE_RESULTS", "RQUEUE_RESULT_TTL", "RQUEUE_RESULTS_RETENTION", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CELERY_BROKER", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_RESULT_EXPIRES", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def url_of(**variables: str) -> str:
    return Environment(variables).endpoint(None).url


def store_of(given: Results | str | None = None, **variables: str) -> str | None:
    found = Environment(variables).results(given, Endpoint(BROKER))
    return found.url if found else None


# --- the broker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, DEFAULT_URL),
        ({"CELERY_BROKER": "redis"}, DEFAULT_URL),
        ({"CELERY_BROKER": "redis", "REDIS_URL": "redis://one/3"}, "redis://one/3"),
        ({"CELERY_BROKER": "redis://one/1"}, "redis://one/1"),
        ({"CELERY_BROKER": "redis", "CELERY_BROKER_URL": "redis://two/1"}, "redis://two/1"),
        ({"CELERY_BROKER_URL": "redis://two/1", "RQUEUE_URL": "redis://three/1"}, "redis://three/1"),
        ({"CELERY_BROKER_URL": " ", "CELERY_BROKER": "redis://one/1", "RQUEUE_URL": ""}, "redis://one/1"),
        ({"CELERY_BROKER_URL": "redis+socket:///run/r.sock?virtual_host=2"}, "unix:///run/r.sock?db=2"),
        (
            {"CELERY_BROKER_URL": "rediss://one/0?ssl_cert_reqs=CERT_NONE"},
            "rediss://one/0?ssl_cert_reqs=none",
        ),
        ({"REDIS_URL": "redis://one/3"}, DEFAULT_URL),
    ],
    ids=str,
)
def test_where_redis_is(variables, url):
    assert url_of(**variables) == url


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"CELERY_BROKER": "rabbitmq"}, "CELERY_BROKER: .*'rabbitmq' is none"),
        ({"CELERY_BROKER_URL": "amqp://guest:secret@rabbit//"}, "CELERY_BROKER_URL: .*'amqp' is none: set RQUEUE_URL"),
        ({"CELERY_BROKER_URL": "guest:secret@rabbit"}, "CELERY_BROKER_URL: .*'…' is none"),
        ({"CELERY_BROKER_URL": "sentinel://one:26379;sentinel://two:26379"}, r"CELERY_BROKER_URL: .*redis\+sentinel"),
        ({"CELERY_BROKER_URL": "redis://one;redis://two"}, "CELERY_BROKER_URL: one address only"),
        ({"CELERY_BROKER": "redis", "REDIS_URL": "redis://:secret@one:port"}, "CELERY_BROKER: REDIS_URL: url "),
        ({"RQUEUE_URL": "http://:secret@one"}, "RQUEUE_URL: url "),
    ],
    ids=str,
)
def test_what_is_no_redis_is_refused_by_the_variables_name(variables, text):
    """Breaks when an error does not say where the value stands, or tells a password."""
    with pytest.raises(ConfigError, match=text) as refused:
        url_of(**variables)
    assert "secret" not in str(refused.value)


def test_what_the_code_says_goes_before_every_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RQUEUE_URL", "amqp://nowhere")
    monkeypatch.setenv("CELERY_RESULT_EXPIRES", "soon")
    app = RQueue(BROKER, result_ttl=5)
    assert (app.endpoint.url, app.config.limits.result_ttl_s, app.variables) == (BROKER, 5, ())
    assert store_of(PG, RQUEUE_RESULTS="sqlite:///x", CELERY_RESULT_BACKEND="postgres") == PG
    assert store_of("redis", RQUEUE_RESULTS="sqlite:///x") is None


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "url"),
    [
        ("postgres", PG),
        ("postgresql", PG),
        ("db+postgresql://u@db/x", "db+postgresql://u@db/x"),
        ("postgresql+psycopg2://u@db/x", "postgresql+psycopg2://u@db/x"),
        ("db+sqlite:///results.db", "db+sqlite:///results.db"),
        ("redis://queue/2", "redis://queue/2"),
        ("redis://other:6379/0", "redis://other:6379/0"),
        ("redis+socket:///run/r.sock", "unix:///run/r.sock"),
        ("redis", None),
        ("redis://queue", None),
        ("redis://:pw@QUEUE:6379/0?socket_timeout=3", None),
        ("rediss://queue:6379/", None),
        ("rpc://", None),
        ("disabled", None),
        ("", None),
    ],
)
def test_celerys_result_backends(backend, url):
    assert store_of(CELERY_RESULT_BACKEND=backend, DATABASE_URL=PG) == url


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"CELERY_RESULT_BACKEND": "postgres"}, "CELERY_RESULT_BACKEND: .*DATABASE_URL, which is not set"),
        (
            {"CELERY_RESULT_BACKEND": "postgres", "DATABASE_URL": "mysql://u:secret@h/x"},
            "CELERY.*DATABASE_URL.*'mysql'",
        ),
        ({"CELERY_RESULT_BACKEND": "mongodb://u:secret@h/x"}, "CELERY_RESULT_BACKEND: 'mongodb' is no store here"),
        ({"CELERY_RESULT_BACKEND": "django-db"}, "CELERY_RESULT_BACKEND: 'django-db' is no store here"),
        ({"CELERY_RESULT_BACKEND": "sentinel://h"}, "CELERY_RESULT_BACKEND: name the sentinels' master"),
        ({"RQUEUE_RESULTS": "postgres"}, "RQUEUE_RESULTS: .*DATABASE_URL, which is not set"),
        ({"RQUEUE_RESULTS": "history.db"}, "RQUEUE_RESULTS: results: not a URL"),
        ({"RQUEUE_RESULTS": "redis://queue"}, "RQUEUE_RESULTS: results: that is the broker's own Redis"),
    ],
    ids=str,
)
def test_what_is_no_store_is_refused_by_the_variables_name(variables, text):
    with pytest.raises(ConfigError, match=text) as refused:
        store_of(**variables)
    assert "secret" not in str(refused.value)


def test_the_brokers_redis_as_a_store_is_refused_in_the_code():
    for same in (BROKER, "redis://queue", Results("redis://user:pw@queue:6379/0")):
        with pytest.raises(ConfigError, match=re.escape("results: that is the broker's own Redis")):
            store_of(same)
    assert store_of("redis://queue/1") == "redis://queue/1"
    memory = Environment({}).results("memory://", Endpoint("memory://"))
    assert memory is not None, "each memory:// is a server of its own"


@pytest.mark.parametrize(
    ("broker", "url", "is_same"),
    [
        ("redis://localhost", "redis://127.0.0.1:6379/0", True),
        ("unix:///run/r.sock", "unix:///run/r.sock?db=0", True),
        ("unix:///run/r.sock", "unix:///run/r.sock?db=1", False),
        ("redis+cluster://a:7000,b:7000", "redis+cluster://b:7000,a:7000", True),
        ("redis+sentinel://a:26379/main/0", "redis+sentinel://a:26379/main/1", False),
        ("redis://a:6379/0", "redis://a:6380/0", False),
        ("redis://a/0?db=1", "redis://a/1", True),
    ],
)
def test_whether_two_urls_are_one_redis(broker, url, is_same):
    found = Environment({"CELERY_RESULT_BACKEND": url}).results(None, Endpoint(broker))
    assert (found is None) == is_same


@pytest.mark.parametrize(
    ("variables", "ttl"),
    [
        ({}, 3600),
        ({"CELERY_RESULT_EXPIRES": "0"}, None),
        ({"CELERY_RESULT_EXPIRES": "None"}, None),
        ({"CELERY_RESULT_EXPIRES": "86400.5"}, 86400.5),
        ({"CELERY_RESULT_EXPIRES": "0", "RQUEUE_RESULT_TTL": "60"}, 60),
        ({"RQUEUE_RESULT_TTL": "0"}, 0),
        ({"RQUEUE_RESULT_TTL": "none"}, None),
        ({"CELERY_RESULT_BACKEND": "disabled://"}, 0),
        ({"CELERY_RESULT_BACKEND": "disabled://", "CELERY_RESULT_EXPIRES": "5"}, 5),
        ({"CELERY_RESULT_BACKEND": "disabled://", "RQUEUE_RESULTS": "redis"}, 3600),
    ],
    ids=str,
)
def test_how_long_results_are_kept(variables, ttl, monkeypatch: pytest.MonkeyPatch):
    """Breaks when Celery's 0, for ever, is taken for rqueue's, not at all."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert RQueue().config.limits.result_ttl_s == ttl


def test_where_a_store_keeps_results_for_ever_redis_keeps_them_for_an_hour(monkeypatch: pytest.MonkeyPatch):
    def in_redis_s(**options: Any) -> float | None:
        limits = RQueue(BROKER, **options).config.limits
        return limits.in_redis_s(limits.result_ttl_s)

    assert in_redis_s(results=PG, result_ttl=None) == REDIS_COPY_S
    assert in_redis_s(results=PG, result_ttl=7200) == 7200
    assert in_redis_s(results=PG, result_ttl=0) == 0
    assert in_redis_s(result_ttl=None) is None
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "postgres")
    monkeypatch.setenv("CELERY_RESULT_EXPIRES", "0")
    monkeypatch.setenv("DATABASE_URL", PG)
    app = RQueue(BROKER)
    assert (app.config.results, app.config.limits.result_ttl_s, in_redis_s()) == (Results(PG), None, REDIS_COPY_S)
    assert app.variables == ("CELERY_RESULT_BACKEND", "CELERY_RESULT_EXPIRES")


async def test_a_store_bounds_what_redis_keeps_of_jobs(redis_url: str):
    """Breaks when a result that is kept for ever fills Redis though a database has it."""
    app = RQueue(redis_url, results="redis://127.0.0.1:1/0", result_ttl=None)

    @app.task(result_ttl=None)
    async def job() -> int:
        return 1

    handle = await job.options(countdown=60).enqueue()
    await handle.cancel()
    ttl = await app.session().broker._link.call(b"TTL", app.keys.queue("default").result(handle.id))
    await app.close()
    assert REDIS_COPY_S - 10 < ttl <= REDIS_COPY_S


@pytest.mark.parametrize("name", ["CELERY_RESULT_EXPIRES", "RQUEUE_RESULT_TTL"])
@pytest.mark.parametrize("value", ["1h", "-1", "nan", "inf", "60*60"])
def test_a_malformed_time_is_refused_by_the_variables_name(name, value):
    with pytest.raises(ConfigError, match=re.escape(f"{name} {value!r}: seconds")):
        Environment({name: value}).result_ttl(...)


def test_the_retention_is_the_codes_else_the_variables():
    def retention(given: Results | str, value: str = "30d") -> object:
        found = Environment({"RQUEUE_RESULTS_RETENTION": value}).results(given, Endpoint(BROKER))
        assert found is not None
        return found.retention

    assert retention(PG) == "30d"
    assert retention(Results(PG)) == "30d"
    assert retention(Results(PG, retention="7d")) == "7d"
    assert retention(PG, "") is None


# --- a worker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "pool", "notes"),
    [
        ("", None, 0),
        ("prefork", "prefork", 0),
        ("processes", "prefork", 0),
        ("threads", "threads", 0),
        ("solo", "solo", 0),
        ("gevent", "async", 1),
        ("eventlet", "async", 1),
        ("celery_aio_pool.pool:AsyncIOPool", "async", 1),
    ],
)
def test_celerys_pools(value, pool, notes):
    environment = Environment({"CELERY_WORKER_POOL": value})
    assert (environment.pool(), len(environment.notes)) == (pool, notes)
    assert all(f"CELERY_WORKER_POOL={value}" in note for note in environment.notes)


def test_celerys_numbers():
    environment = Environment(
        {
            "CELERY_WORKER_CONCURRENCY": "8",
            "CELERY_WORKER_PREFETCH_MULTIPLIER": "1",
            "CELERY_WORKER_MAX_TASKS_PER_CHILD": "1000",
        }
    )
    assert environment.concurrency("prefork") == 8
    assert environment.prefetch_multiplier() == 1
    assert environment.max_tasks("async") == 1000
    assert environment.used == [
        "CELERY_WORKER_CONCURRENCY",
        "CELERY_WORKER_PREFETCH_MULTIPLIER",
        "CELERY_WORKER_MAX_TASKS_PER_CHILD",
    ]
    assert not environment.notes


def test_celerys_zeros_are_the_defaults_and_the_one_that_cannot_be_is_said():
    environment = Environment(
        {
            "CELERY_WORKER_CONCURRENCY": "0",
            "CELERY_WORKER_PREFETCH_MULTIPLIER": "0",
            "CELERY_WORKER_MAX_TASKS_PER_CHILD": "0",
            "CELERY_TASK_TIME_LIMIT": "0",
            "CELERY_TASK_SOFT_TIME_LIMIT": "0",
        }
    )
    assert environment.concurrency("async") is environment.max_tasks("async") is None
    assert environment.time_limits(None, None) == (None, None)
    assert not environment.notes
    assert environment.prefetch_multiplier() is None
    assert environment.notes == [
        "CELERY_WORKER_PREFETCH_MULTIPLIER=0: there is no 'no limit' here; the default is used"
    ]


def test_in_the_pool_solo_celery_does_not_count_either():
    environment = Environment({"CELERY_WORKER_CONCURRENCY": "4", "CELERY_WORKER_MAX_TASKS_PER_CHILD": "9"})
    assert environment.concurrency("solo") is environment.max_tasks("solo") is None
    assert len(environment.notes) == 2


@pytest.mark.parametrize(
    ("given", "variables", "limits", "notes"),
    [
        ((None, None), {"TIME": "60", "SOFT_TIME": "50.5"}, (60, 50.5), 0),
        ((None, None), {"TIME": "60", "SOFT_TIME": "60"}, (60, None), 1),
        ((30, None), {"TIME": "60", "SOFT_TIME": "50"}, (30, None), 1),
        ((None, 20), {"TIME": "60", "SOFT_TIME": "50"}, (60, 20), 0),
        ((30, 20), {"TIME": "?", "SOFT_TIME": "?"}, (30, 20), 0),
    ],
    ids=str,
)
def test_celerys_time_limits(given, variables, limits, notes):
    environment = Environment({f"CELERY_TASK_{name}_LIMIT": value for name, value in variables.items()})
    assert environment.time_limits(*given) == limits
    assert len(environment.notes) == notes


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "²"])
def test_a_malformed_number_is_refused_by_the_variables_name(value):
    with pytest.raises(ConfigError, match=re.escape(f"CELERY_WORKER_CONCURRENCY {value!r}: a whole number")):
        Environment({"CELERY_WORKER_CONCURRENCY": value}).concurrency("async")
    with pytest.raises(ConfigError, match="CELERY_TASK_TIME_LIMIT 'x': seconds"):
        Environment({"CELERY_TASK_TIME_LIMIT": "x"}).time_limits(None, None)


# --- what is not used costs nothing -----------------------------------------------------------------------------------


def test_without_a_store_nothing_of_it_is_imported():
    """Breaks when a web process or a worker pays for SQLAlchemy that it does not use."""
    code = """
import asyncio, sys
from rqueue import RQueue
app = RQueue("memory://")
@app.task
async def add(a, b):
    return a + b
async def main():
    async with app, app.worker() as worker:
        job = await add.enqueue(1, 2)
        await worker.drain()
        assert await job.result(timeout=5) == 3
asyncio.run(main())
extra = {"sqlalchemy", "alembic", "asyncpg", "psycopg", "aiosqlite"}
print(sorted({name.partition(".")[0] for name in sys.modules} & extra))
print(sorted(name for name in sys.modules if name.startswith("rqueue.results.sql")))
"""
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
