"""worker: the services wired together, from a job's enqueue to its result, and in their order of shutdown."""

import asyncio
import os
import threading
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from rqueue import Depends, JobExpired, JobFailed, JobNotFound, Queue, RQueue, StartupFailed
from rqueue.broker.durable import DurableBroker
from rqueue.errors import BrokerUnavailable, ConfigError, SchemaMismatch
from rqueue.wire.message import Message
from rqueue.wire.state import State


@pytest.fixture
def add(app):
    @app.task(name="add")
    async def add(a, b):
        return a + b

    return add


# The whole way


async def test_a_job_goes_from_its_enqueue_to_its_result(app, add):
    async with app, app.worker() as worker:
        job = await add.enqueue(1, 2)
        assert await job.result(5) == 3
        info = await job.info()
        assert (info.state, info.result, info.attempts, info.worker) == (State.SUCCESS, 3, 1, worker.id)
        assert info.enqueued <= info.started <= info.finished


async def test_one_lpush_is_a_complete_producer(app, add, call, log):
    """The design's example, word for word; a bare function name resolves where one task has it."""

    @app.task(name="tasks.process_doc")
    async def process_doc(name):
        return name

    async with app, app.worker():
        await call(b"LPUSH", "rqueue:{default}", b'{"task": "process_doc", "args": ["file.pdf"]}')
        job_id = (await log.heard("job done"))["id"]
        assert await app.job(job_id).result(5) == "file.pdf"


async def test_nothing_leaks(url, broker, leaked, log):
    """When nothing is queued or running, no list, set or zset is left but the queues' names and dead letters, and
    every other key has a TTL: successes, failures, retries, expired and early ones, headerless ones, all queues.
    """
    app = RQueue(url, queues=["default", "other"])

    @app.task(name="add", result_ttl=5)
    async def add(a, b):
        return a + b

    @app.task(name="fail", queue="other")
    def fail():
        raise ValueError

    @app.task(name="quiet", ignore_result=True)
    async def quiet():
        return 1

    @app.task(name="early", acks_late=False)
    async def early():
        return 1

    @app.task(name="again", bind=True, track_started=True)
    async def again(self):
        if not self.request.retries:
            self.retry(countdown=0.01)

    async with app:
        async with app.worker() as worker:
            call = app.session().broker._link.call
            await call(b"LPUSH", "rqueue:{default}:p9", b'{"task":"add","args":[1,2],"id":"x"}')
            await call(b"LPUSH", "rqueue:{default}", b"\xff", b'{"task":"add","args":[1,2],"id":"x"}')
            signatures = [add.s(1, 2), fail.s(), quiet.s(), early.s(), again.s(), add.options(countdown=0.01).s(1, 1)]
            signatures += [add.options(priority=p).s(p, p) for p in range(1, 11)]
            jobs = await app.enqueue_many(signatures)
            expired = await add.options(expires=datetime(2000, 1, 1, tzinfo=UTC)).enqueue(1, 1)
            await worker.drain(scheduled=True)
            with pytest.raises(JobExpired):
                await expired.result(1)
            with pytest.raises(JobNotFound):
                await jobs[2].info()
            assert await leaked(broker) == {
                "rqueue:{default}:workers": {worker.id.encode()},
                "rqueue:{other}:workers": {worker.id.encode()},
            }
        assert await leaked(broker) == {}
    assert log.of("left jobs to the reapers") == []


async def test_a_worker_that_holds_nothing_leaves_a_tombstone(app, add, broker, stored):
    """Only keys with a TTL are left of it: nothing can be claimed under its id any more."""
    async with app:
        async with app.worker() as worker:
            await (await add.enqueue(1, 2)).result(5)
        left = await stored(broker)
        assert left[f"~rqueue:{{default}}:processing:{worker.id}"] == b"left"
        assert [name for name in left if worker.id in name] == [f"~rqueue:{{default}}:processing:{worker.id}"]


# Starting


async def test_a_worker_that_cannot_reach_redis_says_so():
    app = RQueue("redis://127.0.0.1:1/0")
    with pytest.raises(BrokerUnavailable):
        async with app.worker():
            pytest.fail("it started")
    await app.close()


# What an app shares


async def test_the_lifespan_is_around_all_that_the_worker_does(url, broker):
    """Entered before the worker is known to Redis; left when it is not any more, and its last job is settled."""
    seen, keys = [], broker.keys.queue("default")

    async def look(where):
        (status,) = await app.session().broker.known([(keys, "j")])
        seen.append((where, await broker._link.call(b"ZCARD", keys.workers), status.is_alive))

    async def lifespan(given):
        assert given is app
        await look("lifespan")
        yield
        await look("lifespan")

    async def provider():
        await look("resource")
        yield "resource"
        await look("resource")

    app = RQueue(url, lifespan=lifespan)
    app.on_startup(lambda: look("startup hook"))
    app.on_shutdown(lambda: look("shutdown hook"))

    @app.task(name="t")
    async def t(resource=Depends(provider)):
        await look("job")
        worker.stop()

    async with app:
        await t.options(job_id="j").enqueue()
        worker = app.worker()
        async with asyncio.timeout(10):
            await worker.run()
    assert seen == [
        ("lifespan", 0, True),
        ("startup hook", 0, True),
        ("resource", 0, True),
        ("job", 1, True),
        ("resource", 0, False),
        ("shutdown hook", 0, False),
        ("lifespan", 0, False),
    ]


async def test_each_worker_has_its_own(app):
    opened = []

    def provider():
        opened.append(object())
        yield len(opened)

    @app.task(name="t")
    async def t(number=Depends(provider)):
        return number

    async with app:
        for number in (1, 2):
            async with app.worker():
                assert [await (await t.enqueue()).result(5) for _ in range(3)] == [number] * 3


async def test_a_worker_that_cannot_start_takes_no_job(app, add, broker, stored):
    """It is unknown to Redis, what was open is closed, and the error says what it was."""
    closed = []

    def good():
        yield
        closed.append("good")

    def broken():
        raise OSError("refused")

    @app.task(name="t")
    async def t(good=Depends(good), broken=Depends(broken)): ...

    async with app:
        await add.enqueue(1, 2)
        before = await stored(broker)
        with pytest.raises(StartupFailed, match=r"resource .*broken failed: OSError: refused"):
            async with app.worker():
                pytest.fail("it started")
        assert closed == ["good"]
        assert await stored(broker) == before
        app.dependency_overrides[broken] = t.function  # which needs it
        with pytest.raises(ConfigError, match="in a circle"):
            async with app.worker():
                pytest.fail("it started")


