"""The check of the outbox: whether what transactions have committed is sent to Redis."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rqueue.client.checkup.finding import Finding, Level
from rqueue.errors import ConfigError, MissingDependency, StoreError
from rqueue.results.stores import outbox_for

if TYPE_CHECKING:
    from rqueue.client.client import Client

LATE_S: Final = 60
"""Workers are told of a commit, or look each second. A batch whose worker has died is taken over after half of this."""

STUCK_S: Final = 600


async def examine_outbox(client: Client) -> list[Finding]:
    """What is found of the app's outbox; nothing where it has none."""
    try:
        outbox = outbox_for(client.config.results, client.keys.namespace)
    except (ConfigError, MissingDependency) as exc:
        return [_unasked(exc)]
    if outbox is None:
        return []
    try:
        waiting = await outbox.waiting()
    except (StoreError, ConfigError) as exc:
        return [_unasked(exc)]
    finally:
        await outbox.close()
    now = datetime.fromtimestamp(client.session().broker.clock.now_ms() / 1000, UTC)
    return [*unsent(waiting.jobs, waiting.first, now), *refused(waiting.refused)]


def unsent(jobs: int, first: datetime | None, now: datetime) -> Iterator[Finding]:
    """What is wrong with so many committed jobs, of which the first was enqueued then."""
    age_s = 0.0 if first is None else (now - first).total_seconds()
    if age_s >= LATE_S:
        text = f"{jobs:,} committed job(s) are not sent, the first for {age_s:,.0f} s"
        advice = "start a worker whose app has this database; of one that runs, look for 'outbox waits' in the log"
        yield Finding("outbox", Level.PROBLEM if age_s >= STUCK_S else Level.WARNING, text, "", advice)


def refused(jobs: int) -> Iterator[Finding]:
    """What is wrong with rows that were set apart."""
    if jobs:
        text = f"{jobs:,} committed job(s) cannot be sent"
        yield Finding("outbox", Level.PROBLEM, text, "", "the column batch of rqueue_outbox says why")


def _unasked(error: Exception) -> Finding:
    return Finding("outbox", Level.PROBLEM, f"the outbox cannot be asked: {error}", "", "rqueue db check")
