"""The verbs in random order, against a model of a few dicts: after each step all that is stored is what the model says.

Each run prints its seed; `RQUEUE_SEED=…` repeats it, `RQUEUE_LONG=1` takes tens of thousands of steps. Time is a moved
clock: whole minutes, so that nothing depends on how fast the machine is.

Seen to fail with an LPUSH in place of an RPUSH in release.lua and reap.lua, with ack.lua ignoring LREM's answer, with
retry.lua leaving the id in `started`, and with promote.lua moving what is not due.
"""

import asyncio
import os
import random
from collections import Counter, deque
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from rqueue.broker.broker import Broker, Done, Enqueued
from rqueue.broker.endpoint import Endpoint
from rqueue.policy.redelivery import redeliver
from rqueue.wire.keys import LEVELS, MAIN, Keys
from rqueue.wire.message import Header, Message

IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
WORKERS, IDS = 3, [f"j{number}" for number in range(12)]
LEASE_MIN, RANK = 2, 5
BODY = b'{"task":"t"}'

levels = st.sampled_from((MAIN, MAIN, 2, RANK, 9))
minutes = st.integers(0, 3)
some_worker = st.integers(0, WORKERS - 1)
pick = st.randoms(use_true_random=False)


class Model:
    """What should be stored. Lists are as in Redis: the left end is the newest, claims take from the right."""

    def __init__(self) -> None:
        self.lists: dict[int, deque[bytes]] = {level: deque() for level in (MAIN, *LEVELS)}
        self.processing: dict[str, deque[bytes]] = {}
        self.started: dict[str, set[str]] = {}
        self.lease_ends: dict[str, int] = {}
        self.gone: set[str] = set()
        self.scheduled: dict[str, tuple[int, bytes]] = {}
        self.jobs: set[str] = set()
        self.records: dict[str, str] = {}
        self.dead: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.now_min = 0

    def owned(self, worker: str, raw: bytes) -> bool:
        """Take a message out of a worker's list."""
        held = self.processing.get(worker, deque())
        if worker not in self.lease_ends or raw not in held:
            return False
        held.remove(raw)
        self.started[worker].discard(id_of(raw))
        return True


