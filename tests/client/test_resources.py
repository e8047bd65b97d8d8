"""Resources: opened once however many ask, closed by the task that opened them, the last one first."""

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Annotated

import anyio
import pytest

from rqueue import BrokerUnavailable, ConfigError, Depends, RQueue, StartupFailed, current_request
from rqueue.client.resources import Resources, name_of, needs_of
from rqueue.log import LOGGER


@pytest.fixture
def tasks() -> RQueue:
    return RQueue("memory://")


@pytest.fixture
def seen() -> list:
    return []


def noting(seen: list, name: str):
    """A provider that says when it is opened and closed."""

    async def provider():
        seen.append(f"open {name}")
        yield name
        seen.append(f"close {name}")

    provider.__qualname__ = name
    return provider


async def opened(app: RQueue) -> Resources:
    resources = Resources(app)
    await resources.open()
    return resources


# --- what a provider is -----------------------------------------------------------------------------------------------


class Thing:
    """A class is a provider as well."""


class Lock:
    """A value that happens to be a context manager, as locks and pools are."""

    async def __aenter__(self):
        raise AssertionError("entered")

    async def __aexit__(self, *_):
        raise AssertionError("left")


@pytest.mark.parametrize(
    "kind", ["function", "coroutine", "generator", "async generator", "contextmanager", "asynccontextmanager"]
)
async def test_a_provider_of_any_kind(tasks, seen, kind):
    """What stands after a yield runs at the close; what is returned has no close."""

    def function():
        return "value"

    async def coroutine():
        return "value"

    def generator():
        yield "value"
        seen.append("closed")

    async def async_generator():
        yield "value"
        seen.append("closed")

    provider = {
        "function": function,
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
        "contextmanager": contextmanager(generator),
        "asynccontextmanager": asynccontextmanager(async_generator),
    }[kind]
    resources = Resources(tasks)
    assert await resources.get(provider) == "value"
    assert await resources.get(provider) == "value"
    assert seen == []
    await resources.close()
    assert seen == ([] if kind in ("function", "coroutine") else ["closed"])


async def test_what_is_returned_is_the_value_as_it_is(tasks):
    """Breaks when whatever has an __aenter__ is entered: a lock would be taken for good."""
    resources = Resources(tasks)
    assert isinstance(await resources.get(Lock), Lock)
    assert isinstance(await resources.get(Thing), Thing)
    assert await resources.get(functools.partial(sorted, [2, 1])) == [1, 2]
    await resources.close()


async def test_a_plain_provider_runs_on_the_loop_and_what_it_awaits_is_awaited(tasks):
    """As clients need it whose constructor asks for the running loop."""
    ready = asyncio.get_running_loop().create_future()
    ready.set_result("ready")
    resources = Resources(tasks)
    assert await resources.get(asyncio.get_running_loop) is asyncio.get_running_loop()
    assert await resources.get(lambda: ready) == "ready"
    await resources.close()


def needs_one(url):
    return url


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        (5, "5 is a value, and not the function that makes it"),
        (None, "None is a value"),
        (needs_one, "needs_one): nobody gives it 'url'"),
    ],
)
def test_what_is_no_provider_is_refused_where_it_is_written(provider, text):
    with pytest.raises(ConfigError, match="Depends") as caught:
        Depends(provider)
    assert text in str(caught.value)


def test_a_provider_that_cannot_be_a_key_is_refused():
    class Unhashable:
        __hash__ = None

        def __call__(self): ...

    with pytest.raises(ConfigError, match=r"unhashable.*wrap it in a function"):
        Depends(Unhashable())


def test_defaults_and_variadic_parameters_need_nobody():
    def provider(size: int = 5, *args, **kwargs): ...

    assert repr(Depends(provider)) == f"Depends({name_of(provider)})"
    assert name_of(functools.partial(print)).startswith("functools.partial(")


