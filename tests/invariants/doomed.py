"""Workers that end, or stand still, at a chosen moment: a process of its own, which forks one for each line it reads.

What is asked for: ``{"redis", "results", "window", "nth", "store", "lease", "stop"}``. Told are the pid, and then how
it ended, or that it stands still.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from rqueue import Context, RQueue
from rqueue.broker.broker import Broker
from rqueue.errors import StoreUnavailable
from rqueue.results.sql.store import SqlStore
from rqueue.worker import archive

SETTLING = ("ack", "bury", "retry")


def make_app(redis: str, results: str) -> RQueue:
    """Of five jobs one fails, one is retried once, and three succeed; each says which process has run it."""
    app = RQueue(redis, results=results)

    @app.task(name="t", bind=True, max_retries=1, default_retry_delay=0)
    async def t(self: Context, number: int) -> int:
        if number % 5 == 0:
            raise ValueError(number)
        if number % 5 == 1 and not self.request.retries:
            self.retry(countdown=0)
        return os.getpid()

    return app


def wrap(owner: type, name: str, around: Callable[..., Awaitable[Any]]) -> None:
    """Have ``around(real, self, …)`` called in place of a method."""
    real = getattr(owner, name)

    async def call(self: Any, *arguments: Any, **more: Any) -> Any:
        return await around(real, self, *arguments, **more)

    setattr(owner, name, call)


def doom(owner: type, name: str, when: str, strike: Callable[[], None], only: Callable[..., bool]) -> None:
    """Strike before a call, once it was sent, or when it was answered."""

    async def around(real: Callable[..., Any], self: Any, *arguments: Any, **more: Any) -> Any:
        if not only(*arguments):
            return await real(self, *arguments, **more)
        if when == "before":
            strike()
        task = asyncio.ensure_future(real(self, *arguments, **more))
        if when == "sent":
            for _ in range(random.randint(1, 40) if owner is SqlStore else 1):
                await asyncio.sleep(0)
            if owner is Broker:
                await self.written()
            strike()
        answer = await task
        if when == "after":
            strike()
        return answer

    wrap(owner, name, around)


def lose_the_store(saves: int) -> None:
    """The store is away for so many saves, and looked for again at once."""
    left = [saves]
    archive.FIRST_PAUSE_S = archive.LONGEST_PAUSE_S = 0.01  # type: ignore[misc]

    async def refuse(real: Callable[..., Any], self: Any, *arguments: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise StoreUnavailable("away")
        return await real(self, *arguments)

    async def away(real: Callable[..., Any], self: Any) -> Any:
        if saves > 1000:
            raise StoreUnavailable("away")
        return await real(self)

    wrap(SqlStore, "save", refuse)
    wrap(SqlStore, "open", away)


def be_patient() -> None:
    """A machine under load must not make the store seem away: then nobody comes to the moment that is meant."""
    SqlStore.__init__.__kwdefaults__["timeout_s"] = 30.0
    archive.Archive.__init__.__defaults__ = (30.0, asyncio.sleep)


async def work(asked: dict[str, Any]) -> None:
    be_patient()
    left = [asked["nth"]]

    def strike() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGSTOP if asked["stop"] else signal.SIGKILL)

    what, _, when = asked["window"].partition(" ")
    always: Callable[..., bool] = lambda *_: True  # noqa: E731
    if what == "write":
        doom(SqlStore, "save", when, strike, always)
    elif what == "settle":
        for verb in SETTLING:
            doom(Broker, verb, when, strike, always)
    elif what == "spool":
        doom(Broker, "spool", when, strike, always)
    else:
        doom(Broker, "unspool", when, strike, lambda _, __, written: bool(written))
    if asked["store"] != "there":
        lose_the_store(3 if asked["store"] == "back" else 10**9)
    app = make_app(asked["redis"], asked["results"])
    keys = app.keys.queue("default")
    async with app, app.worker(concurrency=5, lease=asked["lease"]) as worker:
        await worker.drain(scheduled=True)
        while asked["store"] == "back" and (await app.session().broker.spooled(keys)).entries:
            await asyncio.sleep(0.01)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(work(json.loads(line)))
            os._exit(0)
        print(pid, flush=True)  # noqa: T201 - to the test
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            how = "stopped" if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
            print(how, flush=True)  # noqa: T201
            if not os.WIFSTOPPED(status):
                break


if __name__ == "__main__":
    main()
