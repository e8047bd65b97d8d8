"""revocation: a job is cancelled wherever it is, and the caller learns what became of it."""

import asyncio

import pytest

from rqueue import Cancellations, Cancelled, ConfigError, JobNotFound, JobRevoked, State
from rqueue.broker.broker import Done, Enqueued
from rqueue.client import stops
from rqueue.client.inspector import Inspector, Replies
from rqueue.client.revocation import Criteria, Target
from rqueue.errors import ReplyLost
from rqueue.testing import moving_clock
from rqueue.wire.control import Answer
from rqueue.wire.message import Call, Header, Message

REMOVED, INTERRUPTED, REQUESTED, TOO_LATE = Cancelled
LOOKS_AT, LONG = 20, 100
on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)  # each takes most of a second: nobody answers


@pytest.fixture
def gate():
    """Where jobs wait; `came` says who has."""

    class Gate:
        def __init__(self):
            self.came, self.changed = [], asyncio.Event()

        async def __call__(self, who):
            self.came.append(who)
            self.changed.set()
            await asyncio.Event().wait()

        async def reached(self, count):
            async with asyncio.timeout(10):
                while len(self.came) < count:
                    self.changed.clear()
                    await self.changed.wait()

    return Gate()


@pytest.fixture
def hold(app, gate):
    @app.task(name="m.hold")
    async def hold(who=None):
        await gate(who)

    return hold


@pytest.fixture
def tell(app):
    ran = []

    @app.task(name="m.tell")
    async def tell(what):
        ran.append(what)
        return what

    tell.ran = ran
    return tell


@pytest.fixture
def left(app):
    """What is stored without a TTL, beside the queues' names."""

    async def look():
        call = app.session().broker._link.call
        names = [name for name in await call(b"KEYS", b"*") if await call(b"TTL", name) == -1]
        return {name.decode() for name in names} - {"rqueue:queues"}

    return look


class Ghost:
    """A worker that says nothing."""

    def __init__(self, app):
        self.broker, self.keys, self.number = app.session().broker, app.keys.queue("default"), 0

    async def claim(self):
        assert await self.broker.register(self.keys, "ghost", 60)
        (claimed,) = (await self.broker.claim([self.keys], [5], "ghost", 60, 1, 1_000_000)).messages
        self.message = Message.parse(claimed.raw)
        await self.broker.start(self.keys, "ghost", [self.message.header.id])
        return self.message.header.id

    async def marked(self):
        """Return when the job has a stop."""
        async with asyncio.timeout(10):
            while not await self.broker.revoked(self.keys, [self.message.header.id]):
                pass

    async def ack(self):
        done = Done(self.message.raw, self.message.header.id, b'{"state":"SUCCESS","result":1}', "60")
        assert await self.broker.ack(self.keys, "ghost", 0, 1, [done]) == b"1"


# What waits


@pytest.mark.parametrize("options", [{}, {"priority": 3}, {"countdown": 60}])
async def test_a_job_that_waits_is_removed(app, tell, left, options):
    async with app:
        job = await tell.options(**options).enqueue(1)
        waits = asyncio.create_task(job.result(10))
        assert await job.cancel() is REMOVED
        with pytest.raises(JobRevoked):
            await waits
        info = await job.info()
        assert (info.state, info.error, info.finished is None) == (State.REVOKED, "JobRevoked: it was cancelled", False)
        assert await job.cancel() is TOO_LATE
        assert await left() <= {"rqueue:{default}"}  # a token
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
    assert tell.ran == []


async def test_one_that_has_ended_and_one_that_nobody_knows(app, tell):
    async with app, app.worker():
        job = await tell.enqueue(1)
        await job.result(10)
        assert await job.cancel() is TOO_LATE
        assert (await job.info()).state is State.SUCCESS
        with pytest.raises(JobNotFound):
            await app.job("nobody").cancel()


