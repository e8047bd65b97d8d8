"""The app's client side: which queue and priority a call gets, what is stored of it, and handles from ids alone."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import (
    BrokerError,
    ConfigError,
    EnqueueUnknown,
    JobNotFound,
    MessageTooLarge,
    RQueue,
    RQueueError,
    State,
    WaitTimeout,
)
from rqueue.broker.enqueue import ANNOUNCE_EVERY_S
from rqueue.errors import EnqueueManyFailed

PAST = datetime(2020, 1, 1, tzinfo=UTC)


# --- queue and priority -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "task", "call", "queue"),
    [
        ("shop.email.send", "by-task", "by-call", "by-call"),
        ("shop.email.send", "by-task", None, "by-task"),
        ("shop.email.send", None, "by-call", "by-call"),
        ("shop.email.send", None, None, "email"),
        ("shop.email.reports.send", None, None, "email"),  # both match: the first counts
        ("shop.reports.make", None, None, "reports"),
        ("shop.EMAIL.send", None, None, "rest"),  # the case counts
        ("other.email", None, None, "default"),
        ("email", None, None, "default"),
    ],
)
async def test_the_queue_is_the_calls_else_the_tasks_else_the_first_routes(new_app, store, name, task, call, queue):
    app = new_app("memory://", routes={"*.email.*": "email", "*.reports.*": "reports", "shop.*": "rest"})

    @app.task(name=name, **({"queue": task} if task else {}))
    async def job() -> None: ...

    handle = await (job.options(queue=call) if call else job).enqueue()
    assert handle.queue == queue
    assert [message.id for message in store(app).waiting(queue)] == [handle.id]
    assert (await handle.info()).queue == queue


@pytest.mark.parametrize("task", [None, 3])
@pytest.mark.parametrize("parent", [None, 5])
@pytest.mark.parametrize("call", [None, 9])
async def test_the_priority_is_the_calls_else_the_parents_else_the_tasks(memory_app, store, call, parent, task):
    @memory_app.task(queue="inner", **({"priority": task} if task else {}))
    async def child() -> None: ...

    @memory_app.task
    async def mother() -> None:
        await (child.options(priority=call) if call else child).enqueue()

    async with memory_app, memory_app.worker(queues=["default"]) as worker:
        await (mother.options(priority=parent) if parent else mother).enqueue()
        await worker.drain()
    (message,) = store(memory_app).everything("inner")
    assert message.level == (call or parent or task or 0)


async def test_a_parents_task_priority_is_what_its_child_inherits(memory_app, store):
    """The parent runs with its task's priority, so that is the running parent's."""

    @memory_app.task(queue="inner")
    async def child() -> None: ...

    @memory_app.task(priority=8)
    async def mother() -> None:
        await child.enqueue()
        await app_many([child.s()])

    app_many = memory_app.enqueue_many
    async with memory_app, memory_app.worker(queues=["default"]) as worker:
        await mother.enqueue()
        await worker.drain()
    assert len(store(memory_app).waiting("inner", 8)) == 2


async def test_each_priority_is_a_list_of_its_own_in_the_order_of_arrival(app, store):
    @app.task
    async def job(n: int) -> None: ...

    async with app:
        for n in range(3):
            await job.options(priority=10).enqueue(n)
            await job.enqueue(n)
        look = store(app)
        assert [message.args for message in look.waiting(level=10)] == [[0], [1], [2]]
        assert [message.args for message in look.waiting()] == [[0], [1], [2]]


# --- what is stored ---------------------------------------------------------------------------------------------------


async def test_a_plain_call_stores_no_more_than_it_needs(app, store):
    @app.task(name="t")
    async def job(*args: int, **kwargs: int) -> None: ...

    async with app:
        handle = await job.enqueue(1, b=2)
        (message,) = store(app).waiting()
        enqueued = message.fields.pop("enqueued")
        assert abs(enqueued - datetime.now(UTC).timestamp() * 1000) < 5000
        assert message.fields == {"task": "t", "args": [1], "kwargs": {"b": 2}}
        assert message.id == handle.id
        assert len(handle.id) == 32
        assert store(app).alive() == {handle.id}
        assert store(app).redis.smembers("rqueue:queues") == {b"default"}


async def test_the_calls_options_are_stored(app, store):
    @app.task(expires=60)
    async def job() -> None: ...

    async with app:
        for options, expected in [
            ({"max_retries": 0}, {"max_retries": 0}),
            ({"max_retries": None}, {"max_retries": None}),
            ({"expires": PAST}, {"expires": 1_577_836_800_000}),
        ]:
            handle = await job.options(**options).enqueue()
            fields = next(message.fields for message in store(app).waiting() if message.id == handle.id)
            assert expected.items() <= fields.items()
            if "expires" not in options:
                assert fields["expires"] - fields["enqueued"] == 60_000


@pytest.mark.parametrize(
    "options", [{"countdown": 60}, {"countdown": timedelta(minutes=1)}, {"eta": datetime(2100, 1, 1, tzinfo=UTC)}]
)
async def test_a_job_for_later_is_scheduled(app, store, options):
    @app.task
    async def job() -> None: ...

    async with app:
        handle = await job.options(priority=3, **options).enqueue()
        look = store(app)
        assert not look.everything()
        ((member, due),) = look.redis.zrange("rqueue:{default}:scheduled", 0, -1, withscores=True)
        assert member.decode() == handle.id
        seconds, micros = look.redis.time()
        if "eta" in options:
            assert due == 4_102_444_800_000
        else:
            assert 55_000 < due - (seconds * 1000 + micros / 1000) <= 60_000
        assert (await handle.info()).state is State.PENDING


@pytest.mark.parametrize("options", [{"countdown": 0}, {"eta": PAST}])
async def test_a_job_that_is_due_runs_at_once(app, options):
    @app.task
    async def job() -> int:
        return 1

    async with app, app.worker():
        assert await (await job.options(**options).enqueue()).result(timeout=10) == 1


async def test_a_countdown_runs_out(app):
    @app.task
    async def job() -> float:
        return datetime.now(UTC).timestamp()

    async with app, app.worker():
        before = datetime.now(UTC).timestamp()
        late = await job.options(countdown=0.2).enqueue()
        at_once = await job.enqueue()
        assert await at_once.result(timeout=10) < await late.result(timeout=10)
        assert await late.result(timeout=10) - before >= 0.195


async def test_an_app_in_another_namespace_shares_nothing(url, new_app, store):
    first, second = new_app(url), new_app(url, namespace="other")

    @first.task(name="t")
    async def job() -> None: ...

    @second.task(name="t")
    async def other() -> None: ...

    handle = await job.enqueue()
    with pytest.raises(JobNotFound):
        await second.job(handle.id).info()
    await other.enqueue()
    assert {key.partition(":")[0] for key in store(first).names()} == {"rqueue", "other"}


# --- sizes ------------------------------------------------------------------------------------------------------------


async def test_a_message_over_the_limit_is_refused_before_anything_is_sent(url, new_app, store):
    app = new_app(url, max_message_bytes=1000)

    @app.task(name="t")
    async def job(text: str) -> int:
        return len(text)

    with pytest.raises(MessageTooLarge, match=r"t: the message has 1,\d\d\d bytes, max_message_bytes is 1,000"):
        await job.enqueue("x" * 1000)
    with pytest.raises(MessageTooLarge):
        await app.enqueue_many([job.s("x"), job.s("x" * 1000)])
    assert store(app).names() == set()
    room = 1000
    with pytest.raises(MessageTooLarge) as caught:
        await job.enqueue("x" * room)
    over = int(str(caught.value).split("has ")[1].split(" bytes")[0].replace(",", "")) - 1000
    async with app, app.worker():
        assert await (await job.enqueue("x" * (room - over))).result(timeout=10) == room - over
        with pytest.raises(MessageTooLarge):
            await job.enqueue("x" * (room - over + 1))


async def test_a_mebibyte_goes_through_and_back(app):
    @app.task
    async def echo(data: bytes) -> bytes:
        return data

    data = bytes(range(256)) * 2900  # as base64 a little under 1 MiB
    async with app, app.worker():
        jobs = await asyncio.gather(*(echo.enqueue(data) for _ in range(3)))
        for job in jobs:
            assert await job.result(timeout=20) == data


# --- enqueue_many -----------------------------------------------------------------------------------------------------


async def test_many_jobs_go_in_one_step_in_their_order(real_app, store):
    """10,000 jobs: one script, whose lists are longer than what Lua unpacks at once."""

    @real_app.task
    async def job(n: int) -> None: ...

    async with real_app:
        look = store(real_app)
        await job.options(queue="warm").enqueue(0)
        look.redis.config_resetstat()
        jobs = await real_app.enqueue_many([job.s(n) for n in range(10_000)])
        assert look.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
        assert [message.args[0] for message in look.waiting()] == list(range(10_000))
        assert [message.id for message in look.waiting()] == [job.id for job in jobs]
        assert look.alive() == {job.id for job in jobs}


async def test_many_jobs_of_several_queues_priorities_and_times(app, store):
    @app.task
    async def job(n: int) -> int:
        return n

    calls = [
        job.options(
            queue=["default", "email", "reports"][n % 3],
            **({"priority": n % 11} if n % 11 else {}),
            **({"countdown": 0.01} if n % 5 == 0 else {}),
        )
        for n in range(120)
    ]
    async with app:
        jobs = await app.enqueue_many([call.s(n) for n, call in enumerate(calls)])
        assert [handle.queue for handle in jobs] == [["default", "email", "reports"][n % 3] for n in range(120)]
        look = store(app)
        for queue in ("default", "email", "reports"):
            assert look.alive(queue) == {handle.id for handle in jobs if handle.queue == queue}
        async with app.worker(queues=["default", "email", "reports"]):
            assert await asyncio.gather(*(handle.result(timeout=20) for handle in jobs)) == list(range(120))


async def test_no_jobs_are_no_jobs(app, store):
    assert await app.enqueue_many([]) == []
    assert store(app).names() == set()


async def test_one_bad_call_among_many_sends_none(app, store):
    @app.task
    async def job(n: object) -> None: ...

    with pytest.raises(TypeError, match="argument 1"):
        await app.enqueue_many([job.s(1), job.options(queue="email").s(2), job.s({3})])
    assert store(app).names() == set()


async def test_many_jobs_of_which_one_queue_refuses_its_own(app, store):
    """It is told for each call, so that the others are not enqueued twice. Breaks when the first error hides them."""

    @app.task
    async def job(n: int) -> int:
        return n

    async with app:
        look = store(app)
        look.redis.set("rqueue:{email}", "not a list")
        queues = ["default", "email", "default", "email", "reports"]
        calls = [job.options(queue=queue).s(n) for n, queue in enumerate(queues)]
        with pytest.raises(EnqueueManyFailed, match=r"^2 of 5 calls were not enqueued.*WRONGTYPE") as caught:
            await app.enqueue_many(calls)
        jobs, errors = caught.value.jobs, caught.value.errors
        assert [each is None for each in jobs] == [queue == "email" for queue in queues]
        assert [each is None for each in errors] == [queue != "email" for queue in queues]
        assert {type(errors[1]), type(errors[3])} == {BrokerError}
        assert [message.args[0] for message in look.everything("default")] == [0, 2]
        assert [message.args[0] for message in look.everything("reports")] == [4]
        assert [handle.queue for handle in jobs if handle] == ["default", "default", "reports"]
        assert look.alive("email") == set()
        # What was not enqueued can be, once somebody has mended the queue.
        look.redis.delete("rqueue:{email}")
        again = await app.enqueue_many([call for call, error in zip(calls, errors, strict=True) if error])
        async with app.worker(queues=["default", "email", "reports"]):
            handles = [*(handle for handle in jobs if handle), *again]
            assert await asyncio.gather(*(handle.result(timeout=10) for handle in handles)) == [0, 2, 4, 1, 3]


async def test_many_jobs_with_a_taken_id_beside_a_queue_that_refuses(app, store):
    """Breaks when the answers of one queue are read for another's jobs."""

    @app.task
    async def job(n: int) -> None: ...

    async with app:
        await job.options(job_id="taken").enqueue(0)
        store(app).redis.set("rqueue:{email}", "not a list")
        with pytest.raises(EnqueueManyFailed) as caught:
            await app.enqueue_many(
                [job.s(1), job.options(queue="email").s(2), job.options(job_id="taken").s(3), job.s(4)]
            )
        assert [each and each.duplicate for each in caught.value.jobs] == [False, None, True, False]


