"""What strangers push: each thing ends in the place that docs/wire-format.md gives it, and the next job runs.

All of it is pushed raw, as redis-cli or another language's producer would do it, to a worker process that runs.
"""

import asyncio
import contextlib
import json
import os
from functools import partial
from typing import Any

import pytest

from rqueue import Queue, RQueue
from rqueue.errors import ConfigError, JobFailed
from rqueue.wire.record import Letter

from .conftest import SideBySide
from .fleet import Fleet

MAIN = "rqueue:{default}"
MALFORMED = {
    "malformed JSON": b'{"task": "double", "args": [1',
    "no JSON at all": b"hello",
    "a JSON list": b'["double", 1]',
    "a JSON number": b"17",
    "a JSON null": b"null",
    "a space": b" ",
    "a binary blob": bytes(range(256)) * 40,
    "broken UTF-8": b'{"task": "\xff\xfe"}',
    "a lone surrogate": b'{"task": "\\ud800"}',
    "an object without a task": b'{"args": [1]}',
    "a task that is a number": b'{"task": 3}',
    "arguments that are an object": b'{"task": "double", "args": {"a": 1}}',
    "an id with a line break": b'{"task": "double", "id": "a\\nb"}',
    "a header and no object": b"1 - 0 0 0 some-id nonsense",
    "a header and a broken object": b'1 - 0 0 0 broken-id {"task"',
    "a header of another version": b'2 - 0 0 0 some-id {"task": "double"}',
    "an object that is too deep": b'{"task": ' + b"[" * 100_000,
}


async def next_job_runs(fleet: Fleet) -> None:
    expected = await fleet.enqueue(1, first=4711)
    assert await fleet.results(expected) == expected


def letters(fleet: Fleet) -> list[Letter]:
    return [Letter.decode(data) for data in fleet.dead().values()]


async def test_what_is_no_message_is_a_dead_letter_with_its_bytes(fleet: Fleet) -> None:
    """Wire format, `What is malformed`: the bytes and the reason are kept, nothing stops (invariants 1, 4).

    Fails when reading a message may raise anything but MalformedMessage, or when a letter loses a byte.
    """
    worker = await fleet.ready()
    for level in ("", ":p7"):
        # What shows an id is known by it: two of one id would share one letter.
        fleet.redis.lpush(
            MAIN + level, *(raw.replace(b"broken-id", b"broken-id" + level[1:].encode()) for raw in MALFORMED.values())
        )
    await next_job_runs(fleet)
    with contextlib.suppress(TimeoutError):
        await fleet.until(lambda: len(fleet.dead()) == 2 * len(MALFORMED), 5)
    found = letters(fleet)
    missing = [
        name
        for name, raw in MALFORMED.items()
        if sum(each.raw.replace(b"broken-idp7", b"broken-id").endswith(raw) for each in found) < 2
    ]
    assert missing == []
    assert len(found) == 2 * len(MALFORMED)
    assert {letter.reason for letter in found} == {"malformed"}
    assert worker.alive
    await next_job_runs(fleet)
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_an_empty_string_is_a_token_and_leaves_no_trace(fleet: Fleet) -> None:
    """Invariant 7: a token is a hint: dropped, not counted, no dead letter. Fails when `claim` keeps tokens."""
    await fleet.ready()
    fleet.redis.lpush(MAIN, *[""] * 50)
    fleet.redis.lpush(f"{MAIN}:p3", *[""] * 50)
    await next_job_runs(fleet)
    await fleet.until(lambda: not fleet.redis.exists(MAIN, f"{MAIN}:p3"))
    await fleet.stop()
    assert fleet.dead() == {}
    assert fleet.leaks() == {}


async def test_an_unknown_task_is_deferred_and_then_dead_and_a_worker_that_knows_it_runs_it(fleet: Fleet) -> None:
    """Issue: an unknown task is put off, since another worker may know it, and is then a dead letter.

    Fails when it is buried at once, or when its time begins anew with each try.
    """
    worker = await fleet.ready(unknown_task_s=1.0, unknown_retry_s=0.3)
    fleet.redis.lpush(MAIN, '{"task": "nobody.knows", "id": "stranger"}')
    await fleet.until(lambda: fleet.redis.zcard(fleet.keys.scheduled) == 1)
    await next_job_runs(fleet)
    with pytest.raises(JobFailed, match="UnknownTask"):
        await fleet.app.job("stranger", "default").result(10)
    (letter,) = letters(fleet)
    assert (letter.id, letter.reason, letter.task) == ("stranger", "unknown task", "nobody.knows")
    assert worker.log().count("job deferred") in (3, 4, 5)
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_a_value_of_100_mb_is_a_dead_letter_or_a_job_and_stops_nothing(fleet: Fleet) -> None:
    """What is no message is kept with its bytes whatever its size, what is one runs; the lease outlasts both.

    Fails when a claim's reply, or a settle of that size, breaks the connection for good.
    """
    worker = await fleet.ready(lease=5)
    fleet.redis.lpush(MAIN, b"\x00" * 100_000_000)
    await next_job_runs(fleet)
    await fleet.until(lambda: fleet.redis.zcard(fleet.keys.dead) == 1, 30)
    (job_id,) = fleet.redis.hkeys(fleet.keys.letters)
    assert fleet.redis.hstrlen(fleet.keys.letters, job_id) > 100_000_000
    fleet.redis.delete(fleet.keys.letters, fleet.keys.dead)
    size = 100_000_000 if os.environ.get("RQUEUE_LONG") == "1" else 10_000_000
    call = {"task": "double", "args": [21], "id": "huge", "x-blob": "y" * size}
    fleet.redis.lpush(MAIN, json.dumps(call))
    del call
    await next_job_runs(fleet)
    await fleet.until(lambda: "huge" in fleet.starts(), 30)
    assert await fleet.app.job("huge", "default").result(30) == 42
    assert worker.alive
    await fleet.stop()
    assert len(fleet.starts()["huge"]) == 1
    assert fleet.leaks() == {}


