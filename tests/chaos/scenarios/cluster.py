"""What befalls a Redis Cluster: a slot that is migrated back and forth, a master that is killed."""

import asyncio
import time

import redis

from rqueue.embedded import EmbeddedServer
from tests.chaos.producer import Load
from tests.chaos.scenario import Scenario
from tests.chaos.stage import Stage
from tests.chaos.store import Store
from tests.cluster import MASTERS, Cluster, slot_of

PAIR = ("--processes", "2", "-c", "10", "--lease", "4")
QUEUES = ("default", "email", "reports", "bulk")

# A cluster copies to its replicas after it has answered. Only who waits for that is promised more.
DURABLE = {"durability": "replicated"}
COPYING_S = 1.0


def six(stage: Stage) -> Cluster:
    """Start the six servers; the stage's URL and store are theirs."""
    cluster = Cluster()
    cluster.start()
    stage.closes(cluster.stop)
    stage.url = cluster.url
    stage.store = Store(lambda: redis.RedisCluster(host="127.0.0.1", port=cluster.alive[0].port))
    return cluster


async def migrations(stage: Stage, seconds: float) -> None:
    """The slot of one queue after the other goes to another master, slowly, and back."""
    cluster = await asyncio.to_thread(six, stage)
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(seconds=(0.0, 0.05), rate=40)
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        slot = slot_of(stage.pick(QUEUES))
        home = await asyncio.to_thread(cluster.owner, slot)
        away = stage.pick([each for each in cluster.servers[:MASTERS] if each is not home])
        for source, to in ((home, away), (away, home)):
            with stage.fault("migration", pids=(), heals="working"):
                await asyncio.to_thread(cluster.begin_migration, slot, to)
                for _ in cluster.move_keys(slot, source, to, at_once=5):
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(cluster.end_migration, slot, source, to)
            await asyncio.sleep(stage.chance.uniform(0.1, 0.5))


async def failovers(stage: Stage, seconds: float) -> None:
    """One master after the other is killed under load, and comes back as the replica of what took its place."""
    cluster = await asyncio.to_thread(six, stage)
    stage.work(*PAIR)
    stage.work(*PAIR)
    stage.produce(Load(rate=40, seconds=(0.0, 0.05), app=DURABLE))
    await stage.first_jobs()
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        slot = slot_of(stage.pick(QUEUES))
        lost = await asyncio.to_thread(cluster.owner, slot)

        def is_replaced(slot: int = slot, lost: EmbeddedServer = lost) -> bool:
            return cluster.owner(slot) is not lost

        # What was settled may be forgotten: then it runs again.
        with stage.fault("failover", heals="working", charges=False, settle_s=COPYING_S):
            lost.kill()
            await asyncio.to_thread(cluster.until, is_replaced)
        lost.start()
        await asyncio.to_thread(cluster.settle)
        await asyncio.sleep(stage.chance.uniform(0.2, 1.0))


SCENARIOS = [
    Scenario(
        "cluster-migrations",
        "of a Redis Cluster of six, one queue's slot after the other is migrated to another master and back",
        "nothing is lost and nothing is doubled; what has to do with a slot on its way waits, all else goes on",
        migrations,
        least_s=5.0,
    ),
    Scenario(
        "cluster-failovers",
        "of a Redis Cluster of six, one master after the other is killed by SIGKILL, and its replica takes over",
        'nothing is lost with `durability="replicated"`; what was in flight, or settled and not copied, runs again',
        failovers,
        least_s=8.0,
        goal_s=5.0,
    ),
]