async def test_many_jobs_of_one_queue_that_refuses_are_its_error(app, store):
    """Nothing was enqueued. Breaks when a caller has to look for the one error in a list of the same."""

    @app.task
    async def job(n: int) -> None: ...

    async with app:
        store(app).redis.set("rqueue:{default}", "not a list")
        with pytest.raises(BrokerError, match="WRONGTYPE") as caught:
            await app.enqueue_many([job.s(1), job.s(2)])
        assert type(caught.value) is BrokerError


@pytest.mark.parametrize("queues", [("default", "email"), ("email", "default")])
async def test_many_jobs_of_which_some_are_in_doubt(memory_app, queues):
    """Nobody may take jobs that may exist for jobs that do not. Breaks when the error of a queue that took none hides
    the ids of another whose reply was lost.
    """

    @memory_app.task
    async def job(n: int) -> None: ...

    async with memory_app:

        async def put(keys, items):
            if keys.name == "email":
                raise BrokerError("WRONGTYPE a waiting list holds a string")
            raise EnqueueUnknown([item.id for item in items])

        memory_app.session().producer.put = put
        with pytest.raises(BrokerError) as caught:
            await memory_app.enqueue_many([job.options(queue=queue, job_id=queue).s(1) for queue in queues])
        errors = caught.value.errors if isinstance(caught.value, EnqueueManyFailed) else [caught.value]
        assert [error.ids for error in errors if isinstance(error, EnqueueUnknown)] == [("default",)]


