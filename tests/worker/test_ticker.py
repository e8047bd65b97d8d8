"""ticker: each tick is enqueued once, whoever looks, whose clock is wrong and who dies."""

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rqueue import ScheduleNotFound, cron, every
from rqueue.broker.broker import Broker
from rqueue.errors import BrokerFull, BrokerUnavailable
from rqueue.policy.clock import RedisClock, local_ms
from rqueue.testing import moving_clock, working
from rqueue.wire.message import Call, Message
from rqueue.wire.periodic import Entry
from rqueue.worker.lease import Lease
from rqueue.worker.ticker import Ticker


class Killed(BaseException):
    """A worker process ends here."""


@pytest.fixture
def beat(app):
    """A task, to be declared."""

    @app.task(name="beat")
    async def beat(value: object = None) -> object:
        return value

    return beat


@pytest.fixture
async def clock(app):
    async with app, moving_clock(app) as clock:
        yield clock


@pytest.fixture
async def new_ticker(app):
    """A worker's ticker with a broker of its own, on a machine whose clock is so wrong."""
    brokers = []

    async def make(skew_s=0, of=None):
        client = of or app
        broker = Broker(client.endpoint, client.keys)
        broker.clock = RedisClock(lambda: local_ms() + skew_s * 1000)
        brokers.append(broker)
        await broker.open()
        return Ticker(broker, client, [client.keys.queue("default")], Lease(15), 5)

    yield make
    for broker in brokers:
        await broker.close()


@pytest.fixture
def waiting(app, call):
    """The ids of all jobs that were enqueued, the first first."""

    async def read():
        keys = app.keys.queue("default")
        return [Message.parse(raw).header.id for raw in reversed(await call("LRANGE", keys.main, 0, -1))]

    return read


def dies(ticker, when):
    """The process ends before its next script, or right after it."""
    real = ticker._broker.tick

    async def tick(keys, step):
        ticker._broker.tick = real
        if when == "after":
            await real(keys, step)
        raise Killed

    ticker._broker.tick = tick


async def look(tickers):
    """All look at once; one of them may die."""
    for outcome in await asyncio.gather(*(each.tick() for each in tickers), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Killed):
            raise outcome


def at(text, tz, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).astimezone(UTC)


# (zone, moment on a tick, which schedules tick then): both changes of 2026 in three zones, from January on.
CHANGES = [
    ("America/New_York", at("2026-03-08T03:00", "America/New_York"), "fixed each"),  # 2:30 does not exist
    ("Europe/Berlin", at("2026-03-29T03:00", "Europe/Berlin"), "fixed each"),
    ("Europe/Berlin", at("2026-03-30T02:30", "Europe/Berlin"), "fixed each"),
    ("Australia/Sydney", at("2026-04-05T02:30", "Australia/Sydney"), "fixed each"),  # the first of two
    ("Australia/Sydney", at("2026-04-05T02:30", "Australia/Sydney", 1), "each"),
    ("Australia/Sydney", at("2026-10-04T03:00", "Australia/Sydney"), "fixed each"),
    ("Europe/Berlin", at("2026-10-25T02:30", "Europe/Berlin"), "fixed each"),
    ("Europe/Berlin", at("2026-10-25T02:30", "Europe/Berlin", 1), "each"),
    ("America/New_York", at("2026-11-01T01:30", "America/New_York"), "early each"),
    ("America/New_York", at("2026-11-01T01:30", "America/New_York", 1), "each"),
]
FIXED = {"fixed": "30 2 * * *", "early": "30 1 * * *", "each": "*/30 * * * *"}


