"""Whatever stands in whatever key: the good jobs around it run, the worker goes on, and every read says something.

A real worker in this process, on a real server and in memory. What is a message's place and holds none becomes a dead
letter or is put off; what cannot be used elsewhere is passed over, or named in the log or in the reader's error.
"""

import asyncio
import logging
from contextlib import suppress

import orjson
import pytest
from hypothesis import strategies as st

from rqueue import RQueue
from rqueue.client.admin import Admin
from rqueue.client.inspector import Inspector
from rqueue.errors import JobNotFound, RQueueError
from rqueue.wire.keys import LEVELS, MAIN
from rqueue.wire.message import Header
from rqueue.wire.periodic import Entry

from .junk import IS_LONG, fuzz, junk, messages

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of a long example

PATIENCE_S = 15.0

ids = st.sampled_from((b"x", b"\xff", b"", b"-", b"a b", b"job:x", b"y" * 200)) | junk().map(lambda raw: raw[:300])
scores = st.sampled_from((b"0", b"1", b"-1", b"1.5", b"inf", b"-inf", b"1e300", b"-1e300", b"253402300800000", b"1e17"))


def zset_and_hash(kind, zset, hash_):
    """A zset's member and its value in the hash beside it, or only one of the two."""
    return st.tuples(st.sampled_from("zhbbb"), scores, ids, kind).map(
        lambda drawn: [
            *([(b"ZADD", zset, drawn[1], drawn[2])] if drawn[0] in "zb" else []),
            *([(b"HSET", hash_, drawn[2], drawn[3])] if drawn[0] in "hb" else []),
        ]
    )


def places(keys, everywhere):
    """What may be found, by the name of its place: a list of commands."""

    def one(command, *parts):
        return st.tuples(*parts).map(lambda drawn: [(*command, *drawn)])

    def under(kind, prefix, command):
        return st.tuples(ids, kind).map(lambda drawn: [(command[0], prefix + drawn[0], *command[1:], drawn[1])])

    return {
        "waiting": st.tuples(st.sampled_from((MAIN, *LEVELS)), messages).map(
            lambda drawn: [(b"LPUSH", keys.lists[drawn[0]], drawn[1])]
        ),
        "processing": st.tuples(ids, scores, messages, ids).map(
            lambda drawn: [
                (b"LPUSH", keys.processing("") + drawn[0], drawn[2]),
                (b"SADD", keys.started("") + drawn[0], drawn[3]),
                (b"ZADD", keys.workers, drawn[1], drawn[0]),
            ]
        ),
        "orphans": under(messages, keys.processing(""), (b"LPUSH",)),
        "scheduled": zset_and_hash(messages, keys.scheduled, keys.messages),
        "dead": zset_and_hash(junk("letter"), keys.dead, keys.letters),
        "stops": one((b"ZADD", keys.stops, b"0"), ids.map(lambda name: b"job:" + name) | ids | junk()),
        "pauses": one((b"ZADD", keys.stops, b"0"), ids.map(lambda name: b"task:" + name)),
        "counts": one((b"HSET", keys.counts), ids | st.sampled_from((b"SUCCESS", b"FAILURE")), junk()),
        "unique": one((b"HSET", keys.unique), ids, junk()),
        "periodic": zset_and_hash(junk("schedule"), keys.periodic, keys.entries),
        "cards": under(junk(), keys.card(""), (b"SET",)),
        "results": under(junk("record"), keys.result(""), (b"SET",)),
        "sent": under(junk(), keys.sent(""), (b"HSET", b"0")),
        "jobs": one((b"SADD", keys.jobs), ids),
        "queues": one((b"SADD", everywhere.queues), ids | junk()),
        "paused": one((b"HSET", everywhere.paused), ids | st.sampled_from((b"queue:other ", b"task:x")), junk()),
        "control": one((b"PUBLISH", everywhere.control), junk()),
    }


KEYS = RQueue("memory://").keys
PLACES = places(KEYS.queue("default"), KEYS)

