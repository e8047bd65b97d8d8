"""Natural batching, and a repeated enqueue is harmless: each call ends in a success or an error, and never in silence.

Each test names what it holds; "Breaks when" says how it was seen to fail.
"""

import asyncio
import socket
from contextlib import suppress

import pytest
import redis

from rqueue import BrokerError, BrokerFull, BrokerUnavailable, EnqueueUnknown, RQueueError, State
from rqueue.client import producer as producer_module
from tests.chaos.proxy import Proxy

SLACK_S = 1.5  # what a busy machine may take on top of a timeout


@pytest.fixture
def nowhere() -> str:
    """The URL of a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


def task_of(app):
    @app.task(name="job")
    async def job(n: object) -> object:
        return n

    return job


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- batching ---------------------------------------------------------------------------------------------------------


async def test_a_thousand_callers_share_a_few_round_trips(real_app, store):
    """Breaks when each call sends its own command: the server then reads about once a call."""
    job = task_of(real_app)
    async with real_app:
        await job.enqueue(-1)
        look = store(real_app).redis
        before = look.info("stats")["total_reads_processed"]
        await asyncio.gather(*(job.enqueue(n) for n in range(1000)))
        reads = look.info("stats")["total_reads_processed"] - before
        assert reads <= 100
        assert {message.args[0] for message in store(real_app).everything()} == set(range(-1, 1000))


async def test_callers_that_come_one_after_the_other_share_too(real_app, store):
    """What comes while a batch is under way leaves together in the next."""
    job = task_of(real_app)

    async def callers(first: int) -> None:
        for n in range(first, first + 10):
            await job.enqueue(n)

    async with real_app:
        await job.enqueue(-1)
        look = store(real_app).redis
        look.config_resetstat()
        await asyncio.gather(*(callers(10 * n) for n in range(100)))
        assert look.info("commandstats")["cmdstat_evalsha"]["calls"] <= 100


async def test_a_caller_alone_waits_one_round_trip(real_app, store):
    job = task_of(real_app)
    async with real_app:
        await job.enqueue(0)
        look = store(real_app).redis
        before = look.info("stats")["total_reads_processed"]
        await job.enqueue(1)
        assert look.info("stats")["total_reads_processed"] - before <= 2  # one is the INFO's own


async def test_a_batch_is_bounded_in_number_and_bytes(app, store):
    """More than fits in one batch arrives whole and once."""
    job = task_of(app)
    async with app:
        calls = [*(job.enqueue(n) for n in range(1300)), *(job.enqueue("x" * 300_000) for _ in range(5))]
        handles = await asyncio.gather(*calls)
        messages = store(app).everything()
        assert len(messages) == 1305
        assert {message.id for message in messages} == {handle.id for handle in handles}


async def test_callers_of_one_queue_keep_their_order(app, store):
    job = task_of(app)
    async with app:
        for start in range(0, 60, 20):
            await asyncio.gather(*(job.enqueue(n) for n in range(start, start + 20)))
        assert [message.args[0] for message in store(app).everything()] == list(range(60))


# --- cancelled --------------------------------------------------------------------------------------------------------


async def test_cancelling_before_it_was_sent_withdraws_it(new_server, new_app, store):
    """Breaks when a batch is chosen before Redis can be reached."""
    server = new_server()
    server.kill()
    app = new_app(server.url)
    job = task_of(app)
    given_up = [asyncio.create_task(job.enqueue(n)) for n in range(3)]
    many = asyncio.create_task(app.enqueue_many([job.s("a"), job.options(queue="email").s("b")]))
    kept = asyncio.create_task(job.enqueue("kept"))
    await turns()
    for task in (*given_up, many):
        task.cancel()
    await asyncio.to_thread(server.start)
    handle = await kept
    await job.options(queue="email").enqueue("email too")
    look = store(app)
    assert [message.id for message in look.everything()] == [handle.id]
    assert [message.args for message in look.everything("email")] == [["email too"]]
    for task in (*given_up, many):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_all_cancelled_before_they_were_sent_are_withdrawn(new_server, new_app, store):
    server = new_server()
    server.kill()
    app = new_app(server.url)
    job = task_of(app)
    tasks = [asyncio.create_task(job.enqueue(n)) for n in range(3)]
    await turns()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.to_thread(server.start)
    last = await job.enqueue("last")
    assert [message.id for message in store(app).everything()] == [last.id]


async def test_cancelling_after_it_was_sent_leaves_the_job(redis_url, server, new_app, new_proxy, store):
    """Breaks when a cancelled call's message is taken out of a batch that is under way."""
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url)
    job = task_of(app)
    proxy.gate.clear()
    task = asyncio.create_task(job.options(job_id="sent").enqueue(1))
    await proxy.answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proxy.gate.set()
    assert [message.id for message in store(redis_url).everything()] == ["sent"]
    assert (await job.options(job_id="sent").enqueue(2)).duplicate
    assert (await app.job("sent").info()).state is State.PENDING


