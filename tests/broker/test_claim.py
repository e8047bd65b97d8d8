"""claim: messages move from waiting lists to this worker's processing lists, highest priority first."""

import pytest

from rqueue.broker.broker import Claim, Claimed, Stopped
from rqueue.wire.message import Header, Message

on_redis = pytest.mark.parametrize("url", ["redis"], indirect=True)

ALIVE = {"workers": {"w": "future"}}


async def claim(broker, keys, want=100, max_bytes=1_000_000, **options):
    return await broker.claim([keys], [5], "w", 30, want, max_bytes, **options)


def brought(claimed: Claim):
    return [(each.queue, each.level, each.raw) for each in claimed.messages]


async def test_the_oldest_first(broker, keys, seed, dump, message):
    """Never nowhere. Breaks when a message is copied and not moved, or taken from the wrong end."""
    a, b, c = (message(name) for name in "abc")
    await seed({"main": [c, b, a], **ALIVE})
    claimed = await claim(broker, keys, want=2)
    assert claimed.due_ms is None
    assert brought(claimed) == [(0, 0, a), (0, 0, b)]
    assert await dump() == {"main": [c], "processing:w": [b, a], **ALIVE}


async def test_the_highest_priority_first(broker, keys, seed, dump, message):
    """Order: main stands at its queue's rank, behind that priority's own list. Breaks when the levels are walked in
    another order.
    """
    lists = {f"p{level}": [message(f"j{level}", level)] for level in range(1, 11)}
    await seed({**lists, "main": [message("m")], **ALIVE})
    claimed = await claim(broker, keys)
    order = [10, 9, 8, 7, 6, 5, 0, 4, 3, 2, 1]
    assert [each.level for each in claimed.messages] == order
    held = [message(f"j{level}", level) if level else message("m") for level in reversed(order)]
    assert await dump() == {"processing:w": held, **ALIVE}


@pytest.mark.parametrize("first", [0, 1, 2, 3, 100])
async def test_queues_of_the_same_rank_take_turns(broker, keys, reports, seed, dump, message, first):
    """Order: none is starved. Breaks when the claim begins with the same queue always."""
    a, b = message("a"), message("b")
    alive = {"workers": {"w": "future"}, "reports/workers": {"w": "future"}}
    await seed({"main": [a], "reports/main": [b], **alive})
    claimed = await broker.claim([keys, reports], [5, 5], "w", 30, 1, 1_000, first)
    if first % 2 == 0:
        assert brought(claimed) == [(0, 0, a)]
        assert await dump() == {"processing:w": [a], "reports/main": [b], **alive}
    else:
        assert brought(claimed) == [(1, 0, b)]
        assert await dump() == {"main": [a], "reports/processing:w": [b], **alive}


async def test_a_turn_does_not_beat_a_rank(broker, keys, reports, seed, message):
    """Order: a main list has its queue's rank among the lists of a claim. Breaks when ranks are mixed up between the
    queues, or the turn counts for more.
    """
    await seed(
        {
            "main": [message("m3")],
            "p4": [message("p4", 4)],
            "reports/main": [message("m8")],
            "reports/p4": [message("r4", 4)],
            "workers": {"w": "future"},
            "reports/workers": {"w": "future"},
        }
    )
    claimed = await broker.claim([keys, reports], [3, 8], "w", 30, 10, 1_000, 1)
    assert [(each.queue, each.level) for each in claimed.messages] == [(1, 0), (1, 4), (0, 4), (0, 0)]


async def test_an_unregistered_worker_changes_nothing(broker, keys, seed, dump, message):
    """A dead worker's list refuses messages: claim of an unregistered id says so. Breaks when claim adds a worker."""
    state = {"main": [message("a")], "p9": [message("b", 9)], "workers": {"someone": "future"}}
    await seed(state)
    assert await claim(broker, keys) is None
    assert await dump() == state


async def test_registered_in_one_of_two_queues_is_not_registered(broker, keys, reports, seed, dump, message):
    """Every claim has an owner. Breaks when the check stands in the loop that already renews and moves."""
    state = {"main": [message("a")], "processing:w": [b""], "workers": {"w": "past"}, "reports/main": [message("b")]}
    await seed(state)
    assert await broker.claim([keys, reports], [5, 5], "w", 30, 10, 1_000) is None
    assert await dump() == state


async def test_a_claim_renews_the_lease(broker, keys, reports, seed, raw):
    """Every claim has an owner: the lease is renewed in the step, also of what brings nothing. Breaks without the
    ZADD, or with one for the first queue only.
    """
    await seed({"workers": {"w": "past"}, "reports/workers": {"w": "past"}})
    await broker.claim([keys, reports], [5, 5], "w", 30, 10, 1_000)
    seconds, _ = await raw("TIME")
    for queue in (keys, reports):
        assert 29 <= int(await raw("ZSCORE", queue.workers, "w")) / 1000 - int(seconds) <= 31