class Verbs(RuleBasedStateMachine):
    """Each rule is one verb, sent to Redis and done to the model."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = redis.Redis.from_url(self.url)
        self.redis.flushdb()
        endpoint = Endpoint(self.url)
        endpoint.move_clock(b"rqueue:clock")
        self.broker = Broker(endpoint, Keys())
        self.keys = Keys().queue("q")
        self.model = Model()
        self.number = 0
        self.names = [f"w{number}" for number in range(WORKERS)]
        self.claims: dict[str, list[bytes]] = {name: [] for name in self.names}  # what each thinks it holds
        for number in range(WORKERS):
            self.enter(number)

    def teardown(self) -> None:
        self.runner.run(self.broker.close())
        self.runner.close()
        self.redis.close()

    def do(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable)

    @initialize(count=st.integers(1, 6))
    def some_jobs(self, count: int) -> None:
        for job_id in IDS[:count]:
            self.enqueue(job_id, MAIN, 0, False)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    # The verbs

    @precondition(lambda self: sum(map(len, self.model.lists.values())) < 4)
    @rule(job_id=st.sampled_from(IDS), level=levels, delay=minutes, again=st.booleans())
    def enqueue(self, job_id: str, level: int, delay: int, again: bool) -> None:
        message = Header(level, id=job_id).encode() + BODY
        job = Enqueued(job_id, True, level, f"+{delay * 60_000}" if delay else "", message)
        number = self.next_number()
        is_new = job_id not in self.model.jobs
        for _ in range(1 + again):
            assert self.do(self.broker.enqueue(self.keys, "p", 0, number, [job])) == [is_new]
        if is_new:
            self.model.jobs.add(job_id)
            self.model.records.pop(job_id, None)
            if delay:
                self.model.scheduled[job_id] = (self.model.now_min + delay, message)
            else:
                self.model.lists[level].appendleft(message)
        self.check()

    def enter(self, number: int) -> None:
        """A worker registers; where it was reaped, first under its old id, which is refused."""
        worker = self.names[number]
        if worker in self.model.gone:
            assert not self.do(self.broker.register(self.keys, worker, LEASE_MIN * 60))
            worker = self.names[number] = f"w{number}.{self.next_number()}"
            self.claims[worker] = []
        assert self.do(self.broker.register(self.keys, worker, LEASE_MIN * 60))
        self.model.lease_ends[worker] = self.model.now_min + LEASE_MIN
        self.model.processing[worker], self.model.started[worker] = deque(), set()
        self.check()

    @precondition(lambda self: any(self.model.lists.values()))
    @rule(number=some_worker, want=st.integers(1, 4))
    def claim(self, number: int, want: int) -> None:
        worker = self.names[number]
        found = self.do(self.broker.claim([self.keys], [RANK], worker, LEASE_MIN * 60, want, 1_000_000))
        if worker not in self.model.lease_ends:
            assert found is None
            self.enter(number)
            return
        expected = []
        for level in (10, 9, 8, 7, 6, 5, MAIN, 4, 3, 2, 1):
            while self.model.lists[level] and len(expected) < want:
                expected.append(self.model.lists[level].pop())
        assert [each.raw for each in found.messages] == expected
        self.model.processing[worker].extendleft(expected)
        self.model.lease_ends[worker] = self.model.now_min + LEASE_MIN
        self.claims[worker] += expected
        self.check()

    @precondition(lambda self: any(self.model.processing.values()))
    @rule(rand=pick)
    def start(self, rand: random.Random) -> None:
        worker, held = self.some_held(rand)
        ids = [id_of(raw) for raw in held]

        async def send() -> bool:
            return await self.broker.start(self.keys, worker, ids)

        assert self.do(send()) is (worker in self.model.lease_ends)
        if worker in self.model.lease_ends:
            self.model.started[worker].update(ids)
        self.check()

    @precondition(lambda self: any(self.claims.values()))
    @rule(rand=pick, again=st.booleans())
    def ack(self, rand: random.Random, again: bool) -> None:
        worker = rand.choice([name for name, held in self.claims.items() if held])
        batch = rand.sample(self.claims[worker], rand.randint(1, len(self.claims[worker])))
        jobs = [Done(raw, id_of(raw), b'{"state":"SUCCESS"}', "600") for raw in batch]
        number, is_known = self.next_number(), worker in self.model.lease_ends
        answers = [self.do(self.broker.ack(self.keys, worker, 0, number, jobs)) for _ in range(1 + again)]
        owned = [self.model.owned(worker, raw) for raw in batch]
        assert answers == [b"".join(b"1" if each else b"0" for each in owned) if is_known else None] * (1 + again)
        for raw, is_owned in zip(batch, owned, strict=True):
            self.claims[worker].remove(raw)
            if is_owned:
                self.ends(id_of(raw), "SUCCESS")
        self.check()

    @precondition(lambda self: any(self.claims.values()))
    @rule(rand=pick, delay=minutes, again=st.booleans())
    def retry(self, rand: random.Random, delay: int, again: bool) -> None:
        worker, raw = self.take_one(rand)
        message = Message.parse(raw)
        later = message.changed(retries=message.header.retries + 1)
        number, is_known = self.next_number(), worker in self.model.lease_ends
        record = b'{"state":"RETRY"}'
        answers = [
            self.do(
                self.broker.retry(self.keys, worker, 1, number, raw, id_of(raw), later.raw, delay * 60, record, 600)
            )
            for _ in range(1 + again)
        ]
        is_owned = self.model.owned(worker, raw)
        assert answers == [(b"1" if is_owned else b"0") if is_known else None] * (1 + again)
        if is_owned:
            self.model.scheduled[id_of(raw)] = (self.model.now_min + delay, later.raw)
            self.model.records[id_of(raw)] = "RETRY"
        self.check()

    @precondition(lambda self: any(self.claims.values()))
    @rule(rand=pick)
    def bury(self, rand: random.Random) -> None:
        worker, raw = self.take_one(rand)
        done = Done(raw, id_of(raw), b'{"state":"FAILURE"}', "600")
        number, is_known = self.next_number(), worker in self.model.lease_ends
        answer = self.do(self.broker.bury(self.keys, worker, 2, number, done, b"{}\n" + raw, 100, 86_400))
        is_owned = self.model.owned(worker, raw)
        assert answer == ((b"1" if is_owned else b"0") if is_known else None)
        if is_owned:
            self.model.dead[id_of(raw)] = raw
            self.ends(id_of(raw), "FAILURE")
        self.check()

    @precondition(lambda self: self.model.dead)
    @rule(rand=pick)
    def revive(self, rand: random.Random) -> None:
        job_id = rand.choice(sorted(self.model.dead))
        raw = Message.parse(self.model.dead[job_id]).changed(retries=0, losses=0)
        letter = b"{}\n" + self.model.dead[job_id]
        answer = self.do(self.broker.revive(self.keys, job_id, letter, job_id, raw.raw, raw.header.level))
        assert answer == (2 if job_id in self.model.jobs else 1)
        if answer == 1:
            del self.model.dead[job_id]
            self.model.jobs.add(job_id)
            self.model.records.pop(job_id, None)
            self.model.lists[raw.header.level].appendleft(raw.raw)
        self.check()

    @precondition(lambda self: any(self.model.processing.values()))
    @rule(rand=pick)
    def release(self, rand: random.Random) -> None:
        worker, held = self.some_held(rand)
        items = [(raw, id_of(raw), Message.parse(raw).header.level) for raw in held]
        assert self.do(self.broker.release(self.keys, worker, items)) == len(held)
        for raw in held:
            self.model.processing[worker].remove(raw)
            self.model.started[worker].discard(id_of(raw))
            self.model.lists[Message.parse(raw).header.level].append(raw)
            self.claims[worker].remove(raw)
        self.check()

    @precondition(lambda self: self.model.scheduled)
    @rule()
    def promote(self) -> None:
        order = [member.decode() for member in self.redis.zrange(self.keys.scheduled, 0, -1)]
        due = [job_id for job_id in order if self.model.scheduled[job_id][0] <= self.model.now_min]
        moved, _ = self.do(self.broker.promote(self.keys))
        assert moved == len(due)
        for job_id in due:
            _, message = self.model.scheduled.pop(job_id)
            self.model.lists[Message.parse(message).header.level].appendleft(message)
        self.check()

    @precondition(lambda self: self.model.processing)
    @rule(rand=pick, is_half=st.booleans())
    def reap(self, rand: random.Random, is_half: bool) -> None:
        """A reaper looks at a worker, whose lease may have run out; one that dies leaves half of it to the next."""
        overdue = [name for name, end in self.model.lease_ends.items() if end <= self.model.now_min]
        worker = rand.choice(overdue or sorted(self.model.processing))
        is_alive = self.model.lease_ends.get(worker, -1) > self.model.now_min
        messages, started = self.do(self.broker.remains(self.keys, worker, 1 if is_half else 100))
        items = []
        for raw in messages:
            fate = redeliver(Message.parse(raw), id_of(raw) in started, 10**9)
            items.append((raw, fate.message.header.level, fate.message.raw))
        answer = self.do(self.broker.reap(self.keys, worker, items))
        if is_alive:
            assert answer == -1
            return
        for raw, level, more in items:
            self.model.processing[worker].remove(raw)
            self.model.started[worker].discard(id_of(raw))
            self.model.lists[level].append(more)
        assert answer == (0 if self.model.processing[worker] else 1)
        if answer == 1:
            self.model.gone.add(worker)
            self.model.lease_ends.pop(worker, None)
            del self.model.processing[worker], self.model.started[worker]
        self.check()

    @rule(by=st.integers(1, 3))
    def time_passes(self, by: int) -> None:
        self.do(self.broker.add_to_clock(by * 60_000))
        self.model.now_min += by

    # What is compared

    def some_held(self, rand: random.Random) -> tuple[str, list[bytes]]:
        """Some of what a worker holds, the last claimed first."""
        worker = rand.choice([name for name, held in self.model.processing.items() if held])
        held = list(self.model.processing[worker])
        chosen = set(rand.sample(held, rand.randint(1, len(held))))
        return worker, [raw for raw in held if raw in chosen]

    def take_one(self, rand: random.Random) -> tuple[str, bytes]:
        worker = rand.choice([name for name, held in self.claims.items() if held])
        raw = rand.choice(self.claims[worker])
        self.claims[worker].remove(raw)
        return worker, raw

    def ends(self, job_id: str, state: str) -> None:
        self.model.jobs.discard(job_id)
        self.model.records[job_id] = state
        self.model.counts[state] += 1

    def check(self) -> None:
        """Everything that is stored is what the model says; tokens are hints, and left out."""
        model, keys = self.model, self.keys
        pipe = self.redis.pipeline(transaction=False)
        for level in (MAIN, *LEVELS):
            pipe.lrange(keys.lists[level], 0, -1)
        for worker in model.processing:
            pipe.lrange(keys.processing(worker), 0, -1)
            pipe.smembers(keys.started(worker))
        pipe.hgetall(keys.messages)
        pipe.zrange(keys.scheduled, 0, -1)
        pipe.smembers(keys.jobs)
        pipe.hgetall(keys.letters)
        pipe.hgetall(keys.counts)
        pipe.zrange(keys.workers, 0, -1)
        pipe.mget([keys.result(job_id) for job_id in IDS])
        found = iter(pipe.execute())
        for level in (MAIN, *LEVELS):
            assert [raw for raw in next(found) if raw] == list(model.lists[level]), f"list {level}"
        for worker, held in model.processing.items():
            assert [raw for raw in next(found) if raw] == list(held), f"processing {worker}"
            assert {name.decode() for name in next(found)} == model.started[worker], f"started {worker}"
        assert next(found) == {job_id.encode(): raw for job_id, (_, raw) in model.scheduled.items()}
        assert {name.decode() for name in next(found)} == set(model.scheduled)
        assert {name.decode() for name in next(found)} == model.jobs
        assert next(found) == {job_id.encode(): b"{}\n" + raw for job_id, raw in model.dead.items()}
        assert {name.decode(): int(count) for name, count in next(found).items()} == dict(model.counts)
        assert {name.decode() for name in next(found)} == set(model.lease_ends)
        states = [None if raw is None else raw.split(b'"')[3].decode() for raw in next(found)]
        assert states == [model.records.get(job_id) for job_id in IDS]
        places = [id_of(raw) for held in (*model.lists.values(), *model.processing.values()) for raw in held]
        assert sorted([*places, *model.scheduled]) == sorted(model.jobs), "each living job is in exactly one place"


def id_of(raw: bytes) -> str:
    job_id = Message.id_of(raw)
    assert job_id is not None
    return job_id


@pytest.mark.timeout(3600 if IS_LONG else 60)
def test_the_verbs_in_any_order_do_what_the_model_does(redis_url: str) -> None:
    """Thousands of steps."""
    number = int(os.environ.get("RQUEUE_SEED") or random.randrange(1 << 32))
    print(f"RQUEUE_SEED={number}")  # noqa: T201 - shown when the test fails
    machine = seed(number)(type("Machine", (Verbs,), {"url": redis_url}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1000 if IS_LONG else 40,
            stateful_step_count=100,
            phases=tuple(Phase) if IS_LONG else (Phase.generate,),  # to shorten a failure takes minutes
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