def expected_ids():
    """What ticks at those moments: nothing else is on time."""
    found = []
    for zone, moment, kinds in CHANGES:
        ms = round(moment.timestamp() * 1000)
        for kind in FIXED:
            zones = sorted({each for each, _, _ in CHANGES}) if kind == "each" else [zone]
            found += [f"{kind}/{each}@{ms}" for each in zones if kind in kinds.split()]
    return sorted(found)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_five_workers_wrong_clocks_a_death_at_each_tick_and_both_changes_in_three_zones(
    app, beat, clock, new_ticker, waiting, when
):
    """Every tick is enqueued exactly once. Breaks when the script does not compare what was read, when the next due
    time is computed from the local clock, or when what a dead worker has done is done again.
    """
    await clock.move_to(datetime(2026, 1, 1, tzinfo=UTC))
    for zone in {each for each, _, _ in CHANGES}:
        for kind, text in FIXED.items():
            app.add_periodic(cron(text, tz=zone), beat, name=f"{kind}/{zone}")
    tickers = [await new_ticker(minutes * 60) for minutes in (-7, -2, 0, 3, 11)]
    await look(tickers)
    assert await waiting() == []
    for number, (_, moment, _) in enumerate(CHANGES):
        await clock.move_to(moment + timedelta(seconds=1))
        dies(tickers[number % 5], when)
        await look(tickers)
        tickers[number % 5] = await new_ticker(number * 60 - 300)
        await look(tickers)
        await look(tickers)  # what a dead worker had begun to look at
    assert sorted(await waiting()) == expected_ids()


@pytest.mark.parametrize(
    ("misfire", "late_s", "ticks"),
    [("skip", 119, [1]), ("skip", 59, [0]), ("once", 3599, [59]), ("all", 130 * 60, list(range(131)))],
)
async def test_what_was_missed_while_nobody_ran(app, beat, clock, new_ticker, waiting, misfire, late_s, ticks):
    """Skipped, run once, or caught up, a hundred in one step."""
    app.add_periodic(every(minutes=1), beat, misfire=misfire)
    ticker = await new_ticker()
    await ticker.tick()
    due = (await app.schedules.get("beat")).due
    await clock.move_to(due + timedelta(seconds=late_s))
    later = await new_ticker()
    while await later.tick():
        pass
    assert await waiting() == [f"beat@{round((due + timedelta(minutes=n)).timestamp() * 1000)}" for n in ticks]


async def test_a_job_carries_the_schedules_arguments_and_the_tasks_options(app, clock, new_ticker, call):
    @app.task(name="mail", queue="default", priority=7, expires=90)
    async def mail(to: str, *, copy: bytes) -> None: ...

    app.add_periodic(every(seconds=10), mail, args=["ann"], kwargs={"copy": b"\xff"}, name="m")
    ticker = await new_ticker()
    await ticker.tick()
    await clock.move(10)
    assert await ticker.tick() == 1
    (raw,) = await call("LRANGE", app.keys.queue("default").lists[7], 0, -1)
    sent = Call.decode(Message.parse(raw).body)
    assert (sent.task, sent.args, sent.kwargs) == ("mail", ["ann"], {"copy": b"\xff"})
    assert sent.expires - sent.enqueued == 90_000


# Overlap


async def run_of(app, beat, clock, new_ticker, overlap):
    app.add_periodic(every(seconds=10), beat, overlap=overlap)
    ticker = await new_ticker()
    await ticker.tick()
    first = round((await app.schedules.get("beat")).due.timestamp() * 1000)
    for _ in range(3):
        await clock.move(10)
        await ticker.tick()
    return ticker, [f"beat@{first + 10_000 * number}" for number in range(4)]


async def test_overlap_allow(app, beat, clock, new_ticker, waiting):
    _, ids = await run_of(app, beat, clock, new_ticker, "allow")
    assert await waiting() == ids[:3]


async def test_overlap_skip(app, beat, clock, new_ticker, waiting, call, log):
    ticker, ids = await run_of(app, beat, clock, new_ticker, "skip")
    assert await waiting() == ids[:1]
    assert len(log.of("periodic tick held: the last job is alive", schedule="beat")) == 2
    await call("SREM", app.keys.queue("default").jobs, ids[0])  # it has ended
    await clock.move(10)
    await ticker.tick()
    assert await waiting() == [ids[0], ids[3]]


async def test_overlap_queue(app, beat, clock, new_ticker, waiting, call):
    """One after the other, each once, whoever looks."""
    ticker, ids = await run_of(app, beat, clock, new_ticker, "queue")
    other = await new_ticker(600)
    assert await waiting() == ids[:1]
    assert (await app.schedules.get("beat")).pending == 2
    for count in (2, 3, 3):
        assert await ticker.tick() == 0
        assert (0 < ticker.left_s <= 1) is (count == 2 or len(await waiting()) < 3)
        await call("DEL", app.keys.queue("default").jobs)
        await clock.move(1.1)
        await look([ticker, other])
        await look([ticker, other])
        assert await waiting() == ids[:count]
    assert (await app.schedules.get("beat")).pending == 0


