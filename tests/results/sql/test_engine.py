"""URLs as people and hosts of databases write them, and what an engine is told."""

import pytest

from rqueue.errors import ConfigError, MissingDependency, StoreUnavailable
from rqueue.results.sql import engine, queries
from rqueue.results.sql.calls import call
from rqueue.results.sql.engine import database_url, engine_for, shown

from .conftest import ask

URLS = {
    "postgres://u:p@db/app": "postgresql+asyncpg://u:p@db/app",
    "postgresql://u:p@db/app": "postgresql+asyncpg://u:p@db/app",
    "postgresql+psycopg2://u:p@db/app": "postgresql+asyncpg://u:p@db/app",
    "postgresql+asyncpg://u:p%40@db:6432/app?ssl=require": "postgresql+asyncpg://u:p%40@db:6432/app?ssl=require",
    "postgresql+psycopg://db/app?sslmode=require": "postgresql+psycopg://db/app?sslmode=require",
    "db+postgresql://u:p@db/app": "postgresql+asyncpg://u:p@db/app",
    "db+sqlite:///history.db": "sqlite+aiosqlite:///history.db",
    "sqlite:////tmp/history.db": "sqlite+aiosqlite:////tmp/history.db",
    "sqlite+aiosqlite:///history.db": "sqlite+aiosqlite:///history.db",
}


@pytest.mark.parametrize(("given", "used"), URLS.items(), ids=list(URLS))
def test_urls_as_they_are_commonly_written(given, used):
    assert database_url(given).render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@db/app",
        "db+mysql+pymysql://u:secret@db/app",
        "postgresql://u:secret@db:port/app",
        "//u:secret@db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////no/such/folder/history.db",
    ],
)
def test_what_is_no_database_of_ours_is_refused_and_its_password_not_shown(url):
    with pytest.raises(ConfigError) as raised:
        database_url(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("query", ["password=secret", "sslmode=require&sslpassword=secret", "nothing=secret"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_no_password_is_shown_wherever_it_stands(driver, query):
    made = engine_for(f"postgresql+{driver}://u:secret@127.0.0.1:1/app?{query}")
    assert shown(made) == f"postgresql+{driver}://u:***@127.0.0.1:1/app"
    with pytest.raises((ConfigError, StoreUnavailable)) as raised:
        await call(made, None)
    assert "secret" not in str(raised.value)
    await made.dispose()


async def test_whoever_waits_for_a_connection_waits_as_long_as_its_call_may_take(own_postgres):
    """Breaks when a page of history fails since some others were asked for at the same time."""
    made = engine_for(own_postgres)
    assert made.pool.timeout() > queries.TIMEOUT_S
    await made.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_another_schema_by_an_option_of_libpq(own_postgres, driver):
    url = own_postgres.replace("asyncpg", driver) + "?options=-csearch_path%3Dpg_catalog&application_name=shop"
    made = engine_for(url)
    assert await ask(made, "SELECT current_schema(), current_setting('application_name')") == [("pg_catalog", "shop")]
    await made.dispose()


@pytest.mark.parametrize(
    ("there", "url", "then"),
    [
        ({"psycopg"}, "postgresql://db/app", "postgresql+psycopg"),
        ({"asyncpg"}, "postgresql+psycopg2://db/app", "postgresql+asyncpg"),
        (set(), "postgresql://db/app", None),
        ({"asyncpg"}, "postgresql+psycopg://db/app", None),
        (set(), "sqlite:///history.db", None),
    ],
)
def test_the_driver_is_one_that_is_there(monkeypatch, there, url, then):
    monkeypatch.setattr(engine, "find_spec", lambda name: name if name in there else None)
    if then is not None:
        assert database_url(url).drivername == then
        return
    with pytest.raises(MissingDependency, match="pip install"):
        database_url(url)


def test_options_of_libpq_reach_asyncpg():
    """SQLAlchemy hands it all options as arguments, of which it knows no `sslmode`."""
    made = engine_for("postgres://u:p@db/app?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x&timeout=3")
    _, options = made.sync_engine.dialect.create_connect_args(made.url)
    assert set(options) == {"host", "database", "user", "password", "timeout"}
    _, told = engine._for_asyncpg(database_url("postgres://db/app?sslmode=require&application_name=a b"))
    assert told == {"dsn": "postgresql://?sslmode=require&application_name=a+b"}


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_options_of_libpq_mean_the_same_to_both_drivers(own_postgres, driver):
    """The test's server has no TLS: it is not asked for it, or is refused for that."""
    url = own_postgres.replace("asyncpg", driver)
    plain = engine_for(f"{url}?sslmode=disable&application_name=reports")
    assert await ask(plain, "SELECT current_setting('application_name')") == [("reports",)]
    await plain.dispose()
    secure = engine_for(f"{url}?sslmode=require")
    with pytest.raises(Exception, match=r"(?i)ssl"):
        await ask(secure, "SELECT 1")
    await secure.dispose()


async def test_a_file_has_readers_beside_its_writer(own_sqlite):
    made = engine_for(own_sqlite)
    assert await ask(made, "PRAGMA journal_mode") == [("wal",)]
    await made.dispose()


async def test_a_file_may_lie_beside_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = engine_for("sqlite:///history.db")
    await ask(made, "SELECT 1")
    await made.dispose()
    assert (tmp_path / "history.db").exists()


def test_the_data_is_not_shown_in_errors(own_sqlite):
    assert engine_for(own_sqlite).sync_engine.hide_parameters
