"""The checks of the server itself: what it says of itself becomes findings. Where it does not say, that is said."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from rqueue.broker.broker import Broker
from rqueue.client.checkup.finding import Finding, Level
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.policy.clock import local_ms
from rqueue.wire.keys import Keys

ROUND_TRIPS: Final = 20
SETTINGS: Final = (
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "maxclients",
    "min-replicas-to-write",
)
LIBRARIES: Final = ("rqueue", "redis", "hiredis", "orjson")

_FULL, _NEARLY_FULL = 0.95, 0.8
_SLOW_MS, _VERY_SLOW_MS, _WORST_MS = 5.0, 50.0, 1000.0
_APART_S, _FAR_APART_S = 2.0, 30.0
_LAG_S = 10
_OLDEST, _TOO_NEW = (6, 2), (9, 0)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of itself.

    Attributes:
        info: INFO; None where it is refused.
        settings: lines of its configuration; None where it does not say.
        round_trips_ms: how long some pings took.
        apart_s: this machine's clock less Redis's.
        refused: command -> why this user may not run it.
        cluster: CLUSTER INFO, of a cluster.
        libraries: name -> version, of this process.
    """

    info: Mapping[str, str] | None = None
    settings: Mapping[str, str | None] = field(default_factory=dict)
    round_trips_ms: Sequence[float] = ()
    apart_s: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def of(cls, broker: Broker) -> Facts:
        """Ask the server; what it refuses is left out.

        Raises:
            BrokerUnavailable: Redis cannot be reached.
        """
        if broker.endpoint.is_memory:
            return cls()
        info = await _or_none(broker.info)
        is_cluster = info is not None and info.get("cluster_enabled") == "1"
        before_ms = local_ms()
        redis_ms = await broker.time_ms()
        return cls(
            info=info,
            settings={name: await broker.setting(name) for name in SETTINGS},
            round_trips_ms=[await _ping_ms(broker) for _ in range(ROUND_TRIPS)],
            apart_s=_apart_s(before_ms, redis_ms, local_ms()),
            refused=await _refused(broker),
            cluster=(await _or_none(broker.cluster_info) or {}) if is_cluster else {},
            libraries={name: version(name) for name in LIBRARIES},
        )

    def told(self, name: str) -> str:
        """A line of INFO, '' where it does not say."""
        return (self.info or {}).get(name, "")

    def number(self, name: str) -> int | None:
        """A line of INFO, or a setting, as a number; None where neither says."""
        for text in (self.told(name), self.settings.get(name)):
            if text and text.isdigit():
                return int(text)
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A harmless command, and what is missing where it is refused."""

    name: str
    command: tuple[bytes | str | int, ...]
    level: Level
    text: str


def wanted(keys: Keys) -> list[Wanted]:
    """What workers and operators want to be allowed. Nothing is changed by asking, and nobody hears it."""
    nowhere = keys.queue("rqueue-doctor")
    empty, other = nowhere.settled("a"), nowhere.settled("b")
    return [
        Wanted("EVAL", (b"EVAL", b"return 1", 0), Level.PROBLEM, "every step of a job is a script"),
        Wanted("BRPOPLPUSH", (b"BRPOPLPUSH", empty, other, "0.001"), Level.PROBLEM, "workers wait for jobs with it"),
        Wanted(
            "SCAN",
            (b"SCAN", 0, b"MATCH", keys.queues, b"COUNT", 1),
            Level.WARNING,
            "neither workers nor this command find lists without a worker",
        ),
        Wanted(
            "CLIENT UNBLOCK",
            (b"CLIENT", b"UNBLOCK", 0),
            Level.NOTE,
            "a worker that stops waits for the end of its blocks, 4 s",
        ),
        Wanted(
            "PUBLISH",
            (b"PUBLISH", keys.reply("doctor"), b""),
            Level.NOTE,
            "rqueue inspect and control get no answers, and a pause is heard late",
        ),
    ]


def versions(facts: Facts) -> Iterator[Finding]:
    """Server, Python and libraries."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    libraries = ", ".join(f"{name} {number}" for name, number in facts.libraries.items())
    server = facts.told("valkey_version")
    if server:
        yield Finding("versions", Level.OK, f"Valkey {server}; {python}, {libraries}")
        return
    if not (server := facts.told("redis_version")):
        yield Finding("versions", Level.NOTE, f"the server does not say its version; {python}, {libraries}")
        return
    number = tuple(int(part) for part in re.findall(r"\d+", server)[:2])
    text, advice, level = f"Redis {server}; {python}, {libraries}", "", Level.OK
    if number < _OLDEST:
        text, advice, level = (
            f"Redis {server} lacks commands that rqueue needs",
            "use Redis 6.2 to 8, or Valkey",
            Level.PROBLEM,
        )
    elif number >= _TOO_NEW:
        text, level = f"Redis {server} is newer than what rqueue is tested with", Level.NOTE
    yield Finding("versions", level, text, "", advice)


