"""Which store a URL means, and what has to be installed for it."""

import sys

import pytest

from rqueue.config import Results
from rqueue.errors import ConfigError, MissingDependency
from rqueue.results.redis_store import RedisStore
from rqueue.results.stores import is_redis, store_for


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://localhost:6379/2", True),
        ("rediss://localhost:6379/2", True),
        ("unix:///run/redis.sock?db=2", True),
        ("valkey://localhost/2", True),
        ("redis+cluster://one:1,two:2", True),
        ("postgresql://db/app", False),
        ("db+sqlite:///history.db", False),
    ],
)
def test_which_are_a_redis(url, found):
    assert is_redis(url) is found


def test_a_redis_keeps_rows_as_long_as_results():
    store = store_for(Results("redis://localhost:6379/2"), "shop", 60.0)
    assert isinstance(store, RedisStore)
    assert (store._ttl_s, store._redis.keys.namespace) == (60, "shop")


def test_a_database(own_sqlite):
    assert store_for(Results(own_sqlite), "rqueue", None).shown.startswith("sqlite")


def test_what_is_none():
    with pytest.raises(ConfigError, match="mysql"):
        store_for(Results("mysql://db/app"), "rqueue", None)


def test_without_the_extra_its_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in [name for name in sys.modules if name.startswith("rqueue.results.sql")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match=r"pip install 'rqueue\[sql\]'"):
        store_for(Results("postgresql://db/app"), "rqueue", None)
