"""pausing: nothing is claimed from a paused queue, and jobs of a paused task are parked.

The stress test plays on a real server: many rounds of pause and resume while workers wait at the server and producers
enqueue. What starts is written into a Redis list by the jobs, so Redis's own order tells what came before what. Seen to
fail with pause.lua without its tokens, and with claim.lua that does not look for stops.
"""

import asyncio
from contextlib import AsyncExitStack

import pytest

from rqueue import RQueue
from rqueue.cli.health import problem_of
from rqueue.client.admin import Admin
from rqueue.client.inspector import Inspector
from rqueue.testing import moving_clock
from rqueue.wire.message import Call
from rqueue.worker.inflight import Phase
from rqueue.worker.outcome import Expired, Unknown
from rqueue.worker.pausing import apply_pauses, is_paused, what_in

SOON_S = 5.0
LOOK = b"""
local found = {}
for _, key in ipairs(KEYS) do for _, raw in ipairs(redis.call('LRANGE', key, 0, -1)) do found[#found + 1] = raw end end
redis.call('RPUSH', 'ran', ARGV[1])
return found
"""


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


@pytest.fixture
def asleep(until):
    """Return when a worker has nothing to do: it waits at the server for what is not paused, and for nothing else."""

    async def wait(worker):
        fetcher = worker._fetcher
        await until(
            lambda: (
                set(fetcher._blocks) == set(fetcher.served) - fetcher.paused
                and not any(task.done() for task in fetcher._blocks.values())
                and not fetcher._is_more
                and not fetcher._inflight.signals.fetch.is_set()
            )
        )

    return wait


# --- queues -----------------------------------------------------------------------------------------------------------


async def test_after_a_pause_nothing_starts_that_was_not_claimed(redis_url, until, monkeypatch):
    """Strict, whatever workers and producers are about to do; and each job runs once in the end.

    In two rounds of three the workers wait at the server when the pause comes, and the producers' next jobs come with
    it, or right after it. Nobody hears of it on the control channel: that is for speed only.
    """

    async def say_nothing(_: Inspector) -> None: ...

    monkeypatch.setattr(Inspector, "hint", say_nothing)
    apps = [RQueue(redis_url) for _ in range(4)]
    call = apps[0].session().broker._link.call
    names = apps[0].keys.queue("default").lists
    sent, late, go = [], set(), asyncio.Event()
    window = None  # the round, while everything is paused

    for each in apps:

        @each.task(name="t", bind=True)
        async def t(self) -> None:
            await call(b"RPUSH", "ran", self.request.id)

    async def look(marker):
        found = await call(b"EVAL", LOOK, len(names), *names, marker)
        return {raw.split()[5] for raw in found if raw}

    async def produce(app, number):
        (task,) = app.tasks
        while window != "over":
            await go.wait()
            options, begun = {"priority": 7} if len(sent) % 5 == number else {}, window
            sent.append((await task.options(**options).enqueue()).id.encode())
            if begun is not None and begun == window:
                late.add(sent[-1])

    async with AsyncExitStack() as running:
        for app in apps:
            await running.enter_async_context(app)
        workers = [await running.enter_async_context(app.worker(concurrency=2)) for app in apps]
        producers = [asyncio.create_task(produce(apps[number], number)) for number in (0, 1)]
        stopped = {}
        for number in range(30):
            if number % 3:
                go.clear()
                await until(lambda: all(len(worker._fetcher._blocks) for worker in workers))
            pausing = asyncio.create_task(apps[number % 4].pause("default"))
            if number % 3 == 1:
                go.set()
            await pausing
            before, window = await look(f"paused {number}"), number
            go.set()
            await until(lambda: len(late) >= 8)
            stopped[number] = before | late
            window = None
            assert stopped[number] <= await look(f"resuming {number}"), "what waited still waits"
            late.clear()
            await apps[(number + 1) % 4].resume("default")
            for worker in workers:
                worker._fetcher.poke()
        window = "over"
        await asyncio.gather(*producers)
        for worker in workers:
            await worker.drain()
        ran = await call(b"LRANGE", "ran", 0, -1)
    for number, waited in stopped.items():
        start, end = ran.index(b"paused %d" % number), ran.index(b"resuming %d" % number)
        assert not waited & set(ran[start:end]), number
    assert sorted(each for each in ran if b" " not in each) == sorted(sent)


