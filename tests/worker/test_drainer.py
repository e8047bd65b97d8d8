"""drainer: what waits in Redis comes to the result store, in its order, and nothing is lost between the two."""

import asyncio

import pytest

from rqueue.broker.spool import Spool
from rqueue.config import Results
from rqueue.errors import BrokerError, BrokerUnavailable
from rqueue.results.entry import Entry
from rqueue.worker import drainer as module

RESULTS = "redis://127.0.0.1:1/9"


def entry(number: int) -> bytes:
    job_id = f"j{number}"
    return Entry(job_id, b'{"state":"SUCCESS"}', b'1 - 0 0 0 %b {"task":"t"}' % job_id.encode()).encode()


@pytest.fixture
async def worker(parts, store):
    return parts("default", "other", app={"results": RESULTS})


@pytest.fixture
def drainer(worker):
    return worker.worker._drainer


@pytest.fixture
def archive(worker):
    return worker.worker._archive


@pytest.fixture
def wait(broker, worker):
    """Have ends wait in a queue's spool."""

    async def put(*entries, queue=0):
        await broker.spool(worker.queues[queue], entries, 10**6)

    return put


async def test_all_queues_are_drained_the_oldest_first(drainer, worker, store, broker, wait, stored, monkeypatch):
    """In pages. Breaks when a queue is forgotten, the order is another, or something stays."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    await wait(*map(entry, range(5)))
    await wait(entry(9), queue=1)
    assert await drainer.tick() == 6
    assert store.batches == [["j0", "j1"], ["j2", "j3"], ["j4"], ["j9"]]
    assert set(await stored(broker)) == {"~rqueue:{default}:recorded", "~rqueue:{other}:recorded"}
    assert (drainer.drained, drainer.dropped) == (6, 0)


async def test_each_round_says_that_there_is_a_store(drainer, worker, broker):
    """Those who end a job without a worker look for it. Breaks when it is there only after the first outage."""
    assert await drainer.tick() == 0
    assert await broker._link.call(b"GET", worker.keys.recorded) == b"%d" % Results(RESULTS).spool_bytes


async def test_what_could_not_be_written_stays(drainer, worker, store, broker, wait):
    """Breaks when entries leave before the store has them."""
    await wait(entry(1), entry(2))
    store.is_away = True
    assert await drainer.tick() == 0
    assert (await broker.spooled(worker.keys)).entries == 2


async def test_while_the_store_is_away_it_is_not_asked_and_nobody_is_locked_out(
    drainer, archive, worker, store, broker, wait
):
    """Another worker may reach it. Breaks when a worker without its database holds the lock."""
    store.is_away = True
    await archive.open()
    await wait(entry(1))
    await drainer.tick()
    assert await broker._link.call(b"EXISTS", worker.keys.spool_lock) == 0
    assert await broker._link.call(b"EXISTS", worker.keys.recorded) == 1


async def test_a_page_that_was_written_and_not_taken_away_is_written_again(
    drainer, worker, store, broker, wait, monkeypatch
):
    """The worker died, or Redis did not answer. Breaks when a row is lost, or there are two."""
    real, asked = broker.unspool, []

    async def unlucky(*arguments, **more):
        asked.append(arguments)
        if len(asked) == 2:  # this one would have taken the first page away
            raise BrokerUnavailable("away")
        return await real(*arguments, **more)

    monkeypatch.setattr(broker, "unspool", unlucky)
    await wait(entry(1), entry(2))
    with pytest.raises(BrokerUnavailable):
        await drainer.tick()
    assert await drainer.tick() == 2
    assert (await broker.spooled(worker.keys)).entries == 0
    assert store.batches == [["j1", "j2"], ["j1", "j2"]]
    assert store.states == {"j1": "SUCCESS", "j2": "SUCCESS"}


async def test_only_one_worker_is_at_it(parts, store, wait, drainer, worker, broker):
    """Breaks when all workers write the same after an outage."""
    second = parts("default", app={"results": RESULTS})
    await wait(entry(1))
    store.gate.clear()
    first = asyncio.create_task(drainer.tick())
    await store.saving.wait()
    assert await second.worker._drainer.tick() == 0
    store.gate.set()
    assert await first == 1


async def test_what_cannot_be_read_is_counted_and_keeps_nothing_out(drainer, store, wait, log, broker, worker):
    """Somebody's bytes. Breaks when they are first in the list for ever."""
    await wait(b"rubbish", b"j0\nrubbish\n", entry(1))
    assert await drainer.tick() == 1
    assert drainer.dropped == 2
    assert store.states == {"j1": "SUCCESS"}
    assert len(log.of("results were not kept")) == 2
    assert await broker.spooled(worker.keys) == Spool(0, 0, 0)


async def test_a_queue_that_cannot_be_drained_keeps_no_other_from_it(drainer, worker, store, wait, broker):
    """Somebody's key is in its spool's place. Breaks when the queues behind it fill up, and lose rows."""
    await broker._link.call(b"SET", worker.keys.spool, b"x")
    await wait(entry(1), queue=1)
    with pytest.raises(BrokerError):
        await drainer.tick()
    assert store.states == {"j1": "SUCCESS"}


async def test_a_refused_row_leaves_as_well(drainer, store, wait, broker, worker):
    store.refused = {"j1"}
    await wait(entry(1), entry(2))
    assert await drainer.tick() == 1
    assert drainer.dropped == 1
    assert (await broker.spooled(worker.keys)).entries == 0


async def test_it_begins_as_soon_as_the_store_is_back(drainer, archive, store, wait, until, log):
    """Breaks when it waits for the next heartbeat, or ends for an error of Redis."""
    store.is_away = True
    await archive.open()
    await wait(entry(1))
    running = asyncio.create_task(drainer.run())
    await asyncio.sleep(0)
    store.is_away = False
    await archive.tick()
    await until(lambda: store.states == {"j1": "SUCCESS"})
    running.cancel()


async def test_a_redis_that_is_away_for_a_round_ends_nothing(drainer, broker, store, wait, monkeypatch, log, until):
    real = broker.unspool

    async def away(*_, **__):
        monkeypatch.setattr(broker, "unspool", real)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(broker, "unspool", away)
    await wait(entry(1))
    running = asyncio.create_task(drainer.run())
    await log.heard("draining waits for redis")
    drainer._archive.back.set()
    await until(lambda: store.rows)
    running.cancel()
