"""Ten thousand jobs that dead workers have left, and fifty reapers at once: none is lost, none is doubled.

Invariant 6 for a whole host that is gone, as `test_06_reaping_is_repeatable.py` has it for two reapers. Each reaper has
connections of its own; all see the same dead workers, since a reaper that comes first is no matter.

Seen to fail with reap.lua pushing without a look at LREM's answer (doubled), with reap.lua removing the
worker's list while messages are left in it (lost), and with an LPUSH in place of its RPUSH (order).
"""

import asyncio
from collections import Counter, defaultdict

from rqueue import RQueue
from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.config import WorkerConfig
from rqueue.wire.keys import MAIN, Keys
from rqueue.wire.message import Header, Message
from rqueue.worker.worker import Worker

JOBS, WORKERS, REAPERS = 10_000, 50, 50
PER = JOBS // WORKERS
LEVELS = (MAIN, MAIN, 9)
STARTED = 3  # jobs of every tenth dead worker


async def test_fifty_reapers_and_ten_thousand_jobs(redis_url, monkeypatch):
    monkeypatch.setattr("rqueue.worker.reaper.REAP_AT_ONCE", 80)  # three pages a list, so that reapers meet inside one
    brokers = [Broker(Endpoint(redis_url), Keys()) for _ in range(REAPERS)]
    call, keys = brokers[0]._link.call, brokers[0].keys.queue("default")
    left: dict[str, list[bytes]] = {}
    for number in range(WORKERS):
        name = f"dead:{number}"
        left[name] = [Header(LEVELS[job % 3], id=f"{number}-{job:03}").encode() + b'{"task":"t"}' for job in range(PER)]
        await call(b"LPUSH", keys.processing(name), *left[name])  # the last one claimed is at its left end
        if number % 10 == 0:
            await call(b"SADD", keys.started(name), *(f"{number}-{job:03}" for job in range(STARTED)))
        await call(b"ZADD", keys.workers, 1, name)

    reapers = []
    for broker in brokers:
        monkeypatch.setattr("rqueue.worker.worker.broker_for", lambda *_, broker=broker: broker)
        reapers.append(Worker(RQueue(redis_url), WorkerConfig(("default",))))
        reapers[-1]._wire()
    for _ in range(2):  # nobody is condemned at first sight
        await asyncio.gather(*(worker._reaper.tick() for worker in reapers))

    back: dict[str, list[Message]] = defaultdict(list)
    for level in set(LEVELS):
        waiting = await call(b"LRANGE", keys.lists[level], 0, -1)
        for raw in reversed(waiting):  # the next one first
            message = Message.parse(raw)
            assert message.header.level == level
            back[f"dead:{message.header.id.partition('-')[0]} {level}"].append(message)
    ids = Counter(message.header.id for messages in back.values() for message in messages)
    assert ids.most_common(1)[0][1] == 1, "doubled"
    assert len(ids) == JOBS, "lost"
    assert await call(b"ZCARD", keys.workers) == 0
    kinds = [bytes(await call(b"TYPE", keys.processing(name))) for name in left]
    assert set(kinds) == {b"string"}, "each list is a tombstone"
    for name, messages in left.items():
        for level in set(LEVELS):
            were = [each for each in map(Message.parse, messages) if each.header.level == level]
            found = back[f"{name} {level}"]
            assert [each.header.id for each in found] == [each.header.id for each in were], "in their order"
            has_started = name.endswith("0")
            losses = [int(has_started and int(each.header.id.partition("-")[2]) < STARTED) for each in were]
            assert [each.header.losses for each in found] == losses, "what had started is charged, once"
    for worker, broker in zip(reapers, brokers, strict=True):
        worker._executor.close()
        await broker.close()
