"""pools: where plain functions run."""

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rqueue import ConfigError, JobFailed
from rqueue.config import WorkerConfig
from rqueue.worker.pools import Inline, MainThread, executor_for


def test_the_pools_of_a_config():
    main = MainThread()
    assert isinstance(executor_for(WorkerConfig(pool="solo", concurrency=1), 1, None), Inline)
    assert executor_for(WorkerConfig(pool="prefork", concurrency=1), 1, main) is main
    for pool in ("async", "threads"):
        threads = executor_for(WorkerConfig(pool=pool), 3, main)
        assert isinstance(threads, ThreadPoolExecutor)
        assert threads._max_workers == 3
    assert executor_for(WorkerConfig(autoscale=(20, 2)), 2, None)._max_workers == 20


async def test_prefork_inside_a_program_is_refused(app):
    async with app:
        with pytest.raises(ConfigError, match=r"pool 'prefork': .* main thread"):
            async with app.worker(pool="prefork", concurrency=1):
                pytest.fail("it must not start")


async def test_solo_runs_functions_in_the_loops_thread_one_at_a_time(app):
    """As if no loop ran there: synchronous code may enqueue, and run a loop of its own."""

    @app.task(name="inner")
    async def inner():
        return asyncio.get_running_loop() is loop

    @app.task(name="outer")
    def outer():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        asyncio.run(asyncio.sleep(0))
        return [threading.get_ident(), inner.delay().id]

    loop = asyncio.get_running_loop()
    async with app, app.worker(pool="solo", concurrency=1):
        ident, inner_id = await (await outer.enqueue()).result(5)
        assert ident == threading.get_ident()
        assert await app.job(inner_id).result(5) is True
        assert asyncio.get_running_loop() is loop


async def test_in_solo_all_is_written_before_a_function_blocks_the_loop(app):
    """Else an earlier job's result, and this one's STARTED, would wait for the function's end."""
    seen = []

    @app.task(name="t", track_started=True, bind=True)
    def t(self):
        seen.append(portal.call(lambda: look(self.request.id)))

    async def look(job_id):
        sizes = await app.session().broker.sizes(app.keys.queue("default"))
        return [sizes.counts.get("SUCCESS", 0), (await app.job(job_id).info()).state]

    async with app, app.worker(pool="solo", concurrency=1) as worker:
        portal, ack = app.portal(), worker._broker.ack

        async def slow(*args):
            for _ in range(50):
                await asyncio.sleep(0)
            return await ack(*args)

        worker._broker.ack = slow
        worker._inflight.pace.allowance = lambda now_s: 4  # the next ones are held while one runs
        await app.enqueue_many([t.s() for _ in range(5)])
        await asyncio.wait_for(worker.drain(), 4)  # well before the next heartbeat, which wakes everything
    assert seen == [[number, "STARTED"] for number in range(5)]


@pytest.mark.parametrize("error", [ValueError("own"), SystemExit(3), KeyboardInterrupt()])
async def test_whatever_a_function_raises_inline_is_its_failure(app, error):
    @app.task(name="bad")
    def bad():
        raise error

    async with app, app.worker(pool="solo", concurrency=1):
        for _ in range(2):
            with pytest.raises(JobFailed) as failed:
                await (await bad.enqueue()).result(5)
            assert failed.value.error_type == type(error).__name__


def test_the_main_thread_serves_until_it_is_stopped():
    main, ended = MainThread(), queue.SimpleQueue()

    def submit():
        ended.put(main.submit(threading.get_ident).result(5))
        future = main.submit(int, "x")
        ended.put(type(future.exception(5)))
        ended.put(main.submit(lambda: main.is_busy).result(5))
        main.shutdown()  # a worker's end is not the process's
        ended.put(main.submit(pow, 2, exp=3).result(5))
        main.stop()

    thread = threading.Thread(target=submit)
    thread.start()
    main.serve()
    thread.join()
    assert [ended.get_nowait() for _ in range(4)] == [threading.get_ident(), ValueError, True, 8]
    assert not main.is_busy


def test_a_cancelled_call_is_not_made():
    main, ran = MainThread(), []
    future = main.submit(ran.append, 1)
    assert future.cancel()
    main.submit(ran.append, 2)
    main.stop()
    main.serve()
    assert ran == [2]


def test_a_worker_with_the_pool_prefork_runs_functions_in_the_main_thread(app):
    """And its loop in another one, which stays free: a function in the main thread enqueues and waits for more."""
    main, results = MainThread(), queue.SimpleQueue()

    @app.task(name="on_loop")
    async def on_loop():
        return threading.get_ident()

    @app.task(name="in_main")
    def in_main():
        return [threading.get_ident(), threading.current_thread() is threading.main_thread()]

    @app.task(name="long", time_limit=0.05)
    def long():
        threading.Event().wait(60)

    async def work():
        async with app:
            worker = app.worker(pool="prefork", concurrency=1)
            worker.main_thread = main
            async with worker:
                results.put(await (await on_loop.enqueue()).result(5))
                results.put(await (await in_main.enqueue()).result(5))
                job = await long.enqueue()
                with pytest.raises(JobFailed, match="time_limit"):
                    await job.result(5)
                results.put(await (await in_main.enqueue()).result(5))

    def run():
        try:
            asyncio.run(work())
        except BaseException as exc:  # noqa: BLE001 - the test reads it
            results.put(exc)
        finally:
            main.stop()

    thread = threading.Thread(target=run)
    thread.start()
    ident = thread.ident
    main.serve()
    thread.join()
    here = [threading.get_ident(), True]
    assert [results.get_nowait() for _ in range(3)] == [ident, here, here]