def test_a_parameter_that_cannot_be_given_by_its_name_is_refused(tasks):
    def positional(client=Depends(Thing), /): ...
    def before_the_star(client=Depends(Thing), *urls): ...
    def annotated(client: Annotated[Thing, Depends(Thing)]): ...

    for function, text in (
        (positional, "cannot be positional only"),
        (before_the_star, r"client: Depends parameters stand after \*urls"),
        (annotated, r"use = Depends\(…\)"),
    ):
        with pytest.raises(ConfigError, match=text):
            tasks.task(function)
        with pytest.raises(ConfigError):
            needs_of(function)

    def behind_the_star(*urls, client=Depends(Thing)): ...

    assert needs_of(behind_the_star) == {"client": Thing}


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_each_is_opened_once_in_the_order_of_the_tasks_and_closed_in_reverse(tasks, seen):
    one, two = noting(seen, "one"), noting(seen, "two")

    @tasks.task(name="a")
    async def a(x=Depends(one), y=Depends(two)): ...

    @tasks.task(name="b")
    async def b(y=Depends(two), x=Depends(one)): ...

    resources = await opened(tasks)
    await resources.open()
    assert seen == ["open one", "open two"]
    await resources.close()
    assert seen == ["open one", "open two", "close two", "close one"]


async def test_a_provider_gets_what_it_needs_first_and_closes_before_it(tasks, seen):
    config = noting(seen, "config")

    async def pool(config: str = Depends(config)) -> AsyncIterator[str]:
        seen.append(f"open pool of {config}")
        yield f"pool of {config}"
        seen.append("close pool")

    def repository(pool: str = Depends(pool), config: str = Depends(config)) -> Iterator[str]:
        yield f"repository on {pool}"
        seen.append("close repository")

    resources = Resources(tasks)
    assert await resources.get(repository) == "repository on pool of config"
    await resources.close()
    assert seen == ["open config", "open pool of config", "close repository", "close pool", "close config"]


async def test_all_who_ask_at_once_get_the_same_one(tasks):
    """Breaks without the single flight: each of them opens one."""
    made, may_open = [], asyncio.Event()

    async def provider():
        made.append(object())
        await may_open.wait()
        return made[-1]

    resources = Resources(tasks)
    asking = [asyncio.create_task(resources.get(provider)) for _ in range(10)]
    hasty = asyncio.create_task(resources.get(provider))
    await asyncio.sleep(0)
    hasty.cancel()  # whoever gives up leaves it to the others
    may_open.set()
    assert await asyncio.gather(*asking) == made * 10
    assert len(made) == 1
    assert hasty.cancelled()
    await resources.close()


async def test_what_could_not_be_opened_is_tried_again_by_the_next(tasks, seen):
    needed = noting(seen, "needed")
    tries = []

    async def flaky(needed: str = Depends(needed)) -> str:
        tries.append(needed)
        if len(tries) == 1:
            raise OSError("refused")
        return "works"

    def above(flaky: str = Depends(flaky)) -> str:
        return f"it {flaky}"

    resources = Resources(tasks)
    answers = await asyncio.gather(*(resources.get(above) for _ in range(3)), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, StartupFailed)
        assert str(answer) == f"resource {name_of(flaky)} failed: OSError: refused"  # the one that failed
        assert isinstance(answer.__cause__, OSError)
    assert len(tries) == 1
    assert await resources.get(above) == "it works"
    await resources.close()
    assert seen == ["open needed", "close needed"]


async def test_all_who_try_again_get_the_same_one(tasks):
    """Breaks when one that failed takes the next try out of the table, because it was the last to hear of its own."""
    tries = []

    async def flaky():
        tries.append(True)
        if len(tries) == 1:
            raise OSError("refused")
        return len(tries)

    async def persistent():
        try:
            return await resources.get(flaky)
        except StartupFailed:
            return await resources.get(flaky)

    resources = Resources(tasks)
    assert await asyncio.gather(*(persistent() for _ in range(5))) == [2] * 5
    await resources.close()


@pytest.mark.parametrize("error", [StopIteration("x"), StopAsyncIteration(), asyncio.CancelledError("by me")])
async def test_whatever_a_provider_raises_has_an_end(tasks, error):
    def function():
        raise error

    async def coroutine():
        raise error

    def silent():
        yield from ()

    resources = Resources(tasks)
    async with asyncio.timeout(5):
        for provider in (function, coroutine, contextmanager(function), silent):
            with pytest.raises(StartupFailed, match=provider.__name__):
                await resources.get(provider)
    await resources.close()


@pytest.mark.parametrize("error", [BrokerUnavailable("redis is away"), SystemExit(3), KeyboardInterrupt()])
async def test_what_others_wait_for_is_passed_on_as_it_is(tasks, error):
    """A worker waits for a Redis that is away, and whoever calls sys.exit() means it."""

    def provider():
        raise error

    resources = Resources(tasks)
    with pytest.raises(type(error)):
        await resources.get(provider)
    await resources.close()