async def test_while_redis_is_away_nothing_is_opened_again_and_again():
    app = RQueue("redis://127.0.0.1:1/0")
    app.on_startup(lambda: pytest.fail("it was run"))
    with pytest.raises(BrokerUnavailable):
        await app.worker().run()


async def test_a_worker_that_is_stopped_while_it_starts_does_not_wait_for_it(app, broker, stored):
    began, ended = asyncio.Event(), []

    @app.on_startup
    async def endless():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    app.on_shutdown(lambda: pytest.fail("the startup hooks had not all run"))
    worker = app.worker()
    running = asyncio.create_task(worker.run())
    await began.wait()
    worker.stop()
    async with asyncio.timeout(5):
        await running
    assert ended == [True]
    assert not worker.has_started
    assert await stored(broker) == {}


async def test_giving_up_on_a_start_ends_what_had_begun(app):
    """A timeout around `async with app.worker()`, for example."""
    began, closed = asyncio.Event(), []

    async def lifespan(_):
        yield
        closed.append(True)

    app.lifespan = lifespan

    @app.on_startup
    async def endless():
        began.set()
        await asyncio.Event().wait()

    async def enter():
        async with app.worker():
            pytest.fail("it started")

    entering = asyncio.create_task(enter())
    await began.wait()
    entering.cancel()
    await asyncio.wait([entering])
    assert closed == [True]


async def test_a_resource_that_does_not_close_is_left_behind(app, add, log, monkeypatch):
    """A pool waits for the connection of a thread that never gives it back: the worker must end all the same."""
    monkeypatch.setattr("rqueue.worker.worker._LEAVE_S", 0.05)
    closed = []

    async def lifespan(_):
        try:
            yield
        finally:
            closed.append("lifespan")

    async def stuck():
        yield
        await asyncio.Event().wait()

    app.lifespan = lifespan

    @app.task(name="t")
    async def t(stuck=Depends(stuck)): ...

    async with app, asyncio.timeout(10), app.worker(shutdown_timeout=0):
        await (await add.enqueue(1, 2)).result(5)
    assert closed == ["lifespan"]
    (line,) = [line for line in log.of("not closed in time") if "stuck" in line["what"]]
    assert line["what"].startswith("resource ")
    assert log.of("worker stopped")


async def test_an_error_at_the_end_is_logged_and_the_worker_ends_well(app, add, log):
    ran = []
    app.on_shutdown(lambda: ran.append("first"))

    @app.on_shutdown
    def bad():
        raise OSError("refused")

    async with app, app.worker():
        await (await add.enqueue(1, 2)).result(5)
    assert ran == ["first"]
    (line,) = log.of("could not be closed")
    assert line["what"].startswith("shutdown hook ")
    assert line["error"] == "OSError: refused"


async def test_a_worker_serves_all_queues_of_its_app_or_those_that_are_named(url):
    app = RQueue(url, queues=["a", "b"])

    @app.task(name="t")
    async def t():
        return 1

    async with app:
        jobs = [await t.options(queue=queue).enqueue() for queue in ("a", "b")]
        async with app.worker(queues=["b"]) as worker:
            assert await jobs[1].result(5) == 1
            await worker.drain()
            assert (await jobs[0].info()).state is State.PENDING
        async with app.worker():
            assert await jobs[0].result(5) == 1


async def test_a_workers_id_names_host_process_and_start(app):
    async with app, app.worker() as one, app.worker() as two:
        host, pid, nonce = one.id.split(":")
        assert (host, pid) == tuple(two.id.split(":")[:2])
        assert int(pid) == os.getpid()
        assert len(nonce) == 8
        assert one.id != two.id


async def test_its_card_says_what_it_is(app, broker, gate, until):
    @app.task(name="wait")
    async def wait():
        await gate()

    async with app, app.worker(concurrency=3, lease=0.6) as worker:
        await wait.enqueue()
        await gate.reached()

        async def card():
            ((_, left_s, data),) = await broker.workers(broker.keys.queue("default"))
            said = orjson.loads(data) if data else {}
            return said if said.get("running") == 1 else None

        said = await until(card)
        assert said["pid"] == os.getpid()
        assert (said["concurrency"], said["most_held"], said["queues"]) == (3, 12, ["default"])
        assert abs(said["clock"]) < 60_000  # this machine's clock is Redis's as well
        gate.open()
        assert worker.id


# Order and limits


async def test_strict_priority_over_queues_and_lists(url):
    """A given priority goes before a queue's rank of the same number; a queue's rank orders what has none."""
    app = RQueue(url, queues=[Queue("low", priority=2), Queue("high", priority=8)])
    order = []

    @app.task(name="t")
    async def t(name):
        order.append(name)

    async with app:
        for queue, priority in [("low", None), ("low", 2), ("high", None), ("high", 1), ("low", 9), ("high", 8)]:
            options = {"queue": queue} | ({} if priority is None else {"priority": priority})
            await t.options(**options).enqueue(f"{queue} {priority}")
        async with app.worker(concurrency=1, prefetch_multiplier=1) as worker:
            await worker.drain()
    assert order == ["low 9", "high 8", "high None", "low 2", "low None", "high 1"]


async def test_the_local_buffer_is_ordered_by_priority(app, parts, message):
    """What is claimed first does not run first when something more urgent is claimed later."""
    worker = parts(concurrency=1)
    async with app:
        assert await worker.broker.register(worker.keys, worker.lease.worker, 60)
        for level, name in [(0, "m"), (3, "low"), (9, "high"), (5, "five")]:
            await worker.push(message(name, level=level), level=level)
            await worker.fetcher._claim(1)
        order = []
        while (job := worker.inflight.peek()) is not None:
            worker.take()
            order.append(job.id)
    assert order == ["high", "m", "five", "low"]


