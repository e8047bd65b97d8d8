"""Waiting for jobs' ends: by announcement and never by polling, on one connection, and never for ever in vain."""

import asyncio

import pytest

from rqueue import BrokerError, BrokerUnavailable, JobNotFound, WaitTimeout
from rqueue.client.listener import Listener
from rqueue.errors import MalformedMessage


def listen_again_in(app, seconds: float) -> Listener:
    """Give the app's session a listener that looks again after so many seconds."""
    session = app.session()
    session.listener = Listener(session.broker, look_again_s=seconds)
    return session.listener


async def until(condition) -> None:
    """Ask again and again, since nothing announces it."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def subscribed(look) -> int:
    """How many channels clients listen to."""
    return sum(int(client["sub"]) for client in look.redis.client_list(_type="pubsub"))


def calls(look, command: str) -> int:
    return look.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


# --- by announcement --------------------------------------------------------------------------------------------------


async def test_a_job_that_ends_later_is_delivered_without_a_second_look(real_app, store):
    """Breaks when the waiter polls, or fetches the record that the announcement has brought."""
    go_on = asyncio.Event()

    @real_app.task
    async def job() -> str:
        await go_on.wait()
        return "done"

    async with real_app, real_app.worker():
        listen_again_in(real_app, 600)
        look = store(real_app)
        handle = await job.enqueue()
        look.redis.config_resetstat()
        waiter = asyncio.create_task(handle.result(timeout=10))
        await until(lambda: calls(look, "get") == 1)  # subscribed, then looked
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        assert await waiter == "done"
        assert calls(look, "get") == 1
        assert calls(look, "sismember") == 1


async def test_what_is_announced_between_the_subscription_and_the_look_is_not_missed(app):
    """Breaks when the look comes before the subscription: a job that ends between the two is then never delivered."""

    @app.task
    async def job(n: int) -> int:
        return n

    async with app, app.worker():
        listen_again_in(app, 600)

        async def one(n: int) -> None:
            assert await (await job.enqueue(n)).result(timeout=10) == n

        for start in range(0, 200, 20):
            await asyncio.gather(*(one(n) for n in range(start, start + 20)))


async def test_ten_thousand_waiters_share_one_connection(real_app, store):
    @real_app.task
    async def job(n: int) -> int:
        return n

    async with real_app:
        listen_again_in(real_app, 600)
        look = store(real_app)
        handles = await real_app.enqueue_many([job.s(n) for n in range(10_000)])
        before = len(look.redis.client_list())
        waiters = [asyncio.create_task(handle.result(timeout=50)) for handle in handles]
        await until(lambda: subscribed(look) == 10_000)
        assert len(look.redis.client_list()) == before + 1
        async with real_app.worker(concurrency=200):
            assert await asyncio.gather(*waiters) == list(range(10_000))
        await until(lambda: subscribed(look) == 0)


async def test_waiting_after_the_end(app):
    @app.task
    async def job() -> int:
        return 1

    async with app, app.worker() as worker:
        handle = await job.enqueue()
        await worker.drain()
        assert await handle.result() == 1
        assert await handle.result(timeout=5) == 1


async def test_several_waiters_on_one_job_all_get_its_end(app):
    go_on = asyncio.Event()

    @app.task
    async def job() -> int:
        await go_on.wait()
        return 1

    async with app, app.worker():
        handle = await job.enqueue()
        waiters = [asyncio.create_task(handle.result(timeout=10)) for _ in range(50)]
        waiters += [asyncio.create_task(app.job(handle.id).result(timeout=10)) for _ in range(50)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        go_on.set()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [1] * 99
        assert await handle.result(timeout=5) == 1


async def test_a_waiter_that_comes_when_the_first_has_its_look_behind_it(app):
    """The second does not subscribe again, so it must look by itself. Breaks when it only waits."""

    @app.task
    async def job() -> int:
        return 1

    async with app:
        listener = listen_again_in(app, 600)
        handle = await job.enqueue()
        first = asyncio.create_task(handle.result())
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.1)
        keys = app.keys.queue("default")
        # It ends without an announcement that anybody hears.
        call = app.session().broker._link.call
        await call(b"SET", keys.result(handle.id), b'{"state":"SUCCESS","result":7}')
        await call(b"SREM", keys.jobs, handle.id)
        assert await handle.result(timeout=5) == 7
        assert await first == 7
        assert not listener._topics


async def test_nothing_is_left_of_waiters_that_gave_up(real_app, store):
    @real_app.task
    async def job() -> None: ...

    async with real_app:
        handle = await job.enqueue()
        look = store(real_app)
        waiters = [asyncio.create_task(handle.result()) for _ in range(5)]
        await until(lambda: subscribed(look) == 1)
        for waiter in waiters:
            waiter.cancel()
        await until(lambda: subscribed(look) == 0)
        assert not real_app.session().listener._topics


async def test_progress_and_retries_are_not_the_end(app):
    @app.task(bind=True, track_started=True, max_retries=2)
    async def job(self) -> int:
        if self.request.retries < 2:
            self.retry(countdown=0.001)
        return self.request.retries

    async with app, app.worker():
        assert await (await job.enqueue()).result(timeout=10) == 2


# --- never for ever ---------------------------------------------------------------------------------------------------


async def test_an_unknown_id_is_not_found_at_once(app):
    async with app:
        await app.session().broker.announce("default")
        listen_again_in(app, 600)
        async with asyncio.timeout(5):
            with pytest.raises(JobNotFound, match="never-enqueued"):
                await app.job("never-enqueued").result()
            with pytest.raises(JobNotFound, match="never-enqueued"):
                await app.job("never-enqueued", "default").result()


async def test_a_job_that_vanished_is_not_found_after_the_next_look(app):
    """Redis lost it, or somebody purged it: nobody will ever announce its end."""

    @app.task
    async def job() -> None: ...

    async with app:
        listen_again_in(app, 0.05)
        handle, other = await job.enqueue(), await job.enqueue()
        waiters = [asyncio.create_task(handle.result()) for _ in range(3)]
        patient = asyncio.create_task(other.result())
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.1)
        keys = app.keys.queue("default")
        await app.session().broker._link.call(b"DEL", keys.main)
        await app.session().broker._link.call(b"SREM", keys.jobs, handle.id)
        async with asyncio.timeout(5):
            for waiter in waiters:
                with pytest.raises(JobNotFound, match=handle.id):
                    await waiter
        assert not patient.done()
        patient.cancel()


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "PENDING"])
async def test_a_job_whose_record_says_of_no_end_and_that_is_not_alive_is_not_found(app, state):
    """It was purged, or lost with its worker: a job lives to its end, also after an early settle. Breaks when a record
    keeps its waiters, or its handle, until it expires after a day.
    """

    @app.task
    async def job() -> None: ...

    async with app:
        listen_again_in(app, 0.05)
        handle, whole = await job.enqueue(), await job.enqueue()
        keys, call = app.keys.queue("default"), app.session().broker._link.call
        for each in (handle, whole):
            await call(b"SET", keys.result(each.id), b'{"state":"%b"}' % state.encode())
        patient = asyncio.create_task(whole.result())
        waiter = asyncio.create_task(handle.result())
        await call(b"SREM", keys.jobs, handle.id)
        async with asyncio.timeout(5):
            with pytest.raises(JobNotFound, match=handle.id):
                await waiter
            with pytest.raises(JobNotFound, match=handle.id):
                await handle.info()
            with pytest.raises(JobNotFound, match=handle.id):
                await app.job(handle.id).result()
        assert (await whole.info()).state.value == state
        assert not patient.done()
        patient.cancel()


async def test_a_lost_announcement_costs_one_look(app):
    @app.task
    async def job() -> None: ...

    async with app:
        listen_again_in(app, 0.05)
        handle = await job.enqueue()
        waiter = asyncio.create_task(handle.result())
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.1)
        keys = app.keys.queue("default")
        call = app.session().broker._link.call
        await call(b"SET", keys.result(handle.id), b'{"state":"SUCCESS","result":7}')
        await call(b"SREM", keys.jobs, handle.id)
        async with asyncio.timeout(5):
            assert await waiter == 7


async def test_the_end_is_delivered_though_the_listeners_connection_was_killed(real_app, store):
    """All channels are subscribed anew, and then looked at: the end may have come in between."""
    go_on = asyncio.Event()

    @real_app.task
    async def job(n: int) -> int:
        await go_on.wait()
        return n

    async with real_app, real_app.worker():
        listen_again_in(real_app, 600)
        look = store(real_app)
        handles = [await job.enqueue(n) for n in range(10)]
        waiters = [asyncio.create_task(handle.result()) for handle in handles]
        await until(lambda: subscribed(look) == 11)  # and the worker to the control channel
        with pytest.raises(WaitTimeout):
            await handles[0].result(timeout=0.1)  # so that the looks after the subscription are over as well
        assert look.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 2
        go_on.set()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*waiters) == list(range(10))


async def test_the_end_is_delivered_though_the_server_was_away(new_server, new_app, tmp_path):
    server = new_server({"appendonly": "yes", "appendfsync": "always"}, directory=tmp_path)
    app = new_app(server.url)

    @app.task
    async def job() -> int:
        return 1

    async with app:
        listen_again_in(app, 0.1)
        handle = await job.enqueue()
        waiter = asyncio.create_task(handle.result())
        with pytest.raises(WaitTimeout):
            await handle.result(timeout=0.1)
        await asyncio.to_thread(server.kill)
        await asyncio.wait([waiter], timeout=0.3)
        assert not waiter.done()
        await asyncio.to_thread(server.start)
        async with app.worker(), asyncio.timeout(10):
            assert await waiter == 1


@pytest.mark.parametrize("garbage", [b"", b"hello", b"\xff", b"[]", b'{"state":"WHAT"}', b'{"result":1}', b"null"])
async def test_garbage_on_a_channel_costs_no_other_waiter_anything(app, garbage):
    """Anybody can publish. Breaks when what cannot be read ends the one connection that all waiters share."""
    go_on = asyncio.Event()

    @app.task
    async def job(n: int) -> int:
        await go_on.wait()
        return n

    async with app, app.worker():
        listen_again_in(app, 600)
        handles = [await job.enqueue(n) for n in range(3)]
        waiters = [asyncio.create_task(handle.result()) for handle in handles]
        with pytest.raises(WaitTimeout):
            await handles[0].result(timeout=0.1)
        channel = app.keys.queue("default").result(handles[1].id)
        await app.session().broker._link.call(b"PUBLISH", channel, garbage)
        await app.session().broker._link.call(b"PING")
        go_on.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(waiters[0], waiters[2]) == [0, 2]
            assert await waiters[1] == 1


@pytest.mark.parametrize(
    ("garbage", "error"),
    [(b"hello", JobNotFound), (b'{"state":"WHAT"}', JobNotFound), (b'{"state":"SUCCESS","result"', MalformedMessage)],
)
async def test_a_record_that_cannot_be_read_hangs_nobody(app, garbage, error):
    """Its own waiter is told (that the job is not known, where the record says of no end), and the others are served as
    ever.
    """

    @app.task
    async def job(n: int) -> int:
        return n

    async with app:
        listen_again_in(app, 0.05)
        broken, whole = await job.enqueue(0), await job.enqueue(1)
        keys = app.keys.queue("default")
        call = app.session().broker._link.call
        await call(b"SET", keys.result(broken.id), garbage)
        await call(b"SREM", keys.jobs, broken.id)
        waiters = [asyncio.create_task(handle.result()) for handle in (broken, whole)]
        async with asyncio.timeout(5):
            with pytest.raises(error, match=broken.id if error is JobNotFound else "record"):
                await waiters[0]
            await call(b"SET", keys.result(whole.id), b'{"state":"SUCCESS","result":7}')
            await call(b"SREM", keys.jobs, whole.id)
            assert await waiters[1] == 7


async def test_a_key_of_another_type_hangs_nobody(app):
    """Its own waiter is told what Redis says. Breaks when one refused look is none for all."""

    @app.task
    async def job(n: int) -> int:
        return n

    async with app:
        listen_again_in(app, 0.05)
        broken, whole = await job.enqueue(0), await job.enqueue(1)
        keys = app.keys.queue("default")
        call = app.session().broker._link.call
        await call(b"LPUSH", keys.result(broken.id), b"a list")
        waiters = [asyncio.create_task(handle.result()) for handle in (broken, whole)]
        await call(b"SET", keys.result(whole.id), b'{"state":"SUCCESS","result":7}')
        await call(b"SREM", keys.jobs, whole.id)
        async with asyncio.timeout(2):
            assert await waiters[1] == 7
            with pytest.raises(BrokerError, match="WRONGTYPE"):
                await waiters[0]


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_tells_those_who_wait(app):
    @app.task
    async def job() -> None: ...

    async with app:
        waiters = [asyncio.create_task((await job.enqueue()).result()) for _ in range(3)]
        with pytest.raises(WaitTimeout):
            await (await job.enqueue()).result(timeout=0.1)
    async with asyncio.timeout(5):
        for waiter in waiters:
            with pytest.raises(BrokerUnavailable, match="closed"):
                await waiter