async def test_a_lost_reply_is_told_from_another_s_cancel(app, tell, monkeypatch):
    """Breaks when the second answer, that nobody is alive, is believed."""
    async with app:
        job = await tell.enqueue(1)
        broker = app.session().broker
        real, lost = broker.cancel, []

        async def lossy(*args):
            answer = await real(*args)
            if not lost:
                lost.append(answer)
                raise ReplyLost("lost")
            return answer

        monkeypatch.setattr(broker, "cancel", lossy)
        assert await job.cancel() is REMOVED
        assert lost == [(1, None)]


@pytest.mark.parametrize("ttl", [0, None])
async def test_without_results_it_is_known_for_a_while(new_app, url, ttl):
    app = new_app(url, result_ttl=ttl)

    @app.task
    async def job():
        pass

    async with app:
        handle = await job.enqueue()
        assert await handle.cancel() is REMOVED
        ttl_ms = await app.session().broker._link.call(b"PTTL", app.keys.queue("default").result(handle.id))
        assert ttl_ms == -1 if ttl is None else 0 < ttl_ms <= 60_000


@pytest.fixture
def short_look(monkeypatch):
    """A list of a hundred is a long one."""
    monkeypatch.setattr("rqueue.broker.cancel.CANCEL_LOOKS_AT", LOOKS_AT)


async def test_an_id_is_free_at_once_though_its_message_is_still_in_a_long_list(app, tell, left, short_look):
    """The new job runs, once, and the old one never. Breaks when the stop, or the old message, meets the new job."""
    async with app:
        await app.enqueue_many([tell.s(n) for n in range(LONG)])
        old = await tell.options(job_id="mine").enqueue("old")
        assert await old.cancel() is REMOVED
        assert "rqueue:{default}:stops" in await left()
        assert await old.cancel() is TOO_LATE
        new, other, twice = await app.enqueue_many(
            [tell.options(job_id=each).s(each) for each in ("mine", "other", "mine")]
        )
        assert (new.duplicate, other.duplicate, twice.duplicate) == (False, False, True)
        async with app.worker() as worker:
            assert await new.result(10) == "mine"
            await worker.drain()
        assert sorted(each for each in tell.ran if isinstance(each, str)) == ["mine", "other"]
        assert await left() == set()


async def test_a_message_that_is_left_in_a_long_list_does_not_run(app, tell, left, short_look):
    async with app:
        await app.enqueue_many([tell.s(n) for n in range(LONG)])
        job = await tell.enqueue("cancelled")
        assert await job.cancel() is REMOVED
        async with app.worker() as worker:
            await worker.drain()
        assert "cancelled" not in tell.ran
        assert await left() == set()
        assert (await job.info()).state is State.REVOKED


async def test_a_worker_that_drops_what_is_left_keeps_count_of_what_it_holds(app, tell, short_look):
    """Breaks when a message that was never held counts as one less: the worker then claims too much, and polls."""
    async with app:
        await app.enqueue_many([tell.s(n) for n in range(LONG)])
        assert await (await tell.enqueue("cancelled")).cancel() is REMOVED
        async with app.worker() as worker:
            await worker.drain()
            assert worker.held == 0


# With a lock


@pytest.mark.parametrize("options", [{"unique": "until_done"}, {"debounce": 60}, {"throttle": 60}])
async def test_a_lock_s_id_is_free_at_once_though_its_message_is_still_in_a_long_list(
    app, tell, left, short_look, options
):
    """As for a plain job. Breaks when `admit` does not look at stops: the new job is dropped for the old one."""
    async with app, moving_clock(app) as clock:
        await app.enqueue_many([tell.s(n) for n in range(LONG)])
        assert await (await tell.options(job_id="mine").enqueue("old")).cancel() is REMOVED
        new, again = await app.enqueue_many([tell.options(job_id="mine", **options).s(1)] * 2)
        assert (new.id, new.duplicate, again.id, again.duplicate) == ("mine", False, "mine", True)
        await clock.move(61)
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
            assert await new.result(10) == 1
        assert "old" not in tell.ran
        assert "rqueue:{default}:stops" not in await left()


