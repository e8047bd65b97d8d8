"""The checks of queues, workers and keys: each is a function of what was seen of a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from rqueue.client.checkup.census import Census
from rqueue.client.checkup.finding import Finding, Level, Remedy
from rqueue.client.checkup.look import LATE_MS, Look, Registered
from rqueue.client.checkup.server import apart

_OLD_S, _VERY_OLD_S = 600, 3600
_REAPED_AFTER: Final = 4  # heartbeats: two looks, a search, and one to spare
_LARGE: Final = 100_000
_MANY_DEATHS: Final = 100
_SHARE: Final = 0.25
_NAMED: Final = 5
_FETCH_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks of a queue know beside what was seen of it.

    Attributes:
        heartbeat_s: of a worker that does not say.
        dead_max: how many dead letters a queue keeps.
        maxmemory: bytes; 0 where there is no limit, or Redis does not say.
        tasks: the names of the app's tasks; empty where no app was found.
    """

    heartbeat_s: float = 5.0
    dead_max: int = 10_000
    maxmemory: int = 0
    tasks: Collection[str] = field(default=())


Findings = Iterator[Finding]


def keyspace(look: Look, _: Surroundings) -> Findings:
    """Keys that hold something else."""
    for each in look.misplaced:
        yield misplaced(*each)
    if look.found.unknown:
        text = f"{len(look.found.unknown)} key(s) that rqueue does not know: {_some(look.found.unknown)}"
        yield Finding("keyspace", Level.NOTE, text, look.keys.name, "of a newer rqueue, or of another program")


def misplaced(name: bytes, kind: str, wanted: str) -> Finding:
    """What to say of a key that holds something else."""
    text = f"it holds a {kind}, and should be a {wanted}: what needs it is refused"
    shown = name.decode(errors="replace")
    return Finding("keyspace", Level.PROBLEM, text, shown, f"redis-cli RENAME '{shown}' '{shown}.was'")


def expiry(look: Look, _: Surroundings) -> Findings:
    """Keys that nobody will ever remove."""
    names = [*look.found.lasting, *map(look.keys.started, look.unmarked)]
    if names:
        text = f"{len(names)} key(s) are without an owner and without a TTL: {_some(names)}"
        remedy = Remedy("expire", look.keys.name, tuple(names))
        yield Finding("expiry", Level.WARNING, text, look.keys.name, "rqueue doctor --fix", remedy)


def orphans(look: Look, _: Surroundings) -> Findings:
    """Lists without a worker."""
    for worker, held in look.orphans.items():
        text = f"{held} job(s) in the list of a worker that is not registered"
        text += "; a worker of the queue will find it" if look.is_served else ", and no worker serves the queue"
        level = Level.WARNING if look.is_served else Level.PROBLEM
        remedy = Remedy("reap", look.keys.name, (worker,))
        yield Finding("orphans", level, text, f"{look.keys.name}: {worker}", "rqueue doctor --fix", remedy)


def lost_workers(look: Look, around: Surroundings) -> Findings:
    """Workers whose lease ran out."""
    for worker in look.workers:
        if worker.lease_s > 0:
            continue
        beat_s = worker.heartbeat_s or around.heartbeat_s
        text = f"its lease ran out {_age(-worker.lease_s)} ago; it holds {worker.held} job(s)"
        level = Level.PROBLEM if worker.held else Level.WARNING
        if look.is_served:
            is_fresh = -worker.lease_s < _REAPED_AFTER * beat_s
            level = Level.NOTE if is_fresh else Level.WARNING
            text += (
                ", and others are about to take them" if is_fresh else ", and those that serve the queue do not reap it"
            )
        else:
            text += ", and no worker serves the queue"
        remedy = Remedy("reap", look.keys.name, (worker.id,))
        yield Finding("lost workers", level, text, f"{look.keys.name}: {worker.id}", "rqueue doctor --fix", remedy)


def unserved(look: Look, _: Surroundings) -> Findings:
    """Jobs that nobody will take."""
    scheduled, periodic = look.count("scheduled"), look.count("periodic")
    if look.is_served or not (look.waiting or scheduled or periodic):
        return
    jobs = f"{look.waiting:,} job(s) wait, {scheduled:,} are scheduled, {periodic} schedule(s) tick"
    level = Level.PROBLEM if look.waiting or look.count("overdue") else Level.WARNING
    text = f"{jobs}, and no live worker serves the queue"
    yield Finding("unserved", level, text, look.keys.name, f"rqueue worker -Q {look.keys.name}")


