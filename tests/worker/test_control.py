"""control: hears requests and answers them; nothing that is said on the channel ends a worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from rqueue.broker.subscription import Subscription
from rqueue.client.inspector import Inspector
from rqueue.wire.control import Answer, ControlRequest
from rqueue.worker.control import Control
from rqueue.worker.lease import Lease


class Line:
    """The control channel, as somebody without an inspector uses it."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._listening = asyncio.Event()
        self._subscription = Subscription(
            broker.endpoint.connection,
            lambda _, data: self.answers.put_nowait(Answer.decode(data)),
            lambda _: self._listening.set(),
        )
        self._subscription.add(b"answers")

    async def open(self) -> None:
        await self._listening.wait()

    async def close(self) -> None:
        await self._subscription.close()

    async def say(self, data: bytes) -> None:
        heard = await self.broker.publish(self.broker.keys.control, data)
        assert heard == 1 or self.broker.is_cluster  # where only those at the node that was asked are counted

    async def ask(self, verb: str, args: dict[str, Any] | None = None, to: list[str] | None = None) -> None:
        await self.say(ControlRequest("1", verb, args or {}, to, "answers").encode())

    async def answer(self) -> Answer:
        async with asyncio.timeout(5):
            return await self.answers.get()


@pytest.fixture
async def line(broker) -> AsyncIterator[Line]:
    line = Line(broker)
    async with asyncio.timeout(5):
        await line.open()
    yield line
    await line.close()


def double(number: int, times: int = 2) -> int:
    return number * times


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text


def broken() -> None:
    raise ZeroDivisionError("no")


VERBS = {"double": double, "later": later, "broken": broken, "odd": lambda: {1: object()}}


@pytest.fixture
async def control(broker) -> AsyncIterator[Callable[..., Awaitable[Control]]]:
    """A control of its own, which runs; its worker's id is w:1:a."""
    tasks = []

    async def start(**more: Any) -> Control:
        lease = Lease(15)
        lease.worker = "w:1:a"
        control = Control(broker, lease, VERBS, **more)
        tasks.append(asyncio.create_task(control.run()))
        async with asyncio.timeout(5):
            await control.listening.wait()
        return control

    yield start
    for task in tasks:
        task.cancel()
        await asyncio.wait([task])


async def test_a_verb_is_done_and_answered(control, line):
    await control()
    await line.ask("double", {"number": 4})
    assert await line.answer() == Answer("w:1:a", 8)
    await line.ask("later", {"text": "x"})
    assert await line.answer() == Answer("w:1:a", "x")


async def test_only_who_is_addressed_answers(control, line):
    await control()
    await line.ask("double", {"number": 1}, to=["another:1:b"])
    await line.ask("double", {"number": 2}, to=["another:1:b", "w:1:a"])
    assert await line.answer() == Answer("w:1:a", 4)


@pytest.mark.parametrize(
    ("verb", "args", "error"),
    [
        ("no_such", {}, "the verb 'no_such' is not known here"),
        ("double", {}, "double: missing a required argument: 'number'"),
        ("double", {"number": 1, "more": 2}, "double: got an unexpected keyword argument 'more'"),
        ("broken", {}, "ZeroDivisionError('no')"),
        ("odd", {}, "the answer is no JSON: Dict key must be str"),
    ],
)
async def test_what_cannot_be_done_is_an_error_and_the_next_request_is_answered(control, line, log, verb, args, error):
    await control()
    await line.ask(verb, args)
    answer = await line.answer()
    assert (answer.ok, answer.error) == (None, error)
    await line.ask("double", {"number": 1})
    assert (await line.answer()).ok == 2


async def test_what_cannot_be_read_is_logged_and_nothing_more(control, line, log):
    await control()
    for data in (b"{", b"\xff", b"[]", b"null"):
        await line.say(data)
    await log.heard("control request not readable", 4)
    await line.ask("double", {"number": 1})
    assert (await line.answer()).ok == 2