@on_redis
async def test_a_call_does_not_go_into_a_scheduled_job_that_was_cancelled(app, tell, left):
    """Cancelled while its worker had it, retried before the worker heard: it will not run, and counts for no lock."""
    async with app, moving_clock(app) as clock:
        call = tell.options(debounce=60, unique_key="k")
        first = await call.enqueue("first")
        await clock.move(61)
        broker, keys = app.session().broker, app.keys.queue("default")
        await broker.promote(keys)
        ghost = Ghost(app)
        await ghost.claim()
        assert await first.cancel() is REQUESTED
        again = ghost.message.changed(retries=1).raw
        await broker.retry(keys, "ghost", 0, 1, ghost.message.raw, first.id, again, 60)
        await broker.leave(keys, "ghost")
        second = await call.enqueue("second")
        assert not second.duplicate
        await clock.move(61)
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
            assert await second.result(10) == "second"
            with pytest.raises(JobRevoked):
                await first.result(10)
        assert tell.ran == ["second"]
        assert await left() <= {"rqueue:{default}:unique", "rqueue:clock"}


# What a worker has


async def test_a_running_job_is_interrupted(app, hold, gate, left):
    async with app, app.worker() as worker:
        async with asyncio.timeout(10):
            await worker._control.listening.wait()
        job = await hold.enqueue()
        await gate.reached(1)
        assert await job.cancel() is INTERRUPTED
        with pytest.raises(JobRevoked):
            await job.result(10)
        assert (await job.info()).error == "JobRevoked: it was cancelled while it ran"
        await worker.drain()
    assert await left() == set()


async def test_a_job_that_is_on_its_way_to_its_worker_is_interrupted_there(app, hold, gate, left, monkeypatch):
    """Asked at once, the worker has not seen the reply to its claim. Breaks when it is asked once: the job goes on."""
    monkeypatch.setattr("rqueue.client.revocation._SETTLED_S", 0.05)
    async with app, app.worker() as worker:
        async with asyncio.timeout(10):
            await worker._control.listening.wait()
        job = await hold.enqueue()
        await gate.reached(1)
        real, asked = worker._executor.cancel, []

        def not_yet(*args, **more):
            asked.append(args)
            return len(asked) > 1 and real(*args, **more)

        monkeypatch.setattr(type(worker._executor), "cancel", lambda _, *args, **more: not_yet(*args, **more))
        assert await job.cancel() is INTERRUPTED
        with pytest.raises(JobRevoked):
            await job.result(10)
        await worker.drain()
    assert await left() == set()


async def test_a_running_job_that_was_acknowledged_early_is_interrupted(app, gate, left):
    """It is in no list. Breaks when only lists are looked at, or its stop, its mark or its id stay."""

    @app.task(acks_late=False)
    async def once():
        await gate("once")

    async with app, app.worker() as worker:
        async with asyncio.timeout(10):
            await worker._control.listening.wait()
        job = await once.enqueue()
        await gate.reached(1)
        assert await job.cancel() is INTERRUPTED
        with pytest.raises(JobRevoked):
            await job.result(10)
        await worker.drain()
    assert await left() == set()


async def test_a_job_of_that_id_in_another_queue_goes_on(app, hold, gate):
    async with app, app.worker(["default", "other"]) as worker:
        async with asyncio.timeout(10):
            await worker._control.listening.wait()
        there = await hold.options(queue="other", job_id="j").enqueue("there")
        here = await hold.options(job_id="j").enqueue("here")
        await gate.reached(2)
        assert await here.cancel() is INTERRUPTED
        with pytest.raises(JobRevoked):
            await here.result(10)
        assert [job.keys.name for job in worker._inflight] == ["other"]
        assert await there.cancel() is INTERRUPTED


async def test_a_silent_worker_s_job_is_marked_and_never_runs_again(app, tell, left):
    """Durable: its worker dies, and a worker that starts later knows. Breaks when the stop is only announced."""
    async with app:
        job = await tell.enqueue(1)
        ghost = Ghost(app)
        assert await ghost.claim() == job.id
        assert await job.cancel() is REQUESTED
        assert (await job.info()).state is State.PENDING
        await ghost.broker._link.call(b"ZADD", ghost.keys.workers, 1, b"ghost")
        async with app.worker(lease=1) as worker:
            with pytest.raises(JobRevoked):
                await job.result(10)
            await worker.drain()
        assert tell.ran == []
        assert await left() == set()