async def test_a_circle_is_refused_and_shown(tasks):
    def one() -> int:
        return 1

    def two(one: int = Depends(one)) -> int:
        return one + 1

    def wrapped(two: int = Depends(two)) -> int:
        return two

    tasks.dependency_overrides[one] = wrapped

    @tasks.task
    async def task(two: int = Depends(two)): ...

    with pytest.raises(ConfigError) as caught:
        await opened(tasks)
    assert str(caught.value).endswith(" in a circle: " + " -> ".join(map(name_of, (two, wrapped, two))))


async def test_it_is_opened_outside_the_context_of_who_asks_and_closed_in_the_same_task(tasks):
    """Breaks when the asking job's task opens it: anyio's scopes cannot be left from another task."""
    var: ContextVar[str] = ContextVar("var", default="outer")
    found = []

    async def provider():
        found.append(var.get())
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield
            found.append("closed")
            group.cancel_scope.cancel()

    async def job():
        var.set("the job's")
        await resources.get(provider)

    resources = Resources(tasks)
    await asyncio.create_task(job())
    await resources.close()
    assert found == ["outer", "closed"]


# --- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("refused"), SystemExit(3), asyncio.CancelledError()])
async def test_what_cannot_be_closed_is_logged_and_the_others_are_closed(tasks, seen, caplog, error):
    async def bad():
        yield
        raise error

    resources = Resources(tasks)
    for provider in (noting(seen, "first"), bad, noting(seen, "last")):
        await resources.get(provider)
    await resources.close()
    assert seen[2:] == ["close last", "close first"]
    (line,) = caplog.records
    assert line.rqueue["what"] == f"resource {name_of(bad)}"


async def test_giving_up_on_the_close_cancels_what_is_left(tasks, seen, caplog):
    never, reached = asyncio.Event(), asyncio.Event()

    async def stuck():
        yield
        reached.set()
        await never.wait()

    async def tidy():
        try:
            yield
        finally:
            seen.append("tidied")

    resources = Resources(tasks)
    await resources.get(tidy)
    await resources.get(stuck)
    closing = asyncio.create_task(resources.close())
    await reached.wait()
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert seen == ["tidied"]
    assert [(line.getMessage(), line.rqueue["what"]) for line in caplog.records] == [
        ("not closed in time", f"resource {name_of(stuck)}"),
        ("not closed in time", f"resource {name_of(tidy)}"),
    ]


async def test_what_is_being_opened_at_the_close_is_given_up(tasks, seen):
    reached = asyncio.Event()

    async def slow():
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("given up")

    resources = Resources(tasks)
    asking = asyncio.create_task(resources.get(slow))
    await reached.wait()
    await resources.close()
    assert seen == ["given up"]
    with pytest.raises(StartupFailed):
        await asking
    with pytest.raises(RuntimeError, match="has been closed"):
        await resources.get(slow)


class Handler(logging.Handler):
    """Says when something was logged."""

    def __init__(self, logged: asyncio.Event) -> None:
        super().__init__()
        self.logged, self.texts = logged, []

    def emit(self, record) -> None:
        self.texts.append(record.getMessage())
        self.logged.set()


async def test_nobody_waits_for_what_is_closed_before_its_first_step(tasks):
    resources = Resources(tasks)
    asking, closing = asyncio.create_task(resources.get(Thing)), asyncio.create_task(resources.close())
    with pytest.raises(StartupFailed, match="Thing was closed before it was open"):
        async with asyncio.timeout(5):
            await asking
    await closing


async def test_one_that_ends_by_itself_is_logged_when_it_does(tasks):
    """A background task in it failed: its users get errors of their own, and this is why."""
    logged, fail = asyncio.Event(), asyncio.Event()

    async def failing():
        await fail.wait()
        raise OSError("gone")

    async def provider():
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            yield

    handler = Handler(logged)
    LOGGER.addHandler(handler)
    try:
        resources = Resources(tasks)
        await resources.get(provider)
        fail.set()
        async with asyncio.timeout(5):
            await logged.wait()
        await resources.close()
    finally:
        LOGGER.removeHandler(handler)
    assert handler.texts == ["ended by itself"]


# --- app.resources() --------------------------------------------------------------------------------------------------


@pytest.fixture
def client_of(seen):
    return noting(seen, "client")


