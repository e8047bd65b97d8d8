"""The floors' workers: ``drain`` empties the list in batches, ``answer`` takes one job at a time and says so."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import orjson
import redis.asyncio
import uvloop

from benchmarks import bodies

BATCH, BATCHES_AT_ONCE, RESULT_TTL_S, POLL_S = 100, 3, 3600, 0.02
BODIES = {body.__name__: body for body in (bodies.noop, bodies.nap)}
ENQUEUE = """
local jobs = #ARGV / 2
redis.call('SADD', KEYS[2], unpack(ARGV, 1, jobs))
redis.call('LPUSH', KEYS[1], unpack(ARGV, jobs + 1))
redis.call('SET', KEYS[3], jobs, 'NX', 'EX', 60)
"""
CLAIM = """
local out = {}
for i = 1, tonumber(ARGV[1]) do
  local message = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
  if not message then break end
  out[i] = message
end
return out
"""
SETTLE = """
for i = 2, #ARGV, 2 do
  redis.call('LREM', KEYS[1], -1, ARGV[i])
  redis.call('SET', KEYS[1 + i / 2], ARGV[i + 1], 'EX', ARGV[1])
end
"""
ANSWER = """
redis.call('LREM', KEYS[1], -1, ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4])
"""


async def drain(server: redis.asyncio.Redis) -> None:
    """Three times at once: claim, run, settle. It polls an empty list, since its idling is not measured."""
    claim, settle = server.register_script(CLAIM), server.register_script(SETTLE)

    async def work() -> None:
        while True:
            messages = await claim(keys=["floor", "floor:claimed"], args=[BATCH])
            if not messages:
                await asyncio.sleep(POLL_S)
                continue
            calls = [orjson.loads(message) for message in messages]
            running = [asyncio.create_task(BODIES[call["task"]](*call["args"])) for call in calls]
            keys: list[str] = ["floor:claimed"]
            args: list[Any] = [RESULT_TTL_S]
            for message, call, task in zip(messages, calls, running, strict=True):
                keys.append("floor:result:" + call["id"])
                args += [message, orjson.dumps({"state": "SUCCESS", "result": await task})]
            await settle(keys=keys, args=args)

    await asyncio.gather(*(work() for _ in range(BATCHES_AT_ONCE)))


async def answer(server: redis.asyncio.Redis) -> None:
    """One job at a time."""
    finish = server.register_script(ANSWER)
    while True:
        message: Any = await server.brpoplpush("floor", "floor:claimed", timeout=0)
        call = orjson.loads(message)
        result = orjson.dumps({"state": "SUCCESS", "result": await BODIES[call["task"]](*call["args"])})
        await finish(
            keys=["floor:claimed", "floor:result:" + call["id"], "floor:news"],
            args=[message, result, RESULT_TTL_S, call["id"]],
        )


async def main(program: str) -> None:
    """Run one of the two."""
    async with redis.asyncio.Redis.from_url(os.environ["BENCH_URL"], protocol=2, socket_timeout=None) as server:
        await {"drain": drain, "answer": answer}[program](server)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
