"""A call is bounded, tried again where that helps, and its errors say what is to be done."""

import asyncio
import os
import signal

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidRequestError

from rqueue.errors import ConfigError, SchemaMismatch, StoreUnavailable
from rqueue.results.sql import calls
from rqueue.results.sql.calls import Refused, call, close
from rqueue.results.sql.engine import engine_for

from .conftest import ask


@pytest.fixture(params=["asyncpg", "psycopg"])
async def driven(request, postgres, shared_postgres):
    """An engine with one connection, so that one which is not given back is missed."""
    made = engine_for(postgres.url(shared_postgres, request.param), pool_size=1)
    yield made
    await made.dispose()


@pytest.fixture
def frozen():
    """Stop a process; it goes on at the end."""
    stopped = []

    def stop(pid):
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield stop
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


def fails(sqlstate, times=1):
    """Work that the server refuses so often, and how often it was tried."""
    tried = []

    async def work(connection):
        tried.append(sqlstate)
        if len(tried) <= times:
            raised = f"RAISE EXCEPTION E'said\\nDETAIL: the secret data' USING ERRCODE = '{sqlstate}'"
            await connection.execute(text(f"DO $$ BEGIN {raised}; END $$"))
        return (await connection.execute(text("SELECT 'done'"))).scalar()

    return work, tried


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_what_passes_by_itself_is_tried_again(driven, sqlstate):
    """Breaks when a deadlock, in which nothing was written, takes the store for away."""
    work, tried = fails(sqlstate, 3)
    assert await call(driven, work) == "done"
    assert len(tried) == 4
    work, tried = fails(sqlstate, 100)
    with pytest.raises(StoreUnavailable):
        await call(driven, work)
    assert len(tried) == 5


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("22P02", Refused),
        ("22003", Refused),
        ("23502", Refused),
        ("54000", Refused),
        ("21000", Refused),
        ("42P01", SchemaMismatch),
        ("42703", SchemaMismatch),
        ("42501", StoreUnavailable),
        ("53100", StoreUnavailable),
        ("57014", StoreUnavailable),
        ("25006", StoreUnavailable),
        ("XX000", StoreUnavailable),
    ],
)
async def test_an_error_says_what_is_to_be_done_and_quotes_no_data(driven, sqlstate, error):
    """The lines below the first are where a database quotes the row. Breaks when a full disk counts as bad data."""
    work, tried = fails(sqlstate)
    with pytest.raises(error, match="said") as raised:
        await call(driven, work)
    assert type(raised.value) is error
    assert "secret" not in str(raised.value)
    assert len(tried) == 1
    assert await call(driven, work) == "done"


async def test_a_connection_that_was_closed_while_it_lay_idle_is_not_noticed(driven):
    """By a restart, a firewall or a pooler. Breaks when the first write afterwards takes the store for away."""
    ((pid,),) = await ask(driven, "SELECT pg_backend_pid()")
    other = engine_for(driven.url.render_as_string(hide_password=False))
    await ask(other, f"SELECT pg_terminate_backend({pid}, 1000)")
    await other.dispose()
    work, tried = fails("", 0)
    assert await call(driven, work) == "done"
    assert ((pid,),) != await ask(driven, "SELECT pg_backend_pid()")
    assert 1 <= len(tried) <= 2


async def sleep(connection):
    await connection.execute(text("SELECT pg_sleep(60)"))


async def test_a_call_that_takes_too_long_gives_its_connection_back(driven):
    """Breaks when the pool is empty after a few statements that were not waited for."""
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await call(driven, sleep, timeout_s=0.1)
    assert await call(driven, fails("", 0)[0]) == "done"


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 30, 100])
async def test_a_call_that_is_cancelled_gives_its_connection_back(driven, turns):
    """At whatever point of it. Breaks when a connection that is just being made is waited for, or forgotten."""
    for _ in range(3):
        task = asyncio.create_task(call(driven, sleep, timeout_s=60))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    while calls._leaving:  # the pool wakes nobody when a connection was not made after all
        await asyncio.sleep(0)
    assert await call(driven, fails("", 0)[0]) == "done"


async def test_a_connection_that_hangs_is_given_up_at_once(driven, frozen):
    """Its host is gone, and another one has its name. Breaks when the driver is cancelled, and waits for it longer."""

    async def work(connection):
        frozen((await connection.execute(text("SELECT pg_backend_pid()"))).scalar())
        await connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        await call(driven, work, timeout_s=0.5)
    assert await call(driven, fails("", 0)[0]) == "done"


async def test_a_connection_that_hangs_while_it_is_set_up_is_given_up_as_well(driven, frozen):
    """Drivers ask a few things on each new one. Breaks when a call knows its connection only when it has it."""

    @event.listens_for(driven.sync_engine, "connect", once=True)
    def hang(connection, _):
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        frozen(cursor.fetchone()[0])
        cursor.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await call(driven, sleep, timeout_s=0.5)
    if calls._leaving:
        await asyncio.wait(set(calls._leaving), timeout=1.5)  # drivers wait for two seconds, or for ten
    assert not calls._leaving
    assert await call(driven, fails("", 0)[0]) == "done"


async def test_who_waits_for_a_connection_in_vain_is_told_in_time(driven):
    busy = asyncio.create_task(call(driven, sleep, timeout_s=60))
    await asyncio.wait({busy}, timeout=0.2)
    with pytest.raises(StoreUnavailable):
        await call(driven, sleep, timeout_s=0.1)
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy


async def test_our_own_mistakes_are_not_hidden(driven):
    """Breaks when a bug looks like a database that is away, and is waited for."""

    async def work(connection):
        await connection.start()

    with pytest.raises(InvalidRequestError):
        await call(driven, work)


async def test_an_option_that_the_driver_does_not_know(postgres):
    made = engine_for(postgres.url() + "?no_such_option=1")
    with pytest.raises(ConfigError, match="no_such_option"):
        await call(made, sleep)
    await close(made)


async def test_sqlites_errors_by_their_words(engine):
    if engine.dialect.name != "sqlite":
        return
    for statement, error in (
        ("SELECT * FROM no_such_table", SchemaMismatch),
        ("SELECT no_such_column FROM rqueue_jobs", SchemaMismatch),
        ("INSERT INTO rqueue_marks (name, at) VALUES (NULL, 1)", Refused),
        ("no such statement", StoreUnavailable),
    ):
        with pytest.raises(error):
            await call(engine, lambda connection, statement=statement: connection.execute(text(statement)))
