"""Workers with wrong clocks, forked one for each line on stdin: `python ticking.py <url> <oracle>`.

A line is `{"skew_s": …, "halt": "before"|"after"|null}`. A worker says `<pid> ready <id>` on stdout, and `<pid> halted`
where it halts: before its first tick's script is sent, or when that was answered. Then only a SIGKILL ends it. Forked,
since five workers and one more for each that is killed would take longer to start than all else here.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jobs

from rqueue import RQueue, cron
from rqueue.broker.broker import Broker
from rqueue.policy.clock import RedisClock, local_ms
from rqueue.worker import worker as _loaded_before_the_fork  # noqa: F401

CLOCK = b"rqueue:clock"
ZONES = ("America/New_York", "Australia/Sydney", "Europe/Berlin")
CRONTABS = {"fixed": "30 2 * * *", "early": "30 1 * * *", "each": "*/30 * * * *"}


def make_app(url: str, oracle: jobs.Oracle | None = None) -> RQueue:
    """The app: a task, and for each zone times in the hours that a change skips or repeats, and each half hour."""
    app = RQueue(url)
    app.endpoint.move_clock(CLOCK)

    @app.task(bind=True, name="beat", result_ttl=timedelta(minutes=5))
    async def beat(self: Any) -> None:
        if oracle is not None:
            oracle.note("start", self.request.id)

    for zone in ZONES:
        for kind, text in CRONTABS.items():
            app.add_periodic(cron(text, tz=zone), beat, name=f"{kind}/{zone}")
    return app


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, (os.getpid(), *words))) + "\n").encode())


def halt_at_a_tick(when: str) -> None:
    real = Broker.tick

    async def tick(*args: Any) -> int:
        outcome = 0 if when == "before" else await real(*args)
        say("halted")
        while True:  # the event loop stands still, the process is alive
            signal.pause()
        return outcome

    Broker.tick = tick  # type: ignore[method-assign]


async def work(url: str, oracle: jobs.Oracle) -> None:
    worker = make_app(url, oracle).worker(lease=1, concurrency=5)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    async with worker:
        say("ready", worker.id)
        assert worker._main is not None
        await worker._main


def be_worker(url: str, oracle: jobs.Oracle, skew_s: int, halt: str | None) -> None:
    RedisClock.__init__.__defaults__ = (lambda: local_ms() + skew_s * 1000,)
    if halt:
        halt_at_a_tick(halt)
    asyncio.run(work(url, oracle))
    os._exit(0)


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives the test
    url, oracle = sys.argv[1], jobs.Oracle(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone
    for line in sys.stdin:
        settings = json.loads(line)
        if os.fork():
            continue
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        be_worker(url, oracle, **settings)


if __name__ == "__main__":
    main()
