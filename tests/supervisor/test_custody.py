"""custody: what a supervisor does in Redis for processes that cannot do it themselves."""

import asyncio
import json

import pytest

from rqueue import RQueue, TimeLimitExceeded
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.config import WorkerConfig
from rqueue.errors import BrokerForbidden
from rqueue.results.entry import Entry
from rqueue.supervisor.custody import Custody, introduction
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header
from rqueue.wire.record import state_of
from rqueue.worker.board import Noted

LEASE_S = 300.0


@pytest.fixture
def app(url):
    app = RQueue(url, queues=["default", "other"])

    @app.task(name="plain", max_retries=0)
    async def plain(): ...

    @app.task(name="again", autoretry_for=(TimeLimitExceeded,), max_retries=2, default_retry_delay=60)
    async def again(): ...

    @app.task(name="quiet", dead_letter=False, result_ttl=None)
    async def quiet(): ...

    return app


@pytest.fixture
async def broker(url):
    broker = Broker(Endpoint(url), Keys())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def custody(app, broker):
    """As a supervisor makes it: from what came over the channel, as JSON."""
    config = WorkerConfig(queues=("default", "other"), lease_s=LEASE_S)
    custody = Custody(json.loads(json.dumps(introduction(app, config))), config)
    yield custody
    await custody.close()


def message(job_id, task="plain", losses=0, level=0):
    return Header(level=level, losses=losses, id=job_id).encode() + json.dumps({"task": task}).encode()


@pytest.fixture
def dead(broker):
    """A worker that has claimed and started jobs, and whose lease lasts for minutes."""

    async def die(*messages, started=(), queue="default", worker="host:1:dead"):
        keys = broker.keys.queue(queue)
        assert await broker.register(keys, worker, LEASE_S)
        for raw in messages:
            await broker._link.call(b"LPUSH", keys.processing(worker), raw)
            await broker._link.call(b"SADD", keys.jobs, raw.split(b" ")[5])
        if started:
            await broker._link.call(b"SADD", keys.started(worker), *started)
        return worker

    return die


async def waiting(broker, queue="default"):
    return await broker._link.call(b"LRANGE", broker.keys.queue(queue).main, 0, -1)


async def test_what_a_dead_process_held_is_back_at_once_and_only_what_had_started_is_charged(custody, broker, dead):
    worker = await dead(message("a"), message("b"), started=["a"])
    await dead(message("c"), queue="other")
    await custody.take_back(worker)
    assert sorted(await waiting(broker)) == [message("b"), message("a", losses=1)]
    assert await waiting(broker, "other") == [message("c")]
    for name in ("default", "other"):
        assert await broker.workers(broker.keys.queue(name)) == []
    await custody.take_back(worker)  # there is nothing more to do


async def test_who_was_ended_on_purpose_leaves_nobody_to_blame(custody, broker, dead):
    worker = await dead(message("a"), message("b", losses=2), started=["a", "b"])
    await custody.take_back(worker, uncharged=True)
    assert sorted(await waiting(broker)) == [message("a"), message("b", losses=2)]


async def test_the_suspect_alone_is_charged_if_it_had_started(custody, broker, dead):
    running = [message("a", losses=1), message("b", losses=1), message("c")]
    worker = await dead(*running, started=["a", "b", "c"])
    await custody.take_back(worker, suspect="b")
    assert sorted(await waiting(broker)) == sorted([message("a", losses=1), message("b", losses=2), message("c")])
    worker = await dead(*running, started=["a"], worker="host:1:other")
    await custody.take_back(worker, suspect="b")
    assert message("a", losses=2) in await waiting(broker)


async def test_the_third_loss_is_a_dead_letter_as_its_task_wants_it(custody, app, broker, dead):
    worker = await dead(message("a", losses=2), message("q", "quiet", losses=2), started=["a", "q"])
    await custody.take_back(worker)
    assert await waiting(broker) == []
    keys = broker.keys.queue("default")
    assert await broker._link.call(b"ZRANGE", keys.dead, 0, -1) == [b"a"]
    assert await broker._link.call(b"TTL", keys.result("q")) == -1
    async with app:
        for job_id in ("a", "q"):
            assert (await app.job(job_id, "default").info()).error.startswith("WorkerLost: ")


async def test_a_job_that_outran_its_limit_ends_and_the_others_go_back_uncharged(custody, app, broker, dead):
    worker = await dead(message("late"), message("beside"), started=["late", "beside"])
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "late")])
    assert await waiting(broker) == [message("beside")]
    async with app:
        info = await app.job("late", "default").info()
    assert (info.state, info.error.partition(":")[0], info.losses) == ("FAILURE", "TimeLimitExceeded", 0)


async def test_it_runs_again_if_its_task_says_so(custody, app, broker, dead):
    worker = await dead(message("late", "again"), started=["late"])
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "late")])
    keys = broker.keys.queue("default")
    assert await broker._link.call(b"ZRANGE", keys.scheduled, 0, -1) == [b"late"]
    async with app:
        info = await app.job("late", "default").info()
    assert (info.state, info.error.partition(":")[0]) == ("RETRY", "TimeLimitExceeded")


async def test_two_overdue_jobs_of_two_workers_are_not_taken_for_one_batch_sent_twice(custody, app, dead):
    """A batch is known by its lane and number: the dead worker's own count for nothing here."""
    for number in (1, 2):
        late = [f"a{number}", f"b{number}"]
        worker = await dead(*map(message, late), started=late, worker=f"host:1:{number}")
        await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", each) for each in late])
    async with app:
        for job_id in ("a1", "b1", "a2", "b2"):
            assert (await app.job(job_id, "default").info()).error.startswith("TimeLimitExceeded: ")


