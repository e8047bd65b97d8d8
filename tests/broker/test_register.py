"""register: a worker gets a lease; the only verb that adds one."""

import pytest


async def test_a_worker_has_a_lease_on_redis_clock(broker, keys, raw, seed, dump):
    """Time is Redis's for leases. Breaks when the lease is in seconds, or from this machine's clock."""
    await seed({"workers": {"v": "future"}})
    broker.clock.observe(0)
    assert await broker.register(keys, "w", 30.5)
    assert await dump() == {"workers": {"v": "future", "w": "future"}}
    seconds, micros = await raw("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    assert now + 25_000 < int(await raw("ZSCORE", keys.workers, "w")) <= now + 30_500
    assert abs(broker.clock.now_ms() - now) < 5_000


@pytest.mark.parametrize("used", [("ttl", b"reaped"), ("ttl", b"left"), [b"{}"]])
async def test_an_id_that_was_used_is_refused(broker, keys, seed, dump, used):
    """A worker's id is never reused. Breaks when a tombstone, or an orphan's list, is not looked for."""
    await seed({"processing:w": used})
    stored = await dump()
    assert not await broker.register(keys, "w", 30)
    assert await dump() == stored


async def test_the_same_step_again_is_no_second_worker(broker, keys, dump):
    """A registration whose reply was lost is sent again. Breaks when an entry in `workers` is taken for a used id."""
    assert await broker.register(keys, "w", 30)
    assert await broker.register(keys, "w", 30)
    assert await dump() == {"workers": {"w": "future"}}
