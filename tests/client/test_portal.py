"""Synchronous code: any thread without an event loop enqueues and waits, through one loop in a thread of its own."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from rqueue import BrokerUnavailable, JobFailed, JobNotFound, MessageTooLarge, RQueue, State, SyncJob, WaitTimeout
from rqueue.client.portal import Portal


def tasks_of(app: RQueue) -> Any:
    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    return add


# --- enqueueing and waiting -------------------------------------------------------------------------------------------


def test_delay_and_get(sync_app, threaded_worker):
    add = tasks_of(sync_app)
    with threaded_worker(sync_app):
        job = add.delay(1, b=2)
        assert isinstance(job, SyncJob)
        assert job.get(timeout=10) == 3
        assert job.get() == 3
        assert job.state is State.SUCCESS
        assert job.info().result == 3
        assert repr(job) == f"SyncJob({job.id!r}, queue='default')"


def test_apply_async_takes_celerys_arguments(sync_app, threaded_worker):
    add = tasks_of(sync_app)
    job = add.apply_async([1], {"b": 2}, queue="email", task_id="custom", countdown=0.01, priority=9)
    assert (job.id, job.queue, job.duplicate) == ("custom", "email", False)
    assert add.apply_async((5, 5), queue="email", task_id="custom").duplicate
    with threaded_worker(sync_app, queues=["email"]):
        assert job.get(timeout=10) == 3
        assert add.options(queue="email").delay(2, 2).get(timeout=10) == 4


def test_without_a_worker_it_waits_and_says_so(sync_app):
    add = tasks_of(sync_app)
    job = add.delay(1, 2)
    assert job.state is State.PENDING
    with pytest.raises(WaitTimeout):
        job.get(timeout=0.05)


def test_a_failure_is_raised_where_get_waits(sync_app, threaded_worker):
    @sync_app.task
    def job() -> None:
        raise LookupError("no such book")

    with threaded_worker(sync_app), pytest.raises(JobFailed, match="LookupError: no such book"):
        job.delay().get(timeout=10)


def test_an_error_of_the_enqueue_is_raised_there(url):
    app = RQueue(url, max_message_bytes=100)
    add = tasks_of(app)
    try:
        with pytest.raises(MessageTooLarge):
            add.delay("x" * 100, 1)
        with pytest.raises(TypeError, match="argument 1"):
            add.delay({1}, 1)
    finally:
        asyncio.run(app.close())


def test_redis_away_is_an_error(new_server):
    server = new_server()
    server.kill()
    app = RQueue(server.url, enqueue_timeout=0.2)
    add = tasks_of(app)
    try:
        with pytest.raises(BrokerUnavailable):
            add.delay(1, 2)
        server.start()
        assert add.delay(1, 2).state is State.PENDING
    finally:
        asyncio.run(app.close())


def test_a_job_that_vanished_is_not_found(sync_app, store):
    job = tasks_of(sync_app).delay(1, 2)
    store(sync_app).redis.flushall()
    with pytest.raises(JobNotFound):
        job.state  # noqa: B018
    with pytest.raises(JobNotFound):
        job.get(timeout=10)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_many_threads_at_once_share_one_portal(sync_app, threaded_worker):
    add = tasks_of(sync_app)
    together = threading.Barrier(8)

    def one(n: int) -> int:
        together.wait()
        return sum(add.delay(n, m).get(timeout=20) for m in range(5))

    with threaded_worker(sync_app), ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(8))) == [5 * n + 10 for n in range(8)]
    assert [thread.name for thread in threading.enumerate()].count("rqueue portal") == 1


def test_a_thread_of_an_asynchronous_program_may_use_it(sync_app, threaded_worker):
    """The portal's connections are its own, whatever is open in other loops."""
    add = tasks_of(sync_app)

    async def main() -> None:
        async with sync_app:
            own = sync_app.session()
            first = await add.enqueue(1, 1)
            second = await asyncio.to_thread(add.delay, 2, 2)
            assert await asyncio.to_thread(second.get, 10) == 4
            assert await first.result(timeout=10) == 2
            assert await sync_app.job(second.id).result(timeout=10) == 4
            assert sync_app.session() is own
            sessions = list(sync_app._sessions.values())
            assert len({id(session.broker) for session in sessions}) == len({session.loop for session in sessions}) == 2

    with threaded_worker(sync_app):
        asyncio.run(main())


