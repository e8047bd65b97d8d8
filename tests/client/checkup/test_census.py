"""The walk over the keys: names become queues, owners and keys without a TTL."""

from rqueue.client.checkup.census import Found, take_census


async def test_each_kind_of_key_has_its_place(app, call):
    """Breaks when a key that may live for ever is reported, or one that may not is not."""
    keys = app.keys.queue("email")
    for name in (*keys.lists, keys.processing("w")):
        await call(b"LPUSH", name, b"x")
    for name in (keys.workers, keys.scheduled, keys.stops, keys.dead, keys.periodic):
        await call(b"ZADD", name, 0, b"x")
    for name in (keys.messages, keys.letters, keys.unique, keys.entries):
        await call(b"HSET", name, b"x", b"x")
    await call(b"SADD", keys.jobs, b"x")
    await call(b"SADD", keys.started("s"), b"x")
    bounded = [keys.settled("w"), keys.sent("p"), keys.card("w"), keys.counts, keys.throttle("l"), keys.processing("t")]
    for name in bounded:
        await call(b"SET", name, b"x", b"EX", 60)
    await call(b"SET", keys.result("r"), b"x", b"EX", 60)
    census = await take_census(app.session().broker)
    assert census.queues == {"email": Found(holders={"w"}, starters={"s"})}
    assert (census.walked, census.records, census.kept) == (1.0, 1, 0)
    for name in bounded:
        await call(b"PERSIST", name)
    await call(b"PERSIST", keys.result("r"))
    await call(b"SET", keys.main + b":new", b"x")
    found = await take_census(app.session().broker)
    assert sorted(found.queues["email"].lasting) == sorted(bounded)
    assert found.queues["email"].unknown == [keys.main + b":new"]
    assert (found.records, found.kept) == (1, 1)


async def test_other_namespaces_and_programs_are_not_looked_at(app, call):
    for name in (b"rqueue:{a b}:p1", b"rqueue:queues", b"rqueue:paused", b"rqueue2:{a}:x", b"mine", b"rqueue:x:{a}:y"):
        await call(b"SET", name, b"x")
    assert (await take_census(app.session().broker)).queues == {}


async def test_of_many_records_some_are_looked_at_and_of_many_keys_too(app, call, monkeypatch):
    monkeypatch.setattr("rqueue.client.checkup.census.MOST_RECORDS", 1500)
    names = [app.keys.queue("email").result(f"{number}") for number in range(4000)]
    await call(b"MSET", *(part for name in names for part in (name, b"x")))
    census = await take_census(app.session().broker)
    assert census.records == census.kept == 1500
    assert census.records_seen == len(names)
    assert census.walked == 1
    part = await take_census(app.session().broker, most_keys=2000)
    assert 0 < part.walked < 1