# --- ids --------------------------------------------------------------------------------------------------------------


async def test_an_id_that_is_alive_gives_the_existing_jobs_handle(app, store):
    """A repeated enqueue is harmless."""

    @app.task
    async def job(n: int) -> int:
        return n

    async with app:
        first = await job.options(job_id="order-1").enqueue(1)
        again = await job.options(job_id="order-1").enqueue(2)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert (first.id, again.id, again.queue) == ("order-1", "order-1", "default")
        assert [message.args for message in store(app).everything()] == [[1]]
        async with app.worker():
            assert await again.result(timeout=10) == 1
            assert await first.result(timeout=10) == 1


async def test_one_id_enqueued_100_times_at_once_is_one_job(app, store):
    @app.task
    async def job(n: int) -> None: ...

    call = job.options(job_id="once")
    async with app:
        handles = await asyncio.gather(*(call.enqueue(n) for n in range(100)))
        assert [handle.duplicate for handle in handles] == [False] + [True] * 99
        assert [message.args for message in store(app).everything()] == [[0]]


async def test_many_jobs_with_taken_ids_are_told_apart(app, store):
    @app.task
    async def job(n: int) -> None: ...

    async with app:
        await job.options(job_id="a").enqueue(0)
        calls = [job.options(job_id=name).s(n) for n, name in enumerate(["a", "b", "b"], 1)]
        handles = await app.enqueue_many([*calls, job.s(4)])
        assert [handle.duplicate for handle in handles] == [True, False, True, False]
        assert [message.args for message in store(app).everything()] == [[0], [2], [4]]


