"""declare: what is paused in the whole namespace is written down, for queues that come into use later."""


async def test_it_is_written_down_with_the_time(broker, dump):
    """Time is Redis's."""
    assert await broker.declare("all")
    assert await broker.declare("task:t")
    declared = await broker.declared()
    assert {name: abs(since - broker.clock.now_ms()) < 60_000 for name, since in declared.items()} == {
        "all": True,
        "task:t": True,
    }
    assert set(await dump()) == {"rqueue:paused"}


async def test_the_same_step_again_keeps_the_time(broker, dump, raw):
    """Its reply may be lost. Breaks when a repetition makes the pause younger."""
    await raw("HSET", broker.keys.paused, "queue:email", 7)
    assert await broker.declare("queue:email") is False
    assert await broker.declared() == {"queue:email": 7}


async def test_withdrawn_nothing_is_left(broker, dump):
    await broker.declare("queue:email")
    assert await broker.withdraw("queue:email")
    assert await broker.withdraw("queue:email") is False
    assert (await broker.declared(), await dump()) == ({}, {})
