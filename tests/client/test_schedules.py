"""app.schedules: what the code may declare, and what can be done to stored schedules at run time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from rqueue import ConfigError, MessageTooLarge, RQueue, ScheduleNotFound, cron, every
from rqueue.testing import moving_clock
from rqueue.wire.message import Message
from rqueue.wire.periodic import Entry


@pytest.fixture
async def app(url):
    async with RQueue(url, queues=["default", "email"], routes={"mail.*": "email"}) as app:
        yield app


@pytest.fixture
def add(app):
    @app.task(name="add")
    async def add(a: int, b: int = 0) -> int:
        return a + b

    return add


def call(app, *command):
    return app.session().broker._link.call(*command)


# Declaring


def test_declared_by_decorators_above_the_task_and_by_name():
    app = RQueue("memory://", routes={"mail.*": "email"})

    @app.periodic(cron("@daily"), args=[1])
    @app.periodic(
        every(seconds=30), name="often", args=(2,), kwargs={"b": 3}, priority=4, misfire="all", overlap="skip"
    )
    @app.task(name="mail.add", priority=9, expires=timedelta(minutes=1))
    async def add(a: int, b: int = 0) -> int:
        return a + b

    app.add_periodic(every(hours=1), "mail.add", name="late", args=[1], queue="other", misfire_grace=5)
    assert add.name == "mail.add", "the task is what it was"
    declared = app.schedules.declared
    assert [(name, each.queue) for name, each in declared.items()] == [
        ("often", "email"),
        ("mail.add", "email"),
        ("late", "other"),
    ]
    often = declared["often"].entry
    assert (often.args, often.kwargs, often.priority, often.expires) == ((2,), {"b": 3}, 4, 60)
    assert (often.misfire, often.overlap, often.source) == ("all", "skip", "code")
    assert (declared["mail.add"].entry.priority, declared["late"].entry.grace) == (9, 5000)
    assert len({each.entry.code for each in declared.values()}) == 3, "a fingerprint of all that counts"


def test_two_of_a_task_need_names_and_the_same_twice_is_one():
    app = RQueue("memory://")
    task = app.task(name="t")(lambda: None)
    app.add_periodic(every(seconds=5), task)
    app.add_periodic(every(seconds=5), task)
    with pytest.raises(ConfigError, match="declared twice; give one of them another name="):
        app.add_periodic(every(seconds=6), task)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"misfire": "never"}, "one of skip, once, all"),
        ({"overlap": True}, "one of allow, skip, queue"),
        ({"misfire_grace": 0}, "seconds above 0"),
        ({"misfire_grace": "60"}, "misfire_grace"),
        ({"priority": 11}, "1 .lowest. to 10"),
        ({"queue": "no queue"}, "a queue's name"),
        ({"name": "a b"}, "printable ASCII"),
        ({"args": "ab"}, "a list or tuple"),
        ({"kwargs": [1]}, "a dict"),
        ({"overlaps": "skip"}, "did you mean 'overlap'"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_written(options, says):
    app = RQueue("memory://")
    task = app.task(name="t")(lambda *_args, **_kwargs: None)
    with pytest.raises(ConfigError, match=says):
        app.add_periodic(every(seconds=5), task, **options)


def test_wrong_arguments_and_things_that_are_no_schedule_or_no_task():
    app = RQueue("memory://", max_message_bytes=300)
    task = app.task(name="t")(lambda a: None)
    with pytest.raises(TypeError, match="missing a required argument"):
        app.add_periodic(every(seconds=5), task)
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        app.add_periodic(every(seconds=5), task, args=[{1}])
    with pytest.raises(MessageTooLarge, match="max_message_bytes is 300"):
        app.add_periodic(every(seconds=5), task, args=["x" * 300])
    with pytest.raises(ConfigError, match=r"cron\(…\) or every\(…\)"):
        app.add_periodic("@daily", task, args=[1])
    with pytest.raises(ConfigError, match=r"@app.periodic stands above @app.task"):
        app.periodic(every(seconds=5))(lambda: None)
    with pytest.raises(ConfigError, match="'nobody' is no task"):
        app.add_periodic(every(seconds=5), "nobody")
    assert app.schedules.declared == {}


# At run time


async def test_added_listed_and_removed(app, add):
    added = await app.schedules.add(cron("0 5 * * *", tz="Europe/Berlin"), add, name="b", args=[1])
    other = await app.schedules.add(every(minutes=5), "mail.elsewhere", kwargs={"x": b"\xff"}, priority=3)
    assert (other.name, other.queue, other.task, other.kwargs) == (
        "mail.elsewhere",
        "email",
        "mail.elsewhere",
        {"x": b"\xff"},
    )
    assert await app.schedules.list() == [added, other]
    assert await app.schedules.list("email") == [other]
    assert (await app.schedules.get("b")) == added
    assert (added.source, added.is_paused, added.last, added.pending) == ("added", False, None, 0)
    assert str(added.schedule) == "cron 0 5 * * * Europe/Berlin"
    await app.schedules.remove("b")
    await app.schedules.remove("mail.elsewhere", queue="email")
    assert await app.schedules.list() == []
    assert await call(app, b"KEYS", b"*periodic*") == []


async def test_a_name_is_taken_once_over_all_queues(app, add):
    await app.schedules.add(every(seconds=5), add, name="s", args=[1])
    for queue in ("default", "email"):
        with pytest.raises(ConfigError, match="there is one in the queue 'default'"):
            await app.schedules.add(every(seconds=5), add, name="s", args=[1], queue=queue)


async def test_what_is_in_two_queues_needs_its_queue(app, add):
    broker = app.session().broker
    for queue in ("default", "email"):
        await broker.plan(app.keys.queue(queue), "s", b"", Entry("add", 1, (1,), every=1000).encode(), 1)
    with pytest.raises(ConfigError, match="default, email have one of that name"):
        await app.schedules.get("s")
    assert (await app.schedules.pause("s", queue="email")).is_paused
    assert not (await app.schedules.get("s", queue="default")).is_paused


async def test_what_cannot_be_read_is_left_out_and_can_be_removed(app, add):
    keys = app.keys.queue("default")
    await call(app, b"HSET", keys.entries, b"junk", b"junk")
    added = await app.schedules.add(every(seconds=5), add, args=[1])
    assert await app.schedules.list() == [added]
    await app.schedules.remove("junk")
    assert await app.session().broker.schedules(keys) == {"add": await app.session().broker.schedule(keys, "add")}


async def test_what_is_not_there_is_not_found(app):
    schedules = app.schedules
    for asked in (
        schedules.get,
        schedules.edit,
        schedules.pause,
        schedules.resume,
        schedules.trigger,
        schedules.remove,
    ):
        with pytest.raises(ScheduleNotFound, match="'nobody'"):
            await asked("nobody")


async def test_next_times(app, add):
    async with moving_clock(app) as clock:
        await clock.move_to(datetime(2026, 3, 28, tzinfo=UTC))
        await app.schedules.add(cron("30 2 * * *", tz="Europe/Berlin"), add, name="s", args=[1])
        assert [f"{each:%d %H:%M}" for each in await app.schedules.next_times("s", 3)] == [
            "28 01:30",
            "29 01:00",
            "30 00:30",
        ]
        await app.schedules.pause("s")
        assert await app.schedules.next_times("s") == ()


async def test_edited_in_part(app, add):
    async with moving_clock(app):
        added = await app.schedules.add(every(minutes=5), add, args=[1], overlap="queue")
        edited = await app.schedules.edit(
            "add", args=[2, 3], priority=7, misfire="once", misfire_grace=timedelta(minutes=2)
        )
        assert (edited.args, edited.priority, edited.misfire, edited.misfire_grace_s) == ((2, 3), 7, "once", 120)
        assert (edited.schedule, edited.due, edited.overlap) == (added.schedule, added.due, "queue")
        again = await app.schedules.edit("add", schedule=every(hours=1))
        assert again.due > added.due + timedelta(minutes=50), "it begins anew from now"
        assert await app.schedules.get("add") == again
        for wrong in ({"args": [{1}]}, {"args": []}):
            with pytest.raises(TypeError):
                await app.schedules.edit("add", **wrong)
        with pytest.raises(ConfigError, match="unknown schedule option 'queues'"):
            await app.schedules.edit("add", queues="x")
        assert await app.schedules.get("add") == again


async def test_a_paused_one_is_not_looked_at_and_makes_up_for_nothing(app, add):
    """Celery runs at once what came due while it was disabled: this breaks when ours does."""
    async with moving_clock(app) as clock:
        added = await app.schedules.add(every(minutes=5), add, args=[1], misfire="all")
        paused = await app.schedules.pause("add")
        assert (paused.is_paused, paused.due) == (True, None)
        assert await app.session().broker.next_look(app.keys.queue("default")) is None
        await clock.move(timedelta(minutes=12))
        resumed = await app.schedules.resume("add")
        assert resumed.due == added.due + timedelta(minutes=10)
        assert await app.schedules.resume("add") == resumed


async def test_a_trigger_enqueues_one_now_and_leaves_the_rhythm(app, add):
    added = await app.schedules.add(every(minutes=5), add, args=[1], priority=4)
    job = await app.schedules.trigger("add")
    (raw,) = await call(app, b"LRANGE", app.keys.queue("default").lists[4], 0, -1)
    assert Message.parse(raw).header.id == job.id
    assert (await job.info()).state == "PENDING"
    assert await app.schedules.get("add") == added


async def test_edits_at_once_are_all_there(app, add):
    """Breaks when one who was second writes over the first: he begins again."""
    await app.schedules.add(every(minutes=5), add, args=[1])
    changes = [{"args": [2]}, {"priority": 3}, {"misfire": "all"}, {"overlap": "skip"}, {"schedule": every(hours=2)}]
    await asyncio.gather(*(app.schedules.edit("add", **change) for change in changes), app.schedules.pause("add"))
    found = await app.schedules.get("add")
    assert (found.args, found.priority, found.misfire, found.overlap) == ((2,), 3, "all", "skip")
    assert (found.schedule, found.is_paused) == (every(hours=2), True)


async def test_removed_while_it_is_edited(app, add):
    await app.schedules.add(every(minutes=5), add, args=[1])
    real = app.session().broker.plan

    async def late(keys, name, read, entry, look_ms):
        app.session().broker.plan = real
        await app.schedules.remove("add")
        return await real(keys, name, read, entry, look_ms)

    app.session().broker.plan = late
    with pytest.raises(ScheduleNotFound):
        await app.schedules.edit("add", priority=1)
    assert await app.schedules.list() == []
