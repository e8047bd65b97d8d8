"""pause: a queue, or a task in it, runs no more: every worker is told before it takes another job."""

import asyncio

import pytest

STOPPED = {"stops": {"queue": "past"}}
WORKERS = {"workers": {"v": "future", "w": "future"}}


async def pop(broker, keys, worker="w"):
    return await broker.block(keys, worker, 0.01)


async def test_it_leaves_a_token_for_each_worker_where_lists_are_read(broker, keys, seed, dump, message):
    """The queue's next messages stay behind them. Breaks when the tokens stand at the other end."""
    await seed({"main": [message("b"), message("a")], "p3": [message("c", 3)], **WORKERS})
    assert await broker.pause(keys, "queue")
    assert await dump() == {
        "main": [message("b"), message("a"), b"", b""],
        "p3": [message("c", 3)],
        **STOPPED,
        **WORKERS,
    }


async def test_pops_on_their_way_take_tokens_and_no_job(broker, keys, seed, message):
    """Strict: one pop of each worker may still arrive. Breaks without the tokens, or with one too few."""
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "all")
    assert [await pop(broker, keys, worker) for worker in "vw"] == [b"", b""]


async def test_pops_at_the_server_end_with_a_token(broker, other, keys, seed, dump, until_blocked, message):
    """Strict: who waits is told, and does not wait for the next job."""
    await seed(WORKERS)
    waiting = asyncio.gather(broker.block(keys, "w", 5), other.block(keys, "v", 5))
    await until_blocked(2)
    assert await broker.pause(keys, "queue")
    assert await waiting == [b"", b""]
    assert await dump() == {**STOPPED, **WORKERS, "processing:v": [b""], "processing:w": [b""]}


async def test_the_same_step_again_changes_nothing(broker, keys, seed, dump, message):
    """Its reply may be lost. Breaks when the tokens pile up."""
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "queue")
    stored = await dump()
    assert await broker.pause(keys, "queue") is False
    assert await dump() == stored


async def test_one_stop_beside_another(broker, keys, seed, dump):
    await seed({"workers": {"w": "future"}})
    for what in ("queue", "all", "task:t", "task:t"):
        await broker.pause(keys, what)
    assert await dump() == {
        "workers": {"w": "future"},
        "main": [b""],
        "stops": {"queue": "past", "all": "past", "task:t": "past"},
    }


async def test_without_workers_nothing_is_left_but_the_stop(broker, keys, dump):
    """Nothing leaks. Breaks when tokens are left for nobody."""
    await broker.pause(keys, "queue")
    assert await dump() == STOPPED


async def test_a_main_list_that_is_none_is_left_alone(broker, keys, seed, dump):
    """Nobody can wait there. Breaks when the pause is refused half-way."""
    await seed({"main": b"somebody's", **WORKERS})
    assert await broker.pause(keys, "queue")
    assert await dump() == {"main": b"somebody's", **STOPPED, **WORKERS}


@pytest.mark.parametrize("verb", ["release", "reap"])
async def test_what_goes_back_stays_behind_the_tokens(broker, keys, seed, raw, dump, message, verb):
    """Strict: a pop on its way must not get what another worker gave back. Breaks when release or reap put it in front
    of the tokens, as they put it in front of everything else.
    """
    a, b = message("a"), message("b")
    await seed({"main": [b], "processing:v": [a], "workers": {"v": "past", "w": "future"}})
    await broker.pause(keys, "queue")
    if verb == "release":
        assert await broker.release(keys, "v", [(a, "a", 0)]) == 1
    else:
        assert await broker.reap(keys, "v", [(a, 0, a)]) == 1
    assert (await dump())["main"] == [b, a, b"", b""]
    assert await pop(broker, keys) == b""


async def test_a_purge_keeps_the_tokens_of_a_paused_queue(broker, keys, seed, dump, message):
    """Strict: without them a pop on its way would wait for the next job. Breaks when purge takes them, or keeps them
    in a queue that runs.
    """
    await seed({"main": [message("a")], "p3": [message("b", 3)], "jobs": {"a", "b"}, **WORKERS})
    await broker.pause(keys, "queue")
    assert await broker.purge(keys) == 2
    assert await broker.purge(keys) == 0
    assert await dump() == {"main": [b"", b""], **STOPPED, **WORKERS}


async def test_counts_ignore_the_tokens_and_tell_of_the_pause(broker, keys, seed, message):
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "all")
    await broker.pause(keys, "task:t")
    sizes = await broker.sizes(keys)
    assert (sum(sizes.waiting), sizes.claimable, sizes.is_paused, sizes.paused_tasks) == (1, 0, True, ("t",))


async def test_claims_drop_the_tokens_of_a_paused_task(broker, keys, seed, dump, message):
    """The queue goes on: nothing of the pause is left but the stop."""
    await seed({"main": [message("a")], **WORKERS})
    await broker.pause(keys, "task:t")
    (stopped,) = (await broker.claim([keys], [5], "w", 30, 10, 10_000)).stopped
    assert (stopped.is_paused, stopped.tasks) == (False, {"t"})
    assert await dump() == {"processing:w": [message("a")], "stops": {"task:t": "past"}, **WORKERS}
