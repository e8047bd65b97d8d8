"""The producer of a run: a process of the contender's environment that does what the harness asks, and times itself.

``python -m benchmarks.producer <contender>``: one JSON request a line comes in, ``{"do": "enqueue", …}``, and one JSON
answer a line goes out. Standard library only, apart from the contender's own package.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contender import Contender
from benchmarks.contenders import find_contenders

BULK = 1000
CALLERS = 100
SENDERS = 4  # threads that send a steady load: more would only wait for the interpreter
PATIENCE_S = 30.0
AFTER_ERROR_S = 0.1

Answer = dict[str, Any]


def _payload(size: int) -> str:
    return "x" * size


def _share(count: int, caller: int) -> int:
    return len(range(caller, count, CALLERS))


def _wait(start: float, number: int, per_s: float) -> float:
    return max(0.0, start + number / per_s - time.perf_counter()) if per_s else 0.0


@dataclass
class Confirmed:
    """What became of jobs that were to be enqueued. One that was refused may exist all the same."""

    confirmed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def refuse(self, job: str, error: Exception) -> None:
        """Note it with the kind of error."""
        kind = type(error).__name__
        self.refused.append(job)
        self.errors[kind] = self.errors.get(kind, 0) + 1


class Asynchronous:
    """Requests for a contender whose calls are coroutines."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._handles: dict[str, Any] = {}

    async def fill(self, task: str, count: int, payload: int = 0, spread: list[str] | None = None) -> Answer:
        """Have so many jobs wait, the fastest way there is; spread over queues and ten priorities if asked."""
        contender, text = self._contender, _payload(payload)

        async def caller(number: int) -> None:
            for _ in range(_share(count, number)):
                chosen = {"queue": random.choice(spread), "priority": random.randint(1, 10)} if spread else {}
                await contender.enqueue(task, time.time(), text, **chosen)

        start = time.perf_counter()
        if spread or "enqueue-bulk" not in contender.workloads:
            await asyncio.gather(*map(caller, range(CALLERS)))
        else:
            for first in range(0, count, BULK):
                await contender.enqueue_many(task, [(time.time(), text)] * min(BULK, count - first))
        return {"seconds": time.perf_counter() - start}

    async def backlog(self, count: int) -> Answer:
        """Have very many jobs wait."""
        await self._contender.backlog(count)
        return {}

    async def enqueue(self, how: str, seconds: float = 1e9, count: int = 1 << 60, payload: int = 0) -> Answer:
        """Enqueue for so long, or so many, and say how many they were."""
        text, start = _payload(payload), time.perf_counter()
        end = start + seconds

        async def caller(limit: int) -> int:
            done = 0
            while done < limit and time.perf_counter() < end:
                await self._contender.enqueue("noop", time.time(), text)
                done += 1
            return done

        async def bulk() -> int:
            done = 0
            while done < count and time.perf_counter() < end:
                await self._contender.enqueue_many("noop", [(time.time(), text)] * BULK)
                done += BULK
            return done

        cpu = time.process_time()
        if how == "bulk":
            done = await bulk()
        elif how == "one":
            done = await caller(count)
        else:
            done = sum(await asyncio.gather(*(caller(_share(count, number)) for number in range(CALLERS))))
        return {"count": done, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    async def trips(self, seconds: float, count: int) -> Answer:
        """Enqueue, wait for the result, again and again: how long each took."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while len(took) < count and time.perf_counter() < end:
            start = time.perf_counter()
            await self._contender.result(await self._contender.enqueue("noop", time.time()), PATIENCE_S)
            took.append(time.perf_counter() - start)
        return {"took": took}

    async def load(self, rate: float, seconds: float, seed: int) -> Answer:
        """Enqueue at the moments of a Poisson process, whatever becomes of the jobs: how late the calls were."""
        arrivals, calls, late = _arrivals(rate, seconds, seed), set(), []
        start = time.perf_counter()
        for due in arrivals:
            while (wait := due - (time.perf_counter() - start)) > 0:  # noqa: ASYNC110  # nothing but the clock
                await asyncio.sleep(wait)
            late.append(-wait)
            call = asyncio.ensure_future(self._contender.enqueue("noop", time.time()))
            calls.add(call)
            call.add_done_callback(calls.discard)
            if len(late) % CALLERS == 0:  # a producer that is behind gives its calls a turn all the same
                await asyncio.sleep(0)
        await asyncio.gather(*calls)
        return {"count": len(late), "late": _tail(late), "seconds": time.perf_counter() - start}

    async def works(self, task: str, jobs: list[str], per_s: float = 0.0) -> Answer:
        """Enqueue named jobs, one by one, at a pace if one is given, once each: which were confirmed, and why not."""
        start, answer = time.perf_counter(), Confirmed()
        for number, job in enumerate(jobs):
            await asyncio.sleep(_wait(start, number, per_s))
            try:
                self._handles[job] = await self._contender.enqueue(task, time.time(), job)
                answer.confirmed.append(job)
            except Exception as error:  # noqa: BLE001  # whatever it is, the job is not confirmed
                answer.refuse(job, error)
                await asyncio.sleep(AFTER_ERROR_S)
        return vars(answer)

    async def values(self, jobs: list[str]) -> Answer:
        """The results of named jobs that `works` has enqueued."""
        return {job: await self._contender.result(self._handles[job], PATIENCE_S) for job in jobs}

    async def left(self) -> Answer:
        """What Redis holds."""
        return dict(vars(await self._contender.left()))


class Synchronous:
    """The same for a contender whose calls are plain ones: 100 callers are 100 threads, which stay."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._threads = ThreadPoolExecutor(CALLERS)
        self._handles: dict[str, Any] = {}

    def fill(self, task: str, count: int, payload: int = 0, spread: list[str] | None = None) -> Answer:
        """Have so many jobs wait, the fastest way there is; spread over queues and ten priorities if asked."""
        contender, text, start = self._contender, _payload(payload), time.perf_counter()

        def caller(number: int) -> None:
            for _ in range(_share(count, number)):
                chosen = {"queue": random.choice(spread), "priority": random.randint(1, 10)} if spread else {}
                contender.enqueue(task, time.time(), text, **chosen)

        if spread or "enqueue-bulk" not in contender.workloads:
            list(self._threads.map(caller, range(CALLERS)))
        else:
            for first in range(0, count, BULK):
                contender.enqueue_many(task, [(time.time(), text)] * min(BULK, count - first))
        return {"seconds": time.perf_counter() - start}

    def backlog(self, count: int) -> Answer:
        """Have very many jobs wait."""
        self._contender.backlog(count)
        return {}

    def enqueue(self, how: str, seconds: float = 1e9, count: int = 1 << 60, payload: int = 0) -> Answer:
        """Enqueue for so long, or so many, and say how many they were."""
        text, start, done = _payload(payload), time.perf_counter(), [0] * CALLERS
        end, cpu = start + seconds, time.process_time()

        def caller(number: int, limit: int) -> None:
            while done[number] < limit and time.perf_counter() < end:
                self._contender.enqueue("noop", time.time(), text)
                done[number] += 1

        if how == "bulk":
            while done[0] < count and time.perf_counter() < end:
                self._contender.enqueue_many("noop", [(time.time(), text)] * BULK)
                done[0] += BULK
        elif how == "one":
            caller(0, count)
        else:
            list(self._threads.map(lambda number: caller(number, _share(count, number)), range(CALLERS)))
        return {"count": sum(done), "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    def trips(self, seconds: float, count: int) -> Answer:
        """Enqueue, wait for the result, again and again: how long each took."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while len(took) < count and time.perf_counter() < end:
            start = time.perf_counter()
            self._contender.result(self._contender.enqueue("noop", time.time()), PATIENCE_S)
            took.append(time.perf_counter() - start)
        return {"took": took}

    def load(self, rate: float, seconds: float, seed: int) -> Answer:
        """Enqueue at the moments of a Poisson process, whatever becomes of the jobs: how late the calls were."""
        late: list[float] = []

        def call(due: float) -> None:
            late.append(time.perf_counter() - start - due)
            self._contender.enqueue("noop", time.time())

        arrivals = _arrivals(rate, seconds, seed)
        with ThreadPoolExecutor(SENDERS) as senders:
            start = time.perf_counter()
            calls = []
            for due in arrivals:
                while (wait := due - (time.perf_counter() - start)) > 0:
                    time.sleep(wait)
                calls.append(senders.submit(call, due))
        for each in calls:
            each.result()
        return {"count": len(late), "late": _tail(late), "seconds": time.perf_counter() - start}

    def works(self, task: str, jobs: list[str], per_s: float = 0.0) -> Answer:
        """Enqueue named jobs, one by one, at a pace if one is given, once each: which were confirmed, and why not."""
        start, answer = time.perf_counter(), Confirmed()
        for number, job in enumerate(jobs):
            time.sleep(_wait(start, number, per_s))
            try:
                self._handles[job] = self._contender.enqueue(task, time.time(), job)
                answer.confirmed.append(job)
            except Exception as error:  # noqa: BLE001  # whatever it is, the job is not confirmed
                answer.refuse(job, error)
                time.sleep(AFTER_ERROR_S)
        return vars(answer)

    def values(self, jobs: list[str]) -> Answer:
        """The results of named jobs that `works` has enqueued."""
        return {job: self._contender.result(self._handles[job], PATIENCE_S) for job in jobs}

    def left(self) -> Answer:
        """What Redis holds."""
        return dict(vars(self._contender.left()))


def _arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    moments, dice, due = [], random.Random(seed), 0.0
    while (due := due + dice.expovariate(rate)) < seconds:
        moments.append(due)
    return moments


def _tail(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


def _serve(perform: Callable[[str, dict[str, Any]], Answer]) -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what a package prints is no answer
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(perform(request.pop("do"), request)), file=answers, flush=True)


def _serve_asynchronous(contender: Contender, url: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError:
        pass
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    threading.Thread(target=loop.run_forever, daemon=True).start()  # whatever it does in the background goes on

    def run(work: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), loop).result()

    requests = Asynchronous(contender)
    run(contender.open(url))
    _serve(lambda do, request: run(getattr(requests, do)(**request)))
    run(contender.close())


def main(name: str) -> None:
    """Connect, answer requests until there are no more, disconnect."""
    contender, url = find_contenders()[name], os.environ["BENCH_URL"]
    if contender.asynchronous:
        return _serve_asynchronous(contender, url)
    requests = Synchronous(contender)
    contender.open(url)
    _serve(lambda do, request: getattr(requests, do)(**request))
    contender.close()
    return None


if __name__ == "__main__":
    main(sys.argv[1])
