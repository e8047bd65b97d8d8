"""Invariant 1, never nowhere: from the reply to the producer until it is settled, a message is in exactly one place.

An observer looks at everything in one atomic step, again and again, while two workers with every kind of job are at
work: it asks, for each id that was confirmed and is not settled, in how many places it is. Seen to fail with retry.lua
without its ZADD (nowhere), with release.lua without its RPUSH (nowhere), with promote.lua without its ZREM (twice),
with claim.lua copying (LINDEX, LPUSH) instead of moving (twice), and with ack.lua removing the id from `jobs` and
leaving the message in the list (settled and claimed).
"""

import asyncio
from collections import Counter

import orjson
import pytest

from rqueue import RQueue
from rqueue.wire.message import Message

# Every place where a message can be, of the queues that are named, and what is known of ids, in one step.
LOOK = """
local out = {}
for _, queue in ipairs(ARGV) do
  local prefix = 'rqueue:{' .. queue .. '}'
  local places = {}
  local lists = { prefix }
  for level = 1, 10 do lists[#lists + 1] = prefix .. ':p' .. level end
  for _, name in ipairs(redis.call('KEYS', prefix .. ':processing:*')) do lists[#lists + 1] = name end
  for _, name in ipairs(lists) do
    if redis.call('TYPE', name).ok == 'list' then
      for _, message in ipairs(redis.call('LRANGE', name, 0, -1)) do places[#places + 1] = { name, message } end
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', prefix .. ':scheduled', 0, -1)) do
    places[#places + 1] = { prefix .. ':scheduled', redis.call('HGET', prefix .. ':scheduled:messages', id) or '' }
  end
  for _, id in ipairs(redis.call('ZRANGE', prefix .. ':dead', 0, -1)) do
    local letter = redis.call('HGET', prefix .. ':dead:letters', id) or ''
    places[#places + 1] = { prefix .. ':dead', string.sub(letter, (string.find(letter, '\\n') or 0) + 1) }
  end
  local results = {}
  for _, name in ipairs(redis.call('KEYS', prefix .. ':result:*')) do
    results[#results + 1] = { name, redis.call('GET', name) }
  end
  out[#out + 1] = { places, redis.call('SMEMBERS', prefix .. ':jobs'), redis.call('ZRANGE',
    prefix .. ':workers', 0, -1), results }
end
return out
"""


class Observer:
    """Looks until it is told to stop, and collects what must not be."""

    def __init__(self, broker, *queues):
        self._broker, self._queues = broker, queues
        self.confirmed: set[str] = set()
        self.broken: list[str] = []
        self.looks = 0
        self.seen_in: Counter = Counter()

    async def run(self):
        while True:
            # What was confirmed before the look must be somewhere in it.
            confirmed = set(self.confirmed)
            answer = await self._broker._link.call(b"EVAL", LOOK, 0, *self._queues)
            self.looks += 1
            places, final, alive = Counter(), set(), set()
            for found, jobs, workers, results in answer:
                self._look_at_queue(found, {each.decode() for each in workers}, places)
                final |= {
                    name.decode().rpartition(":")[2]
                    for name, record in results
                    if orjson.loads(record)["state"] in ("SUCCESS", "FAILURE", "REVOKED")
                }
                alive |= {each.decode() for each in jobs}
            self.broken += [f"{each} is alive and has a final record" for each in alive & final]
            self.broken += [f"{each} is settled and still somewhere" for each in set(places) - alive]
            for each in confirmed:
                if places[each] > 1:
                    self.broken.append(f"{each} is in {places[each]} places")
                if places[each] == 0 and each not in final:
                    self.broken.append(f"{each} is nowhere, and has not ended")

    def _look_at_queue(self, found, workers, places):
        for name, raw in found:
            name = name.decode()
            if not raw:
                if ":scheduled" in name or ":dead" in name:
                    self.broken.append(f"{name} has an id without its message")
                continue
            place = name.rpartition("}:")[2].partition(":")[0]
            self.seen_in[place] += 1
            job_id = Message.parse(raw).header.id
            if place != "dead":
                places[job_id] += 1
            if ":processing:" in name and name.partition(":processing:")[2] not in workers:
                self.broken.append(f"{name} holds {job_id} and belongs to nobody")


@pytest.fixture
def observer(broker):
    return Observer(broker, "default", "other", "third")


@pytest.mark.parametrize("url", ["redis"], indirect=True)  # fakeredis is too slow an observer
async def test_a_message_is_in_exactly_one_place(url, observer, leaked, broker, log, until):
    """Also invariants 3 (a non-empty processing list has an owner) and 5 (a final record means settled)."""
    app = RQueue(url, queues=["default", "other", "third"])
    runs: Counter = Counter()

    @app.task(name="ok")
    async def ok(number):
        runs[number] += 1
        await asyncio.sleep(0)

    @app.task(name="thread")
    def thread(number):
        runs[number] += 1

    @app.task(name="flaky", autoretry_for=(ValueError,), default_retry_delay=0.01, track_started=True)
    async def flaky(number):
        runs[number] += 1
        if runs[number] < 3:
            raise ValueError

    @app.task(name="fails", bind=True, max_retries=1)
    async def fails(self, number):
        runs[number] += 1
        self.retry(countdown=0)

    @app.task(name="quick", dead_letter=False)
    async def quick(number):
        runs[number] += 1
        raise SystemExit

    tasks = [ok, thread, flaky, fails, quick]
    async with app:
        watching = asyncio.create_task(observer.run())

        async def produce(start):
            for number in range(start, start + 30):
                task, options = tasks[number % 5], {"job_id": f"j{number}", "queue": ("default", "other")[number % 2]}
                if number % 3 == 0:
                    options["priority"] = number % 10 + 1
                if number % 4 == 0:
                    options["countdown"] = 0.01
                await task.options(**options).enqueue(number)
                observer.confirmed.add(f"j{number}")

        served = {"queues": ["default", "other"], "concurrency": 3, "lease": 6}
        async with app.worker(**served), app.worker(**served) as worker:
            producing = asyncio.gather(*(produce(start) for start in range(0, 150, 30)))
            for number in range(5):
                # Another worker comes, takes what it does not start, and goes.
                leaving = app.worker(queues=["third"], concurrency=3)
                async with leaving:
                    leaving._lease.may_start = lambda: False
                    more = [ok.options(job_id=f"more{number}-{each}", queue="third").s(0) for each in range(20)]
                    observer.confirmed |= {job.id for job in await app.enqueue_many(more)}
                    await until(lambda leaving=leaving: leaving.held > 0)
            assert len(log.of("job released")) >= 5
            async with app.worker(queues=["third"]) as last:
                await last.drain()
            await producing
            async with asyncio.timeout(20):
                await worker.drain(scheduled=True)
        looks = observer.looks
        while observer.looks < looks + 2 and not watching.done():
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled() or watching.result()
        assert observer.broken == []
        assert observer.looks > 10
        assert {"processing", "scheduled", "dead"} <= set(observer.seen_in)
        assert set(runs) == set(range(150))
        assert await leaked(broker) == {}
