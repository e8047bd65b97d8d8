"""A checkup from its beginning to its end: the server, the keys, each queue; twice, where there is doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rqueue.broker.broker import Broker
from rqueue.client.checkup.census import Census, take_census
from rqueue.client.checkup.finding import CHECKS, Finding, Level, in_order
from rqueue.client.checkup.look import Look, look_at
from rqueue.client.checkup.outbox import examine_outbox
from rqueue.client.checkup.queues import (
    STEADY,
    Surroundings,
    examine_census,
    examine_queue,
    examine_workers,
    misplaced,
)
from rqueue.client.checkup.remedy import Reap, mend
from rqueue.client.checkup.results import examine_spool, examine_store
from rqueue.client.checkup.server import Facts, examine
from rqueue.errors import BrokerError, BrokerUnavailable, ConfigError
from rqueue.wire.keys import QueueKeys, check_queue_name

if TYPE_CHECKING:
    from rqueue.client.client import Client


HEARTBEAT_S: Final = 5.0
"""Between two looks: a heartbeat of a worker with the default lease, where those in doubt do not say theirs."""


class Doctor:
    """Looks at everything of a namespace, and says what is wrong.

    Args:
        client: the app; it stays open, and is closed by whoever opened it.
        heartbeat_s: seconds between two looks, at least.

    Attributes:
        queues: all queues that were looked at.
    """

    def __init__(self, client: Client, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._client, self._heartbeat_s = client, heartbeat_s
        self.queues: list[QueueKeys] = []

    async def examine(self) -> list[Finding]:
        """Look, and look again after a heartbeat where something seems to be wrong; the worst first.

        A check that found nothing is in the list too, with the level OK.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        await self._broker.open()  # learns Redis's time, by which leases end
        facts = await Facts.of(self._broker)
        findings = [] if self._broker.endpoint.is_memory else examine(facts)
        around = Surroundings(
            heartbeat_s=self._heartbeat_s,
            dead_max=self._client.config.limits.dead_max,
            maxmemory=facts.number("maxmemory") or 0,
            tasks=frozenset(task.name for task in self._client.tasks),
        )
        census = await self._count(findings)
        looks = await self._look(census, around, findings)
        for look in looks:
            findings += examine_queue(look, around)
        findings += [*examine_workers(looks), *examine_census(census), *await examine_store(self._client)]
        findings += await examine_outbox(self._client)
        for keys in self.queues:
            findings += await self._spool(keys)
        found = {finding.check for finding in findings}
        findings += [Finding(each.name, Level.OK, "nothing found") for each in CHECKS if each.name not in found]
        return in_order(finding.printable() for finding in findings)

    async def fix(self, findings: Sequence[Finding], reap: Reap) -> list[Finding]:
        """Do what is safe about findings, and look again: what was done, and what is left. May be repeated.

        Raises:
            BrokerUnavailable: Redis cannot be reached (any more).
        """
        mended = await mend(self._broker, findings, reap)
        checks, places = {each.check for each in mended}, {(each.check, each.where) for each in mended}
        left = [each for each in await self.examine() if (each.check, each.where) not in places]
        return in_order([*mended, *(each for each in left if each.level or each.check not in checks)])

    @property
    def _broker(self) -> Broker:
        return self._client.session().broker

    async def _count(self, findings: list[Finding]) -> Census:
        try:
            return await take_census(self._broker)
        except BrokerUnavailable as exc:
            findings.append(self._away(exc, "the keys are not walked over"))
            return Census()
        except BrokerError as exc:
            text = f"the keys cannot be walked over, so that orphans and forgotten keys are not seen: {exc}"
            findings.append(Finding("keyspace", Level.NOTE, text))
            return Census()

    async def _look(self, census: Census, around: Surroundings, findings: list[Finding]) -> list[Look]:
        """One look at each queue, and another one at those in doubt."""
        try:
            known = await self._known(findings)
        except BrokerUnavailable as exc:
            known = set()
            findings.append(self._away(exc, "the list of queues cannot be read"))
        names = sorted({*self._client.config.queues, *known, *census.queues})
        self.queues = [self._client.keys.queue(name) for name in names]
        first = {keys: await self._try(keys, census, keys.name in known, findings) for keys in self.queues}
        looks = [look for look in first.values() if look is not None]
        doubtful = [look for look in looks if _is_doubtful(look, around)]
        if not doubtful:
            return looks
        await asyncio.sleep(max([self._heartbeat_s, *map(_heartbeat_s, doubtful)]))
        await self._broker.sync_clock()
        for before in doubtful:
            now = await self._try(before.keys, census, before.is_known, findings)
            first[before.keys] = None if now is None else now.since(before)
        return [look for look in first.values() if look is not None]

    async def _known(self, findings: list[Finding]) -> set[str]:
        """The list of queues, as far as it is one."""
        keys = self._client.keys
        kinds = zip((keys.queues, keys.paused), ("set", "hash"), strict=True)
        found = await self._broker.kinds([keys.queues, keys.paused])
        for (name, wanted), kind in zip(kinds, found, strict=True):
            if kind not in ("none", wanted):
                findings.append(misplaced(name, kind, wanted))
        names = set() if found[0] not in ("none", "set") else {*await self._broker.queue_names()}
        strange = {name for name in names if not _is_queue_name(name)}
        if strange:
            text = f"there is what is no queue's name: {', '.join(sorted(map(ascii, strange))[:5])}"
            advice = f"redis-cli SREM '{keys.queues.decode()}' NAME"
            findings.append(Finding("keyspace", Level.PROBLEM, text, keys.queues.decode(), advice))
        return names - strange

    async def _try(self, keys: QueueKeys, census: Census, is_known: bool, findings: list[Finding]) -> Look | None:
        try:
            return await look_at(self._broker, keys, census.queue(keys.name), is_known=is_known)
        except BrokerUnavailable as exc:
            findings.append(self._away(exc, "it cannot be looked at", keys.name))
            return None
        except (BrokerError, ValueError) as exc:  # refused, or what is there was not written by rqueue
            findings.append(Finding("keyspace", Level.WARNING, f"it cannot be looked at: {exc}", keys.name))
            return None

    async def _spool(self, keys: QueueKeys) -> list[Finding]:
        try:
            return await examine_spool(self._client, keys)
        except BrokerUnavailable as exc:
            return [self._away(exc, "what waits for the result store is not known", keys.name)]
        except BrokerError as exc:
            return [Finding("spool", Level.WARNING, f"it cannot be looked at: {exc}", keys.name)]

    def _away(self, error: BrokerUnavailable, what: str, where: str = "") -> Finding:
        """Of a cluster a part may be away: the rest is looked at."""
        if not self._broker.is_cluster:
            raise error
        text = f"a part of the cluster is away, {what}: {error}"
        return Finding("topology", Level.PROBLEM, text, where, "redis-cli --cluster check HOST:PORT")


def _is_doubtful(look: Look, around: Surroundings) -> bool:
    findings = [*examine_queue(look, around), *examine_workers([look])]
    return any(finding.check not in STEADY for finding in findings)


def _heartbeat_s(look: Look) -> float:
    """The longest heartbeat of the workers whose lease has run out."""
    return max((worker.heartbeat_s or 0.0 for worker in look.workers if worker.lease_s <= 0), default=0.0)


def _is_queue_name(name: str) -> bool:
    try:
        check_queue_name(name)
    except ConfigError:
        return False
    return True
