"""Invariant 6, reaping is repeatable: two reapers, or one that dies half-way, lose and double nothing; two looks;
losses are charged to what had started; suspects run alone; the third loss is a dead letter; order and priority survive.

Seen to fail with reap.lua pushing without a look at LREM's answer (doubled), with reap.lua removing the worker while
messages are left (lost to the next round), with reap.lua without its look at the lease, with `Reaper.tick` without
`_seen`, without the `_seen.clear()` after an error, with `redeliver` charging all or nobody, with RPUSH and LPUSH
exchanged, with `is_suspect` from the third loss on, and with `Executor._startable` ignoring suspects.
"""

import asyncio
from collections import Counter

import pytest

from rqueue import JobFailed
from rqueue.errors import BrokerUnavailable
from rqueue.wire.message import Message
from rqueue.wire.state import State


@pytest.fixture
def keys(broker):
    return broker.keys.queue("default")


async def waiting(broker, name):
    """Messages of a list, the next one first, without tokens."""
    return [raw for raw in reversed(await broker._link.call(b"LRANGE", name, 0, -1)) if raw]


async def test_two_reapers_at_once_lose_and_double_nothing(broker, keys, parts, ghost, message, stored):
    one, two, dead = parts(), parts(), await ghost(broker)
    messages = [message(f"j{number:03}") for number in range(230)]
    await one.push(*messages)
    await dead.claim()
    await dead.die()
    moved = await asyncio.gather(one.reaper.tick(), two.reaper.tick())
    assert moved == [0, 0]
    await asyncio.gather(one.reaper.tick(), two.reaper.tick())
    assert await waiting(broker, keys.main) == messages
    assert await broker.workers(keys) == []
    assert list(await stored(broker)) == ["rqueue:{default}", "~rqueue:{default}:processing:ghost"]


async def test_a_reaper_that_dies_half_way_is_followed_by_another(broker, keys, parts, ghost, message):
    """It dies between any two of its steps; the next one goes on with the rest, in the old order."""
    dead = await ghost(broker)
    messages = [message(f"j{number:03}", level=number % 2 * 7) for number in range(230)]
    for number, raw in enumerate(messages):
        await broker._link.call(b"LPUSH", keys.lists[number % 2 * 7], raw)
    await dead.claim()
    await dead.die()
    for survive in (1, 2, 1000):
        reaper = parts().reaper
        real, left = reaper._broker.reap, survive

        async def die(*arguments, real=real):
            nonlocal left
            if left == 0:
                raise asyncio.CancelledError
            left -= 1
            return await real(*arguments)

        reaper._broker.reap = die
        try:
            await reaper.tick()
            await reaper.tick()
        except asyncio.CancelledError:
            pass
        finally:
            reaper._broker.reap = real
    assert await waiting(broker, keys.lists[7]) == messages[1::2]
    assert await waiting(broker, keys.main) == messages[0::2]
    assert await broker.workers(keys) == []


async def test_one_look_condemns_nobody(broker, keys, parts, ghost, message):
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a"))
    await dead.claim()
    await dead.die()
    assert await worker.reaper.tick() == 0
    assert [name for name, _, _ in await broker.workers(keys)] == ["ghost"]
    assert await worker.reaper.tick() == 1


async def test_the_looks_must_follow_each_other(broker, keys, parts, ghost, message):
    """Alive in between: it starts anew."""
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a"))
    await dead.claim()
    await dead.die()
    assert await worker.reaper.tick() == 0
    await broker.renew([keys], dead.id, 60, b"{}")
    assert await worker.reaper.tick() == 0
    await dead.die()
    assert await worker.reaper.tick() == 0
    assert await worker.reaper.tick() == 1


async def test_a_worker_that_renews_between_the_look_and_the_move_is_alive(
    broker, keys, parts, ghost, message, held_in
):
    """The move checks the lease again."""
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("a"))
    await dead.claim()
    await dead.die()
    await worker.reaper.tick()
    remains = broker.remains

    async def renew_first(*arguments):
        found = await remains(*arguments)
        await broker.renew([keys], dead.id, 60, b"{}")
        return found

    broker.remains = renew_first
    assert await worker.reaper.tick() == 0
    assert await held_in(broker, keys, dead.id) == [message("a")]


async def test_an_alive_worker_is_never_reaped(app, broker, keys, gate, parts):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker() as worker:
        job = await t.enqueue()
        await gate.reached()
        other = parts()
        for _ in range(5):
            assert await other.reaper.tick() == 0
        gate.open()
        await job.result(5)
        assert (await job.info()).losses == 0
        assert worker.id