async def test_a_worker_runs_them_one_after_the_other(app, beat, clock):
    """The whole way, with a real worker: nothing is enqueued while the one before runs."""
    app.add_periodic(every(seconds=10), beat, overlap="queue", args=[5])
    async with working(app):
        while not await app.schedules.list():
            await asyncio.sleep(0)
        for _ in range(3):
            last = (await app.schedules.get("beat")).last_id
            await clock.move(10)
            async with asyncio.timeout(5):
                while (found := await app.schedules.get("beat")).last_id == last:
                    await asyncio.sleep(0)
            assert await app.job(found.last_id, "default").result(5) == 5


# What the code declares


async def test_declarations_are_stored_once_and_survive_restarts(app, beat, clock, new_ticker):
    app.add_periodic(every(minutes=1), beat)
    await look([await new_ticker() for _ in range(5)])
    (stored,) = await app.schedules.list()
    await clock.move(20)
    await (await new_ticker()).tick()
    assert await app.schedules.list() == [stored], "its next tick is where it was"


async def test_edits_and_pauses_survive_a_restart_and_new_code_wins_over_edits(app, url, beat, clock, new_ticker):
    app.add_periodic(every(minutes=1), beat)
    await (await new_ticker()).tick()
    await app.schedules.edit("beat", schedule=every(minutes=7), args=["x"])
    await app.schedules.pause("beat")
    await (await new_ticker()).tick()
    found = await app.schedules.get("beat")
    assert (found.schedule, found.args, found.is_paused) == (every(minutes=7), ("x",), True)
    app.schedules.declared.clear()
    app.add_periodic(every(minutes=2), beat)
    await (await new_ticker()).tick()
    found = await app.schedules.get("beat")
    assert (found.schedule, found.args, found.is_paused) == (every(minutes=2), (), True)


async def test_what_the_code_no_longer_declares_goes_and_what_is_anothers_stays(app, beat, clock, new_ticker, waiting):
    """At a worker's start, and at its next tick where an older worker runs."""
    app.add_periodic(every(minutes=1), beat, name="gone")
    old = await new_ticker()
    await old.tick()
    await app.schedules.add(every(minutes=1), beat, name="added")
    keys, stranger = app.keys.queue("default"), Entry("not.ours", due=1 << 45, every=1000, source="code")
    await old._broker.plan(keys, "stranger", b"", stranger.encode(), stranger.due)
    app.schedules.declared.clear()
    await clock.move(60)
    await old.tick()
    assert {each.name for each in await app.schedules.list()} == {"added", "stranger"}
    assert [each.partition("@")[0] for each in await waiting()] == ["added"]
    app.add_periodic(every(minutes=1), beat, name="late")
    await (await new_ticker()).tick()
    app.schedules.declared.clear()
    await (await new_ticker()).tick()
    with pytest.raises(ScheduleNotFound):
        await app.schedules.get("late")


# The service


async def test_an_edit_is_told_to_the_workers(app, beat, clock, until):
    """Breaks when they look at their heartbeats alone: the job would come within 20 s."""
    async with app.worker(lease=60, shutdown_timeout=1):
        await app.schedules.add(every(hours=1), beat, name="s")
        await app.schedules.edit("s", schedule=every(seconds=1))
        await app.session().broker.add_to_clock(1000)
        await app.schedules.edit("s", args=["x"])

        async def last():
            return (await app.schedules.get("s")).last

        assert await until(last)


async def test_a_queue_without_schedules_costs_one_command_a_look(new_ticker, app):
    ticker = await new_ticker()
    await ticker.tick()
    sent = []
    real = ticker._broker._link.call
    ticker._broker._link.call = lambda *command: sent.append(command[0]) or real(*command)
    assert await ticker.tick() == 0
    assert sent == [b"ZRANGE"]
    assert ticker.left_s == float("inf")


