"""Relays that end by SIGKILL: `python relayer.py`, one for each line of JSON on its standard input.

A line says where the process dies: `before`, `during` or `after` a verb, `during` meaning that it was asked for and not
answered yet. Each is a fork of this program, which then writes how it ended, and that is all that a killed one leaves.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from rqueue.broker.broker import Broker
from rqueue.broker.endpoint import Endpoint
from rqueue.results.sql.outbox import Outbox
from rqueue.wire.keys import Keys
from rqueue.worker.relay import Relay


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(verb: Callable[..., Awaitable[Any]], when: str, after_s: float) -> Callable[..., Awaitable[Any]]:
    """The verb, in which the process ends."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        if when == "during":
            asyncio.get_running_loop().call_later(after_s, die)
        answer = await verb(*args, **kwargs)
        die()
        return answer

    return run


async def relay(redis: str, database: str, when: str, verb: str, after_s: float) -> None:
    broker, outbox = Broker(Endpoint(redis), Keys()), Outbox(database, "rqueue")
    owner: Any = broker if verb == "enqueue" else outbox
    setattr(owner, verb, dying(getattr(owner, verb), when, after_s))
    await broker.open()
    await Relay(broker, outbox, 1_000_000).tick()


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(relay(**json.loads(line)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201 - it is what is asked for


if __name__ == "__main__":
    main()