async def test_in_the_block_a_task_is_called_directly(tasks, seen, client_of):
    @tasks.task
    async def fetch(url: str, client: str = Depends(client_of)) -> str:
        return f"{url} by {client}"

    @tasks.task
    def parse(url: str, client: str = Depends(client_of)) -> str:
        return f"parsed {url} by {client}"

    async with tasks.resources():
        assert await fetch("x") == "x by client"
        assert parse("x") == "parsed x by client"
        assert await asyncio.to_thread(parse, "x") == "parsed x by client"
        assert await fetch("x", client="mine") == await fetch("x", "mine") == "x by mine"
    assert seen == ["open client", "close client"]


async def test_outside_a_block_the_error_says_what_to_do_unless_it_is_passed(tasks, client_of):
    @tasks.task
    async def fetch(url: str, client: str = Depends(client_of)) -> str:
        return f"{url} by {client}"

    @tasks.task
    def parse(url: str, client: str = Depends(client_of)) -> str:
        return f"{url} by {client}"

    async def check() -> None:
        for call in (fetch, functools.partial(asyncio.to_thread, parse)):
            with pytest.raises(RuntimeError, match=r"(fetch|parse): client: .*app\.resources\(\)"):
                await call("x")
        with pytest.raises(RuntimeError, match=r"parse: client: "):
            parse("x")

    await check()
    assert await fetch("x", client="mine") == "x by mine"
    async with tasks.resources(), RQueue("memory://").resources():
        pass
    await check()


async def test_blocks_in_one_loop_share_and_the_last_one_closes(tasks, seen, client_of):
    """Breaks when the first one that ends closes what the other still uses."""

    @tasks.task
    async def fetch(client: str = Depends(client_of)) -> str:
        return client

    inside, may_end = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        async with tasks.resources():
            inside.set()
            await may_end.wait()
            assert await fetch() == "client"

    async with tasks.resources():
        beside = asyncio.create_task(other())
        await inside.wait()
    assert seen == ["open client"]
    may_end.set()
    await beside
    assert seen == ["open client", "close client"]


async def test_another_loop_has_its_own(tasks, seen, client_of):
    """Breaks when a loop's client is used from another loop."""

    @tasks.task
    async def fetch(client: str = Depends(client_of)) -> str:
        return threading.current_thread().name

    async def elsewhere() -> str:
        async with tasks.resources():
            return await fetch()

    async with tasks.resources():
        assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) != await fetch()
        with pytest.raises(RuntimeError, match="no resource is open here"):
            await asyncio.to_thread(lambda: asyncio.run(fetch()))
    assert seen == ["open client"] * 2 + ["close client"] * 2


async def test_another_app_has_its_own(tasks, seen, client_of):
    other = RQueue("memory://")
    other.dependency_overrides[client_of] = lambda: "the other's"

    @tasks.task
    async def fetch(client: str = Depends(client_of)) -> str:
        return client

    async with other.resources():
        with pytest.raises(RuntimeError, match="no resource is open here"):
            await fetch()
    async with tasks.resources(), other.resources():
        assert await fetch() == "client"


async def test_a_block_whose_resource_fails_closes_what_was_open(tasks, seen, client_of):
    def broken():
        raise OSError("refused")

    @tasks.task
    async def task(client: str = Depends(client_of), broken: str = Depends(broken)) -> None: ...

    with pytest.raises(StartupFailed, match="broken failed: OSError: refused"):
        async with tasks.resources():
            pytest.fail("it was entered")
    assert seen == ["open client", "close client"]


async def test_a_task_that_is_registered_later(tasks, seen, client_of):
    """A coroutine opens it when it is called; so does a thread, but never by blocking the loop."""
    async with tasks.resources():

        @tasks.task
        async def fetch(client: str = Depends(client_of)) -> str:
            return client

        @tasks.task
        def parse(other: str = Depends(noting(seen, "other"))) -> str:
            return other

        assert await fetch() == "client"
        with pytest.raises(RuntimeError, match="opening other would block the running event loop"):
            parse()
        assert await asyncio.to_thread(parse) == "other"
        assert parse() == "other"
    assert seen == ["open client", "open other", "close other", "close client"]


