"""Invariant 15, only our own: with keys, whoever can write to Redis cannot make a worker run anything, nor make a
client believe a result; what is refused is a dead letter, stops nothing and harms no neighbour.

Seen to fail with `Fetcher._read` that does not open, with `Keyring.open` that takes what has no seal, with a place
without its queue or its id, and with a `Ticker` that reads schedules as they stand.
"""

import asyncio
import base64
import json
import re
from dataclasses import replace

import pytest

from rqueue import JobFailed, JobRevoked, NotAuthentic, RQueue, State, cron, every
from rqueue.client.admin import Admin
from rqueue.client.inspector import Inspector
from rqueue.client.letters import Changes
from rqueue.config import WorkerConfig
from rqueue.supervisor.custody import Custody, introduction
from rqueue.testing import moving_clock
from rqueue.wire.control import ControlRequest
from rqueue.wire.message import Message
from rqueue.wire.periodic import Entry
from rqueue.wire.seal import seal_request

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


@pytest.fixture
def url(redis_url):
    """One kind of store is enough: none of them knows of seals."""
    return redis_url


@pytest.fixture(params=["signing_keys", "encryption_keys"])
def kind(request):
    return request.param


@pytest.fixture
def new_app(url, kind):
    """An app with keys, and the task `pay`, which notes its calls."""

    def make(*keys, **options):
        made = RQueue(url, **{kind: keys or [OLD]}, **options)
        made.calls = []

        @made.task(name="pay", max_retries=2, default_retry_delay=0)
        async def pay(amount, fail=""):
            made.calls.append(amount)
            if fail == "once" and made.calls.count(amount) == 1:
                raise pay_error(amount)
            if fail == "always":
                raise ValueError(f"secret-{amount}")
            return {"paid": amount}

        made.pay = pay
        return made

    def pay_error(amount):
        from rqueue import Retry

        return Retry(0, exc=ConnectionError(f"secret-{amount}"))

    return make


@pytest.fixture
def app(new_app):
    return new_app()


@pytest.fixture
def main(app):
    return app.keys.queue("default").main


async def drained(app):
    async with app.worker() as worker:
        await worker.drain(scheduled=True)


async def letters(app):
    return {dead.letter.id: dead.letter for dead in await Admin(app).dead()}


async def test_a_sealed_job_runs_is_retried_and_gives_its_result(app, call, kind, main):
    async with app:
        job = await app.pay.enqueue("secret-17", fail="once")
        (raw,) = await call("LRANGE", main, 0, -1)
        assert (b"secret-17" in raw) is (kind == "signing_keys")
        await drained(app)
        assert await job.result(5) == {"paid": "secret-17"}
        assert app.calls == ["secret-17", "secret-17"]
        info = await job.info()
        assert (info.attempts, [past.error for past in info.history]) == (2, ["ConnectionError: secret-secret-17"])
        record = await call("GET", app.keys.queue("default").result(job.id))
        assert record.startswith(b'{"state":"SUCCESS"')
        assert (b"secret-17" in record) is (kind == "signing_keys")


FORGED = {
    "no object of ours": b'{"task":"pay","args":["forged"]}',
    "not signed": b'1 - 0 0 0 forged {"task":"pay","args":["forged"]}',
    "a made-up signature": b'1 - 0 0 0 forged {"task":"pay","args":["forged"],"signed":"01020304.%b"}' % (b"A" * 43),
    "a made-up seal": b'1 - 0 0 0 forged {"task":"pay","sealed":"01020304.%b"}' % (b"A" * 80),
    "a seal of another kind": b'1 - 0 0 0 forged {"task":"pay","args":["forged"],"sealed":7}',
}