QUEUE = KEYS.queue("default")
ENTRY = b'{"v":1,"task":"good","args":["more"],"due":1,"every":86400000,"misfire":"once"%b}'
ONCE_HARMFUL = [
    [(b"ZADD", QUEUE.scheduled, b"1", b"y"), (b"HSET", QUEUE.messages, b"y", b'1 11 0 0 0 y {"task":"good"}')],
    [(b"ZADD", QUEUE.scheduled, b"inf", b"\xff")],
    [(b"SADD", KEYS.queues, b"\xff", b"a b", b"")],
    [(b"HSET", QUEUE.counts, b"SUCCESS", b"many"), (b"HSET", QUEUE.counts, b"\xff", b"1" * 5000)],
    [(b"HSET", KEYS.paused, b"what", b"ever"), (b"HSET", KEYS.paused, b"task:other", b"soon")],
    [(b"ZADD", QUEUE.stops, b"0", b"job:\xff")],
    [(b"ZADD", QUEUE.dead, b"-inf", b"\xff")],
    [(b"SADD", QUEUE.started("w"), b"x", b"\xff"), (b"ZADD", QUEUE.workers, b"1", b"w")],
    [(b"SADD", QUEUE.started("") + b"\xff", b"x"), (b"ZADD", QUEUE.workers, b"1", b"\xff")],
    [(b"ZADD", QUEUE.periodic, b"-inf", b"\xff"), (b"HSET", QUEUE.entries, b"\xff", ENTRY % b"")],
    [(b"ZADD", QUEUE.periodic, b"1", b"e"), (b"HSET", QUEUE.entries, b"e", ENTRY % b',"expires":1e308')],
    [(b"ZADD", QUEUE.periodic, b"1", b"l"), (b"HSET", QUEUE.entries, b"l", ENTRY % b',"last":999999999999999')],
    [(b"SET", QUEUE.result("x"), b'{"state":"FAILURE","enqueued":"now","retries":"2","error":"no","history":{}}')],
    [(b"SET", QUEUE.result("-"), b'{"state":"RETRY","moved":"a b"}')],
    [(b"PUBLISH", KEYS.control, b'{"v":2,"id":"i","to":true}')],
    [(b"PUBLISH", KEYS.control, b'{"v":1,"id":"i","verb":"pool_grow","args":{"n":18446744073709551615}}')],
    [(b"PUBLISH", KEYS.control, b'{"v":1,"id":"i","verb":"time_limit","args":{"task":"good","soft":1e300}}')],
    [(b"LPUSH", QUEUE.main, b'{"task":"good","args":["more"],"time_limit":1e300,"soft_time_limit":1e308}')],
    [(b"LPUSH", QUEUE.main, b'{"task":"good","args":["more"],"enqueued":-1,"expires":18446744073709551615}')],
]
"""What has broken something before: a worker's loop, a reader, or a neighbour."""


class House:
    """An app with good jobs everywhere, and what was done of them."""

    def __init__(self, url):
        self.is_memory = url.startswith("memory")
        self.app = RQueue(url, queues=["default", "other"])
        self.done = set()
        self.wanted = set()
        self.queues = {}
        self.changed = asyncio.Event()

        @self.app.task(name="good")
        async def good(number):
            self.done.add(number)
            self.changed.set()

        self.good = good
        self.call = self.app.session().broker._link.call

    async def push(self, level, queue="default"):
        number = len(self.wanted)
        self.wanted.add(number)
        self.queues[number] = queue
        await self.call(b"LPUSH", KEYS.queue(queue).lists[level], self.message(number, level))

    def message(self, number, level=MAIN):
        return Header(level, id=f"good-{number}").encode() + b'{"task":"good","args":[%d]}' % number

    async def leave_behind(self):
        """A good job in a dead worker's list, among what is none."""
        keys, number = KEYS.queue("default"), len(self.wanted)
        self.wanted.add(number)
        await self.call(b"LPUSH", keys.processing("dead"), b"what", self.message(number), b"{}")
        await self.call(b"ZADD", keys.workers, b"1", b"dead")

    async def schedule(self):
        """A good job that is due, and a good schedule."""
        keys, number = KEYS.queue("default"), len(self.wanted)
        self.wanted |= {number, "tick"}
        await self.call(b"ZADD", keys.scheduled, b"2", b"good-%d" % number)
        await self.call(b"HSET", keys.messages, b"good-%d" % number, self.message(number))
        entry = Entry("good", 3, args=("tick",), every=86_400_000, misfire="once")
        await self.call(b"ZADD", keys.periodic, b"3", b"good")
        await self.call(b"HSET", keys.entries, b"good", entry.encode())

    async def all_done(self, queue=None):
        wanted = {number for number in self.wanted if queue is None or self.queues.get(number) == queue}
        async with asyncio.timeout(PATIENCE_S):
            while not wanted <= self.done:
                self.changed.clear()
                await self.changed.wait()

    async def rests(self, *, is_empty=True):
        """Nothing waits, where all is well, and its worker asks for little: it does not spin over what is none."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                waiting = (await self.app.session().broker.sizes(KEYS.queue("default"))).waiting if is_empty else ()
                before = await self.commands()
                await asyncio.sleep(0 if self.is_memory else 0.05)
                if not any(waiting) and await self.commands() - before < 40:
                    return

    async def commands(self):
        if self.is_memory:
            return 0
        text = bytes(await self.call(b"INFO", b"stats")).decode()
        return int(text.partition("total_commands_processed:")[2].split()[0])


async def live(url, found, log):
    """A worker's life with all that in its way, step by step, so that whatever fails says where."""
    house = House(url)
    call = house.call
    await call(b"FLUSHALL")
    commands = [command for each in found for command in each]
    for command in commands:
        await call(*command)
        await house.push(MAIN)
    for level in LEVELS:
        await house.push(level)
    await house.push(2, "other")
    await house.leave_behind()
    await house.schedule()
    async with house.app, house.app.worker() as worker:
        async with asyncio.timeout(PATIENCE_S):
            await worker._control.listening.wait()  # else nobody hears what is said on the channel
        for command in commands:
            if command[0] == b"PUBLISH":
                assert await call(*command) >= 1
        for _ in range(2):
            await worker._reaper.tick()
        worker._reaper._looks = 11  # the next one looks for what is old
        await worker._reaper.tick()
        await worker._promoter.tick()
        await worker._ticker.tick()
        await house.push(MAIN, "third")
        await worker._fetcher.serve(KEYS.queue("third"))
        await house.all_done()
        assert orjson.loads(worker._card())["pid"]
        await read_all(house.app)
        answers = (await Inspector(house.app).ask("scheduled", to=[worker.id], timeout=5)).answers
        assert [answer.error for answer in answers if answer.worker == worker.id] == [None]
        await house.push(MAIN)
        await house.all_done()
        await house.rests()
        await Admin(house.app).dead_retry(queue="default")
        await house.rests()
        for number in range(3):
            assert await house.app.job(f"good-{number}", "default").result(5) is None
    assert log.of("lease lost") == []
    assert [line for line in log.lines if line[0] >= logging.CRITICAL] == []


