"""commands: what an operator can have a running worker do, asked for as an operator does."""

import asyncio
import threading

import pytest

from rqueue.client.inspector import Inspector
from rqueue.config import Queue
from rqueue.errors import ConfigError
from rqueue.worker.pools import MainThread


@pytest.fixture
def ask(app, worker):
    """Ask the one worker; its answer, or the text of its refusal."""

    async def do(verb, **args):
        (answer,) = (await Inspector(app).ask(verb, timeout=5, **args)).answers
        return answer.ok if answer.error is None else answer.error

    return do


@pytest.fixture
async def worker(app, gate):
    """A worker with one slot, which hears, and two tasks: `hold` waits at the gate, `tell` gives back its argument."""

    @app.task(name="m.hold")
    async def hold(who=None):
        await gate(who)

    @app.task(name="m.tell")
    async def tell(what):
        return what

    async with app, app.worker(["default"], concurrency=1, prefetch_multiplier=4, shutdown_timeout=0) as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        yield worker


@pytest.fixture
def hold(app, worker):
    return app.tasks.find("hold")


@pytest.fixture
def tell(app, worker):
    return app.tasks.find("tell")


async def test_shutdown_stops_as_a_first_sigterm_does(app, worker, ask, hold, gate, broker):
    await app.enqueue_many([hold.s(1), hold.s(2)])
    await gate.reached()
    assert await ask("shutdown") == {"stopping": True, "running": 1}
    assert worker._stopping.is_set()
    assert not worker._stop_now.is_set()


async def test_a_grown_pool_runs_more_and_a_shrunk_one_fewer(app, worker, ask, hold, gate, until):
    """What runs goes on when there are fewer slots; never fewer than one."""
    await app.enqueue_many([hold.s(number) for number in range(5)])
    await gate.reached(1)
    assert (worker.running, gate.inside) == (1, 1)
    assert await ask("pool_grow", n=2) == {"slots": 3, "was": 1}
    await gate.reached(3)
    assert (worker._inflight.slots, worker._inflight.most, worker._inflight.pace.slots) == (3, 12, 3)
    assert await ask("pool_shrink", n=10) == {"slots": 1, "was": 3}
    assert worker.running == 3
    assert worker._inflight.room() <= 0
    gate.open()
    await worker.drain()
    assert gate.most == 3


@pytest.mark.parametrize("n", [0, -1, "2", 1.5, True, None])
async def test_a_number_of_slots_is_a_whole_number_from_one(worker, ask, n):
    assert "a whole number from 1" in await ask("pool_grow", n=n)
    assert "a whole number from 1" in await ask("pool_shrink", n=n)
    assert worker._inflight.slots == 1


@pytest.mark.parametrize("pool", ["prefork", "solo"])
async def test_a_process_that_runs_one_job_is_not_resized(app, pool):
    worker = app.worker(concurrency=1, pool=pool)
    worker.main_thread = MainThread()
    async with app, worker:
        with pytest.raises(ConfigError, match="runs one job"):
            worker.resize(2)


async def test_plain_functions_have_a_thread_for_each_slot(app, worker, ask):
    """Breaks when the pool of threads keeps its size: the second function would wait for the first."""
    meet = threading.Barrier(3)

    @app.task(name="m.meet")
    def together():
        meet.wait(5)
        return threading.get_ident()

    first = await together.enqueue()
    await ask("pool_grow", n=2)
    rest = [await together.enqueue() for _ in range(2)]
    assert len({await job.result(5) for job in (first, *rest)}) == 3


async def test_a_queue_is_served_from_now_on(app, worker, ask, tell, broker):
    """It has a lease there before anybody claims or renews, is known to all, and its jobs run: no lease is lost."""
    name = worker.id
    assert await ask("add_consumer", queue="more") == {"changed": True, "queues": ["default", "more"]}
    assert await ask("add_consumer", queue="more") == {"changed": False, "queues": ["default", "more"]}
    assert "more" in await broker.queues()
    assert await (await tell.options(queue="more", priority=3).enqueue(7)).result(5) == 7
    assert await (await tell.options(queue="more", countdown=0.05).enqueue(8)).result(5) == 8
    assert await broker.renew(worker._queues, worker.id, 15, b"{}"), "the heart still finds all its leases"
    assert [keys.name for keys in worker._reaper._queues] == ["default", "more"]
    assert (worker.id, worker._lease.is_lost) == (name, False)


async def test_a_queue_without_a_priority_of_its_own_ranks_as_the_app_says(url):
    from rqueue import RQueue

    app = RQueue(url, queues=["default", Queue("vip", priority=9)])
    async with app, app.worker(["default"], concurrency=1) as worker:
        await worker._fetcher.serve(app.keys.queue("vip"))
        assert [worker._fetcher._rank(keys) for keys in worker._fetcher.served] == [5, 9]