async def test_inside_a_running_loop_it_is_refused_and_names_enqueue(memory_app):
    add = tasks_of(memory_app)
    for call in (lambda: add.delay(1, 2), lambda: add.apply_async((1, 2)), lambda: add.options(priority=1).delay(1, 2)):
        with pytest.raises(RuntimeError, match=r"would block the running event loop: use await task\.enqueue"):
            call()
    assert memory_app._portal is None
    assert not memory_app._sessions


async def test_get_inside_a_running_loop_is_refused(memory_app):
    """A handle made in a thread may come to the loop's thread: `get` would block the loop as `delay` would."""
    add = tasks_of(memory_app)
    job = await asyncio.to_thread(add.delay, 1, 2)
    with pytest.raises(RuntimeError, match="result"):
        job.get(timeout=0.05)
    for look in (job.info, lambda: job.state):
        with pytest.raises(RuntimeError, match=r"would block the running event loop: use await app\.job\(id\)\.info"):
            look()
    assert (await memory_app.job(job.id).info()).state is State.PENDING


def test_get_inside_a_task_is_refused(sync_app, threaded_worker):
    """All slots could wait for jobs that no slot is left for."""
    add = tasks_of(sync_app)

    @sync_app.task
    def outer() -> list:
        job = add.delay(1, 2)
        try:
            job.get(timeout=5)
        except RuntimeError as exc:
            return [str(exc), job.id, job.state.value != ""]
        return []

    with threaded_worker(sync_app):
        text, inner, has_state = outer.delay().get(timeout=20)
        assert "inside a task" in text
        assert "await job.result()" in text
        assert has_state
        assert asyncio.run(info_of(sync_app, inner)).parent_id is not None


async def info_of(app: RQueue, job_id: str) -> Any:
    async with app:
        await app.job(job_id).result(timeout=10)
        return await app.job(job_id).info()


# --- its end ----------------------------------------------------------------------------------------------------------


def test_after_closing_it_opens_again(sync_app):
    add = tasks_of(sync_app)
    add.delay(1, 2)
    asyncio.run(sync_app.close())
    assert "rqueue portal" not in [thread.name for thread in threading.enumerate()]
    assert add.delay(1, 2).state is State.PENDING


def test_closing_tells_a_thread_that_waits(sync_app):
    job = tasks_of(sync_app).delay(1, 2)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            job.get()
        except BaseException as exc:  # noqa: BLE001 - looked at in the test's thread
            errors.append(exc)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    session = next(iter(sync_app._sessions.values()))
    while not session.listener._topics:
        thread.join(0.001)
    asyncio.run(sync_app.close())
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(errors[0], BrokerUnavailable)


def test_closing_under_load_leaves_no_thread_waiting(sync_app):
    """Breaks when the loop ends with calls in it: their threads then wait for ever."""
    add = tasks_of(sync_app)
    add.delay(0, 0)
    stop = threading.Event()
    calls = [0] * 6

    def one(n: int) -> None:
        while not stop.is_set():
            with suppress(BrokerUnavailable, RuntimeError):
                add.delay(n, n)
            calls[n] += 1

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        before = list(calls)
        deadline = time.monotonic() + 3
        while calls == before and time.monotonic() < deadline:
            stop.wait(0.001)
        assert calls != before, "every thread waits for ever"
        asyncio.run(sync_app.close())
    stop.set()
    deadline = time.monotonic() + 3
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not [thread for thread in threads if thread.is_alive()]


