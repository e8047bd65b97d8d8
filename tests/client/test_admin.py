"""What operators do, on each kind of broker: what is stored is compared before and after."""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from rqueue import RQueue
from rqueue.broker.broker import Done
from rqueue.client.admin import Admin, DeadLetter, Retried
from rqueue.client.letters import Changes
from rqueue.errors import ConfigError
from rqueue.wire.message import Call, Header
from rqueue.wire.record import Failure, Letter


@pytest.fixture
async def app(url: str) -> AsyncIterator[RQueue]:
    async with RQueue(url, queues=["default"]) as app:
        yield app


@pytest.fixture
def admin(app: RQueue) -> Admin:
    return Admin(app)


def message(job_id, task="shop.a", level=0):
    return Header(level=level, losses=1, retries=3, since=9, id=job_id).encode() + Call(task).encode()


async def bury(app, *letters, queue="email", data=None):
    """Dead letters, the last one the newest; ``data`` in place of their bytes."""
    broker, keys = app.session().broker, app.keys.queue(queue)
    await broker.announce(queue)
    for letter in letters:
        worker = f"w:{letter.id}:0"
        await broker.register(keys, worker, 60)
        await broker._link.call(b"LPUSH", keys.processing(worker), letter.raw)
        done = Done(letter.raw, letter.id, b'{"state":"FAILURE"}', "60")
        assert await broker.bury(keys, worker, 0, 1, done, data or letter.encode(), 10_000, 3600) == b"1"
        await broker.leave(keys, worker)


async def lists(app, queue="email"):
    """The waiting messages of a queue by level, the next first; without tokens."""
    keys, found = app.keys.queue(queue), {}
    for level, name in enumerate(keys.lists):
        waiting = [raw for raw in await app.session().broker._link.call(b"LRANGE", name, 0, -1) if raw]
        if waiting:
            found[level] = waiting[::-1]
    return found


async def test_queues_are_the_apps_and_all_that_were_used(app, admin):
    task = app.task(name="shop.a")(print)
    await task.options(queue="email").enqueue()
    await task.options(queue="email", priority=9).enqueue()
    await task.options(queue="email", countdown=600).enqueue()
    await bury(app, Letter("dead", "failed", message("dead")))
    default, email = await admin.queues()
    assert (default.name, default.waiting_total, default.workers) == ("default", 0, 0)
    assert (email.name, email.waiting_total, email.waiting[0], email.waiting[9]) == ("email", 2, 1, 1)
    assert (email.scheduled, email.running, email.dead, email.counts) == (1, 0, 1, {"FAILURE": 1})


async def test_a_worker_is_one_for_all_its_queues(app, admin):
    broker = app.session().broker
    for name, lease_s in (("email", 30), ("default", 60)):
        await broker.announce(name)
        await broker.register(app.keys.queue(name), "host:7:ab", lease_s)
    (silent,) = await admin.workers()
    assert (silent.id, silent.queues, silent.pid) == ("host:7:ab", ("default", "email"), None)
    assert 20 < silent.lease_s <= 30
    card = b'{"host":"h","pid":7,"concurrency":5,"running":2,"held":1,"more":true}'
    await broker.renew([app.keys.queue("email")], "host:7:ab", 30, card)
    (told,) = await admin.workers()
    assert (told.host, told.pid, told.concurrency, told.running, told.held) == ("h", 7, 5, 2, 1)


async def test_a_worker_that_says_nonsense_is_shown_all_the_same(app, admin):
    broker = app.session().broker
    await broker.announce("email")
    await broker.register(app.keys.queue("email"), "host:7:ab", 30)
    for card in (b"\xff", b"[1]"):
        await broker.renew([app.keys.queue("email")], "host:7:ab", 30, card)
        assert [(worker.id, worker.host) for worker in await admin.workers()] == [("host:7:ab", None)]


async def test_a_real_worker_shows_what_it_does(app, admin):
    async with app.worker(["default", "email"], concurrency=3) as worker:
        (status,) = await admin.workers()
        assert (status.id, status.queues) == (worker.id, ("default", "email"))
    assert await admin.workers() == []


