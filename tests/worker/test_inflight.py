"""inflight: the table of claimed jobs; it alone knows what this process holds."""

import asyncio
from collections import Counter

import pytest

from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.worker import inflight as module
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase, describe
from rqueue.worker.outcome import Ack, Release

KEYS = Keys()
QUEUE, OTHER = KEYS.queue("q"), KEYS.queue("other")


def job(name, rank=5, *, keys=QUEUE, worker="w", level=0):
    return ClaimedJob(keys, worker, Message.build(Header(level, id=name), b"{}"), name, rank)


@pytest.fixture
def inflight():
    return Inflight(2, 8)


def state(inflight):
    """Everything that it counts, which must fit together at all times."""
    assert inflight.held == len(inflight.of(Phase.HELD))
    assert inflight.running == len(inflight.of(Phase.RUNNING))
    return inflight.held, inflight.running, len(inflight)


def hold(inflight, *jobs):
    for each in jobs:
        inflight.hold(each)
    return jobs


async def test_the_most_urgent_first_and_of_one_rank_the_oldest(inflight):
    hold(inflight, job("a"), job("b", 9), job("c"), job("d", 9), job("e", 1))
    order = []
    while (each := inflight.peek()) is not None:
        inflight.begin(each)
        order.append(each.id)
    assert order == ["b", "d", "a", "c", "e"]


async def test_a_job_goes_through_its_phases(inflight):
    (a,) = hold(inflight, job("a"))
    assert state(inflight) == (1, 0, 1)
    inflight.begin(a)
    assert state(inflight) == (0, 1, 1)
    inflight.end(a, Ack(b"", ""))
    assert (a.phase, state(inflight)) == (Phase.SETTLING, (0, 0, 1))
    assert inflight.outbox == [(a, Ack(b"", ""), None)]
    inflight.gone(a)
    assert (a.phase, state(inflight)) == (Phase.GONE, (0, 0, 0))


async def test_each_step_wakes_who_must_know(inflight):
    signals = inflight.signals
    (a,) = hold(inflight, job("a"))
    assert signals.execute.is_set()
    inflight.begin(a)
    for each in (signals.execute, signals.fetch, signals.settle):
        each.clear()
    inflight.end(a, Release())
    assert signals.execute.is_set()
    assert signals.fetch.is_set()
    assert signals.settle.is_set()
    signals.fetch.clear()
    inflight.gone(a)
    assert signals.fetch.is_set()


async def test_held_means_not_idle(inflight):
    inflight.signals.idle.set()
    hold(inflight, job("a"))
    assert not inflight.signals.idle.is_set()


async def test_what_did_not_start_is_held_again_once(inflight):
    """Also when it is then taken out to be given back."""
    a, b = hold(inflight, job("a"), job("b"))
    inflight.begin(a)
    inflight.put_back(a)
    assert state(inflight) == (2, 0, 2)
    taken = inflight.take_held()
    assert Counter(each.id for each in taken) == {"a": 1, "b": 1}
    assert inflight.held == 0
    assert b.phase is a.phase is Phase.SETTLING


async def test_put_back_twice_and_taken_once(inflight):
    (a,) = hold(inflight, job("a"))
    for _ in range(3):
        assert inflight.peek() is a
        inflight.begin(a)
        inflight.put_back(a)
    assert inflight.take_held() == [a]
    assert inflight.held == 0
    assert inflight.peek() is None


async def test_taken_out_are_the_last_to_start_first(inflight):
    a, b, c, d = hold(inflight, job("a", 9), job("b"), job("c"), job("d", 1))
    assert inflight.take_held(2) == [d, c]
    assert state(inflight) == (2, 0, 4), "in the list until they were given back"
    assert inflight.take_held() == [b, a]
    assert inflight.take_held() == []
    assert inflight.held == 0


async def test_running_jobs_are_not_taken_out(inflight):
    a, b = hold(inflight, job("a"), job("b"))
    inflight.begin(a)
    assert inflight.take_held() == [b]
    assert inflight.running == 1


async def test_a_held_job_may_be_gone_or_settled_at_once(inflight):
    a, b = hold(inflight, job("a"), job("b"))
    inflight.gone(a)
    assert state(inflight) == (1, 0, 1)
    inflight.settle(b, Release())
    assert (inflight.held, len(inflight)) == (0, 1)
    assert inflight.peek() is None


async def test_room_before_anything_was_measured_is_the_free_slots(inflight):
    assert (inflight.room(), inflight.free_slots) == (2, 2)
    (a,) = hold(inflight, job("a"))
    assert (inflight.room(), inflight.free_slots) == (1, 1)
    inflight.begin(a)
    assert (inflight.room(), inflight.free_slots) == (1, 1)
    hold(inflight, job("b"), job("c"))
    assert inflight.room() <= 0
    assert inflight.free_slots == -1


async def test_room_with_a_high_pace_ends_at_the_ceiling(inflight):
    inflight.pace.allowance = lambda now_s: 1000
    assert inflight.room() == 8
    (a,) = hold(inflight, job("a"))
    inflight.begin(a)
    assert inflight.room() == 7
    hold(inflight, *(job(str(number)) for number in range(7)))
    assert inflight.room() == 0


async def test_there_is_no_room_while_one_must_run_alone(inflight):
    (a,) = hold(inflight, job("a"))
    inflight.exclusive = a
    assert inflight.room() == 0
    assert inflight.free_slots == 0
    inflight.gone(a)
    assert inflight.exclusive is None
    assert inflight.room() == 2


