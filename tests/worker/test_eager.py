"""eager: jobs run where they are enqueued, through the same encoding and the same judgement."""

import asyncio
from datetime import UTC, datetime

import pytest

from rqueue import Depends, JobExpired, JobFailed, Reject, RQueue, Snooze, current_request
from rqueue.wire.state import State


@pytest.fixture
def eager(url):
    return RQueue(url, eager=True)


async def test_a_job_has_run_when_enqueue_returns(eager, broker):
    ran = []

    @eager.task(name="t")
    async def t(a, b):
        ran.append((a, b))
        return a + b

    async with eager:
        job = await t.enqueue(1, b=2)
        assert ran == [(1, 2)]
        assert await job.result(1) == 3
        assert (await job.info()).state is State.SUCCESS
        assert await broker.queues() == ["default"]


async def test_values_go_through_the_encoding(eager):
    """What would not travel is refused here too; what arrives is a copy."""
    seen = []

    @eager.task(name="t")
    async def t(value):
        seen.append(value)
        return value

    async with eager:
        given = {"when": datetime(2026, 1, 1, tzinfo=UTC), "data": b"\x00", "list": (1, 2)}
        assert await (await t.enqueue(given)).result(1) == {
            "when": "2026-01-01T00:00:00+00:00",
            "data": b"\x00",
            "list": [1, 2],
        }
        assert seen[0] is not given
        with pytest.raises(TypeError, match="argument 1"):
            await t.enqueue({1, 2})
        assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_an_error_is_the_jobs_and_not_the_producers(eager, error, kind):
    async def coroutine():
        raise error

    def function():
        raise error

    t = eager.task(name="t")(coroutine if kind == "coroutine" else function)
    async with eager:
        job = await t.enqueue()
        with pytest.raises(JobFailed) as caught:
            await job.result(1)
        assert caught.value.error_type == type(error).__name__


async def test_retries_follow_each_other_at_once(eager):
    runs = []

    @eager.task(name="t", bind=True, max_retries=3)
    async def t(self):
        runs.append(self.request.retries)
        self.retry(countdown=3600, exc=ValueError("never"))

    @eager.task(name="auto", autoretry_for=(KeyError,), max_retries=2, default_retry_delay=600)
    def auto():
        runs.append("auto")
        raise KeyError("k")

    async with eager:
        with pytest.raises(JobFailed, match="never"):
            await (await t.enqueue()).result(1)
        assert runs == [0, 1, 2, 3]
        with pytest.raises(JobFailed, match="KeyError"):
            await (await auto.enqueue()).result(1)
        assert runs.count("auto") == 3


async def test_delays_are_not_waited_for_and_expiry_counts(eager):
    @eager.task(name="t")
    async def t():
        return 1

    async with eager:
        assert await (await t.options(countdown=3600).enqueue()).result(1) == 1
        with pytest.raises(JobExpired):
            await (await t.options(expires=datetime(2000, 1, 1, tzinfo=UTC)).enqueue()).result(1)


async def test_a_nested_job_knows_its_parent_and_leaves_the_outer_context_alone(eager):
    @eager.task(name="inner", bind=True)
    async def inner(self):
        return [self.request.parent_id, self.request.root_id, self.request.priority]

    @eager.task(name="outer", bind=True)
    async def outer(self):
        job = await inner.enqueue()
        assert current_request() is self.request
        return await job.result(1)

    async with eager:
        job = await outer.options(priority=3, job_id="o").enqueue()
        assert await job.result(1) == ["o", "o", 3]
        assert current_request() is None


async def test_results_are_kept_as_said_and_announced_ones_for_a_while(eager, broker):
    """Nobody can be listening yet, so what a worker would only announce is kept for a minute."""

    @eager.task(name="quiet", ignore_result=True)
    async def quiet():
        return 1

    @eager.task(name="long", result_ttl=500)
    async def long():
        return 1

    keys = broker.keys.queue("default")
    async with eager:
        job = await quiet.enqueue()
        assert await job.result(1) is None
        assert 0 < await broker._link.call(b"TTL", keys.result(job.id)) <= 60
        job = await long.enqueue()
        assert await job.result(1) == 1
        assert 60 < await broker._link.call(b"TTL", keys.result(job.id)) <= 500