async def test_purge_takes_all_that_waits_and_nothing_else(app, admin):
    task = app.task(name="shop.a")(print)
    calls = [task.options(queue="email", priority=number % 10 + 1).s() for number in range(2500)]
    await app.enqueue_many(calls)
    scheduled = await task.options(queue="email", countdown=600).enqueue()
    assert await admin.purge("email") == 2500
    status = await admin.queue("email")
    assert (status.waiting_total, status.scheduled) == (0, 1)
    jobs = await app.session().broker._link.call(b"SMEMBERS", app.keys.queue("email").jobs)
    assert set(jobs) == {scheduled.id.encode()}
    assert await admin.purge("email") == 0


async def test_dead_letters_newest_first_and_by_filter(app, admin):
    old, new = Letter("old", "failed", message("old"), "shop.a"), Letter("new", "worker lost", message("new"), "shop.b")
    other = Letter("other", "failed", message("other"), "shop.a")
    await bury(app, old)
    await bury(app, new)
    await app.session().broker._link.call(b"ZINCRBY", app.keys.queue("email").dead, -60_000, "old")
    await bury(app, other, queue="reports")
    everything = [DeadLetter("email", new), DeadLetter("email", old), DeadLetter("reports", other)]
    assert await admin.dead() == everything
    assert await admin.dead(limit=2) == everything[:2]
    assert await admin.dead("reports") == everything[2:]
    assert await admin.dead(task="shop.a") == everything[1:]
    assert await admin.dead(reason="worker lost", task="shop.b") == everything[:1]
    assert await admin.dead("unused") == []


async def test_one_dead_letter(app, admin):
    letter = Letter("a", "failed", message("a"), "shop.a", Failure("ValueError", "no", "here"), 5, 3, 1)
    await bury(app, letter)
    assert await admin.dead_letter("a") == DeadLetter("email", letter)
    assert await admin.dead_letter("b") is None


async def test_a_retried_job_waits_in_its_list_with_its_errors_forgotten(app, admin):
    await bury(app, Letter("a", "failed", message("a")), Letter("b", "failed", message("b", level=7)))
    assert await admin.dead_retry(["b", "a", "a", "absent"]) == Retried(waiting=("b", "a"), missing=("absent",))
    assert await lists(app) == {0: [b'1 - 0 0 0 a {"task":"shop.a"}'], 7: [b'1 7 0 0 0 b {"task":"shop.a"}']}
    assert await admin.dead() == []
    assert (await app.job("a").info()).state == "PENDING"


async def test_a_retried_job_runs(app, admin):
    @app.task(name="shop.a")
    async def answer() -> int:
        return 42

    await bury(app, Letter("a", "failed", message("a")))
    await admin.dead_retry(["a"])
    async with app.worker(["email"]):
        assert await app.job("a").result(30) == 42


async def test_what_cannot_be_read_is_not_retried(app, admin):
    raws = {"binary": b"\xff", "list": b"[1]", "no task": b'1 - 0 0 0 x {"args":[]}'}
    letters = [Letter(name.replace(" ", "-"), "malformed", raw) for name, raw in raws.items()]
    await bury(app, *letters)
    done = await admin.dead_retry([letter.id for letter in letters])
    assert done == Retried(unreadable=("binary", "list", "no-task"))
    assert (await lists(app), len(await admin.dead())) == ({}, 3)


async def test_a_message_without_an_id_gets_its_letters(app, admin):
    await bury(app, Letter("made", "failed", b'{"task":"shop.a"}'))
    assert (await admin.dead_retry(["made"])).waiting == ("made",)
    assert await lists(app) == {0: [b'1 - 0 0 0 made {"task":"shop.a"}']}


async def test_a_job_that_is_alive_keeps_its_letter(app, admin):
    await bury(app, Letter("a", "failed", message("a")))
    await app.task(name="shop.a")(print).options(queue="email", job_id="a").enqueue()
    before = await lists(app)
    assert await admin.dead_retry() == Retried(alive=("a",))
    assert await lists(app) == before
    assert await admin.dead_letter("a") is not None