async def test_first_in_first_out(app):
    order = []

    @app.task(name="t")
    async def t(number):
        order.append(number)

    async with app:
        await app.enqueue_many([t.s(number) for number in range(300)])
        async with app.worker(concurrency=1) as worker:
            await worker.drain()
    assert order == list(range(300))


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_the_concurrency_is_the_limit_and_is_used(app, gate, kind):
    """As many as the concurrency run at once, and never more."""
    running, most, full = 0, 0, threading.Event()
    lock = threading.Lock()

    def begin():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                full.set()

    def end():
        nonlocal running
        with lock:
            running -= 1

    def thread():
        begin()
        full.wait(5)
        end()

    async def coroutine():
        begin()
        if full.is_set():
            gate.open()
        await gate()
        end()

    t = app.task(name="t")(thread if kind == "thread" else coroutine)
    async with app, app.worker(concurrency=3) as worker:
        await app.enqueue_many([t.s() for _ in range(30)])
        await worker.drain()
        assert worker.running == 0
    assert most == 3


async def test_with_a_prefetch_of_one_nothing_waits_in_the_worker(app):
    """Only what can start now is claimed, also when the jobs are short: it is held for the moment of its start."""
    claimed = []

    @app.task(name="t")
    async def t():
        await asyncio.sleep(0)
        claimed.append(worker.held + worker.running)

    async with app, app.worker(concurrency=2, prefetch_multiplier=1) as worker:
        await app.enqueue_many([t.s() for _ in range(200)])
        await worker.drain()
    assert max(claimed) <= 2


async def test_a_prefetch_of_four_is_the_ceiling(app):
    most = []

    @app.task(name="t")
    async def t():
        most.append(worker.held + worker.running)

    async with app, app.worker(concurrency=5, prefetch_multiplier=4) as worker:
        await app.enqueue_many([t.s() for _ in range(1000)])
        await worker.drain()
    assert 5 < max(most) <= 20, "short jobs come in batches, up to the ceiling"


async def test_long_jobs_are_not_hoarded(app, gate, until):
    """60 jobs and two workers: no worker is idle while the other holds jobs that it has not started."""

    @app.task(name="t")
    async def t():
        await gate()

    async with app:
        jobs = await app.enqueue_many([t.s() for _ in range(30)])
        async with app.worker(concurrency=10) as one, app.worker(concurrency=10) as two:
            await gate.reached(20)
            assert (one.running, two.running) == (10, 10)
            assert (one.held, two.held) == (0, 0)
            gate.open()
            for job in jobs:
                await job.result(5)


async def test_a_burst_of_short_jobs_does_not_make_long_ones_hoarded(app, gate, until):
    """Right after 500 short jobs the pace is high; what is held beyond the slots is still found by the idle worker."""

    @app.task(name="short")
    async def short():
        pass

    @app.task(name="long")
    async def long():
        await gate()

    async with app, app.worker(concurrency=5, prefetch_multiplier=1) as one:
        await app.enqueue_many([short.s() for _ in range(500)])
        await one.drain()
        async with app.worker(concurrency=5, prefetch_multiplier=1) as two:
            jobs = await app.enqueue_many([long.s() for _ in range(10)])
            await gate.reached(10)
            assert (one.running, one.held, two.running, two.held) == (5, 0, 5, 0)
            gate.open()
            for job in jobs:
                await job.result(5)


# Acknowledging


async def test_late_by_default_the_message_is_in_the_processing_list_while_it_runs(app, gate, broker, held_in):
    @app.task(name="t")
    async def t():
        await gate()

    keys = broker.keys.queue("default")
    async with app, app.worker() as worker:
        job = await t.options(job_id="j").enqueue()
        await gate.reached()
        (raw,) = await held_in(broker, keys, worker.id)
        assert Message.parse(raw).header.id == "j"
        gate.open()
        await job.result(5)
        assert await held_in(broker, keys, worker.id) == []


@pytest.fixture
def early(app, gate):
    @app.task(name="early", acks_late=False)
    async def early(fail=False):
        await gate()
        if fail:
            raise ValueError("boom")
        return "early"

    return early


async def test_early_the_message_has_left_before_it_starts(app, early, gate, broker, held_in):
    keys = broker.keys.queue("default")
    async with app, app.worker() as worker:
        job = await early.enqueue()
        await gate.reached()
        assert await held_in(broker, keys, worker.id) == []
        assert (await job.info()).state is State.STARTED
        gate.open()
        assert await job.result(5) == "early"
        await worker.drain()
        assert (await broker.sizes(keys)).counts == {"SUCCESS": 1}, "counted once, by the state in which it ended"


async def test_an_early_job_that_fails_is_a_dead_letter_too(app, early, gate, broker, letters):
    """A job that ends in FAILURE with no retry left is also a dead letter, whenever it was acknowledged."""
    gate.open()
    async with app, app.worker() as worker:
        job = await early.enqueue(fail=True)
        with pytest.raises(JobFailed, match="boom"):
            await job.result(5)
        await worker.drain()
    (letter,) = await letters(broker)
    assert (letter.id, letter.reason) == (job.id, "failed")


@pytest.mark.parametrize("priority", [None, 9])
async def test_an_early_job_can_be_retried(app, broker, leaked, priority):
    runs = []

    @app.task(name="early", acks_late=False, bind=True)
    async def early(self):
        runs.append((self.request.id, self.request.retries, self.request.priority))
        if self.request.retries < 2:
            self.retry(countdown=0.01)
        return self.request.retries

    async with app:
        async with app.worker() as worker:
            options = {"job_id": "e"} | ({"priority": priority} if priority else {})
            job = await early.options(**options).enqueue()
            assert await job.result(5) == 2
            await worker.drain(scheduled=True)
        assert runs == [("e", number, priority) for number in range(3)]
        assert await leaked(broker) == {}


async def test_an_early_job_that_a_stopping_worker_interrupts_has_an_end(app, early, gate):
    """It runs at most once, so it cannot be given back; whoever waits for its result must not wait for ever."""
    async with app:
        async with app.worker(shutdown_timeout=0):
            job = await early.enqueue()
            await gate.reached()
        info = await job.info()
        assert info.state.is_final, f"the job will never end, and is {info.state}"


# States and results


async def test_track_started(app, gate, until):
    @app.task(name="t", track_started=True)
    async def t():
        await gate()
        return 1

    async with app, app.worker() as worker:
        job = await t.enqueue()
        assert (await job.info()).state in {State.PENDING, State.STARTED}
        await gate.reached()

        async def started():
            info = await job.info()
            return info if info.state is State.STARTED else None

        info = await until(started)
        assert (info.task, info.worker, info.finished) == ("t", worker.id, None)
        gate.open()
        assert await job.result(5) == 1
        assert (await job.info()).state is State.SUCCESS


