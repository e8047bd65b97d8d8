"""heart: renews the lease from a thread; what the invariants ask of it is in tests/invariants/test_08."""

import asyncio
import threading
import time

import orjson
import pytest

from rqueue.broker.endpoint import Endpoint
from rqueue.policy.clock import elapsed_s
from rqueue.worker.heart import Heart
from rqueue.worker.inflight import Signals
from rqueue.worker.lease import Lease


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.fixture
async def beating(broker, url):
    """Start a heart; all are stopped at the end, and their threads end."""
    hearts = []

    async def start(lease_s=0.3, queues=("default",), endpoint=None, register=True):
        lease, signals = Lease(lease_s), Signals()
        queues = [broker.keys.queue(name) for name in queues]
        for each in queues:
            assert not register or await broker.register(each, lease.worker, lease_s)
        heart = Heart(endpoint or Endpoint(url), queues, lease, signals, lambda: orjson.dumps({"n": 1}), 300)
        hearts.append((heart, asyncio.create_task(heart.run())))
        return heart, lease, signals

    yield start
    for heart, task in hearts:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(heart._thread.join, 5)
        assert not heart._thread.is_alive()


async def test_it_renews_again_and_again_in_all_queues(beating, broker, until):
    """Each renewal wakes the executor, and makes the lease young."""
    _, lease, signals = await beating(queues=("a", "b"))
    for _ in range(3):
        signals.execute.clear()
        async with asyncio.timeout(5):
            await signals.execute.wait()
        assert lease.may_start()
    for name in ("a", "b"):
        ((worker, left_s, card),) = await broker.workers(broker.keys.queue(name))
        assert worker == lease.worker
        assert 0 < left_s <= 0.31
        assert orjson.loads(card) == {"n": 1}


async def test_its_card_has_a_ttl(beating, broker, keys, until):
    _, lease, signals = await beating(lease_s=30)
    async with asyncio.timeout(5):
        await signals.execute.wait()
    assert 0 < await broker._link.call(b"PTTL", keys.card(lease.worker)) <= 90_000


async def test_an_unregistered_worker_has_lost_its_lease(beating):
    _, lease, signals = await beating(register=False)
    async with asyncio.timeout(5):
        await signals.fetch.wait()
    assert lease.is_lost
    assert not lease.may_start()


async def test_lost_in_one_queue_is_lost_in_all(beating, broker):
    _, lease, signals = await beating(queues=("a", "b"))
    await broker._link.call(b"ZREM", broker.keys.queue("b").workers, lease.worker)
    async with asyncio.timeout(5):
        await signals.fetch.wait()
    assert lease.is_lost


async def test_an_answer_about_the_old_id_does_not_count(beating, broker, keys):
    """The worker took a new id while the renewal was under way."""
    heart, lease, _ = await beating(lease_s=60)

    class Slow:
        def renew(self, queues, worker, lease_s, card):
            lease.renumber()
            return False

    assert heart._beat(Slow())
    assert not lease.is_lost


async def test_the_leases_age_counts_from_when_the_renewal_was_sent(beating):
    """Its reply may take seconds, and Redis's clock has gone on meanwhile."""
    heart, lease, signals = await beating(lease_s=60)
    sent = []

    class Slow:
        def renew(self, queues, worker, lease_s, card):
            sent.append(elapsed_s())
            while elapsed_s() < sent[0] + 0.05:
                pass
            return True

    async with asyncio.timeout(5):
        await signals.execute.wait()
    lease._renewed_s = -1e9
    signals.execute.clear()
    assert heart._beat(Slow())
    async with asyncio.timeout(5):
        await signals.execute.wait()
    assert sent[0] - 1 < lease._renewed_s <= sent[0]


async def test_without_redis_it_says_so_and_tries_again(beating, log):
    _, lease, _ = await beating(endpoint=Endpoint("redis://127.0.0.1:1/0"), register=False)
    await log.heard("lease not renewed", 2)
    assert not lease.is_lost
    assert not lease.may_start()


async def test_when_redis_answers_again_it_says_so_once(beating, log):
    heart, _, _ = await beating(lease_s=60)

    answers = [OSError("away"), OSError("away"), True, True]

    class Flaky:
        def renew(self, queues, worker, lease_s, card):
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

    pulse = Flaky()
    assert [heart._beat(pulse) for _ in range(4)] == [False, False, True, True]
    (said,) = log.of("redis answers again")
    assert said["after_s"] >= 0


async def test_after_a_script_flush_it_renews(beating, broker):
    _, lease, signals = await beating()
    await broker._link.call(b"SCRIPT", b"FLUSH")
    for _ in range(2):
        signals.execute.clear()
        async with asyncio.timeout(5):
            await signals.execute.wait()
    assert not lease.is_lost


async def test_its_thread_is_a_daemon_with_a_name(beating):
    heart, _, signals = await beating()
    async with asyncio.timeout(5):
        await signals.execute.wait()
    assert heart._thread.daemon
    assert heart._thread.name == "rqueue heart"
    assert heart._thread in threading.enumerate()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_what_blocks_the_loop_is_counted_and_the_last_few_are_kept(beating, log):
    """How long it lasted in the end, and where: breaks when only the first second is noted."""
    heart, _, signals = await beating()
    async with asyncio.timeout(5):
        await signals.execute.wait()
    blocker, until = threading.Event(), time.monotonic() + 20
    while time.monotonic() < until and not any(stall.seconds >= 1.5 for stall in heart.last_stalls):
        blocker.wait(0.01)  # on the loop's own thread
    await log.heard("event loop blocked")
    assert heart.stalls == 1
    (stall,) = heart.last_stalls
    assert 1.5 <= stall.seconds < 30
    assert "threading.py" in stall.where
    assert abs(stall.at_ms / 1000 - time.time()) < 30
    for _ in range(30):
        heart._name_blocker(1.0)
    assert (heart.stalls, len(heart.last_stalls)) == (31, 10)