async def test_a_stop_that_an_earlier_job_left_does_not_meet_the_retried_one(app, admin):
    """It was cancelled, and had ended by itself. Breaks when the letter's job is revoked in its place."""
    await bury(app, Letter("a", "failed", message("a")))
    call, stops = app.session().broker._link.call, app.keys.queue("email").stops
    await call(b"ZADD", stops, 0, b"job:a")
    assert await admin.dead_retry(["a"]) == Retried(waiting=("a",))
    assert not await call(b"EXISTS", stops)


async def test_all_that_match_over_many_pages(app, admin):
    """More than two pages; those that do not match stay, and none is skipped while others leave."""
    kinds = ("shop.a", "shop.b")
    letters = [Letter(f"{number}", "failed", message(f"{number}"), kinds[number % 2]) for number in range(250)]
    await bury(app, *letters)
    done = await admin.dead_retry(task="shop.a")
    assert len(done.waiting) == 125
    assert {int(job_id) % 2 for job_id in done.waiting} == {0}
    assert await admin.dead_purge(task="shop.b", queue="reports") == 0
    assert await admin.dead_purge(task="shop.b") == 125
    assert await admin.dead() == []


async def test_purge_of_letters_by_id_and_filter(app, admin):
    await bury(app, Letter("a", "failed", message("a"), "shop.a"), Letter("b", "failed", message("b"), "shop.b"))
    await bury(app, Letter("c", "failed", message("c"), "shop.a"), queue="reports")
    assert await admin.dead_purge(["a", "b", "absent"], task="shop.b") == 1
    assert await admin.dead_purge() == 2
    assert await admin.dead() == []


async def test_a_letter_that_cannot_be_read_is_shown_and_can_be_purged(app, admin):
    await bury(app, Letter("a", "failed", message("a")), data=b"nonsense")
    (found,) = await admin.dead()
    assert (found.letter.id, found.letter.reason, found.letter.raw) == ("?", "unreadable letter", b"nonsense")
    assert (await admin.dead_letter("a")) is not None
    assert (await admin.dead_retry(["a"])).unreadable == ("a",)
    assert await admin.dead_purge(["a"]) == 1


async def test_filters_by_error_and_age_and_pages(app, admin):
    now = app.session().broker.clock.now_ms()
    for number in range(5):
        failure = Failure("ValueError", f"bad {number}")
        await bury(
            app, Letter(f"{number}", "failed", message(f"{number}"), "shop.a", failure, now - number * 3_600_000)
        )
        await app.session().broker._link.call(b"ZADD", app.keys.queue("email").dead, now - number, f"{number}")

    async def ids(**which):
        return [dead.letter.id for dead in await admin.dead(**which)]

    assert await ids(error="BAD 3") == ["3"]
    assert await ids(older_than=2.5 * 3600) == ["3", "4"]
    assert await ids(newer_than=2.5 * 3600, older_than=1800) == ["1", "2"]
    assert await ids(limit=2, offset=1) == ["1", "2"]
    assert (await admin.dead_retry(["0", "4"], older_than=3600)).missing == ("0",)
    assert await admin.dead_purge(error="bad 2") == 1
    assert await ids() == ["0", "1", "3"]


async def test_a_letter_is_edited_and_stays_dead(app, admin):
    raw = b'1 - 1 3 9 a {"task":"shop.a","args":[1],"theirs":{"x":1.0}}'
    await bury(app, Letter("a", "failed", raw, "shop.a", Failure("ValueError", "no", "here"), 5, 3, 1))
    assert await admin.dead_edit("a", args=[2], priority=7) == "edited"
    found = await admin.dead_letter("a")
    assert found.letter.raw == b'1 7 1 3 9 a {"task":"shop.a","args":[2],"theirs":{"x":1.0}}'
    assert (found.letter.failure.traceback, found.letter.died, found.attempts) == ("here", 5, 5)
    assert await lists(app) == {}
    assert (await admin.dead_retry(["a"], changes=Changes(priority=None, max_retries=1))).waiting == ("a",)
    assert await lists(app) == {0: [b'1 - 0 0 0 a {"task":"shop.a","args":[2],"theirs":{"x":1.0},"max_retries":1}']}


async def test_a_letter_is_edited_and_waits_again_in_one_step(app, admin):
    await bury(app, Letter("a", "failed", message("a")))
    assert await admin.dead_edit("a", kwargs={"b": 2}, retry=True) == "waiting"
    assert await lists(app) == {0: [b'1 - 0 0 0 a {"task":"shop.a","kwargs":{"b":2}}']}
    assert await admin.dead() == []


