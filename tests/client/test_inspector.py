"""Asking workers: who is meant, who answers, and who is silent."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from rqueue.client.inspector import Inspector
from rqueue.errors import BrokerUnavailable, ConfigError
from rqueue.wire.control import Answer


@pytest.fixture
async def workers(app):
    """Start workers that hear."""
    async with AsyncExitStack() as running:
        await running.enter_async_context(app)

        async def start(count=1, **options):
            started = [await running.enter_async_context(app.worker(**options)) for _ in range(count)]
            for worker in started:
                async with asyncio.timeout(5):
                    await worker._control.listening.wait()
            return started

        yield start


async def register(app, *ids, lease_s=60.0, queue="default"):
    """Workers that have a lease and hear nothing."""
    broker = app.session().broker
    await broker.announce(queue)
    for each in ids:
        await broker.register(app.keys.queue(queue), each, lease_s)


async def test_all_workers_answer_and_nobody_waits_for_the_time_to_be_up(app, workers):
    started = await workers(3)
    async with asyncio.timeout(20):
        replies = await Inspector(app).ask("ping", timeout=1000)
    assert replies.answers == tuple(Answer(name, "pong") for name in sorted(worker.id for worker in started))
    assert replies.silent == ()


async def test_who_is_silent_is_named(app, workers):
    (worker,) = await workers()
    await register(app, "frozen:1:a", "frozen:1:b", queue="other")
    replies = await Inspector(app).ask("ping", timeout=0.3)
    assert [answer.worker for answer in replies.answers] == [worker.id]
    assert replies.silent == ("frozen:1:a", "frozen:1:b")


async def test_a_worker_whose_lease_ran_out_is_not_waited_for(app, workers):
    await workers(1)
    await register(app, "dead:1:a", lease_s=0)
    async with asyncio.timeout(20):
        replies = await Inspector(app).ask("ping", timeout=1000)
    assert (len(replies.answers), replies.silent) == (1, ())


async def test_only_those_who_are_meant_answer(app, workers):
    first, _, third = await workers(3)
    async with asyncio.timeout(20):
        replies = await Inspector(app).ask("ping", to=[third.id, first.id], timeout=1000)
    assert [answer.worker for answer in replies.answers] == sorted([first.id, third.id])


async def test_a_refusal_is_an_answer(app, workers):
    (worker,) = await workers()
    replies = await Inspector(app).ask("rate_limit", task="nobody", rate="1/s", timeout=5)
    assert replies.answers == (Answer(worker.id, error="task 'nobody': no task of that name is known here"),)


async def test_without_workers_there_is_nothing_to_wait_for(app):
    async with app, asyncio.timeout(20):
        replies = await Inspector(app).ask("ping", timeout=1000)
        assert (replies.answers, replies.silent) == ((), ())


async def test_somebody_elses_words_are_no_answer(app, workers):
    """Two ask at once, and each hears its own answers; what is no answer is passed over."""
    await workers(2)
    inspector = Inspector(app)
    pings, queues = await asyncio.gather(inspector.ask("ping", timeout=5), inspector.ask("active_queues", timeout=5))
    assert [answer.ok for answer in pings.answers] == ["pong", "pong"]
    queue = {"name": "default", "priority": 5, "paused": False, "paused_tasks": []}
    assert all(answer.ok == [queue] for answer in queues.answers)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("pong", {}),
        ("ping", {"n": 1}),
        ("pool_grow", {"queue": "a"}),
        ("time_limit", {"task": "t", "soft": float("nan")}),
    ],
)
async def test_what_no_worker_could_do_is_refused_here(app, verb, args):
    async with app:
        with pytest.raises(ConfigError):
            await Inspector(app).ask(verb, **args)


async def test_a_worker_by_a_part_of_its_id(app):
    async with app:
        await register(app, "web1:10:aaaa", "web1:11:bbbb", "web10:7:cccc", "db:1:dddd")
        found = await Inspector(app).find(["web1:10:aaaa", "web1:11", "web10", "d"])
        assert found == {
            "web1:10:aaaa": "web1:10:aaaa",
            "web1:11": "web1:11:bbbb",
            "web10": "web10:7:cccc",
            "d": "db:1:dddd",
        }


@pytest.mark.parametrize(
    ("part", "text"),
    [("web1", "there are 2: web1:10:aaaa, web1:11:bbbb"), ("we", "there are 3"), ("x", "there is none"), ("", "none")],
)
async def test_a_part_that_means_none_or_several_is_refused(app, part, text):
    async with app:
        await register(app, "web1:10:aaaa", "web1:11:bbbb", "web10:7:cccc")
        await register(app, "x:1:a", lease_s=0)
        with pytest.raises(ConfigError, match=text):
            await Inspector(app).find([part])


async def test_where_the_channel_is_forbidden_it_says_so(real_app, monkeypatch, new_app):
    monkeypatch.setattr("rqueue.client.inspector._LISTEN_S", 0.3)
    async with real_app:
        call = real_app.session().broker._link.call
        await call(b"ACL", b"SETUSER", b"mute", b"on", b">pw", b"~*", b"+@all", b"resetchannels")
        try:
            mute = new_app(real_app.endpoint.shown.replace("://", "://mute:pw@"))
            with pytest.raises(BrokerUnavailable, match="did not let us listen"):
                await Inspector(mute).ask("ping")
        finally:
            await call(b"ACL", b"DELUSER", b"mute")
