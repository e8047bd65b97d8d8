"""Hooks and Celery's signals as registries: who is called, with what, and that it changes nothing."""

import asyncio
import logging

import pytest

from rqueue import ConfigError, RQueue
from rqueue.client.signals import SIGNALS


@pytest.fixture
def app():
    return RQueue("memory://")


def test_all_names_are_there_and_false_until_somebody_connects(app):
    """Breaks when a signal costs more than a truth test while nobody listens."""
    assert not any(getattr(app.signals, name) for name in SIGNALS)
    assert not app.signals.is_used
    app.signals.task_prerun.connect(print)
    assert app.signals.task_prerun
    assert app.signals.is_used
    assert repr(app.signals.task_prerun) == "Signal('task_prerun')"


def test_a_function_is_given_what_it_takes(app):
    """Celery's functions take **kwargs, shorter ones do not. Breaks when one of them is given too much."""
    seen = []

    @app.signals.task_prerun.connect
    def everything(sender, task_id, **more):
        seen.append((sender, task_id, sorted(more)))

    @app.signals.task_prerun.connect
    def little(task_id):
        seen.append(task_id)

    app.signals.task_prerun.send("who", task_id="1", args=[])
    assert seen == [("who", "1", ["args", "signal"]), "1"]


def test_a_sender_is_a_task_or_its_name(app):
    seen = []

    @app.task(name="mine")
    def mine(): ...

    @app.task(name="other")
    def other(): ...

    for sender in (mine, "mine"):
        app.signals.task_prerun.connect(lambda task_id, sender=sender: seen.append((task_id, sender)), sender=sender)
    app.signals.task_prerun.connect(sender=other)(lambda task_id: seen.append("other's"))
    app.signals.task_prerun.send(mine, task_id="1")
    app.signals.before_task_publish.send("mine", task_id="2")
    assert len(seen) == 2


def test_disconnected_it_is_called_no_more(app):
    seen = []

    def first(task_id):
        seen.append(task_id)

    app.signals.task_prerun.connect(first)
    app.signals.task_prerun.connect(first, sender="x")
    assert app.signals.task_prerun.disconnect(first)
    assert not app.signals.task_prerun.disconnect(first)
    app.signals.task_prerun.send("y", task_id="1")
    assert app.signals.task_prerun.disconnect(first, sender="x")
    assert seen == []
    assert not app.signals.task_prerun


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_what_one_raises_is_logged_and_keeps_nobody_else(app, caplog, error):
    seen = []

    def bad():
        raise error

    app.signals.task_prerun.connect(bad)
    app.signals.task_prerun.connect(lambda: seen.append(1))
    with caplog.at_level(logging.ERROR, "rqueue"):
        app.signals.task_prerun.send(None)
    assert seen == [1]
    assert [record.rqueue["what"] for record in caplog.records] == ["task_prerun"]


def test_a_coroutine_function_runs_beside_everything(app, caplog):
    """Also where no event loop runs. Breaks when it is never awaited."""
    seen = []

    @app.signals.task_prerun.connect
    async def later(task_id):
        seen.append(task_id)
        if task_id == "bad":
            raise ValueError(task_id)

    async def main():
        app.signals.task_prerun.send(None, task_id="1")
        app.signals.task_prerun.send(None, task_id="bad")
        assert seen == []
        while running := app.signals.running():
            await asyncio.wait(running)
        await app.close()

    with caplog.at_level(logging.ERROR, "rqueue"):
        asyncio.run(main())
    assert seen == ["1", "bad"]
    assert len(caplog.records) == 1
    app.signals.task_prerun.send(None, task_id="2")
    app.portal().call(lambda: asyncio.sleep(0))
    asyncio.run(app.close())
    assert seen == ["1", "bad", "2"]


def test_what_cannot_be_called_is_refused_where_it_is_registered(app):
    with pytest.raises(ConfigError, match="keyword arguments only"):
        app.signals.task_prerun.connect(lambda task_id, /: None)
    with pytest.raises(ConfigError, match="a function is needed"):
        app.signals.task_prerun.connect(3)
    for register in (app.on_success, app.on_failure, app.on_retry, app.on_dead):
        for bad in (3, lambda: None, lambda a, b: None):
            with pytest.raises(ConfigError, match="one argument"):
                register(bad)
    with pytest.raises(ConfigError, match="on_dead 3"):
        app.task(on_dead=3)


async def test_a_call_is_told_before_and_after_it_is_published(app):
    """Also many at once; what was refused as a duplicate was not published. Breaks when after comes unconfirmed."""
    seen = []

    @app.task(name="add")
    def add(a, b=0): ...

    for signal in (app.signals.before_task_publish, app.signals.after_task_publish):

        @signal.connect(sender="add")
        def tell(signal, sender, task_id, body, headers, routing_key, queue):
            assert (headers, routing_key) == ({"id": task_id, "task": sender}, queue)
            seen.append((signal.name.partition("_")[0], task_id, body))

    async with app:
        await add.options(job_id="1").enqueue(1, b=2)
        body = ([1], {"b": 2})
        assert seen == [("before", "1", body), ("after", "1", body)]
        await add.options(job_id="1").enqueue(1, b=2)
        assert seen[2:] == [("before", "1", body)]
        del seen[:]
        await app.enqueue_many([add.options(job_id=name).s(3) for name in ("1", "2")])
        assert [each[:2] for each in seen] == [("before", "1"), ("before", "2"), ("after", "2")]
        del seen[:]
        await asyncio.to_thread(add.options(job_id="3").delay, 4)
        assert [each[:2] for each in seen] == [("before", "3"), ("after", "3")]