async def test_a_job_that_ends_meanwhile_by_itself_leaves_no_stop(app, tell, left):
    """Breaks when the stop stays: a later job of this id would not run."""
    async with app:
        job = await tell.enqueue(1)
        ghost = Ghost(app)
        await ghost.claim()
        cancelling = asyncio.create_task(job.cancel())
        await ghost.marked()
        await ghost.ack()
        assert await cancelling is TOO_LATE
        await ghost.broker.leave(ghost.keys, "ghost")
        assert await left() == set()


async def test_a_job_that_asks_for_a_retry_meanwhile_is_removed(app, tell, left):
    async with app:
        job = await tell.enqueue(1)
        ghost = Ghost(app)
        await ghost.claim()
        cancelling = asyncio.create_task(job.cancel())
        await ghost.marked()
        again = ghost.message.changed(retries=1).raw
        await ghost.broker.retry(ghost.keys, "ghost", 0, 1, ghost.message.raw, job.id, again, 60)
        assert await cancelling is REMOVED
        await ghost.broker.leave(ghost.keys, "ghost")
        assert await left() <= {"rqueue:{default}"}


@pytest.fixture
async def moving(app):
    """A job that a worker has claimed to go on in another queue, and the steps of that worker."""

    class Moving(Ghost):
        async def begin(self):
            self.there = app.keys.queue("other")
            body = b'{"task":"m.tell","args":["moved"],"move":{"queue":"other","token":"t"}}'
            claimed = Header(id="j").encode() + body
            await self.broker.announce("default")
            await self.broker.enqueue(self.keys, "p", 0, 1, [Enqueued("j", True, 0, "", claimed)])
            await self.claim()
            return app.job("j", "default")

        async def enqueue_there(self):
            job = Enqueued("j", True, 0, "", self.message.rewritten({"move": None}).raw)
            await self.broker.announce("other")
            await self.broker.enqueue(self.there, "t", 0, 1, [job])

        async def let_go(self, **more):
            record = b'{"state":"RETRY","moved":"other"}'
            return await self.broker.move(self.keys, "ghost", 0, 1, self.message.raw, "j", record, 60, "other", **more)

    return Moving(app)


@on_redis
async def test_a_job_that_moves_while_it_is_cancelled_is_cancelled_there(app, tell, left, moving):
    """Breaks when the caller is told that it was too late: it waits in the other queue."""
    async with app:
        job = await moving.begin()
        cancelling = asyncio.create_task(job.cancel())
        await moving.marked()
        await moving.enqueue_there()
        # The worker knew nothing of stops when it let go.
        await moving.broker._link.call(b"ZREM", moving.keys.stops, b"job:j")
        assert await moving.let_go() == b"1"
        assert await cancelling is REMOVED
        await moving.broker.leave(moving.keys, "ghost")
        with pytest.raises(JobRevoked):
            await job.result(10)
        assert await left() <= {"rqueue:{default}", "rqueue:{other}"}


@on_redis
async def test_a_job_that_its_worker_has_cancelled_in_the_other_queue(app, tell, left, moving):
    async with app:
        job = await moving.begin()
        cancelling = asyncio.create_task(job.cancel())
        await moving.marked()
        await moving.enqueue_there()
        assert await moving.let_go() == b"4"
        record = b'{"state":"REVOKED"}'
        assert await stops.cancel(moving.broker, moving.there, Done(b"", "j", record, "60")) == (1, None)
        assert await moving.let_go(is_cancelled_there=True) == b"1"
        assert await cancelling is REMOVED
        await moving.broker.leave(moving.keys, "ghost")
        assert await left() <= {"rqueue:{default}", "rqueue:{other}"}