@pytest.mark.parametrize("raw", FORGED.values(), ids=FORGED)
async def test_what_is_not_ours_is_a_dead_letter_and_its_neighbours_run(app, call, main, raw):
    async with app:
        before = await app.pay.enqueue("before")
        await call("LPUSH", main, raw)
        after = await app.pay.enqueue("after")
        await drained(app)
        assert sorted(app.calls) == ["after", "before"]
        assert [await before.result(5), await after.result(5)] == [{"paid": "before"}, {"paid": "after"}]
        (letter,) = (await letters(app)).values()
        assert (letter.reason, letter.raw, letter.failure.type) == ("not authentic", raw, "NotAuthentic")


async def test_what_is_nested_too_deeply_to_be_checked_stops_nothing(app, call, main, kind):
    deep, key = b"[" * 600 + b"]" * 600, re.search(r"[0-9a-f]{8}", repr(app.keyring))[0].encode()
    async with app:
        await call("LPUSH", main, b'1 - 0 0 0 bad {"task":"pay","x":%b,"sealed":"%b.%b"}' % (deep, key, b"A" * 80))
        job = await app.pay.enqueue("after")
        await drained(app)
        assert await job.result(5) == {"paid": "after"}
        assert (await letters(app))["bad"].reason == "not authentic"


async def test_a_job_of_ours_under_another_id_or_in_another_queue_is_refused(app, call, main):
    async with app:
        await app.pay.options(job_id="mine").enqueue("mine")
        (raw,) = await call("LRANGE", main, 0, -1)
        await call("LPUSH", main, raw.replace(b" mine ", b" yours "))
        await call("LPUSH", app.keys.queue("email").main, raw)
        await call("SADD", app.keys.queues, "email")
        async with app.worker(queues=["default", "email"]) as worker:
            await worker.drain()
        assert app.calls == ["mine"]
        assert {letter.reason for letter in (await letters(app)).values()} == {"not authentic"}


async def test_a_forgery_reaches_no_hook_of_its_task(app, call, main):
    told = []
    app.pay.on_failure(lambda outcome: told.append(("task", outcome.args)))
    app.on_dead(lambda outcome: told.append(("app", outcome.args)))
    async with app:
        await call("LPUSH", main, FORGED["not signed"])
        async with app.worker() as worker:
            await worker.drain()
        assert told == [("app", ())]


async def test_retried_and_edited_by_an_operator_a_forgery_stays_one(app, call, main):
    async with app:
        await call("LPUSH", main, FORGED["not signed"])
        await drained(app)
        admin = Admin(app)
        assert (await admin.dead_retry(["forged"])).waiting == ("forged",)
        await drained(app)
        assert (app.calls, (await letters(app))["forged"].raw) == ([], FORGED["not signed"])
        assert await admin.dead_edit("forged", args=["edited"]) == "unreadable"
        assert await admin.dead_edit("forged", priority=3, retry=True) == "unreadable"
        assert (await admin.dead_retry(["forged"], changes=Changes(args=["edited"]))).unreadable == ("forged",)
        assert (await letters(app))["forged"].raw == FORGED["not signed"]


async def test_a_dead_letter_of_ours_is_read_edited_and_runs_again(app, call, kind):
    async with app:
        job = await app.pay.enqueue("card 4711", fail="always")
        await drained(app)
        (stored,) = await call("HVALS", app.keys.queue("default").letters)
        assert (b"4711" in stored) is (kind == "signing_keys")
        dead = await Admin(app).dead_letter(job.id)
        assert dead.call.args == ["card 4711"]
        assert "secret-card 4711" in dead.letter.failure.message
        assert "ValueError" in dead.letter.failure.traceback
        assert await Admin(app).dead_edit(job.id, args=["other"], kwargs={}, priority=9, retry=True) == "waiting"
        await drained(app)
        assert await job.result(5) == {"paid": "other"}


async def test_who_has_no_key_retries_without_opening(app, url):
    async with app, RQueue(url) as bare:
        job = await app.pay.enqueue(1, fail="always")
        await drained(app)
        assert (await Admin(bare).dead_retry([job.id])).waiting == (job.id,)
        await drained(app)
        assert app.calls == [1, 1]
        assert set(await letters(app)) == {job.id}


