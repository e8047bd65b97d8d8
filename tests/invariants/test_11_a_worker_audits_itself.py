"""Invariant 11, a worker audits itself: it compares its processing list with its memory, as a multiset; a message whose
reply was lost is run, and not renewed for ever; one that vanished is dropped.

Seen to fail with `Fetcher.audit` finding nothing, comparing sets (one of two equal messages is forgotten), dropping
nothing, with `_is_audit_due` without its look at `resets`, and with the audit taking what is being settled for lost.
"""

import asyncio
from collections import Counter

import pytest

from rqueue import RQueue


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def force_audit(worker):
    """Make one due, and return when it has been made."""
    real, made = worker._fetcher.audit, asyncio.Event()

    async def audit():
        await real()
        made.set()

    worker._fetcher.audit = audit
    worker._fetcher._audited_s = -1e9
    worker._fetcher.poke()
    await asyncio.wait_for(made.wait(), 5)
    worker._fetcher.audit = real


async def test_what_stands_in_the_list_and_nobody_knows_of_is_run(app, broker, keys, message, log, leaked, held_in):
    """As if a claim's reply had been lost; also equal messages, one without an id, and one that is none."""
    runs: Counter = Counter()

    @app.task(name="t", bind=True)
    async def t(self):
        runs[self.request.id] += 1

    async with app:
        async with app.worker() as worker:
            await worker.drain()
            await broker._link.call(
                b"LPUSH",
                keys.processing(worker.id),
                message("a"),
                message("a"),
                message("b", level=7),
                b'{"task":"t"}',
                b"\xffno message",
                b"",
            )
            await force_audit(worker)
            await log.heard("job done", 4)
            await worker.drain()
            assert len(log.of("audit found jobs", jobs=5)) == 1
            assert await held_in(broker, keys, worker.id) == []
        assert (runs["a"], runs["b"], sum(runs.values())) == (2, 1, 4)
        assert await leaked(broker) == {}


async def test_a_held_job_that_vanished_is_dropped(app, broker, keys, gate, until, log):
    """It is another's now; what runs goes on, and its settle is refused."""

    @app.task(name="t")
    async def t(number):
        await gate(number)

    async with app, app.worker(concurrency=1, prefetch_multiplier=4, shutdown_timeout=1) as worker:
        worker._inflight.pace.allowance = lambda now_s: 3
        await app.enqueue_many([t.s(number) for number in range(4)])
        worker._fetcher.poke()
        await gate.reached()
        await until(lambda: worker.held == 3)
        await broker._link.call(b"DEL", keys.processing(worker.id))
        worker._inflight.pace.allowance = lambda now_s: 0
        await force_audit(worker)
        assert (worker.held, worker.running) == (0, 1)
        assert len(log.of("claim lost", was="held")) == 3
        gate.open()
        await log.heard("claim lost", was="ack")
        assert len(gate.came) == 1
        await worker.drain()
        assert (worker.held, worker.running) == (0, 0)


async def test_the_audit_takes_nothing_that_is_being_settled_for_lost(app, log):
    """Under load, again and again: no job runs twice, none is forgotten."""
    runs: Counter = Counter()

    @app.task(name="t", bind=True)
    async def t(self, number):
        runs[number] += 1
        await asyncio.sleep(0)
        if number % 7 == 0 and not self.request.retries:
            self.retry(countdown=0)

    async with app, app.worker(concurrency=20) as worker:
        await app.enqueue_many([t.s(number) for number in range(400)])
        while sum(runs.values()) < 400 + 58:
            await force_audit(worker)
        await worker.drain(scheduled=True)
        await force_audit(worker)
    assert runs == {number: 2 if number % 7 == 0 else 1 for number in range(400)}
    assert log.of("audit found jobs") == []
    assert log.of("claim lost") == []


async def test_killed_connections_during_load_lose_nothing(redis_app, redis_broker, leaked, log):
    """CLIENT KILL TYPE normal, again and again; every job runs, and nothing stays behind unseen."""
    runs: Counter = Counter()

    @redis_app.task(name="t")
    async def t(number):
        runs[number] += 1
        await asyncio.sleep(0)
        return number

    async def kill():
        connection = redis_broker.endpoint.connection()
        await connection.connect()
        while len(runs) < 1500:
            seen = len(runs)
            await connection.send_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await connection.read_response()
            async with asyncio.timeout(10):
                while len(runs) < min(seen + 60, 1500):
                    await asyncio.sleep(0)
        await connection.disconnect()

    async with redis_app:
        jobs = await redis_app.enqueue_many([t.s(number) for number in range(1500)])
        async with redis_app.worker(concurrency=20) as worker:
            async with asyncio.timeout(30):
                await kill()
                await worker.drain()
            assert worker._settler.lost == 0
        assert runs == dict.fromkeys(range(1500), 1), "no worker died, so none runs twice"
        assert [(await job.info()).result for job in jobs[:20]] == list(range(20))
        counts = (await redis_broker.sizes(redis_broker.keys.queue("default"))).counts
        assert counts == {"SUCCESS": 1500}, "each settle counted once"
        assert await leaked(redis_broker) == {}


