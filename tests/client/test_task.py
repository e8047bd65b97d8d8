"""A registered function: still callable, its calls checked against its signature before anything is sent."""

import functools
import inspect
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from uuid import UUID

import pytest

from rqueue import ConfigError, Context, Depends, RQueue
from rqueue.client.task import Prepared, Signature


@pytest.fixture
def tasks() -> RQueue:
    return RQueue("memory://")


def test_calling_a_task_runs_the_function_here(tasks):
    @tasks.task
    def add(a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    assert add(1) == 3
    assert add(1, b=5) == 6
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add two numbers.", __name__)
    assert inspect.signature(add) == inspect.signature(add.function)
    assert repr(add) == f"Task('{__name__}.add')"


async def test_calling_a_coroutine_task_gives_its_coroutine(tasks):
    @tasks.task(queue="email")
    async def add(a: int, b: int) -> int:
        return a + b

    assert await add(1, 2) == 3


def test_what_a_task_is_made_of(tasks):
    @tasks.task
    async def on_the_loop(): ...

    @tasks.task(bind=True, max_retries=7)
    def in_a_thread(self): ...

    assert (on_the_loop.is_coroutine, on_the_loop.is_bound) == (True, False)
    assert (in_a_thread.is_coroutine, in_a_thread.is_bound) == (False, True)
    assert in_a_thread.defaults.max_retries == 7


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1,), {}, "missing a required argument: 'b'"),
        ((1, 2, 3, 4), {}, "too many positional arguments"),
        ((1, 2), {"d": 1}, "unexpected keyword argument 'd'"),
        ((1,), {"a": 1, "b": 2}, "multiple values for argument 'a'"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(tasks, args, kwargs, text):
    @tasks.task
    async def add(a: int, b: int, c: int = 0) -> int:
        return a + b + c

    calls = [add.s, add.options(priority=1).s, add.delay, lambda *a, **k: add.apply_async(a, k)]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call(*args, **kwargs)
        assert text in str(caught.value)
        assert str(caught.value).startswith(f"{add.name}(a: int, b: int, c: int = 0)")
    with pytest.raises(TypeError):
        await add.enqueue(*args, **kwargs)
    assert not tasks._sessions
    assert tasks._portal is None


def test_a_bound_tasks_self_is_not_an_argument(tasks):
    @tasks.task(bind=True)
    def job(self: Context, a: int) -> None: ...

    assert job.s(1).args == (1,)
    with pytest.raises(TypeError, match="too many positional"):
        job.s(None, 1)


def test_a_bound_task_needs_a_first_parameter(tasks):
    for function in (lambda: None, lambda *, a: None):
        with pytest.raises(TypeError, match="needs a first parameter"):
            tasks.task(bind=True, name="t")(function)
    tasks.task(bind=True, name="takes any")(lambda *args: None)


def test_a_partial_needs_a_name_and_says_so(tasks):
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(ConfigError, match="name"):
        tasks.task(functools.partial(add, 1))
    named = tasks.task(name="add.one")(functools.partial(add, 1))
    assert named.s(2).args == (2,)


def client() -> str:
    return "the client"


async def test_what_the_worker_gives_is_no_argument(tasks):
    """Nor is it in the signature that errors show; what stands behind it is given by name."""

    @tasks.task
    async def fetch(url: str, client: str = Depends(client), depth: int = 1) -> None: ...

    @tasks.task(bind=True)
    async def takes_any(self: Context, *urls: str, client: str = Depends(client), **more: int) -> None: ...

    assert fetch.s("x", depth=2).kwargs == {"depth": 2}
    assert fetch.needs == takes_any.needs == {"client": client}
    assert takes_any.s("x", "y", depth=2).args == ("x", "y")
    for wrong in (lambda: fetch.s("x", client="mine"), lambda: fetch.delay("x", client="mine")):
        with pytest.raises(TypeError, match="unexpected keyword argument 'client'") as caught:
            wrong()
        assert str(caught.value).startswith(f"{fetch.name}(url: str, *, depth: int = 1) -> None: ")
    with pytest.raises(TypeError, match="unexpected keyword argument 'client'"):
        await takes_any.enqueue("x", client="mine")
    with pytest.raises(TypeError, match="too many positional arguments"):
        await fetch.enqueue("x", "mine")
    assert not tasks._sessions


def test_a_task_without_resources_needs_none(tasks):
    @tasks.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert add.needs == {}


def test_a_signature_is_the_call_and_its_options(tasks):
    @tasks.task
    def add(a: int, b: int) -> int:
        return a + b

    prepared = add.options(priority=9)
    assert isinstance(prepared, Prepared)
    assert prepared.s(1, b=2) == Signature(add, (1,), {"b": 2}, prepared._options)
    assert add.s(1, 2).options.priority is None


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


async def test_values_travel_as_their_json_and_bytes_as_themselves(app):
    @app.task
    async def echo(*args: object, **kwargs: object) -> list:
        return [list(args), kwargs]

    uuid = UUID("12345678-1234-5678-1234-567812345678")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with app, app.worker():
        sent = [None, True, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, "ü\u0000\U0001f600", b"\x00\xff"]
        sent += [[b"a", {"b": b"c"}], {"$bytes": "AA=="}, {"$dict": {}}]
        job = await echo.enqueue(
            *sent, (1, 2), moment, uuid, Point(1, 2), Colour.RED, empty=b"", deep={"a": [{"b": 1}]}
        )
        args, kwargs = await job.result(timeout=10)
        assert args[: len(sent)] == sent
        assert args[len(sent) :] == [[1, 2], "2026-01-02T03:04:05+00:00", str(uuid), {"x": 1, "y": 2}, "red"]
        assert kwargs == {"empty": b"", "deep": {"a": [{"b": 1}]}}


class Opaque:
    """Something that JSON cannot carry."""


@pytest.mark.parametrize(
    "value",
    [{1, 2}, Opaque(), 2**64, float("nan"), [float("inf")], {1: 2}, {"a": {("b",): 1}}, 1j, "\ud800", lambda: None],
    ids=lambda value: ascii(value)[:20],
)
async def test_a_value_that_is_not_json_is_refused_by_its_arguments_name(app, store, value):
    @app.task
    async def echo(*args: object, **kwargs: object) -> None: ...

    async with app:
        with pytest.raises(TypeError, match=r"echo: argument 2 cannot be sent as JSON"):
            await echo.enqueue(1, value, a=3)
        with pytest.raises(TypeError, match=rf"argument 'bad' cannot be sent as JSON.*{type(value).__name__}"):
            await echo.enqueue(1, good=2, bad=value)
        with pytest.raises(TypeError, match=r"argument 1"):
            await app.enqueue_many([echo.s(1), echo.s(value)])
        assert store(app).names() == set()


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda a, b: None,
        lambda a, b=1: None,
        lambda a, /, b=1: None,
        lambda *args: None,
        lambda a, *args: None,
        lambda *, a: None,
        lambda a, *, b: None,
        lambda a, *, b=1: None,
        lambda a, **kwargs: None,
    ],
    ids=lambda function: str(inspect.signature(function)),
)
@pytest.mark.parametrize("count", range(4))
def test_counting_arguments_says_what_binding_them_would(app, function, count):
    """Breaks when a call is let through, or refused, that Python's own rules would not."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        fits = False
    else:
        fits = True
    task = app.task(name="counted")(function)
    if fits:
        task.s(*range(count))
    else:
        with pytest.raises(TypeError, match="counted"):
            task.s(*range(count))


async def test_wrong_arguments_are_said_when_it_is_awaited(app):
    """So that of several calls at once each fails alone. Breaks when the call itself raises."""
    add = app.task(name="add")(lambda a, b: None)
    for call in (add.enqueue(1), add.options(priority=3).enqueue(1)):
        with pytest.raises(TypeError, match="missing a required argument: 'b'"):
            await call
