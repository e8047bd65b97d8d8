"""A worker that has nothing to do asks for next to nothing."""

import asyncio

from .fleet import Fleet
from .proxy import Proxy

WINDOW_S = 10.0


async def test_an_idle_worker_asks_once_a_second_for_each_queue_and_uses_no_processor(fleet: Fleet) -> None:
    """Invariant 7: nothing polls faster than a block. At most one request a second and queue, under 1 % of a core.

    With the settings that a user has: a lease of 15 s, two queues, both event loops. A proxy for each worker counts
    what it sends, over all its connections. Fails when the worker waits with a block of 0.1 s, or claims twice for
    each block that ended.
    """
    async with Proxy(fleet.url) as plain, Proxy(fleet.url) as fast:
        proxies = (plain, fast)
        workers = [
            fleet.start(url=proxy.url, queues=["default", "other"], lease=15, uvloop=proxy is fast) for proxy in proxies
        ]
        await asyncio.gather(*(worker.at("ready") for worker in workers))
        expected = await fleet.enqueue(10)
        assert await fleet.results(expected) == expected
        await fleet.until(lambda: not any(fleet.held(worker) for worker in workers) and fleet.blocked() == 4)
        before, used_s = [proxy.asked.total() for proxy in proxies], [worker.cpu_s() for worker in workers]
        await asyncio.sleep(WINDOW_S)
        for proxy, asked, worker, used in zip(proxies, before, workers, used_s, strict=True):
            assert proxy.asked.total() - asked <= WINDOW_S * 2, proxy.asked
            assert worker.cpu_s() - used < 0.01 * WINDOW_S
            print(proxy.asked.total() - asked, proxy.asked, worker.cpu_s() - used)  # noqa: T201 - shown when it fails
        await fleet.stop()
    assert fleet.leaks() == {}