async def test_a_job_that_had_been_acknowledged_early_ends_too(custody, app, broker, dead):
    worker = await dead(message("other"), started=["early"])
    await broker._link.call(b"SADD", broker.keys.queue("default").jobs, "early")
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "early")])
    async with app:
        assert (await app.job("early", "default").info()).error.startswith("TimeLimitExceeded: ")


async def test_one_that_was_settled_after_all_keeps_its_result(custody, broker, dead):
    worker = await dead(started=["done"])
    await broker._link.call(b"DEL", broker.keys.queue("default").started(worker))
    await custody.take_back(worker, overdue=[Noted(1.0, "default", "done")])
    assert await broker._link.call(b"GET", broker.keys.queue("default").result("done")) is None


async def test_it_renews_for_a_process_that_cannot(custody, broker, dead):
    worker = await dead()
    await dead(queue="other")
    assert await custody.renew(worker, b'{"n":1}', {"default", "other"})
    ((name, lease_s, card),) = await broker.workers(broker.keys.queue("other"))
    assert (name, card) == (worker, b'{"n":1}')
    assert lease_s > LEASE_S - 60
    assert not await custody.renew("host:1:unknown", b"{}", {"default"})
    worker = await dead(worker="host:1:one")
    assert await custody.renew(worker, b"{}", {"default"}), "it never was in the other queue"
    assert not await custody.renew(worker, b"{}", {"default", "other"})


async def test_it_counts_what_waits(custody, broker):
    assert await custody.backlog() == 0
    await broker._link.call(b"LPUSH", broker.keys.queue("default").main, message("a"), b"")
    await broker._link.call(b"LPUSH", broker.keys.queue("other").lists[9], message("b"), message("c"))
    assert await custody.backlog() == 3


async def test_a_queue_that_is_served_later_is_taken_back_from_too(custody, broker, dead):
    custody.serve(["third", "other"])
    worker = await dead(message("a"), queue="third")
    await custody.take_back(worker)
    assert await waiting(broker, "third") == [message("a")]


async def test_without_redis_it_goes_on_until_redis_has_answered(new_server, app):
    with new_server() as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        config = WorkerConfig(queues=("default",), lease_s=LEASE_S)
        known = introduction(app, config) | {"url": server.url}
        custody = Custody(known, config)
        broker = Broker(Endpoint(server.url), Keys())
        assert await broker.register(broker.keys.queue("default"), "w", LEASE_S)
        await broker.close()
        server.stop()
        taking = asyncio.create_task(custody.take_back("w"))
        await asyncio.sleep(0)
        assert not taking.done()
        new_server(port=port)
        await asyncio.wait_for(taking, 20)
        await custody.close()


async def test_ends_are_told_where_the_app_has_hooks(app, broker, dead):
    """Breaks when a job that the supervisor buries has no hooks, or when they are told of where nobody listens."""
    told = []
    config = WorkerConfig(queues=("default",), lease_s=LEASE_S)
    for expected in ([], [("a", True), ("late", True)]):
        custody = Custody(json.loads(json.dumps(introduction(app, config))), config, told.append)
        try:
            worker = await dead(message("a", losses=2), message("late"), started=["a", "late"], worker=f"h:{expected}")
            await custody.take_back(worker, overdue=[Noted(1.0, "default", "late")])
        finally:
            await custody.close()
        assert sorted((each["id"], each["letter"] is not None) for each in told) == expected
        app.on_dead(lambda outcome: None)


@pytest.mark.parametrize(("task", "state"), [("plain", "FAILURE"), ("again", "RETRY")])
async def test_how_an_overdue_job_ended_waits_for_the_result_store(custody, broker, dead, task, state):
    """A supervisor has no store of its own. Breaks when a job that outran its limit has no row."""
    keys = broker.keys.queue("default")
    await broker.spool(keys, [], 10_000)
    worker = await dead(message("late", task), started=["late"])
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "late")])
    (data,) = await broker._link.call(b"LRANGE", keys.spool, 0, -1)
    entry = Entry.decode(data)
    assert (entry.id, entry.message, state_of(entry.record)) == ("late", message("late", task), state)


async def test_a_spool_that_takes_nothing_keeps_no_job_from_its_end(custody, app, broker, dead, monkeypatch):
    """Redis is full, or its ACL older. Breaks when the supervisor tries for ever."""

    async def refuse(*_):
        raise BrokerForbidden("NOPERM")

    monkeypatch.setattr(custody._broker, "spool", refuse)
    worker = await dead(message("late"), started=["late"])
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "late")])
    async with app:
        assert (await app.job("late", "default").info()).state == "FAILURE"


@pytest.mark.parametrize("results", [None, "redis://127.0.0.1:1/9"])
async def test_beside_a_result_store_redis_keeps_no_end_for_ever(url, broker, dead, results):
    """As its workers do. Breaks when what a supervisor ends stays in Redis."""
    app = RQueue(url, results=results, result_ttl=None)
    app.task(name="plain", max_retries=0)(lambda: None)
    config = WorkerConfig(queues=("default",), lease_s=LEASE_S)
    custody = Custody(json.loads(json.dumps(introduction(app, config))), config)
    worker = await dead(message("late"), started=["late"])
    await custody.take_back(worker, uncharged=True, overdue=[Noted(1.0, "default", "late")])
    ttl = await broker._link.call(b"TTL", broker.keys.queue("default").result("late"))
    assert ttl == -1 if results is None else 3500 < ttl <= 3600
    await custody.close()
