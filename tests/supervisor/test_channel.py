"""channel: messages between a supervisor and its processes, and the end of either."""

import asyncio
import resource

import pytest

from rqueue.supervisor.channel import Channel


@pytest.fixture
async def ends():
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


async def listen(channel):
    """Read in the background: what came, an event for each, and the task that ends with the other side."""
    heard: list[dict] = []
    came = asyncio.Queue()

    def hear(message):
        heard.append(message)
        came.put_nowait(message)

    task = asyncio.create_task(channel.read(hear))
    await asyncio.sleep(0)
    return came, task


async def test_the_first_message_before_a_loop_runs_and_the_rest_in_it(ends):
    supervisor, worker = ends
    _, reading = await listen(supervisor)
    while supervisor._writer is None:
        await asyncio.sleep(0)
    supervisor.tell({"settings": 1})
    supervisor.tell({"second": 2})
    assert await asyncio.to_thread(worker.read_now) == {"settings": 1}
    came, _task = await listen(worker)
    assert await asyncio.wait_for(came.get(), 5) == {"second": 2}
    worker.close()
    await asyncio.wait_for(reading, 5)


async def test_what_is_told_now_is_out_of_the_processs_hands(ends):
    supervisor, worker = ends
    worker.tell_now({"worker": "w"})
    worker.close()  # as a death would
    came, reading = await listen(supervisor)
    assert await asyncio.wait_for(came.get(), 5) == {"worker": "w"}
    await asyncio.wait_for(reading, 5)


async def test_half_a_message_is_a_dead_ones_last_and_not_heard(ends):
    supervisor, worker = ends
    worker.tell_now({"whole": 1})
    worker._socket.send(b'{"half')
    worker.close()
    came, reading = await listen(supervisor)
    await asyncio.wait_for(reading, 5)
    assert [came.get_nowait() for _ in range(came.qsize())] == [{"whole": 1}]


async def test_a_large_message_waits_for_room_and_arrives_whole(ends):
    supervisor, worker = ends
    came, _ = await listen(supervisor)
    large = {"tasks": ["x" * 1000] * 2000}
    await asyncio.to_thread(worker.tell_now, large)
    assert await asyncio.wait_for(came.get(), 5) == large


async def test_a_supervisor_that_is_gone_hears_nothing_and_that_is_no_error(ends):
    supervisor, worker = ends
    supervisor.close()
    worker.tell_now({"a": 1})
    with pytest.raises(EOFError):
        worker.read_now()


async def test_nothing_waits_for_a_process_that_does_not_read(ends):
    supervisor, worker = ends
    _, reading = await listen(supervisor)
    while supervisor._writer is None:
        await asyncio.sleep(0)
    for _ in range(20_000):
        supervisor.tell({"renewed": ["worker", 123456.789]})
    came, _task = await listen(worker)
    for _ in range(20_000):
        await asyncio.wait_for(came.get(), 5)
    worker.close()
    await asyncio.wait_for(reading, 5)


async def test_it_needs_no_descriptor_to_hear():
    """A process that cannot be heard would never be ready, and what it held not be taken back."""
    channel, theirs = Channel.pair()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    heard = asyncio.Queue()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard[1]))
    try:
        reading = asyncio.create_task(channel.read(heard.put_nowait))
        theirs.send(b'{"n":1}\n')
        first = asyncio.create_task(heard.get())
        await asyncio.wait([reading, first], return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert first.done()
        assert first.result() == {"n": 1}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
        theirs.close()
    await asyncio.wait_for(reading, 20)
    channel.close()
