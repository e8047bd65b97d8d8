"""uniqueness: which calls count as the same, and what their lock is."""

from datetime import UTC, datetime, timedelta

import pytest

from rqueue import ConfigError, RQueue
from rqueue.client.uniqueness import Lock, lock_of
from rqueue.testing import eager


@pytest.fixture
def app():
    return RQueue("memory://uniqueness")


@pytest.fixture
def task(app):
    @app.task(name="t", unique="until_done")
    async def t(a, b=2, *rest, c=None, **more): ...

    return t


def name_of(signature):
    lock = lock_of(signature)
    assert lock is not None
    return lock.name


def test_a_lock_is_pinned(task):
    """Producers of two versions must agree during a deployment."""
    assert lock_of(task.s(1)) == Lock("unique", "e8acd0b63787612c69e969ab5c9af651", 0, "end")


def test_the_same_arguments_are_the_same_however_they_are_passed(task):
    calls = [task.s(1), task.s(a=1), task.s(1, 2), task.s(b=2, a=1), task.s(1, c=None)]
    assert len({name_of(call) for call in calls}) == 1
    objects = [task.s({"x": 1, "y": [{"p": 1, "q": 2}]}), task.s({"y": [{"q": 2, "p": 1}], "x": 1})]
    assert len({name_of(call) for call in objects}) == 1
    more = [task.s(1, more=1, other=2), task.s(1, other=2, more=1)]
    assert len({name_of(call) for call in more}) == 1


def test_other_arguments_are_others(app, task):
    calls = [
        *(task.s(each) for each in (1, 2, "1", None, True, [1], b"1", {"$bytes": "MQ=="}, {})),
        *(task.s(1, *more) for more in ((3,), (2, 3), (2, 3, 4))),
        *(task.s(1, c=1), task.s(1, d=1)),
    ]

    @app.task(name="other", unique="until_done")
    async def other(a, b=2, *rest, c=None, **more): ...

    names = [name_of(call) for call in [*calls, other.s(1)]]
    assert len(set(names)) == len(names)


def test_kinds_do_not_meet(task):
    kinds = [{"unique": "until_done"}, {"debounce": 1}, {"throttle": 1}]
    assert len({name_of(task.options(**kind).s(1)) for kind in kinds}) == 3
    same = [{"unique": "until_done"}, {"unique": "until_start"}, {"unique": timedelta(1)}]
    assert len({name_of(task.options(**kind).s(1)) for kind in same}) == 1


def test_a_default_that_cannot_be_sent_is_a_default(app):
    """It can only ever be left out: no call passes it."""

    @app.task(unique="until_done")
    async def t(a, b=object(), c=3): ...

    assert name_of(t.s(1)) == name_of(t.s(1, c=3)) != name_of(t.s(1, None))


def test_what_the_worker_gives_is_no_argument(app):
    @app.task(bind=True, name="t", unique="until_done", unique_key="{a}")
    async def bound(self, a): ...

    assert lock_of(bound.s(1)) == lock_of(bound.s(a=1))


def test_a_builtin_that_does_not_say_what_it_takes(app):
    task = app.task(name="t", unique="until_done")(max)
    assert name_of(task.s(1, 2)) == name_of(task.s(1, 2)) != name_of(task.s(2, 1))


def test_a_template_over_the_arguments(app):
    @app.task(unique="until_done", unique_key="{tenant}:{doc}")
    async def t(tenant, doc="d", size=0): ...

    assert name_of(t.s(1)) == name_of(t.s(tenant=1, doc="d", size=9)) != name_of(t.s(2))
    assert name_of(t.options(unique_key="{doc}").s(1)) == name_of(t.options(unique_key="{doc}").s(2))


def test_a_function_of_the_call(app):
    @app.task(unique="until_done", unique_key=lambda tenant, doc, **_: [tenant, doc.lower()])
    async def t(tenant, doc, size=0): ...

    assert name_of(t.s(1, "A")) == name_of(t.s(1, doc="a", size=3)) != name_of(t.s(2, "a"))


@pytest.mark.parametrize("key", ["{nobody}", "{nobody.name}", "{}", "{0}", "{a[0]}{nobody!r:>3}"])
def test_a_template_of_something_else_is_refused_where_it_is_written(app, key):
    with pytest.raises(ConfigError, match=r"no parameter .*there are: a"):

        @app.task(unique_key=key)
        async def t(a): ...

    @app.task
    async def u(a): ...

    with pytest.raises(ConfigError, match="no parameter"):
        lock_of(u.options(unique="until_done", unique_key=key).s(1))


def test_what_is_no_template_is_refused(app):
    with pytest.raises(ConfigError, match="unique_key"):

        @app.task(unique_key="{a")
        async def t(a): ...


@pytest.mark.parametrize("key", ["{a.name}", "{a[0]}", "{a:%}"])
def test_a_template_that_does_not_fit_the_arguments_says_whose_it_is(task, key):
    with pytest.raises(ConfigError, match=r"^t: unique_key '\{a.*' does not fit the arguments: "):
        lock_of(task.options(unique_key=key).s([] if key == "{a[0]}" else None))


def test_a_key_that_is_not_json_is_refused(task):
    with pytest.raises(TypeError, match="t: the key of a unique job must be JSON"):
        lock_of(task.options(unique_key=lambda *_: object()).s(1))


def test_the_call_goes_before_the_task(app, task):
    @app.task
    async def plain(a): ...

    assert lock_of(plain.s(1)) is None
    assert lock_of(plain.options(unique_key="{a}").s(1)) is None, "a key alone locks nothing"
    assert lock_of(task.options(unique=None).s(1)) is None
    of_call = lock_of(task.options(throttle=1.5).s(1))
    assert of_call is not None
    assert (of_call.kind, of_call.ms, of_call.until, of_call.field) == ("throttle", 1500, None, None)
    assert of_call.wire == f"throttle 1500 {of_call.name}"


def test_what_the_parts_of_rqueue_are_told(task):
    def told(**options):
        lock = lock_of(task.options(unique_key="{a}", **options).s(1))
        assert lock is not None
        return lock.wire.split()[:2], lock.due, lock.field and lock.field[0]

    assert told(unique="until_done") == (["unique", "0"], None, "end")
    assert told(unique="until_start") == (["unique", "0"], None, "start")
    assert told(unique=timedelta(minutes=1)) == (["unique", "60000"], None, "end")
    assert told(debounce=2) == (["debounce", "0"], "+2000", "end")
    assert told(throttle=timedelta(seconds=2)) == (["throttle", "2000"], None, None)


@pytest.mark.parametrize("time", [{"countdown": 1}, {"eta": datetime(2030, 1, 1, tzinfo=UTC)}])
def test_a_debounced_call_has_no_time_of_its_own(app, task, time):
    with pytest.raises(ConfigError, match="debounce says when the job runs"):
        lock_of(task.options(debounce=1, **time).s(1))


async def test_in_eager_mode_each_runs_at_once(app):
    runs = []

    @app.task(unique="until_done", unique_key="same")
    async def once(a):
        runs.append(a)

    @app.task(debounce=60, unique_key="same")
    async def late(a):
        runs.append(a)

    with eager(app):
        jobs = [await once.enqueue(1), await once.enqueue(2), await late.enqueue(3), await late.enqueue(4)]
    assert runs == [1, 2, 3, 4]
    assert not any(job.duplicate for job in jobs)


def test_from_synchronous_code(app, task):
    first, second = task.delay(1), task.apply_async((1,))
    assert (first.id, first.duplicate, second.duplicate) == (second.id, False, True)
    app.portal().stop()
