"""A producer process: keeps enqueueing, and logs what it is about to send and what was confirmed.

`intent` is on the disk before anything is sent, `confirmed` after the call has returned, `refused` after it has raised.
It ends when its standard input does, after what is under way has been answered.
"""

import asyncio
import itertools
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rqueue import RQueue
from rqueue.errors import EnqueueManyFailed

from .tasks import QUEUES, Log, make_app

TICK_S = 0.05
MOST_UNDER_WAY = 1000  # when nothing is answered it waits, as a web process that bounds its requests does

MIX = {"quick": 0.63, "threaded": 0.15, "flaky": 0.1, "later": 0.05, "expiring": 0.05, "failing": 0.02}
"""Which jobs, by their share; `later` is a `quick` with a countdown, `expiring` one that may wait for long."""

EXPIRES_S = 1800.0  # no job waits so long here: one that is said to have expired is lost


@dataclass
class Load:
    """What one producer sends.

    Attributes:
        rate: jobs a second.
        mix: the share of each kind of job.
        seconds: shortest and longest time that a job takes.
        queues: where they go.
        batches: the share of the jobs that go by `enqueue_many`.
        priorities: the share that is given a priority of its own.
        app, call: options of the app, and of each call.
    """

    rate: float = 60.0
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))
    seconds: tuple[float, float] = (0.0, 0.05)
    queues: tuple[str, ...] = tuple(queue.name for queue in QUEUES)
    batches: float = 0.3
    priorities: float = 0.2
    app: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)


class Call(NamedTuple):
    """One job that is to be."""

    mark: str
    kind: str
    queue: str
    task: Any
    seconds: float
    countdown: float
    is_batched: bool


class Producer:
    """Sends jobs as its load says."""

    def __init__(self, app: RQueue, log: Log, load: Load, name: str, chance: random.Random) -> None:
        self._app, self._log, self._load, self._chance = app, log, load, chance
        self._marks = (f"m.{name}.{number}" for number in itertools.count(1))
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop, then see the end of what is under way."""
        owed = 1.0  # the first one at once, however rare they are
        while not stop.is_set():
            owed = min(owed + self._load.rate * TICK_S, max(self._load.rate, 1.0))
            if len(self._under_way) < MOST_UNDER_WAY:
                self._send(int(owed))
                owed -= int(owed)
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue
        await asyncio.gather(*self._under_way)

    def _send(self, count: int) -> None:
        calls = [self._call() for _ in range(count)]
        self._log.note(*(("intent", call.mark, call.kind, call.queue, call.countdown) for call in calls))
        batch = [call for call in calls if call.is_batched]
        sends = [self._one(call) for call in calls if call not in batch]
        if batch:
            sends.append(self._many(batch))
        for send in sends:
            task = asyncio.create_task(send)
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _call(self) -> Call:
        load, chance, mark = self._load, self._chance, next(self._marks)
        kind = chance.choices(list(load.mix), list(load.mix.values()))[0]
        queue = chance.choice(load.queues)
        options: dict[str, Any] = {"queue": queue, **load.call}
        if chance.random() < load.priorities:
            options["priority"] = chance.randint(1, 10)
        if chance.random() < 0.3:  # else rqueue makes the id, which takes another way through the script
            options["job_id"] = mark
        countdown = round(chance.uniform(0.1, 2.0), 2) if kind == "later" else 0.0
        if kind == "later":
            options["countdown"] = countdown
        if kind == "expiring":
            options["expires"] = EXPIRES_S
        task = self._app.tasks.find("quick" if kind in ("later", "expiring") else kind)
        assert task is not None
        seconds, is_batched = round(chance.uniform(*load.seconds), 4), chance.random() < load.batches
        return Call(mark, kind, queue, task.options(**options), seconds, countdown, is_batched)

    async def _one(self, call: Call) -> None:
        mark, queue = call.mark, call.queue
        try:
            job = await call.task.enqueue(mark, call.seconds)
        except Exception as error:  # noqa: BLE001 - each kind is counted by its name
            self._log.note(("refused", mark, type(error).__name__))
        else:
            self._log.note(("confirmed", mark, queue, job.id))

    async def _many(self, calls: list[Call]) -> None:
        try:
            jobs = await self._app.enqueue_many([call.task.s(call.mark, call.seconds) for call in calls])
            errors: Sequence[BaseException | None] = [None] * len(calls)
        except EnqueueManyFailed as failed:
            jobs, errors = failed.jobs, failed.errors
        except Exception as error:  # noqa: BLE001 - as above
            jobs, errors = [None] * len(calls), [error] * len(calls)
        self._log.note(
            *(
                ("refused", call.mark, type(error).__name__)
                if error is not None
                else ("confirmed", call.mark, call.queue, job.id)
                for call, job, error in zip(calls, jobs, errors, strict=True)
            )
        )


async def until_stdin_ends(stop: asyncio.Event) -> None:
    """Say so when whoever started this process wants it to end, or is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()


async def main(settings: dict[str, Any]) -> None:
    """Produce until the standard input ends."""
    stop = asyncio.Event()
    waiting = asyncio.create_task(until_stdin_ends(stop))
    load = Load(**settings["load"])
    app = make_app(settings["url"], **load.app)
    name = f"{settings['name']}.{os.getpid()}"
    producer = Producer(app, Log("producer"), load, name, random.Random(settings["seed"]))
    async with app:
        await producer.run(stop)
    await waiting


def settings_of(load: Load, url: str, name: str, seed: str) -> str:
    """The process's one argument."""
    return json.dumps({"load": asdict(load), "url": url, "name": name, "seed": seed})


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
