"""patience: a result store is waited for while the loop runs, and not while it stands still."""

import asyncio
import time

from rqueue.results.patience import Patience


async def test_what_is_done_is_not_waited_for():
    done = asyncio.get_running_loop().create_future()
    done.set_result(1)
    assert await Patience(0).wait(done)


async def test_the_time_of_all_waits_is_one():
    never = asyncio.get_running_loop().create_future()
    patience = Patience(0.15)
    assert not await patience.wait(never)
    assert patience._left_s <= 0
    assert not await patience.wait(never)
    assert not never.done()


async def test_an_answer_that_came_while_the_loop_stood_still_is_in_time():
    """It takes some turns of the loop until it is read. Breaks when the clock of the wall is asked."""

    async def answer():
        for _ in range(5):
            await asyncio.sleep(0.001)
        return 1

    task = asyncio.create_task(answer())
    asyncio.get_running_loop().call_soon(time.sleep, 0.25)
    assert await Patience(0.2).wait(task)


async def test_cancelled_it_leaves_the_task_alone():
    never = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(Patience(10).wait(never))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not never.done()