async def test_what_should_stand_in_one_list(inflight):
    a, b, c, d = hold(inflight, job("same"), job("same"), job("o", keys=OTHER), job("old", worker="before"))
    early = job("early")
    early.is_settled_early = True
    hold(inflight, early)

    def listed(keys, worker):
        return Counter(raw for _, raw in inflight.listed(keys, worker))

    assert listed(QUEUE, "w") == {a.message.raw: 2}
    assert listed(OTHER, "w") == {c.message.raw: 1}
    assert listed(QUEUE, "before") == {d.message.raw: 1}
    inflight.settle(b, Release())
    assert listed(QUEUE, "w") == {a.message.raw: 2}, "until Redis has answered it stands in the list"
    inflight.gone(b)
    assert listed(QUEUE, "w") == {a.message.raw: 1}


async def test_a_note_is_answered_by_its_future(inflight):
    (a,) = hold(inflight, job("a"))
    inflight.begin(a)
    future = inflight.note(a, Ack(b"", ""))
    assert inflight.outbox == [(a, Ack(b"", ""), future)]
    assert (a.phase, future.done()) == (Phase.RUNNING, False)


async def test_what_is_held_for_long_while_every_slot_is_busy_overstays(inflight):
    a, b, c, d = hold(inflight, *(job(name) for name in "abcd"))
    inflight.begin(a)
    assert inflight.overstaying(-1) == 0, "a slot is free"
    inflight.begin(b)
    assert inflight.overstaying(-1) == 2
    assert inflight.overstaying(60) == 0
    inflight.gone(c)
    assert inflight.overstaying(-1) == 1
    assert d.phase is Phase.HELD


def test_a_jobs_line_in_the_log():
    plain, urgent = job("a"), job("b", level=9)
    assert describe(plain).items() >= {"id": "a", "queue": "q", "worker": "w"}.items()
    assert "priority" not in describe(plain)
    assert describe(urgent)["priority"] == 9


async def test_another_number_of_slots_counts_at_once(inflight):
    """For what may start, for what may be claimed, and for the pace; whoever fetches and starts is told."""
    hold(inflight, job("a"), job("b"))
    assert inflight.room() == 0
    inflight.signals.execute.clear()
    inflight.signals.fetch.clear()
    inflight.resize(5, 20)
    assert (inflight.free_slots, inflight.room(), inflight.pace.slots) == (3, 3, 5)
    assert inflight.signals.execute.is_set()
    assert inflight.signals.fetch.is_set()
    inflight.resize(1, 4)
    assert inflight.room() < 0


async def test_what_is_put_off_gives_its_slot_back_and_says_nothing_of_the_pace(inflight):
    """A job that did not run is no short job: breaks when it is counted as one."""
    (a,) = hold(inflight, job("a"))
    inflight.begin(a)
    inflight.put_off(a, Release())
    assert (a.phase, state(inflight)) == (Phase.SETTLING, (0, 0, 1))
    assert inflight.outbox == [(a, Release(), None)]
    assert inflight.pace._mean_s is None
    assert inflight.life.started == 0, "a limit that puts jobs off must not use up the process"


async def test_only_one_queues_jobs_are_taken_out(inflight):
    a, b, c = hold(inflight, job("a"), job("b", keys=OTHER), job("c"))
    assert inflight.take_held(queue=QUEUE) == [c, a]
    assert state(inflight)[0] == 1
    assert inflight.peek() is b


async def test_a_job_that_is_given_up_on_keeps_its_slot_until_it_ends(inflight):
    stuck = job("a")
    inflight.hold(stuck)
    inflight.begin(stuck)
    inflight.give_up(stuck, Release())
    assert (inflight.running, inflight.stuck, inflight.idle_slots) == (0, 1, 1)
    assert stuck.phase is Phase.SETTLING
    inflight.gone(stuck)
    assert (len(inflight), inflight.idle_slots) == (0, 1)
    inflight.signals.execute.clear()
    inflight.ended_late(stuck)
    assert (inflight.stuck, inflight.idle_slots) == (0, 2)
    assert inflight.signals.execute.is_set()


async def test_a_job_that_was_given_back_while_it_ran_has_no_slot_when_it_ends(inflight):
    released = job("a")
    inflight.hold(released)
    inflight.begin(released)
    inflight.settle(released, Release())
    inflight.ended_late(released)
    assert inflight.stuck == 0


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, "uvloop"])
def test_when_a_question_ends_whoever_starts_jobs_sees_that(loops, monkeypatch):
    """Timers may fire a little early; nothing else would wake the executor until the next heartbeat."""
    factory = pytest.importorskip("uvloop").new_event_loop if loops == "uvloop" else loops
    monkeypatch.setattr(module, "QUESTION_S", 0.003)

    async def ask():
        for _ in range(100):
            asked = Inflight(2, 8)
            suspects = [
                ClaimedJob(QUEUE, "w", Message.build(Header(0, losses=1, id=name), b"{}"), name, 5) for name in "ab"
            ]
            hold(asked, *suspects)
            asked.begin(suspects[0])
            assert asked.peek() is None or not asked.is_questioning()  # this process may have had to wait for its turn
            asked.signals.execute.clear()
            await asyncio.wait_for(asked.signals.execute.wait(), 20)
            assert asked.peek() is suspects[1]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(ask())