async def test_an_override_takes_a_providers_place_below_others_too(tasks, seen, client_of):
    def service(client: str = Depends(client_of)) -> str:
        return f"service with {client}"

    @tasks.task
    async def fetch(client: str = Depends(client_of), service: str = Depends(service)) -> list[str]:
        return [client, service]

    tasks.dependency_overrides[client_of] = lambda: "fake"
    async with tasks.resources():
        assert await fetch() == ["fake", "service with fake"]
    assert seen == []
    tasks.dependency_overrides.clear()
    async with tasks.resources():
        assert await fetch() == ["client", "service with client"]
    tasks.dependency_overrides[client_of] = "fake"
    with pytest.raises(ConfigError, match=r"dependency_overrides\[.*client\]: 'fake' is a value"):
        async with tasks.resources():
            pass


# --- a worker's start -------------------------------------------------------------------------------------------------


async def test_a_start_enters_the_lifespan_runs_the_hooks_and_opens_resources(seen):
    @asynccontextmanager
    async def lifespan(app):
        seen.append(f"enter {app!r}")
        yield "is ignored"
        seen.append("leave")

    app = RQueue("memory://", lifespan=lifespan)

    @app.on_startup
    async def first():
        assert current_request() is None
        seen.append("first")

    @app.on_startup
    def second():
        seen.append("second")

    @app.on_shutdown
    def last():
        seen.append("last")

    @app.on_shutdown
    async def last_but_one():
        seen.append("last but one")

    @app.task
    async def task(a: str = Depends(noting(seen, "a"))): ...

    resources = Resources(app)
    await resources.start()
    assert seen == [f"enter {app!r}", "first", "second", "open a"]
    seen.clear()
    await resources.close()
    assert seen == ["close a", "last but one", "last", "leave"]


class Lifespan:
    """A lifespan may be a class as well."""

    def __init__(self, seen):
        self.seen = seen

    async def __aenter__(self):
        self.seen.append("enter")

    async def __aexit__(self, *_):
        self.seen.append("leave")


@pytest.mark.parametrize("kind", ["async generator", "class"])
async def test_a_lifespan_may_be_a_bare_async_generator_function_or_a_class(seen, kind):
    async def bare(app):
        seen.append("enter")
        yield
        seen.append("leave")

    resources = Resources(RQueue("memory://", lifespan=bare if kind == "async generator" else lambda _: Lifespan(seen)))
    await resources.start()
    assert seen == ["enter"]
    await resources.close()
    assert seen == ["enter", "leave"]


async def test_what_is_no_lifespan_is_refused():
    with pytest.raises(ConfigError, match="lifespan 5"):
        RQueue("memory://", lifespan=5)

    resources = Resources(RQueue("memory://", lifespan=lambda app: None))
    with pytest.raises(StartupFailed, match=r"lifespan .*<lambda> failed: TypeError"):
        await resources.start()
    await resources.close()


def test_a_hook_takes_no_arguments(tasks):
    for register in (tasks.on_startup, tasks.on_shutdown):
        with pytest.raises(ConfigError, match=r"needs_one: a hook is a function without arguments"):
            register(needs_one)
    assert tasks.startup_hooks == tasks.shutdown_hooks == []


@pytest.mark.parametrize("place", ["lifespan", "startup hook", "resource"])
async def test_a_failed_start_says_where_and_ends_what_had_begun(seen, place):
    """Shutdown hooks run where the startup hooks had all run."""

    async def lifespan(app):
        seen.append("enter")
        if place == "lifespan":
            raise OSError("refused")
        yield
        seen.append("leave")

    app = RQueue("memory://", lifespan=lifespan)

    @app.on_startup
    async def startup():
        if place == "startup hook":
            raise OSError("refused")

    @app.on_startup
    async def later():
        seen.append("later")

    app.on_shutdown(lambda: seen.append("shutdown"))

    def broken():
        raise OSError("refused")

    @app.task
    async def task(a: str = Depends(noting(seen, "a")), broken: str = Depends(broken)): ...

    resources = Resources(app)
    with pytest.raises(StartupFailed, match=rf"^{place} .* failed: OSError: refused$"):
        await resources.start()
    await resources.close()
    assert (
        seen
        == {
            "lifespan": ["enter"],
            "startup hook": ["enter", "leave"],
            "resource": ["enter", "later", "open a", "close a", "shutdown", "leave"],
        }[place]
    )


async def test_a_hook_may_call_a_task_that_needs_a_resource(tasks, seen, client_of):
    @tasks.task
    async def refresh(client: str = Depends(client_of)) -> None:
        seen.append(f"refreshed by {client}")

    @tasks.on_startup
    async def warm_up():
        await refresh()

    resources = Resources(tasks)
    await resources.start()
    await resources.close()
    assert seen == ["open client", "refreshed by client", "close client"]
