"""The checks of the result store: whether it answers, as this version knows it, and what waits for it in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from rqueue.client.checkup.finding import Finding, Level
from rqueue.config import age_s
from rqueue.errors import ConfigError, MalformedMessage, MissingDependency, SchemaMismatch, StoreError
from rqueue.results.entry import Entry
from rqueue.results.store import ResultStore
from rqueue.results.stores import is_redis
from rqueue.wire.history import is_moment
from rqueue.wire.keys import QueueKeys
from rqueue.wire.record import decode_record
from rqueue.wire.seal import open_record

if TYPE_CHECKING:
    from rqueue.client.client import Client

LATE_S: Final = 60
"""Workers bring what waits to a store that answers at each heartbeat."""

_NEARLY_FULL: Final = 0.8
_UPGRADE: Final = "rqueue db upgrade"


async def examine_store(client: Client) -> list[Finding]:
    """What is found of the app's store; nothing where it has none."""
    if (results := client.config.results) is None:
        return []
    try:
        store = client.session().store()
        await store.open()
        found = [*await _examine_tables(store)]
    except SchemaMismatch as exc:
        return [Finding("results", Level.PROBLEM, f"{exc}; workers do not start", "", _UPGRADE)]
    except (StoreError, ConfigError, MissingDependency) as exc:
        return [
            Finding("results", Level.PROBLEM, f"the store cannot be asked: {exc}", "", "see what it needs to answer")
        ]
    age = results.retention if not is_redis(results.url) else client.config.limits.result_ttl_s
    kept = "for ever" if age is None else f"for {timedelta(seconds=age_s(age))}"
    return found or [Finding("results", Level.OK, f"{store.shown} answers; rows are kept {kept}")]


async def examine_spool(client: Client, keys: QueueKeys) -> list[Finding]:
    """What is found of what waits in a queue for the store.

    Raises:
        BrokerError: Redis cannot be reached, or refuses.
    """
    broker = client.session().broker
    (entries, size, lost), (bound, first) = await broker.spooled(keys), await broker.spool_head(keys)
    seen = Waiting(entries, size, lost, bound, _age_s(client, keys, first))
    return [*spool(keys.name, seen, has_store=client.config.results is not None)]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What was seen of a queue's spool.

    Attributes:
        entries, bytes: how much waits.
        lost: how many ends did not fit, in about the last week.
        bound: how many bytes may wait; None: no worker of the queue has had a store for a day.
        age_s: for how long the first one waits, as far as it says.
    """

    entries: int = 0
    bytes: int = 0
    lost: int = 0
    bound: int | None = None
    age_s: float | None = None


def spool(queue: str, seen: Waiting, *, has_store: bool) -> Iterator[Finding]:
    """What is wrong with it."""
    if seen.lost:
        text = f"{seen.lost:,} job(s) of about the last week have no row: there was no room for them to wait"
        yield Finding(
            "spool", Level.PROBLEM, text, queue, "a larger spool_bytes, or a store that is away for less long"
        )
    if not seen.entries:
        if seen.bound is not None and not has_store:
            text = "its workers have a store, and this app has none: it was not looked at"
            yield Finding("results", Level.NOTE, text, queue, "name the app: rqueue doctor -A module:app")
        return
    waits = "" if seen.age_s is None else f", the first for {seen.age_s:,.0f} s"
    text = f"{seen.entries:,} job(s) wait for the store{waits}, with {seen.bytes:,} bytes"
    if seen.bound is None:
        text += "; no worker with a store has served the queue for a day"
        yield Finding("spool", Level.PROBLEM, text, queue, "start a worker whose app has results=")
    elif seen.bytes >= _NEARLY_FULL * seen.bound:
        text += f"; from {seen.bound:,} on they have no row"
        yield Finding("spool", Level.PROBLEM, text, queue, "bring the store back, or give it a larger spool_bytes")
    elif seen.age_s is None or seen.age_s >= LATE_S:
        yield Finding("spool", Level.WARNING, text, queue, "is the store away for the workers? look at their logs")
    else:
        yield Finding("spool", Level.NOTE, text, queue, "workers write them at their next heartbeat")


async def _examine_tables(store: ResultStore) -> list[Finding]:
    """What a database lacks that works all the same."""
    # The extra `sql` is there, where the store is one of its own.
    if not hasattr(store, "engine"):
        return []
    from rqueue.results.sql.calls import call
    from rqueue.results.sql.partitions import months_ahead
    from rqueue.results.sql.schema import check

    found = [Finding("results", Level.WARNING, each, "", "rqueue db check") for each in await check(store.engine)]
    ahead = await call(store.engine, lambda connection: months_ahead(connection, datetime.now(UTC)))
    if ahead is not None and ahead < 1:
        text = "the table has no partition for the next month: its rows go to the one for all others"
        found.append(Finding("results", Level.WARNING, text, "", _UPGRADE))
    return found


def _age_s(client: Client, keys: QueueKeys, first: bytes | None) -> float | None:
    """For how long an entry waits: since its job ended, as far as it says."""
    if first is None:
        return None
    try:
        entry = Entry.decode(first)
        finished = decode_record(open_record(client.keyring, keys.main, entry.id, entry.record)).get("finished")
    except MalformedMessage:  # or sealed by other keys
        return None
    return (client.session().broker.clock.now_ms() - finished) / 1000 if is_moment(finished) else None
