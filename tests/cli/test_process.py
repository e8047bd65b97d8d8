"""A worker process's life: it waits for Redis, ends by signals, and does not stay because of a thread."""

import os
import signal
import threading

import pytest

from rqueue.cli.process import REPLACE, watch_threads

# A process that the commands do not start yet: a pool, and tasks that stay.
PROCESS = """
import sys
from functools import partial
from rqueue.cli.logs import LogFormat, LogLevel, configure
from rqueue.cli.process import WorkerProcess
from more import app

pool = sys.argv[1]
configure(LogLevel.DEBUG, LogFormat.JSON)
sys.exit(WorkerProcess(partial(app.worker, pool=pool, concurrency=int(sys.argv[2])), "the url", pool).run())
"""
MORE = """
import asyncio, os, threading, time
from rqueue import RQueue
from rqueue.worker import limits

limits.GRACE_S = 0.1
app = RQueue(os.environ["RQUEUE_URL"])

@app.task
async def on_loop() -> bool:
    return threading.current_thread() is threading.main_thread()

@app.task
def in_function() -> bool:
    return threading.current_thread() is threading.main_thread()

@app.task(time_limit=0.2)
def blocked(fifo: str) -> str:
    with open(fifo) as pipe:
        return pipe.read()

@app.task
def hold(fifo: str) -> str:
    with open(fifo) as pipe:
        return pipe.read()

@app.task(time_limit=0.2)
def stuck() -> None:
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            pass

@app.task(time_limit=0.2)
async def stuck_on_loop() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:
            pass
"""


@pytest.fixture
def fifo(project):
    path = project / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def start_process(directory, on_redis, start):
    """Start a worker process of a pool."""
    (directory / "run.py").write_text(PROCESS)
    (directory / "more.py").write_text(MORE)
    return lambda pool, concurrency=1: start(pool, str(concurrency), program="run.py")


def push(store, *calls, module="tasks"):
    """Enqueue as any producer does: id, task, arguments."""
    for job_id, task, arguments in calls:
        store.lpush("rqueue:{default}", f'{{"task":"{module}.{task}","args":{arguments},"id":"{job_id}"}}')


def waiting(store):
    """Ids of the waiting jobs, the next first."""
    return [raw.split()[5] if raw[0] == "1" else raw.split('"')[-2] for raw in store.lrange("rqueue:{default}", 0, -1)][
        ::-1
    ]


