"""Hooks speak of what was settled, once, beside the slots; observers see what Celery's signals tell."""

import asyncio
import logging
import threading

import pytest

from rqueue import Retry, RQueue, State
from rqueue.testing import eager
from rqueue.wire.message import Call, Header, Message
from rqueue.worker.settler import Settler

PATIENCE_S = 5
HOOKS = ("on_success", "on_failure", "on_retry", "on_dead")


def message(job_id: str, **header) -> bytes:
    """A message of a task that nobody knows."""
    return Message.build(Header(id=job_id, **header), Call("nobody", [1]).encode()).raw


@pytest.fixture
def told(app):
    """(hook, outcome) of all that the app's hooks were told."""
    seen = []
    for name in HOOKS:
        getattr(app, name)(lambda outcome, name=name: seen.append((name, outcome)))
    return seen


async def test_a_success_is_told_after_it_was_settled(app):
    """Breaks when a hook can see a job that has not ended, or is called for what was not settled."""
    seen = asyncio.Queue()

    @app.task
    async def add(a: int, b: int = 0) -> int:
        return a + b

    @add.on_success
    async def stored(outcome):
        await seen.put((outcome, await app.job(outcome.id).info()))

    async with app, app.worker():
        handle = await add.enqueue(1, b=2)
        async with asyncio.timeout(PATIENCE_S):
            outcome, info = await seen.get()
    assert (info.state, info.result) == (State.SUCCESS, 3)
    assert (outcome.id, outcome.task, outcome.args, outcome.kwargs) == (handle.id, add.name, [1], {"b": 2})
    assert (outcome.queue, outcome.state, outcome.result, outcome.error) == ("default", State.SUCCESS, 3, None)


async def test_each_end_has_its_hooks_the_tasks_before_the_apps(app, told):
    """Options and decorators. Breaks when a retry counts as a failure, or a failure without a letter as a death."""
    own = []

    @app.task(max_retries=1, autoretry_for=(OSError,), default_retry_delay=0, on_retry=lambda o: own.append(o.state))
    async def bad() -> None:
        raise OSError("no")

    bad.on_failure(lambda outcome: own.append(outcome.state))
    bad.on_dead(lambda outcome: own.append(outcome.reason))

    @app.task(dead_letter=False, max_retries=0)
    def worse() -> None:
        raise Retry

    async with app, app.worker() as worker:
        await bad.enqueue()
        await worker.drain(scheduled=True)
        assert sorted(own) == [State.FAILURE, State.RETRY, "failed"]
        assert sorted(name for name, _ in told) == ["on_dead", "on_failure", "on_retry"]
        retry = next(outcome for name, outcome in told if name == "on_retry")
        assert (retry.retry_in_s, retry.error, retry.retries) == (0, "OSError: no", 0)
        failure = next(outcome for name, outcome in told if name == "on_failure")
        assert isinstance(failure.exception, OSError)
        assert (failure.retries, failure.reason) == (1, "failed")
        assert "OSError" in failure.traceback
        told.clear()
        await worse.enqueue()
        await worker.drain()
        assert [name for name, _ in told] == ["on_failure"]
        assert told[0][1].error.startswith("MaxRetriesExceeded")


async def test_what_nobody_can_read_or_run_is_told_to_the_app(app, told, call):
    """Breaks when on_dead is called for tasks that are known only."""
    async with app, app.worker(unknown_task_s=0.001) as worker:
        await call("LPUSH", app.keys.queue("default").main, "no message")
        await call("LPUSH", app.keys.queue("default").main, message("x-1", since=1))
        await worker.drain()
    dead = {outcome.reason: outcome for name, outcome in told if name == "on_dead"}
    assert set(dead) == {"malformed", "unknown task"}
    assert (dead["unknown task"].id, dead["unknown task"].task) == ("x-1", "nobody")
    assert dead["malformed"].task is None


async def test_a_hooks_error_is_logged_and_changes_nothing(app, told, log):
    @app.task
    async def job() -> int:
        return 1

    @job.on_success
    async def bad(outcome) -> None:
        raise ValueError("hook")

    @job.on_success
    def worse(outcome) -> None:
        raise SystemExit(3)

    async with app, app.worker() as worker:
        handle = await job.enqueue()
        await worker.drain()
        assert await handle.result() == 1
        assert len(log.of("hook or observer failed", what="on_success")) == 2
        assert [name for name, _ in told] == ["on_success"]


async def test_a_hook_holds_no_slot_and_is_waited_for_at_the_end(app, gate, log):
    """Breaks when the next job waits for it, or when the worker leaves at once, or never."""
    done = []

    @app.task
    async def job() -> None: ...

    @job.on_success
    async def slow(outcome) -> None:
        await gate(outcome.id)
        done.append(outcome.id)

    async with app:
        async with app.worker(concurrency=1) as worker:
            for _ in range(3):
                await (await job.enqueue()).result(timeout=PATIENCE_S)
            await gate.reached(3)
            assert done == []
            worker.stop()
            await log.heard("worker stopping")
            gate.open()
        assert len(done) == 3

        @job.on_success
        async def endless(outcome) -> None:
            await asyncio.Event().wait()

        async with app.worker(shutdown_timeout=0.05):
            await (await job.enqueue()).result(timeout=PATIENCE_S)
        assert log.of("hooks still run, leaving without them", hooks=1)