async def test_a_cancelled_queue_is_left_alone(app, worker, ask, hold, tell, gate, broker, held_in, until):
    """Its wait is ended, what is held goes back in its order, what runs goes on and is settled; the lease stays."""
    keys = broker.keys.queue("default")
    worker._inflight.pace.allowance = lambda now_s: 3
    running = await hold.options(job_id="runs").enqueue()
    await gate.reached()
    await app.enqueue_many([tell.options(job_id=f"j{number}").s(number) for number in range(3)])
    worker._fetcher.poke()
    assert await ask("cancel_consumer", queue="default") == {"changed": True, "queues": []}
    assert (worker.running, worker.held, worker._fetcher._blocks) == (1, 0, {})
    assert len(await held_in(broker, keys, worker.id)) == 1
    assert (await broker.sizes(keys)).waiting[0] == 3
    assert await broker._link.call(b"ZSCORE", keys.workers, worker.id) is not None
    gate.open()
    assert await running.result(5) is None
    await tell.enqueue(4)
    assert await ask("cancel_consumer", queue="default") == {"changed": False, "queues": []}
    assert (await broker.sizes(keys)).waiting[0] == 4, "and nothing is claimed any more"
    waiting = await broker._link.call(b"LRANGE", keys.main, 0, -1)
    assert [raw.split()[5] for raw in reversed(waiting) if raw][:3] == [b"j0", b"j1", b"j2"]
    assert await ask("add_consumer", queue="default") == {"changed": True, "queues": ["default"]}
    await worker.drain()


async def test_a_cancelled_wait_that_brought_something_gives_it_back(app, worker, ask, tell, broker, until):
    """Breaks when what a block brings while it is ended is run, or lost."""
    keys = app.keys.queue("default")
    for number in range(5):
        await until(lambda: keys in worker._fetcher._blocks and not worker._fetcher._is_more)
        cancelling = asyncio.create_task(ask("cancel_consumer", queue="default"))
        job = await tell.options(job_id=f"j{number}").enqueue(number)
        await cancelling
        assert worker._fetcher._blocks == {}
        assert await ask("add_consumer", queue="default") == {"changed": True, "queues": ["default"]}
        assert await job.result(5) == number


async def test_what_is_no_queue_is_refused(ask):
    assert "a queue's name is" in await ask("add_consumer", queue="a b")
    assert "a queue's name is" in await ask("cancel_consumer", queue=7)


async def test_a_rate_limit_puts_off_what_is_too_much(app, worker, ask, tell, broker, log):
    """Uncharged, under its id, with its priority; another task is not limited; lifted, it starts at once."""
    assert await ask("rate_limit", task="tell", rate="1/m") == {"task": "m.tell", "rate_limit": "1/m"}
    keys = broker.keys.queue("default")
    assert await (await tell.enqueue(1)).result(5) == 1
    await tell.options(job_id="limited", priority=7).enqueue(2)
    await log.heard("job deferred", id="limited", rate_limit="1/m")
    ((name, due_ms),) = await broker.scheduled(keys, 10)
    assert name == "limited"
    assert 50_000 < due_ms - broker.clock.now_ms() <= 60_000
    raw = await broker._link.call(b"HGET", keys.messages, b"limited")
    assert raw.split(b" ")[1:6] == [b"7", b"0", b"0", b"0", b"limited"]
    assert await broker._link.call(b"SMEMBERS", keys.started(worker.id)) == []
    assert await ask("rate_limit", task="m.tell", rate="none") == {"task": "m.tell", "rate_limit": None}
    assert await (await tell.enqueue(3)).result(5) == 3
    assert worker.running == 0


async def test_a_rate_that_is_none_is_refused(ask):
    assert "write 10/s" in await ask("rate_limit", task="m.tell", rate="often")
    assert "no task of that name" in await ask("rate_limit", task="nobody", rate="1/s")
    assert "no task of that name" in await ask("rate_limit", task=7, rate="1/s")


async def test_a_tasks_time_limits_are_the_executors_affair(worker, ask):
    assert await ask("time_limit", task="hold", soft=1, hard=2) == {
        "task": "m.hold",
        "soft_time_limit": 1,
        "time_limit": 2,
    }
    assert worker._executor.overrides == {"m.hold": (1, 2)}
    assert "below the time_limit" in await ask("time_limit", task="hold", soft=3, hard=2)
    assert "a number above 0" in await ask("time_limit", task="hold", soft="x")
    assert worker._executor.overrides == {"m.hold": (1, 2)}


async def test_a_running_job_is_cancelled(worker, ask, hold, gate):
    from rqueue import JobRevoked

    job = await hold.options(job_id="j").enqueue()
    await gate.reached()
    assert await ask("cancel", id="another") == {"cancelled": False}
    assert await ask("cancel", id="j") == {"cancelled": True}
    with pytest.raises(JobRevoked):
        await job.result(5)


async def test_what_cannot_be_an_id_is_refused(ask):
    assert await ask("cancel", id="a b") is not None


async def test_of_several_those_that_are_here_are_cancelled(worker, ask, hold, gate):
    await hold.options(job_id="j").enqueue()
    await gate.reached()
    assert await ask("cancel", id=["j", "another"], queue="elsewhere") == {"cancelled": []}
    assert await ask("cancel", id="j", terminate="yes") == "terminate 'yes': true or false"
    assert await ask("cancel", id=["j", "another"], queue="default") == {"cancelled": ["j"]}