async def test_an_edit_of_what_has_changed_since_it_was_read(app, admin):
    """Two operators: the second one is told, and nothing of the first one's is lost."""
    await bury(app, Letter("a", "failed", message("a")))
    found = await admin.dead_letter("a")
    (listed,) = await admin.dead()
    assert await admin.dead_edit(found, args=[1]) == "edited"
    assert await admin.dead_edit(listed, args=[2]) == "missing"
    assert await admin.dead_edit(listed, args=[2], retry=True) == "missing"
    assert (await admin.dead_letter("a")).call.args == [1]
    assert await admin.dead_edit("absent", args=[1]) == "missing"


async def test_an_edit_that_cannot_be_done_changes_nothing(app, admin):
    await bury(app, Letter("a", "failed", message("a")), Letter("b", "malformed", b"\xff"))
    before = await admin.dead()
    for wrong in ({"args": 5}, {"priority": 0}, {}):
        with pytest.raises(ConfigError):
            await admin.dead_edit("a", **wrong)
    with pytest.raises(ConfigError):
        await admin.dead_retry(["a"], changes=Changes(priority=0))
    assert await admin.dead_edit("b", args=[1]) == "unreadable"
    await app.task(name="shop.a")(print).options(queue="email", job_id="a").enqueue()
    assert await admin.dead_edit("a", args=[1], retry=True) == "alive"
    assert await admin.dead() == before


async def test_an_expired_letter_may_run_again(app, admin):
    @app.task(name="shop.a")
    async def answer() -> int:
        return 42

    raw = b'1 - 0 0 0 a {"task":"shop.a","expires":5}'
    await bury(app, Letter("a", "failed", raw))
    assert (await admin.dead_retry(["a"], changes=Changes(expires=None))).waiting == ("a",)
    async with app.worker(["email"]):
        assert await app.job("a").result(30) == 42


async def test_a_namespace_sees_its_own_only(app, url):
    await app.task(name="shop.a")(print).options(queue="email").enqueue()
    other = RQueue(url, namespace="other")
    async with other:
        assert [queue.name for queue in await Admin(other).queues()] == ["default"]


async def test_what_a_worker_says_of_itself(app, admin):
    """Moments become ages on Redis's clock; a real worker says all of it."""
    broker = app.session().broker
    await broker.announce("email")
    await broker.register(app.keys.queue("email"), "host:7:ab", 30)
    now = broker.clock.now_ms()
    told = {"state": "stopping", "queues": ["a"], "done": 4, "stalls": 1, "heartbeat": 5.0, "block": 4}
    card = orjson.dumps({**told, "beat": now - 2000, "fetched": now - 3000})
    await broker.renew([app.keys.queue("email")], "host:7:ab", 30, card)
    (status,) = await admin.workers()
    assert (status.state, status.serves, status.done, status.stalls) == ("stopping", ("a",), 4, 1)
    assert (status.heartbeat_s, status.block_s, status.is_live) == (5.0, 4, True)
    assert 2 <= status.beat_age_s < 30
    assert 3 <= status.fetched_age_s < 30
    odd = dict.fromkeys(("state", "queues", "done", "stalls", "heartbeat", "block", "beat", "fetched"), "x")
    await broker.renew([app.keys.queue("email")], "host:7:ab", 30, orjson.dumps({**odd, "pid": True, "state": 7}))
    (status,) = await admin.workers()
    assert (status.state, status.serves, status.done, status.beat_age_s, status.pid) == (None,) * 5


async def test_a_real_worker_says_all_of_it(app, admin):
    async with app.worker(concurrency=3) as worker:
        async with asyncio.timeout(5):
            while (status := (await admin.workers())[0]).beat_age_s is None:
                pass
        assert (status.id, status.state, status.serves, status.concurrency) == (worker.id, "running", ("default",), 3)
        assert (status.running, status.held, status.done, status.stalls) == (0, 0, 0, 0)
        assert (status.heartbeat_s, status.block_s) == (5.0, 4.0)
        assert 0 <= status.fetched_age_s < 30
