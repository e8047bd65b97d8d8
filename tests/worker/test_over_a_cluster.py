"""Workers and producers over a cluster under load: a slot that is migrated, a master that is killed. Nothing is lost.

A cluster copies to its replicas after it has answered: what was confirmed in the instant before a master dies may be
gone with it. So the jobs that are there when the master is killed have reached its replica.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from rqueue import Queue, RQueue
from rqueue.broker.broker import Enqueued
from rqueue.wire.keys import Keys
from rqueue.worker.inflight import Phase

from ..cluster import MASTERS, Cluster, queue_at, slot_of  # noqa: TID252 - tests are no installed package

QUEUES = [queue_at(place) for place in range(MASTERS)]
LEASE_S = 3.0
JOBS = 60


class Load:
    """Jobs in three queues, each of which says that it runs, and two workers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ran: Counter[str] = Counter()
        self.confirmed: list[str] = []
        self.queues: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        self._changed = asyncio.Event()
        self.app = app = RQueue(cluster.url, queues=[Queue(queue) for queue in QUEUES])

        @app.task(name="job", bind=True, max_retries=0)
        async def job(task, seconds: float) -> None:
            self.ran[task.request.id] += 1
            self._changed.set()
            await asyncio.sleep(seconds)

        self.job = job

    async def enqueue(self, queue: str, count: int, seconds: float = 0.0) -> None:
        for _ in range(count):
            job = await self.job.options(queue=queue).enqueue(seconds)
            self.confirmed.append(job.id)
            self.queues[queue].append(job.id)

    async def until_run(self, ids: list[str] | None = None, patience_s: float = 20) -> None:
        async with asyncio.timeout(patience_s):
            while set(self.confirmed if ids is None else ids) - self.ran.keys():
                self._changed.clear()
                await self._changed.wait()

    async def replicated(self) -> None:
        """Return when the replicas have what was confirmed."""
        for server in self.cluster.servers:
            if server.alive and self.cluster.is_master(server):
                await asyncio.to_thread(self.cluster.client(server).wait, 1, 5000)


@pytest.fixture
def load(cluster: Cluster) -> Iterator[Load]:
    return Load(cluster)


def leftovers(cluster: Cluster) -> set[str]:
    """Keys that say that something waits or runs."""
    found: set[str] = set()
    for server in cluster.servers:
        if cluster.is_master(server):
            found |= {key.decode() for key in cluster.client(server).keys("*") if b":result:" not in key}
    kept = (":counts", ":settled:", ":sent:", ":worker:", ":processing:", "rqueue:queues")
    return {key for key in found if not any(each in key for each in kept)}


async def test_a_slot_is_migrated_under_load_and_no_job_is_lost_or_doubled(load, cluster):
    """There and back again, slowly, while its jobs are enqueued, claimed and settled: what cannot be done waits.

    Breaks when a redirect or TRYAGAIN is an error, or when the claims of the other queues wait as well.
    """
    slot = slot_of(QUEUES[0])
    home = cluster.owner(slot)
    away = next(each for each in cluster.servers if each is not home and cluster.is_master(each))
    async with load.app.worker(queues=QUEUES, concurrency=5, lease=LEASE_S), load.app.worker(queues=QUEUES[:1]):
        loads = [asyncio.create_task(load.enqueue(queue, JOBS)) for queue in QUEUES]
        for to in (away, home):
            source = await asyncio.to_thread(cluster.begin_migration, slot, to)
            await load.enqueue(QUEUES[1], 1)
            await load.until_run(load.queues[QUEUES[1]][-1:])  # the others go on while it moves
            for _ in cluster.move_keys(slot, source, to, at_once=2):
                await asyncio.sleep(0)
            await asyncio.to_thread(cluster.end_migration, slot, source, to)
        await asyncio.gather(*loads)
        await load.enqueue(QUEUES[0], 5)
        await load.until_run()
    assert (set(load.confirmed) - load.ran.keys(), max(load.ran.values())) == (set(), 1)
    assert len(load.confirmed) == 3 * JOBS + 7
    assert leftovers(cluster) == set()
    await load.app.close()