async def test_cancelling_one_of_a_batch_leaves_the_others(redis_url, server, new_app, new_proxy, store):
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url)
    job = task_of(app)
    proxy.gate.clear()
    tasks = [asyncio.create_task(job.enqueue(n)) for n in range(10)]
    await proxy.answered.wait()
    tasks[4].cancel()
    await asyncio.wait([tasks[4]])
    proxy.gate.set()
    handles = await asyncio.gather(*tasks[:4], *tasks[5:])
    messages = store(redis_url).everything()
    assert [message.args[0] for message in messages] == list(range(10))
    assert [message.id for message in messages if message.args[0] != 4] == [handle.id for handle in handles]


@pytest.mark.parametrize("beside", [0, 3])
async def test_cancelling_after_the_server_refused_withdraws_it(new_server, new_app, store, beside):
    """Refused (READONLY: a failover is under way) is not sent: nothing exists, so the next attempt must not make it.

    Breaks when a refused batch is sent again with what its callers have withdrawn, though others of it still wait.
    """
    server = new_server()
    app = new_app(server.url)
    job = task_of(app)
    async with app:
        await job.enqueue("first")
        look = store(app)
        look.redis.config_set("replica-read-only", "yes")
        look.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        look.redis.config_resetstat()
        task = asyncio.create_task(job.enqueue("cancelled"))
        others = [asyncio.create_task(job.enqueue(f"other {n}")) for n in range(beside)]  # of the same batch
        async with asyncio.timeout(5):
            while not refused(look):
                await turns(1)
        task.cancel()
        await asyncio.wait([task])
        look.redis.execute_command("REPLICAOF", "NO", "ONE")
        await asyncio.gather(*others)
        await job.enqueue("last")
        expected = ["first", *(f"other {n}" for n in range(beside)), "last"]
        assert [message.args[0] for message in look.everything()] == expected


def refused(look) -> int:
    return sum(counts["count"] for name, counts in look.redis.info("errorstats").items() if "READONLY" in name)


# --- the reply is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("custom", [False, True], ids=["made id", "custom id"])
async def test_a_lost_reply_is_asked_for_again_and_the_job_is_there_once(
    redis_url, server, new_app, new_proxy, store, custom
):
    """Breaks when the repeated batch has another number, or no number is kept: two jobs, or a false duplicate."""
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url)
    job = task_of(app)
    proxy.lose = 2
    handle = await (job.options(job_id="mine") if custom else job).enqueue(1)
    assert (proxy.lose, proxy.enqueues) == (0, 3)
    assert not handle.duplicate
    assert [message.id for message in store(redis_url).everything()] == [handle.id]


async def test_lost_replies_of_many_callers_double_nothing(redis_url, server, new_app, new_proxy, store):
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url)
    job = task_of(app)
    async with app:
        for round_ in range(3):
            proxy.lose = 2
            calls = [job.enqueue([round_, n]) for n in range(700)]
            many = [app.enqueue_many([job.s([round_, n]) for n in range(700, 1000)])]
            await asyncio.gather(*calls, *many)
        assert sorted(message.args[0] for message in store(redis_url).everything()) == [
            [round_, n] for round_ in range(3) for n in range(1000)
        ]


