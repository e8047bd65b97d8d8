"""SIGKILL before and after the script of each verb: what is stored then is what it was, or what the verb makes of it.

Seen to fail with `Broker.discard` in two steps, with a verb without its call, and with a call that changes nothing.
"""

import asyncio
import importlib.util
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.scripts import VERBS
from rqueue.wire.keys import Keys

from .verbs import BASE, CALLS, MORE, WINDOWS

_path = Path(__file__).parents[1] / "broker" / "conftest.py"
_spec = importlib.util.spec_from_file_location("rqueue_broker_conftest", _path)
assert _spec is not None
assert _spec.loader is not None
stored = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stored)

MOMENT = re.compile(rb"\d{13}")
CHANGE_NOTHING = {"audit"}


class Stage:
    """A database of the server, and what is stored in it."""

    def __init__(self, url: str) -> None:
        self.broker = Broker(Endpoint(url), Keys())

    async def seed(self, verb: str) -> None:
        await self.broker._link.call(b"FLUSHDB")
        await stored.seed_broker(self.broker, {**BASE, **MORE.get(verb, {})})

    async def dump(self) -> dict[str, Any]:
        """What is stored, without the moments that are stored as text."""
        return {name: _timeless(value) for name, value in (await stored.dump_of_broker(self.broker)).items()}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(each, bytes) for each in value.values()):
        return {name: MOMENT.sub(b"<ms>", each) for name, each in value.items()}
    return value


@pytest.fixture
async def stages(redis_url: str) -> AsyncIterator[tuple[Stage, Stage]]:
    """One where a process is killed, and one where nobody is."""
    places = [Stage(f"{redis_url.rpartition('/')[0]}/{number}") for number in (0, 1)]
    yield places[0], places[1]
    for place in places:
        await place.broker.close()


def test_each_verb_has_its_call():
    assert set(CALLS) == set(VERBS)


async def test_a_process_killed_in_a_verb_has_done_it_or_not(redis_url, stages, until_equal):
    """All verbs in all windows. Breaks when a state change takes two steps."""
    killed, whole = stages
    command = [sys.executable, str(Path(__file__).with_name("verbs.py")), f"{redis_url.rpartition('/')[0]}/0"]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for verb in sorted(CALLS):
        await whole.seed(verb)
        before = await whole.dump()
        await whole.broker.sync_clock()
        await CALLS[verb](whole.broker)
        after = await whole.dump()
        assert (before == after) is (verb in CHANGE_NOTHING), verb
        for window in WINDOWS:
            await killed.seed(verb)
            process.stdin.write(f"{verb} {window}\n".encode())
            assert await process.stdout.readline() == b"dead\n", (verb, window)
            await until_equal(killed.dump, before if window == "before" else after, (verb, window))
    process.stdin.close()
    assert await process.wait() == 0


@pytest.fixture
def until_equal():
    """What a dead process has sent is on its way for a moment: look until it is there."""

    async def look(dump, expected, about):
        for _ in range(200):
            if (found := await dump()) == expected:
                return
        assert found == expected, about

    return look
