"""A checkup as a whole: beside a working fleet, of what is away, and of what somebody else has put there."""

import asyncio

import pytest

from rqueue import RQueue
from rqueue.client.checkup import doctor
from rqueue.client.checkup.doctor import Doctor
from rqueue.client.checkup.finding import CHECKS, Finding, Level
from rqueue.errors import BrokerError, BrokerUnavailable


async def test_no_false_alarm_beside_a_working_fleet(url):
    """Jobs that start, end, fail, are retried, scheduled, unique and cancelled, by workers that come and go.

    Breaks when one look is believed: then a job on its way is lost, and a lock that was just left is a finding.
    """
    app = RQueue(url, queues=["a", "b"])

    @app.task(queue="a", max_retries=3, retry_backoff=False, default_retry_delay=0.01)
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        if number % 7 == 0:
            raise ValueError(number)
        return number

    @app.task(queue="b", acks_late=False)
    async def early() -> None:
        await asyncio.sleep(0)

    async def produce() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            jobs = [await work.enqueue(number + each) for each in range(10)]
            await early.enqueue()
            await work.options(countdown=0.02, priority=8).enqueue(1)
            await jobs[-1].cancel()
            await asyncio.sleep(0)

    enough, found = asyncio.Event(), []
    async with app, app.worker(concurrency=8), app.worker(["a"], concurrency=2):
        producing = asyncio.create_task(produce())
        for _ in range(2):
            found += await Doctor(app, heartbeat_s=0.05).examine()
        enough.set()
        await producing
    server = {"persistence", "latency", "memory"}
    alarms = [each for each in found if each.level >= Level.WARNING and each.check not in server]
    assert alarms == []
    assert {each.check for each in found if each.level == Level.NOTE} <= {"dead letters", "latency"}


async def test_every_check_has_its_line(app):
    found = await Doctor(app).examine()
    assert {check.name for check in CHECKS} == {each.check for each in found}


async def test_a_healthy_app_is_looked_at_once(app, call):
    """No doubt, no wait: the heartbeat given here would outlast the test."""
    app.task(name="t")(lambda: None)
    async with app.worker():
        await Doctor(app, heartbeat_s=1000).examine()


async def test_the_second_look_waits_for_the_heartbeat_of_whom_it_doubts(app, call, monkeypatch):
    waits = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("rqueue.client.checkup.doctor.asyncio.sleep", note)
    keys = app.keys.queue("email")
    await call(b"ZADD", keys.workers, 1, "slow")
    await call(b"SET", keys.card("slow"), b'{"heartbeat":20}')
    await Doctor(app).examine()
    await call(b"DEL", keys.card("slow"))
    await Doctor(app).examine()
    assert [each for each in waits if each] == [20, 5.0]


async def test_a_worker_that_beats_again_is_not_lost(app, call, checkup, monkeypatch):
    """It was frozen for longer than its lease, and goes on between the two looks."""
    keys = app.keys.queue("email")
    await call(b"ZADD", keys.workers, 1, "w")
    await call(b"LPUSH", keys.processing("w"), b'1 - 0 0 0 a {"task":"t"}')

    async def thaw(_: float) -> None:
        monkeypatch.undo()
        await call(b"ZADD", keys.workers, 10**15, "w")

    monkeypatch.setattr("rqueue.client.checkup.doctor.asyncio.sleep", thaw)
    assert await checkup() == []


async def test_a_checkup_stores_nothing(app, call, state):
    keys = app.keys.queue("email")
    await call(b"LPUSH", keys.processing("ghost"), b'1 - 0 0 0 a {"task":"t"}')
    await call(b"HSET", keys.unique, "l", "x")
    await call(b"HSET", keys.sent("p"), "0", "1 1")
    before = await state()
    await Doctor(app, heartbeat_s=0.01).examine()
    assert await state() == before


async def test_a_long_queue_is_not_read(redis_url):
    """Breaks when a check reads what waits, and a backlog of a million jobs is carried over the network."""
    async with RQueue(redis_url) as app:
        call, keys = app.session().broker._link.call, app.keys.queue("email")
        many = range(20_000)
        await call(b"LPUSH", keys.main, *(f'1 - 0 0 0 {number} {{"task":"t"}}' for number in many))
        await call(b"SADD", keys.jobs, *many)
        await call(b"ZADD", keys.scheduled, *(part for number in many for part in (10**13, f"s{number}")))
        await call(b"HSET", keys.messages, *(part for number in many for part in (f"s{number}", '{"task":"t"}')))
        await call(b"HSET", keys.unique, *(part for number in many for part in (f"l{number}", number)))
        before = int((await app.session().broker.info())["total_net_output_bytes"])
        await Doctor(app, heartbeat_s=0.01).examine()
        after = int((await app.session().broker.info())["total_net_output_bytes"])
    assert after - before < 250_000


