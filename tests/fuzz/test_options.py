"""Whatever an option of the code is given: it is taken, or refused with a reason before anything is sent."""

import inspect
from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import strategies as st

from rqueue import Queue, RQueue, cron, every
from rqueue.broker.endpoint import Endpoint
from rqueue.client.options import CallKwargs, TaskKwargs
from rqueue.config import WorkerConfig
from rqueue.errors import ConfigError, MissingDependency

from .junk import fuzz, values
from .test_command_line import URLS, WORDS

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of a long example

odd = st.sampled_from((object(), int, b"x", ..., float("nan"), 1 + 2j, {1, 2}, (), (1,), range(3), [None], {None: 1}))
given_values = st.sampled_from(WORDS) | values | odd


def some(names):
    return st.dictionaries(st.sampled_from(sorted(names)), given_values, min_size=1, max_size=3)


def refused(make):
    """What it gives, or None where it is refused with one of the documented errors and a reason."""
    try:
        return make()
    except (ConfigError, TypeError, MissingDependency) as exc:
        assert str(exc)
    return None


@fuzz(50, options=some((*TaskKwargs.__annotations__, "name", "bind")))
def test_a_tasks_options(options):
    app = RQueue("redis://127.0.0.1:1/0", queues=["default"])
    if (task := refused(lambda: app.task(**options)(lambda: None))) is not None:
        assert app.tasks.find(task.name) is task


@fuzz(60, options=some(CallKwargs.__annotations__), arguments=st.lists(given_values, max_size=2))
def test_a_calls_options(options, arguments):
    app = RQueue("redis://127.0.0.1:1/0", queues=["default"])

    @app.task(name="t")
    async def task(*args):
        pass

    def message():
        signature = task.options(**options).s(*arguments)
        return app._message(signature, 1_767_225_600_000)

    refused(message)


@fuzz(60, options=some(set(inspect.signature(RQueue).parameters) - {"url", "lifespan"}))
def test_an_apps_options(options):
    refused(lambda: RQueue("redis://127.0.0.1:1/0", **options))


@fuzz(60, options=some(each.name for each in fields(WorkerConfig)))
def test_a_workers_options(options):
    refused(lambda: WorkerConfig(**{"queues": ("default",), **options}))


@fuzz(60, name=given_values, priority=given_values, other=given_values)
def test_queues_schedules_and_urls(name, priority, other):
    refused(lambda: Queue(name, priority=priority))
    refused(lambda: cron(name, tz=priority))
    refused(lambda: cron("* * * * *", tz=other))
    refused(lambda: every(seconds=other, minutes=priority))
    if isinstance(name, str):
        refused(lambda: Endpoint(name))


@pytest.mark.parametrize("url", URLS)
def test_a_url(url):
    with suppress(ConfigError):
        endpoint = Endpoint(url)
        assert "p%" not in endpoint.shown
        endpoint.sync_connection(1)
