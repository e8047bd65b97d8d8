"""One worker process of the fault tests: `python runner.py '<settings as JSON>'`.

It can halt at named points: it writes the point's name to one pipe and waits for a byte from another, in the middle of
the event loop, until it is let go or killed. `before ack` and `after ack` are the call of that verb of the broker and
its return; `marked` is the moment in which the start mark is the operating system's; tasks have points of their own.
A process that may be killed at any point leaves no trace of where it was but this.
"""

import asyncio
import ctypes
import functools
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jobs

from rqueue.broker.broker import Broker
from rqueue.log import TextFormatter


class Points:
    """Where this process reports, and where it halts."""

    def __init__(self, halts: dict[str, int], reports: int, control: int) -> None:
        self._halts, self._reports, self._control = halts, reports, control
        self._reached: dict[str, int] = {}

    def reach(self, point: str) -> None:
        """Report the first time; halt at the time that was asked for."""
        times = self._reached[point] = self._reached.get(point, 0) + 1
        is_halt = self._halts.get(point) == times
        if is_halt or (times == 1 and point not in self._halts):
            os.write(self._reports, f"{point}\n".encode())
        if is_halt and not os.read(self._control, 1):
            os._exit(1)  # the test is gone

    def wrap(self, point: str) -> None:
        """Make the broker's verb report and halt."""
        when, _, verb = point.partition(" ")
        if point == "marked":
            when, verb = "after", "written"
        original = getattr(Broker, verb)

        @functools.wraps(original)
        def before(*args: Any, **kwargs: Any) -> Any:
            self.reach(point)
            return original(*args, **kwargs)

        @functools.wraps(original)
        async def after(*args: Any, **kwargs: Any) -> Any:
            answer = await original(*args, **kwargs)
            self.reach(point)
            return answer

        setattr(Broker, verb, before if when == "before" else after)


async def work(settings: dict[str, Any]) -> None:
    points = Points(settings["halts"], settings["reports"], settings["control"])
    for point in settings["halts"]:
        if point == "marked" or point.startswith(("before ", "after ")):
            points.wrap(point)
    app = jobs.make_app(settings["url"], jobs.Oracle(settings["oracle"]), points.reach)
    worker = app.worker(settings["queues"], **settings["options"])
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    async with worker:
        points.reach("ready")
        assert worker._main is not None
        await worker._main
    points.reach("stopped")


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no worker outlives the test
    settings = json.loads(sys.argv[1])
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.getLogger("rqueue").addHandler(handler)
    logging.getLogger("rqueue").setLevel(settings["loglevel"])
    if settings["uvloop"]:
        import uvloop

        uvloop.run(work(settings))
    else:
        asyncio.run(work(settings))


if __name__ == "__main__":
    main()