async def test_what_is_left_behind_leaves_a_token(broker, keys, seed, dump, message):
    """No wake-up is missed: so does a claim that leaves something behind. Breaks when the next worker sleeps on."""
    a, b = message("a", 5), message("b", 5)
    await seed({"p5": [b, a], **ALIVE})
    await claim(broker, keys, want=1)
    assert await dump() == {"main": [b""], "p5": [b], "processing:w": [a], **ALIVE}


async def test_no_token_when_nothing_is_left_or_main_has_something(broker, keys, seed, dump, message):
    """Counts do not see tokens. Breaks when every claim leaves one: workers would wake one another for ever."""
    a, b, c = message("a", 9), message("b", 1), message("c")
    await seed({"p9": [a], **ALIVE})
    await claim(broker, keys, want=1)
    assert await dump() == {"processing:w": [a], **ALIVE}
    await seed({"p1": [b], "main": [c]})
    await claim(broker, keys, want=0)
    assert await dump() == {"main": [c], "p1": [b], "processing:w": [a], **ALIVE}


async def test_tokens_are_dropped_and_never_claimed(broker, keys, seed, dump, message):
    """A token is a hint, never a job. Breaks when a claim brings it, counts it, or leaves it in a list."""
    a, b = message("a"), message("b")
    await seed({"main": [b, b"", a], "processing:w": [b""], **ALIVE})
    assert brought(await claim(broker, keys, want=2)) == [(0, 0, a), (0, 0, b)]
    assert await dump() == {"processing:w": [b, a], **ALIVE}


async def test_a_token_alone_leaves_no_list(broker, keys, seed, dump):
    """Nothing leaks. Breaks when the token of a block, or of the main list, is kept by an empty claim."""
    await seed({"main": [b""], "processing:w": [b""], **ALIVE})
    assert brought(await claim(broker, keys)) == []
    assert await dump() == ALIVE


async def test_an_empty_claim_brings_nothing(broker, keys, seed, dump):
    """Nothing leaks. Breaks when a claim over empty lists writes something."""
    await seed(ALIVE)
    assert await claim(broker, keys) == Claim(None, [])
    assert await dump() == ALIVE


async def test_a_priority_is_remembered_for_a_message_without_a_header(broker, keys, seed, dump):
    """Priority survives: a message goes back where it came from. Breaks when the header is not put on, put on for
    the main list too, or put on in the reply and not in the list.
    """
    plain = b'{"task": "t"}'
    headed = Header(level=7).encode() + plain
    await seed({"p7": [plain], "main": [plain], **ALIVE})
    claimed = await claim(broker, keys)
    assert brought(claimed) == [(0, 7, headed), (0, 0, plain)]
    assert await dump() == {"processing:w": [plain, headed], **ALIVE}
    assert Message.parse(headed, 7) == Message(headed, Header(level=7), plain)


@pytest.mark.parametrize("level", [0, 7])
async def test_leading_space_is_no_reason_to_refuse_a_message(broker, keys, seed, level):
    """Any producer may push an object. Breaks when a message that is fine in the main list is made unreadable by the
    header that a priority's list gives it.
    """
    await seed({f"p{level}" if level else "main": [b' \n{"task": "t"}'], **ALIVE})
    (claimed,) = (await claim(broker, keys)).messages
    assert Message.parse(claimed.raw, claimed.level).header.level == level


async def test_a_list_that_is_none_is_passed_over(broker, keys, seed, dump, message):
    """What cannot be read stops nothing. Breaks when somebody's string ends the claim for the lists behind it."""
    await seed({"main": b"somebody's", "p3": [message("a", 3)], **ALIVE})
    assert brought(await claim(broker, keys)) == [(0, 3, message("a", 3))]
    assert await dump() == {"main": b"somebody's", "processing:w": [message("a", 3)], **ALIVE}


async def test_a_priority_list_that_is_none_is_not_left_behind(broker, keys, seed, dump, message):
    """Nothing polls faster than a block. Breaks when a string under `:p9` counts as waiting work: each claim leaves a
    token, each block takes it at once, and the worker spins.
    """
    await seed({"p9": b"somebody's", "p3": [message("a", 3)], **ALIVE})
    assert brought(await claim(broker, keys)) == [(0, 3, message("a", 3))]
    assert await dump() == {"p9": b"somebody's", "processing:w": [message("a", 3)], **ALIVE}


async def test_bytes_are_bounded_but_one_message_always_comes(broker, keys, seed, dump, message):
    """Batches are bounded in bytes. Breaks when the bound is not counted down, or holds back a large message for
    ever.
    """
    big, small = message("a", pad=500), message("b")
    await seed({"main": [small, big], **ALIVE})
    assert brought(await claim(broker, keys, max_bytes=100)) == [(0, 0, big)]
    assert await dump() == {"main": [small], "processing:w": [big], **ALIVE}


