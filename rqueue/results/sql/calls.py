"""One call to the database: bounded in time, tried again where that helps, and its errors by what is to be done.

A server that has stopped, or a network that drops what is sent, answers nothing at all. A driver whose await is
cancelled then waits for that server once more, to tell it so: :func:`call` breaks the connection instead, and returns
at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rqueue.errors import ConfigError, SchemaMismatch, StoreUnavailable
from rqueue.results.patience import Patience
from rqueue.results.sql.version import UPGRADE

T = TypeVar("T")

TIMEOUT_S: Final = 2.0
"""What one call may take, a new connection included: a write of thousands of rows takes some tens of milliseconds."""

_TRIES: Final = 5
# By PostgreSQL's SQLSTATE, or the first two characters of it, its class.
_PASSING: Final = (
    "40001",
    "40P01",
    "0A000",
)  # a serialization failure, a deadlock, a plan that an upgrade has outdated
_NO_TABLES: Final = ("42P01", "42703", "42P10", "3F000")
_DATA: Final = ("21", "22", "23", "54")
_NO_SQLITE_TABLES: Final = ("no such table", "no such column", "has no column named", "ON CONFLICT clause does not")

_held: ContextVar[list[Any] | None] = ContextVar("_held", default=None)
_leaving: set[asyncio.Task[Any]] = set()  # the loop itself holds its tasks weakly


class Refused(Exception):
    """The database does not store this data, and never will."""


async def call(
    engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]], *, timeout_s: float = TIMEOUT_S
) -> T:
    """Do some work on a connection. It may be done more than once, so it must be repeatable.

    Args:
        engine: the database's.
        work: what is to be done; given the connection.
        timeout_s: seconds that all of it may take.

    Raises:
        StoreUnavailable: the database cannot be reached, did not answer in time, or refuses to do such work.
        SchemaMismatch: a table or a column is not there.
        Refused: the data cannot be stored.
        ConfigError: the driver does not know an option in the URL.
    """
    patience = Patience(timeout_s)
    for left in reversed(range(_TRIES)):
        try:
            return await _bounded(engine, work, patience)
        except DBAPIError as exc:
            # A connection that had lain idle may have been closed long ago: only a fresh one tells whether it answers.
            is_worth_it = exc.connection_invalidated or _sqlstate(exc) in _PASSING
            if not left or not is_worth_it:
                raise meaning(exc) from exc
        except StoreUnavailable:
            raise
        except OSError as exc:
            raise meaning(exc) from exc
    raise AssertionError


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection, for as long as it takes.

    Raises:
        StoreUnavailable: there is none.
        ConfigError: the driver does not know an option in the URL.
    """
    try:
        connection = await engine.connect()
    except TypeError as exc:  # the driver's, of an option that it does not know
        raise ConfigError(f"results {engine.url.set(query={}).render_as_string()!r}: {exc}") from None
    except (DBAPIError, OSError):
        raise
    except Exception as exc:  # each driver has its own errors before it is connected
        raise StoreUnavailable(f"the result store cannot be reached: {first_line(exc)}") from exc
    try:
        yield connection
    finally:
        await connection.close()


def note(connection: Any, _: object) -> None:
    """Told by the engine of each new connection, before anything is asked on it: from now on it can be broken."""
    held = _held.get()
    if held is not None:
        held.append(connection.driver_connection)


async def close(engine: AsyncEngine) -> None:
    """Close its connections, and wait no longer for what was left."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(engine.dispose())
    _leaving.add(task)
    task.add_done_callback(_left)
    await asyncio.wait([each for each in _leaving if each.get_loop() is loop], timeout=TIMEOUT_S)


def meaning(error: Exception) -> Exception:
    """What a driver's or SQLAlchemy's error means to whoever keeps results."""
    state, text = _sqlstate(error), first_line(error)
    if state in _NO_TABLES or (not state and any(said in text for said in _NO_SQLITE_TABLES)):
        return SchemaMismatch(f"the result store's tables are not those of this version: {text}; {UPGRADE}")
    if state[:2] in _DATA or (not state and isinstance(error, DataError | IntegrityError)):
        return Refused(text)
    return StoreUnavailable(f"the result store cannot be used: {text}")


def first_line(error: BaseException) -> str:
    """What a database says, without the lines below, in which it quotes the data."""
    said = getattr(error, "orig", None) or error
    # SQLAlchemy's adapter for asyncpg wraps the error once more, and puts its class before the text.
    said = said.__cause__ or said
    return next(iter(str(said).splitlines()), "") or type(said).__name__


def _sqlstate(error: BaseException) -> str:
    said = getattr(error, "orig", None) or error
    return getattr(said, "sqlstate", None) or ""


async def _bounded(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]], patience: Patience) -> T:
    held: list[Any] = []

    async def go() -> T:
        _held.set(held)
        async with connected(engine) as connection:
            held[:] = [(await connection.get_raw_connection()).driver_connection]
            return await work(connection)

    task = asyncio.create_task(go())
    try:
        await patience.wait(task)
    finally:
        if not task.done():
            _leave(task, held)
    if not task.done():
        raise StoreUnavailable("the result store does not answer")
    return task.result()


def _leave(task: asyncio.Task[Any], held: list[Any]) -> None:
    """Let a call end by itself: what it waits for fails at once, since its connection is broken."""
    _leaving.add(task)
    task.add_done_callback(_left)
    if not held or not _break(held[0]):
        task.cancel()


def _left(task: asyncio.Task[Any]) -> None:
    _leaving.discard(task)
    if not task.cancelled():
        task.exception()  # is known: whoever asked was told that there is no answer


def _break(driver: Any) -> bool:
    if hasattr(driver, "terminate"):  # asyncpg
        driver.terminate()
        return True
    if hasattr(driver, "fileno"):  # psycopg: it waits until there is something to read, and the end counts as that
        with suppress(OSError), socket.socket(fileno=os.dup(driver.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        return True
    return False
