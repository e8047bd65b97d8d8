"""v0002_outbox: the outbox's table comes, and goes with all that belongs to it."""

import pytest
from sqlalchemy import inspect, text

from rqueue.results.sql.engine import engine_for
from rqueue.results.sql.schema import check, downgrade, upgrade
from rqueue.results.sql.tables import outbox

TOLD = "SELECT count(*) FROM pg_proc WHERE proname = 'rqueue_outbox_told'"


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request, tmp_path):
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    return request.getfixturevalue("postgres_url")


async def test_up_and_down(url):
    """Breaks when the table differs from what queries know, or something of it stays."""
    engine = engine_for(url)
    is_postgres = engine.dialect.name == "postgresql"
    for _ in range(2):
        await upgrade(engine)
        assert await check(engine) == []
        async with engine.connect() as connection:
            there = await connection.run_sync(lambda sync: inspect(sync).get_columns("rqueue_outbox"))
            assert {column["name"] for column in there} == set(outbox.c.keys())
        await downgrade(engine, "0001")
        async with engine.connect() as connection:
            assert not await connection.run_sync(lambda sync: inspect(sync).has_table("rqueue_outbox"))
            if is_postgres:
                assert (await connection.execute(text(TOLD))).scalar() == 0
    await engine.dispose()