async def test_an_id_is_alive_while_its_job_is_scheduled_or_runs(app):
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.task
    async def job() -> None:
        started.set()
        await go_on.wait()

    async with app, app.worker():
        assert not (await job.options(job_id="later", countdown=60).enqueue()).duplicate
        assert (await job.options(job_id="later").enqueue()).duplicate
        running = await job.options(job_id="now").enqueue()
        await started.wait()
        assert (await job.options(job_id="now").enqueue()).duplicate
        go_on.set()
        await running.result(timeout=10)
        assert not (await job.options(job_id="now").enqueue()).duplicate


async def test_an_id_that_is_used_again_drops_the_old_result(app):
    """Else a waiter would be given the earlier job's value."""

    @app.task
    async def job(n: int) -> int:
        return n

    call = job.options(job_id="daily")
    async with app:
        async with app.worker():
            assert await (await call.enqueue(1)).result(timeout=10) == 1
        again = await call.enqueue(2)
        assert not again.duplicate
        assert (await again.info()).state is State.PENDING
        with pytest.raises(WaitTimeout):
            await again.result(timeout=0.05)
        async with app.worker():
            assert await again.result(timeout=10) == 2


async def test_an_id_lives_in_its_own_queue_only(app):
    """Queues are on different slots of a cluster: no step can look at two of them."""

    @app.task
    async def job() -> None: ...

    async with app:
        assert not (await job.options(job_id="a").enqueue()).duplicate
        assert not (await job.options(job_id="a", queue="email").enqueue()).duplicate