async def test_keys_are_rotated_without_a_refusal(app, new_app, kind):
    """The new key last everywhere, then first everywhere, then the old one is taken away."""
    both_old_first, both_new_first, only_new = new_app(OLD, NEW), new_app(NEW, OLD), new_app(NEW)
    async with app, both_old_first, both_new_first, only_new:
        jobs = [await each.pay.enqueue("x") for each in (app, both_old_first, both_new_first)]
        await drained(both_old_first)
        assert [await both_old_first.job(job.id).result(5) for job in jobs] == [{"paid": "x"}] * 3
        late = await app.pay.enqueue("late")
        await drained(only_new)
        (letter,) = (await letters(only_new)).values()
        assert (letter.id, only_new.calls) == (late.id, [])
        assert "none of the keys here" in (letter.failure.message)
        with pytest.raises(JobFailed, match="none of the keys here"):
            await only_new.job(late.id).result(5)


async def test_while_keys_are_rolled_out_the_unsigned_is_taken(new_app, url, call, main):
    lenient = new_app(allow_unsigned=True)
    async with RQueue(url) as old, lenient:

        @old.task(name="pay")
        async def pay(amount):
            pass

        job = await pay.enqueue("old")
        await call("LPUSH", main, b'{"task":"pay","args":["plain"]}')
        await drained(lenient)
        assert sorted(lenient.calls) == ["old", "plain"]
        assert await lenient.job(job.id).result(5) == {"paid": "old"}


async def test_a_workers_result_cannot_be_forged_or_swapped(app, call):
    async with app:
        first, second = await app.pay.enqueue("first"), await app.pay.enqueue("second")
        await drained(app)
        keys = app.keys.queue("default")
        await call("COPY", keys.result(first.id), keys.result(second.id), "REPLACE")
        with pytest.raises(NotAuthentic):
            await second.result(5)
        for forged in (b'{"state":"SUCCESS","result":"forged"}', b'{"state":"SUCCESS","dropped":false}'):
            await call("SET", keys.result(first.id), forged)
            with pytest.raises(NotAuthentic):
                await first.result(5)
        with pytest.raises(NotAuthentic):
            await first.info()


async def test_events_pass_over_what_is_not_ours(app, call):
    async with app, app.events() as events:
        await call("PUBLISH", app.keys.queue("default").result("x"), b'{"state":"SUCCESS","result":"forged"}')
        job = await app.pay.enqueue(1)
        await drained(app)
        async with asyncio.timeout(5):
            event = await anext(aiter(events))
        assert (event.job_id, event.state, event.info.result) == (job.id, State.SUCCESS, {"paid": 1})


async def test_schedules_are_sealed_and_a_planted_one_does_not_tick(app, call, log, kind):
    keys = app.keys.queue("default")
    async with app, moving_clock(app) as clock:
        await app.schedules.add(every(minutes=1), app.pay, name="ours", args=["tick"])
        stored = await call("HGET", keys.entries, "ours")
        assert (b"tick" in stored) is (kind == "signing_keys")
        due = (await app.schedules.get("ours")).due.timestamp() * 1000
        planted = Entry("pay", int(due), ("planted",), every=60_000).encode()
        for name, entry in (("planted", planted), ("copied", stored)):
            await call("HSET", keys.entries, name, entry)
            await call("ZADD", keys.periodic, int(due), name)
        async with app.worker() as worker:
            await clock.move(61)
            await log.heard("periodic schedule not readable")
            await worker.drain()
        assert app.calls == ["tick"]
        assert [each.name for each in await app.schedules.list()] == ["ours"]
        job = await app.schedules.trigger("ours")
        assert (await app.schedules.pause("ours")).is_paused
        await drained(app)
        assert await job.result(5) == {"paid": "tick"}