async def test_a_reply_that_stays_away_is_named_with_the_ids(redis_url, server, new_app, new_proxy, store):
    """Nobody knows: the error says so, and its ids tell later."""
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url, enqueue_timeout=0.3)
    job = task_of(app)
    proxy.lose = 10_000
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(EnqueueUnknown) as caught:
        await app.enqueue_many([job.options(job_id="a").s(1), job.options(job_id="b").s(2)])
    assert loop.time() - before < 0.3 + SLACK_S
    assert caught.value.ids == ("a", "b")
    assert not isinstance(caught.value, BrokerUnavailable)
    proxy.lose = 0
    assert [message.id for message in store(redis_url).everything()] == ["a", "b"]
    assert (await app.job("a").info()).state is State.PENDING
    assert (await job.options(job_id="a").enqueue(1)).duplicate


async def test_a_reply_that_is_lost_with_the_server_is_unknown_too(redis_url, server, new_app, new_proxy):
    """Sent once, and from then on nobody can be reached: the job may exist all the same."""
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url, enqueue_timeout=0.3)
    job = task_of(app)
    proxy.gate.clear()
    task = asyncio.create_task(job.enqueue(1))
    await proxy.answered.wait()
    await proxy.stop()
    with pytest.raises(EnqueueUnknown) as caught:
        await task
    assert len(caught.value.ids) == 1


async def test_each_caller_of_an_unknown_batch_gets_its_own_ids(redis_url, server, new_app, new_proxy):
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url, enqueue_timeout=0.2)
    job = task_of(app)
    proxy.lose = 10_000
    calls = [job.options(job_id=f"id-{n}").enqueue(n) for n in range(5)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(error, "ids", error) for error in errors] == [(f"id-{n}",) for n in range(5)]


async def test_a_connection_that_is_half_open_is_given_up_while_there_is_time(
    server, new_app, monkeypatch, store, redis_url
):
    """The batch goes again, under its number, on another connection. Breaks when the first is given as long to answer
    as the caller has: each call on it would end as EnqueueUnknown.
    """
    monkeypatch.setattr("rqueue.client.session._SHORTEST_REPLY_S", 0.1)
    async with Proxy(server.url) as proxy:
        app = new_app(proxy.url, enqueue_timeout=1)
        job = task_of(app)
        first = await job.enqueue(1)
        proxy.swallows = frozenset({"replies"})
        swallowed = asyncio.create_task(job.enqueue(2))
        await app.session().broker.written()
        await asyncio.wait([swallowed], timeout=0.05)
        proxy.heal()
        second = await swallowed
        assert [message.id for message in store(redis_url).everything()] == [first.id, second.id]
        await app.close()


async def test_redis_remembers_a_batch_for_longer_than_it_is_sent_again(server, redis_url, new_app):
    app = new_app(redis_url, enqueue_timeout=600)
    await task_of(app).enqueue(1)
    with redis.Redis.from_url(redis_url) as client:
        (sent,) = client.keys("rqueue:{default}:sent:*")
        assert client.ttl(sent) > 1190


async def test_who_slept_for_longer_than_redis_remembers_does_not_send_again(
    server, redis_url, new_app, monkeypatch, store
):
    """The machine was suspended, or the process frozen, with a batch on its way, and its connection broke meanwhile.

    The event loop's clock need not have counted that. Breaks when the batch goes again: its jobs would run twice.
    """
    async with Proxy(server.url) as proxy:
        app = new_app(proxy.url)
        job = task_of(app)
        first = await job.enqueue(1)
        proxy.swallows = frozenset({"replies"})
        slept = asyncio.create_task(job.enqueue(2))
        while len(store(redis_url).everything()) < 2:
            await asyncio.sleep(0.01)
        with redis.Redis.from_url(redis_url) as client:
            client.delete(*client.keys("rqueue:{default}:sent:*"))  # its time is up
        now = producer_module.elapsed_s
        monkeypatch.setattr(producer_module, "elapsed_s", lambda: now() + producer_module.SENT_TTL_S)
        proxy.heal()
        proxy.cut()
        with pytest.raises(EnqueueUnknown) as caught:
            await slept
        assert [message.id for message in store(redis_url).everything()] == [first.id, *caught.value.ids]
        await app.close()


