"""stops: the stop of a job that has ended is forgotten, whoever has joined meanwhile."""

from rqueue.client.stops import forget


async def test_it_is_forgotten_once(app):
    async with app:
        broker, keys = app.session().broker, app.keys.queue("default")
        await broker._link.call(b"ZADD", keys.stops, 0, b"job:a")
        assert await forget(broker, keys, "a")
        assert not await forget(broker, keys, "a")
        assert not await broker._link.call(b"EXISTS", keys.stops)


async def test_a_worker_that_joins_meanwhile_is_looked_at_too(app, monkeypatch):
    """Breaks when the answer that there are others is taken for the end."""
    async with app:
        broker, keys = app.session().broker, app.keys.queue("default")
        await broker._link.call(b"ZADD", keys.stops, 0, b"job:a")
        await broker._link.call(b"LPUSH", keys.processing("w"), b'1 - 0 0 0 a {"task":"t"}')
        real = broker.worker_names

        async def join_after(keys):
            names = await real(keys)
            await broker.register(keys, "v", 60)
            await broker._link.call(b"ZADD", keys.workers, 1, b"w")
            return names

        monkeypatch.setattr(broker, "worker_names", join_after)
        assert await forget(broker, keys, "a")
        assert not await broker._link.call(b"EXISTS", keys.processing("w"), keys.stops)
