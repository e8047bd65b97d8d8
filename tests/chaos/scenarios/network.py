"""What befalls the network between Redis and the others: it is slow, cuts, swallows, splits, and is not there."""

import asyncio
import time

from tests.chaos.producer import Load
from tests.chaos.proxy import Direction, Proxy
from tests.chaos.scenario import Scenario
from tests.chaos.stage import Group, NoRest, Stage

PAIR = ("--processes", "2", "-c", "10")
SHORT_LEASE_S = 4.0
IMPATIENT_S = 1.0
PATIENT_S = 60.0


async def proxied(stage: Stage) -> tuple[Proxy, Proxy]:
    """A server, and two ways to it: the workers' and the producers'."""
    url = stage.server().url
    workers, producers = await stage.enters(Proxy(url)), await stage.enters(Proxy(url))
    stage.url = producers.url
    return workers, producers


def work(stage: Stage, way: Proxy, *arguments: str) -> Group:
    return stage.work(*PAIR, *arguments, env={"RQUEUE_URL": way.url})


async def delays(stage: Stage, seconds: float) -> None:
    """Every packet is late, by up to half a second, and by another time from moment to moment."""
    ways = await proxied(stage)
    work(stage, ways[0])
    work(stage, ways[0])
    stage.produce()
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        with stage.fault("delay", pids=(), heals="working"):
            for way in ways:
                way.delay_s = stage.pick((0.001, 0.01, 0.1, 0.5)) * stage.chance.random()
            await asyncio.sleep(stage.chance.uniform(0.3, 1.0))
            for way in ways:
                way.heal()
        await asyncio.sleep(stage.chance.uniform(0.0, 0.3))


async def cuts(stage: Stage, seconds: float) -> None:
    """Connections are reset in the middle of whatever they carry."""
    ways = await proxied(stage)
    work(stage, ways[0])
    work(stage, ways[0])
    stage.produce()
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while True:
        last = time.monotonic() > over
        for way in ways:
            way.delay_s = 0.0 if last else stage.pick((0.0, 0.002, 0.02))
        await asyncio.sleep(stage.chance.uniform(0.01, 0.2))
        with stage.fault("cut", pids=(), heals="working" if last else None):
            stage.pick(ways).cut(stage.chance.randint(1, 3))
        if last:
            await asyncio.sleep(0.5)
            return


async def pieces(stage: Stage, seconds: float) -> None:
    """Bytes come one by one, and in other small pieces; connections are made, and cut, meanwhile."""
    ways = await proxied(stage)
    work(stage, ways[0])
    stage.produce(count=1, rate=30)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    for size in (1, 2, 1, 3, 1, 7) * 1000:
        with stage.fault("pieces", pids=(), heals="working"):
            for way in ways:
                way.piece_bytes = size
            await asyncio.sleep(stage.chance.uniform(0.5, 1.5))
            for way in ways:
                way.cut(stage.chance.randint(2, 4))
            await asyncio.sleep(stage.chance.uniform(1.0, 2.0))
        if time.monotonic() > over:
            return


async def half_open(stage: Stage, seconds: float) -> None:
    """One direction is swallowed, and who connects anew is accepted and hears nothing; for less than the lease."""
    ways = await proxied(stage)
    work(stage, ways[0])
    work(stage, ways[0])
    stage.produce()
    await stage.first_jobs()
    over = time.monotonic() + seconds
    sides: list[Direction] = ["requests", "replies"]
    while True:
        with stage.fault("half-open", pids=(), heals="working"):
            for way in ways:
                way.swallows, way.is_deaf = frozenset({stage.pick(sides)}), True
            await asyncio.sleep(stage.chance.uniform(0.5, 3.0))
            for way in ways:
                way.heal()
        if time.monotonic() > over:
            return
        # What was swallowed is noticed when a reply is 10 s late; then the lease must have been renewed.
        await asyncio.sleep(stage.chance.uniform(12.0, 14.0))