async def test_it_says_when_the_first_scheduled_job_of_any_queue_is_due(broker, keys, reports, seed):
    """No wake-up is missed. Breaks when only the first queue is looked at, or an overdue one is negative or none."""
    await seed(
        {
            "workers": {"w": "future"},
            "reports/workers": {"w": "future"},
            "scheduled": {"a": 4_000_000_000_000},
            "reports/scheduled": {"b": "future"},
        }
    )
    claimed = await broker.claim([keys, reports], [5, 5], "w", 30, 1, 1_000)
    assert 0 < claimed.due_ms <= 60_000
    await seed({"scheduled": {"c": 1}})
    assert (await broker.claim([keys, reports], [5, 5], "w", 30, 1, 1_000)).due_ms == 0


async def test_it_tells_redis_time(broker, keys, seed, raw):
    """Time is Redis's. Breaks when a claim's time is not observed: a long-lived worker's clock would drift."""
    await seed(ALIVE)
    broker.clock.observe(0)
    await claim(broker, keys)
    seconds, _ = await raw("TIME")
    assert abs(broker.clock.now_ms() / 1000 - int(seconds)) < 5


async def test_two_workers_share_and_double_nothing(broker, other, keys, seed, dump, message):
    """Never nowhere, and in exactly one list. Breaks when a claim reads and removes in two steps."""
    messages = [message(f"j{number}") for number in range(10)]
    await seed({"main": messages, "workers": {"w": "future", "v": "future"}})
    await broker.claim([keys], [5], "w", 30, 6, 10_000)
    await other.claim([keys], [5], "v", 30, 6, 10_000)
    stored = await dump()
    assert "main" not in stored
    assert (len(stored["processing:w"]), len(stored["processing:v"])) == (6, 4)
    assert stored["processing:v"] + stored["processing:w"] == messages


@on_redis
async def test_thousands_at_once(broker, keys, raw, seed, message):
    """Every claim has an owner who knows of it. Breaks when the reply is longer than Lua's stack: the messages would
    be claimed, and the worker would get an error. (1,000 slots, prefetch multiplier 4.)
    """
    await seed({"main": [message(f"j{number}") for number in range(4_000)], **ALIVE})
    assert len((await claim(broker, keys, want=4_000)).messages) == 4_000
    assert await raw("LLEN", keys.processing("w")) == 4_000


# --- what must not run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["queue", "all"])
async def test_nothing_is_claimed_from_a_paused_queue(broker, keys, reports, seed, dump, raw, member):
    """Its jobs stay where they are, its token too; the other queue's are claimed, and the lease is renewed in both."""
    await seed(
        {
            "workers": {"w": "future"},
            "reports/workers": {"w": "future"},
            "main": [b'1 - 0 0 0 a {"task":"t"}', b""],
            "p3": [b'1 3 0 0 0 b {"task":"t"}'],
            "reports/main": [b'1 - 0 0 0 c {"task":"t"}'],
        }
    )
    await raw("ZADD", keys.stops, 0, member)
    before = await dump()
    found = await broker.claim([keys, reports], [5, 5], "w", 30, 10, 10_000)
    assert found.messages == [Claimed(1, 0, b'1 - 0 0 0 c {"task":"t"}')]
    assert found.stopped == (Stopped(0, True, frozenset(), frozenset()),)
    after = await dump()
    assert {name: after[name] for name in ("main", "p3", "stops")} == {
        name: before[name] for name in ("main", "p3", "stops")
    }
    assert "processing:w" not in after


async def test_a_claim_tells_of_paused_tasks_and_revoked_jobs(broker, keys, seed, raw):
    """With priorities and without: one count of keys must tell both apart."""
    await seed(
        {
            "workers": {"w": "future"},
            "main": [b'1 - 0 0 0 a {"task":"t"}', b'1 - 0 0 0 b {"task":"t"}'],
        }
    )
    for member in ("task:t", "task:tasks.add", "job:b", "job:elsewhere"):
        await raw("ZADD", keys.stops, 0, member)
    found = await broker.claim([keys], [5], "w", 30, 10, 10_000)
    assert [each.raw[10:11] for each in found.messages] == [b"b", b"a"]
    assert found.stopped == (Stopped(0, False, frozenset({"t", "tasks.add"}), frozenset({"b"})),)
    await seed({"p7": [b'1 7 0 0 0 elsewhere {"task":"t"}']})
    found = await broker.claim([keys], [5], "w", 30, 10, 10_000)
    assert found.stopped[0].revoked == {"elsewhere"}
    assert [each.level for each in found.messages] == [7]
