"""Events: one job's from what is known to its end, all jobs' as they come; nobody is waited for, and gaps are told."""

import asyncio

import pytest

from rqueue import BrokerUnavailable, ConfigError, JobNotFound, Queue, RQueue, State, WaitTimeout
from rqueue.client.events import BUFFER_EVENTS, Backlog
from rqueue.wire.record import Record

PATIENCE_S = 10


def record(state: State, **about) -> bytes:
    return Record(state, about=about).encode()


async def publish(app, job_id: str, data: bytes, queue: str = "default") -> None:
    await app.session().broker.publish(app.keys.queue(queue).result(job_id), data)


async def all_of(events) -> list:
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in events]


async def following(events):
    async with asyncio.timeout(PATIENCE_S):
        return await anext(events)


# --- one job ----------------------------------------------------------------------------------------------------------


async def test_a_jobs_events_begin_with_what_is_known_and_end_with_its_end(app):
    """Breaks when an event is missing, comes twice, or the iteration goes on after the end."""
    go_on = asyncio.Event()

    @app.task(bind=True)
    async def job(self) -> str:
        await self.progress(1, 2)
        await go_on.wait()
        return "done"

    async with app:
        handle = await job.enqueue()
        events = handle.events(timeout=PATIENCE_S)
        first = await anext(events)
        assert (first.state, first.at, first.progress) == (State.PENDING, None, None)
        async with app.worker():
            second = await anext(events)
            assert (second.state, second.progress["done"], second.at) == (State.STARTED, 1, second.progress["at"])
            go_on.set()
            (last,) = await all_of(events)
        assert (last.job_id, last.queue, last.state, last.info.result) == (handle.id, "default", State.SUCCESS, "done")
        assert last.progress["done"] == 1
        assert [event.state for event in await all_of(app.job(handle.id).events())] == [State.SUCCESS]


async def test_a_plain_job_has_two_events(app):
    """What is not used costs nothing: STARTED is announced only where it is tracked."""

    @app.task
    async def plain() -> None: ...

    @app.task(track_started=True)
    async def tracked() -> None: ...

    async with app:
        watched = [asyncio.create_task(all_of((await task.enqueue()).events(PATIENCE_S))) for task in (plain, tracked)]
        async with app.worker():
            states = [[event.state for event in events] for events in await asyncio.gather(*watched)]
    assert states[0][-1:] == [State.SUCCESS]
    assert State.STARTED not in states[0]
    assert states[1][-2:] == [State.STARTED, State.SUCCESS]


async def test_a_job_that_goes_on_in_another_queue_is_followed(url, new_app):
    """From before it moves. Breaks when the first queue alone is watched: its last word is a RETRY, for ever."""
    app = new_app(url, queues=[Queue("a"), Queue("b")])

    @app.task(bind=True, default_retry_delay=0.001)
    async def job(self) -> str:
        if self.request.queue == "a":
            self.retry(queue="b", exc=OSError("not here"))
        return "there"

    async with app:
        handle = await job.options(queue="a").enqueue()
        events = handle.events(timeout=10)
        found = [await anext(events)]
        async with app.worker(["a", "b"]):
            found += [each async for each in events]
    assert (found[0].state, found[0].queue) == (State.PENDING, "a")
    assert (found[-1].state, found[-1].queue, found[-1].info.result) == (State.SUCCESS, "b", "there")
    assert {each.state for each in found[1:-1]} == {State.RETRY}


async def test_nobody_knows_the_job(app):
    async with app:
        for handle in (app.job("nobody"), app.job("nobody", "default")):
            with pytest.raises(JobNotFound):
                await all_of(handle.events())


async def test_the_time_is_up(app):
    @app.task
    async def job() -> None: ...

    async with app:
        events = (await job.enqueue()).events(timeout=0.05)
        assert (await anext(events)).state is State.PENDING
        with pytest.raises(WaitTimeout):
            await anext(events)


async def test_what_is_older_or_the_same_is_not_said_again(app):
    """A look may bring what was announced before. Breaks when events go back, or come twice."""

    @app.task
    async def job() -> None: ...

    async with app:
        handle = await job.enqueue()
        events = handle.events(timeout=PATIENCE_S)
        await anext(events)
        new = record(State.STARTED, started=5000, progress={"done": 2, "at": 7000})
        old = record(State.STARTED, started=5000, progress={"done": 1, "at": 6000})
        retry = record(State.RETRY, started=5000, finished=8000)
        for data in (new, old, new, b"no record", b'{"state":"?"}', retry, new, record(State.SUCCESS, finished=1)):
            await publish(app, handle.id, data)
        found = await all_of(events)
    assert [event.state for event in found] == [State.STARTED, State.RETRY, State.SUCCESS]
    assert found[0].progress["done"] == 2


async def test_a_broken_connection_misses_nothing_that_counts(real_app, store):
    """Breaks when the job is not looked at once the connection is there again."""

    @real_app.task
    async def job() -> str:
        return "done"

    async with real_app:
        handle = await job.enqueue()
        events = handle.events(timeout=PATIENCE_S)
        await anext(events)
        look = store(real_app)
        for client in look.redis.client_list(_type="pubsub"):
            look.redis.client_kill_filter(_id=client["id"])
        async with real_app.worker():
            assert [event.state for event in await all_of(events)] == [State.SUCCESS]


