"""``rqueue bench``: what rqueue does on this machine and its user's Redis, beside which it leaves everything alone."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Final

import typer

from rqueue.app import RQueue
from rqueue.cli import options
from rqueue.cli.bench_report import COLUMNS, Report, Surroundings
from rqueue.cli.bench_workloads import Plan, Sample, Workloads
from rqueue.cli.output import show_json, show_table
from rqueue.cli.process import loop_factory
from rqueue.cli.trial import Url, start_server, terminated_like_interrupted
from rqueue.errors import BrokerError, ConfigError
from rqueue.log import LOGGER

Jobs = Annotated[int, typer.Option("--jobs", envvar="RQUEUE_JOBS", min=1, help="Jobs of a workload.")]
Concurrency = Annotated[
    int, typer.Option("-c", "--concurrency", envvar="RQUEUE_CONCURRENCY", min=1, help="Jobs at once in the worker.")
]
Rounds = Annotated[int, typer.Option("--rounds", envvar="RQUEUE_ROUNDS", min=1, help="How often each is measured.")]
Payload = Annotated[
    int,
    typer.Option(
        "--payload", envvar="RQUEUE_PAYLOAD", min=0, max=1_000_000, metavar="BYTES", help="Size of a job's argument."
    ),
]

_RESULT_TTL_S: Final = 600
"""Results go when their workload ends; those of a bench that is killed, after this time."""


def bench(
    jobs: Jobs = 20_000,
    concurrency: Concurrency = 100,
    rounds: Rounds = 3,
    payload: Payload = 200,
    url: Url = None,
    json: options.Json = False,
) -> None:
    """Measure enqueueing, a worker in this process, and round trips, on this machine and your Redis.

    Its keys begin with rqueue-bench- and a random part; they are removed at the end, and no other key is touched.
    It keeps Redis busy while it runs.
    """
    plan = Plan(jobs, concurrency, payload)
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        stack.enter_context(_each_warning_once())
        if url is None:
            url, place = start_server(stack)
            typer.echo("no Redis is named: this is an embedded one; --url measures yours", err=True)
        else:
            place = ""
        namespace = f"rqueue-bench-{secrets.token_hex(4)}"
        app = RQueue(url, namespace=namespace, result_ttl=_RESULT_TTL_S, results="redis")
        if app.endpoint.is_memory:
            raise ConfigError("memory:// is no server: there is nothing to measure")
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        report = runner.run(measure(app, plan, rounds, place or app.endpoint.shown, quiet=json))
    if json:
        show_json(report.document())
        return
    show_table(f"rounds: {rounds}; payload: {payload:,} bytes", COLUMNS, (row.cells() for row in report.rows))
    for warning in report.surroundings.warnings:
        typer.echo(f"note: {warning}")


async def measure(app: RQueue, plan: Plan, rounds: int, place: str, *, quiet: bool = False) -> Report:
    """Run all rounds, and leave none of the namespace's keys behind, however it ends.

    Args:
        app: its namespace is erased at the end.
        plan: how much to do in a round.
        rounds: how many.
        place: how to call the server.
        quiet: do not print where it runs.

    Raises:
        BrokerError: Redis cannot be reached, or refuses.
        BenchFailed: the figures would be wrong.
    """
    try:
        await app.open()
        surroundings = await Surroundings.of(app.session().broker, place)
        for line in () if quiet else surroundings.lines():
            typer.echo(line)
        return Report.of(surroundings, plan, await _run(app, plan, rounds))
    finally:
        await app.close()


async def _run(app: RQueue, plan: Plan, rounds: int) -> list[list[Sample]]:
    found: list[list[Sample]] = []
    workloads = Workloads(app, plan, lambda name: typer.echo(f"round {len(found) + 1} of {rounds}: {name}", err=True))
    try:
        while len(found) < rounds:
            found.append(await workloads.round())
    finally:
        await app.close()  # what is under way ends before the search for keys begins
        try:
            await app.session().broker.erase()
        except BrokerError as exc:
            raise BrokerError(f"not all keys of {app.keys.namespace}:* could be removed: {exc}") from exc
    return found


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Every worker of every round would say the same of the same Redis."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        line = f"{record.getMessage()} {getattr(record, 'rqueue', '')}"
        before = len(said)
        said.add(line)
        return len(said) > before

    LOGGER.addFilter(is_new)
    try:
        yield
    finally:
        LOGGER.removeFilter(is_new)