async def test_untracked_a_running_job_is_pending(app, gate):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker():
        job = await t.enqueue()
        await gate.reached()
        assert (await job.info()).state is State.PENDING
        gate.open()
        await job.result(5)


@pytest.mark.parametrize("option", ["ignore_result", "result_ttl"])
async def test_an_ignored_result_is_announced_and_not_kept(app, gate, option):
    """Who waits is told of the end; who asks later finds nothing."""

    @app.task(name="t", **({"ignore_result": True} if option == "ignore_result" else {"result_ttl": 0}))
    async def t():
        await gate()
        return 5

    async with app, app.worker():
        job = await t.enqueue()
        waiting = asyncio.create_task(job.result(5))
        await gate.reached()
        while not app.session().listener._topics:
            await asyncio.sleep(0)
        await app.session().broker._link.call(b"PING")
        gate.open()
        value = await _result_or_gone(waiting)
        assert value in ({None, "gone"} if option == "ignore_result" else {5, "gone"})
        with pytest.raises(JobNotFound):
            await job.result(5)


async def _result_or_gone(waiting):
    try:
        return await waiting
    except JobNotFound:
        return "gone"


@pytest.mark.parametrize(
    ("default", "own", "ttl_s"),
    [(3600, ..., 3600), (None, ..., None), (120, ..., 120), (3600, 60, 60), (0, 60, 60), (60, None, None)],
)
async def test_results_are_kept_as_long_as_was_said(url, broker, default, own, ttl_s):
    app = RQueue(url, result_ttl=default)

    @app.task(name="t", **({} if own is ... else {"result_ttl": own}))
    async def t(fail):
        if fail:
            raise ValueError
        return 1

    keys = broker.keys.queue("default")
    async with app, app.worker() as worker:
        jobs = [await t.enqueue(fail) for fail in (False, True)]
        await worker.drain()
        for job in jobs:
            left_ms = await broker._link.call(b"PTTL", keys.result(job.id))
            if ttl_s is None:
                assert left_ms == -1
            else:
                assert ttl_s * 1000 - 5000 < left_ms <= ttl_s * 1000


async def test_an_expired_job_is_revoked_and_never_runs(app, broker):
    ran = []

    @app.task(name="t")
    async def t():
        ran.append(1)

    async with app:
        past = await t.options(expires=datetime.now(UTC) - timedelta(seconds=1)).enqueue()
        future = await t.options(expires=60).enqueue()
        async with app.worker() as worker:
            with pytest.raises(JobExpired):
                await past.result(5)
            await future.result(5)
            await worker.drain()
            assert (await past.info()).state is State.REVOKED
            assert ran == [1]
            assert await broker.dead(broker.keys.queue("default"), 10) == []


# What cannot run