async def test_a_stalled_redis_does_not_condemn_a_fleet(broker, keys, parts, ghost, message, log):
    """What was seen before a break does not count: two looks in a row are needed again."""
    worker, dead = parts(lease_s=0.03), await ghost(broker)
    await worker.push(message("a"))
    await dead.claim()
    await dead.die()
    await worker.reaper.tick()
    assert worker.reaper._seen
    overdue, calls = broker.overdue, []

    async def stalled(*arguments):
        calls.append(len(worker.reaper._seen))
        if len(calls) == 1:
            raise BrokerUnavailable("stalled")
        return await overdue(*arguments)

    broker.overdue = stalled
    running = asyncio.create_task(worker.reaper.run())
    await log.heard("worker reaped")
    running.cancel()
    assert calls[:3] == [1, 0, 1], "seen before the break: forgotten by the look after it"
    assert len(log.of("reaping waits for redis")) == 1


async def test_losses_are_charged_to_what_had_started(broker, keys, parts, ghost, message):
    worker, dead = parts(), await ghost(broker)
    await worker.push(message("ran", retries=2, since=5), message("waited"), b'{"task":"no header"}')
    await dead.claim()
    await dead.start("ran")
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    assert await waiting(broker, keys.main) == [
        message("ran", losses=1, retries=2, since=5),
        message("waited"),
        b'{"task":"no header"}',
    ]


async def test_order_and_priority_survive_and_a_reaped_job_is_next(broker, keys, parts, ghost, message):
    worker, dead = parts(), await ghost(broker)
    for number in range(3):
        await worker.push(message(f"m{number}"))
        await worker.push(b'{"task":"t","n":%d}' % number, level=9)
    await dead.claim()
    await worker.push(message("later"))
    await worker.push(message("later9", level=9), level=9)
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    assert await waiting(broker, keys.main) == [message(name) for name in ("m0", "m1", "m2", "later")]
    assert await waiting(broker, keys.lists[9]) == [
        *(b'1 9 0 0 0 - {"task":"t","n":%d}' % number for number in range(3)),
        message("later9", level=9),
    ]


async def test_a_reap_wakes_an_idle_worker(app, broker, keys, ghost):
    """The job was in a priority's list, where nobody blocks."""

    @app.task(name="t")
    async def t():
        return 1

    async with app:
        dead = await ghost(broker)
        job = await t.options(priority=3).enqueue()
        await dead.claim()
        await dead.die()
        async with app.worker() as worker:
            for _ in range(2):
                await worker._reaper.tick()
            assert await job.result(2) == 1


async def test_the_third_loss_is_a_dead_letter(app, broker, keys, ghost, parts, letters, leaked):
    """WorkerLost, as the job's result too; whoever waits is told, and its neighbours are not charged."""

    @app.task(name="poison")
    async def poison():
        return 1

    @app.task(name="good")
    async def good():
        return 1

    async with app:
        bad = await poison.options(job_id="bad").enqueue()
        fine = await good.options(job_id="fine").enqueue()
        result = asyncio.create_task(bad.result(10))
        for number in range(3):
            dead = await ghost(broker, f"ghost{number}")
            raws = await dead.claim()
            assert [Message.parse(raw).header.losses for raw in raws] == [number, 0]
            await dead.start("bad")
            await dead.die()
            reaper = parts().reaper
            for _ in range(2):
                await reaper.tick()
        with pytest.raises(JobFailed) as caught:
            await result
        assert caught.value.error_type == "WorkerLost"
        info = await bad.info()
        assert (info.state, info.losses, info.is_dead) == (State.FAILURE, 3, True)
        (letter,) = await letters(broker)
        assert (letter.id, letter.reason, letter.losses) == ("bad", "worker lost", 3)
        assert letter.raw.startswith(b'1 - 3 0 0 bad {"task":"poison"')
        async with app.worker() as worker:
            assert await fine.result(5) == 1
            await worker.drain()
        assert await leaked(broker) == {}


@pytest.mark.parametrize(("deliveries", "losses"), [(1, 0), (2, 1), (5, 4)])
async def test_max_deliveries_is_the_apps_choice(broker, keys, parts, ghost, message, letters, deliveries, losses):
    worker, dead = parts(max_deliveries=deliveries), await ghost(broker)
    await worker.push(message("a", losses=losses))
    await dead.claim()
    await dead.start("a")
    await dead.die()
    for _ in range(2):
        await worker.reaper.tick()
    assert [letter.losses for letter in await letters(broker)] == [deliveries]


