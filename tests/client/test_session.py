"""One loop's connections: opened at the first use, closed with the app, never used from another loop or process."""

import asyncio

import pytest
import uvloop

from rqueue import BrokerUnavailable, RQueue, State


@pytest.fixture
def app(url: str) -> RQueue:
    return RQueue(url)


def task_of(app: RQueue):
    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    return add


async def clients(app: RQueue) -> int:
    reply = await app.session().broker._link.call(b"CLIENT", b"LIST")
    return bytes(reply).count(b"id=")


def test_one_app_serves_several_loops_one_after_the_other(app):
    add = task_of(app)
    sessions = []

    async def main() -> int:
        async with app, app.worker():
            sessions.append(app.session())
            return await (await add.enqueue(1, 2)).result(timeout=10)

    assert [asyncio.run(main()) for _ in range(3)] == [3, 3, 3]
    assert len({id(session) for session in sessions}) == 3
    assert not app._sessions


def test_a_loop_that_ended_without_closing_is_forgotten(app):
    """A script may use `asyncio.run` twice and never close. Breaks when a closed loop's session is used, or kept."""
    add = task_of(app)

    async def main() -> str:
        return (await add.enqueue(1, 2)).id

    ids = [asyncio.run(main()) for _ in range(3)]

    async def look() -> list[State]:
        states = [(await app.job(job_id).info()).state for job_id in ids]
        assert len(app._sessions) == 1
        return states

    assert asyncio.run(look()) == [State.PENDING] * 3
    asyncio.run(app.close())


def test_two_loops_at_once_have_their_own(app):
    add = task_of(app)

    async def main() -> None:
        outer = app.session()
        await add.enqueue(0, 0)

        def other() -> tuple[int, str]:
            async def inner() -> tuple[int, str]:
                job = await add.enqueue(1, 1)
                return id(app.session()), job.id

            return asyncio.run(inner())

        inner_session, job_id = await asyncio.to_thread(other)
        assert inner_session != id(outer)
        assert app.session() is outer
        assert (await app.job(job_id).info()).state is State.PENDING
        await app.close()

    asyncio.run(main())


def test_it_works_in_uvloop(app):
    add = task_of(app)

    async def main() -> list[int]:
        async with app, app.worker():
            jobs = await asyncio.gather(*(add.enqueue(n, n) for n in range(50)))
            return [await job.result(timeout=10) for job in jobs]

    assert uvloop.run(main()) == [2 * n for n in range(50)]


async def test_a_first_use_opens_without_async_with(app):
    add = task_of(app)
    try:
        job = await add.enqueue(1, 2)
        assert (await job.info()).state is State.PENDING
        async with app.worker():
            assert await job.result(timeout=10) == 3
    finally:
        await app.close()


async def test_after_closing_it_opens_again(app):
    add = task_of(app)
    for _ in range(2):
        async with app:
            first = app.session()
            await add.enqueue(1, 2)
        assert not app._sessions
    job = await add.enqueue(1, 2)
    assert app.session() is not first
    assert (await job.info()).state is State.PENDING
    await app.close()
    await app.close()


async def test_closing_leaves_no_connection_and_no_task(redis_url):
    app, watcher = RQueue(redis_url), RQueue(redis_url)
    add = task_of(app)
    before_tasks = asyncio.all_tasks()
    async with watcher:
        before = await clients(watcher)
        before_tasks |= asyncio.all_tasks()
        async with app, app.worker():
            assert await (await add.enqueue(1, 2)).result(timeout=10) == 3
            assert await clients(watcher) > before
        async with asyncio.timeout(5):
            while await clients(watcher) > before:
                pass
        left = {task for task in asyncio.all_tasks() - before_tasks if not task.get_name().startswith("rqueue link")}
        assert left <= {task for task in left if task.done()}


async def test_closing_while_results_are_waited_for(app):
    add = task_of(app)
    jobs = [await add.enqueue(n, n) for n in range(3)]
    waiters = [asyncio.create_task(job.result()) for job in jobs]
    for _ in range(5):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await app.close()
        for waiter in waiters:
            with pytest.raises(BrokerUnavailable):
                await waiter
    assert (await jobs[0].info()).state is State.PENDING
    await app.close()


async def test_opening_tells_that_redis_is_away(new_server):
    server = new_server()
    server.kill()
    app = RQueue(server.url)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        await app.open()
    with pytest.raises(BrokerUnavailable):
        async with app:
            pass
    await asyncio.to_thread(server.start)
    async with app:
        assert app.session().is_usable()
    await app.close()


async def test_an_open_connection_is_shared(redis_url):
    """However many tasks enqueue and look, the loop has one connection, and one more when results are waited for."""
    app, watcher = RQueue(redis_url), RQueue(redis_url)
    add = task_of(app)
    async with watcher, app:
        before = await clients(watcher)
        jobs = await asyncio.gather(*(add.options(queue=f"q{n % 5}").enqueue(n, n) for n in range(200)))
        await asyncio.gather(*(job.info() for job in jobs))
        assert await clients(watcher) == before