def leftovers(store):
    """What a worker left beside its tombstones, which are strings that last for a day."""
    mine = [key for key in store.scan_iter() if ":processing:" in key or ":worker" in key]
    return [key for key in mine if store.type(key) != "string" or store.ttl(key) < 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_jobs_end_and_gives_back_the_rest(project, on_redis, store, fifo, start_worker, number):
    """Short jobs come first, so that the worker holds more than it runs when the long one has started."""
    worker = start_worker("-c", "1", "--shutdown-timeout", "30")
    worker.event("worker started")
    short = [(f"short-{number}", "add", "[1,2]") for number in range(100)]
    rest = [(f"rest-{number}", "add", "[1,2]") for number in range(5)]
    push(store, *short, ("running", "hold", f'["{fifo}"]'), *rest)
    worker.event("job started", id="running")
    worker.signal(number)
    if worker.event("worker stopping", running=1)["held"]:
        worker.event("job released")  # what has not started goes back before what runs has ended
    fifo.write_text("the end")  # returns when the job reads
    assert worker.end() == 0
    worker.event("job done", id="running")
    assert waiting(store) == [job_id for job_id, *_ in rest]
    assert '"result":"the end"' in store.get("rqueue:{default}:result:running")
    assert leftovers(store) == []


def test_the_second_signal_gives_everything_back_at_once(project, on_redis, store, fifo, start_worker):
    """A coroutine and a thread that would never end; the thread cannot keep the process."""
    worker = start_worker("-c", "2", "--shutdown-timeout", "600")
    worker.event("worker started")
    push(store, ("coroutine", "hang", "[]"), ("thread", "hold", f'["{fifo}"]'), ("later", "add", "[1,2]"))
    worker.event("job started", id="coroutine")
    worker.event("job started", id="thread")
    worker.signal(signal.SIGTERM)
    worker.event("worker stopping", running=2)
    worker.signal(signal.SIGTERM)
    worker.event("job released", id="coroutine")
    worker.event("job released", id="thread")
    worker.event("threads still run, leaving without them")
    assert worker.end() == 0
    assert set(waiting(store)) == {"coroutine", "thread", "later"}
    assert leftovers(store) == []


def test_sigquit_is_like_a_second_signal(project, on_redis, store, start_worker):
    worker = start_worker("--shutdown-timeout", "600")
    worker.event("worker started")
    push(store, ("coroutine", "hang", "[]"))
    worker.event("job started", id="coroutine")
    worker.signal(signal.SIGQUIT)
    assert worker.end() == 0
    worker.event("job released", id="coroutine")  # the process itself has given it back: it was not killed
    assert waiting(store) == ["coroutine"]


def test_a_worker_waits_for_redis(project, new_server, start_worker):
    server = new_server()
    server.kill()
    worker = start_worker("--url", server.url)
    assert worker.event("worker waits for redis")["url"] == server.url
    server.start()
    worker.event("worker started")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_a_worker_that_waits_for_redis_ends_by_a_signal(project, new_server, start_worker):
    server = new_server()
    server.kill()
    worker = start_worker("--url", server.url)
    worker.event("worker waits for redis")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


STARTUP = """
import os
from rqueue import Depends, RQueue

app = RQueue()

def broken():
    raise {error}

@app.task
async def task(broken: str = Depends(broken)) -> None: ...
"""


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        ("OSError('refused')", "resource tasks.broken failed: OSError: refused", 1),
        ("SystemError('x' + chr(10) + 'y')", "resource tasks.broken failed: SystemError: x\ny", 1),
        ("SystemExit(7)", None, 7),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line_and_ends(project, on_redis, store, start, error, told, code):
    """With the traceback of what failed, and without having taken a job."""
    (project / "tasks.py").write_text(STARTUP.format(error=error))
    push(store, ("waiting", "task", "[]"))
    worker = start("worker", "--pool", "solo", "--log-format", "json")
    if told is not None:
        line = worker.event("worker could not start")
        assert (line["error"], line["level"]) == (told, "critical")
        assert line["exception"].startswith("Traceback")
        assert "in broken" in line["exception"]
    assert worker.end() == code
    assert [line for line in worker.lines if line.startswith("Traceback")] == []
    assert waiting(store) == ["waiting"]
    assert leftovers(store) == []


def test_an_error_of_rqueues_own_has_no_traceback(project, on_redis, start):
    more = "app.dependency_overrides[broken] = task.function"
    (project / "tasks.py").write_text(STARTUP.format(error="OSError") + more)
    worker = start("worker", "--pool", "solo")
    worker.line("worker could not start", "error='resources need each other in a circle: tasks.task -> tasks.task'")
    assert worker.end() == 2
    assert not any("Traceback" in line for line in worker.lines)


def test_a_signal_ends_a_worker_that_is_starting(project, on_redis, start):
    lines = [
        "import asyncio, sys",
        "@app.on_startup",
        "async def endless():",
        "    print('starting', file=sys.stderr, flush=True)",
        "    await asyncio.Event().wait()",
    ]
    (project / "tasks.py").write_text(STARTUP.format(error="OSError") + "\n".join(lines))
    worker = start("worker")
    worker.line("starting")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_pool_with_functions_in_the_main_thread(store, fifo, start_process, pool):
    """A call that waits in the operating system ends at its limit; the first signal lets what runs end."""
    worker = start_process(pool)
    worker.event("worker started")
    push(store, ("loop", "on_loop", "[]"), ("main", "in_function", "[]"), module="more")
    push(store, ("blocked", "blocked", f'["{fifo}"]'), ("hold", "hold", f'["{fifo}"]'), module="more")
    worker.event("job failed", id="blocked")
    worker.event("job started", id="hold")
    worker.signal(signal.SIGTERM)
    if pool == "prefork":  # the event loop is free while a function runs
        worker.event("worker stopping", running=1)
    fifo.write_text("the end")
    assert worker.end() == 0
    results = {job_id: store.get(f"rqueue:{{default}}:result:{job_id}") for job_id in ("loop", "main", "hold")}
    assert f'"result":{"true" if pool == "solo" else "false"}' in results["loop"]
    assert '"result":true' in results["main"]
    assert '"result":"the end"' in results["hold"]
    assert '"type":"TimeLimitExceeded"' in store.get("rqueue:{default}:result:blocked")
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("pool", "task"),
    [("async", "stuck"), ("async", "stuck_on_loop"), ("prefork", "stuck"), ("prefork", "stuck_on_loop")],
)
def test_a_process_in_which_a_job_does_not_end_leaves_to_be_replaced(store, start_process, pool, task):
    worker = start_process(pool)
    worker.event("worker started")
    push(store, ("stuck", task, "[]"), ("next", "on_loop", "[]"), module="more")
    assert worker.end() == REPLACE
    worker.event("job does not end, the process must be replaced", id="stuck")
    assert '"type":"TimeLimitExceeded"' in store.get("rqueue:{default}:result:stuck")
    assert waiting(store) == ["next"]
    assert leftovers(store) == []


def test_prefork_ends_at_the_second_signal_whatever_the_main_thread_does(store, fifo, start_process):
    worker = start_process("prefork")
    worker.event("worker started")
    push(store, ("hold", "hold", f'["{fifo}"]'), module="more")
    worker.event("job started", id="hold")
    worker.signal(signal.SIGTERM)
    worker.event("worker stopping", running=1)
    worker.signal(signal.SIGTERM)
    worker.event("threads still run, leaving without them", threads="MainThread")
    assert worker.end() == 0
    assert waiting(store) == ["hold"]


def test_daemon_threads_are_nobodys_concern():
    """In a process whose other threads all end, the watch ends too, and does nothing."""
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    assert before == {threading.main_thread()}
    watch = watch_threads(7, grace_s=0.0)
    watch.join(10)
    assert not watch.is_alive()