# --- Redis is away ----------------------------------------------------------------------------------------------------


async def test_redis_away_is_an_error_within_the_time_and_nothing_comes_later(new_server, new_app, store):
    server = new_server()
    server.kill()
    app = new_app(server.url, enqueue_timeout=0.3)
    job = task_of(app)
    loop = asyncio.get_running_loop()
    before = loop.time()
    calls = [*(job.enqueue(n) for n in range(3)), app.enqueue_many([job.s(3)])]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert loop.time() - before < 0.3 + SLACK_S
    assert {type(error) for error in errors} == {BrokerUnavailable}
    assert "nothing was enqueued within 0.3 s" in str(errors[0])
    await asyncio.to_thread(server.start)
    last = await job.enqueue("last")
    assert [message.id for message in store(app).everything()] == [last.id]


async def test_many_callers_are_told_in_time_and_not_one_batch_after_the_other(nowhere, new_app):
    """Breaks when each batch of 500 waits for the whole time in its turn."""
    app = new_app(nowhere, enqueue_timeout=1)
    job = task_of(app)
    loop = asyncio.get_running_loop()
    before = loop.time()
    errors = await asyncio.gather(*(job.enqueue(n) for n in range(5000)), return_exceptions=True)
    assert {type(error) for error in errors} == {BrokerUnavailable}
    assert loop.time() - before < 1 + 2 * SLACK_S, "one batch after the other takes five seconds"


async def test_a_caller_that_comes_late_has_its_own_time(new_server, new_app):
    """It is not given up with the batch that was waiting before it came."""
    server = new_server()
    server.kill()
    app = new_app(server.url, enqueue_timeout=1)
    job = task_of(app)
    early = asyncio.create_task(job.enqueue("early"))
    await asyncio.wait([early], timeout=0.7)
    late = asyncio.create_task(job.enqueue("late"))
    with pytest.raises(BrokerUnavailable):
        await early
    assert not late.done()
    await asyncio.to_thread(server.start)
    await late


async def test_a_server_that_accepts_and_says_nothing_is_an_error_within_the_time(
    redis_url, server, new_app, new_proxy
):
    """A stalled server is as far away as a dead one."""
    proxy = await new_proxy(server.port)
    proxy.deaf = True
    app = new_app(proxy.url, enqueue_timeout=0.3)
    job = task_of(app)
    async with asyncio.timeout(0.3 + SLACK_S):
        with pytest.raises(BrokerUnavailable):
            await job.enqueue(1)


async def test_a_server_that_stalls_after_it_took_the_batch_is_unknown_within_the_time(
    redis_url, server, new_app, new_proxy
):
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url, enqueue_timeout=0.3)
    job = task_of(app)
    await job.enqueue(0)
    proxy.gate.clear()
    async with asyncio.timeout(0.3 + SLACK_S):
        with pytest.raises(EnqueueUnknown):
            await job.enqueue(1)
    proxy.gate.set()


async def test_a_server_that_comes_back_in_time_costs_nobody_an_error(new_server, new_app, store):
    server = new_server()
    server.kill()
    app = new_app(server.url)
    job = task_of(app)
    tasks = [asyncio.create_task(job.enqueue(n)) for n in range(20)]
    await turns()
    await asyncio.to_thread(server.start)
    await asyncio.gather(*tasks)
    assert sorted(message.args[0] for message in store(app).everything()) == list(range(20))


async def test_a_restart_under_load_loses_no_confirmed_job(new_server, new_app, store, tmp_path):
    """Every call ends: what was confirmed is there once, what was refused is not there."""
    server = new_server({"appendonly": "yes", "appendfsync": "always"}, directory=tmp_path)
    app = new_app(server.url)
    job = task_of(app)
    confirmed: list[int] = []

    async def caller(first: int) -> None:
        for n in range(first, first + 50):
            await job.enqueue(n)
            confirmed.append(n)

    async with app:
        callers = [asyncio.create_task(caller(50 * n)) for n in range(20)]
        while len(confirmed) < 200:
            await turns(1)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.gather(*callers)
        assert sorted(confirmed) == list(range(1000))
        assert sorted(message.args[0] for message in store(app).everything()) == list(range(1000))