def unknown_queues(look: Look, _: Surroundings) -> Findings:
    """Queues that nobody sees."""
    if not look.is_known and (look.waiting or look.count("scheduled") or look.orphans or look.sizes.dead):
        text = "it is not in the list of queues, so that rqueue queues does not show it"
        remedy = Remedy("announce", look.keys.name)
        yield Finding("unknown queues", Level.NOTE, text, look.keys.name, "rqueue doctor --fix", remedy)


def paused(look: Look, _: Surroundings) -> Findings:
    """What is paused."""
    name = look.keys.name
    if look.sizes.is_paused:
        whole = "--all" if "all" in look.stops else name
        text = f"it is paused, and {look.waiting:,} job(s) wait"
        yield Finding("paused", Level.WARNING if look.waiting else Level.NOTE, text, name, f"rqueue resume {whole}")
    tasks = Counter(call.task for seen in look.sample if (call := seen.call) is not None)
    for task in look.sizes.paused_tasks:
        count = tasks.get(task, 0)
        text = f"the task {task} is paused" + (
            f", and {count} of the jobs that were looked at are its" if count else ""
        )
        level = Level.WARNING if count else Level.NOTE
        yield Finding("paused", level, text, name, f"rqueue resume --task {task}")
    for what in sorted(look.half_paused):
        words = _pause_words(what)
        text = f"a pause or a resume of {what} was interrupted: it is paused in one place and not in the other"
        yield Finding("paused", Level.WARNING, text, name, f"rqueue pause {words}, or rqueue resume {words}")


def waiting(look: Look, _: Surroundings) -> Findings:
    """The oldest waiting job."""
    if look.sizes.is_paused or not look.is_served:
        return  # said already
    ages = [
        ((look.now_ms - call.enqueued) / 1000, seen.is_still)
        for seen in look.sample
        if seen.is_next and (call := seen.call) is not None and call.enqueued is not None
    ]
    age_s, is_still = max(ages, default=(0.0, False))
    if age_s >= _OLD_S:
        level = Level.WARNING if age_s >= _VERY_OLD_S and is_still else Level.NOTE
        text = f"the next job was enqueued {_age(age_s)} ago (a countdown counts too); {look.waiting:,} wait"
        if is_still:
            text += ", and it did not move while we looked"
        yield Finding("waiting", level, text, look.keys.name, "more workers or slots, or a higher priority")


def overdue(look: Look, _: Surroundings) -> Findings:
    """Scheduled jobs, and schedules, that are late."""
    late = look.count("overdue")
    if (unticked := look.count("unticked")) and look.is_served:
        text = f"{unticked} periodic schedule(s) should have ticked over a minute ago, though workers serve the queue"
        yield Finding("overdue", Level.PROBLEM, text, look.keys.name, "look at the workers' logs: ticking fails")
    if not late or not look.is_served or look.first_due is None or look.first_due[1] < LATE_MS:
        return
    job_id, ms = look.first_due
    text = (
        f"{late:,} scheduled job(s) are late, the first ({job_id}) by {_age(ms / 1000)}, though workers serve the queue"
    )
    yield Finding(
        "overdue", Level.PROBLEM, text, look.keys.name, "look at the workers' logs: promoting fails or is slow"
    )


def scheduled(look: Look, _: Surroundings) -> Findings:
    """Scheduled jobs of which one half is missing."""
    keys, name = look.keys, look.keys.name
    if look.timeless:
        text = f"{len(look.timeless)} scheduled job(s) have no time, and will never run: {_some(look.timeless)}"
        advice = f"redis-cli ZADD '{keys.scheduled.decode()}' 0 ID makes one due"
        yield Finding("scheduled", Level.PROBLEM, text, name, advice)
    if look.bodiless:
        text = f"{len(look.bodiless)} scheduled job(s) have no message, and are lost: {_some(look.bodiless)}"
        yield Finding("scheduled", Level.PROBLEM, text, name, "rqueue cancel ID frees the id; enqueue them anew")
    if look.gap:
        less = "time" if look.gap > 0 else "message"
        text = f"{abs(look.gap):,} scheduled job(s) or more have no {less}: too many are scheduled to look at each"
        yield Finding("scheduled", Level.PROBLEM, text, name, "was a key removed, or evicted?")