async def test_a_suspect_runs_with_nothing_else_in_its_process(app, broker, keys, message, new_gate, until):
    """From its second loss on: it waits until nothing else runs, and nothing starts beside it."""
    before, alone, after = new_gate(), new_gate(), new_gate()
    beside: dict[str, int] = {}
    running: Counter = Counter()

    def task(gate, name):
        async def run():
            running[name] += 1
            beside[name] = max(beside.get(name, 0), sum(running.values()) - 1)
            await gate(name)
            running[name] -= 1

        return app.task(name=name)(run)

    task(before, "before")
    task(alone, "suspect")
    task(after, "after")

    async with app, app.worker(concurrency=5, shutdown_timeout=1) as worker:
        await broker._link.call(b"LPUSH", keys.main, message("b1", "before"), message("b2", "before"))
        await before.reached(2)
        await broker._link.call(b"LPUSH", keys.main, message("s", "suspect", losses=2))
        await broker._link.call(b"LPUSH", keys.main, message("a1", "after"), message("a2", "after"))
        # It is claimed, and it waits; nothing overtakes it.
        await until(lambda: worker._inflight.exclusive is not None)
        for _ in range(20):
            await broker._link.call(b"PING")
        assert (worker.running, alone.came, after.came) == (2, [], [])
        before.open()
        await alone.reached()
        for _ in range(20):
            await broker._link.call(b"PING")
        assert (worker.running, after.came) == (1, [])
        # Held here they would wait for the suspect, and another worker may be idle.
        await until(lambda: worker.held == 0)
        alone.open()
        await after.reached(2)
        after.open()
        await worker.drain()
    assert beside["suspect"] == 0


async def test_the_innocent_run_together(app, broker, keys, message, gate):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=3) as worker:
        await broker._link.call(b"LPUSH", keys.main, *(message(f"j{n}") for n in range(3)))
        await gate.reached(3)
        assert worker.running == 3
        gate.open()
        await worker.drain()


async def test_what_has_cost_a_worker_is_questioned_one_by_one_and_holds_up_nobody(
    app, broker, keys, message, gate, monkeypatch
):
    """If the process dies now, it alone is charged. The innocent go past those that wait for their turn."""
    monkeypatch.setattr("rqueue.worker.inflight.QUESTION_S", 60)
    came: list[str] = []

    @app.task(name="t", bind=True)
    async def t(self):
        came.append(self.request.id)
        await gate()

    async with app, app.worker(concurrency=4) as worker:
        # The right end is next: those that a dead worker left come first.
        await broker._link.call(b"LPUSH", keys.main, *(message(f"back{n}", losses=1) for n in range(3)))
        await broker._link.call(b"LPUSH", keys.main, *(message(f"new{n}") for n in range(6)))
        await gate.reached(4)
        assert sorted(came) == ["back0", "new0", "new1", "new2"]
        gate.open()
        await worker.drain()
    assert len(came) == 9


async def test_the_next_one_starts_when_the_first_has_run_for_a_while(app, broker, keys, message, gate, monkeypatch):
    """The jobs of a lost host are not done one after the other."""
    monkeypatch.setattr("rqueue.worker.inflight.QUESTION_S", 0.01)

    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=3) as worker:
        await broker._link.call(b"LPUSH", keys.main, *(message(f"j{n}", losses=1) for n in range(3)))
        await gate.reached(3)
        gate.open()
        await worker.drain()


async def test_a_later_loss_charges_only_what_had_cost_a_worker_before(parts, ghost, broker, keys, message):
    """Over all queues of the dead worker."""
    worker = parts("default", "other")
    dead, beside = await ghost(broker), await ghost(broker, "ghost", "other")
    await broker._link.call(b"LPUSH", keys.main, message("poison", losses=1), message("innocent"))
    await broker._link.call(b"LPUSH", beside.keys.main, message("neighbour"))
    for each, ids in ((dead, ("poison", "innocent")), (beside, ("neighbour",))):
        await each.claim()
        await each.start(*ids)
        await each.die()
    assert [await worker.reaper.tick() for _ in range(2)] == [0, 3]
    left = await broker._link.call(b"LRANGE", keys.main, 0, -1)
    assert sorted(left) == [message("innocent"), message("poison", losses=2)]
    assert await broker._link.call(b"LRANGE", beside.keys.main, 0, -1) == [message("neighbour")]


async def test_several_suspects_run_one_after_the_other(app, broker, keys, message):
    most = running = 0

    @app.task(name="t")
    async def t():
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with app, app.worker(concurrency=5) as one, app.worker(concurrency=5):
        await broker._link.call(b"LPUSH", keys.main, *(message(f"j{n}", losses=2) for n in range(6)))
        await one.drain()
    assert most <= 2, "one in each worker"