@on_redis
async def test_a_worker_dies_while_it_moves_a_job_that_is_cancelled_then(app, tell, left, moving):
    """It is in both queues, and runs in neither. Breaks when whoever claims it here only looks here."""
    async with app:
        job = await moving.begin()
        await moving.enqueue_there()
        assert await job.cancel() is REQUESTED
        await moving.broker._link.call(b"ZADD", moving.keys.workers, 1, b"ghost")
        async with app.worker(["default"], lease=1) as worker:
            with pytest.raises(JobRevoked):
                await job.result(10)
            await worker.drain()
        async with app.worker(["other"]) as worker:
            await worker.drain()
        assert tell.ran == []
        assert await left() == set()


async def test_cancels_race_with_runs(app, tell, left):
    """Each job ends once, as it is told. Breaks when a job is removed and runs, or keeps a stop."""
    async with app, app.worker(concurrency=5) as worker:
        async with asyncio.timeout(10):
            await worker._control.listening.wait()
        jobs = await app.enqueue_many([tell.s(n) for n in range(60)])
        told = await asyncio.gather(*(job.cancel() for job in jobs))
        ends = await asyncio.gather(*(job.result(10) for job in jobs), return_exceptions=True)
        await worker.drain()
        for number, (what, end) in enumerate(zip(told, ends, strict=True)):
            if what is TOO_LATE:
                assert (end, tell.ran.count(number)) == (number, 1)
            else:
                assert isinstance(end, JobRevoked)
                assert what is INTERRUPTED or number not in tell.ran
    assert await left() == set()


# By task and header


async def test_all_of_a_task_and_nothing_else(app, hold, tell, gate, left):
    async with app:
        async with app.worker(concurrency=2) as worker:
            async with asyncio.timeout(10):
                await worker._control.listening.wait()
            running = await hold.enqueue()
            await gate.reached(1)
            worker._fetcher._is_stopping = True  # it claims nothing more
            worker._inflight.signals.fetch.set()
            await worker._fetcher._has_stopped.wait()
            waiting = await app.enqueue_many([hold.options(priority=p).s(p) for p in (1, 9) for _ in range(60)])
            plain = await app.enqueue_many([(hold if n % 2 else tell).s(n) for n in range(120)])
            later = [await hold.options(countdown=60).enqueue(), await tell.options(countdown=60).enqueue("later")]
            nameless = b'{"task":"m.hold"}'
            await app.session().broker._link.call(b"LPUSH", app.keys.queue("default").main, nameless, nameless, b"[")
            count = 1 + 120 + 60 + 1 + 2
            assert await app.cancel(task=hold, dry_run=True) == Cancellations(count)
            assert await app.cancel(task="m.hold") == Cancellations(count, removed=count - 1, interrupted=1)
            assert await app.cancel(task="m.hold") == Cancellations()
            for job in (running, waiting[0], waiting[-1], later[0]):
                with pytest.raises(JobRevoked):
                    await job.result(10)
        async with app.worker() as worker:
            assert await asyncio.gather(*(job.result(10) for job in plain[::2])) == list(range(0, 120, 2))
            assert (await later[1].info()).state is State.PENDING
            assert await later[1].cancel() is REMOVED
            await worker.drain()
    assert await left() == {"rqueue:{default}:dead", "rqueue:{default}:dead:letters"}  # "["


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_job_that_goes_back_while_it_is_looked_for(app, tell, monkeypatch, dry_run):
    """A worker that holds more than it can start gives back what waits behind. Breaks when all is read only once."""
    async with app:
        job = await tell.enqueue(1)
        broker, keys = app.session().broker, app.keys.queue("default")
        await broker.register(keys, "ghost", 60)
        (claimed,) = (await broker.claim([keys], [5], "ghost", 60, 1, 1_000_000)).messages
        read = broker.claimed

        async def gone_back(of, worker):
            """The waiting lists were read, and the worker's is about to be."""
            await broker.release(keys, "ghost", [(claimed.raw, job.id, 0)])
            return await read(of, worker)

        monkeypatch.setattr(broker, "claimed", gone_back)
        counts = await app.cancel(task=tell, dry_run=dry_run)
        assert counts == (Cancellations(1) if dry_run else Cancellations(1, removed=1))