async def test_what_runs_ends_and_what_is_held_goes_back_in_its_order(app, broker, keys, gate, until, log):
    """Running jobs finish and are settled; what was claimed and has not started waits again, at its place."""

    @app.task(name="t")
    async def t(number: int) -> int:
        await gate(number)
        return number

    async with app:
        jobs = [await t.enqueue(number) for number in range(6)]
        async with app.worker(concurrency=2, prefetch_multiplier=3) as worker:
            await gate.reached(2)
            ids = [job.id for job in worker._inflight.of(Phase.HELD)]
            await app.pause("default")
            gate.open()
            assert [await job.result(SOON_S) for job in jobs[:2]] == [0, 1]
            await until(lambda: not len(worker._inflight))
            assert gate.came[:2] == [0, 1]
            sizes = await broker.sizes(keys)
            assert sum(sizes.waiting) + len(gate.came) == 6
            assert (sizes.running, sizes.is_paused, len(ids) <= 4) == (0, True, True)
            await app.resume("default")
            assert [await job.result(SOON_S) for job in jobs] == list(range(6))
            assert gate.came == list(range(6))
        assert log.of("queue paused", queue="default")
        assert log.of("queue resumed", queue="default")


async def test_a_paused_queue_costs_its_workers_nothing(redis_app, redis_broker, asleep, until, log):
    """No block is begun there, and jobs that come wake nobody: the next claim is a heartbeat away, here 200 s."""
    asked = []

    @redis_app.task(name="t")
    async def t() -> None: ...

    async with redis_app, redis_app.worker(lease=600) as worker:
        await worker._control.listening.wait()
        await redis_app.pause(all=True)
        await log.heard("control request", verb="look")
        await asleep(worker)
        claim, block = worker._broker.claim, worker._broker.block
        worker._broker.claim = lambda *arguments: asked.append("claim") or claim(*arguments)
        worker._broker.block = lambda *arguments: asked.append("block") or block(*arguments)
        jobs = [await t.options(priority=priority).enqueue() for priority in (9, None) for _ in range(20)]
        assert (asked, len(worker._fetcher._blocks)) == ([], 0)
        admin = Admin(redis_app)
        status = await until(lambda: _first_told(admin))
        assert problem_of(status) is None, "a paused worker is healthy"
        await redis_app.resume(all=True)
        for job in jobs:
            await job.result(SOON_S)


async def _first_told(admin):
    (status,) = await admin.workers()
    return status.beat_age_s is not None and status


async def test_a_worker_that_did_not_hear_of_a_resume_looks_at_its_heartbeat(app, broker, keys, asleep):
    @app.task(name="t")
    async def t() -> str:
        return "ran"

    async with app, app.worker(lease=3) as worker:
        await app.pause("default")
        await asleep(worker)
        job = await t.enqueue()
        await broker.resume(keys, "queue")  # and says nothing
        assert await job.result(SOON_S) == "ran"


async def test_one_paused_queue_of_two(app, asleep):
    @app.task(name="t")
    async def t() -> str:
        return "ran"

    async with app, app.worker(["a", "b"]) as worker:
        await app.pause("a")
        await asleep(worker)
        waiting = await t.options(queue="a").enqueue()
        assert await (await t.options(queue="b").enqueue()).result(SOON_S) == "ran"
        assert (await waiting.info()).state == "PENDING"
        assert [keys.name for keys in worker._fetcher._blocks] == ["b"]
        await app.resume("a")
        assert await waiting.result(SOON_S) == "ran"