# --- handles ----------------------------------------------------------------------------------------------------------


async def test_a_handle_from_an_id_alone_looks_in_all_queues(app):
    @app.task
    async def job(n: int) -> int:
        return n

    async with app:
        handles = await app.enqueue_many([job.options(queue=f"q{n}").s(n) for n in range(5)])
        for n, handle in enumerate(handles):
            info = await app.job(handle.id).info()
            assert (info.queue, info.state) == (f"q{n}", State.PENDING)
        async with app.worker(queues=[f"q{n}" for n in range(5)]):
            for n, handle in enumerate(handles):
                assert await app.job(handle.id).result(timeout=10) == n
                assert (await app.job(handle.id, f"q{n}").info()).state is State.SUCCESS
                with pytest.raises(JobNotFound):
                    await app.job(handle.id, f"q{(n + 1) % 5}").info()


async def test_a_handle_from_another_process_finds_a_queue_that_nobody_declared(url, new_app):
    producer, reader = new_app(url), new_app(url)

    @producer.task(queue="undeclared")
    async def job() -> None: ...

    handle = await job.enqueue()
    assert (await reader.job(handle.id).info()).queue == "undeclared"


async def test_a_queue_is_known_again_after_redis_was_flushed(app, store):
    """A producer that lives on must not leave its queue unknown: lookups by id, the CLI and metrics go by that set.

    Breaks when a queue is announced once and for all, or no oftener than a lookup can wait.
    """
    assert ANNOUNCE_EVERY_S <= 1

    @app.task
    async def job() -> None: ...

    async with app:
        await job.enqueue()
        store(app).redis.flushall()
        app.session().broker._announced["default"] -= ANNOUNCE_EVERY_S  # a second later
        handle = await job.enqueue()
        assert (await app.job(handle.id).info()).state is State.PENDING


@pytest.mark.parametrize("job_id", ["", "-", "a b", "{x} y", "é", "a" * 5000, "a\r\nDEL x"])
async def test_an_id_that_no_job_can_have_is_not_found(app, job_id):
    """It may come from a URL that somebody typed: that is no error of the program's."""
    handle = app.job(job_id)
    with pytest.raises(JobNotFound):
        await handle.info()
    with pytest.raises(JobNotFound):
        await handle.result(timeout=10)


@pytest.mark.parametrize("queue", ["{email}", "e mail", ""])
async def test_a_handle_in_an_impossible_queue_is_refused(memory_app, queue):
    with pytest.raises(ConfigError, match="queue"):
        await memory_app.job("some-id", queue).info()


async def test_an_error_names_the_ids_that_are_in_doubt():
    error = EnqueueUnknown(["a", "b"])
    assert isinstance(error, RQueueError)
    assert error.ids == ("a", "b")
    assert "a, b" in str(error)


def test_a_task_registered_at_a_client_is_the_apps():
    app = RQueue("memory://")

    @app.task
    def job() -> None: ...

    assert list(app.tasks) == [job]
    assert job.client is app