async def test_who_was_told_that_nothing_was_enqueued_is_not_enqueued_with_those_who_still_wait(new_app, store, url):
    """Callers of one batch have each their own deadline. Breaks when a batch that could not be sent goes again with
    those whose time was up: they have enqueued again meanwhile, and their job runs twice.
    """
    app = new_app(url, enqueue_timeout=0.3)
    job = task_of(app)
    async with app:
        await job.enqueue("first")
        broker, is_away = app.session().broker, True
        ready, enqueue, tried = broker.ready, broker.enqueue, []

        async def is_ready() -> None:
            if is_away:
                raise BrokerUnavailable("away")
            await ready()

        async def refuse(*arguments: object) -> object:
            tried.append(arguments)
            if late.done() or not early.done():
                raise BrokerUnavailable("READONLY You can't write against a read only replica")
            return await enqueue(*arguments)

        broker.is_ready = lambda _queue: not is_away
        broker.ready, broker.enqueue = is_ready, refuse
        early = asyncio.create_task(job.enqueue("early"))
        await asyncio.wait([early], timeout=0.2)
        late = asyncio.create_task(job.enqueue("late"))
        await turns()
        is_away = False
        with pytest.raises(BrokerUnavailable, match="nothing was enqueued") as caught:
            await early
        assert not isinstance(caught.value, EnqueueUnknown)
        await late
        assert len(tried[0][4]) == 2  # both were in the batch that was refused
        assert [message.args[0] for message in store(app).everything()] == ["first", "late"]


# --- Redis refuses ----------------------------------------------------------------------------------------------------


