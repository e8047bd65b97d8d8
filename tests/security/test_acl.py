"""Users: everything works as the users of docs/security.md, and none of them can do what only another one does."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from typer.testing import CliRunner

from rqueue import BrokerError, RQueue, every
from rqueue.cli.program import program
from rqueue.client.admin import Admin
from rqueue.client.checkup.doctor import Doctor
from rqueue.client.inspector import Inspector
from rqueue.embedded import EmbeddedServer
from rqueue.wire.message import Message
from rqueue.worker.reaper import for_operators

DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
USERS = dict(re.findall(r"<!-- acl: (\w+) -->\n```\n(.*)\n```", DOCS))


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def root(guarded: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis.from_url(guarded.url) as connection:
        connection.flushall()
        connection.acl_log_reset()
        for line in USERS.values():
            _, name, *rules = re.findall(r"\([^)]*\)|\S+", line)
            connection.execute_command("ACL", "SETUSER", name, "reset", *rules)
        yield connection


def refused(root: Any) -> list[tuple[str, str, str]]:
    """What was refused since the last look, but what the Redis client tells of itself."""
    found = [(each["username"], each["reason"], each["object"]) for each in root.acl_log()]
    root.acl_log_reset()
    return [each for each in found if each[2] != "client|setinfo"]


@pytest.fixture
def url(root: Any, guarded: EmbeddedServer) -> Any:
    return lambda user: f"redis://rqueue-{user}:PASSWORD@{urlsplit(guarded.url).netloc.rpartition('@')[2]}/0"


@pytest.fixture
async def producer(url: Any) -> AsyncIterator[RQueue]:
    async with make_app(url("producer")) as app:
        yield app


@pytest.fixture
async def worker_app(url: Any) -> AsyncIterator[RQueue]:
    async with make_app(url("worker")) as app:
        yield app


def make_app(url: str) -> RQueue:
    app = RQueue(url)

    @app.task(name="add", bind=True, max_retries=2, default_retry_delay=0, track_started=True)
    async def add(self, a, b=0, fail="", then=False):  # type: ignore[no-untyped-def]
        if b == -1:
            app.ticked.set()  # type: ignore[attr-defined]
        if then:
            await add.enqueue(a, b)
        if fail == "always" or (fail == "once" and not self.request.retries):
            self.retry(exc=ValueError(fail))
        if fail == "move" and self.request.queue == "default":
            self.retry(queue="other", countdown=0)
        await self.progress(1, 1)
        return a + b

    @app.task(name="early", acks_late=False)
    async def early():  # type: ignore[no-untyped-def]
        return "once"

    app.ticked = asyncio.Event()  # type: ignore[attr-defined]
    app.add = add  # type: ignore[attr-defined]
    app.early = early  # type: ignore[attr-defined]
    return app


async def test_the_whole_flow_of_producers_and_workers(producer, worker_app, root):
    add = producer.add
    async with producer.events() as events:
        jobs = [
            await add.enqueue(1, 2),
            await add.options(priority=9).enqueue(1, b=2),
            await add.options(countdown=0.05).enqueue(1, 2),
            await add.options(job_id="mine").enqueue(1, 2),
            await add.options(unique="until_done").enqueue(3, 0),
            await add.options(debounce=0.05).enqueue(0, 3),
            await add.options(throttle=5).enqueue(2, 1),
            await add.enqueue(1, 2, fail="once"),
            await add.enqueue(1, 2, fail="move"),
            await add.enqueue(1, 2, then=True),
            *await producer.enqueue_many([add.s(1, 2)] * 3),
        ]
        once, dead = await producer.early.enqueue(), await add.enqueue(1, fail="always")
        worker_app.add_periodic(every(seconds=1), worker_app.add, name="beat", args=[1, -1])
        async with worker_app.worker(queues=["default", "other"], concurrency=4, lease=1) as worker:
            async with asyncio.timeout(20):
                assert {await job.result() for job in jobs} == {3}
                assert await once.result() == "once"
                with pytest.raises(Exception, match="always"):
                    await dead.result()
                assert (await jobs[0].info()).result == 3
                seen = {event.job_id async for event in _until(events, jobs[0].id)}
                assert jobs[0].id in seen
                await worker_app.ticked.wait()
                await worker.drain()
        assert (await producer.add.options(job_id="mine").enqueue(2, 2)).duplicate is False
    assert refused(root) == []


async def _until(events, job_id):
    async for event in events:
        yield event
        if event.job_id == job_id and event.state.is_final:
            return


async def test_what_an_operator_does(producer, worker_app, root, url):
    async with RQueue(url("operator")) as operator:
        admin = Admin(operator)
        waiting = await producer.add.options(headers={"tenant": "acme"}).enqueue(1)
        assert [queue.waiting_total for queue in await admin.queues()] == [1]
        assert (await operator.cancel(task="add", dry_run=True)).found == 1
        assert str(await operator.job(waiting.id).cancel()) == "removed"
        for pause in ({"queue": "default"}, {"task": "add"}, {"all": True}):
            assert await operator.pause(**pause)
            assert await operator.paused()
            await operator.resume(**pause)
        await operator.schedules.add(every(minutes=1), "add", name="s", args=[1], queue="default")
        await operator.schedules.edit("s", args=[2])
        await operator.schedules.pause("s")
        assert (await operator.schedules.trigger("s")).id
        await operator.schedules.remove("s")
        assert await admin.purge("default") == 1
        dead = await producer.add.enqueue(1, fail="always")
        async with worker_app.worker() as worker:
            await worker.drain(scheduled=True)
            assert [letter.letter.id for letter in await admin.dead()] == [dead.id]
            assert await admin.dead_edit(dead.id, kwargs={}) == "edited"
            assert (await admin.dead_retry([dead.id])).waiting == (dead.id,)
            assert await dead.result(10) == 1
            replies = await Inspector(operator).ask("ping", timeout=10)
            assert [answer.worker for answer in replies.answers] == [worker.id]
            assert [each.id for each in await admin.workers()] == [worker.id]
        await admin.dead_purge()
    done = await asyncio.to_thread(CliRunner().invoke, program, ["queues", "--url", url("operator")])
    assert done.exit_code == 0
    assert refused(root) == []


async def test_the_doctor_looks_and_fixes_as_a_worker_with_what_its_page_names(worker_app, root, url):
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    told = re.search(r"An ACL for it needs `([^`]*)` beside\s+what a \[worker\]", page)
    assert told is not None
    root.execute_command("ACL", "SETUSER", "rqueue-worker", *told[1].split())
    keys, broker = worker_app.keys.queue("default"), worker_app.session().broker
    held, late = await worker_app.add.enqueue(1), await worker_app.add.options(countdown=60).enqueue(2)
    for worker in ("lost", "orphan"):
        await broker.register(keys, worker, 15)
    root.rpoplpush(keys.main, keys.processing("lost"))
    root.zadd(keys.workers, {"lost": 1})
    root.zrem(keys.workers, "orphan")
    root.lpush(keys.processing("orphan"), '1 - 0 0 0 other {"task":"add","args":[3]}')
    root.sadd(keys.started("gone"), "x")
    root.hset(keys.unique, "lock", "gone 0")
    root.zadd(keys.stops, {"job:gone": 0})
    root.hset(keys.letters, "dead", '{"id":"dead","reason":"failed"}\n{}')
    root.zadd(keys.dead, {"dead": 1})
    root.set(keys.throttle("kept"), 1)
    root.delete("rqueue:queues")
    doctor = Doctor(worker_app, heartbeat_s=0.01)
    done = await doctor.fix(await doctor.examine(), for_operators(worker_app, doctor.queues).reap)
    fixed = {"orphans", "lost workers", "expiry", "unknown queues", "locks"}
    assert {finding.check for finding in done if finding.fixed} >= fixed
    assert {Message.id_of(raw) for raw in root.lrange(keys.main, 0, -1)} == {held.id, "other"}
    assert root.hkeys(keys.messages) == [late.id.encode()]
    assert refused(root) == []


FORBIDDEN = {
    "producer": [
        "LRANGE rqueue:{default} 0 -1", "RPOP rqueue:{default}", "BRPOPLPUSH rqueue:{default} rqueue:{default}:p1 1",
        "SET rqueue:{default}:result:x forged", "GET rqueue:{default}:processing:w",
        "HGETALL rqueue:{default}:dead:letters", "HGET rqueue:{default}:dead:letters x",
        "HGET rqueue:{default}:scheduled:messages x", "DEL rqueue:{default}", "DEL rqueue:{default}:jobs",
        "HGET rqueue:{default}:periodic:entries x", "HSET rqueue:{default}:periodic:entries x y",
        "ZADD rqueue:{default}:workers 1 w", "PUBLISH rqueue:control x", "SUBSCRIBE rqueue:control",
        "HSET rqueue:paused all 1",
        "EVAL return(redis.call('RPOP',KEYS[1])) 1 rqueue:{default}",
        "EVAL return(redis.call('SET',KEYS[1],'x')) 1 rqueue:{default}:result:x",
    ],
    "operator": ["BRPOPLPUSH rqueue:{a} rqueue:{a}:p1 1", "RPOPLPUSH rqueue:{a} rqueue:{a}:p1", "CLIENT UNBLOCK 1"],
    "worker": [],
}  # fmt: skip
EVERYBODY = [
    "GET other", "SET other 1", "KEYS *", "FLUSHALL", "CONFIG SET maxmemory 1", "ACL WHOAMI", "CLIENT KILL ID 1",
    "MONITOR", "SHUTDOWN", "SUBSCRIBE other", "EVAL return(redis.call('GET',KEYS[1])) 1 other",
    "EVAL return(redis.call('FLUSHALL')) 0", "MIGRATE 127.0.0.1 1 k 0 1", "REPLICAOF NO ONE",
]  # fmt: skip


@pytest.mark.parametrize("user", USERS)
def test_what_a_user_may_not_do(url, user):
    with redis.Redis.from_url(url(user)) as connection:
        for command in FORBIDDEN[user] + EVERYBODY:
            words = command.split(" ")
            with pytest.raises(redis.RedisError, match=r"(?i)NOPERM|permission|can't (run|access)"):
                connection.execute_command(*words)


async def test_a_producer_cannot_work_and_cannot_see_dead_letters(producer, root):
    broker, keys = producer.session().broker, producer.keys.queue("default")
    with pytest.raises(BrokerError):
        await broker.register(keys, "w", 15)
    with pytest.raises(BrokerError):
        await broker.block(keys, "w", 0.1)
    with pytest.raises(BrokerError):
        await Admin(producer).dead("default")
    with pytest.raises(BrokerError):
        await Admin(producer).purge("default")
    assert refused(root)


async def test_without_what_may_be_missing_a_worker_works(worker_app, producer, root):
    missing = ("client|id", "client|unblock", "script|load", "info", "config|get", "publish", "subscribe")
    root.execute_command("ACL", "SETUSER", "rqueue-worker", "resetchannels", *(f"-{each}" for each in missing))
    async with worker_app.worker(lease=1) as worker:
        job = await producer.add.enqueue(1, 2, fail="once")
        await worker.drain(scheduled=True)
        assert await job.result(10) == 3
    assert {what for _, _, what in refused(root)} >= {"script|load", "client|id"}
