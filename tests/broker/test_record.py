"""record: the result of a job that was settled before it started (acks_late=False) is kept and announced."""

import pytest

RECORD = b'{"state":"SUCCESS","result":1}'


async def test_the_result_is_kept_announced_and_counted(broker, keys, seed, dump, listen):
    """acks_late=False has its result recorded by a verb of its own. Breaks when one of the three is left out."""
    await seed({"counts": ("ttl", {"SUCCESS": b"1"}), "result:a": ("ttl", b'{"state":"STARTED"}')})
    heard = await listen("result:a")
    await broker.record(keys, "a", RECORD, "60")
    assert await heard() == RECORD
    assert await dump() == {"result:a": ("ttl", RECORD), "counts": ("ttl", {"SUCCESS": b"2"})}


@pytest.mark.parametrize("ttl", ["", "0", "77"])
async def test_it_is_kept_as_long_as_was_asked(broker, keys, raw, seed, dump, ttl):
    """Breaks when '0' reaches SET … EX 0, or an earlier record or its TTL stays."""
    await seed({"result:a": ("ttl", b'{"state":"STARTED"}')})
    await broker.record(keys, "a", RECORD, ttl)
    assert (await dump()).get("result:a") == {"": RECORD, "0": None, "77": ("ttl", RECORD)}[ttl]
    if ttl == "77":
        assert 75 <= await raw("TTL", keys.result("a")) <= 77


async def test_the_same_record_again_changes_nothing(broker, keys, dump):
    """May be repeated. Breaks when a record that is sent again after a lost reply is counted again."""
    await broker.record(keys, "a", RECORD, "60")
    stored = await dump()
    await broker.record(keys, "a", RECORD, "60")
    assert await dump() == stored