async def test_the_same_id_enqueued_100_times_at_once_is_one_job(fleet: Fleet) -> None:
    """Invariant 13: a custom id that is alive gives the existing job's handle. Fails when `enqueue` ignores SADD."""
    double = fleet.task("double").options(job_id="same")
    handles = await asyncio.gather(*(double.enqueue(5, 0.2) for _ in range(100)))
    await asyncio.gather(fleet.ready(), fleet.ready())
    assert sorted(handle.duplicate for handle in handles) == [False] + [True] * 99
    assert await asyncio.gather(*(handle.result(10) for handle in handles)) == [10] * 100
    assert len(fleet.starts()["same"]) == 1
    # Once it is settled the id is free again.
    again = await double.enqueue(6, 0.0)
    assert not again.duplicate
    assert await again.result(10) == 12
    await fleet.stop()
    assert fleet.leaks() == {}


async def test_the_same_message_pushed_100_times_raw_is_run_once_while_it_is_alive(fleet: Fleet) -> None:
    """Adopt: a second message of one id is dropped while the first is alive. Fails when `adopt` ignores SADD."""
    message = json.dumps({"task": "double", "args": [5, 0.3], "id": "same"})
    fleet.redis.lpush(MAIN, *[message] * 100)
    await fleet.ready(concurrency=100)
    await next_job_runs(fleet)
    assert await fleet.app.job("same", "default").result(10) == 10
    await fleet.stop()
    assert len(fleet.starts()["same"]) == 1
    assert fleet.leaks() == {}


@pytest.mark.parametrize("name", ["a{b}", "{}", "two words", "", "x" * 65, "tab\t", "é", "a:b", None, b"bytes"])
def test_a_queue_name_that_keys_could_not_carry_is_refused_where_it_is_written(name: Any) -> None:
    """Keys: 1 to 64 of A-Z a-z 0-9 . _ -. Fails when any of the four ways takes it."""
    app = RQueue("redis://127.0.0.1:1/0")
    for write in (
        lambda: Queue(name),
        lambda: app.worker([name]),
        lambda: RQueue("redis://127.0.0.1:1/0", routes={"*": name}),
        lambda: app.task(queue=name, name="t")(print) if name is not None else Queue(name),
    ):
        with pytest.raises(ConfigError):
            write()


async def test_somebodys_string_in_the_place_of_a_list_stops_no_other_list(side_by_side: SideBySide) -> None:
    """Claim: a list that is none is passed over; the worker does not spin over it, and serves its other lists.

    Fails when an error of one list ends the claim, or when a refused block is sent again without a pause.
    """
    await side_by_side(
        {"a priority's list": partial(pass_over, f"{MAIN}:p9"), "the main list": partial(pass_over, MAIN)}
    )


async def pass_over(name: str, fleet: Fleet) -> None:
    fleet.redis.set(name, "not a list", ex=60)
    worker = await fleet.ready(queues=["default", "other"])
    for queue, key in (("default", f"{MAIN}:p2"), ("other", "rqueue:{other}")):
        fleet.redis.lpush(key, json.dumps({"task": "double", "args": [4], "id": f"of-{queue}-{name[-1]}"}))
        await fleet.until(lambda: f"of-{queue}-{name[-1]}" in fleet.starts())  # noqa: B023 - awaited here
        assert await fleet.app.job(f"of-{queue}-{name[-1]}", queue).result(10) == 8
    used_s = worker.cpu_s()
    lines = worker.log().count("\n")
    await asyncio.sleep(2)
    assert worker.cpu_s() - used_s < 0.2, "it spins"
    assert worker.log().count("\n") - lines < 20, "it floods its log"
    fleet.redis.delete(name)
    await next_job_runs(fleet)
    await fleet.stop()
    assert fleet.leaks() == {}