async def test_a_request_that_is_wrong_in_part_is_answered_where_it_says(control, line, log):
    await control()
    await line.say(b'{"v":2,"id":"1","verb":"double","reply":"answers"}')
    assert "version 2" in (await line.answer()).error
    await line.say(b'{"v":1,"id":"1","verb":"double","args":{"number":3}}')  # who wants no answer gets none
    await line.ask("double", {"number": 1})
    assert (await line.answer()).ok == 2


async def test_what_is_the_supervisors_is_passed_on(control, line):
    """With its arguments, also those that were left out, and the request's id: each worker passes on the same one."""
    heard = []

    async def upward(verb: str, about: dict[str, Any]) -> dict[str, Any]:
        heard.append((verb, about))
        return {"slots": 9}

    await control(upward=upward, passed_on=frozenset(["double"]))
    await line.ask("double", {"number": 4})
    assert (await line.answer()).ok == {"slots": 9}
    await line.ask("later", {"text": "x"})
    assert (await line.answer()).ok == "x"
    assert heard == [("double", {"number": 4, "times": 2, "request": "1"})]


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_it_listens_again_after_a_break(control, line, broker, until):
    listening = (await control()).listening
    listening.clear()
    await broker._link.call(b"CLIENT", b"KILL", b"TYPE", b"pubsub")
    async with asyncio.timeout(5):
        await listening.wait()
    assert await broker.publish(broker.keys.control, b"{") == 1


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_dead_connection_is_noticed_and_replaced(control, broker, monkeypatch, new_server):
    """A firewall forgets the connection: no reset comes, and nothing is heard any more. The server stalls here."""
    monkeypatch.setattr("rqueue.worker.control.PING_S", 0.1)
    listening = (await control()).listening
    listening.clear()
    # CLIENT PAUSE ALL holds replies to everything, a ping included, and connections stay open.
    await broker._link.call(b"CLIENT", b"PAUSE", b"1000", b"ALL")
    async with asyncio.timeout(5):
        await listening.wait()


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_nothing_is_left_when_it_ends(app, broker, until):
    """The subscription ends with the worker."""
    async with app, app.worker() as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        assert await broker.publish(app.keys.control, b"{}") == 1
    await until(lambda: heard_by_nobody(broker))


async def heard_by_nobody(broker):
    return await broker.publish(broker.keys.control, b"{}") == 0


async def test_a_worker_answers_while_it_drains(app, gate):
    """Breaks when it listens only as long as it fetches."""

    @app.task(name="t")
    async def t():
        await gate()

    async with app, app.worker() as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        await t.enqueue()
        await gate.reached()
        worker.stop()
        await worker._fetcher._has_stopped.wait()
        (answer,) = (await Inspector(app).ask("active", timeout=5)).answers
        assert [job["task"] for job in answer.ok] == ["t"]
        (answer,) = (await Inspector(app).ask("add_consumer", queue="more", timeout=5)).answers
        assert answer.error == "the worker stops"
        gate.open()


async def test_keys_are_not_needed(app, broker, stored):
    """Nothing of it is stored."""
    async with app, app.worker() as worker:
        async with asyncio.timeout(5):
            await worker._control.listening.wait()
        before = {name for name in await stored(broker) if "control" in name}
        await Inspector(app).ask("ping", timeout=5)
        assert before == {name for name in await stored(broker) if "control" in name} == set()


def test_a_request_can_be_written_by_hand():
    request = ControlRequest.decode(orjson.dumps({"v": 1, "id": "x", "verb": "ping"}))
    assert request.problem is None


async def test_an_error_of_our_own_ends_no_worker(control, line, log, monkeypatch):
    """Breaks when it goes up into the worker's task group."""
    mine, healthy = await control(), Control.tick

    async def broken(*_):
        monkeypatch.setattr(Control, "tick", healthy)
        raise ZeroDivisionError("no")

    monkeypatch.setattr(Control, "tick", broken)
    await line.say(b"{}")
    assert (await log.heard("control failed"))["error"] == "ZeroDivisionError('no')"
    await line.ask("double", {"number": 1})
    assert (await line.answer()).ok == 2
    assert mine.listening.is_set()