async def test_a_full_redis_refuses_and_nothing_is_changed(new_server, new_app, store):
    server = new_server({"maxmemory-policy": "noeviction"})
    app = new_app(server.url)
    job = task_of(app)
    async with app:
        await job.options(job_id="a").enqueue(1)
        look = store(app)
        before = {key: look.redis.dump(key) for key in look.names() if ":sent:" not in key}
        look.redis.config_set("maxmemory", "1")
        calls = [
            job.enqueue(2),
            job.options(priority=9).enqueue(3),
            job.options(countdown=60).enqueue(4),
            job.options(job_id="b").enqueue(5),
            app.enqueue_many([job.s(6), job.s(7)]),
            job.options(queue="new").enqueue(8),
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [BrokerFull] * 6
        assert "maxmemory" in str(errors[0])
        look.redis.config_set("maxmemory", "0")
        assert {key: look.redis.dump(key) for key in look.names() if ":sent:" not in key} == before
        await job.enqueue(9)
        assert [message.args[0] for message in look.everything()] == [1, 9]


async def test_a_refused_batch_is_split_so_that_one_caller_fails_alone(new_server, new_app, store):
    """An ACL that forbids one caller's key refuses the whole script before it runs."""
    server = new_server()
    app = new_app(server.url)
    look = store(app)
    look.redis.execute_command(
        "ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~rqueue:queues", "resetchannels",
        *[f"~rqueue:{{default}}{rest}" for rest in ("", ":p*", ":jobs", ":s*", ":result:good-*")],
    )  # fmt: skip
    limited = new_app(server.url.replace("redis://", "redis://limited:secret@"))
    job = task_of(limited)
    calls = [job.options(job_id=f"{'bad' if n == 5 else 'good'}-{n}").enqueue(n) for n in range(12)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[5], BrokerError)
    assert "permission" in str(answers[5])
    assert [answer.duplicate for n, answer in enumerate(answers) if n != 5] == [False] * 11
    assert sorted(message.args[0] for message in look.everything()) == [n for n in range(12) if n != 5]


async def test_a_key_of_another_type_doubles_nobody(app, store):
    """Scripts do not roll back: what a refused batch has written before its error must not be written again.

    Breaks when a list's type is found out after another list was written, and the halves are sent again.
    """
    job = task_of(app)
    async with app:
        await job.enqueue(-1)
        look = store(app)
        look.redis.set("rqueue:{default}:p7", "not a list")
        calls = [(job.options(priority=7) if n == 5 else job).enqueue(n) for n in range(12)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[5], BrokerError)
        confirmed = [n for n, answer in enumerate(answers) if not isinstance(answer, BrokerError)]
        assert sorted(message.args[0] for message in look.waiting()) == [-1, *confirmed]
        assert len(look.alive()) == 1 + len(confirmed)
        look.redis.delete("rqueue:{default}:p7")
        assert not (await job.enqueue(12)).duplicate


@pytest.mark.parametrize("how", ["cancelled", "given up"])
async def test_the_halves_of_a_refused_batch_leave_out_whoever_waits_no_more(new_app, store, url, how):
    """Refused, it does not exist. Breaks when a half is sent with a call that was cancelled meanwhile, or whose caller
    was told that nothing was enqueued: it enqueues again, and the job runs twice.
    """
    app = new_app(url, enqueue_timeout=0.3)
    job = task_of(app)
    async with app:
        await job.enqueue("first")
        broker, tried = app.session().broker, []
        enqueue = broker.enqueue

        async def refuse(*arguments: object) -> object:
            tried.append(len(arguments[4]))
            if len(tried) == 1:
                if how == "cancelled":
                    calls[0].cancel()
                    calls[2].cancel()
                raise BrokerError("one of them is bad")
            if len(tried) == 2 and how == "given up":
                await asyncio.wait(calls[2:])
                raise BrokerUnavailable("READONLY You can't write against a read only replica")
            return await enqueue(*arguments)

        broker.enqueue = refuse
        calls = [asyncio.create_task(job.enqueue(n)) for n in range(4)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert tried[0] == 4
        assert not any(isinstance(answer, EnqueueUnknown) for answer in answers[2:])
        confirmed = [n for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
        await app.session().producer.close()  # nothing is under way any more
        assert [message.args[0] for message in store(app).everything()] == ["first", *confirmed]


async def test_an_error_of_our_own_leaves_nobody_waiting(new_app, url):
    """Breaks when a batch that ended in no way that was thought of is forgotten, and its callers wait for ever."""
    app = new_app(url, enqueue_timeout=0.3)
    job = task_of(app)
    async with app:
        await job.enqueue("first")
        broker = app.session().broker
        enqueue = broker.enqueue

        async def fail(*_: object) -> object:
            broker.enqueue = enqueue
            raise RuntimeError("a mistake")

        broker.enqueue = fail
        with pytest.raises(EnqueueUnknown):
            await asyncio.wait_for(job.enqueue("second"), 5)
        assert not (await job.enqueue("third")).duplicate


async def test_scripts_that_were_flushed_are_sent_again(app, store):
    job = task_of(app)
    async with app:
        await job.enqueue(0)
        store(app).redis.script_flush()
        await asyncio.gather(*(job.enqueue(n) for n in range(1, 20)))
        assert [message.args[0] for message in store(app).everything()] == list(range(20))


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_lets_what_is_under_way_end(redis_url, server, new_app, new_proxy, store):
    proxy = await new_proxy(server.port)
    app = new_app(proxy.url)
    job = task_of(app)
    proxy.gate.clear()
    tasks = [asyncio.create_task(job.enqueue(n)) for n in range(5)]
    await proxy.answered.wait()
    closing = asyncio.create_task(app.close())
    await turns()
    proxy.gate.set()
    await closing
    assert [task.result().duplicate for task in tasks if task.done()] == [False] * 5


async def test_closing_in_the_turn_of_a_call_ends_that_call(app, store):
    """A call that has not been sent when the app is closed is enqueued or refused, at once and not after its time."""
    job = task_of(app)
    await job.enqueue(0)
    task = asyncio.create_task(job.enqueue(1))
    await asyncio.sleep(0)
    await app.close()
    async with asyncio.timeout(SLACK_S):
        with suppress(RQueueError):
            await task
    there = 1 in [message.args[0] for message in store(app).everything()]
    assert there == (task.exception() is None)


def test_two_batches_of_a_queue_are_under_way_at_most():
    assert producer_module.LANES == 2