async def test_what_nobody_expects(app, call, checkup):
    """Bytes that are no names, ids, numbers or types, in every key that is read: findings, and never a traceback."""
    keys = app.keys.queue("email")
    await call(b"SADD", app.keys.queues, "email", b"\xff", "a b")
    await call(b"HSET", app.keys.paused, b"\xff", "no number")
    for name in (keys.jobs, keys.started("w")):
        await call(b"SADD", name, b"\xff")
    for name in (keys.scheduled, keys.stops, keys.dead, keys.periodic, keys.workers):
        await call(b"ZADD", name, 1.5, b"\xff", 0, b"job:\xfe")
    for name in (keys.messages, keys.unique, keys.letters, keys.counts, keys.entries):
        await call(b"HSET", name, b"\xff", b"\xff")
    await call(b"LPUSH", keys.processing("\udcfd"), b"\xff")
    found = await checkup()
    assert [each.where for each in found if each.level is Level.PROBLEM][:1] == ["rqueue:queues"]
    await call(b"DEL", app.keys.paused, keys.counts)
    found = await checkup()
    assert {"orphans", "lost workers", "lost jobs"} <= {each.check for each in found}
    assert all((each.text + each.where + each.advice).isprintable() for each in found)


@pytest.mark.parametrize("name", ["rqueue:queues", "rqueue:paused"])
async def test_a_key_of_the_namespace_that_is_none(name, call, checkup):
    await call(b"LPUSH", name, "x")
    found = [each for each in await checkup() if each.level is Level.PROBLEM]
    assert [(each.check, each.where) for each in found] == [("keyspace", name)]


async def test_where_scan_is_refused(app, checkup, monkeypatch):
    async def refuse(*_: object) -> None:
        raise BrokerError("this user may not")

    monkeypatch.setattr("rqueue.client.checkup.doctor.take_census", refuse)
    (finding,) = await checkup()
    assert (finding.check, finding.level) == ("keyspace", Level.NOTE)
    assert finding.text.endswith("are not seen: this user may not")


async def test_redis_is_away(new_server):
    server = new_server()
    async with RQueue(server.url) as app:
        await app.doctor()
        server.stop()
        with pytest.raises(BrokerUnavailable):
            await app.doctor()


async def test_the_apps_own_words(app, call):
    """By ``app.doctor()``: what is found, and with ``fix`` what was done about it."""
    await call(b"HSET", app.keys.queue("email").sent("p"), "0", "1 1")

    def of_keys(findings: list[Finding]) -> list[tuple[str, str]]:
        return [(each.check, each.fixed) for each in findings if each.check == "expiry"]

    Doctor.__init__.__defaults__, before = (0.01,), Doctor.__init__.__defaults__
    try:
        assert of_keys(await app.doctor()) == [("expiry", "")]
        assert of_keys(await app.doctor(fix=True)) == [("expiry", "1 will be gone in a day")]
        assert of_keys(await app.doctor()) == [("expiry", "")]
    finally:
        Doctor.__init__.__defaults__ = before


async def test_of_a_cluster_the_part_that_is_there_is_looked_at(app, call, monkeypatch):
    """And without a cluster nothing is guessed: Redis is away."""
    broker, whole = type(app.session().broker), doctor.look_at

    async def away(*_, **__):
        raise BrokerUnavailable("a node is gone")

    async def look_at(broker, keys, *rest, **options):
        return await (away() if keys.name == "away" else whole(broker, keys, *rest, **options))

    await call(b"SADD", app.keys.queues, "email", "away")
    await call(b"LPUSH", app.keys.queue("email").main, b'1 - 0 0 0 a {"task":"t"}')
    monkeypatch.setattr(doctor, "look_at", look_at)
    monkeypatch.setattr(doctor, "take_census", away)
    with pytest.raises(BrokerUnavailable):
        await Doctor(app, heartbeat_s=0.01).examine()
    monkeypatch.setattr(broker, "is_cluster", True)
    found = {(each.check, each.where, each.level) for each in await Doctor(app, heartbeat_s=0.01).examine()}
    assert {("topology", each, Level.PROBLEM) for each in ("", "away")} < found
    assert ("unserved", "email", Level.PROBLEM) in found
    monkeypatch.setattr(broker, "queue_names", away)
    assert "the list of queues" in str(await Doctor(app, heartbeat_s=0.01).examine())