def lost_jobs(look: Look, _: Surroundings) -> Findings:
    """Ids that have no message."""
    name, advice = look.keys.name, "rqueue cancel ID ends the job as REVOKED and frees the id; enqueue it anew"
    lost = (look.adrift or frozenset()) - look.bodiless - look.timeless
    if lost:
        text = f"{len(lost)} job(s) count as alive and are in no list: they are lost: {_some(lost)}"
        yield Finding("lost jobs", Level.WARNING, text, name, advice)
    elif look.adrift is None:
        there = look.waiting + look.count("scheduled") + look.sizes.running
        more = look.count("jobs") - there
        if more > max(100, there // 100):
            text = f"about {more:,} more jobs count as alive than are in lists: too many to look for each"
            yield Finding("lost jobs", Level.WARNING, text, name, "was a list removed, or evicted?")


def dead_letters(look: Look, around: Surroundings) -> Findings:
    """What has failed for good."""
    if not look.sizes.dead:
        return
    # Not the errors' texts, which may quote arguments.
    kinds = Counter((each.task or "?", each.failure.type if each.failure else each.reason) for each in look.letters)
    newest = "; ".join(f"{count} of {task}: {why[:80]}" for (task, why), count in kinds.most_common(_NAMED))
    text = f"{look.sizes.dead:,} dead letter(s), {look.count('died'):,} of the last hour; the newest: {newest}"
    is_full = look.sizes.dead >= 0.9 * around.dead_max
    if is_full:
        text += f"; from {around.dead_max:,} on the oldest are thrown away"
    level = Level.WARNING if is_full or look.count("died") >= _MANY_DEATHS else Level.NOTE
    yield Finding("dead letters", level, text, look.keys.name, f"rqueue dead list --queue {look.keys.name}")


def unreadable(look: Look, around: Surroundings) -> Findings:
    """Messages that will not run."""
    name = look.keys.name
    bad = [seen for seen in look.sample if seen.call is None]
    if look.sample and not bad:
        yield Finding("unreadable", Level.OK, f"{len(look.sample)} message(s) looked at, all of version 1", name)
    newer = [version for seen in bad if (version := _version_of(seen.raw))]
    if newer:
        text = f"{len(newer)} of {len(look.sample)} messages are of version {newer[0]} of the wire format"
        yield Finding("unreadable", Level.WARNING, text, name, "upgrade rqueue here and in the workers")
    if others := [seen for seen in bad if not _version_of(seen.raw)]:
        text = (
            f"{len(others)} of {len(look.sample)} messages cannot be read, and will be dead letters: {others[0].fault}"
        )
        yield Finding("unreadable", Level.WARNING, text, name, "find who pushes them; see docs/wire-format.md")
    if around.tasks:
        called = {call.task for seen in look.sample if (call := seen.call) is not None}
        known = {*around.tasks, *(task.rpartition(".")[2] for task in around.tasks)}
        if strange := sorted(called - known):
            text = f"jobs of tasks that this app does not have: {_some(strange)}"
            yield Finding("unreadable", Level.NOTE, text, name, "another app's, or a task that was renamed")


def payloads(look: Look, around: Surroundings) -> Findings:
    """Messages that are no place for data."""
    name = look.keys.name
    if look.largest and look.memory is not None:
        text = f"about {look.memory:,} bytes; the largest message that was looked at has {look.largest:,}"
        yield Finding("payloads", Level.OK, text, name)
    if look.largest >= _LARGE:
        text = f"a message of {look.largest:,} bytes, among {len(look.sample)} that were looked at"
        yield Finding("payloads", Level.NOTE, text, name, "store large data elsewhere, and send a reference")
    if look.memory is not None and around.maxmemory and look.memory > _SHARE * around.maxmemory:
        text = f"its jobs take {look.memory:,} bytes, {look.memory / around.maxmemory:.0%} of maxmemory"
        yield Finding("payloads", Level.WARNING, text, name, "more workers, smaller arguments, or more memory")


def locks(look: Look, _: Surroundings) -> Findings:
    """Locks that only take room."""
    if look.locks:
        text = f"{len(look.locks)} lock(s) of jobs that have ended; they block nothing: {_some(look.locks)}"
        remedy = Remedy("prune", look.keys.name)
        yield Finding("locks", Level.NOTE, text, look.keys.name, "workers prune them; rqueue doctor --fix", remedy)


def stops(look: Look, _: Surroundings) -> Findings:
    """Marks that are left of cancelled jobs."""
    if look.stale_stops:
        text = f"{len(look.stale_stops)} mark(s) of cancelled jobs that have ended: {_some(look.stale_stops)}"
        remedy = Remedy("forget", look.keys.name, tuple(look.stale_stops))
        yield Finding("stops", Level.NOTE, text, look.keys.name, "workers forget them; rqueue doctor --fix", remedy)


QUEUE_CHECKS: Final[Mapping[str, Callable[[Look, Surroundings], Findings]]] = {
    "keyspace": keyspace,
    "expiry": expiry,
    "orphans": orphans,
    "lost workers": lost_workers,
    "unserved": unserved,
    "unknown queues": unknown_queues,
    "paused": paused,
    "waiting": waiting,
    "overdue": overdue,
    "scheduled": scheduled,
    "lost jobs": lost_jobs,
    "dead letters": dead_letters,
    "unreadable": unreadable,
    "payloads": payloads,
    "locks": locks,
    "stops": stops,
}

STEADY: Final = frozenset({"unknown queues", "dead letters", "unreadable", "payloads"})
"""Checks that no job on its way can mislead: for these one look is enough."""


def examine_queue(look: Look, around: Surroundings) -> list[Finding]:
    """All that is found of a queue."""
    checks = {"keyspace": keyspace} if look.misplaced else QUEUE_CHECKS
    return [finding for check in checks.values() for finding in check(look, around)]


def examine_workers(looks: Iterable[Look]) -> list[Finding]:
    """What is found of workers, each once for all its queues."""
    found: list[Finding] = []
    workers: dict[str, tuple[Registered, int]] = {}
    for look in looks:
        workers |= {worker.id: (worker, look.now_ms) for worker in look.workers if worker.lease_s > 0}
    for worker, now_ms in workers.values():
        if (silent_s := _silence(worker, now_ms)) is not None:
            text = f"it renews its lease, and has fetched nothing for {_age(silent_s)}"
            advice = f"rqueue inspect stats -d {worker.id}; restart it"
            found.append(Finding("hung workers", Level.WARNING, text, worker.id, advice))
        clock = worker.card.get("clock")
        if isinstance(clock, int) and (told := apart("its machine's clock", clock / 1000, worker.id)).level:
            found.append(told)
    return found


def examine_census(census: Census) -> list[Finding]:
    """What is found of the keys as a whole."""
    found = []
    if census.kept:
        of = "" if census.records == census.records_seen else f" (of {census.records_seen:,}, the first were looked at)"
        text = f"{census.kept:,} of {census.records:,} results are kept for ever{of}"
        found.append(Finding("expiry", Level.NOTE, text, "", "a result_ttl, unless that is meant"))
    if census.walked < 1:
        text = f"only {census.walked:.0%} of the keys were looked at: there are too many"
        found.append(Finding("keyspace", Level.NOTE, text, "", "give rqueue a database of its own"))
    return found


def _silence(worker: Registered, now_ms: int) -> float | None:
    """For how long it has not fetched, if that is too long; as ``rqueue health`` judges it."""
    card = worker.card
    numbers = [card.get(name) for name in ("fetched", "heartbeat", "block")]
    if card.get("state") != "running" or not all(isinstance(each, int | float) for each in numbers):
        return None
    fetched, beat_s, block_s = map(float, numbers)  # type: ignore[arg-type]
    silent_s = (now_ms - fetched) / 1000
    return silent_s if silent_s > 3 * max(beat_s, block_s) + _FETCH_GRACE_S else None


def _version_of(raw: bytes) -> str:
    """The version of the wire format that a message names, if it is another one."""
    number, _, rest = raw.partition(b" ")
    is_other = number.isdigit() and number != b"1" and len(number) < 4 and b" {" in rest
    return number.decode() if is_other else ""


def _pause_words(what: str) -> str:
    kind, _, name = what.partition(":")
    return {"all": "--all", "task": f"--task {name}"}.get(kind, name)


def _some(names: Collection[str | bytes]) -> str:
    """The first few of them."""
    texts = sorted(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)
    return ", ".join(texts[:_NAMED]) + (", …" if len(texts) > _NAMED else "")


def _age(seconds: float) -> str:
    """A time as people say it."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