def permissions(facts: Facts) -> Iterator[Finding]:
    """What is refused."""
    for each in wanted(Keys()):
        if each.name in facts.refused:
            text = f"this user may not {each.name}: {each.text}"
            yield Finding("permissions", each.level, text, "", "see docs/operations.md for what an ACL needs")


def topology(facts: Facts) -> Iterator[Finding]:
    """Which kind of server it is."""
    mode = facts.told("redis_mode") or facts.told("server_mode")
    if mode == "sentinel":
        yield Finding(
            "topology", Level.PROBLEM, "this is a Sentinel, and no Redis", "", "name the Redis that it watches"
        )
    state = facts.cluster.get("cluster_state", "ok")
    if state != "ok":
        text = f"the cluster's state is {state}: part of the keys cannot be used"
        yield Finding("topology", Level.PROBLEM, text, "", "redis-cli --cluster check HOST:PORT")
    elif facts.cluster:
        yield Finding("topology", Level.OK, f"a cluster of {facts.cluster.get('cluster_size', '?')} masters")


def eviction(facts: Facts) -> Iterator[Finding]:
    """The eviction policy."""
    policy = facts.settings.get("maxmemory-policy") or facts.told("maxmemory_policy")
    if not policy:
        yield _silent("eviction", "its maxmemory-policy", "make sure that it is noeviction")
    elif policy != "noeviction":
        limit = facts.number("maxmemory")
        is_limited = limit is None or limit > 0
        text = f"maxmemory-policy is {policy}: when memory is short Redis throws jobs away"
        if not is_limited:
            text += "; maxmemory is 0, so that it has no effect yet"
        level = Level.PROBLEM if is_limited else Level.WARNING
        yield Finding("eviction", level, text, "", "redis-cli CONFIG SET maxmemory-policy noeviction")


def memory(facts: Facts) -> Iterator[Finding]:
    """How much room there is."""
    used, limit = facts.number("used_memory"), facts.number("maxmemory")
    what = "maxmemory"
    if used is None:
        yield _silent("memory", "how much memory it uses", "")
        return
    if not limit:
        limit, what = facts.number("total_system_memory"), "the machine's memory, and no maxmemory is set"
    if not limit:
        yield Finding("memory", Level.OK, f"{_bytes(used)} used, without a limit")
        return
    share = used / limit
    text, advice = f"{_bytes(used)} used, {share:.0%} of {what}", ""
    level = Level.PROBLEM if share >= _FULL else Level.WARNING if share >= _NEARLY_FULL else Level.OK
    if level:
        text += ": a full Redis takes no more jobs"
        advice = "more workers for what waits, a shorter result_ttl, smaller payloads, or more memory"
    yield Finding("memory", level, text, "", advice)


def persistence(facts: Facts) -> Iterator[Finding]:
    """What is kept when Redis crashes, and whether its last saves worked."""
    for name, level, text in (
        ("rdb_last_bgsave_status", Level.PROBLEM, "the last snapshot failed; by default Redis refuses writes then"),
        ("aof_last_write_status", Level.PROBLEM, "the last write to the append-only file failed"),
        ("aof_last_bgrewrite_status", Level.WARNING, "the last rewrite of the append-only file failed"),
    ):
        if facts.told(name) == "err":
            yield Finding("persistence", level, text, "", "look at the server's log, and whether its disk is full")
    has_file = facts.settings.get("appendonly") or {"1": "yes", "0": "no"}.get(facts.told("aof_enabled"))
    if has_file is None:
        yield _silent("persistence", "what it keeps at a crash", "ask your provider for an append-only file")
    elif has_file == "yes":
        yield _append_only(facts.settings.get("appendfsync"))
    else:
        yield _no_file(facts.settings.get("save"))


def _append_only(fsync: str | None) -> Finding:
    text = {
        "always": "a crash of Redis or its machine costs nothing that was confirmed (appendfsync always)",
        "everysec": "a crash of its machine costs what was confirmed in about the last second (appendfsync everysec)",
        "no": "a crash of its machine costs what the system had not written, half a minute or so (appendfsync no)",
    }.get(fsync or "", "it keeps an append-only file, and does not say how often it is synced")
    is_weak = fsync == "no"
    advice = "redis-cli CONFIG SET appendfsync everysec" if is_weak else ""
    return Finding("persistence", Level.WARNING if is_weak else Level.OK, text, "", advice)


def _no_file(save: str | None) -> Finding:
    kept = "everything since the last snapshot" if save else "every job and result"
    if save is None:
        kept = "everything since the last snapshot, if it makes any"
    text = f"a crash or a restart of Redis costs {kept}: there is no append-only file"
    return Finding("persistence", Level.WARNING, text, "", "redis-cli CONFIG SET appendonly yes")