async def test_a_failure_is_a_dead_letter_as_ever(eager, broker, letters):
    @eager.task(name="bad")
    async def bad():
        raise ValueError

    async with eager:
        job = await bad.enqueue()
        assert [letter.id for letter in await letters(broker)] == [job.id]
        assert (await job.info()).is_dead


async def test_many_run_in_their_order(eager):
    order = []

    @eager.task(name="t")
    async def t(number):
        order.append(number)
        return number

    async with eager:
        jobs = await eager.enqueue_many([t.s(number) for number in range(10)])
        assert order == list(range(10))
        assert await asyncio.gather(*(job.result(1) for job in jobs)) == order


def test_from_synchronous_code():
    app = RQueue("memory://", eager=True)

    @app.task(name="t")
    def t(a):
        return a * 2

    @app.task(name="later")
    async def later(a):
        return a * 3

    assert t.delay(2).get(timeout=1) == 4
    assert later.apply_async([2], priority=3).get(timeout=1) == 6
    asyncio.run(app.close())


def noting(app, seen):
    """A task whose resource says when it is opened and closed, and one that needs nothing."""

    async def client():
        seen.append("open")
        yield "the client"
        seen.append("close")

    @app.task(name="fetch", autoretry_for=(ConnectionError,), default_retry_delay=0)
    async def fetch(url, client=Depends(client)):
        seen.append(url)
        if seen.count(url) == 1 and url == "flaky":
            raise ConnectionError
        return f"{url} by {client}"

    @app.task(name="outer", bind=True)
    async def outer(self, client=Depends(client)):
        return await (await fetch.enqueue("inner")).result(1)

    return fetch, outer


async def test_resources_are_open_for_each_run(eager):
    """And no longer: through its retries, for all jobs of one call, and for those that it enqueues."""
    seen = []
    fetch, outer = noting(eager, seen)
    async with eager:
        assert await (await fetch.enqueue("flaky")).result(1) == "flaky by the client"
        assert seen == ["open", "flaky", "flaky", "close"]
        seen.clear()
        await eager.enqueue_many([fetch.s("a"), fetch.s("b")])
        assert seen == ["open", "a", "b", "close"]
        seen.clear()
        assert await (await outer.enqueue()).result(1) == "inner by the client"
        assert seen == ["open", "inner", "close"]


async def test_in_a_block_of_resources_they_stay_open(eager):
    seen = []
    fetch, _ = noting(eager, seen)
    async with eager, eager.resources():
        for url in ("a", "b"):
            await fetch.enqueue(url)
    assert seen == ["open", "a", "b", "close"]


async def test_a_resource_that_cannot_be_opened_fails_its_job_alone(eager):
    def broken():
        raise OSError("refused")

    @eager.task(name="bad", max_retries=0)
    async def bad(broken=Depends(broken)): ...

    @eager.task(name="good")
    async def good():
        return 1

    async with eager:
        failed, fine = await eager.enqueue_many([bad.s(), good.s()])
        with pytest.raises(JobFailed, match="broken failed: OSError: refused"):
            await failed.result(1)
        assert await fine.result(1) == 1


def test_resources_from_synchronous_code():
    app, seen = RQueue("memory://", eager=True), []
    fetch, _ = noting(app, seen)
    assert [fetch.delay(url).get(timeout=1) for url in ("a", "b")] == ["a by the client", "b by the client"]
    assert seen == ["open", "a", "close", "open", "b", "close"]
    asyncio.run(app.close())


async def test_signals_do_as_on_a_worker(eager):
    """A snoozed job follows at once, and one that goes to another queue runs there; its handle is the first queue's."""
    ran = []

    @eager.task(name="t", bind=True)
    async def t(self, step):
        ran.append((step, self.request.queue, self.request.retries))
        if step == "snooze" and len(ran) < 3:
            raise Snooze(3600)
        if step == "snooze":
            self.retry(queue="other", args=["there"], exc=OSError("move"))
        if step == "reject":
            raise Reject("no")
        return [past.error for past in self.request.history]

    async with eager:
        job = await t.enqueue("snooze")
        assert await job.result(1) == ["OSError: move"]
        assert ran == [("snooze", "default", 0)] * 3 + [("there", "other", 1)]
        with pytest.raises(JobFailed, match="Reject: no"):
            await (await t.enqueue("reject")).result(1)