async def partitions(stage: Stage, seconds: float) -> None:
    """One host cannot reach Redis for longer than its lease, and goes on working: others run its jobs again."""
    url = stage.server().url
    ways = [await stage.enters(Proxy(url)) for _ in range(2)]
    groups = [work(stage, way, "--lease", str(SHORT_LEASE_S)) for way in ways]
    stage.produce(seconds=(0.0, 0.5), rate=25)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while True:
        side = stage.chance.randrange(2)
        await asyncio.sleep(stage.chance.uniform(0.5, 1.5))
        with stage.fault("partition", pids=groups[side].pids, heals="again", hides=True):
            ways[side].hold()
            # When a reply is 10 s late the connection is given up: before that, what was sent arrives after all.
            await asyncio.sleep(stage.chance.uniform(2.0, 2.6) * SHORT_LEASE_S)
        ways[side].let_pass()
        if time.monotonic() > over:
            return


async def away(stage: Stage, seconds: float) -> None:
    """Redis cannot be reached by anybody for longer than the lease; long jobs run through it."""
    ways = await proxied(stage)
    work(stage, ways[0], "--lease", str(SHORT_LEASE_S))
    work(stage, ways[0], "--lease", str(SHORT_LEASE_S))
    gone_s = min(max(seconds / 2, 1.5 * SHORT_LEASE_S), 0.8 * PATIENT_S)
    stage.produce(Load(rate=20, app={"enqueue_timeout": IMPATIENT_S}), count=1)
    stage.produce(Load(rate=20, app={"enqueue_timeout": PATIENT_S}), count=1)
    stage.produce(Load(rate=2, mix={"quick": 1.0}, seconds=(gone_s, gone_s + 2)), count=1)
    await stage.first_jobs()
    await asyncio.sleep(2.0)
    with stage.fault("away", pids=(), heals="working"):
        for way in ways:
            await way.refuse()
            way.cut()
        await asyncio.sleep(gone_s)
        for way in ways:
            await way.listen()
    await asyncio.sleep(2.0)
    stage.oracle.read()
    told: dict[str, set[str]] = {"p0": set(), "p1": set()}
    for mark, sent in stage.oracle.sent.items():
        told.setdefault(mark.split(".")[1], set()).add(sent.refused)
    if not {"BrokerUnavailable"} <= told["p0"] <= {"BrokerUnavailable", "EnqueueUnknown", ""}:
        raise NoRest(f"who waits {IMPATIENT_S:g} s was told {told['p0']}")
    if told["p1"] != {""}:
        raise NoRest(f"who waits {PATIENT_S:g} s was told {told['p1']}")


SCENARIOS = [
    Scenario(
        "delays",
        "every packet to and from Redis is late, by up to half a second, and each time by another",
        "nothing is lost, and nothing runs twice",
        delays,
    ),
    Scenario(
        "cuts",
        "connections are reset ten times a second, in the middle of commands and replies",
        "nothing is lost, and nothing runs twice",
        cuts,
    ),
    Scenario(
        "pieces",
        "every byte is a packet of its own; connections are cut meanwhile",
        "nothing is lost, and nothing runs twice",
        pieces,
    ),
    Scenario(
        "half-open",
        "connections stay open and one direction is swallowed; new ones are accepted and never answered",
        "nothing is lost, and nothing runs twice as long as it lasts for less than the lease",
        half_open,
        least_s=20.0,
    ),
    Scenario(
        "partitions",
        "a host is cut off from Redis for longer than its lease, and comes back",
        "nothing is lost; only what it ran runs again, and its late results are refused",
        partitions,
        least_s=20.0,
    ),
    Scenario(
        "away",
        "Redis cannot be reached for longer than the lease, while long jobs run",
        "what runs goes on, its result is stored when Redis is back, nothing runs twice; `enqueue` raises"
        " BrokerUnavailable after its `enqueue_timeout`, or waits where that is long enough",
        away,
        least_s=15.0,
    ),
]