async def test_a_claim_that_was_lost_is_not_told(app, told, monkeypatch):
    """Breaks when a hook is called for a job that another worker owns."""
    ask = Settler._ask
    lost = asyncio.Event()

    async def refuse(self, lane, number, batch):
        await ask(self, lane, number, batch)
        lost.set()
        return b"0" * len(batch)

    monkeypatch.setattr(Settler, "_ask", refuse)

    @app.task
    async def job() -> None: ...

    async with app, app.worker() as worker:
        await job.enqueue()
        await lost.wait()
        await worker.drain()
    assert told == []


async def test_a_reapers_burial_is_told(app, told, broker):
    """Breaks when only a job that failed in this process is a death."""
    keys = app.keys.queue("default")
    async with app:
        await broker.register(keys, "dead", 60)
        await broker._link.call(b"LPUSH", keys.processing("dead"), message("poison", losses=2))
        await broker.start(keys, "dead", ["poison"])
        await broker.condemn(keys, "dead")
        async with app.worker() as worker:
            worker._reaper._seen.add(("default", "dead"))
            await worker._reaper.tick()
            await worker.drain()
    assert [(name, outcome.id, outcome.reason) for name, outcome in told] == [
        ("on_failure", "poison", "worker lost"),
        ("on_dead", "poison", "worker lost"),
    ]
    assert told[1][1].args == [1]


def test_eager_jobs_call_their_hooks():
    app = RQueue("memory://")
    seen = []

    @app.task(max_retries=1, default_retry_delay=0, autoretry_for=(OSError,), on_retry=lambda o: seen.append(o.state))
    async def job() -> None:
        raise OSError

    app.on_dead(lambda outcome: seen.append(outcome.reason))
    app.signals.task_prerun.connect(lambda task_id: seen.append("prerun"))

    async def main():
        with eager(app):
            await job.enqueue()

    asyncio.run(main())
    assert seen == ["prerun", State.RETRY, "prerun", "failed"]


async def test_the_signals_of_a_jobs_life_have_celerys_arguments(app):
    seen = []
    for name in ("task_received", "task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
        getattr(app.signals, name).connect(lambda signal, **given: seen.append((signal.name, given)))

    @app.task(max_retries=1, default_retry_delay=0, autoretry_for=(OSError,))
    async def job(ok: bool) -> str:
        if ok:
            return "done"
        raise OSError("no")

    async with app, app.worker() as worker:
        good = await job.enqueue(True)
        await worker.drain()
        assert [name for name, _ in seen] == ["task_received", "task_prerun", "task_postrun", "task_success"]
        received, prerun, postrun, success = (given for _, given in seen)
        assert received["request"].id == good.id
        assert prerun == {"sender": job, "task": job, "task_id": good.id, "args": [True], "kwargs": {}}
        assert postrun == {**prerun, "retval": "done", "state": State.SUCCESS}
        assert (success["sender"], success["result"], success["task_id"]) == (job, "done", good.id)
        seen.clear()
        await job.enqueue(False)
        await worker.drain(scheduled=True)
    ends = [(name, given) for name, given in seen if name not in ("task_received", "task_prerun")]
    assert [name for name, _ in ends] == ["task_postrun", "task_retry", "task_postrun", "task_failure"]
    assert isinstance(ends[0][1]["retval"], OSError)
    assert isinstance(ends[1][1]["reason"], OSError)
    failure = ends[3][1]
    assert isinstance(failure["exception"], OSError)
    assert failure["traceback"] is failure["exception"].__traceback__
    assert "OSError: no" in failure["einfo"]


async def test_what_is_revoked_rejected_or_unknown_is_observed(app, call, gate):
    seen = []
    for name in ("task_revoked", "task_rejected", "task_unknown"):
        getattr(app.signals, name).connect(lambda signal, **given: seen.append((signal.name, given)))

    @app.task
    async def late() -> None: ...

    @app.task
    async def cancelled() -> None:
        await gate()

    async with app:
        await late.options(expires=0.001).enqueue()
        await asyncio.sleep(0.005)  # its clock is the server's
        async with app.worker(unknown_task_s=0.001) as worker:
            await call("LPUSH", app.keys.queue("default").main, "no message")
            await call("LPUSH", app.keys.queue("default").main, '{"task":"nobody","id":"x-1"}')
            handle = await cancelled.enqueue()
            await gate.reached()
            worker._executor.cancel(handle.id)
            await worker.drain()
    given = {name: values for name, values in seen if name != "task_revoked"}
    assert given["task_unknown"]["name"] == "nobody"
    assert given["task_unknown"]["id"] == "x-1"
    assert given["task_rejected"]["message"] == b"no message"
    revoked = {
        (values["sender"], values["terminated"], values["expired"]) for name, values in seen if "revoked" in name
    }
    assert revoked == {(late, False, True), (cancelled, True, False)}


async def test_a_workers_own_life_is_observed(app):
    seen = []
    for name in ("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown"):
        getattr(app.signals, name).connect(lambda signal, sender: seen.append((signal.name, sender)))
    ended = threading.Event()

    @app.signals.worker_shutdown.connect
    async def last_words(sender) -> None:
        await asyncio.to_thread(lambda: None)
        ended.set()

    @app.task
    async def job() -> None: ...

    async with app, app.worker() as worker:
        await (await job.enqueue()).result(timeout=PATIENCE_S)
    assert seen == [
        (name, worker) for name in ("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown")
    ]
    assert ended.is_set()


async def test_without_anybody_nothing_is_spawned(app, log):
    """What is not used costs nothing. Breaks when a task or a thread is made for nobody."""

    @app.task
    async def job() -> None: ...

    async with app, app.worker() as worker:
        await job.enqueue()
        await worker.drain()
        assert not worker._observers
        assert not app.signals._tasks
    assert logging.ERROR not in {level for level, _, _ in log.lines}