@pytest.mark.parametrize("verb", ["BRPOPLPUSH", "claim", "adopt"])
async def test_a_claim_whose_reply_was_lost_is_found_soon(redis_url, redis_broker, proxy, verb, until, log):
    """Because a connection broke, not because it is time: the lease is a minute."""
    app = RQueue(await proxy.start())

    @app.task(name="t")
    async def t():
        return "ran"

    if verb == "BRPOPLPUSH":
        proxy.lose(verb)  # the first one's, which will end with a message
    async with app, app.worker(lease=60, block_s=0.5, shutdown_timeout=1) as worker:
        await until(lambda: len(worker._fetcher._blocks) == 1 and not worker._fetcher._is_more)
        if verb != "BRPOPLPUSH":
            proxy.lose(verb)
        main = redis_broker.keys.queue("default").main
        await redis_broker._link.call(b"LPUSH", main, *(b'{"task":"t","id":"j%d"}' % n for n in range(3)))
        await log.heard("job done", 3)
        assert proxy.lost
        assert log.of("audit found jobs")
        await worker.drain()


VERBS = [
    *("claim", "BRPOPLPUSH", "adopt", "start", "track", "ack", "record", "retry", "bury", "release"),
    *("promote", "renew", "enqueue", "reap"),
]


@pytest.mark.parametrize("verb", VERBS)
async def test_a_lost_reply_of_any_verb_loses_and_doubles_nothing(
    redis_url, redis_broker, proxy, verb, leaked, log, until
):
    """The command was done, and its connection broke before the reply: each job still runs once, and is counted
    once.
    """
    app, direct, runs = RQueue(await proxy.start()), RQueue(redis_url), Counter()
    keys = redis_broker.keys.queue("default")

    @app.task(name="ok", track_started=True)
    async def ok(number):
        runs[number] += 1
        return number

    @app.task(name="early", acks_late=False)
    async def early(number):
        runs[number] += 1
        return number

    @app.task(name="again", bind=True)
    async def again(self, number):
        runs[number] += 1
        if not self.request.retries:
            self.retry(countdown=0.01)

    @app.task(name="fail")
    async def fail(number):
        runs[number] += 1
        raise ValueError

    async with direct, app:
        dead_keys = keys.processing("ghost")
        assert await redis_broker.register(keys, "ghost", 60)
        worker = app.worker(concurrency=3, lease=1.5, shutdown_timeout=1)
        async with worker:
            await worker.drain()
            await until(lambda: len(worker._fetcher._blocks) == 1)
            proxy.lose(verb)
            signatures = [task.s(number) for number, task in enumerate([ok, early, again, fail] * 5)]
            await asyncio.gather(*(app.enqueue(signature) for signature in signatures))
            await redis_broker._link.call(b"LPUSH", keys.main, b'{"task":"ok","args":[100],"id":"headerless"}')
            await redis_broker._link.call(b"LPUSH", dead_keys, b'1 - 0 0 0 reaped {"task":"ok","args":[101]}')
            await redis_broker._link.call(b"ZADD", keys.workers, 1, "ghost")
            for _ in range(3):
                try:
                    await worker._reaper.tick()
                except ConnectionError:
                    worker._reaper._seen.clear()
            if verb == "release":
                worker._inflight.pace.allowance = lambda now_s: 3
            async with asyncio.timeout(15):
                while len(runs) < 22:
                    await asyncio.sleep(0)
                await worker.drain(scheduled=True)
                if verb != "release":
                    while not proxy.lost:
                        await asyncio.sleep(0)
                    await worker.drain(scheduled=True)
        assert proxy.lost or verb == "release"
        expected = {number: 2 if number < 20 and number % 4 == 2 else 1 for number in [*range(20), 100, 101]}
        assert dict(runs) == expected
        counts = (await redis_broker.sizes(keys)).counts
        assert (counts["SUCCESS"], counts["FAILURE"]) == (17, 5)
        assert (await direct.job("headerless", "default").info()).result == 100
        assert await leaked(redis_broker) == {}
    assert log.of("claim lost") == []