async def test_a_schedule_with_anybodys_bytes_for_a_name_stops_no_other(app, call):
    keys = app.keys.queue("default")
    async with app, moving_clock(app) as clock:
        await app.schedules.add(every(minutes=1), app.pay, name="ours", args=["tick"])
        await call("HSET", keys.entries, b"\xff", await call("HGET", keys.entries, "ours"))
        async with app.worker() as worker:
            await clock.move(61)
            await worker.drain()
        assert app.calls == ["tick"]


async def test_the_codes_schedule_takes_the_place_of_a_planted_one(app, call):
    keys = app.keys.queue("default")
    app.add_periodic(cron("0 0 * * *"), app.pay, name="nightly", args=["ours"])
    async with app:
        await call("HSET", keys.entries, "nightly", Entry("pay", 1, ("planted",), every=60_000).encode())
        await call("ZADD", keys.periodic, 1, "nightly")
        async with app.worker() as worker:
            await worker.drain()
        assert (await app.schedules.get("nightly")).args == ("ours",)
        assert app.calls == []


async def test_a_job_moves_debounces_and_is_cancelled(app, call):
    async with app:
        one = await app.pay.options(debounce=0.01).enqueue("debounced")
        two = await app.pay.options(debounce=0.01).enqueue("debounced")
        assert one.id == two.id

        @app.task(name="wander", bind=True)
        async def wander(self):
            if self.request.queue == "default":
                self.retry(queue="email", countdown=0)
            return self.request.queue

        moved = await wander.enqueue()
        async with app.worker(queues=["default", "email"]) as worker:
            await worker.drain(scheduled=True)
        assert [await one.result(5), await moved.result(5)] == [{"paid": "debounced"}, "email"]
        waiting = await app.pay.options(headers={"tenant": "acme"}).enqueue("waits")
        assert (await app.cancel(task="pay", header=("tenant", "acme"))).removed == 1
        with pytest.raises(JobRevoked):
            await waiting.result(5)


async def test_workers_hear_only_our_own_requests(app, url, log, broker):
    async with app, RQueue(url) as bare, app.worker() as worker:
        replies = await Inspector(app).ask("ping", timeout=5)
        assert [each.worker for each in replies.answers] == [worker.id]
        assert (await Inspector(bare).ask("shutdown", timeout=0.05)).silent
        control = app.keys.control
        stale = replace(ControlRequest("1", "shutdown", {}, None, None), at=broker.clock.now_ms() - 120_000)
        await broker.publish(control, seal_request(app.keyring, control, stale.encode()))
        await log.heard("control request not readable", 2)
        replies = await Inspector(app).ask("ping", timeout=5)
        assert [each.worker for each in replies.answers] == [worker.id]


async def test_eager_jobs_are_sealed_as_well(new_app):
    async with new_app(eager=True) as app:
        job = await app.pay.enqueue("eager", fail="once")
        assert await job.result(5) == {"paid": "eager"}


async def test_a_supervisor_has_the_keys_from_its_processes(app, call, main):
    """It takes back what a dead process held, and settles in its name: a job that has cost too many is a letter."""
    async with app:
        job, keys = await app.pay.enqueue("held"), app.keys.queue("default")
        broker = app.session().broker
        await broker.register(keys, "dead", 15)
        await call("RPOPLPUSH", main, keys.processing("dead"))
        (raw,) = await call("LRANGE", keys.processing("dead"), 0, -1)
        lost = Message.parse(raw).changed(losses=2).raw
        await call("LSET", keys.processing("dead"), 0, lost)
        await call("SADD", keys.started("dead"), job.id)
        await call("ZADD", keys.workers, 1, "dead")
        custody = Custody(json.loads(json.dumps(introduction(app, WorkerConfig(queues=("default",))))), WorkerConfig())
        await custody.take_back("dead")
        await custody.close()
        with pytest.raises(JobFailed, match="WorkerLost"):
            await job.result(5)
        assert (await letters(app))[job.id].task == "pay"


def test_keys_stand_in_no_repr(app):
    assert OLD[:12] not in repr(app) + repr(app.keyring) + json.dumps(str(vars(app)), default=str)