async def test_a_master_is_killed_under_load_and_no_job_is_lost(load, cluster):
    """The other nodes' queues go on while it is away; what it had runs once its replica serves its slots.

    Breaks when one node's error ends the claims, the blocks or the heartbeat of all, or when the worker does not see
    the replica in its place.
    """
    lost = QUEUES[0]
    owner = cluster.owner(slot_of(lost))
    async with load.app.worker(queues=QUEUES, concurrency=4, lease=LEASE_S, shutdown_timeout=5):
        await asyncio.gather(*(load.enqueue(queue, JOBS, 0.01) for queue in QUEUES))
        await load.until_run(load.queues[lost][:1])
        await load.replicated()
        cluster.hold_failovers()
        owner.kill()
        await asyncio.gather(*(load.enqueue(queue, 5) for queue in QUEUES[1:]))
        others = load.queues[QUEUES[1]] + load.queues[QUEUES[2]]
        await load.until_run(others)
        cluster.hold_failovers(is_held=False)
        await load.enqueue(lost, 5)
        await load.until_run()
        assert cluster.owner(slot_of(lost)) is not owner
    assert set(load.confirmed) <= load.ran.keys()
    assert max(load.ran.values()) <= 2  # settled, and not copied yet
    app = RQueue(cluster.url)
    for queue in QUEUES:
        sizes = await app.session().broker.sizes(Keys().queue(queue))
        assert (sum(sizes.waiting), sizes.running, sizes.scheduled) == (0, 0, 0)
    await app.close()
    await load.app.close()
    owner.start()
    await asyncio.to_thread(cluster.settle)


@pytest.fixture
def url(cluster: Cluster) -> str:
    """What the parts of a worker without its loops, and their broker, are on."""
    return cluster.url


async def test_what_belongs_to_a_node_that_is_away_waits_alone(parts, broker, cluster, message, log):
    """Of its queues nothing is held and nobody waits there; all others are claimed, waited at, audited, promoted and
    reaped. When it is back, the audit finds what was held.

    Seen to fail without each: the drop of what is held, the queues at which nobody waits, the audit, the promoter and
    the reaper that go on with the next queue.
    """
    worker = parts(*QUEUES, concurrency=9, lease_s=60)
    lost, near, far = worker.queues
    for number, keys in enumerate(worker.queues):
        await broker.register(keys, worker.lease.worker, 60)
        await broker._link.call(b"LPUSH", keys.main, message(f"held-{number}"))
    worker.lease.renewed(1e12)
    fetcher, held = worker.fetcher, worker.inflight
    await fetcher.tick()
    assert sorted(job.id for job in held.of(Phase.HELD)) == ["held-0", "held-1", "held-2"]
    await broker.register(far, "ghost", 0)
    await broker._link.call(b"LPUSH", far.processing("ghost"), message("ghosts"))
    await broker.enqueue(near, "p", 0, 1, [Enqueued("late", False, 0, "+1", message("late"))])
    owner = cluster.owner(slot_of(lost.name))
    cluster.client(owner).wait(1, 5000)
    await fetcher._end_blocks()
    cluster.hold_failovers()
    owner.kill()
    fetcher.poke()
    await fetcher.tick()
    assert fetcher._missed == [lost]
    assert sorted(job.id for job in held.of(Phase.HELD)) == ["held-1", "held-2"]
    assert set(fetcher._blocks) == {near, far}
    assert len(log.of("claims wait for some queues", queues=[lost.name])) == 1
    await fetcher.audit()
    assert fetcher._is_unsure
    assert await worker.worker._promoter.tick() == 1
    assert [await worker.reaper.tick(), await worker.reaper.tick()] == [0, 1]

    cluster.hold_failovers(is_held=False)
    async with asyncio.timeout(20):
        while fetcher._missed:
            fetcher.poke()
            await fetcher.tick()
    await fetcher.audit()
    assert "held-0" in {job.id for job in held.of(Phase.HELD)}
    assert len(log.of("claims reach all queues again")) == 1
    await fetcher._end_blocks()
    owner.start()
    await asyncio.to_thread(cluster.settle)


async def test_a_job_moves_to_a_queue_at_another_node(load, cluster):
    """Into the other queue first, then out of this one: two scripts at two nodes. Breaks when one script does both."""
    app = load.app

    @app.task(name="moves", bind=True)
    async def moves(task) -> str:
        if task.request.queue == QUEUES[0]:
            task.retry(countdown=0, queue=QUEUES[1])
        return task.request.queue

    async with app.worker(queues=QUEUES, concurrency=2):
        job = await moves.options(queue=QUEUES[0]).enqueue()
        assert await job.result(timeout=10) == QUEUES[1]
    await app.close()