def test_a_portal_may_be_stopped_twice():
    closed: list[int] = []

    async def close() -> None:
        closed.append(1)

    async def give(value: int) -> int:
        return value

    portal = Portal(close)
    assert portal.call(lambda: give(7)) == 7
    portal.stop()
    portal.stop()
    assert closed == [1]


def test_a_call_after_the_end_fails_at_once():
    """Breaks when it is given to a loop that does not run any more: its thread would wait for ever."""

    async def nothing() -> None: ...

    portal = Portal(nothing)
    assert portal.is_usable
    portal.stop()
    assert not portal.is_usable
    with pytest.raises(BrokerUnavailable, match="closed"):
        portal.call(nothing)


def test_a_call_under_way_fails_with_the_end():
    """Breaks when the loop ends with a call in it, or tells its thread of a cancellation that nobody asked for."""
    under_way, errors = threading.Event(), []

    async def nothing() -> None: ...

    async def wait() -> None:
        under_way.set()
        await asyncio.Event().wait()

    portal = Portal(nothing)

    def call() -> None:
        try:
            portal.call(wait)
        except BaseException as exc:  # noqa: BLE001 - looked at in the test's thread
            errors.append(exc)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    assert under_way.wait(5)
    portal.stop()
    thread.join(5)
    assert [type(error) for error in errors] == [BrokerUnavailable]


def test_what_a_call_raises_reaches_its_caller():
    async def nothing() -> None: ...

    async def fail() -> None:
        raise LookupError("no")

    portal = Portal(nothing)
    try:
        with pytest.raises(LookupError, match="no"):
            portal.call(fail)
    finally:
        portal.stop()


SCRIPT = """
import os, sys
from rqueue import RQueue

app = RQueue(sys.argv[1])

@app.task(name="add")
async def add(a: int, b: int) -> int:
    return a + b

assert add.delay(1, 2).get(timeout=10) == 3
sys.stdout.flush()
child = os.fork()
if child == 0:
    try:
        assert add.delay(3, 4).get(timeout=10) == 7
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if add.delay(5, 6).get(timeout=10) == 11 else 1)
        os._exit(os.waitpid(grandchild, 0)[1])
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
# While the child works, and after it has ended, the parent's own connection serves it as ever.
assert add.delay(1, 1).get(timeout=10) == 2
assert os.waitpid(child, 0)[1] == 0, "the child failed"
for n in range(5):
    assert add.delay(n, n).get(timeout=5) == 2 * n
print("parent and child")
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_after_a_fork_parent_and_child_work(redis_url, threaded_worker):
    """A child that touched its parent's connection or event loop would break both."""
    app = RQueue(redis_url)
    tasks_of(app)
    with threaded_worker(app):
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, redis_url],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
    assert (done.stdout, done.stderr, done.returncode) == ("parent and child\n", "", 0)


def test_a_program_that_ends_without_closing_ends(redis_url):
    script = """
import sys
from rqueue import RQueue
app = RQueue(sys.argv[1])
@app.task
def job() -> None: ...
print(job.delay().state)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script, redis_url],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("PENDING\n", "", 0)


_FORKS_IN_C = """
import ctypes, os, sys
from rqueue import RQueue

add = RQueue(sys.argv[1]).task(name="add")(lambda: None)
add.delay()
child = ctypes.PyDLL(None).fork()
print(*(add.delay().id for _ in range(3)), flush=True)
os.waitpid(child, 0) if child else os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a fork from C, as on Linux")
def test_a_child_that_was_forked_from_c_gives_its_own_ids(redis_url):
    """A server in C may load an app and fork, and run none of Python's hooks. Breaks when parent and child
    draw from one stock: their jobs have the same ids.
    """
    command = [sys.executable, "-c", _FORKS_IN_C, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    ids = done.stdout.split()
    assert len(set(ids)) == len(ids) == 6