MALFORMED = {
    "malformed JSON": b'{"task": "t", ',
    "a JSON list": b'["t", 1]',
    "a JSON string": b'"t"',
    "a number": b"12",
    "null": b"null",
    "a binary blob": bytes(range(256)),
    "a blob that begins like a header": b"1 \xff\xfe",
    "a header alone": b"1 - 0 0 0 x ",
    "a header with another version": b'2 - 0 0 0 x {"task":"t"}',
    "a header with an unknown list": b'1 11 0 0 0 x {"task":"t"}',
    "a header with a wrong number": b'1 - x 0 0 x {"task":"t"}',
    "a header before malformed JSON": b'1 - 0 0 0 head {"task"',
    "a header before no task": b'1 - 0 0 0 head {"args":[]}',
    "no task": b'{"args":[1]}',
    "an empty task": b'{"task":""}',
    "args no list": b'{"task":"t","args":{"a":1}}',
    "kwargs no object": b'{"task":"t","kwargs":[1]}',
    "an id with a space": b'{"task":"t","id":"a b"}',
    "an id that is a number": b'{"task":"t","id":5}',
    "expires no number": b'{"task":"t","expires":"soon"}',
    "broken base64": b'{"task":"t","args":[{"$bytes":"?"}]}',
    "a lone surrogate": b'{"task":"t","args":["\\ud800"]}',
    "white space": b"   ",
    "a line feed": b"\n",
    "1 MB of brackets": b"[" * 1_000_000,
    "objects inside each other": b'{"task":"t","args":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_message_is_a_dead_letter_and_stops_nothing(app, add, broker, call, letters, name):
    """With its raw bytes and the reason; the next job runs on the same worker."""
    raw = MALFORMED[name]
    keys = broker.keys.queue("default")
    async with app:
        for level in (0, 9):
            await call(b"LPUSH", keys.lists[level], raw)
        job = await add.enqueue(1, 2)
        async with app.worker(concurrency=1) as worker:
            before = worker.id
            assert await job.result(5) == 3
            await worker.drain()
            assert worker.id == before
            found = await letters(broker)
            assert {letter.raw for letter in found} <= {raw, b"1 9 0 0 0 - " + raw}
            # The same id twice is one letter.
            assert len(found) == (1 if len({letter.id for letter in found}) == 1 else 2)
            for letter in found:
                assert letter.reason == "malformed"
                assert (letter.failure.type, bool(letter.failure.message)) == ("MalformedMessage", True)
        assert (await broker.sizes(keys)).running == 0


@pytest.mark.parametrize("prefix", [b"", b"1 - 0 0 0 deep "], ids=["headerless", "with a header"])
@pytest.mark.parametrize("depth", [150, 400, 900])
async def test_deep_json_stops_nothing(app, add, broker, call, letters, prefix, depth):
    """Up to 200 levels are allowed; deeper ones may be refused, and then end among the dead letters."""

    @app.task(name="deep")
    async def deep(value):
        return 1

    raw = prefix + b'{"task":"deep","args":[' + b"[" * depth + b'"$"' + b"]" * depth + b"]}"
    async with app:
        await call(b"LPUSH", broker.keys.queue("default").main, raw)
        job = await add.enqueue(1, 2)
        async with app.worker(concurrency=1, shutdown_timeout=0) as worker:
            assert await job.result(2) == 3
            await asyncio.wait_for(worker.drain(), 2)
    reasons = [letter.reason for letter in await letters(broker)]
    assert reasons == [] if depth == 150 else reasons in ([], ["malformed"])


@pytest.mark.parametrize("level", [0, 9])
async def test_an_empty_string_is_a_token_and_is_dropped(app, add, broker, call, letters, level, held_in):
    keys = broker.keys.queue("default")
    async with app, app.worker() as worker:
        await call(b"LPUSH", keys.lists[level], b"", b"", b"")
        assert await (await add.enqueue(1, 2)).result(5) == 3
        await worker.drain()
        assert await held_in(broker, keys, worker.id) == []
        assert await letters(broker) == []
        assert await call(b"LLEN", keys.lists[level]) == 0


@pytest.mark.parametrize(
    "text", [b' {"task":"flaky","id":"f"}', b'\n{"task":"flaky","id":"f"}\n', b'{ "task" : "flaky" , "id" : "f" }']
)
@pytest.mark.parametrize("level", [0, 9])
async def test_white_space_around_an_object_is_harmless(app, broker, call, letters, text, level):
    """From a file or a shell; also when the message is put off, and read again under its header."""

    @app.task(name="flaky", bind=True)
    async def flaky(self):
        if not self.request.retries:
            self.retry(countdown=0.01)
        return "ran twice"

    async with app:
        await call(b"LPUSH", broker.keys.queue("default").lists[level], text)
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
    assert [letter.reason for letter in await letters(broker)] == []
    async with app:
        assert await app.job("f", "default").result(1) == "ran twice"


async def test_an_unknown_task_is_put_off_and_another_worker_may_know_it(url, broker, log):
    """The time of the first meeting travels in the header; nothing else of the message changes."""
    old, new = RQueue(url), RQueue(url)

    @new.task(name="fresh")
    async def fresh():
        return "new"

    async with old, new:
        job = await fresh.options(priority=4).enqueue()
        async with old.worker(unknown_retry_s=60) as worker:
            await log.heard("job deferred")
            await worker.drain()
        keys = broker.keys.queue("default")
        raw = await broker._link.call(b"HGET", keys.messages, job.id)
        header = Message.parse(raw).header
        assert (header.level, header.losses, header.retries, header.id) == (4, 0, 0, job.id)
        assert abs(header.since - broker.clock.now_ms()) < 10_000
        assert (await job.info()).state is State.PENDING
        await broker._link.call(b"ZADD", keys.scheduled, 1, job.id)
        async with new.worker():
            assert await job.result(5) == "new"


async def test_an_unknown_task_is_a_dead_letter_at_last(app, add, broker, call, letters):
    async with app, app.worker(unknown_task_s=0.05, unknown_retry_s=0.01) as worker:
        await call(b"LPUSH", broker.keys.queue("default").main, b'{"task":"nobody.knows","args":[1],"id":"u"}')
        await worker.drain(scheduled=True)
        (letter,) = await letters(broker)
        assert (letter.id, letter.reason, letter.task) == ("u", "unknown task", "nobody.knows")
        assert letter.raw.endswith(b' {"task":"nobody.knows","args":[1],"id":"u"}')
        with pytest.raises(JobFailed) as caught:
            await app.job("u").result(5)
        assert caught.value.error_type == "UnknownTask"
        assert await (await add.enqueue(1, 2)).result(5) == 3


async def test_a_message_over_the_limit_from_another_producer_has_an_end(app, add, broker, call):
    """``enqueue`` refuses it; LPUSH does not. It runs or is a dead letter, and the next job runs."""
    async with app, app.worker(concurrency=1) as worker:
        big = b'{"task":"add","id":"big","args":["%s",""]}' % (b"x" * 20_000_000)
        await call(b"LPUSH", broker.keys.queue("default").main, big)
        job = await add.enqueue(1, 2)
        assert await job.result(10) == 3
        await worker.drain()
        assert (await app.job("big").info()).state.is_final


# Ids


async def test_a_message_without_an_id_is_given_one(app, add, call, broker, log):
    async with app, app.worker() as worker:
        await call(
            b"LPUSH", broker.keys.queue("default").main, b'{"task":"add","args":[1,2]}', b'{"task":"add","args":[1,2]}'
        )
        await log.heard("job done", 2)
        await worker.drain()
        ids = {fields["id"] for fields in log.of("job done")}
        assert len(ids) == 2
        assert [await app.job(job_id).result(5) for job_id in ids] == [3, 3]


async def test_a_message_without_a_header_may_bring_its_id(app, add, call, broker, gate):
    @app.task(name="wait", bind=True)
    async def wait(self):
        await gate()
        return self.request.id

    async with app, app.worker():
        await call(b"LPUSH", broker.keys.queue("default").main, b'{"task":"wait","id":"mine"}')
        await gate.reached()
        assert (await app.job("mine").info()).state is State.PENDING
        gate.open()
        assert await app.job("mine").result(5) == "mine"


@pytest.mark.parametrize("levels", [(0, 0), (0, 9), (9, 3)])
async def test_the_same_id_twice_runs_once(app, call, broker, levels, log, leaked):
    """Of two messages without a header and with the same id one is dropped, as a repeated enqueue is harmless."""
    runs = []

    @app.task(name="t")
    async def t():
        runs.append(1)

    async with app:
        for level in levels:
            await call(b"LPUSH", broker.keys.queue("default").lists[level], b'{"task":"t","id":"same"}')
        async with app.worker() as worker:
            await worker.drain()
            assert runs == [1]
            assert len(log.of("duplicate dropped, a job of this id is alive", id="same")) == 1
        assert await leaked(broker) == {}


async def test_the_same_id_enqueued_a_hundred_times_at_once_runs_once(app, gate):
    @app.task(name="t")
    async def t(number):
        await gate(number)
        return number

    async with app, app.worker() as worker:
        jobs = await asyncio.gather(*(t.options(job_id="same").enqueue(number) for number in range(100)))
        await gate.reached()
        assert sum(not job.duplicate for job in jobs) == 1
        assert {job.id for job in jobs} == {"same"}
        gate.open()
        assert await jobs[50].result(5) == gate.came[0]
        await worker.drain()
        assert len(gate.came) == 1
        again = await t.options(job_id="same").enqueue(7)
        assert not again.duplicate
        assert await again.result(5) == 7, "settled, the id is free: its old result is gone at once"


# Nested jobs


async def test_a_nested_job_inherits_priority_and_knows_its_family(app):
    seen = {}

    def note(self):
        seen[self.request.args[0]] = (
            self.request.id,
            self.request.priority,
            self.request.parent_id,
            self.request.root_id,
        )

    @app.task(name="leaf", bind=True, priority=2)
    async def leaf(self, name):
        note(self)

    @app.task(name="middle", bind=True)
    def middle(self, name):
        note(self)
        leaf.options(job_id="leaf").delay("leaf")

    @app.task(name="top", bind=True)
    async def top(self, name):
        note(self)
        await middle.options(job_id="middle").enqueue("middle")
        await leaf.options(job_id="named", priority=1).enqueue("named")
        await leaf.options(job_id="other", queue="other").enqueue("other")

    async with app, app.worker(["default", "other"]) as worker:
        await top.options(job_id="top", priority=8).enqueue("top")
        await worker.drain()
        assert seen == {
            "top": ("top", 8, None, "top"),
            "middle": ("middle", 8, "top", "top"),
            "leaf": ("leaf", 8, "middle", "top"),
            "named": ("named", 1, "top", "top"),
            "other": ("other", 8, "top", "top"),
        }
        info = await app.job("leaf").info()
        assert (info.parent_id, info.root_id) == ("middle", "top")
        plain = await leaf.enqueue("plain")
        await plain.result(5)
        assert seen["plain"][1:] == (2, None, plain.id), "nothing is inherited outside a job"


async def test_waiting_for_a_result_with_get_inside_a_task_is_refused(app):
    @app.task(name="inner")
    def inner():
        return 1

    @app.task(name="outer")
    def outer():
        inner.delay().get(timeout=1)

    async with app, app.worker():
        with pytest.raises(JobFailed) as caught:
            await (await outer.enqueue()).result(5)
        assert caught.value.error_type == "RuntimeError"


async def test_a_coroutine_may_await_another_jobs_result(app, add):
    @app.task(name="outer")
    async def outer():
        return await (await add.enqueue(1, 2)).result(5)

    async with app, app.worker(concurrency=2):
        assert await (await outer.enqueue()).result(5) == 3


# Draining


async def test_drain_returns_when_nothing_waits_or_runs(app, add, broker):
    async with app, app.worker() as worker:
        await asyncio.wait_for(worker.drain(), 5)
        jobs = await app.enqueue_many([add.s(1, number) for number in range(100)])
        await worker.drain()
        assert [await job.result(0.5) for job in jobs] == list(range(1, 101))
        assert (await broker.sizes(broker.keys.queue("default"))).running == 0


async def test_drain_waits_for_what_a_job_enqueues(app):
    done = []

    @app.task(name="chain")
    async def chain(left):
        if left:
            await chain.enqueue(left - 1)
        done.append(left)

    async with app, app.worker() as worker:
        await chain.enqueue(5)
        await worker.drain()
        assert sorted(done) == [0, 1, 2, 3, 4, 5]


async def test_drain_waits_for_scheduled_jobs_when_asked(app, add):
    async with app, app.worker() as worker:
        far = await add.options(countdown=3600).enqueue(1, 2)
        await asyncio.wait_for(worker.drain(), 5)
        near = [await add.options(countdown=delay).enqueue(1, 1) for delay in (0.05, 0.1, 0.02)]
        await app.session().broker._link.call(b"ZREM", app.keys.queue("default").scheduled, far.id)
        await worker.drain(scheduled=True)
        assert [(await job.info()).state for job in near] == [State.SUCCESS] * 3


async def test_drain_waits_for_what_runs_elsewhere(app, gate):
    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker(concurrency=1) as one:
        await t.enqueue()
        await gate.reached()
        async with app.worker(concurrency=1) as two:
            assert one.running == 1
            draining = asyncio.create_task(two.drain())
            await one._broker._link.call(b"PING")
            assert not draining.done()
            gate.open()
            await asyncio.wait_for(draining, 5)
            assert one.running == 0


async def test_drain_ends_when_the_worker_stops(app, gate):
    """Nobody waits for ever for a worker that is gone."""

    @app.task(name="t")
    async def t():
        await gate()

    async with app:
        async with app.worker(concurrency=1, shutdown_timeout=0) as worker:
            await t.enqueue()
            await t.enqueue()
            await gate.reached()
            draining = asyncio.create_task(worker.drain())
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([draining], timeout=1)
        draining.cancel()
        assert done, "drain() still waits"


# Stopping


async def test_stopping_gives_back_what_has_not_started_uncharged_and_in_order(app, gate, broker, log, leaked):
    """Then what runs may end. Nothing is charged, nothing is lost, and the next claim finds the old order."""

    @app.task(name="short")
    async def short():
        pass

    @app.task(name="long")
    async def long(number):
        await gate(number)
        return number

    keys = broker.keys.queue("default")
    async with app:
        worker = app.worker(concurrency=2)
        async with worker:
            await app.enqueue_many([short.s() for _ in range(1000)])
            await worker.drain()
            jobs = [
                await long.options(job_id=f"j{n}", **({"priority": 5} if n > 6 else {})).enqueue(n) for n in range(9)
            ]
            await gate.reached(2)
            worker.stop()
            await log.heard("worker stopping")
            while (await broker.sizes(keys)).running != 2:
                await asyncio.sleep(0)
            assert not worker._main.done()
            ran = sorted(gate.came)
            waiting = {
                level: [Message.parse(raw).header for raw in await _list(broker, keys.lists[level])] for level in (0, 5)
            }
            gate.open()
        assert all((header.losses, header.retries) == (0, 0) for headers in waiting.values() for header in headers)
        order = [int(header.id[1:]) for level in (0, 5) for header in reversed(waiting[level])]
        assert order == [number for number in [*range(7), 7, 8] if number not in ran]
        assert [await jobs[number].result(1) for number in ran] == ran
        async with app.worker(concurrency=1) as other:
            await other.drain()
        assert [await job.result(1) for job in jobs] == list(range(9))
        assert await leaked(broker) == {}
    assert log.of("left jobs to the reapers") == []


async def _list(broker, name):
    return [raw for raw in await broker._link.call(b"LRANGE", name, 0, -1) if raw]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_what_still_runs_after_the_time_is_interrupted_and_given_back(app, broker, kind, log, leaked):
    """Uncharged, and next in its list; another worker runs it."""
    began, let_go, runs = threading.Event(), threading.Event(), []

    async def coroutine():
        runs.append(1)
        began.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "second"

    def thread():
        runs.append(1)
        began.set()
        if len(runs) == 1:
            let_go.wait(10)
        return "second"

    t = app.task(name="t")(coroutine if kind == "coroutine" else thread)
    keys = broker.keys.queue("default")
    async with app:
        async with app.worker(shutdown_timeout=0.05):
            job = await t.options(priority=7).enqueue()
            await asyncio.to_thread(began.wait, 5)
        (raw,) = await _list(broker, keys.lists[7])
        assert Message.parse(raw).header.losses == 0
        assert (await job.info()).state is State.PENDING
        async with app.worker() as other:
            assert await job.result(5) == "second"
            assert other.id
        let_go.set()
        assert len(runs) == 2
        assert await leaked(broker) == {}


async def test_a_coroutine_that_ends_within_the_grace_is_settled(app):
    """It catches its cancellation and returns: its result counts."""
    began = asyncio.Event()

    @app.task(name="t")
    async def t():
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "cleaned up"

    async with app:
        async with app.worker(shutdown_timeout=0):
            job = await t.enqueue()
            await began.wait()
        assert await job.result(1) == "cleaned up"


async def test_a_second_stop_does_not_wait(app, gate, broker):
    @app.task(name="t")
    async def t():
        await gate()

    async with app:
        worker = app.worker(shutdown_timeout=3600)
        async with worker:
            job = await t.enqueue()
            await gate.reached()
            worker.stop()
            worker.stop()
            await asyncio.wait_for(asyncio.shield(worker._main), 5)
        assert (await job.info()).state is State.PENDING
        assert (await broker.sizes(broker.keys.queue("default"))).waiting[0] == 1


async def test_what_a_claim_brings_while_the_worker_stops_goes_back_at_once(redis_app, redis_broker, gate, log):
    """The stop comes between a claim and its reply: what it brought is not left to the reapers."""
    app, broker, keys = redis_app, redis_broker, redis_broker.keys.queue("default")

    @app.task(name="t")
    async def t():
        pass

    async with app:
        worker = app.worker(concurrency=5, shutdown_timeout=0)
        async with worker:
            claim = worker._broker.claim

            async def claim_and_stop(*arguments):
                worker._broker.claim = claim
                answer = await claim(*arguments)
                worker.stop()
                await log.heard("worker stopping")
                return answer

            worker._broker.claim = claim_and_stop
            await app.enqueue_many([t.s() for _ in range(5)])
        sizes = await broker.sizes(keys)
        assert (sum(sizes.waiting) + sizes.counts.get("SUCCESS", 0), sizes.running, sizes.workers) == (5, 0, 0)
    assert log.of("left jobs to the reapers") == []


async def test_a_job_that_is_about_to_start_when_the_worker_stops_does_not_run_twice(redis_app, redis_broker, log):
    """The stop comes while jobs are being marked as started: each is given back or runs, and never both."""
    runs = []

    @redis_app.task(name="t")
    async def t(number):
        runs.append(number)

    async with redis_app:
        worker = redis_app.worker(concurrency=3, shutdown_timeout=1)
        async with worker:
            written = worker._broker.written

            async def stop_and_write():
                worker.stop()
                for _ in range(50):
                    await worker._broker._link.call(b"PING")
                await written()

            worker._broker.written = stop_and_write
            await redis_app.enqueue_many([t.s(number) for number in range(3)])
            await asyncio.wait_for(asyncio.shield(worker._main), 5)
        waiting = sum((await redis_broker.sizes(redis_broker.keys.queue("default"))).waiting)
        assert len(runs) + waiting == 3


@pytest.mark.parametrize("queues", [1, 2, 5])
async def test_stopping_an_idle_worker_is_quick_and_clean(url, broker, leaked, queues, log):
    """All waits at the server are ended; also with several queues."""
    names = [f"q{number}" for number in range(queues)]
    app = RQueue(url, queues=names)
    async with app:
        for _ in range(5):
            async with app.worker() as worker:
                await worker.drain()
                started = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - started < 2
    assert await leaked(broker) == {}
    assert log.loud() == []


async def test_stopping_under_load_loses_nothing(url, broker, leaked, log):
    """Twenty workers one after the other, each stopped in the middle, over three queues."""
    app = RQueue(url, queues=["a", "b", "c"])
    done, wanted = [], 300
    enough = asyncio.Event()

    @app.task(name="t")
    async def t(number):
        await asyncio.sleep(0)
        done.append(number)
        if len(done) % 15 == 0:
            enough.set()

    async with app:
        await app.enqueue_many([t.options(queue="abc"[n % 3]).s(n) for n in range(wanted)])
        while len(set(done)) < wanted:
            async with app.worker(concurrency=4, shutdown_timeout=1):
                if len(set(done)) < wanted:
                    enough.clear()
                    await asyncio.wait_for(enough.wait(), 5)
            for name in "abc":
                sizes = await broker.sizes(broker.keys.queue(name))
                assert (sizes.running, sizes.workers) == (0, 0)
        assert sorted(done) == list(range(wanted)), "none was lost, and none ran twice"
        assert await leaked(broker) == {}
    assert log.of("left jobs to the reapers") == []


async def test_a_worker_takes_no_harm_from_an_error_in_the_block(app, add, broker, leaked):
    with pytest.raises(ZeroDivisionError):
        async with app, app.worker():
            assert await (await add.enqueue(1, 2)).result(5) == 3
            raise ZeroDivisionError
    assert await leaked(broker) == {}


async def test_a_redis_that_may_throw_jobs_away_is_named_loudly(new_server, log):
    server = new_server({"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"})
    app = RQueue(server.url)
    async with app, app.worker():
        pass
    assert log.of("redis may throw jobs away: set maxmemory-policy to noeviction", policy="allkeys-lru")


@pytest.mark.parametrize("durability", ["memory", "replicated"])
async def test_what_a_worker_sends_to_another_queue_is_as_durable_as_what_is_enqueued(redis_url, durability):
    """Breaks when a job that moves between masters is let go of here before it is confirmed there."""
    async with RQueue(redis_url, durability=durability).worker() as worker:
        assert isinstance(worker._broker, DurableBroker) is (durability == "replicated")


# With a result store


@pytest.fixture
def recorded_app(url, store):
    return RQueue(url, results="redis://127.0.0.1:1/9", result_ttl=None)


@pytest.fixture
def brief(recorded_app):
    """Tasks that end in each way."""

    @recorded_app.task(name="t", bind=True, max_retries=1, default_retry_delay=0)
    async def t(self, how=""):
        if how == "fail" or (how == "retry" and not self.request.retries):
            raise self.retry(exc=ValueError(how)) if how == "retry" else ValueError(how)
        return how

    @recorded_app.task(name="early", acks_late=False)
    async def early():
        return 1

    @recorded_app.task(name="quiet", ignore_result=True)
    async def quiet():
        return "not told"

    return t


async def test_every_end_is_in_the_result_store(recorded_app, brief, store, broker, stored):
    """Also of jobs that never ran. Breaks when one way to end passes by the recorder."""
    past = datetime(2000, 1, 1, tzinfo=UTC)
    async with recorded_app as app:
        jobs = {
            "SUCCESS": [
                await brief.enqueue("x"),
                await brief.enqueue("retry"),
                await app.tasks.find("early").enqueue(),
            ],
            "FAILURE": [await brief.enqueue("fail")],
            "REVOKED": [await brief.options(expires=past).enqueue()],
        }
        jobs["SUCCESS"].append(await app.tasks.find("quiet").enqueue())
        await broker._link.call(b"LPUSH", b"rqueue:{default}", b"rubbish")
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
            ids = {job.id: state for state, some in jobs.items() for job in some}
            assert {job_id: state for job_id, state in store.states.items() if job_id in ids} == ids
            assert len(store.rows) == len(ids) + 1  # and the one that cannot be read
            rows = {row.id: row for row in store.rows.values()}
            retried = rows[jobs["SUCCESS"][1].id]
            assert (retried.attempts, retried.result) == (2, '"retry"')
            assert rows[jobs["SUCCESS"][3].id].result is None
            stats = worker._verbs()["stats"]()["results"]
            assert (stats["recorded"], stats["dropped"], stats["away_since"]) == (8, 0, None)
    assert store.is_closed
    left = {name.removeprefix("~rqueue:{default}:") for name in await stored(broker) if name.startswith("~")}
    assert {name for name in left if name.startswith("result:")} == {
        f"result:{job_id}" for job_id in rows if job_id != jobs["SUCCESS"][3].id
    }  # each with a TTL, though the app has none


async def test_beside_a_store_redis_keeps_no_result_for_ever(recorded_app, brief, store, broker):
    """Breaks when Redis fills with what is in the database."""
    async with recorded_app as app, app.worker() as worker:
        job = await brief.enqueue("x")
        waiting = await brief.options(countdown=60).enqueue("x")
        await waiting.cancel()
        await worker.drain()
        for each in (job, waiting):
            ttl = await broker._link.call(b"TTL", app.keys.queue("default").result(each.id))
            assert 3500 < ttl <= 3600


async def test_with_tables_that_it_does_not_know_a_worker_does_not_start(recorded_app, store, broker):
    """Breaks when it takes jobs first, or starts all the same."""
    store.mismatch = True
    with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
        async with recorded_app as app, app.worker():
            pytest.fail("it has started")
    assert await broker.queues() == []
    assert store.is_closed


async def test_a_worker_starts_and_works_without_its_database(recorded_app, brief, store, broker, until, log):
    """And writes all of it once it is back, with what was cancelled meanwhile. Breaks when a worker waits for it."""
    store.is_away = True
    keys = broker.keys.queue("default")
    async with recorded_app as app, app.worker(lease=1) as worker:
        job, other = await brief.enqueue("x"), await brief.options(countdown=60).enqueue("y")
        await worker.drain()
        assert await job.result(5) == "x"
        assert str(await other.cancel()) == "removed"
        assert (await broker.spooled(keys)).entries == 2
        assert log.of("result store away, results wait in redis")
        store.is_away = False
        await until(lambda: len(store.rows) == 2)
        assert store.states == {job.id: "SUCCESS", other.id: "REVOKED"}
    assert store.batches == [[job.id, other.id]]


async def test_a_stop_waits_for_the_rows_of_what_has_ended(recorded_app, brief, store, broker, held_in):
    """Breaks when a worker leaves with ends that are neither recorded nor settled."""
    store.gate.clear()
    async with recorded_app as app:
        worker = app.worker()
        async with worker:
            job = await brief.enqueue("x")
            await store.saving.wait()
            worker.stop()
            store.gate.set()
        assert store.states == {job.id: "SUCCESS"}
        assert (await job.info()).state == "SUCCESS"


@pytest.mark.parametrize("is_away", [True, False])
async def test_a_worker_that_could_not_settle_leaves_no_task_behind(
    recorded_app, brief, store, broker, monkeypatch, is_away, log
):
    """Redis is away when it stops. Breaks when rows, or ends, wait for ever for a connection that was closed."""
    monkeypatch.setattr("rqueue.worker.worker._LEAVE_S", 0.1)

    async def away(*_, **__):
        raise BrokerUnavailable("away")

    store.is_away = is_away
    async with recorded_app as app:
        async with app.worker(shutdown_timeout=0.1) as worker:
            monkeypatch.setattr(worker._broker, "spool" if is_away else "ack", away)
            await brief.enqueue("x")
            await log.heard("recording waits for redis" if is_away else "settling waits for redis")
        assert log.of("stopped without settling")
        await asyncio.sleep(0)
        left = {task.get_name() for task in asyncio.all_tasks()}
        assert not left & {"rqueue record", "rqueue settle"}


@pytest.mark.parametrize("results", ["redis", "memory://"])
async def test_a_worker_and_the_app_have_a_store_each(redis_url, results):
    """The app's is used when a worker has ended, by another one as well; a worker's when the app was closed around it.

    Breaks when either closes what the other one uses: a Redis that was closed stays so.
    """
    app = RQueue(redis_url, results=f"{redis_url.rpartition('/')[0]}/1" if results == "redis" else results)

    @app.task(name="t")
    async def t(number):
        return number

    async with app:
        for number in (1, 2):
            async with app.worker() as worker:
                job = await t.enqueue(number)
                await worker.drain()
                assert worker._recorder.recorded == 1
            row = await app.session().store().find(job.id)
            assert row is not None
            assert row.result == str(number)
        async with app.worker() as worker:
            await app.session().store().find(job.id)
            await app.close()
            await t.enqueue(3)
            await worker.drain()
            assert worker._recorder.recorded == 1


async def test_without_results_a_worker_makes_no_session_and_no_recorder(url):
    """Breaks when a plain worker holds more connections than it did."""
    app = RQueue(url)
    async with app.worker() as worker:
        assert worker._outbound() == (worker._settler,)
        assert app._sessions == {}