def replicas(facts: Facts) -> Iterator[Finding]:
    """Whether copies are up to date."""
    role = facts.told("role")
    if not role:
        yield _silent("replicas", "whether it has replicas", "")
        return
    if role == "slave":
        text = f"this is a replica of {facts.told('master_host')}:{facts.told('master_port')}: it takes no jobs"
        yield Finding("replicas", Level.PROBLEM, text, "", "give the master's URL")
        return
    online = 0
    for number in range(facts.number("connected_slaves") or 0):
        said = dict(part.split("=", 1) for part in facts.told(f"slave{number}").split(",") if "=" in part)
        where, lag = f"{said.get('ip')}:{said.get('port')}", int(said.get("lag", "0") or 0)
        is_online = said.get("state") == "online"
        online += is_online and lag <= _LAG_S
        if not is_online or lag > _LAG_S:
            text = f"a replica lags by {lag} s" if is_online else f"a replica is {said.get('state')}"
            yield Finding("replicas", Level.WARNING, f"{text}: a failover now would lose what it lacks", where)
    needed = facts.number("min-replicas-to-write") or 0
    if online < needed:
        text = f"{online} replicas are up to date, and min-replicas-to-write is {needed}: every write is refused"
        yield Finding("replicas", Level.PROBLEM, text, "", "bring the replicas back, or lower min-replicas-to-write")
    elif online:
        yield Finding("replicas", Level.OK, f"{online} up to date")


def clients(facts: Facts) -> Iterator[Finding]:
    """How many connections are left."""
    used, limit = facts.number("connected_clients"), facts.number("maxclients")
    if used is None or not limit:
        yield _silent("clients", "how many clients it takes", "")
        return
    share = used / limit
    text, advice = f"{used:,} of {limit:,} clients", ""
    level = Level.PROBLEM if share >= _FULL else Level.WARNING if share >= _NEARLY_FULL else Level.OK
    if level:
        text += " are connected: more are refused, workers among them"
        advice = "redis-cli CONFIG SET maxclients N; a worker process needs 4 connections and one for each queue"
    yield Finding("clients", level, text, "", advice)


def latency(facts: Facts) -> Iterator[Finding]:
    """How far away Redis is from here."""
    if not facts.round_trips_ms:
        return
    median, longest = statistics.median(facts.round_trips_ms), max(facts.round_trips_ms)
    text = f"a round trip from here takes {median:.2f} ms (the longest of {len(facts.round_trips_ms)} {longest:.1f} ms)"
    level, advice = Level.OK, ""
    if median > _VERY_SLOW_MS or longest > _WORST_MS:
        level, advice = Level.WARNING, "redis-cli SLOWLOG GET 10; redis-cli LATENCY DOCTOR"
    elif median > _SLOW_MS:
        level, advice = Level.NOTE, "run producers and workers near Redis, and enqueue concurrently or by enqueue_many"
    yield Finding("latency", level, text, "", advice)


def clocks(facts: Facts) -> Iterator[Finding]:
    """This machine's clock."""
    yield apart("this machine's clock", facts.apart_s, "")


def apart(whose: str, apart_s: float, where: str) -> Finding:
    """What to say of a clock that differs from Redis's by so much."""
    level = Level.WARNING if abs(apart_s) > _FAR_APART_S else Level.NOTE if abs(apart_s) > _APART_S else Level.OK
    way = "ahead of" if apart_s > 0 else "behind"
    text = f"{whose} is {abs(apart_s):.1f} s {way} Redis's"
    if level:
        text += ": leases and countdowns go by Redis's, an eta and the times in logs by this one"
    return Finding("clocks", level, text, where, "synchronise the clocks (NTP)" if level else "")


SERVER_CHECKS: Final[Mapping[str, Callable[[Facts], Iterator[Finding]]]] = {
    "versions": versions,
    "permissions": permissions,
    "topology": topology,
    "eviction": eviction,
    "memory": memory,
    "persistence": persistence,
    "replicas": replicas,
    "clients": clients,
    "latency": latency,
    "clocks": clocks,
}


def examine(facts: Facts) -> list[Finding]:
    """All that is found of the server."""
    return [finding for check in SERVER_CHECKS.values() for finding in check(facts)]


def _silent(check: str, what: str, advice: str) -> Finding:
    return Finding(check, Level.NOTE, f"it does not say {what}", "", advice)


async def _refused(broker: Broker) -> dict[str, str]:
    answers = {each.name: await broker.refused(each.command) for each in wanted(broker.keys)}
    return {name: why for name, why in answers.items() if why is not None}


async def _ping_ms(broker: Broker) -> float:
    begun = time.perf_counter()
    await broker.ping()
    return (time.perf_counter() - begun) * 1000


async def _or_none(ask: Callable[[], object]) -> dict[str, str] | None:
    try:
        return await ask()  # type: ignore[misc, no-any-return]
    except BrokerUnavailable:
        raise
    except BrokerError:
        return None


def _apart_s(before_ms: int, redis_ms: int, after_ms: int) -> float:
    """How far the clocks are apart for sure: what the round trip may explain does not count."""
    if redis_ms < before_ms:
        return (before_ms - redis_ms) / 1000
    return min(0.0, (after_ms - redis_ms) / 1000)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