async def test_what_cannot_be_read_stops_nobody_and_is_said_once(app, beat, clock, new_ticker, waiting, call, log):
    keys = app.keys.queue("default")
    await app.schedules.add(every(seconds=10), beat)
    for name, entry in {"junk": b"junk", "zone": Entry("beat", 1, cron="@daily", tz="Mars/Base").encode()}.items():
        await call("ZADD", keys.periodic, 1, name)
        await call("HSET", keys.entries, name, entry)
    await call("ZADD", keys.periodic, 1, "half")
    ticker = await new_ticker()
    await clock.move(10)
    assert await ticker.tick() == 1
    assert await ticker.tick() == 0
    assert ticker.left_s == 1, "it does not spin"
    assert sorted(each["schedule"] for each in log.of("periodic schedule not readable")) == ["junk", "zone"]
    assert await call("ZSCORE", keys.periodic, "half") is None


async def test_a_list_that_is_none_keeps_no_other_schedule_waiting(app, beat, clock, new_ticker, waiting, call, log):
    """Breaks when the first refusal ends the look: what is due later would wait for ever."""
    await app.schedules.add(every(seconds=10), beat, name="bad", priority=5)
    await app.schedules.add(every(seconds=11), beat, name="good")
    keys = app.keys.queue("default")
    await call("SET", keys.lists[5], "somebody's")
    ticker = await new_ticker()
    await clock.move(12)
    assert await ticker.tick() == 1
    assert ticker.left_s == 1
    assert [each.partition("@")[0] for each in await waiting()] == ["good"]
    assert log.of("redis refused a tick", schedule="bad")
    await call("DEL", keys.lists[5])
    assert await ticker.tick() == 1


async def test_an_emptied_redis_gets_the_codes_schedules_again(app, beat, clock, new_ticker, call):
    """The worker's id is new then. Breaks when they are stored once in a process's life."""
    app.add_periodic(every(minutes=1), beat)
    ticker = await new_ticker()
    await ticker.tick()
    await call("DEL", app.keys.queue("default").periodic, app.keys.queue("default").entries)
    await ticker.tick()
    assert await app.schedules.list() == [], "removed by an operator: it comes back with the next start"
    ticker._lease.renumber()
    await ticker.tick()
    assert [each.name for each in await app.schedules.list()] == ["beat"]


async def test_redis_refuses_or_is_away_and_the_tick_comes_late(app, beat, clock, new_ticker, waiting, log):
    await app.schedules.add(every(seconds=10), beat)
    ticker = await new_ticker()
    await clock.move(10)
    real, errors = ticker._broker.tick, [BrokerFull("OOM"), BrokerUnavailable("away")]

    async def unlucky(keys, step):
        if errors:
            raise errors.pop(0)
        return await real(keys, step)

    ticker._broker.tick = unlucky
    assert await ticker.tick() == 0
    assert ticker.left_s == 1
    running = asyncio.create_task(ticker.run())
    await log.heard("periodic schedules wait for redis")
    ticker.look_now()
    async with asyncio.timeout(5):
        while not await waiting():
            await asyncio.sleep(0)
    running.cancel()
    assert len(await waiting()) == 1
    assert len(log.of("redis refused a periodic schedule")) == 1


async def test_a_lost_reply_is_no_second_tick(app, beat, clock, new_ticker, waiting):
    await app.schedules.add(every(seconds=10), beat)
    ticker = await new_ticker()
    await clock.move(10)
    real = ticker._broker.tick

    async def lost(keys, step):
        await real(keys, step)
        ticker._broker.tick = real
        raise BrokerUnavailable("the reply was lost")

    ticker._broker.tick = lost
    with pytest.raises(BrokerUnavailable):
        await ticker.tick()
    assert await ticker.tick() == 0
    assert len(await waiting()) == 1


async def test_a_tick_that_redis_takes_for_untimely_is_tried_again_later(app, beat, clock, new_ticker):
    """A node of a cluster whose clock is not that of the node which was asked. Breaks when it spins."""
    await app.schedules.add(every(seconds=10), beat)
    ticker = await new_ticker()

    async def elsewhere(*_):
        ticker._broker.clock.observe(local_ms() + 60_000)

    real, ticker._broker.sync_clock = ticker._broker.sync_clock, elsewhere
    assert await ticker.tick() == 0
    assert ticker.left_s == 1
    ticker._broker.sync_clock = real
    await clock.move(10)
    assert await ticker.tick() == 1