async def read_all(app):
    """Every read gives something, or one of rqueue's errors."""
    admin = Admin(app)
    reads = [
        admin.queues(), admin.workers(), admin.dead(), admin.dead(older_than=1.0, error="x"), admin.dead_letter("x"),
        app.schedules.list(), app.schedules.get("x"), app.schedules.get("good"), app.paused(),
        app.cancel(task="good", dry_run=True),
    ]  # fmt: skip
    for name in ("x", "-", "job:x", "good-0", "y" * 200, "nobody"):
        reads += [app.job(name).info(), app.job(name).result(0.05), app.job(name, "default").result(0), last(app, name)]
    answers = await asyncio.gather(*reads, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, RQueueError):
            raise answer


async def last(app, name):
    return [event async for event in app.job(name).events(timeout=0.05)]


@pytest.fixture
def brisk(monkeypatch):
    """What waits for seconds elsewhere does not here."""
    monkeypatch.setattr("rqueue.worker.inflight.QUESTION_S", 0.01)
    monkeypatch.setattr("rqueue.worker.settler._REFUSED_PAUSE_S", 0.05)
    monkeypatch.setattr("rqueue.worker.promoter._PAUSE_S", 0.05)


@pytest.mark.timeout(7200 if IS_LONG else 60)
@pytest.mark.parametrize("examples", [pytest.param(10, id="redis"), pytest.param(3, id="memory")])
def test_whatever_is_found_the_good_jobs_run_and_the_worker_rests(request, log, brisk, examples):
    url = request.getfixturevalue("redis_url") if examples == 10 else "memory://fuzz"
    asyncio.run(live(url, ONCE_HARMFUL, log))

    @fuzz(examples, found=st.lists(st.one_of(*PLACES.values()), min_size=4, max_size=25))
    def run(found):
        log.lines.clear()
        asyncio.run(live(url, found, log))

    run()


GIVEN = ("main", "p1", "p7", "jobs", "scheduled", "messages", "stops", "dead", "letters", "counts", "unique",
         "periodic", "entries", "workers", "queues", "paused")  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
async def test_a_key_of_another_kind_stops_no_other_queue_and_loses_nothing(redis_url, log, brisk, name):
    """Its own queue may stand still until somebody has mended it; then all that is there runs."""
    house = House(redis_url)
    keys = KEYS.queue("default")
    key = {"p1": keys.lists[1], "p7": keys.lists[7]}.get(name) or getattr(keys, name, None) or getattr(KEYS, name)

    @house.app.task(name="fails", max_retries=0)
    async def fails():
        raise ValueError("always")

    @house.app.task(name="retries", max_retries=1, default_retry_delay=0, bind=True)
    async def retries(self):
        if not self.request.retries:
            self.retry()

    async with house.app, house.app.worker(lease=3) as worker:
        await house.push(MAIN)
        await house.all_done()
        await house.call(b"DEL", key)
        await house.call(b"SET", key, b"somebody's")
        own = {task: b'1 - 0 0 0 %s {"task":"%s"}' % (task, task) for task in (b"fails", b"retries")}
        if name != "main":
            await house.call(b"LPUSH", keys.main, *own.values())
            await house.push(MAIN)
        for _ in range(3):
            if name not in ("workers", "jobs"):  # without these nobody knows whose a job is
                await house.push(MAIN, "other")
                await house.push(4, "other")
        await house.all_done("other")
        await read_all(house.app)
        await house.rests(is_empty=False)
        for part in (worker._reaper, worker._promoter, worker._ticker):
            with suppress(RQueueError):
                await part.tick()
        await house.call(b"DEL", key)
        worker._fetcher.poke()
        await house.push(MAIN)
        await house.all_done()
        async with asyncio.timeout(PATIENCE_S):
            while name != "main" and not await ended(house.app):
                for worker._reaper._looks in (5, 11):  # the next one looks for lists without a worker, or announces
                    await worker._reaper.tick()


async def ended(app):
    """One is a dead letter, the other has been retried: or is one, where its retry could not be stored."""
    left = [each.letter.id for each in await Admin(app).dead()]
    with suppress(JobNotFound):
        state = (await app.job("retries", "default").info()).state
        return "fails" in left and ("retries" in left or state == "SUCCESS")
    return False
