"""A worker process's life: it waits for Redis, ends by signals, and does not stay because of a thread."""

import os
import signal
import threading

import pytest

from rqueue.cli.process import watch_threads


@pytest.fixture
def fifo(project):
    path = project / "fifo"
    os.mkfifo(path)
    return path


def push(store, *calls):
    """Enqueue as any producer does: id, task, arguments."""
    for job_id, task, arguments in calls:
        store.lpush("rqueue:{default}", f'{{"task":"tasks.{task}","args":{arguments},"id":"{job_id}"}}')


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


def test_daemon_threads_are_nobodys_concern():
    """In a process whose other threads all end, the watch ends too, and does nothing."""
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    assert before == {threading.main_thread()}
    watch = watch_threads(7, grace_s=0.0)
    watch.join(10)
    assert not watch.is_alive()
