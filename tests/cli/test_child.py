"""A worker process as its supervisor starts it: what it says, what it hears, and how it ends when nobody is there."""

import asyncio
import json
import os
import signal
import socket
from dataclasses import asdict

import pytest

from rqueue.cli.child import Supervised
from rqueue.errors import ConfigError
from rqueue.supervisor.channel import Channel
from rqueue.supervisor.settings import ProcessSettings
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.worker.board import Board, Figures, Noted
from rqueue.worker.inflight import ClaimedJob

from .conftest import DEADLINE_S, TASKS, Process, is_alive

SLOTS = 4
SPAWN = '''
import subprocess

@app.task
def spawn() -> int:
    """Start a program that gets every descriptor that can be inherited."""
    null = subprocess.DEVNULL
    return subprocess.Popen(["sleep", "600"], stdin=null, stdout=null, stderr=null, close_fds=False).pid
'''


class ByHand(Process):
    """A worker process, with the test in its supervisor's place."""

    def __init__(self, directory, url, app=None, **worker):
        self.channel, theirs = Channel.pair()
        self.board = Board(slots=SLOTS)
        with theirs:
            fds = (theirs.fileno(), self.board.fd)
            super().__init__(*map(str, (*fds, SLOTS)), cwd=directory, module="rqueue.cli.child", pass_fds=fds)
        settings = ProcessSettings(app, url, None, {"concurrency": SLOTS, **worker}, "debug", "json")
        self.channel.tell_now(asdict(settings))
        self.channel._socket.settimeout(DEADLINE_S)

    def says(self):
        return self.channel.read_now()

    def until(self, what):
        """What it says of that, when it does."""
        while what not in (message := self.says()):
            pass
        return message[what]

    def leave_alone(self):
        """Let it see what it sees when its supervisor has died."""
        self.channel._socket.shutdown(socket.SHUT_RDWR)

    def close(self):
        super().close()
        self.channel.close()
        self.board.close()


@pytest.fixture
def by_hand(project, redis_url):
    (project / "tasks.py").write_text(TASKS + SPAWN)
    started = []

    def start(*, url=redis_url, **settings):
        started.append(ByHand(project, url, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


def push(store, job_id, task, *arguments):
    store.lpush("rqueue:{default}", json.dumps({"task": f"tasks.{task}", "args": arguments, "id": job_id}))


def waiting(store):
    return [json.loads(raw[raw.index("{") :])["id"] for raw in store.lrange("rqueue:{default}", 0, -1)]


def test_it_says_what_its_app_is_and_who_it_is_before_it_registers_and_that_it_works(by_hand, store, redis_url):
    """Redis holds back all writes: a process that registered first would say nothing."""
    store.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        child = by_hand()
        app = child.says()["app"]
        worker = child.says()["worker"]
        assert store.zcard("rqueue:{default}:workers") == 0
    finally:
        store.execute_command("CLIENT", "UNPAUSE")
    assert child.says() == {"ready": True}
    assert (app["url"], app["namespace"], app["queues"]) == (redis_url, "rqueue", ["default", "email"])
    assert app["tasks"]["tasks.fail"] == {"max_retries": 0}
    assert store.zrange("rqueue:{email}:workers", 0, -1) == [worker]
    figures = child.board.read()
    assert 0 < figures.ready_s <= figures.moved_s
    assert json.loads(child.board.card())["pid"] == child.pid


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"app": "absent:app"}, "rqueue: app 'absent:app': there is no module 'absent' in "),
        ({"url": "memory://"}, "memory:// is in one process only; a worker process needs a Redis"),
        ({"lease_s": 0}, "rqueue: lease 0: a number above 0"),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(by_hand, settings, text):
    child = by_hand(**settings)
    assert child.end() == 2
    (line,) = child.lines
    assert text in line
    with pytest.raises(EOFError):
        child.says()


def test_without_its_supervisor_it_lets_its_jobs_end_and_leaves(by_hand, store, project):
    fifo = project / "fifo"
    os.mkfifo(fifo)
    child = by_hand(concurrency=1, shutdown_timeout_s=600)
    child.until("ready")
    push(store, "running", "hold", str(fifo))
    child.event("job started", id="running")
    child.leave_alone()
    child.event("worker stopping", running=1)
    push(store, "later", "add", 1, 2)
    fifo.write_text("the end")
    assert child.end() == 0
    child.event("supervisor is gone")
    assert json.loads(store.get("rqueue:{default}:result:running"))["result"] == "the end"
    assert waiting(store) == ["later"]
    assert store.zcard("rqueue:{default}:workers") == 0


def test_without_its_supervisor_it_gives_back_what_does_not_end_in_time(by_hand, store):
    child = by_hand(shutdown_timeout_s=0)
    child.until("ready")
    push(store, "a", "hang")
    child.event("job started", id="a")
    child.leave_alone()
    assert child.end() == 0
    child.event("job released", id="a")
    assert waiting(store) == ["a"]
    assert store.zcard("rqueue:{default}:workers") == 0


def test_what_its_jobs_start_does_not_keep_the_channel_open(by_hand, store):
    """Else a supervisor would wait for the last words of a process that is dead."""
    child = by_hand()
    child.until("ready")
    push(store, "a", "spawn")
    child.event("job done", id="a")
    program = json.loads(store.get("rqueue:{default}:result:a"))["result"]
    try:
        child.signal(signal.SIGKILL)
        child.end()
        with pytest.raises(EOFError):
            child.says()
        assert is_alive(program)
    finally:
        os.kill(program, signal.SIGKILL)