async def test_a_job_that_vanishes_is_not_waited_for(app):
    @app.task
    async def job() -> None: ...

    async with app:
        session = app.session()
        session.listener._look_again_s = 0.01
        handle = await job.enqueue()
        events = handle.events(timeout=PATIENCE_S)
        await anext(events)
        await session.broker._link.call(b"FLUSHALL")
        with pytest.raises(JobNotFound):
            await anext(events)


async def test_closing_the_app_ends_a_watch(app):
    @app.task
    async def job() -> None: ...

    async with app:
        events = (await job.enqueue()).events()
        await anext(events)
    with pytest.raises(BrokerUnavailable):
        await following(events)


# --- all jobs ---------------------------------------------------------------------------------------------------------


async def test_all_jobs_changes_come_from_the_blocks_beginning(app):
    """Breaks when the block begins before the server has confirmed."""

    @app.task
    async def good() -> int:
        return 1

    @app.task(queue="other", max_retries=1, autoretry_for=(OSError,), default_retry_delay=0)
    async def bad() -> None:
        raise OSError("no")

    async with app:
        await app.session().broker.ready()
        async with app.events() as events:
            await publish(app, "at once", record(State.SUCCESS))
            assert (await following(aiter(events))).job_id == "at once"

    async with app, app.events() as events, app.worker(["default", "other"]):
        jobs = [await good.enqueue(), await bad.enqueue()]
        found = []
        async with asyncio.timeout(PATIENCE_S):
            async for event in events:
                found.append((event.job_id, event.queue, event.state))
                if len(found) == 3:
                    break
    assert found.count((jobs[0].id, "default", State.SUCCESS)) == 1
    assert [each for each in found if each[0] == jobs[1].id] == [
        (jobs[1].id, "other", State.RETRY),
        (jobs[1].id, "other", State.FAILURE),
    ]


async def test_only_a_queues_or_a_tasks_jobs(url):
    """A namespace with a pattern's characters is only itself. Breaks when it matches others."""
    app, other = RQueue(url, namespace="a*[x]"), RQueue(url, namespace="ab[x]")

    @app.task(name="mine")
    async def mine() -> None: ...

    async with app, other, app.events(queue="email", task=mine) as events:
        for data, queue in ((b"?", "email"), (record(State.SUCCESS, task="mine"), "reports")):
            await publish(app, "1", data, queue)
        await publish(other, "2", record(State.SUCCESS, task="mine"), "email")
        await publish(app, "3", record(State.SUCCESS, task="another"), "email")
        await publish(app, "4:{}:result:x", record(State.SUCCESS, task="mine"), "email")
        event = await following(aiter(events))
        assert (event.job_id, event.queue, event.info.task) == ("4:{}:result:x", "email", "mine")
    with pytest.raises(ConfigError):
        app.events(queue="no queue")


async def test_a_break_leaves_a_gap_that_is_told(real_app, store):
    """Breaks when a reader takes what it sees for all that happened."""
    async with real_app, real_app.events() as events:
        reader = aiter(events)
        await publish(real_app, "1", record(State.SUCCESS))
        assert not (await following(reader)).after_gap
        look = store(real_app)
        killed = {client["id"] for client in look.redis.client_list(_type="pubsub")}
        for number in killed:
            look.redis.client_kill_filter(_id=number)
        async with asyncio.timeout(PATIENCE_S):  # until its successor listens: the killed one may still be counted
            while not any(
                client["id"] not in killed and int(client["psub"]) for client in look.redis.client_list(_type="pubsub")
            ):
                await asyncio.sleep(0)
        for number in (2, 3):
            await publish(real_app, str(number), record(State.SUCCESS))
        assert [(await following(reader)).after_gap for _ in range(2)] == [True, False]


def test_a_slow_reader_loses_the_oldest_and_is_told():
    """Breaks when what is not read is kept without a bound, in number or in bytes."""

    async def main() -> None:
        backlog = Backlog()
        for number in range(BUFFER_EVENTS + 2):
            backlog.put((b"c", b"%d" % number), 1)
        assert await backlog.get() == ((b"c", b"2"), True)
        assert await backlog.get() == ((b"c", b"3"), False)
        for number in range(20):
            backlog.put((b"c", b"%d" % number), 1_000_000)
        assert await backlog.get() == ((b"c", b"12"), True)

    asyncio.run(main())


async def test_a_loop_that_is_left_listens_no_more(real_app, store):
    """Without a block the iterator closes what it opened. Breaks when connections pile up."""
    async with real_app:
        look = store(real_app)

        async def one() -> None:
            async for _ in (events := aiter(real_app.events())):
                break
            await events.aclose()

        task = asyncio.create_task(one())
        async with asyncio.timeout(PATIENCE_S):
            while not look.redis.execute_command("PUBSUB", "NUMPAT"):
                await asyncio.sleep(0)
            await publish(real_app, "1", record(State.SUCCESS))
            await task
            while look.redis.execute_command("PUBSUB", "NUMPAT"):
                await asyncio.sleep(0)


async def test_closing_the_app_ends_the_events(app):
    events = app.events()
    async with app:
        await events.__aenter__()
    with pytest.raises(BrokerUnavailable):
        await following(aiter(events._read()))
    assert not app._sessions
