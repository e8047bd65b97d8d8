"""What is a Redis's own, as a result store: rows expire, and it shares its keys with nobody."""

import re
from pathlib import Path

import pytest
import redis

from rqueue.errors import ConfigError, StoreUnavailable
from rqueue.results.redis_store import RedisStore

from .conftest import make_row


@pytest.fixture
async def made(redis_url):
    stores = []

    def make(**options):
        stores.append(RedisStore(redis_url, **options))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def there(redis_url):
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


@pytest.mark.parametrize(("ttl_s", "ttl"), [(3600.0, 3600), (0.2, 1), (None, -1)])
async def test_rows_are_kept_as_long_as_results(made, there, ttl_s, ttl):
    row = make_row()
    await made(ttl_s=ttl_s).save([row])
    assert there.keys() == [f"rqueue:row:{row.id}".encode()]
    assert there.ttl(f"rqueue:row:{row.id}") == ttl
    assert await made(ttl_s=ttl_s).find(row.id) == row


async def test_where_results_are_not_kept_rows_are_not_either(made, there):
    assert not await made(ttl_s=0).save([make_row()])
    assert there.keys() == []


async def test_each_namespace_has_its_own(made):
    row = make_row()
    await made(namespace="one").save([row])
    assert await made(namespace="one").find(row.id) == row
    assert await made(namespace="two").find(row.id) is None


async def test_a_redis_that_is_full_is_unavailable(made, there):
    """Breaks when rows are lost without a word: they may be written later."""
    there.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await made().save([make_row()])
    finally:
        there.config_set("maxmemory", 0)


async def test_the_rights_that_the_docs_name_are_enough(redis_url, there):
    """Breaks when it needs one more, and does nothing at a guarded server."""
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"`(~rqueue:row:\S+ [^`]+)`", text)
    there.execute_command("ACL", "SETUSER", "keeper", "reset", "on", ">secret", *rules.split())
    store = RedisStore(redis_url.replace("redis://", "redis://keeper:secret@"), ttl_s=60)
    try:
        await store.open()
        row = make_row()
        assert not await store.save([row])
        assert await store.find(row.id) == row
    finally:
        await store.close()
        there.execute_command("ACL", "DELUSER", "keeper")


def test_what_it_is_shown_as():
    assert "secret" not in RedisStore("redis://user:secret@host/2").shown
    with pytest.raises(ConfigError):
        RedisStore("redis://user:secret@host:port/2")