async def test_a_worker_that_comes_later_heeds_the_pause(app, broker, until):
    """Also in a queue that was never used before, and in one that it serves later."""

    @app.task(name="t")
    async def t() -> str:
        return "ran"

    async with app:
        await app.pause(all=True)
        jobs = [await t.options(queue=queue).enqueue() for queue in ("default", "new")]
        async with app.worker(["default"]) as worker:
            await worker._fetcher.serve(app.keys.queue("new"))
            await worker.drain()
            assert [(await job.info()).state for job in jobs] == ["PENDING", "PENDING"]
            assert {keys.name for keys in worker._fetcher.paused} == {"default", "new"}
            await app.resume(all=True)
            assert [await job.result(SOON_S) for job in jobs] == ["ran", "ran"]
            assert worker._fetcher.paused == set()


async def test_a_worker_heeds_what_changes_while_it_registers(broker, keys, stored):
    """Breaks when a pause that was withdrawn meanwhile stays in a queue that nobody knew."""
    await broker.declare("task:t")
    pause = broker.pause

    async def meanwhile(*arguments):
        done = await pause(*arguments)
        if await broker.withdraw("task:t"):
            await broker.declare("queue:default")
            await broker.declare("queue:other")
        return done

    broker.pause = meanwhile
    await apply_pauses(broker, [keys])
    found = await stored(broker)
    assert found[keys.stops.decode()] == {b"queue"}
    assert "rqueue:{other}:stops" not in found


async def test_an_audit_gives_back_what_it_finds_in_a_paused_queue(parts, broker, keys, message, held_in):
    """A lost reply to a claim must not start what is paused."""
    worker = parts()
    assert await broker.register(keys, worker.lease.worker, 60)
    worker.lease.renewed(1e12)
    await worker.push(message("a"), message("b"))
    await broker.claim([keys], [5], worker.lease.worker, 60, 10, 10_000)  # its reply was lost
    await broker.pause(keys, "queue")
    await worker.fetcher.tick()
    assert keys in worker.fetcher.paused
    await worker.fetcher.audit()
    assert (worker.inflight.held, await held_in(broker, keys, worker.lease.worker)) == (0, [])
    waiting = await broker._link.call(b"LRANGE", keys.main, 0, -1)
    assert [raw for raw in waiting if raw] == [message("b"), message("a")]


async def test_a_drain_returns_when_nothing_is_left_that_may_run(app):
    @app.task(name="t")
    async def t() -> None: ...

    @app.task(name="other")
    async def other() -> None: ...

    async with app, app.worker(["a", "b"]) as worker:
        await app.pause("a")
        await app.pause(task="t")
        await t.options(queue="a").enqueue()
        await t.options(queue="a", countdown=600).enqueue()
        await t.options(queue="b").enqueue()
        job = await other.options(queue="b").enqueue()
        async with asyncio.timeout(SOON_S):
            await worker.drain()
            await worker.drain(scheduled=True)
        assert (await job.info()).state == "SUCCESS"


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.t", "t"])
async def test_jobs_of_a_paused_task_are_parked_and_spend_nothing(app, broker, keys, until, name, log):
    """They keep id, priority, retries and losses; another task's jobs go on; a message may name the task in short."""

    @app.task(name="shop.t", bind=True, acks_late=False)
    async def t(self) -> tuple[int, int]:
        return self.request.retries, self.request.losses

    @app.task(name="shop.other")
    async def other() -> str:
        return "ran"

    async with app, app.worker() as worker:
        await app.pause(task=name)
        await broker._link.call(b"LPUSH", keys.lists[7], b'1 7 1 2 0 parked {"task":"%s"}' % name.encode())
        await broker._link.call(b"SADD", keys.jobs, b"parked")
        await broker._link.call(b"LPUSH", keys.main, b"")
        assert await (await other.enqueue()).result(SOON_S) == "ran"
        await until(lambda: broker.parked(keys))
        await worker.drain()
        assert await broker.messages_of(keys, ["parked"]) == [b'1 7 1 2 0 parked {"task":"%s"}' % name.encode()]
        assert (await app.job("parked").info()).state == "PENDING"
        assert (worker._inflight.life.started, log.of("job failed")) == (1, [])
        await app.resume(task=t)
        assert await app.job("parked").result(SOON_S) == [2, 1]