def test_what_its_supervisor_says_of_the_lease_counts(by_hand):
    """It goes on under a new id, and says so first, as at its start."""
    child = by_hand(pool="prefork", concurrency=1)
    worker = child.until("worker")
    child.until("ready")
    child.channel.tell_now({"lease": worker, "sent_s": 0.0, "is_registered": False})
    again = child.until("worker")
    assert again != worker
    assert child.event("lease lost, going on under a new id")["was"] == worker


# The supervisor, as the worker sees it


class Heard:
    """In the place of the process: what it is told."""

    def __init__(self):
        self.worker, self.id = self, "host:1:a"
        self.told = []
        self.stopped = asyncio.Event()

    def lease_told(self, *told):
        self.told.append(told)

    def stop(self, times):
        """The supervisor is gone."""
        self.told.append(times)
        self.stopped.set()


@pytest.fixture
async def pair():
    """A worker's side and the supervisor's."""
    ours, theirs = Channel.pair()
    board, other = Board(slots=SLOTS), Channel(theirs)
    yield Supervised(other, board, keeps_lease=True, standby=False), ours, board
    for each in (ours, other, board):
        each.close()


def job(job_id, deadline_s):
    message = Message.build(Header(id=job_id), b"{}")
    return ClaimedJob(Keys().queue("q"), "w", message, job_id, rank=5, deadline_s=deadline_s)


async def test_it_tells_of_ids_and_queues_at_once(pair):
    supervised, supervisor, _ = pair
    supervised.registering("host:1:a")
    supervised.serves("more")
    assert [supervisor.read_now(), supervisor.read_now()] == [{"worker": "host:1:a"}, {"serves": "more"}]


async def test_it_is_ready_once_and_its_figures_are_on_the_board(pair):
    supervised, supervisor, board = pair
    supervised.report(Figures(1.0, 1.0), b"first")
    supervised.report(Figures(2.0, 1.0, 3), b"second")
    supervised.serves("q")
    assert [supervisor.read_now(), supervisor.read_now()] == [{"ready": True}, {"serves": "q"}]
    assert (board.read(), board.card()) == (Figures(2.0, 1.0, 3), b"second")


async def test_only_jobs_with_a_limit_are_on_the_board_and_only_while_they_run(pair):
    supervised, _, board = pair
    limited, free = job("a", 5.0), job("b", None)
    for each in (limited, free):
        supervised.began(each)
    assert list(board.overdue(6.0)) == [Noted(5.0, "q", "a")]
    for each in (limited, free):
        supervised.ended(each)
    assert list(board.overdue(6.0)) == []


async def test_two_runs_of_one_job_are_told_apart(pair):
    """Its lease was lost, and it came back while the old run went on."""
    supervised, _, board = pair
    old, new = job("a", 5.0), job("a", 9.0)
    supervised.began(old)
    supervised.began(new)
    supervised.ended(old)
    assert list(board.overdue(10.0)) == [Noted(9.0, "q", "a")]
    supervised.ended(new)
    assert list(board.overdue(10.0)) == []


async def test_a_question_that_nobody_waits_for_does_not_keep_it_from_leaving(pair):
    supervised, supervisor, _ = pair
    heard = Heard()
    watching = asyncio.create_task(supervised.watch(heard))
    question = asyncio.create_task(supervised.ask("pool_grow", {"n": 1}))
    await asyncio.sleep(0)
    question.cancel()
    supervisor.close()
    await asyncio.wait_for(watching, DEADLINE_S)
    assert heard.told == [1]


async def test_it_hears_of_its_lease_and_at_last_that_nobody_keeps_it(pair):
    supervised, supervisor, _ = pair
    heard = Heard()
    watching = asyncio.create_task(supervised.watch(heard))
    supervisor.tell_now({"lease": "host:1:a", "sent_s": 1.5, "is_registered": True})
    supervisor.tell_now({"lease": "host:1:before", "sent_s": 1.5, "is_registered": False})
    supervisor.close()
    async with asyncio.timeout(DEADLINE_S):
        await heard.stopped.wait()
    assert heard.told == [("host:1:a", 1.5, True), 1]
    assert not supervised.keeps_lease
    await watching


async def test_each_question_gets_its_own_answer(pair):
    supervised, supervisor, _ = pair
    watching = asyncio.create_task(supervised.watch(Heard()))
    questions = [asyncio.create_task(supervised.ask("pool_grow", {"n": number})) for number in (1, 2)]
    await asyncio.sleep(0)
    asked = [supervisor.read_now(), supervisor.read_now()]
    assert [(each["verb"], each["arguments"]) for each in asked] == [("pool_grow", {"n": 1}), ("pool_grow", {"n": 2})]
    for each in reversed(asked):
        supervisor.tell_now({"answer": each["ask"], "value": {"ok": {"processes": each["arguments"]["n"]}}})
    supervisor.tell_now({"answer": 99, "value": {"ok": "nobody asked"}})
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*questions) == [{"processes": 1}, {"processes": 2}]
    late = asyncio.create_task(supervised.ask("pool_grow", {"n": 3}))
    await asyncio.sleep(0)
    supervisor.close()
    await watching
    with pytest.raises(ConfigError, match="is gone"):
        await late
    with pytest.raises(ConfigError, match="is gone"):
        await supervised.ask("pool_grow", {"n": 4})


async def test_a_successor_waits_for_its_turn(pair):
    _, supervisor, board = pair
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    standby = Supervised(other, board, keeps_lease=True, standby=True)
    watching = asyncio.create_task(standby.watch(Heard()))
    turn = asyncio.create_task(standby.turn())
    await asyncio.sleep(0)
    assert not turn.done()
    ours.tell_now({"turn": True})
    await asyncio.wait_for(turn, DEADLINE_S)
    ours.close()
    await watching
    other.close()
