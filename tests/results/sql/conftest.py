"""An engine on each kind of database in turn, with empty tables."""

import pytest

from rqueue.results.sql.engine import engine_for


@pytest.fixture
async def engine(own_database):
    made = engine_for(own_database, pool_size=8)
    yield made
    await made.dispose()


@pytest.fixture
async def postgresql(own_postgres):
    made = engine_for(own_postgres, pool_size=8)
    yield made
    await made.dispose()
