"""A producer that knows nothing of rqueue: it pushes the golden messages, and such as a later version may write.

Their task, arguments and id are the suite's; all else is as the files have it.
"""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import redis.asyncio

from .producer import until_stdin_ends
from .tasks import QUEUES, Log

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NOT_PUSHED = {"moving", "unique"}  # what only rqueue's own steps write
NEWER = {"x-trace": "00-4bf92f35", "tenant": {"id": 2**70, "name": "Zoë"}, "deadline_v2": [1, None, {"deep": [[]]}]}
PERIOD_S = 0.02


def templates() -> list[tuple[bytes, dict[str, Any]]]:
    """Header and object of each golden message, as it is and with fields that nobody knows yet."""
    found = []
    for path in sorted(GOLDEN.glob("*.message")):
        if path.stem in NOT_PUSHED:
            continue
        header, brace, body = path.read_bytes().strip().partition(b"{")
        fields = json.loads(brace + body)
        found += [(header, fields), (header, {**fields, **NEWER})]
    return found


def message(template: tuple[bytes, dict[str, Any]], mark: str, seconds: float) -> tuple[bytes, str]:
    """The message's bytes, and its job's id; `-` where a worker will choose it."""
    header, fields = template
    fields = {**fields, "task": "quick", "args": [mark, seconds]}
    fields.pop("kwargs", None)
    if "expires" in fields:
        fields["expires"] = int(time.time() * 1000) + 3_600_000
    job_id = "-"
    if header and header.split()[-1] != b"-":
        header = b" ".join([*header.split()[:-1], mark.encode(), b""])
        job_id = mark
    if "id" in fields:
        fields["id"] = job_id = mark
    return header + json.dumps(fields, separators=(",", ":")).encode(), job_id


async def main(settings: dict[str, Any]) -> None:
    """Push until the standard input ends."""
    stop = asyncio.Event()
    waiting = asyncio.create_task(until_stdin_ends(stop))
    chance, log = random.Random(settings["seed"]), Log("producer")
    kinds = itertools.cycle(templates())
    async with redis.asyncio.Redis.from_url(settings["url"]) as client:
        for number in itertools.count(1):
            if stop.is_set():
                break
            mark, queue = f"m.{settings['name']}.{os.getpid()}.{number}", chance.choice(QUEUES).name
            raw, job_id = message(next(kinds), mark, round(chance.uniform(0, 0.05), 4))
            log.note(("intent", mark, "foreign", queue, 0.0))
            await client.lpush(f"rqueue:{{{queue}}}", raw)
            log.note(("confirmed", mark, queue, job_id))
            await asyncio.sleep(PERIOD_S)
    await waiting


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
