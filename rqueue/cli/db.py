"""``rqueue db``: the tables of the database in which history is kept, and of the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import typer

from rqueue.cli import options
from rqueue.cli.exits import MEANINGS, Code
from rqueue.cli.lookup import find_keeper
from rqueue.cli.output import show_json
from rqueue.errors import ConfigError, MissingDependency
from rqueue.results.stores import is_redis

T = TypeVar("T")

commands = typer.Typer(help="The tables of the database that keeps history.", no_args_is_help=True)


@commands.command(epilog=MEANINGS)
def upgrade(app: options.App = None, results: options.Results = None, json: options.Json = False) -> None:
    """Make the tables, or bring them up to date; may be repeated, and run by several deployments at once."""
    schema, version = _modules()

    async def bring(engine: Any) -> tuple[str | None, list[str]]:
        return await schema.current(engine), await schema.upgrade(engine)

    done = _of_each(app, results, bring)
    if json:
        databases = {shown: warnings for shown, (_, warnings) in done.items()}
        show_json({"version": version.VERSION, "databases": databases})
        return
    for shown, (before, warnings) in done.items():
        typer.echo(f"{shown}: version {version.VERSION}, {_since(before, version.VERSION)}")
        for warning in warnings:
            typer.echo(f"rqueue: {warning}", err=True)


@commands.command(epilog=MEANINGS)
def current(app: options.App = None, results: options.Results = None, json: options.Json = False) -> None:
    """Show the version of the tables, and the one that this rqueue needs."""
    schema, version = _modules()
    found = _of_each(app, results, schema.current)
    if json:
        show_json({"version": version.VERSION, "databases": found})
        return
    for shown, one in found.items():
        typer.echo(f"{shown}: version {one or 'none'}, {version.complaint(one) or 'the newest'}")


@commands.command(epilog=MEANINGS)
def check(app: options.App = None, results: options.Results = None, json: options.Json = False) -> None:
    """Say what differs from the tables that this rqueue would make; the exit code is 1 if something does."""
    schema, version = _modules()
    differences = _of_each(app, results, schema.check)
    if json:
        show_json({"version": version.VERSION, "databases": differences})
    else:
        for shown, some in differences.items():
            for difference in some or ["nothing differs"]:
                typer.echo(f"{shown}: {difference}")
    if any(differences.values()):
        raise typer.Exit(Code.FAILED)


def _since(before: str | None, now: str) -> str:
    """What an upgrade has done."""
    if before is None:
        from rqueue.results.sql.tables import metadata

        return f"tables made: {', '.join(metadata.tables)}"
    return "as before" if before == now else f"brought up from {before}"


def _modules() -> tuple[Any, Any]:
    try:
        from rqueue.results.sql import schema, version
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("sqlalchemy", "alembic"):
            raise
        raise MissingDependency("a database of results needs SQLAlchemy: pip install 'rqueue[sql]'") from None
    return schema, version


def _of_each(app: str | None, results: str | None, function: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
    """What a function says of each of the app's databases, by their URLs without passwords."""
    from rqueue.results.sql.engine import engine_for, shown

    async def ask() -> dict[str, T]:
        said = {}
        for url in _urls(app, results):
            engine = engine_for(url)
            try:
                said[shown(engine)] = await function(engine)
            finally:
                await engine.dispose()
        return said

    return asyncio.run(ask())


def _urls(app: str | None, results: str | None) -> list[str]:
    kept = find_keeper(app, results).config.results
    if kept is None:
        raise ConfigError("the app keeps no history: give RQueue(results='postgresql+asyncpg://…'), or --results")
    urls = [url for url in (kept.url, kept.outbox) if url is not None and not is_redis(url)]
    if not urls:
        raise ConfigError("results: a Redis has no tables, there is nothing to do")
    return list(dict.fromkeys(urls))
