"""A durable enqueue: confirmed once a replica has it, or the disk, and what is said where that cannot be known.

A replica that is frozen (SIGSTOP) has nothing of what is stored from then on, and a WAIT that says otherwise lies.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from rqueue import BrokerUnavailable, ConfigError, DurabilityRefused, NotDurable, RQueue
from rqueue.broker.broker import Broker
from rqueue.broker.durable import DurableBroker, Unconfirmed
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.enqueue import Enqueued
from rqueue.config import Limits
from rqueue.embedded import EmbeddedServer
from rqueue.errors import BrokerError
from rqueue.wire.keys import Keys

from .sentinels import ask, until

QUEUE = Keys().queue("email")
SOON = Limits(durability="replicated", enqueue_timeout_s=0.4)


class Pair:
    """A master and its replica."""

    def __init__(self, master: EmbeddedServer, replica: EmbeddedServer) -> None:
        self.master, self.replica = master, replica

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The replica gets nothing meanwhile."""
        os.kill(self.replica.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.replica.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def one_pair() -> Iterator[Pair]:
    """They take a second to find each other: once is enough."""
    with (
        EmbeddedServer(options={"repl-diskless-sync-delay": "0"}) as master,
        EmbeddedServer(options={"replicaof": f"127.0.0.1 {master.port}"}) as replica,
    ):
        yield Pair(master, replica)


@pytest.fixture
def pair(one_pair: Pair) -> Pair:
    with redis.Redis(port=one_pair.master.port) as raw:
        raw.flushall()
        until(lambda: raw.set("k", 1) and raw.wait(1, 100) == 1)
        raw.flushall()
        raw.config_resetstat()
    return one_pair


@pytest.fixture
async def new_durable():
    """Opens durable brokers, each with connections of its own; all are closed at the test's end."""
    opened: list[DurableBroker] = []

    def new(server: EmbeddedServer, limits: Limits = SOON) -> DurableBroker:
        opened.append(DurableBroker(Endpoint(server.url), Keys(), limits))
        return opened[-1]

    yield new
    for broker in opened:
        await broker.close()


def task_of(app: RQueue):
    @app.task(name="t")
    async def t(n: int) -> int:
        return n

    return t


def calls(server: EmbeddedServer, command: str) -> int:
    with redis.Redis(port=server.port) as raw:
        return raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


# --- replicated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["enqueue", "admit"])
async def test_a_batch_that_is_sent_again_is_not_confirmed_before_a_replica_has_it(pair, new_durable, job, verb):
    """After a lost reply, or a shortfall, over a connection that has written nothing yet. Breaks when the script only
    gives its first answer: the WAIT behind it then says at once that all is well.
    """
    batch = [job("a"), Enqueued("b", True, 0, "", job("b").message, "unique 0 k" if verb == "admit" else "")]
    with pair.frozen():
        for _ in range(2):
            with pytest.raises(Unconfirmed, match="only 0 of 1 replicas"):
                await getattr(new_durable(pair.master), verb)(QUEUE, "p", 0, 1, batch)
    thawed = new_durable(pair.master, Limits(durability="replicated", enqueue_timeout_s=10))
    assert await getattr(thawed, verb)(QUEUE, "p", 0, 1, batch) == [True, True]
    with redis.Redis(port=pair.master.port) as master, redis.Redis(port=pair.replica.port) as replica:
        assert replica.lrange(QUEUE.main, 0, -1) == master.lrange(QUEUE.main, 0, -1)
        assert master.llen(QUEUE.main) == 2


async def test_a_shortfall_is_an_error_that_says_that_the_job_is_stored(pair):
    """Breaks when it counts as confirmed, or as unknown; or when the job does not run all the same."""
    app = RQueue(pair.master.url, durability="replicated", enqueue_timeout=2)
    t = task_of(app)
    async with app, app.worker():
        await t.enqueue(0)
        with pair.frozen():
            with pytest.raises(NotDurable, match="only 0 of 1 replicas have it") as caught:
                await t.options(job_id="x").enqueue(1)
            assert caught.value.ids == ("x",)
            assert await app.job("x").result(timeout=5) == 1


async def test_a_replica_that_comes_back_in_time_costs_nobody_an_error(pair):
    """Breaks when a shortfall is not tried again, or when that doubles the job."""
    app = RQueue(pair.master.url, durability="replicated", enqueue_timeout=10)
    t = task_of(app)
    async with app:
        await t.enqueue(0)
        with pair.frozen():
            app.session().broker._wait = (b"WAIT", 1, 50)
            waiting = asyncio.create_task(t.enqueue(1))
            while calls(pair.master, "wait") < 4:  # of those two are the first job's and the probe's
                await asyncio.sleep(0.01)
            assert not waiting.done()
        await waiting
        assert (await app.session().broker.sizes(app.keys.queue("default"))).waiting[0] == 2


async def test_more_replicas_than_there_are_confirm_nothing(pair, new_durable, job):
    broker = new_durable(pair.master, Limits(durability="replicated", replicas=2, enqueue_timeout_s=0.2))
    with pytest.raises(Unconfirmed, match="only 1 of 2 replicas"):
        await broker.enqueue(QUEUE, "p", 0, 1, [job("a")])


async def test_callers_share_one_wait(pair):
    """Breaks when each call has a WAIT of its own."""
    app = RQueue(pair.master.url, durability="replicated")
    t = task_of(app)
    async with app:
        await t.enqueue(0)
        before = calls(pair.master, "wait")
        await asyncio.gather(*(t.enqueue(n) for n in range(200)))
        assert calls(pair.master, "wait") - before <= 20


async def test_whoever_enqueues_nothing_is_not_held_up(pair):
    """Redis holds up what is behind a WAIT on its connection. Breaks when that connection is everybody's."""
    app = RQueue(pair.master.url, durability="replicated", enqueue_timeout=30)
    t = task_of(app)
    async with app:
        first = await t.enqueue(0)
        with pair.frozen():
            waiting = asyncio.create_task(t.enqueue(1))
            while calls(pair.master, "evalsha") < 2:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(4):  # the wait is for 5 s
                await first.info()
            assert not waiting.done()
        await waiting


async def test_a_refused_batch_is_refused_as_ever(pair, new_durable, job):
    """Breaks when the wait's reply hides the script's."""
    with redis.Redis(port=pair.master.port) as raw:
        raw.set(QUEUE.main, "no list")
    broker = new_durable(pair.master)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.enqueue(QUEUE, "p", 0, 1, [job("a")])


async def test_a_server_that_was_the_master_is_unavailable_and_not_unfit(pair, new_durable):
    """A failover takes a moment. Breaks when the callers are told that their server lacks what they need."""
    broker = new_durable(pair.replica)
    with pytest.raises(BrokerUnavailable):
        await broker.ready()


def test_what_asks_for_nothing_has_the_plain_broker():
    """Breaks when a plain job pays for durability; or where there can be none, in memory, all is refused."""

    async def kinds() -> list[type]:
        plain, durable = RQueue("redis://h"), RQueue("redis://h", durability="fsync")
        inside = RQueue("memory://", durability="replicated")
        found = [type(app.session().broker) for app in (plain, durable, inside)]
        for app in (plain, durable, inside):
            await app.close()
        return found

    assert asyncio.run(kinds()) == [Broker, DurableBroker, Broker]
    assert Broker._store is Broker._run


# --- fsync ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def has_waitaof(server) -> None:
    try:
        ask(server, "WAITAOF", "0", "0", "1")
    except redis.ResponseError:
        pytest.skip("this server has no WAITAOF")


async def test_a_server_that_cannot_say_what_is_on_disk_is_refused_and_nothing_is_enqueued(redis_url, server):
    """It has no WAITAOF, or no append-only file. Breaks when the jobs are stored first."""
    app = RQueue(redis_url, durability="fsync")
    t = task_of(app)
    async with app:
        with pytest.raises(DurabilityRefused, match=r"needs a server with WAITAOF .* 'appendonly yes'") as caught:
            await t.enqueue(1)
        assert isinstance(caught.value, ConfigError)
    with redis.Redis(port=server.port) as raw:
        assert raw.keys() == []


@pytest.mark.usefixtures("has_waitaof")
@pytest.mark.parametrize("policy", ["always", "everysec"])
async def test_what_is_confirmed_is_on_disk(new_server, policy):
    """Breaks when WAITAOF is not sent; or when `everysec`, which takes a second, is given up."""
    server = new_server({"appendonly": "yes", "appendfsync": policy})
    app = RQueue(server.url, durability="fsync")
    t = task_of(app)
    async with app:
        await t.enqueue(1)
        waits = calls(server, "waitaof")
        await t.enqueue(2)
        assert calls(server, "waitaof") == waits + 1


@pytest.mark.usefixtures("has_waitaof")
async def test_what_never_gets_to_the_disk_is_never_confirmed(new_server):
    """Breaks when the count that WAITAOF gives is not looked at."""
    app = RQueue(new_server({"appendonly": "yes", "appendfsync": "no"}).url, durability="fsync", enqueue_timeout=2)
    t = task_of(app)
    async with app:
        with pytest.raises(NotDurable, match="only 0 of 1 disks"):
            await t.enqueue(1)