async def test_a_parked_job_comes_back_within_a_minute_and_is_parked_again(app, broker, keys, until):
    """A worker that parks after a resume costs no more than that."""

    @app.task(name="t")
    async def t() -> str:
        return "ran"

    async with app, moving_clock(app) as clock, app.worker():
        await app.pause(task="t")
        job = await t.enqueue()
        await until(lambda: broker.parked(keys))
        (before,) = await broker.scheduled(keys, 1)
        await clock.move(61)

        async def is_parked_anew():
            found = await broker.scheduled(keys, 1)
            return found and found[0][1] > before[1] + 50_000

        await until(is_parked_anew)
        assert await broker.parked(keys) == [job.id]
        await broker.resume(keys, "task:t")  # and nobody brings it back
        await clock.move(61)
        assert await job.result(SOON_S) == "ran"


async def test_the_order_survives_parking(redis_app, redis_broker, until):
    """Many are parked within one millisecond, and ids say nothing. Neighbours may change places, as in any queue: what
    a wait brings overtakes what a claim brings.
    """
    ran: list[int] = []

    @redis_app.task(name="t", ignore_result=True)
    async def t(number: int) -> None:
        ran.append(number)

    async with redis_app:
        keys = redis_app.keys.queue("default")
        await redis_app.enqueue_many([t.s(number) for number in range(200)])
        await redis_app.pause(task="t")
        async with redis_app.worker(concurrency=1) as worker:
            await until(lambda: _is_parked(redis_broker, keys, 200))
            await redis_app.resume(task="t")
            await worker.drain(scheduled=True)
    assert sorted(ran) == list(range(200))
    assert max(abs(place - number) for place, number in enumerate(ran)) <= 8


async def _is_parked(broker, keys, count):
    return len(await broker.parked(keys)) == count


async def test_ten_thousand_parked_jobs_come_back(redis_app, redis_broker):
    """By the hundred; those of another paused task stay."""
    ran, count, call = [], 10_000, redis_broker._link.call

    @redis_app.task(name="t", ignore_result=True)
    async def t(number: int) -> None:
        ran.append(number)

    async with redis_app:
        keys, due = redis_app.keys.queue("default"), redis_broker.clock.now_ms() + 600_000
        await redis_app.pause(task="t")
        await redis_app.pause(task="other")
        for start in range(0, count, 1_000):
            page = range(start, start + 1_000)
            await call(b"ZADD", keys.scheduled, *(part for n in page for part in (f"{due + n}.5", f"j{n}")))
            body = '{"task":"t","args":[%d]}'
            raws = (part for n in page for part in (f"j{n}", f"1 - 0 0 0 j{n} {body % n}"))
            await call(b"HSET", keys.messages, *raws)
        await call(b"ZADD", keys.scheduled, f"{due}.5", b"mine")
        await call(b"HSET", keys.messages, b"mine", b'1 - 0 0 0 mine {"task":"other"}')
        async with redis_app.worker(concurrency=100) as worker:
            await redis_app.resume(task="t")
            assert await redis_broker.parked(keys) == ["mine"]
            await worker.drain(scheduled=True)
    assert sorted(ran) == list(range(count))


def test_which_jobs_are_of_a_paused_task(app):
    task = app.task(name="shop.t")(print)
    assert is_paused((Call("t"), task), frozenset({"shop.t"}))
    assert is_paused((Call("t"), task), frozenset({"t"}))
    assert is_paused(Unknown("gone"), frozenset({"gone"}))
    assert not is_paused(Unknown("gone"), frozenset({"t"}))
    assert not is_paused((Call("t"), task), frozenset())
    assert not is_paused(Expired(), frozenset({"t"})), "it is REVOKED in its time"


def test_what_a_declared_pause_stops_in_a_queue(keys):
    found = [what_in(keys, field) for field in ("all", "queue:default", "queue:other", "task:a:b")]
    assert found == ["all", "queue", None, "task:a:b"]