async def test_by_header(app, tell):
    async with app:
        jobs = {
            tenant: await tell.options(headers={"tenant": tenant, "n": 1}).enqueue(tenant)
            for tenant in ("acme", "other", 7, "7", True, None)
        }
        await tell.enqueue("none")
        assert await app.cancel(header=("tenant", "acme")) == Cancellations(1, removed=1)
        assert await app.cancel(header=("tenant", 7)) == Cancellations(1, removed=1)
        assert await app.cancel(header=("tenant", "other"), task="m.hold") == Cancellations()
        assert await app.cancel(header=("tenant", "other"), queue="elsewhere") == Cancellations()
        assert (await jobs["acme"].info()).state is (await jobs[7].info()).state is State.REVOKED
        assert (await jobs["7"].info()).state is State.PENDING
        with pytest.raises(ConfigError, match="by task, by header"):
            await app.cancel()
        for wrong in ("tenant", ("tenant",), (7, "acme")):
            with pytest.raises(ConfigError, match="a name and a JSON value"):
                await app.cancel(header=wrong)
        with pytest.raises(TypeError, match="not JSON"):
            await app.cancel(header=("tenant", object()))


async def test_by_the_tasks_last_name(app, tell):
    """As messages may call it, so may who cancels; breaks when only one of the two names is compared."""
    async with app:
        for name in (tell.name, tell.name.rpartition(".")[2]):
            await tell.enqueue("whole")
            bare = b'{"task":"%s","args":["bare"]}' % tell.name.rpartition(".")[2].encode()
            await app.session().broker._link.call(b"LPUSH", app.keys.queue("default").main, bare)
            assert await app.cancel(task=name) == Cancellations(2, removed=2)


@pytest.mark.parametrize(
    ("call", "is_meant"),
    [
        (Call("t", enqueued=10), True),
        (Call("t"), True),
        (Call("t", enqueued=11), False),
        (Call("u", enqueued=10), False),
    ],
)
def test_what_was_enqueued_afterwards_is_not_meant(call, is_meant):
    raw = Header(id="j").encode() + call.encode()
    assert (Criteria(frozenset("t"), None).target(raw, 3, 10) == Target("j", raw, 3, "t")) is is_meant
    assert Criteria(frozenset("t"), None).target(b"nonsense", 0, 10) is None


# From synchronous code


def test_a_sync_handle_cancels(sync_app):
    @sync_app.task
    def job():
        pass

    handle = job.delay()
    assert handle.cancel() is REMOVED
    with pytest.raises(JobRevoked):
        handle.get(10)

    async def inside():
        with pytest.raises(RuntimeError, match=r"await app\.job"):
            handle.cancel()

    asyncio.run(inside())


async def test_a_message_and_a_record_of_strangers_stop_no_cancel(app, tell):
    keys, call = app.keys.queue("default"), app.session().broker._link.call
    mine = await tell.enqueue(1)
    await call("LPUSH", keys.main, '1 - 0 0 0 theirs {"task":"m.tell"}')
    await call("SET", keys.result("theirs"), "junk")
    assert (await app.cancel(task=tell)).removed == 1
    with pytest.raises(JobRevoked):
        await mine.result(5)


@pytest.mark.parametrize("said", [None, [], {"cancelled": None}, {"cancelled": [["x"], 5]}])
async def test_an_answer_that_is_none_stops_no_cancel(app, tell, monkeypatch, said):
    keys, broker = app.keys.queue("default"), app.session().broker
    job = await tell.enqueue(1)
    await broker.register(keys, "w", 15)
    await broker._link.call("RPOPLPUSH", keys.main, keys.processing("w"))

    async def ask(*_, **__):
        return Replies((Answer("w", said),), ())

    monkeypatch.setattr(Inspector, "ask", ask)
    monkeypatch.setattr("rqueue.client.revocation._SETTLED_S", 0.01)
    assert await job.cancel() is REQUESTED
