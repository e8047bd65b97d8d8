"""child: one process as its supervisor sees it. What a whole fleet does with it is in test_supervisor."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from rqueue.supervisor.child import Child, describe
from rqueue.supervisor.settings import FleetSettings, ProcessSettings

from .fleet import is_alive

# In place of a worker: it says what it has heard, and does as it is told.
PROGRAM = """
import os, signal, socket, subprocess, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
lines, words = channel.makefile("r"), channel.makefile("w")
settings = lines.readline()
def say(text):
    words.write(text + "\\n")
    words.flush()
say('{"worker": "w:1"}')
say('{"heard": %s}' % settings.strip())
MORE
"""
READY = "say('{\"ready\": true}')\n"
LISTEN = "for line in lines: say('{\"heard\": %s}' % line.strip())"


@pytest.fixture
async def start():
    """Start a child that runs this program; what it says is in a queue."""
    children = []

    def begin(more, standby=False):
        came = asyncio.Queue()
        program = PROGRAM.replace("MORE", more)
        process = ProcessSettings(app="x:y", worker={"concurrency": 3})
        settings = FleetSettings(process, command=(sys.executable, "-c", program))
        child = Child(settings, 0, standby, lambda _, message: came.put_nowait(message))
        children.append(child)
        return child, came

    yield begin
    for child in children:
        child.kill("the test is over")
        if child.code is None:
            child.ended((await asyncio.to_thread(os.waitpid, child.pid, 0))[1])
        child.close()


async def heard(came):
    return await asyncio.wait_for(came.get(), 20)


async def test_it_hears_what_it_is_and_is_heard(start):
    child, came = start(READY + LISTEN, standby=True)
    assert await heard(came) == {"worker": "w:1"}
    settings = (await heard(came))["heard"]
    assert (settings["app"], settings["worker"], settings["standby"]) == ("x:y", {"concurrency": 3}, True)
    assert await heard(came) == {"ready": True}
    assert (child.workers, child.is_ready, child.is_spent, child.is_standby) == (["w:1"], True, False, True)
    assert describe(child) == {"pid": child.pid, "worker": "w:1"}
    child.take_place()
    assert await heard(came) == {"heard": {"turn": True}}
    assert not child.is_standby


async def test_it_is_asked_to_stop_by_words_and_no_more_often_than_asked_for(start):
    """A signal would interrupt the call that a job's function is in."""
    child, came = start(READY + LISTEN)
    while await heard(came) != {"ready": True}:
        pass
    child.stop(1, "first")
    child.stop(1, "first again")
    child.stop(2, "second")
    assert [await heard(came), await heard(came)] == [{"heard": {"stop": times}} for times in (1, 2)]
    assert (child.stops, child.why, child.is_staying) == (2, "first", False)


async def test_one_that_does_not_listen_yet_is_asked_by_a_signal(start):
    child, came = start("time.sleep(600)")
    await heard(came)
    child.stop(1, "enough")
    child.ended((await asyncio.to_thread(os.waitpid, child.pid, 0))[1])
    assert child.code == -signal.SIGTERM


async def test_with_one_that_crashed_goes_what_it_had_started(start):
    child, came = start("say('{\"pid\": %d}' % subprocess.Popen(['sleep', '600'], close_fds=False).pid); os._exit(3)")
    await heard(came)
    await heard(came)
    program = (await heard(came))["pid"]
    assert is_alive(program)
    child.ended((await asyncio.to_thread(os.waitpid, child.pid, 0))[1])
    assert child.code == 3
    async with asyncio.timeout(20):
        while is_alive(program):
            await asyncio.sleep(0.01)


async def test_its_last_words_are_heard_after_its_end(start):
    child, came = start("[say('{\"n\": %d}' % n) for n in range(100)]; os._exit(0)")
    child.ended((await asyncio.to_thread(os.waitpid, child.pid, 0))[1])
    await asyncio.wait_for(child.last_words(), 20)
    assert came.qsize() == 102
    assert child.code == 0


def descriptors():
    return len(list(Path("/dev/fd").iterdir()))


async def test_what_cannot_be_started_leaves_nothing_open():
    before = descriptors()
    settings = FleetSettings(ProcessSettings(), command=("/nowhere/python",))
    with pytest.raises(OSError, match="nowhere"):
        Child(settings, 0, False, lambda *_: None)
    assert descriptors() == before
