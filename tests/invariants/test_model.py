"""The verbs in random order, against a model of a few dicts: after each step all that is stored is what the model says.

Each run prints its seed; `RQUEUE_SEED=…` repeats it, `RQUEUE_LONG=1` takes tens of thousands of steps. Time is a moved
clock: whole minutes, and a little for the fraction of a parked job, so that nothing depends on how fast the machine is.

Seen to fail with an LPUSH in place of an RPUSH in release.lua and reap.lua, with ack.lua ignoring LREM's answer, with
retry.lua leaving the id in `started`, and with promote.lua moving what is not due. Of what must not run: with a revoke
that forgets the stop, or records what a cancel left; a cancel that leaves the id in `jobs`, or finds no job that was
acknowledged early; a release or promote that does not send a marked job to p10; a claim that ignores the pause; a pause
without tokens, and a release or purge that takes them; an enqueue or admit that ignores stops; a forget that leaves the
message, or forgets a living job's stop; an unpark that leaves a fraction. Of locks and early ends: with an admit that
does not ask `jobs`, a prune of living jobs' locks, a record or a reap that leaves the id of an early job.
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

from rqueue.broker import cancel as module
from rqueue.broker.broker import Broker, Done, Enqueued, Stopped
from rqueue.broker.endpoint import Endpoint
from rqueue.policy.redelivery import redeliver
from rqueue.wire.keys import LEVELS, MAIN, Keys
from rqueue.wire.message import Header, Message

IS_LONG = os.environ.get("RQUEUE_LONG") == "1"
WORKERS, IDS = 3, [f"j{number}{lock}" for number in range(4) for lock in "abc"]
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
        self.stops: set[str] = set()
        self.unique: dict[str, str] = {}
        self.parked: set[str] = set()
        self.early: dict[str, set[str]] = {}  # acknowledged before they started, and not ended
        self.tokens = 0  # what a pause leaves at the end that is read
        self.now_min = 0

    @property
    def is_paused(self) -> bool:
        return not self.stops.isdisjoint({"queue", "all"})

    def is_stopped(self, job_id: str) -> bool:
        return f"job:{job_id}" in self.stops

    def is_due(self) -> bool:
        return any(due <= self.now_min for due, _ in self.scheduled.values())

    def overdue(self) -> list[str]:
        return [name for name, end in self.lease_ends.items() if end <= self.now_min]

    def way_back(self, raw: bytes) -> deque[bytes]:
        """The list that a message goes to which waits again."""
        return self.lists[10 if self.is_stopped(id_of(raw)) else Message.parse(raw).header.level]

    def schedule(self, job_id: str, delay: int, raw: bytes, *, is_parked: bool = False) -> None:
        self.scheduled[job_id] = (self.now_min + delay, raw)
        (self.parked.add if is_parked else self.parked.discard)(job_id)

    def unschedule(self, job_id: str) -> bytes:
        self.parked.discard(job_id)
        return self.scheduled.pop(job_id)[1]

    def holder(self, kind: str, lock: str) -> str | None:
        """The job that has the lock."""
        job_id = self.unique.get(lock, "")
        if job_id not in self.jobs or (job_id in self.scheduled and self.is_stopped(job_id)):
            return None
        return job_id if kind == "unique" or job_id in self.scheduled else None

    def take(self, job_id: str) -> bool:
        """Take its message out of its waiting list; false where there is none."""
        for held in self.lists.values():
            for raw in held:
                if id_of(raw) == job_id:
                    held.remove(raw)
                    return True
        return False

    def worker_of(self, job_id: str) -> str | None:
        """The worker that has it, in its list or running after an early acknowledgement."""
        held = {name: {*map(id_of, raws), *self.started[name]} for name, raws in self.processing.items()}
        return next((name for name, ids in held.items() if job_id in ids), None)

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
        self.steps = 0  # rules that leave little for others to do come now and then
        self.names = [f"w{number}" for number in range(WORKERS)]
        self.claims: dict[str, list[bytes]] = {name: [] for name in self.names}  # what each thinks it holds
        self.told: dict[str, list[bytes]] = {name: [] for name in self.names}  # of that what it knows to be revoked
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
        is_new = self.is_new(job_id)
        for _ in range(1 + again):
            assert self.do(self.broker.enqueue(self.keys, "p", 0, number, [job])) == [is_new]
        if is_new:
            self.comes(job_id, level, delay, message)
        self.check()

    @precondition(lambda self: sum(map(len, self.model.lists.values())) < 4)
    @rule(rand=pick, kind=st.sampled_from(("unique", "debounce")), level=levels, again=st.booleans())
    def admit(self, rand: random.Random, kind: str, level: int, again: bool) -> None:
        """A job with a lock, now; or one that is debounced by a minute. Its id is often one that has a stop."""
        job_id = rand.choice(rand.choice([IDS, [each for each in IDS if self.model.is_stopped(each)] or IDS]))
        message, delay = Header(level, id=job_id).encode() + BODY, int(kind == "debounce")
        lock = kind + job_id[-1]  # a few ids share one
        job = Enqueued(job_id, True, level, "+60000" if delay else "", message, f"{kind} 0 {lock}")
        number, first, is_new = self.next_number(), self.model.holder(kind, lock), self.is_new(job_id)
        for _ in range(1 + again):
            assert self.do(self.broker.admit(self.keys, "p", 0, number, [job])) == [first or is_new]
        if first and delay:
            self.model.schedule(first, delay, Header(level, id=first).encode() + BODY)
        elif not first and is_new:
            self.model.unique[lock] = job_id
            self.comes(job_id, level, delay, message)
        self.check()

    def is_new(self, job_id: str) -> bool | None:
        if job_id in self.model.jobs:
            return False
        return None if self.model.is_stopped(job_id) else True

    def comes(self, job_id: str, level: int, delay: int, message: bytes) -> None:
        self.model.jobs.add(job_id)
        self.model.records.pop(job_id, None)
        if delay:
            self.model.schedule(job_id, delay, message)
        else:
            self.model.lists[level].appendleft(message)

    @precondition(lambda self: self.steps % 3 == 0 and self.model.unique)
    @rule(rand=pick, job_id=st.sampled_from(IDS), if_ended=st.booleans(), is_pruned=st.booleans())
    def unlock(self, rand: random.Random, job_id: str, if_ended: bool, is_pruned: bool) -> None:
        """A worker gives up a lock; or a reaper throws away those that count for nothing."""
        model, kind = self.model, rand.choice(sorted(self.model.unique))
        if is_pruned:
            assert self.do(self.broker.prune(self.keys)) == 0
            model.unique = {kind: job_id for kind, job_id in model.unique.items() if job_id in model.jobs}
        else:
            gone = model.unique[kind] == job_id and not (if_ended and job_id in model.jobs)
            assert self.do(self.broker.unlock(self.keys, [(kind, job_id)], if_ended=if_ended)) == gone
            if gone:
                del model.unique[kind]
        self.check()

    # What must not run

    @precondition(lambda self: self.steps % 2 == 0 and self.model.jobs)
    @rule(rand=pick, is_any=st.integers(0, 5), is_deep=st.booleans(), again=st.booleans())
    def cancel(self, rand: random.Random, is_any: int, is_deep: bool, again: bool) -> None:
        """Of a job that is there, as a rule, and often claimed; one that is deep is not found in its waiting list."""
        held = [id_of(raw) for raws in self.model.processing.values() for raw in raws]
        job_id = rand.choice(held if held and is_any > 2 else sorted(self.model.jobs) if is_any else IDS)
        for _ in range(1 + again):
            self.cancel_once(job_id, is_deep)
            self.check()

    def cancel_once(self, job_id: str, is_deep: bool) -> None:
        model, done = self.model, Done(b"", job_id, b'{"state":"REVOKED"}', "600")
        looks_at, module.CANCEL_LOOKS_AT = module.CANCEL_LOOKS_AT, 0 if is_deep else 1000
        try:
            answer = self.do(self.broker.cancel(self.keys, done, sorted(model.lease_ends)))
        finally:
            module.CANCEL_LOOKS_AT = looks_at
        if job_id not in model.jobs:
            assert answer == (0, None)
            return
        if (worker := model.worker_of(job_id)) is not None:
            assert answer == (2, worker)
            model.stops.add(f"job:{job_id}")
            return
        assert answer == (1, None)
        if job_id in model.scheduled:
            model.unschedule(job_id)
            model.stops.discard(f"job:{job_id}")
        elif is_deep:
            model.stops.add(f"job:{job_id}")
        else:
            assert model.take(job_id)
            model.stops.discard(f"job:{job_id}")
        self.ends(job_id, "REVOKED")

    @precondition(lambda self: any(self.told.values()) or any(self.claims.values()))
    @rule(rand=pick, again=st.booleans())
    def revoke(self, rand: random.Random, again: bool) -> None:
        """What a claim has told to be revoked; or what was interrupted."""
        claims = self.told if any(self.told.values()) else self.claims
        worker, raw = self.take_one(rand, claims)
        self.revoke_one(worker, raw, id_of(raw), again, self.model.owned(worker, raw), is_early=False)

    def revoke_one(self, worker: str, raw: bytes, job_id: str, again: bool, is_owned: bool, *, is_early: bool) -> None:
        done = Done(raw, job_id, b'{"state":"REVOKED"}', "600")
        number, is_known = self.next_number(), worker in self.model.lease_ends
        revoke = self.broker.revoke
        answers = [
            self.do(revoke(self.keys, worker, 4, number, done, is_settled_early=is_early)) for _ in range(1 + again)
        ]
        assert answers == [(b"1" if is_owned else b"0") if is_known else None] * (1 + again)
        if is_owned:
            self.model.stops.discard(f"job:{job_id}")
            if job_id in self.model.jobs:
                self.ends(job_id, "REVOKED")
        self.check()

    @precondition(lambda self: self.steps % 3 == 0 and any(stop.startswith("job:") for stop in self.model.stops))
    @rule(rand=pick)
    def forget(self, rand: random.Random) -> None:
        model = self.model
        job_id = rand.choice(sorted(stop[4:] for stop in model.stops if stop.startswith("job:")))
        is_over = job_id not in model.jobs
        assert self.do(self.broker.forget(self.keys, job_id, sorted(model.lease_ends))) == is_over
        if is_over:
            model.stops.discard(f"job:{job_id}")
            for held in (*model.lists.values(), *model.processing.values(), *self.claims.values(), *self.told.values()):
                for raw in [each for each in held if id_of(each) == job_id]:
                    held.remove(raw)
        self.check()

    @precondition(lambda self: self.steps % 3 == 0)
    @rule(what=st.sampled_from(("queue", "queue", "all", "task:t")))
    def pause(self, what: str) -> None:
        assert self.do(self.broker.pause(self.keys, what)) is (what not in self.model.stops)
        self.model.stops.add(what)
        self.model.tokens = len(self.model.lease_ends)
        self.check()

    @precondition(lambda self: not self.model.stops.isdisjoint({"queue", "all", "task:t"}))
    @rule(rand=pick)
    def resume(self, rand: random.Random) -> None:
        """Twice, of which the second changes nothing."""
        what = rand.choice(sorted(self.model.stops & {"queue", "all", "task:t"}))
        assert [self.do(self.broker.resume(self.keys, what)) for _ in range(2)] == [True, False]
        self.model.stops.discard(what)
        self.check()

    @precondition(lambda self: self.model.parked)
    @rule()
    def unpark(self) -> None:
        parked = self.do(self.broker.parked(self.keys))
        assert set(parked) == self.model.parked
        jobs = [(job_id, len(parked) - place) for place, job_id in enumerate(parked)]
        assert [self.do(self.broker.unpark(self.keys, jobs)) for _ in range(2)] == [len(parked), 0]
        for job_id in parked:
            self.model.schedule(job_id, 0, self.model.scheduled[job_id][1])
        self.check()

    @precondition(lambda self: self.steps % 15 == 0 and any(self.model.lists.values()))
    @rule()
    def purge(self) -> None:
        model = self.model
        assert self.do(self.broker.purge(self.keys)) == sum(map(len, model.lists.values()))
        for held in model.lists.values():
            for raw in held:
                model.jobs.discard(id_of(raw))
                model.stops.discard(f"job:{id_of(raw)}")
            held.clear()
        self.check()

    def enter(self, number: int) -> None:
        """A worker registers; where it was reaped, first under its old id, which is refused."""
        worker = self.names[number]
        if worker in self.model.gone:
            assert not self.do(self.broker.register(self.keys, worker, LEASE_MIN * 60))
            worker = self.names[number] = f"w{number}.{self.next_number()}"
            self.claims[worker], self.told[worker] = [], []
        assert self.do(self.broker.register(self.keys, worker, LEASE_MIN * 60))
        self.model.lease_ends[worker] = self.model.now_min + LEASE_MIN
        self.model.processing[worker], self.model.started[worker], self.model.early[worker] = deque(), set(), set()
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
            while self.model.lists[level] and len(expected) < want and not self.model.is_paused:
                expected.append(self.model.lists[level].pop())
        assert [each.raw for each in found.messages] == expected
        revoked = frozenset(id_of(raw) for raw in expected if self.model.is_stopped(id_of(raw)))
        tasks = frozenset({"t"} if "task:t" in self.model.stops else ())
        stopped = Stopped(0, self.model.is_paused, tasks, revoked)
        assert found.stopped == ((stopped,) if self.model.stops else ())
        self.model.processing[worker].extendleft(expected)
        self.model.lease_ends[worker] = self.model.now_min + LEASE_MIN
        for raw in expected:
            (self.told if id_of(raw) in revoked else self.claims)[worker].append(raw)
        self.check()

    @precondition(lambda self: any(self.model.processing.values()))
    @rule(rand=pick)
    def start(self, rand: random.Random) -> None:
        """All but what a claim has told to be revoked: that never starts."""
        worker, held = self.some_held(rand)
        ids = [id_of(raw) for raw in held if raw not in self.told[worker]]

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
    @rule(rand=pick, again=st.booleans())
    def ack_early(self, rand: random.Random, again: bool) -> None:
        """As a job with acks_late=False begins: it is in no list from then on, and its id stays taken."""
        worker, raw = self.take_one(rand, self.claims)
        job_id, number, is_known = id_of(raw), self.next_number(), worker in self.model.lease_ends
        done = Done(raw, job_id, b'{"state":"STARTED"}', "600")
        is_owned = is_known and raw in self.model.processing[worker]

        async def send() -> bool:
            return await self.broker.start(self.keys, worker, [job_id] if is_owned else [])

        assert self.do(send()) is is_known
        answers = [self.do(self.broker.ack(self.keys, worker, 3, number, [done])) for _ in range(1 + again)]
        assert answers == [(b"1" if is_owned else b"0") if is_known else None] * (1 + again)
        if is_owned:
            self.model.owned(worker, raw)
            self.model.started[worker].add(job_id)
            self.model.early[worker].add(job_id)
            self.model.records[job_id] = "STARTED"
        self.check()

    @precondition(lambda self: any(self.model.early.values()))
    @rule(rand=pick, how=st.sampled_from(("record", "record", "revoke", "retry")), again=st.booleans())
    def early_ends(self, rand: random.Random, how: str, again: bool) -> None:
        """By itself; or it is interrupted, or asks for a retry."""
        model = self.model
        worker = rand.choice([name for name, ids in model.early.items() if ids])
        job_id = rand.choice(sorted(model.early[worker]))
        model.early[worker].discard(job_id)
        model.started[worker].discard(job_id)
        if how == "revoke":
            self.revoke_one(worker, b"", job_id, again, True, is_early=True)
        elif how == "retry":
            self.retry_one(worker, Header(id=job_id).encode() + BODY, 1, again, True, is_early=True, is_parked=False)
        else:
            record = b'{"state":"SUCCESS"}'
            for _ in range(1 + again):
                assert self.do(self.broker.record(self.keys, job_id, record, "600", worker=worker))
            self.ends(job_id, "SUCCESS")
            self.check()

    @precondition(lambda self: any(self.claims.values()))
    @rule(rand=pick, delay=minutes, again=st.booleans(), is_parked=st.booleans())
    def retry(self, rand: random.Random, delay: int, again: bool, is_parked: bool) -> None:
        worker, raw = self.take_one(rand, self.claims)
        is_owned = self.model.owned(worker, raw)
        self.retry_one(worker, raw, delay, again, is_owned, is_early=False, is_parked=is_parked)

    def retry_one(
        self, worker: str, raw: bytes, delay: int, again: bool, is_owned: bool, *, is_early: bool, is_parked: bool
    ) -> None:
        """A parked job has no record, and goes on as it is."""
        message, job_id = Message.parse(raw), id_of(raw)
        later = message if is_parked else message.changed(retries=message.header.retries + 1)
        number, is_known = self.next_number(), worker in self.model.lease_ends
        record = b"" if is_parked else b'{"state":"RETRY"}'
        how = (raw, job_id, later.raw, delay * 60, record, 600)
        retry = self.broker.retry
        answers = [
            self.do(retry(self.keys, worker, 1, number, *how, is_settled_early=is_early, is_parked=is_parked))
            for _ in range(1 + again)
        ]
        assert answers == [(b"1" if is_owned else b"0") if is_known else None] * (1 + again)
        if is_owned:
            self.model.schedule(job_id, delay, later.raw, is_parked=is_parked)
            if not is_parked:
                self.model.records[job_id] = "RETRY"
        self.check()

    @precondition(lambda self: any(self.claims.values()))
    @rule(rand=pick)
    def bury(self, rand: random.Random) -> None:
        worker, raw = self.take_one(rand, self.claims)
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
        assert answer == (2 if job_id in self.model.jobs else 3 if self.model.is_stopped(job_id) else 1)
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
            self.model.way_back(raw).append(raw)
            (self.claims if raw in self.claims[worker] else self.told)[worker].remove(raw)
        self.check()

    @precondition(lambda self: self.model.scheduled and (self.steps % 5 == 0 or self.model.is_due()))
    @rule()
    def promote(self) -> None:
        order = [member.decode() for member in self.redis.zrange(self.keys.scheduled, 0, -1)]
        due = [job_id for job_id in order if self.model.scheduled[job_id][0] <= self.model.now_min]
        moved, _ = self.do(self.broker.promote(self.keys))
        assert moved == len(due)
        for job_id in due:
            message = self.model.unschedule(job_id)
            self.model.way_back(message).appendleft(message)
        self.check()

    @precondition(lambda self: self.model.processing and (self.steps % 5 == 0 or self.model.overdue()))
    @rule(rand=pick, is_half=st.booleans())
    def reap(self, rand: random.Random, is_half: bool) -> None:
        """A reaper looks at a worker, whose lease may have run out; one that dies leaves half of it to the next."""
        worker = rand.choice(self.model.overdue() or sorted(self.model.processing))
        is_alive = self.model.lease_ends.get(worker, -1) > self.model.now_min
        messages, started = self.do(self.broker.remains(self.keys, worker, 1 if is_half else 100))
        items = []
        for raw in messages:
            fate = redeliver(Message.parse(raw), id_of(raw) in started, 10**9)
            if self.model.is_stopped(id_of(raw)):
                items.append((raw, MAIN, raw))
            else:
                items.append((raw, fate.message.header.level, fate.message.raw))
        answer = self.do(self.broker.reap(self.keys, worker, items))
        if is_alive:
            assert answer == -1
            return
        for raw, _, more in items:
            self.model.processing[worker].remove(raw)
            self.model.started[worker].discard(id_of(raw))
            self.model.way_back(more).append(more)
        assert answer == (0 if self.model.processing[worker] else 1)
        if answer == 1:
            self.model.gone.add(worker)
            self.model.lease_ends.pop(worker, None)
            self.model.jobs -= self.model.early.pop(worker)
            del self.model.processing[worker], self.model.started[worker]
        self.check()

    @precondition(lambda self: self.steps % 4 == 0)
    @rule(by=st.integers(1, 3))
    def time_passes(self, by: int) -> None:
        self.steps += 1
        self.do(self.broker.add_to_clock(by * 60_000 + 2))
        self.model.now_min += by

    # What is compared

    def some_held(self, rand: random.Random) -> tuple[str, list[bytes]]:
        """Some of what a worker holds, the last claimed first."""
        worker = rand.choice([name for name, held in self.model.processing.items() if held])
        held = list(self.model.processing[worker])
        chosen = set(rand.sample(held, rand.randint(1, len(held))))
        return worker, [raw for raw in held if raw in chosen]

    def take_one(self, rand: random.Random, claims: dict[str, list[bytes]]) -> tuple[str, bytes]:
        worker = rand.choice([name for name, held in claims.items() if held])
        raw = rand.choice(claims[worker])
        claims[worker].remove(raw)
        return worker, raw

    def ends(self, job_id: str, state: str) -> None:
        self.model.jobs.discard(job_id)
        self.model.records[job_id] = state
        self.model.counts[state] += 1

    def check(self) -> None:
        """Everything that is stored is what the model says; tokens are hints, and left out, but those of a pause."""
        self.steps += 1
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
        pipe.zrange(keys.stops, 0, -1)
        pipe.hgetall(keys.unique)
        pipe.lrange(keys.main, -model.tokens if model.tokens else 1, -1 if model.tokens else 0)
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
        assert {name.decode() for name in next(found)} == model.stops
        assert next(found) == {kind.encode(): job_id.encode() for kind, job_id in model.unique.items()}
        tokens = next(found)
        assert not model.is_paused or tokens == [b""] * model.tokens, "a block that is on its way takes a token"
        states = [None if raw is None else raw.split(b'"')[3].decode() for raw in next(found)]
        assert states == [model.records.get(job_id) for job_id in IDS]
        places = [id_of(raw) for held in (*model.lists.values(), *model.processing.values()) for raw in held]
        left = [job_id for job_id in places if job_id not in model.jobs]
        assert all(map(model.is_stopped, left)), "what a cancel left does not run"
        places += [*model.scheduled, *(job_id for ids in model.early.values() for job_id in ids)]
        assert sorted(places) == sorted([*model.jobs, *left]), "each living job is in exactly one place"


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
            max_examples=1000 if IS_LONG else 50,
            stateful_step_count=100,
            phases=tuple(Phase) if IS_LONG else (Phase.generate,),  # to shorten a failure takes minutes
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
