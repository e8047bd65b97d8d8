"""pauses: a queue, a task or everything, on each kind of broker."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import RQueue
from rqueue.client.pauses import Pause, Resumed
from rqueue.errors import BrokerUnavailable, ConfigError
from rqueue.wire.control import ControlRequest


@pytest.fixture
async def app(url: str) -> AsyncIterator[RQueue]:
    async with RQueue(url) as app:
        for queue in ("email", "reports"):
            await app.session().broker.announce(queue)
        yield app


async def stops(app):
    call = app.session().broker._link.call
    names = ("default", "email", "reports")
    found = {name: await call(b"ZRANGE", app.keys.queue(name).stops, 0, -1) for name in names}
    return {name: {each.decode() for each in found[name]} for name in names if found[name]}


async def test_a_queue_is_paused_in_its_own_stops_and_for_the_namespace(app):
    before = datetime.now(UTC)
    assert await app.pause("email")
    assert await app.pause("email") is False
    assert await stops(app) == {"email": {"queue"}}
    (pause,) = await app.paused()
    assert (pause.kind, pause.name, str(pause)) == ("queue", "email", "queue email")
    assert abs(pause.since - before) < timedelta(minutes=1)
    assert await app.resume("email") == Resumed(True)
    assert await app.resume("email") == Resumed(False)
    assert (await stops(app), await app.paused()) == ({}, [])


async def test_everything_and_a_task_are_paused_in_all_queues_that_are_used(app):
    task = app.task(name="shop.t")(print)
    await app.pause(all=True)
    await app.pause(task=task)
    await app.pause(task="t")  # the app knows what it stands for
    await app.pause(task="elsewhere")
    each = {"all", "task:shop.t", "task:elsewhere"}
    assert await stops(app) == {"email": each, "reports": each}
    assert list(map(str, await app.paused())) == ["everything", "task elsewhere", "task shop.t"]
    assert (await app.resume(all=True)).was_paused
    await app.resume(task="t")
    await app.resume(task="elsewhere")
    assert (await stops(app), await app.paused()) == ({}, [])


async def test_a_resume_says_what_stays_paused(app):
    await app.pause("email")
    await app.pause(task="t")
    await app.pause(all=True)
    everything, queue, task = await app.paused()
    assert await app.resume("email") == Resumed(True, (everything,))
    assert await app.resume(task="t") == Resumed(True, (everything,))
    await app.pause("email")
    (still,) = (await app.resume(all=True)).still
    assert (still.kind, still.name, everything) == (queue.kind, queue.name, Pause("all", None, everything.since))
    assert task.name == "t"


@pytest.mark.parametrize(
    "arguments", [{}, {"queue": "a", "all": True}, {"task": "t", "queue": "a"}, {"queue": "a b"}, {"task": ""}]
)
async def test_what_cannot_be_meant_is_refused(app, arguments):
    for verb in (app.pause, app.resume):
        with pytest.raises(ConfigError):
            await verb(**arguments)
    assert (await stops(app), await app.paused()) == ({}, [])


async def test_workers_are_told_on_the_control_channel(app, monkeypatch):
    said = []
    broker = app.session().broker

    async def publish(channel, data):
        said.append((channel, ControlRequest.decode(data)))
        raise BrokerUnavailable("an ACL forbids it, or the connection broke")

    monkeypatch.setattr(broker, "publish", publish)
    await app.pause("email")
    await app.resume("email")
    assert [(channel, request.verb, request.to, request.reply) for channel, request in said] == [
        (app.keys.control, "look", None, None)
    ] * 2


async def test_a_pause_that_was_interrupted_can_be_done_again(app, monkeypatch):
    """What is declared comes first, and goes last: nobody is left paused with nobody knowing."""
    broker = app.session().broker
    for verb in ("pause", "resume"):
        with monkeypatch.context() as patch:

            async def fails(*_):
                raise BrokerUnavailable("gone")

            patch.setattr(broker, verb, fails)
            with pytest.raises(BrokerUnavailable):
                await getattr(app, verb)(all=True)
        assert [pause.kind for pause in await app.paused()] == ["all"]
        await getattr(app, verb)(all=True)
    assert (await stops(app), await app.paused()) == ({}, [])


async def test_a_queue_that_comes_while_a_task_is_resumed(app, monkeypatch):
    """A worker found the pause written down, and its queue was not known yet when the resume looked."""
    broker = app.session().broker
    await app.pause(task="t")
    withdraw = broker.withdraw

    async def meanwhile(field):
        await broker.announce("default", again=True)
        await broker.pause(app.keys.queue("default"), "task:t")
        return await withdraw(field)

    monkeypatch.setattr(broker, "withdraw", meanwhile)
    await app.resume(task="t")
    assert await stops(app) == {}


async def test_pauses_race(app):
    """Whatever comes at once, the last that is asked for alone counts."""
    await asyncio.gather(*(app.pause("email") for _ in range(10)), *(app.pause(task="t") for _ in range(10)))
    await app.resume(task="t")
    assert await stops(app) == {"email": {"queue"}}
